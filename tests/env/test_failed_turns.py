"""A part may fail, as a server or a full card does: the turn is taken back, and trying again gives the same episode."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from tests.env.tiny_world import TINY, PaintedImages, TinyCandidates, TinyUsers, tiny_world


class Unreliable:
    """Counts calls of all parts, and fails at the numbered one."""

    def __init__(self, fails_at=-1):
        self.calls, self.fails_at = 0, fails_at

    def call(self):
        self.calls += 1
        if self.calls - 1 == self.fails_at:
            raise RuntimeError("the server is away")


def unreliable_world(failure):
    class Candidates(TinyCandidates):
        wants_pixels = True

        def propose(self, history):
            for row in range(len(history.turns)):  # reads all pictures that it may
                shown = [history.pixels(row, turn) is not None for turn in range(6)]
                assert sum(shown) == history.turns[row] + 1
            failure.call()
            return super().propose(history)

    class Painter(PaintedImages):
        def generate(self, prompts, keys):
            failure.call()
            return super().generate(prompts, keys)

    class Users(TinyUsers):
        def with_aggregator(self, aggregator):
            return Users(aggregator, self.temperature)

        def choice_logits(self, utilities):
            failure.call()
            return super().choice_logits(utilities)

    world = tiny_world(Users())
    return replace(world, candidate_generator=Candidates, image_generators={"diffusion": Painter})


def tried_again(call):
    try:
        return call()
    except RuntimeError as error:
        assert "the server is away" in str(error)  # noqa: PT017
        return call()


def played(env, failure, fails_at, n_steps=7):
    """Two episodes, action by action; every call that fails is made once more."""
    failure.calls, failure.fails_at = 0, fails_at
    shape = env.action_space.shape
    seen = [tried_again(lambda: env.reset(seed=3))]
    for step in range(n_steps):
        action = (np.arange(np.prod(shape)).reshape(shape) * (step + 2) + step) % 9
        if len(shape) == 1 and step == 4:
            seen.append(tried_again(env.reset))
        seen.append(tried_again(lambda: env.step(action)))  # noqa: B023
    return seen


def assert_same(found, wanted):
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same(found[key], value)
    elif isinstance(wanted, tuple | list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["single", "vector"])
def test_whatever_fails_trying_again_gives_the_same_episodes(kind):
    failure = Unreliable()
    world = unreliable_world(failure)
    arguments = {"world": world, **TINY}
    make = (
        (lambda: gym.make("PastaT2I-v0", disable_env_checker=True, **arguments))
        if kind == "single"
        else (lambda: gym.make_vec("PastaT2I-v0", num_envs=2, vectorization_mode="vector_entry_point", **arguments))
    )
    wanted = played(make(), failure, -1)
    n_calls = failure.calls
    assert n_calls > 20
    for fails_at in range(n_calls):
        env = make()
        assert_same(played(env, failure, fails_at), wanted)
        assert failure.calls > n_calls  # it did fail


def test_after_a_reset_that_failed_there_is_nothing_to_step():
    failure = Unreliable()
    env = gym.make("PastaT2I-v0", world=unreliable_world(failure), disable_env_checker=True, **TINY)
    env.reset(seed=0)
    failure.fails_at = failure.calls
    with pytest.raises(RuntimeError, match="away"):
        env.reset()
    with pytest.raises(ResetNeeded):
        env.unwrapped.step(np.arange(3))


def test_a_vector_of_which_some_are_over_begins_those_once():
    failure = Unreliable()
    wanted, envs = (
        gym.make_vec(
            "PastaT2I-v0", num_envs=2, vectorization_mode="vector_entry_point", world=unreliable_world(failure), **TINY
        )
        for _ in range(2)
    )
    for vector in (wanted, envs):
        vector.reset(seed=5)
        vector.unwrapped._conversations.end(np.array([0]))  # as if it had begun before the other one
    action = np.tile(np.arange(3), (2, 1))
    first = failure.calls
    expected = wanted.step(action)
    n_calls = failure.calls - first
    for k in range(n_calls):
        failure.fails_at = failure.calls + k
        with pytest.raises(RuntimeError, match="away"):
            envs.step(action)
    assert_same(envs.step(action), expected)
    assert_same(envs.step(action), wanted.step(action))
