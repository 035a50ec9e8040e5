"""The order of the reference agents over many conversations of the tiny world, each in its own action rule."""

import dataclasses
import importlib.util
import pathlib

import gymnasium as gym
import numpy as np
import pytest

import pasta_gym  # noqa: F401  registers the environment
from agents.random_slate import RandomAgent
from agents.untrained_generator import UntrainedGenerator
from benchmarks import reference, reference_belief
from benchmarks.evaluate import EvaluationConfig, evaluate
from benchmarks.reference_lookahead import ClairvoyantLookahead
from pasta_gym import seeding
from pasta_gym.types import Images

_PATH = pathlib.Path(__file__).parents[1] / "env" / "tiny_world.py"
_SPEC = importlib.util.spec_from_file_location("tiny_world_of_bounds", _PATH)
TINY_WORLD = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(TINY_WORLD)
N = 250
# Two columns for three types: a slate cannot please everybody, so that knowing the user is worth something.
SIZES = {**TINY_WORLD.TINY, "slate_size": 2}


class FreeRandom:
    """Any distinct candidates, all sets alike."""

    name, privileged = "free_random", False

    def act(self, observations, seeds):
        n_candidates = observations["categories"].shape[1]
        luck = seeding.uniforms(seeding.mix(seeds[:, None], np.arange(n_candidates)))
        return luck.argsort(axis=1)[:, : observations["slate_prompts"].shape[2]]


@pytest.fixture(scope="module")
def envs():
    users = TINY_WORLD.TinyUsers()
    users.has_constant_temperature = True
    made = gym.make_vec(
        "PastaT2I-v0",
        num_envs=N,
        vectorization_mode="vector_entry_point",
        world=TINY_WORLD.tiny_world(users),
        images="surrogate",
        split="test",
        reward="dense",
        reveal=True,
        **SIZES,
    ).unwrapped
    yield made
    made.close()


def returns(envs, agent):
    return evaluate(agent, envs, EvaluationConfig(n_episodes=N, batch_size=N), agent_seed=0).returns


def returns_of(envs, kind, rule, **settings):
    agent = kind(world=envs.world, user_model=envs.user_model, n_samples=2, one_per_category=rule, **settings)
    return returns(envs, agent)


def is_above(better, worse):
    """Whether a paired difference is positive beyond two of its standard errors."""
    difference = better - worse
    return difference.mean() > 2 * difference.std() / np.sqrt(len(difference))


@pytest.mark.parametrize("rule", [True, False], ids=["one_per_category", "free"])
def test_who_knows_more_does_better(envs, rule):
    random = returns(envs, RandomAgent() if rule else FreeRandom())
    blind = returns_of(envs, reference.BlindSlateAware, rule)
    belief = returns_of(envs, reference_belief.BeliefSlateAware, rule)
    clairvoyant = returns_of(envs, reference.Clairvoyant, rule)
    assert is_above(blind, random)
    assert is_above(belief, blind)
    assert is_above(clairvoyant, belief)
    within = {
        "posterior sampling": returns_of(envs, reference_belief.PosteriorSampling, rule),
        "value of information": returns_of(envs, reference_belief.BeliefVOI, rule, n_slates=20),
        "marginal belief": returns_of(envs, reference_belief.BeliefMarginal, rule),
    }
    for name, scores in within.items():
        assert is_above(scores, random), name
        assert is_above(clairvoyant, scores), name


def test_the_untrained_generator_is_no_better_than_random_where_first_thoughts_are_no_better(envs):
    # The tiny world's candidates are in no order, so the first of a category is a random one.
    difference = returns(envs, UntrainedGenerator()) - returns(envs, RandomAgent())
    assert abs(difference.mean()) < 3 * difference.std() / np.sqrt(N)


class PathImages:
    """A prompt's pictures are better the further along the path it is."""

    embedding_dim = TINY_WORLD.IMAGE_DIM

    def generate(self, prompts, keys):
        noise = 0.02 * seeding.normals(keys, self.embedding_dim)
        return Images((prompts[:, None, None] / 100 - 1 + noise).astype(np.float32))


class PathCandidates(TINY_WORLD.TinyCandidates):
    """Even prompts go on to better ones, odd ones, a little better now, lead to nowhere."""

    def propose(self, history):
        steps = 2 + 20 * np.arange(9) + (np.arange(9) % 2)
        ids = history.chosen_prompts[:, None] + np.where(
            history.chosen_prompts[:, None] % 2 == 0, steps, 1 - steps // 4
        )
        return np.clip(ids, 0, TINY_WORLD.N_PROMPTS - 1), np.tile(np.repeat(np.arange(3), 3), (len(ids), 1))


def test_a_world_without_a_surrogate_is_told_what_references_need():
    world = dataclasses.replace(TINY_WORLD.tiny_world(), image_generators={"diffusion": PathImages})
    with pytest.raises(ValueError, match=r"agent 'clairvoyant' imagines pictures .* none \(images must be one of"):
        reference.Clairvoyant(world=world, user_model=world.user_model)


@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_looking_ahead_pays_where_the_best_now_leads_to_nowhere(reward):
    users = TINY_WORLD.TinyUsers()
    users.has_constant_temperature = True
    world = dataclasses.replace(
        TINY_WORLD.tiny_world(users),
        image_generators={"surrogate": PathImages},
        candidate_generator=PathCandidates,
        initial_prompts={"test": np.arange(0, 100, 2)},
    )
    made = gym.make_vec(
        "PastaT2I-v0",
        num_envs=40,
        vectorization_mode="vector_entry_point",
        world=world,
        images="surrogate",
        split="test",
        reward=reward,
        reveal=True,
        **SIZES,
    ).unwrapped
    config = EvaluationConfig(n_episodes=40, batch_size=40)
    settings = {"world": world, "user_model": users, "n_samples": 1}
    ahead = evaluate(ClairvoyantLookahead(**settings, reward=reward), made, config, agent_seed=0).returns
    myopic = evaluate(reference.Clairvoyant(**settings), made, config, agent_seed=0).returns
    assert is_above(ahead, myopic)
    made.close()
