from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.belief import FittedBelief, NoBelief, PrivilegedBelief
from agents.choice_mixture import (
    ChoiceMixture,
    TasteWeights,
    choice_log_likelihoods,
    column_features,
    in_precision,
    posterior,
    reward_log_likelihoods,
    running_posteriors,
)
from tests.agents.toy_world import ToyWorld


def test_precision_is_changed_as_numpy_does_it():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(20_000) * 10.0 ** rng.uniform(-9, 4, 20_000)).astype(np.float32)
    values.flags.writeable = False  # as memory-mapped files are
    half = in_precision(values, torch.float16)
    assert half.dtype == np.float16
    assert (half == values.astype(np.float16)).all()
    assert (in_precision(half[::3], torch.float32) == half[::3].astype(np.float32)).all()


def test_column_features_by_hand():
    # One column of two images, (3, 4) and (0, 2), unit (.6, .8) and (0, 1); initial prompt (2, 0), unit (1, 0).
    features = column_features(np.array([[[3.0, 4.0], [0.0, 2.0]]]), np.array([2.0, 0.0]))
    mean, largest, product, cosines = [0.3, 0.9], [0.6, 1.0], [0.3, 0.0], [0.3, 0.6]
    assert features == pytest.approx(np.array([mean + largest + product + cosines]), abs=1e-6)


def test_features_ignore_the_length_of_embeddings_and_the_order_of_images():
    rng = np.random.default_rng(0)
    images, prompts = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 5))
    features = column_features(images, prompts)
    assert features.shape == (2, 3, 17)
    assert column_features(7 * images[:, :, ::-1], 3 * prompts) == pytest.approx(features, abs=1e-5)


def test_features_of_turns_to_come_are_finite():
    assert np.isfinite(column_features(np.zeros((1, 2, 3, 4)), np.ones((1, 4)))).all()


def test_choice_log_likelihood_by_hand():
    # Logits 0 and log 3 under the first component, log 4 and 0 under the second; column 1 is chosen.
    utilities = np.array([[0.0, np.log(4)], [np.log(3), 0.0]]) / 2
    assert np.exp(choice_log_likelihoods(utilities, np.array(1), 2.0)) == pytest.approx([0.75, 0.2])
    assert choice_log_likelihoods(utilities, np.array(-1), 2.0).tolist() == [0.0, 0.0]


def test_reward_log_likelihood_by_hand():
    # Column 1 is chosen, worth .5 and .1; a reward of .3 is 2 standard deviations of .1 from both, .5 is 0 and 4.
    utilities = np.array([[9.0, 9.0], [0.5, 0.1]])
    assert reward_log_likelihoods(utilities, np.array(1), np.array(0.3), 0.1) == pytest.approx([-2.0, -2.0])
    assert reward_log_likelihoods(utilities, np.array(1), np.array(0.5), 0.1) == pytest.approx([0.0, -8.0])
    assert reward_log_likelihoods(utilities, np.array(1), np.array(np.nan), 0.1).tolist() == [0.0, 0.0]
    assert reward_log_likelihoods(utilities, np.array(-1), np.array(0.5), 0.1).tolist() == [0.0, 0.0]


def test_utilities_by_hand():
    # Hidden units 0 and 2; silu(0) = 0 and silu(2) = 2 / (1 + exp(-2)).
    tastes = TasteWeights(np.array([[1.0, -1.0], [1.0, 0.0]]), np.array([0.0, 1.0]), np.array([[5.0, 3.0]]), np.ones(1))
    mixture = ChoiceMixture(np.ones(1), tastes, 1.0)
    assert mixture.utilities(np.array([[1.0, 1.0]])) == pytest.approx(np.array([[1 + 6 / (1 + np.exp(-2))]]))
    assert np.isfinite(mixture.utilities(np.array([[-1e5, 0.0]]))).all()


def test_huge_utilities_stay_finite():
    logs = choice_log_likelihoods(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array(1), 1.0)
    assert logs.tolist() == [-20000.0, 0.0]
    assert posterior(np.array([0.5, 0.5]), logs).tolist() == [0.0, 1.0]


