"""What a logged slate is as an action of another library, against the wrappers that take such actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import pasta_gym  # noqa: F401  registers the environment
from agents.slate_actions import NumberActions, ScoreActions
from pasta_gym.seeding import mix
from pasta_gym.trajectories.random_policy import random_slates
from pasta_gym.wrappers import SlateIndex


@pytest.fixture
def logged():
    """Random slates of four among 25 candidates whose categories come in any order, anew in every row."""
    rng = np.random.default_rng(0)
    categories = np.stack([rng.permutation(np.repeat(np.arange(5), 5)) for _ in range(200)])
    slates, _ = random_slates(categories, mix(np.arange(200), 1), 4)
    return slates, categories


def test_scores_reproduce_the_logged_slate(logged):
    slates, categories = logged
    actions = ScoreActions(25, 4)
    scores = actions.encode(slates, categories)
    assert actions.size == scores.shape[1] == 25
    assert scores.dtype == np.float32
    assert_array_equal((scores == 1).sum(axis=1), 4)
    assert_array_equal((scores == -1).sum(axis=1), 21)
    assert_array_equal(actions.decode(scores, categories), np.sort(slates, axis=1))


def test_numbers_reproduce_the_logged_slate_in_any_order(logged):
    slates, categories = logged
    actions = NumberActions(25, 5, 4)
    assert actions.size == 3125
    numbers = actions.encode(slates, categories)
    assert numbers.shape == (200, 1)
    assert_array_equal(numbers, actions.encode(slates[:, ::-1], categories))
    shown = actions.decode(numbers[:, 0].astype(np.int64), categories)
    assert_array_equal(np.sort(shown, axis=1), np.sort(slates, axis=1))


def test_numbers_are_those_of_the_wrapper():
    env = SlateIndex(gym.make("PastaT2I-v0", images="surrogate"))
    observation, _ = env.reset(seed=3)
    actions = NumberActions(25, 5, 4)
    assert actions.size == env.action_space.n
    numbers = np.arange(actions.size)
    categories = np.tile(observation["categories"], (actions.size, 1))
    slates = actions.decode(numbers, categories)
    assert_array_equal(actions.encode(slates, categories)[:, 0], numbers)
    for number in numbers[::97]:
        assert_array_equal(slates[number], env.slate(int(number)))
    env.close()


def test_what_has_no_number_is_refused():
    categories = np.array([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"slate \[0, 1\] has no number"):
        NumberActions(4, 2, 2).encode(np.array([[0, 1]]), categories)
    with pytest.raises(ValueError, match=r"every category 0\.\.1 must have 2 candidates"):
        NumberActions(4, 2, 2).encode(np.array([[0, 3]]), np.array([[0, 1, 1, 1]]))
    with pytest.raises(ValueError, match="multiple of the 2 categories, got 5"):
        NumberActions(5, 2, 2)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3, got 4\.\.4"):
        NumberActions(4, 2, 2).decode(np.array([4]), categories)
    with pytest.raises(ValueError, match="two candidates of one category"):
        ScoreActions(4, 2).encode(np.array([[0, 1]]), categories)
