"""A learner gets better on the mini world itself: logged conversations in, a higher return than random out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.mixture_fit import MixtureConfig
from agents.prompt_taste import TasteConfig
from agents.random_slate import RandomAgent
from agents.slateq import SlateQAgent, SlateQConfig
from benchmarks.evaluate import EvaluationConfig, evaluate
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig, collect, load

N_LOGGED = 1_200
N_PLAYED = 200
MARGIN = 2.0
"""A tenth of random's return of 19.5."""
# With dense reward, which says more than the last turn's alone. Measured with three training seeds on each of two
# datasets: 4.9 to 6.2 above random, standard error 0.9 over conversations; with shuffled rewards -0.8 to 0.2. Of 1,000
# logged conversations 4.2 to 6.9 came, of 500 only 1.3, which is noise. Most of the time goes into embedding
# prompts that no cache has yet.
SHORT = SlateQConfig(steps=100, mixture=MixtureConfig(steps=100), taste=TasteConfig(steps=100))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    return load(collect(CollectionConfig(n_episodes=N_LOGGED), root=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def above_random():
    """Trains and plays test prompts: paired differences of the return to the random agent's, ``(N_PLAYED,)``."""
    envs = EnvironmentConfig(split="test", reward="dense").make(N_PLAYED, reveal=True)
    played = EvaluationConfig(n_episodes=N_PLAYED, batch_size=N_PLAYED)
    of_random = evaluate(RandomAgent(), envs, played, agent_seed=0)

    def difference(dataset):
        agent = SlateQAgent(SHORT)
        agent.train(dataset, seed=0, log=lambda metrics: None)
        scores = evaluate(agent, envs, played, agent_seed=0)
        assert scores.prompts == of_random.prompts
        return scores.returns - of_random.returns

    yield difference
    envs.close()


def interval(differences):
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    return differences.mean() - half, differences.mean() + half


def test_slateq_learns_from_logged_conversations_and_nothing_from_shuffled_rewards(logged, above_random):
    low, _ = interval(above_random(logged))
    assert low > MARGIN
    # Shuffled over conversations: all that is logged stays, but for what was worth what.
    order = np.random.default_rng(0).permutation(len(logged.rewards))
    _, high = interval(above_random(replace(logged, rewards=logged.rewards[order])))
    assert high < low
