from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

pytest.importorskip("d3rlpy")

from agents.d3rlpy_agents import D3RLPyAgent, D3RLPyConfig, d3rlpy_config
from agents.iql import IQLAgent, IQLConfig
from agents.observation_rows import LoggedRows, rows_of_observations
from benchmarks.pages import REPOSITORY
from pasta_gym.seeding import mix
from tests.agents.contract import check_learner
from tests.agents.toy_world import ToyWorld

ALGORITHMS = ["iql", "cql", "td3bc", "bc", "dcql"]
FEW = {"steps": 4, "batch_size": 8, "width": 8, "log_every": 2}


def settings_of(algorithm, **changed):
    own = {"cql": {"n_action_samples": 2}, "dcql": {"target_update_interval": 20}}.get(algorithm, {})
    return D3RLPyConfig(**{"algorithm": algorithm, "settings": own, **FEW, **changed})


@pytest.fixture(scope="module")
def data():
    return ToyWorld().collect(20)


def some_observations(data):
    return data.observations(np.arange(5), np.array([0, 1, 2, 1, 0])), mix(np.arange(5), 9)


@pytest.mark.parametrize("observation", ["summary", "flat"])
def test_rows_of_logged_turns_are_those_of_their_observations(data, observation):
    episodes, turns = np.arange(6), np.array([0, 1, 2, 0, 1, 2])
    seen = rows_of_observations(data.observations(episodes, turns), observation)
    np.testing.assert_allclose(LoggedRows(data, observation).rows(episodes, turns), seen, atol=1e-5)
    assert seen.shape[1] == (157 if observation == "summary" else len(flat_numbers(data)))


def flat_numbers(data):
    one = data.observations(np.array([0]), np.array([0]))
    return np.concatenate([np.ravel(value) for value in one.values()])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_meets_the_contract_of_learners(data, tmp_path, algorithm):
    observations, seeds = some_observations(data)
    check_learner(lambda: D3RLPyAgent(settings_of(algorithm)), data, tmp_path, observations, seeds)
    assert {path.name for path in tmp_path.iterdir()} == {"agent.safetensors", "agent.json"}


