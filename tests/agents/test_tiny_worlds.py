"""Both learners, end to end, on a world of two turns that is small enough to be solved exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.belief import NoBelief
from agents.history import LoggedHistories
from agents.iql import IQLAgent, IQLConfig
from agents.losses import slateq_component_values
from agents.mixture_fit import MixtureConfig
from agents.prompt_taste import TasteConfig
from agents.slateq import SlateQAgent, SlateQConfig
from pasta_gym.trajectories import TrajectoryDataset
from tests.agents.test_losses import expectile

SLATES = np.array(list(itertools.combinations(range(3), 2)))
LOGITS = np.array([0.0, 1.0, -0.5])
FIRST_REWARDS = np.array([6.0, 1.0, 3.0])
LAST_REWARDS = np.array([[0.0, 4.0, 8.0], [9.0, 7.0, 1.0], [4.0, 9.0, 6.0]])
"""Utility x 10 of each item at the last turn, after each item was chosen at the first."""


def choice_probabilities():
    """``(3 slates, 2)`` under the planted multinomial logit."""
    weights = np.exp(LOGITS[SLATES])
    return weights / weights.sum(1, keepdims=True)


def tiny_dataset(n_episodes=12_000, seed=0) -> TrajectoryDataset:
    """Every prompt is its own direction; the initial prompt is the fourth. Slates are uniform."""
    rng = np.random.default_rng(seed)
    slates = rng.integers(0, 3, size=(n_episodes, 2))
    choices = (rng.random((n_episodes, 2)) < choice_probabilities()[slates][..., 1]).astype(np.int64)
    actions = SLATES[slates]
    chosen = np.take_along_axis(actions, choices[..., None], 2)[..., 0]
    prompts = 2 * np.eye(4, dtype=np.float32)
    rewards = np.stack([FIRST_REWARDS[chosen[:, 0]], LAST_REWARDS[chosen[:, 0], chosen[:, 1]]], axis=1)
    return TrajectoryDataset(
        initial_prompts=np.full(n_episodes, 3),
        initial_images=np.tile(prompts[3], (n_episodes, 1, 1)).astype(np.float16),
        candidates=np.tile(np.arange(3), (n_episodes, 2, 1)),
        categories=np.tile(np.arange(3), (n_episodes, 2, 1)),
        actions=actions,
        behaviour_probabilities=np.full((n_episodes, 2), 1 / 3),
        slate_images=prompts[actions][:, :, :, None].astype(np.float16),
        choices=choices,
        rewards=rewards,
        prompt_embeddings=prompts,
        metadata={},
    )


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


def observations_of_every_state(data):
    """The start, and the state after each first choice: ``(4, ...)``."""
    chosen = np.take_along_axis(data.actions, data.choices[..., None], 2)[:, 0, 0]
    episodes = np.array([0] + [int(np.flatnonzero(chosen == item)[0]) for item in range(3)])
    return data.observations(episodes, np.array([0, 1, 1, 1]))


def slateq_values(next_slate):
    """Item values by value iteration over the four states, ``(4, 3)``, in units of utility."""
    by_slate = (choice_probabilities() * LAST_REWARDS[:, SLATES]).sum(2)  # state after item, slate
    following = by_slate.mean(1) if next_slate == "logged" else by_slate.max(1)
    return np.concatenate([[FIRST_REWARDS + following], LAST_REWARDS]) / 10


def iql_fixed_point(form, level):
    """f ``(4, 3)`` and v ``(4,)`` at the fixed point of the stated loss, in units of utility."""
    f, v = np.zeros((4, 3)), np.zeros(4)
    for state in (1, 2, 3, 0):
        rewards = FIRST_REWARDS / 10 + v[1:] if state == 0 else LAST_REWARDS[state - 1] / 10
        y = (choice_probabilities() * rewards[SLATES]).sum(1)
        if form == "slate_mean":
            design = np.zeros((3, 3))
            np.put_along_axis(design, SLATES, 0.5, axis=1)
            f[state] = np.linalg.solve(design, y)
            v[state] = expectile(f[state][SLATES].mean(1), level)
        else:
            f[state] = [y[(item == SLATES).any(1)].mean() for item in range(3)]
            v[state] = expectile(f[state][SLATES].ravel(), level)
    return f, v


def plain_scores(agent, observations):
    """Item values and choice scores of a SlateQ with one softmax, ``(B, n)`` each."""
    scores = agent.item_scores(observations)
    return scores.values[..., 0].numpy(), scores.logits[..., 0].numpy()


SETTINGS = {
    "belief": "none",
    "history": "none",
    "steps": 500,
    "batch_size": 256,
    "width": 32,
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "target_rate": 0.05,
}


def trained(agent, data):
    agent.train(data, seed=0, log=lambda metrics: None)
    return agent


@pytest.mark.parametrize("next_slate", ["logged", "max"])
def test_slateq_learns_the_values_of_dynamic_programming_and_the_planted_choice_model(next_slate, data):
    agent = trained(
        SlateQAgent(SlateQConfig(slate_value="softmax", **SETTINGS, next_slate=next_slate, choice_weight=1.0)), data
    )
    observations = observations_of_every_state(data)
    values, logits = plain_scores(agent, observations)
    assert values == pytest.approx(slateq_values(next_slate), abs=0.04)
    assert logits - logits.mean(1, keepdims=True) == pytest.approx(np.tile(LOGITS - LOGITS.mean(), (4, 1)), abs=0.25)
    # The best slates of dynamic programming, found with the learned values and the learned choice head.
    expected = slateq_values(next_slate)
    best = SLATES[(choice_probabilities() * expected[:, SLATES]).sum(2).argmax(1)]
    slates = agent.act(observations, np.zeros(4, np.uint64))
    assert np.sort(slates, axis=1).tolist() == best.tolist()


KINDS = np.array([[0.9, 0.1, 0.4], [0.1, 0.9, 0.4]])
"""Utility of each item for two kinds of people, at both turns."""


def two_kinds_dataset(n_episodes=3000, seed=0) -> TrajectoryDataset:
    """The same prompts for two kinds of people, equally frequent, rewarded at both turns."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, n_episodes)
    actions = SLATES[rng.integers(0, 3, size=(n_episodes, 2))]
    utilities = np.take_along_axis(np.repeat(KINDS[kinds][:, None], 2, axis=1), actions, axis=2)
    choices = (4 * utilities + rng.gumbel(size=utilities.shape)).argmax(2)
    rewards = 10 * np.take_along_axis(utilities, choices[..., None], 2)[..., 0]
    base = tiny_dataset(n_episodes, seed)
    images = base.prompt_embeddings[actions][:, :, :, None].astype(np.float16)
    return replace(base, actions=actions, slate_images=images, choices=choices, rewards=rewards)


