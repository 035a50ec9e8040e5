from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from agents import Agent, LearningAgent
from agents.iql import IQLAgent, IQLConfig, IQLNetwork
from agents.mixture_fit import MixtureConfig
from agents.prompt_taste import TasteConfig
from agents.random_slate import RandomAgent
from agents.slateq import SlateQAgent, SlateQConfig
from agents.slateq_network import MixtureSlateQNetwork, SlateQNetwork
from pasta_gym import seeding
from tests.agents.contract import check_agent, check_learner
from tests.agents.test_belief import UserModelStandIn, some_mixture
from tests.agents.toy_world import ToyWorld

WORLD = ToyWorld()
SMALL = {"steps": 4, "batch_size": 16, "width": 16, "log_every": 2}
MIXTURE = MixtureConfig(n_components=3, width=8, steps=5, batch_size=16)
TASTE = TasteConfig(width=8, steps=5, batch_size=16)


@pytest.fixture(scope="module")
def data():
    return WORLD.collect(60, reward="sparse")


@pytest.fixture(scope="module")
def observations(data):
    return data.observations(np.arange(12), np.arange(12) % WORLD.horizon)


SEEDS = seeding.mix(11, np.arange(12))


@pytest.fixture(scope="module")
def trained(data):
    """One small trained agent of each learner."""
    agents = {}
    for agent in (
        IQLAgent(IQLConfig(**SMALL, mixture=MIXTURE)),
        SlateQAgent(SlateQConfig(**SMALL, mixture=MIXTURE, taste=TASTE)),
    ):
        agent.train(data, seed=0, log=lambda metrics: None)
        agents[agent.name] = agent
    return agents


VARIANTS = [
    (IQLAgent, IQLConfig, {"loss": "slate_mean", "belief": "none", "history": "none"}),
    (IQLAgent, IQLConfig, {"loss": "per_prompt", "belief": "fitted", "selection": "sample"}),
    (IQLAgent, IQLConfig, {"target_rate": 1.0, "target_period": 2, "belief": "none", "n_layers": 0}),
    (IQLAgent, IQLConfig, {"one_per_category": False, "belief": "none", "n_layers": 1}),
    (SlateQAgent, SlateQConfig, {"slate_value": "softmax", "optimiser": "topk", "belief": "none"}),
    (SlateQAgent, SlateQConfig, {"slate_value": "softmax", "next_slate": "max", "history": "encoder"}),
    (
        SlateQAgent,
        SlateQConfig,
        {"slate_value": "softmax", "next_slate": "max", "optimiser": "exact", "one_per_category": False},
    ),
    (SlateQAgent, SlateQConfig, {"slate_value": "mixture", "taste": TASTE, "n_layers": 0}),
    (
        SlateQAgent,
        SlateQConfig,
        {"slate_value": "mixture", "taste": TASTE, "next_slate": "max", "one_per_category": False},
    ),
]


@pytest.mark.parametrize(("agent_class", "config_class", "settings"), VARIANTS)
def test_learners_keep_the_contract(agent_class, config_class, settings, data, observations, tmp_path):
    config = config_class(**SMALL, mixture=MIXTURE, **settings)
    check_learner(
        lambda: agent_class(config, name="mine"),
        data,
        tmp_path / "agent",
        observations,
        SEEDS,
        one_per_category=config.one_per_category,
    )


def test_the_random_agent_keeps_the_contract_and_follows_its_keys(observations):
    check_agent(RandomAgent(), observations, SEEDS)
    other = RandomAgent().act(observations, seeding.mix(12, np.arange(12)))
    assert not np.array_equal(other, RandomAgent().act(observations, SEEDS))


def test_random_slates_are_uniform(data):
    n = 30_000
    observations = data.observations(np.zeros(n, int), np.zeros(n, int))
    slates = RandomAgent().act(observations, seeding.mix(5, np.arange(n)))
    # Each of the 12 candidates is shown with probability 3/4 (its category) times 1/3.
    shown = np.bincount(slates.ravel(), minlength=WORLD.n_candidates) / n
    assert shown == pytest.approx(np.full(WORLD.n_candidates, 0.25), abs=0.015)