def test_every_metric_is_on_the_page_and_no_other(data):
    logged = set()
    for algorithm in ALGORITHMS:
        D3RLPyAgent(settings_of(algorithm)).train(data, seed=0, log=logged.update)
    section = (REPOSITORY / "docs" / "agents" / "d3rlpy.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    assert logged == set(re.findall(r"`(step|(?:d3rlpy|slate)/\w+)`", section))


def weights(agent):
    return torch.cat([value.flatten().float() for value in agent._modules().state_dict().values()])


@pytest.mark.parametrize("algorithm", ["cql", "dcql"])
def test_the_seed_alone_fixes_every_weight(data, algorithm):
    def trained(seed):
        agent = D3RLPyAgent(settings_of(algorithm))
        agent.train(data, seed=seed, log=lambda metrics: None)
        return weights(agent)

    first = trained(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        torch.rand(7)
        state = torch.random.get_rng_state()
        assert torch.equal(trained(3), first)
        assert torch.equal(torch.random.get_rng_state(), state), "torch's generator is given back as it was"
    assert not torch.equal(trained(4), first)


def paying(data, *, candidate, slates=None):
    """The same conversations, in which a turn pays 10 when its slate holds one candidate."""
    data = data if slates is None else replace(data, actions=slates)
    return replace(data, rewards=10.0 * (data.actions == candidate).any(axis=2))


def share_showing(agent, data, candidate):
    episodes = np.arange(len(data))
    slates = agent.act(data.observations(episodes, np.zeros(len(data), np.int64)), mix(episodes, 0))
    return float((slates == candidate).any(axis=1).mean())


def in_few_contexts(data, n):
    """The same slates, shown in ``n`` conversations over and over: in contexts that are met once, V is memorised."""
    context = np.arange(len(data)) % n
    return replace(
        data,
        initial_prompts=data.initial_prompts[context],
        initial_images=data.initial_images[context],
        candidates=data.candidates[context],
    )


@pytest.mark.parametrize(
    ("algorithm", "own"),
    [
        ("iql", {"weight_temp": 10.0, "tau": 0.05}),
        ("cql", {"n_action_samples": 2, "conservative_weight": 0.5, "tau": 0.05, "initial_temperature": 0.01}),
        ("td3bc", {"alpha": 10.0, "tau": 0.05}),
        ("dcql", {"target_update_interval": 20, "alpha": 0.1}),
    ],
)
def test_the_candidate_that_pays_is_shown_more_often_than_by_chance(algorithm, own):
    world = ToyWorld(n_categories=4, per_category=2, slate_size=2, horizon=1)
    data = in_few_contexts(paying(world.collect(400, seed=1), candidate=5), 8)
    assert 0.15 < (data.actions == 5).any(axis=2).mean() < 0.35  # one of eight candidates, two places
    config = settings_of(algorithm, steps=200, log_every=200, batch_size=32, width=16, learning_rate=3e-3, settings=own)
    agent = D3RLPyAgent(config)
    agent.train(data, seed=0, log=lambda metrics: None)
    assert share_showing(agent, data.take(np.arange(8)), 5) > 0.7


def test_cloning_shows_what_was_logged_whatever_it_paid():
    world = ToyWorld(n_categories=4, per_category=2, slate_size=2, horizon=1)
    random = world.collect(100, seed=1)
    data = paying(random, candidate=0, slates=np.broadcast_to(np.array([3, 6]), random.actions.shape).copy())
    agent = D3RLPyAgent(settings_of("bc", steps=100, batch_size=32, learning_rate=3e-3))
    logs = []
    agent.train(data, seed=0, log=logs.append)
    assert logs[-1]["slate/overlap_with_logged"] == 1.0
    assert share_showing(agent, world.collect(50, seed=2), 6) == 1.0
    assert share_showing(agent, world.collect(50, seed=2), 0) == 0.0


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"algorithm must be one of .*'dcql'.*got 'sac'"):
        D3RLPyConfig(algorithm="sac")
    with pytest.raises(ValueError, match=r"discount must lie in \(0, 1\], got 1.5"):
        D3RLPyConfig(discount=1.5)
    with pytest.raises(ValueError, match=r"observation must be one of .*got 'pixels'"):
        D3RLPyConfig(observation="pixels")
    for settings in ({"weight_tmp": 3.0}, {"batch_size": 3}, {"actor_learning_rate": 1.0}):
        with pytest.raises(ValueError, match=r"settings of iql must be among .*'expectile'.*got"):
            d3rlpy_config(D3RLPyConfig(settings=settings))


def test_settings_reach_the_algorithm():
    made = d3rlpy_config(D3RLPyConfig(algorithm="td3bc", learning_rate=0.01, discount=0.5, settings={"alpha": 7.0}))
    assert (made.alpha, made.gamma, made.actor_learning_rate, made.critic_learning_rate) == (7.0, 0.5, 0.01, 0.01)
    assert made.actor_encoder_factory.hidden_units == [256, 256]


def test_a_foreign_or_broken_file_is_never_loaded(data, tmp_path):
    agent = D3RLPyAgent(settings_of("bc"))
    with pytest.raises(ValueError, match="is not trained"):
        agent.save(tmp_path / "untrained")
    agent.train(data, seed=0, log=lambda metrics: None)
    (tmp_path / "own").mkdir()
    agent._algorithm.save(str(tmp_path / "own" / "model.d3"))
    with pytest.raises(ValueError, match=r"agent.json does not exist"):
        D3RLPyAgent.load(tmp_path / "own")
    other = IQLAgent(IQLConfig(steps=1, belief="none"))
    other.train(data, seed=0, log=lambda metrics: None)
    other.save(tmp_path / "iql")
    with pytest.raises(ValueError, match="holds a 'iql' agent, expected 'd3rlpy'"):
        D3RLPyAgent.load(tmp_path / "iql")
    agent.save(tmp_path / "mine")
    card = json.loads((tmp_path / "mine" / "agent.json").read_text())
    card["sizes"]["row"] += 1
    (tmp_path / "mine" / "agent.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="lacks the statistics of 158 numbers"):
        D3RLPyAgent.load(tmp_path / "mine")


def test_another_size_of_slate_is_refused(data):
    agent = D3RLPyAgent(settings_of("bc"))
    agent.train(data, seed=0, log=lambda metrics: None)
    other = ToyWorld(slate_size=2).collect(3)
    with pytest.raises(ValueError, match="trained with slate_size 3, got 2"):
        agent.act(other.observations(np.arange(3), np.zeros(3, np.int64)), mix(np.arange(3), 1))


def test_a_diverged_agent_says_so(data):
    agent = D3RLPyAgent(settings_of("bc"))
    agent.train(data, seed=0, log=lambda metrics: None)
    with torch.no_grad():
        next(agent._modules().parameters()).fill_(float("nan"))
    observations, seeds = some_observations(data)
    with pytest.raises(ValueError, match="d3rlpy_bc diverged"):
        agent.act(observations, seeds)
    assert_array_equal(observations["turn"], [0, 1, 2, 1, 0])