def random_mixture(rng, prior, dim, width=4):
    """A mixture with weights drawn at random, large enough for clear beliefs."""
    n_features = 3 * dim + 2
    tastes = TasteWeights(
        rng.normal(size=(width, n_features)).astype(np.float32),
        rng.normal(size=width).astype(np.float32),
        2 * rng.normal(size=(len(prior), width)).astype(np.float32),
        rng.normal(size=len(prior)).astype(np.float32),
    )
    return ChoiceMixture(prior=prior, tastes=tastes, temperature=1.5, reward_noise=0.2)


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_posterior_equals_bayes_by_brute_force(n_components, turns_played, seed):
    rng = np.random.default_rng(seed)
    dim, horizon = 3, 4
    mixture = random_mixture(rng, rng.dirichlet(np.ones(n_components)), dim)
    images, prompts = rng.normal(size=(1, horizon, 3, 2, dim)), rng.normal(size=(1, dim))
    choices = np.where(np.arange(horizon) < turns_played, rng.integers(0, 3, horizon), -1)[None]
    joint = mixture.prior.copy()
    for k in range(n_components):
        for turn in range(turns_played):
            utilities = mixture.utilities(column_features(images[0, turn], prompts[0]))[:, k]
            probabilities = np.exp(1.5 * utilities) / np.exp(1.5 * utilities).sum()
            joint[k] *= probabilities[choices[0, turn]]
    found = mixture.posterior(images, prompts, choices)[0]
    assert found == pytest.approx(joint / joint.sum(), abs=1e-4)
    if turns_played == 0:
        assert found == pytest.approx(mixture.prior)


def test_running_posteriors_start_at_the_prior_and_add_one_turn_at_a_time():
    prior, logs = np.array([0.25, 0.75]), np.log(np.array([[[0.6, 0.2], [0.5, 0.5]]]))
    # .25 * .6 : .75 * .2 is one to one; the second turn tells nothing.
    assert running_posteriors(prior, logs)[0] == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]))


def some_mixture(world, seed=0):
    return random_mixture(np.random.default_rng(seed), np.array([0.6, 0.3, 0.1]), world.embedding_dim)


class UserModelStandIn:
    """Answers like a user model: a posterior from prompts, slates and choices, -1 being no evidence."""

    def __init__(self, mixture):
        self.prior, self.mixture = mixture.prior, mixture

    def posterior(self, prompt_embeddings, slate_images, choices):
        assert prompt_embeddings.dtype == slate_images.dtype == np.float32
        return self.mixture.posterior(slate_images, prompt_embeddings, choices)


@pytest.mark.parametrize("make", [FittedBelief, lambda mixture: PrivilegedBelief(UserModelStandIn(mixture))])
def test_beliefs_of_logged_data_equal_those_of_the_observations(make):
    world = ToyWorld()
    data, belief = world.collect(5), make(some_mixture(world))
    table = belief.of_dataset(data)
    assert table.shape == (5, world.horizon + 1, 3)
    assert table.dtype == np.float32
    assert table[:, 0] == pytest.approx(np.tile([0.6, 0.3, 0.1], (5, 1)))
    for turn in range(world.horizon):
        observations = data.observations(np.arange(5), np.full(5, turn))
        assert belief.of_observations(observations) == pytest.approx(table[:, turn], abs=1e-5)
    assert np.abs(np.diff(table, axis=1)).max(axis=(0, 2)).min() > 0.01  # every turn, the last too, is evidence


def test_what_a_turn_to_come_holds_is_never_evidence():
    world = ToyWorld()
    observations = world.collect(4).observations(np.arange(4), np.ones(4, int))
    belief = FittedBelief(some_mixture(world))
    before = belief.of_observations(observations)
    changed = dict(observations, choices=np.where(observations["choices"] < 0, 2, observations["choices"]))
    assert np.array_equal(belief.of_observations(changed), before)


def test_no_belief_has_no_components():
    data = ToyWorld().collect(3)
    assert NoBelief().of_dataset(data).shape == (3, 4, 0)
    assert NoBelief().of_observations({"turn": np.zeros(3)}).shape == (3, 0)