def test_sampling_follows_its_keys_and_greedy_ignores_them(trained, observations):
    other = seeding.mix(12, np.arange(12))
    greedy = trained["iql"]
    assert np.array_equal(greedy.act(observations, SEEDS), greedy.act(observations, other))
    values = greedy.prompt_values(observations)
    best = greedy.act(observations, SEEDS)
    assert np.take_along_axis(values, best, 1)[:, 0] == pytest.approx(values.max(1))
    sampler = IQLAgent(replace(greedy.config, selection="sample"))
    sampler._network, sampler._belief = greedy._network, greedy._belief
    assert not np.array_equal(sampler.act(observations, SEEDS), sampler.act(observations, other))
    sampler.config = replace(sampler.config, temperature=1e-6)
    # The same prompt may be a candidate twice, so compare values and not indices.
    coldest = np.take_along_axis(values, sampler.act(observations, SEEDS), 1)
    assert coldest == pytest.approx(np.take_along_axis(values, best, 1), abs=2e-5)


def test_a_privileged_belief_marks_the_agent_and_comes_from_the_user_model(data, observations, tmp_path, monkeypatch):
    asked = []

    def load(path):
        asked.append(path)
        return UserModelStandIn(some_mixture(WORLD))

    monkeypatch.setattr("agents.belief.load_user_model", load)
    for agent_class, config_class, form in (
        (IQLAgent, IQLConfig, {}),
        (SlateQAgent, SlateQConfig, {"slate_value": "softmax"}),
    ):
        config = config_class(**SMALL, **form, belief="privileged", posterior_from="shipped/users")
        assert agent_class(config).privileged
        check_learner(lambda c=config, a=agent_class: a(c), data, tmp_path / config_class.__name__, observations, SEEDS)
    assert set(asked) == {"shipped/users"}
    assert not IQLAgent().privileged
    assert not SlateQAgent().privileged


@pytest.mark.parametrize(
    ("agent_class", "config_class", "form"),
    [(IQLAgent, IQLConfig, {}), (SlateQAgent, SlateQConfig, {"slate_value": "softmax"})],
)
def test_the_user_model_of_a_stored_privileged_agent_may_lie_elsewhere(
    agent_class, config_class, form, data, observations, tmp_path, monkeypatch
):
    weights = {"here": b"1", "copied": b"1", "refitted": b"2"}
    for name, content in weights.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "user_model.safetensors").write_bytes(content)

    def load(path):
        if not (tmp_path / path).is_dir():
            raise ValueError(f"no {path}")
        return UserModelStandIn(some_mixture(WORLD))

    monkeypatch.setattr("agents.belief.load_user_model", load)
    agent = agent_class(config_class(**SMALL, **form, belief="privileged", posterior_from=str(tmp_path / "here")))
    agent.train(data, seed=0, log=lambda metrics: None)
    agent.save(tmp_path / "agent")
    (tmp_path / "here").rename(tmp_path / "gone")
    with pytest.raises(
        ValueError, match=r"needs its user model: no .*here; or pass load\(\.\.\., posterior_from=FOLDER\)"
    ):
        agent_class.load(tmp_path / "agent")
    again = agent_class.load(tmp_path / "agent", posterior_from=str(tmp_path / "copied"))
    assert again.config.posterior_from == str(tmp_path / "copied")
    assert np.array_equal(again.act(observations, SEEDS), agent.act(observations, SEEDS))
    with pytest.raises(ValueError, match=r"of weights \w{16}, but .*refitted has \w{16}; pass load"):
        agent_class.load(tmp_path / "agent", posterior_from=str(tmp_path / "refitted"))


NETWORK = {"embedding_dim": WORLD.embedding_dim, "horizon": WORLD.horizon, "n_components": 3}
SHAPE = {"width": 16, "n_layers": 2}
UNTRAINED = [
    (IQLAgent, IQLConfig(history="encoder"), lambda config, g: IQLNetwork(config, **NETWORK, generator=g)),
    (
        SlateQAgent,
        SlateQConfig(slate_value="softmax", history="encoder"),
        lambda config, g: SlateQNetwork(**NETWORK, **SHAPE, n_encoder_outputs=8, generator=g),
    ),
    (
        SlateQAgent,
        SlateQConfig(taste=TASTE),
        lambda config, g: MixtureSlateQNetwork(**NETWORK, **SHAPE, taste_width=8, generator=g),
    ),
]


@pytest.mark.parametrize(("agent_class", "config", "network"), UNTRAINED)
def test_every_parameter_gets_gradient_and_the_global_generator_is_left_alone(agent_class, config, network, data):
    config = replace(config, **SMALL | {"steps": 8}, mixture=MIXTURE, weight_decay=0.0)
    state = torch.get_rng_state()
    agent = agent_class(config)
    agent.train(data, seed=9, log=lambda metrics: None)
    assert torch.equal(torch.get_rng_state(), state)
    start = network(config, torch.Generator().manual_seed(9))
    for (name, before), after in zip(start.named_parameters(), agent._network.parameters(), strict=True):
        assert (before != after).float().mean() > 0.5, name


