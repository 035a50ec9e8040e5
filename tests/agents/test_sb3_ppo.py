from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

pytest.importorskip("stable_baselines3")

from agents.sb3_ppo import PPOAgent, PPOConfig
from benchmarks.pages import REPOSITORY
from pasta_gym.seeding import integers, mix
from pasta_gym.trajectories import EnvironmentConfig
from tests.agents.contract import check_learner
from tests.agents.toy_world import ToyWorld

ENVIRONMENT = EnvironmentConfig(n_candidates=8, n_categories=4, slate_size=2, images_per_prompt=2, horizon=2)
FEW = {"n_turns": 64, "n_envs": 8, "conversations_per_update": 2, "batch_size": 16, "n_epochs": 2, "width": 8}
WORLD = ToyWorld(n_categories=4, per_category=2, slate_size=2, horizon=2)


class PayingEnvironment:
    """Conversations of the toy world's shape, in which a turn pays 10 when its slate holds candidate 5."""

    def __init__(self, n_envs):
        self.num_envs = n_envs
        self.config = SimpleNamespace(n_candidates=8, slate_size=2)
        self.data = WORLD.collect(64)
        self.seeds, self.turns_played, self.closed = [], 0, False

    def reset(self, *, seed):
        self.seeds.append(seed)
        self.turn = 0
        self.episodes = integers(mix(seed + np.arange(self.num_envs), 3), len(self.data))
        return self._observations(), {}

    def step(self, slates):
        self.turn += 1
        self.turns_played += self.num_envs
        ends = np.full(self.num_envs, self.turn == 2)
        observations = self._observations()
        return observations, 10.0 * (slates == 5).any(axis=1), ends, np.zeros(self.num_envs, bool), {}

    def _observations(self):
        turn = min(self.turn, 1)  # what follows the last turn is not stored
        return self.data.observations(self.episodes, np.full(self.num_envs, turn))

    def close(self):
        self.closed = True


@pytest.fixture
def made(monkeypatch):
    """Every environment that was made, with its configuration."""
    made = []

    def make(self, n_envs, **named):
        made.append((self, PayingEnvironment(n_envs)))
        return made[-1][1]

    monkeypatch.setattr(EnvironmentConfig, "make", make)
    return made


def test_ppo_meets_the_contract_of_learners(made, tmp_path):
    data = WORLD.collect(6)
    observations = data.observations(np.arange(5), np.array([0, 1, 0, 1, 1]))
    config = PPOConfig(environment=ENVIRONMENT, **FEW)
    check_learner(lambda: PPOAgent(config), None, tmp_path, observations, mix(np.arange(5), 9))
    assert {path.name for path in tmp_path.iterdir()} == {"agent.safetensors", "agent.json"}
    with pytest.raises(ValueError, match="trained with n_candidates 8, got 12"):
        PPOAgent.load(tmp_path).scores(ToyWorld(slate_size=2).collect(2).observations(np.arange(2), np.zeros(2, int)))


def trained(seed, **changed):
    logs = []
    agent = PPOAgent(PPOConfig(environment=ENVIRONMENT, reward="dense", **{**FEW, **changed}))
    agent.train(None, seed=seed, log=logs.append)
    return agent, logs


def test_the_seed_alone_fixes_what_is_learned_and_met(made):
    def weights(agent):
        return torch.cat([tensor.flatten() for tensor in agent._policy.state_dict().values()])

    first, _ = trained(3)
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the global generator must be left alone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        state = torch.random.get_rng_state()
        again, _ = trained(3)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert torch.equal(weights(again), weights(first))
    assert not torch.equal(weights(trained(4)[0]), weights(first))
    seeds = [environment.seeds for _, environment in made]
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


def test_it_plays_the_stated_turns_with_training_prompts_and_closes_what_it_made(made):
    _, logs = trained(0)
    ((config, environment),) = made
    assert (config.split, config.reward, environment.closed) == ("train", "dense", True)
    assert environment.turns_played == 64 + 16  # and one round of random slates
    assert logs[-1]["step"] == 64
    page = (REPOSITORY / "docs" / "agents" / "sb3.md").read_text().split("\n## Metrics\n")[1]
    assert set().union(*logs) == set(re.findall(r"`(step|ppo/\w+)`", page))


def test_the_candidate_that_pays_is_shown_more_often_than_by_chance(made):
    agent, _ = trained(0, n_turns=4000, n_envs=32, batch_size=64, n_epochs=4, learning_rate=3e-3, width=16)
    data = WORLD.collect(100, seed=2)
    slates = agent.act(data.observations(np.arange(100), np.zeros(100, np.int64)), mix(np.arange(100), 0))
    assert (slates == 5).any(axis=1).mean() > 0.5  # 0.25 by chance


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"environment\.split must be 'train', got 'test'"):
        PPOConfig(environment=EnvironmentConfig(split="test"))
    with pytest.raises(ValueError, match="n_turns must be at least 1, got 0"):
        PPOConfig(n_turns=0)
    with pytest.raises(ValueError, match="reward must be one of"):
        PPOConfig(reward="late")
    with pytest.raises(ValueError, match="is not trained"):
        PPOAgent().save("nowhere")