def test_the_mixture_form_learns_the_values_of_each_kind_and_the_slate_for_both():
    data = two_kinds_dataset()
    mixture = MixtureConfig(n_components=2, width=16, steps=200)
    config = SlateQConfig(
        steps=200, width=32, learning_rate=1e-2, mixture=mixture, taste=TasteConfig(width=16, steps=100)
    )
    agent = trained(SlateQAgent(config), data)
    observations = data.observations(np.array([0, 0]), np.array([0, 1]))
    scores = agent.item_scores(observations)
    # The component that values item 0 most is the first kind.
    order = [int(scores.values[0, 0].argmax()), int(scores.values[0, 1].argmax())]
    assert sorted(order) == [0, 1]
    last = scores.values[1][:, order].numpy()
    # What a kind dislikes it chooses once in 25 times, so that value is the least certain.
    assert last == pytest.approx(KINDS.T, abs=0.13)
    # A kind's choice between two items of the next, uniform, slate, worth its expected utility.
    weights = np.exp(4 * KINDS[:, SLATES])
    following = (weights / weights.sum(2, keepdims=True) * KINDS[:, SLATES]).sum(2).mean(1)
    assert scores.values[0][:, order].numpy() == pytest.approx(KINDS.T + following, abs=0.13)
    logits = scores.logits[0][:, order].numpy()
    assert logits - logits.mean(0) == pytest.approx(4 * (KINDS.T - KINDS.T.mean(0)), abs=0.6)
    # Before any choice both kinds are as likely, and the slate of everybody's favourites covers them.
    assert scores.weights[0].numpy() == pytest.approx([0.5, 0.5], abs=0.1)
    slates = agent.act(observations, np.zeros(2, np.uint64))
    assert sorted(slates[0]) == [0, 1]
    # One choice tells the kinds apart as Bayes' rule does.
    item = data.actions[0, 0, data.choices[0, 0]]
    likelihood = np.exp(4 * KINDS[:, item]) / np.exp(4 * KINDS[:, data.actions[0, 0]]).sum(1)
    assert scores.weights[1][order].numpy() == pytest.approx(likelihood / likelihood.sum(), abs=0.12)