def test_settings_reach_the_training(data, observations, trained):
    """Each setting changes the learned values: none is accepted and ignored."""
    base = trained["iql"].prompt_values(observations)
    for change in (
        {"loss": "per_prompt"},
        {"expectile": 0.9},
        {"reward_scale": 1.0},
        {"learning_rate": 1e-2},
        {"gradient_norm": 1e-9},
        {"n_encoder_outputs": 2},
        {"batch_size": 8},
        {"mixture": MixtureConfig(n_components=2, steps=5)},
    ):
        agent = IQLAgent(replace(trained["iql"].config, **change))
        agent.train(data, seed=0, log=lambda metrics: None)
        assert not np.array_equal(agent.prompt_values(observations), base), change


def test_metrics_come_at_the_promised_steps(data):
    logs = []
    IQLAgent(IQLConfig(**SMALL | {"steps": 5}, mixture=MIXTURE)).train(data, seed=0, log=logs.append)
    assert [metrics.get("step") for metrics in logs] == [None, 2.0, 4.0, 5.0, 5.0]
    assert set(logs[0]) == {
        "belief/held_out_log_likelihood",
        "belief/memoryless_log_likelihood",
        "belief/uniform_log_likelihood",
        "belief/largest_share",
    }
    assert {"loss/q", "loss/v", "value/q", "value/v", "value/target", "gradient_norm"} <= set(logs[1])
    assert set(logs[-1]) == {"step", "context_effect"}


@pytest.mark.parametrize(
    ("config_class", "setting", "message"),
    [
        (IQLConfig, {"loss": "mean"}, r"loss must be one of \('slate_mean', 'per_prompt'\), got 'mean'"),
        (IQLConfig, {"selection": "best"}, "selection must be one of .* got 'best'"),
        (IQLConfig, {"expectile": 0.4}, r"\[0\.5, 1\), got 0\.4"),
        (IQLConfig, {"expectile": 1.0}, r"\[0\.5, 1\), got 1\.0"),
        (IQLConfig, {"target_rate": 0.0}, r"target_rate must lie in \(0, 1\], got 0\.0"),
        (IQLConfig, {"steps": 0}, "steps must be at least 1, got 0"),
        (IQLConfig, {"temperature": 0.0}, r"temperature must be above 0, got 0\.0"),
        (IQLConfig, {"n_layers": -1}, "n_layers must be at least 0, got -1"),
        (IQLConfig, {"belief": "oracle"}, "belief must be one of .* got 'oracle'"),
        (IQLConfig, {"belief": "privileged"}, "needs posterior_from"),
        (SlateQConfig, {"posterior_from": "x"}, "posterior_from='x' is read with belief='privileged' only"),
        (SlateQConfig, {"next_slate": "best"}, r"next_slate must be one of \('logged', 'max'\), got 'best'"),
        (SlateQConfig, {"optimiser": "brute"}, "optimiser must be one of .* got 'brute'"),
        (SlateQConfig, {"history": "gru"}, "history must be one of .* got 'gru'"),
        (SlateQConfig, {"slate_value": "mean"}, r"slate_value must be one of \('mixture', 'softmax'\), got 'mean'"),
        (SlateQConfig, {"belief": "none"}, "slate_value='mixture' needs belief='fitted', got 'none'; change it"),
        (SlateQConfig, {"history": "encoder"}, "slate_value='mixture' needs history='none', got 'encoder'"),
        (SlateQConfig, {"optimiser": "exact"}, "needs optimiser='coordinate', got 'exact'; .*slate_value='softmax'"),
        (TasteConfig, {"steps": 0}, "steps must be at least 1, got 0"),
        (TasteConfig, {"learning_rate": 0.0}, r"learning_rate must be above 0, got 0\.0"),
        (SlateQConfig, {"choice_weight": 0.0}, r"choice_weight must be above 0, got 0\.0"),
    ],
)
def test_bad_settings_are_named(config_class, setting, message):
    with pytest.raises(ValueError, match=message):
        config_class(**setting)


