"""The agent with a language model, end to end on worlds that are small enough to be solved."""

from __future__ import annotations

import json
import pathlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from agents import LearningAgent
from agents.token_config import TokenIQLConfig
from agents.token_data import LoggedTexts
from agents.token_iql import TokenIQLAgent, template_words, tokens_of
from agents.token_loading import ScratchConfig, scratch_model, scratch_tokenizer
from agents.token_model import TargetWeights
from agents.token_reading import plain_values
from agents.token_tree import Segment, token_tree
from pasta_gym import seeding
from tests.agents.contract import check_learner
from tests.agents.test_tiny_worlds import iql_fixed_point, observations_of_every_state, tiny_dataset
from tests.agents.toy_world import ToyWorld

CONF = pathlib.Path(__file__).parents[2] / "conf"
WORLD = ToyWorld()
SHAPE = ScratchConfig(width=16, n_layers=1, n_heads=2)
SMALL = {"scratch": SHAPE, "steps": 3, "batch_size": 4, "micro_batch_size": 4, "log_every": 2}
# Prompts of one, two and three words, so that lengths differ within a slate.
WORDS = np.array([" ".join([f"w{i % 10}", *["and", f"x{i // 10}"][: i % 3]]) for i in range(60)], dtype=object)
SEEDS = seeding.mix(11, np.arange(9))


@pytest.fixture(scope="module")
def data():
    return replace(WORLD.collect(24, reward="sparse"), prompt_texts=WORDS)


def seen(data, episodes, turns):
    return data.observations(episodes, turns) | data.texts(episodes, turns)


@pytest.fixture(scope="module")
def observations(data):
    return seen(data, np.arange(9), np.arange(9) % WORLD.horizon)


def trained(data, log=lambda metrics: None, seed=0, **settings):
    agent = TokenIQLAgent(TokenIQLConfig.tiny(**SMALL | settings))
    agent.train(data, seed=seed, log=log)
    return agent


@pytest.fixture(scope="module")
def agent(data):
    return trained(data)


@pytest.fixture(scope="module")
def language_model(data, tmp_path_factory):
    """A small Gemma and its tokeniser as files, in the format in which the real one comes."""
    folder = tmp_path_factory.mktemp("gemma")
    tokenizer = scratch_tokenizer([*template_words(3), *WORDS])
    tokenizer.save_pretrained(folder)
    scratch_model(SHAPE, len(tokenizer), seed=4).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("settings", [{}, {"selection": "sample", "sub_prompts": False, "one_per_category": False}])
def test_it_keeps_the_contract_of_learners(settings, data, observations, tmp_path):
    def make():
        return TokenIQLAgent(TokenIQLConfig.tiny(**SMALL, **settings), name="mine")

    assert isinstance(make(), LearningAgent)
    check_learner(make, data, tmp_path, observations, SEEDS, one_per_category=settings.get("one_per_category", True))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_language_model_from_files_is_tuned_stored_and_read_again(
    tuning, language_model, data, observations, tmp_path
):
    if tuning == "lora":
        pytest.importorskip("peft")
    of_the_tuning = {"tuning": tuning, "optimiser": "adamw" if tuning == "lora" else "adafactor", "lora_rank": 2}
    config = TokenIQLConfig.tiny(**SMALL, model=str(language_model), q_token=5, v_token=6, **of_the_tuning)
    agent = TokenIQLAgent(config)
    agent._begin(data, seed=0)
    before = agent.prompt_values(observations)
    agent.train(data, seed=0, log=lambda metrics: None)
    after = agent.prompt_values(observations)
    assert np.abs(after - before).max() > 1e-3
    agent.save(tmp_path)
    assert np.allclose(TokenIQLAgent.load(tmp_path).prompt_values(observations), after, atol=1e-6)
    card = json.loads((tmp_path / "agent.json").read_text())
    assert card["config"]["tuning"] == tuning
    names = [name for name, p in agent._model.named_parameters() if p.requires_grad]
    assert all("lora" in name for name in names) == (tuning == "lora")
    assert names


def test_the_adapters_that_are_shipped_move_values(language_model, data, observations):
    """Half of them begin at 0, from where steps relative to a tensor's size, as of table 3, lead nowhere."""
    pytest.importorskip("peft")
    of_the_test = {"model": str(language_model), "q_token": 5, "v_token": 5, "device": "cpu", "steps": 30}
    shipped = OmegaConf.load(CONF / "agent" / "token_iql_lora.yaml")
    agent = instantiate(OmegaConf.merge(shipped, {"config": {**of_the_test, "batch_size": 2}}))
    agent._begin(data, seed=0)
    before = agent.prompt_values(observations)
    agent.train(data, seed=0, log=lambda metrics: None)
    moved = np.abs(agent.prompt_values(observations) - before).max()
    assert moved > 1e-3


