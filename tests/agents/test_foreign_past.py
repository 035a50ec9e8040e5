from __future__ import annotations

import numpy as np
import pytest

from agents import LearningAgent
from agents.foreign_past import ForeignPast, with_foreign_past
from agents.history import histories_from_observations
from agents.iql import IQLAgent, IQLConfig
from agents.mixture_fit import MixtureConfig
from tests.agents.toy_world import ToyWorld

WORLD = ToyWorld()


@pytest.fixture(scope="module")
def data():
    return WORLD.collect(60)


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_the_past_is_the_neighbours_and_the_present_ones_own(turn, data):
    observations = data.observations(np.arange(6), np.full(6, turn))
    before = {name: values.copy() for name, values in observations.items()}
    changed = with_foreign_past(observations)
    assert all(np.array_equal(observations[name], before[name]) for name in before)
    belief = np.zeros((6, 0))
    own, foreign = histories_from_observations(observations, belief), histories_from_observations(changed, belief)
    for name in ("turns", "initial_prompts", "current_prompts", "current_images"):
        assert np.array_equal(getattr(own, name), getattr(foreign, name)), name
    assert np.array_equal(changed["candidates"], observations["candidates"])
    assert np.array_equal(changed["choices"], np.roll(observations["choices"], 1, axis=0))
    earlier = slice(0, max(turn - 1, 0))
    assert np.array_equal(changed["slate_images"][:, earlier], np.roll(observations["slate_images"], 1, 0)[:, earlier])
    if turn:
        # Only the chosen column of the last turn is one's own: the three others are the neighbour's.
        last = turn - 1
        same = (changed["slate_images"][:, last] == np.roll(observations["slate_images"], 1, 0)[:, last]).all((2, 3))
        assert (same.sum(1) == WORLD.slate_size - 1).all()


def test_conversations_at_different_turns_are_refused(data):
    with pytest.raises(ValueError, match=r"at one turn, got 0\.\.1"):
        with_foreign_past(data.observations(np.arange(2), np.arange(2)))


@pytest.mark.parametrize("turn", [0, 2])
def test_one_conversation_has_nobody_elses_past(turn, data):
    """Its neighbour in the batch was itself, so it was scored with its own past under the name of a foreign one."""
    with pytest.raises(ValueError, match=r"must be 2 or more side by side, got 1; raise evaluation\.batch_size"):
        with_foreign_past(data.observations(np.arange(1), np.full(1, turn)))
    two = data.observations(np.arange(2), np.full(2, 2))
    assert np.array_equal(with_foreign_past(two)["choices"], two["choices"][::-1])


def test_an_agent_that_ignores_the_past_shows_the_same_slates_and_one_that_reads_it_does_not(data, tmp_path):
    observations, seeds = data.observations(np.arange(20), np.full(20, 2)), np.zeros(20, np.uint64)
    settings = {"steps": 30, "history": "none", "learning_rate": 1e-2, "mixture": MixtureConfig(3, steps=30)}
    for belief, same in (("none", True), ("fitted", False)):
        agent = ForeignPast(IQLAgent(IQLConfig(**settings, belief=belief), name="mine"))
        assert isinstance(agent, LearningAgent)
        agent.train(data, seed=0, log=lambda metrics: None)
        assert np.array_equal(agent.act(observations, seeds), agent.inner.act(observations, seeds)) == same
        agent.save(tmp_path / belief)
        loaded = ForeignPast.load(tmp_path / belief)
        assert loaded.name == "mine"
        assert np.array_equal(loaded.act(observations, seeds), agent.act(observations, seeds))


def test_a_folder_without_an_agent_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"agent\.json must be the card of one of \['iql', 'slateq'\], got None"):
        ForeignPast.load(tmp_path)