def test_an_untrained_agent_says_so(observations, tmp_path):
    for agent in (IQLAgent(), SlateQAgent(name="other")):
        with pytest.raises(ValueError, match=f"'{agent.name}' is not trained; call train"):
            agent.act(observations, SEEDS)
        with pytest.raises(ValueError, match="is not trained"):
            agent.save(tmp_path)


def without(observations, key):
    return {name: value for name, value in observations.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: without(o, "choices"), r"observations lack \['choices'\]"),
        (lambda o: {key: value[0] for key, value in o.items()}, "must be batched.*leading axis of length 1"),
        (lambda o: o | {"turn": o["turn"][:3]}, "the same batch size"),
        (lambda o: o | {"turn": o["turn"] + 3}, r"turn must lie in 0\.\.2 .*got 3\.\.5; reset"),
        (lambda o: o | {"categories": np.zeros_like(o["categories"])}, "categor"),
    ],
)
def test_malformed_observations_are_named(change, message, trained, observations):
    for agent in (RandomAgent(), *trained.values()):
        with pytest.raises(ValueError, match=message):
            agent.act(change(observations), SEEDS)


def test_a_candidate_that_is_not_a_number_is_named(trained, observations):
    candidates = observations["candidates"].copy()
    candidates[2, 1] = np.nan
    for agent in trained.values():
        with pytest.raises(ValueError, match="row 2 is not; check the observation"):
            agent.act(observations | {"candidates": candidates}, SEEDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": np.full((60, 3), 3)}, r"choices must lie in 0\.\.2, got 3\.\.3"),
        ({"choices": np.full((60, 3), -1)}, r"choices must lie in 0\.\.2, got -1\.\.-1"),
        ({"rewards": np.full((60, 3), np.nan)}, r"rewards must be finite and of shape \(60, 3\)"),
    ],
)
def test_malformed_datasets_are_named(change, message, data):
    with pytest.raises(ValueError, match=message):
        IQLAgent(IQLConfig(**SMALL, belief="none")).train(replace(data, **change), seed=0, log=lambda metrics: None)


def break_card(folder, **changes):
    card = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps(card | changes))


def without_tensor(folder, name):
    tensors = load_file(folder / "agent.safetensors")
    save_file({key: value.clone() for key, value in tensors.items() if key != name}, folder / "agent.safetensors")