def test_the_target_of_adapters_is_a_copy_of_the_adapters_alone(language_model, data):
    pytest.importorskip("peft")
    agent = TokenIQLAgent(TokenIQLConfig.tiny(**SMALL, model=str(language_model), tuning="lora", optimiser="adamw"))
    agent._begin(data, seed=0)
    model, reader = agent._trained()
    target = TargetWeights(model)
    tree = LoggedTexts(data, reader).batch(np.array([0])).tree
    before = target.values(tree)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
        assert (model(tree) - before).abs().max() > 1e-4
    assert torch.allclose(target.values(tree), before, atol=1e-6)
    assert all("lora" in name for name in target._weights)


def test_a_training_pass_has_the_values_of_acting(agent, data):
    """One tree holds every history and every slate; each value is that of [h, p] read alone."""
    model, reader = agent._trained()
    episodes = np.array([3, 8])
    batch = LoggedTexts(data, reader).batch(episodes)
    with torch.no_grad():
        read = model(batch.tree)
    f, v = batch.token_values(read), batch.history_values(read)
    assert f.shape[:3] == (2, WORLD.horizon, WORLD.slate_size)
    for turn in range(WORLD.horizon):
        histories, candidates = tokens_of(reader, seen(data, episodes, np.full(2, turn)))
        values = plain_values(model, histories, candidates).values
        for b, episode in enumerate(episodes):
            alone = model(token_tree([[Segment(histories[b])]]))[0, -1, 1]
            assert v[b, turn].item() == pytest.approx(alone.item(), abs=1e-5)
            for column, action in enumerate(data.actions[episode, turn]):
                n_words = len(WORDS[data.candidates[episode, turn, action]].split())
                assert batch.is_token[b, turn, column].sum() == n_words
                last = f[b, turn, column, n_words - 1]
                assert last.item() == pytest.approx(values[b, action].item(), abs=1e-5)
    assert torch.allclose(batch.rewards, torch.tensor(data.rewards[episodes], dtype=torch.float32))


def test_the_history_cache_changes_no_value(agent, observations):
    cached = agent.prompt_values(observations)
    without = TokenIQLAgent(replace(agent.config, history_cache=False, read_size=2))
    without._model, without._reader = agent._model, agent._reader
    assert np.allclose(cached, without.prompt_values(observations), atol=1e-5)
    assert cached.std() > 1e-4


def gradients(data, **settings):
    """Gradient of one step's loss, without the optimiser."""
    agent = TokenIQLAgent(TokenIQLConfig.tiny(**SMALL | settings))
    agent._begin(data, seed=0)
    model, reader = agent._trained()
    if agent.config.gradient_checkpointing:
        model.recompute_activations()
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    metrics = agent._step(model, TargetWeights(model), LoggedTexts(data, reader), np.arange(4), frozen)
    return metrics, torch.cat([p.grad.flatten() for p in model.parameters()])


def test_memory_savings_change_no_gradient(data):
    metrics, expected = gradients(data, gradient_norm=1e9)
    for settings in ({"micro_batch_size": 3}, {"gradient_checkpointing": True}):
        other, found = gradients(data, gradient_norm=1e9, **settings)
        assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item() + 1e-7)
        assert other["loss/q"] == pytest.approx(metrics["loss/q"], rel=1e-4)


def test_the_gradient_is_clipped(data):
    metrics, clipped = gradients(data, gradient_norm=0.1)
    assert metrics["gradient_norm"] > 0.1
    assert clipped.norm().item() == pytest.approx(0.1, rel=1e-3)


def test_training_in_mixed_precision_runs_and_logs_numbers(data):
    logs = []
    trained(data, logs.append, precision="bfloat16", gradient_checkpointing=True)
    assert [row["step"] for row in logs] == [2.0, 3.0]
    assert all(np.isfinite(value) for row in logs for value in row.values())


@pytest.mark.parametrize("slate_size", [1, 2])
def test_slates_of_any_size_log_numbers(slate_size):
    logs = []
    trained(replace(ToyWorld(slate_size=slate_size).collect(8), prompt_texts=WORDS), log=logs.append)
    assert all(np.isfinite(list(metrics.values())).all() for metrics in logs)
    assert all((metrics["value/q_spread"] == 0) is (slate_size == 1) for metrics in logs)


