from __future__ import annotations

import importlib.util
import pathlib
import sys
from dataclasses import replace

import numpy as np
import pytest

from agents.token_texts import TextRecord, check_texts
from benchmarks.evaluate import EvaluationConfig, evaluate
from pasta_gym.trajectories.dataset import TEXT_KEYS
from tests.agents.toy_world import ToyWorld

WORLD = ToyWorld()


@pytest.fixture(scope="module")
def data():
    dataset = WORLD.collect(20)
    return replace(dataset, prompt_texts=np.array([f"prompt {i}" for i in range(WORLD.n_prompts)], dtype=object))


def written(ids):
    return [f"prompt {i}" for i in ids]


def test_a_record_kept_while_playing_is_what_the_dataset_says(data):
    shown = np.take_along_axis(data.candidates, data.actions, axis=2)
    info = {"initial_prompt_id": data.initial_prompts, "candidate_ids": data.candidates[:, 0]}
    record = TextRecord(written, info, horizon=data.horizon, slate_size=data.slate_size)
    for turn in range(data.horizon):
        expected = data.texts(np.arange(20), np.full(20, turn))
        found = record.texts()
        assert set(found) == set(TEXT_KEYS)
        for key in TEXT_KEYS:
            assert found[key].tolist() == expected[key].tolist()
        following = data.candidates[:, min(turn + 1, data.horizon - 1)]
        record.add({"slate_ids": shown[:, turn], "candidate_ids": following}, turn)


def test_the_words_belong_to_the_embeddings(data):
    episodes, turns = np.array([3, 7]), np.array([2, 0])
    texts, observations = data.texts(episodes, turns), data.observations(episodes, turns)
    for b in range(2):
        for i, text in enumerate(texts["candidate_texts"][b]):
            row = int(text.split()[1])
            assert np.array_equal(data.prompt_embeddings[row], observations["candidates"][b, i])
    assert texts["initial_prompt_text"][0] == f"prompt {data.initial_prompts[3]}"
    assert (texts["slate_texts"][0, :2] != "").all()
    assert (texts["slate_texts"][0, 2:] == "").all()
    assert (texts["slate_texts"][1] == "").all()
    row = int(texts["slate_texts"][0, 1, 2].split()[1])
    assert np.array_equal(data.prompt_embeddings[row], observations["slate_prompts"][0, 1, 2])


def test_a_record_gives_copies(data):
    info = {"initial_prompt_id": data.initial_prompts, "candidate_ids": data.candidates[:, 0]}
    record = TextRecord(written, info, horizon=3, slate_size=3)
    record.texts()["slate_texts"][:] = "x"
    assert (record.texts()["slate_texts"] == "").all()


def test_missing_and_misshapen_words_are_refused(data):
    observations = data.observations(np.arange(2), np.array([1, 2]))
    texts = data.texts(np.arange(2), np.array([1, 2]))
    check_texts(observations | texts)
    with pytest.raises(ValueError, match=r"observations lack \['initial_prompt_text'.*reads_text = True"):
        check_texts(observations)
    with pytest.raises(ValueError, match=r"candidate_texts must have shape \(2, 12\)"):
        check_texts(observations | texts | {"candidate_texts": texts["candidate_texts"][:, 1:]})
    with pytest.raises(ValueError, match="slate_texts must hold the prompts of every turn played"):
        check_texts(observations | texts | {"slate_texts": np.full((2, 3, 3), "", dtype=object)})


def test_a_dataset_without_words_says_where_they_come_from(data):
    with pytest.raises(ValueError, match=r"prompt_texts must hold the prompts' words, got None; .*load reads them"):
        replace(data, prompt_texts=None).texts(np.arange(2), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"turns must be in 0\.\.2, got 3"):
        data.texts(np.array([0]), np.array([3]))


@pytest.fixture(scope="module")
def envs():
    path = pathlib.Path(__file__).parents[1] / "env" / "tiny_world.py"
    spec = importlib.util.spec_from_file_location("tiny_world_of_texts", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    from pasta_gym.envs.vector import PastaVectorEnv

    made = PastaVectorEnv(
        num_envs=3,
        world=module.tiny_world(),
        images="surrogate",
        n_candidates=9,
        n_categories=3,
        slate_size=3,
        images_per_prompt=2,
        horizon=4,
        reveal=True,
    )
    yield made
    made.close()


class Spy:
    """Shows the first candidate of each category and keeps what it was shown."""

    name = "spy"
    privileged = False

    def __init__(self, reads_text):
        self.reads_text = reads_text
        self.seen = []

    def act(self, observations, seeds):
        self.seen.append(observations)
        return np.tile([0, 3, 6], (len(seeds), 1))


def test_the_evaluation_shows_words_to_agents_that_read_and_to_no_other(envs):
    reading, other = Spy(True), Spy(False)
    for spy in (reading, other):
        evaluate(spy, envs, EvaluationConfig(n_episodes=3, split="train"), agent_seed=0)
    assert set(reading.seen[0]) - set(other.seen[0]) == set(TEXT_KEYS)
    encoder = envs.world.text_encoder
    for turn, shown in enumerate(reading.seen):
        check_texts(shown)
        ids = np.array([[int(text.split()[1]) for text in row] for row in shown["candidate_texts"]])
        assert np.array_equal(encoder.embed(ids), shown["candidates"])
        for earlier in range(turn):
            assert (shown["slate_texts"][:, earlier] == reading.seen[earlier]["candidate_texts"][:, [0, 3, 6]]).all()
        initial = np.array([int(text.split()[1]) for text in shown["initial_prompt_text"]])
        assert np.array_equal(encoder.embed(initial), shown["initial_prompt"])