def test_logged_and_max_targets_differ_in_this_world():
    assert np.abs(slateq_values("logged") - slateq_values("max")).max() > 0.1


@pytest.mark.parametrize("form", ["slate_mean", "per_prompt"])
def test_iql_learns_the_fixed_point_of_its_loss(form, data):
    agent = trained(IQLAgent(IQLConfig(**SETTINGS, loss=form, expectile=0.8)), data)
    f, v = iql_fixed_point(form, 0.8)
    observations = observations_of_every_state(data)
    tolerance = 0.04 if form == "per_prompt" else 0.08  # a slate's mean moves by half of what one value moves
    assert agent.prompt_values(observations) == pytest.approx(f, abs=tolerance)
    logged = LoggedHistories(data, NoBelief().of_dataset(data))
    starts = logged.histories(torch.tensor([0]), torch.tensor([0]))
    assert agent._network.v(starts).item() == pytest.approx(v[0], abs=0.04)


def test_the_two_forms_of_iql_differ_in_this_world():
    by_mean, by_prompt = (iql_fixed_point(form, 0.8)[0] for form in ("slate_mean", "per_prompt"))
    assert np.abs(by_mean - by_prompt).max() > 0.3


def test_slateq_bootstraps_on_the_next_history_and_slate_not_on_the_current_ones(data):
    """RecSim's SlateQ once took the value of the current state as the target."""
    small = data.take(np.arange(50))
    for next_slate in ("logged", "max"):
        agent = trained(
            SlateQAgent(SlateQConfig(slate_value="softmax", **SETTINGS | {"steps": 20}, next_slate=next_slate)), small
        )
        network, logged = agent._network, LoggedHistories(small, NoBelief().of_dataset(small))
        episodes = torch.arange(50)
        found = agent._next_values(network, network, logged, episodes, torch.zeros(50, dtype=torch.int64))
        following = small.observations(np.arange(50), np.ones(50, int))
        values, logits = plain_scores(agent, following)
        slates = small.actions[:, 1] if next_slate == "logged" else agent.act(following, np.zeros(50, np.uint64))
        expected = slateq_component_values(
            torch.tensor(np.take_along_axis(values, slates, 1))[..., None],
            torch.tensor(np.take_along_axis(logits, slates, 1))[..., None],
        )
        assert torch.allclose(found, expected, atol=1e-5)
        current, current_logits = plain_scores(agent, small.observations(np.arange(50), np.zeros(50, int)))
        wrong = slateq_component_values(
            torch.tensor(np.take_along_axis(current, small.actions[:, 0], 1))[..., None],
            torch.tensor(np.take_along_axis(current_logits, small.actions[:, 0], 1))[..., None],
        )
        assert not torch.allclose(found, wrong, atol=1e-2)


def test_nothing_is_worth_anything_after_the_last_turn(data):
    """With one turn of data the values are the mean rewards, whatever the networks say about what follows."""
    last_only = replace(
        data,
        candidates=data.candidates[:, :1],
        categories=data.categories[:, :1],
        actions=data.actions[:, :1],
        slate_images=data.slate_images[:, :1],
        choices=data.choices[:, :1],
        rewards=data.rewards[:, :1],
    )
    agent = trained(SlateQAgent(SlateQConfig(slate_value="softmax", **SETTINGS | {"steps": 200})), last_only)
    observations = last_only.observations(np.array([0]), np.array([0]))
    values, _ = plain_scores(agent, observations)
    assert values[0] == pytest.approx(FIRST_REWARDS / 10, abs=0.02)