def test_it_learns_the_fixed_point_of_its_loss():
    """The world of two turns that is solved in ``test_tiny_worlds``; its prompts are one word each."""
    data = replace(tiny_dataset(4000), prompt_texts=np.array(["red", "green", "blue", "start"], dtype=object))
    agent = TokenIQLAgent(
        TokenIQLConfig.tiny(
            scratch=ScratchConfig(width=32, n_layers=1, n_heads=2),
            expectile=0.8,
            steps=300,
            batch_size=64,
            micro_batch_size=64,
            learning_rate=2e-2,
            weight_decay=0.0,
        )
    )
    agent.train(data, seed=0, log=lambda metrics: None)
    f, _ = iql_fixed_point("per_prompt", 0.8)
    states = observations_of_every_state(data)
    chosen = np.take_along_axis(data.actions, data.choices[..., None], 2)[:, 0, 0]
    episodes = np.array([0] + [int(np.flatnonzero(chosen == item)[0]) for item in range(3)])
    values = agent.prompt_values(states | data.texts(episodes, np.array([0, 1, 1, 1])))
    assert values == pytest.approx(f, abs=0.13)  # the other form's fixed point is 0.3 away


def test_words_are_needed_to_train_and_to_act(agent, data, observations):
    with pytest.raises(ValueError, match=r"needs the prompts' words, but dataset\.prompt_texts is None"):
        trained(replace(data, prompt_texts=None))
    bare = {name: value for name, value in observations.items() if "text" not in name}
    with pytest.raises(ValueError, match=r"observations lack .*reads_text = True"):
        agent.act(bare, SEEDS)
    with pytest.raises(ValueError, match="'token_iql' is not trained"):
        TokenIQLAgent().act(observations, SEEDS)


def test_adapters_need_peft(language_model, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"tuning='lora' needs peft; pip install 'pasta-gym\[llm\]'"):
        trained(data, model=str(language_model), tuning="lora", optimiser="adamw")


def test_without_the_weights_the_command_that_fetches_them_is_named(data):
    with pytest.raises(ValueError, match="hf download google/gemma-2b"):
        TokenIQLAgent().train(data, seed=0, log=lambda metrics: None)


def test_the_defaults_are_table_3():
    config = TokenIQLConfig()
    assert (config.learning_rate, config.steps, config.weight_decay, config.gradient_norm) == (1e-5, 10_000, 1e-2, 1.0)
    assert (config.target_period, config.target_rate, config.expectile) == (256, 1.0, 0.7)
    assert (config.q_token, config.v_token) == (651, 651)
    assert config.batch_size * 5 == pytest.approx(128, abs=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuning": "some"}, r"tuning must be one of \('full', 'lora'\), got 'some'"),
        ({"tuning": "lora"}, "model='scratch' has random weights to train"),
        ({"tuning": "lora", "model": "m"}, r"tuning='lora' needs optimiser='adamw', got 'adafactor'"),
        ({"optimiser": "sgd"}, r"optimiser must be one of \('adafactor', 'adamw'\), got 'sgd'"),
        ({"expectile": 1.0}, r"expectile must lie in \[0.5, 1\), got 1.0"),
        ({"target_rate": 0.0}, r"target_rate must lie in \(0, 1\]"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
        ({"q_token": -1}, "q_token must be at least 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"model": ""}, "model must be a folder, a name on the hub or 'scratch'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenIQLConfig.tiny(**settings)


def test_broken_checkpoints_are_refused(agent, tmp_path):
    from safetensors.torch import load_file, save_file

    agent.save(tmp_path)
    path = tmp_path / "agent.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    for broken, message in (
        ({k: v for k, v in tensors.items() if k != name}, "lacks or has too many of .*embed_tokens"),
        (tensors | {name: tensors[name][1:].clone()}, r"embed_tokens.weight has shape"),
        (tensors | {name: tensors[name] * float("nan")}, "values that are not finite in .*embed_tokens"),
    ):
        save_file(broken, path)
        with pytest.raises(ValueError, match=message):
            TokenIQLAgent.load(tmp_path)
    save_file(tensors, path)
    (tmp_path / "language_model" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"language_model cannot be read .*train and save the agent again"):
        TokenIQLAgent.load(tmp_path)