def spoil_tensor(folder, name):
    tensors = load_file(folder / "agent.safetensors")
    spoilt = {key: value * float("nan") if key == name else value.clone() for key, value in tensors.items()}
    save_file(spoilt, folder / "agent.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "agent.json").unlink(), r"agent\.json does not exist; train the agent"),
        (lambda f: (f / "agent.safetensors").unlink(), r"agent\.safetensors does not exist"),
        (lambda f: (f / "agent.json").write_text("{"), r"agent\.json cannot be read"),
        (lambda f: (f / "agent.json").write_text("[]"), r"agent\.json cannot be read"),
        (lambda f: (f / "agent.safetensors").write_bytes(b"x" * 99), r"agent\.safetensors cannot be read"),
        (lambda f: break_card(f, format_version=99), "format version 99, this code reads 1"),
        (lambda f: break_card(f, kind="dqn"), "holds a 'dqn' agent, expected"),
        (lambda f: break_card(f, config={"colour": 1}), r"unknown settings \['colour'\]"),
        (lambda f: break_card(f, config={"belief": "x"}), r"agent\.json has a bad setting: belief must"),
        (lambda f: break_card(f, config={"mixture": {"x": 1}}), r"agent\.json has a bad setting"),
        (lambda f: break_card(f, sizes={"embedding_dim": 6}), r"must give sizes\.horizon as 1 or more, got None"),
        (lambda f: break_card(f, sizes={"embedding_dim": 5, "horizon": 3}), "does not fit its card"),
        (lambda f: without_tensor(f, "belief.prior"), "no complete fitted belief"),
        (lambda f: spoil_tensor(f, "belief.prior"), "fitted belief with bad numbers"),
        (lambda f: without_tensor(f, "network.encoder.prompt_mean"), "does not fit its card"),
        (
            lambda f: spoil_tensor(f, "network.encoder.prompt_mean"),
            r"not finite in \['network\.encoder\.prompt_mean'\]",
        ),
    ],
)
def test_broken_folders_are_named(damage, message, trained, tmp_path):
    for name, agent in trained.items():
        agent.save(tmp_path / name)
        damage(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            type(agent).load(tmp_path / name)


def test_saving_leaves_no_half_written_files(trained, tmp_path):
    trained["iql"].save(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["agent.json", "agent.safetensors"]


class FirstOfEachCategory:
    """A user's own agent: no base class, nothing registered."""

    def __init__(self, name="first", reverse=False):
        self.name, self.privileged, self.reverse = name, False, reverse

    def act(self, observations, seeds):
        slate_size = observations["slate_prompts"].shape[2]
        slates = np.array([np.unique(row, return_index=True)[1] for row in observations["categories"]])
        return (slates[:, ::-1] if self.reverse else slates)[:, :slate_size].astype(np.int64)


def test_an_agent_of_ones_own_plugs_in_by_its_target(observations):
    agent = instantiate({"_target_": f"{__name__}.FirstOfEachCategory", "reverse": True})
    assert isinstance(agent, Agent)
    assert not isinstance(agent, LearningAgent)
    check_agent(agent, observations, SEEDS)
    assert agent.act(observations, SEEDS)[0].tolist() == [9, 6, 3]


def test_the_shipped_agents_are_built_from_their_targets():
    mixture = {"_target_": "agents.mixture_fit.MixtureConfig", "n_components": 4}
    config = {"_target_": "agents.iql.IQLConfig", "loss": "per_prompt", "mixture": mixture}
    agent = instantiate({"_target_": "agents.iql.IQLAgent", "config": config, "name": "iql_per_prompt"})
    assert isinstance(agent, LearningAgent)
    assert (agent.name, agent.config.loss, agent.config.mixture.n_components) == ("iql_per_prompt", "per_prompt", 4)
    slateq = instantiate(
        {"_target_": "agents.slateq.SlateQAgent", "config": {"_target_": "agents.slateq.SlateQConfig"}}
    )
    assert slateq.config == SlateQConfig()
    assert isinstance(instantiate({"_target_": "agents.random_slate.RandomAgent"}), Agent)


def paired_t(agent, reward):
    """Paired t statistic of the agent's return over random's, on the same users, prompts and luck."""
    base = WORLD.play(RandomAgent().act, 800, seed=99, reward=reward).rewards.sum(1)
    gain = WORLD.play(agent.act, 800, seed=99, reward=reward).rewards.sum(1) - base
    return gain.mean() / gain.std() * np.sqrt(len(gain))


OWN = MixtureConfig(n_components=3, width=16, steps=150)


def test_iql_with_its_own_belief_beats_random_and_uses_the_history():
    logs = []
    agent = IQLAgent(IQLConfig(steps=250, history="none", mixture=OWN))
    agent.train(WORLD.collect(1500, reward="sparse"), seed=0, log=logs.append)
    assert paired_t(agent, "sparse") > 6
    assert logs[0]["belief/held_out_log_likelihood"] > logs[0]["belief/memoryless_log_likelihood"] + 0.1
    assert logs[-1]["context_effect"] > 0.3


@pytest.mark.parametrize("slate_value", ["mixture", "softmax"])
def test_slateq_with_its_own_belief_beats_random_and_predicts_choices(slate_value):
    logs = []
    agent = SlateQAgent(SlateQConfig(slate_value=slate_value, steps=200, mixture=OWN, taste=TasteConfig(steps=100)))
    agent.train(WORLD.collect(1500, reward="sparse"), seed=0, log=logs.append)
    assert paired_t(agent, "sparse") > 6
    assert logs[-2]["loss/choice"] < np.log(3) - 0.05
    assert logs[-1]["context_effect/choice"] > 0.3


def test_prompt_tastes_are_the_utilities_of_the_columns_as_far_as_the_prompts_decide():
    logs = []
    agent = SlateQAgent(SlateQConfig(steps=1, mixture=OWN, taste=TasteConfig(steps=200)))
    data = WORLD.collect(1000, reward="dense")
    agent.train(data, seed=0, log=logs.append)
    explained = next(metrics["taste/explained_variance"] for metrics in logs if "taste/explained_variance" in metrics)
    assert 0.5 < explained < 1
    mixture = agent._belief.mixture
    found = agent.item_scores(data.observations(np.arange(200), np.zeros(200, int))).logits.numpy()
    shown = np.take_along_axis(found, data.actions[:200, 0][..., None], 1)
    expected = mixture.temperature * mixture.dataset_utilities(data.take(np.arange(200)))[:, 0]

    def within(columns):
        return (columns - columns.mean(1, keepdims=True)).ravel()

    assert np.corrcoef(within(shown), within(expected))[0, 1] ** 2 == pytest.approx(explained, abs=0.1)
