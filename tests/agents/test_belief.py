from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.belief import FittedBelief, NoBelief, PrivilegedBelief
from agents.choice_mixture import (
    ChoiceMixture,
    MixtureConfig,
    choice_log_likelihoods,
    column_features,
    fit_choice_mixture,
    posterior,
    running_posteriors,
)
from tests.agents.toy_world import ToyWorld


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
    # Utilities 0 and log 3 under the first component, log 4 and 0 under the second; column 1 is chosen.
    features, weights = np.array([[0.0, np.log(4)], [np.log(3), 0.0]]), np.eye(2)
    assert np.exp(choice_log_likelihoods(features, np.array(1), weights)) == pytest.approx([0.75, 0.2])
    assert choice_log_likelihoods(features, np.array(-1), weights).tolist() == [0.0, 0.0]


def test_huge_utilities_stay_finite():
    logs = choice_log_likelihoods(np.array([[1e4], [-1e4]]), np.array(1), np.array([[1.0], [-1.0]]))
    assert logs.tolist() == [-20000.0, 0.0]
    assert posterior(np.array([0.5, 0.5]), logs).tolist() == [0.0, 1.0]


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_posterior_equals_bayes_by_brute_force(n_components, turns_played, seed):
    rng = np.random.default_rng(seed)
    dim, horizon = 3, 4
    mixture = ChoiceMixture(
        prior=rng.dirichlet(np.ones(n_components)), weights=rng.normal(size=(n_components, 3 * dim + 2))
    )
    images, prompts = rng.normal(size=(1, horizon, 3, 2, dim)), rng.normal(size=(1, dim))
    choices = np.where(np.arange(horizon) < turns_played, rng.integers(0, 3, horizon), -1)[None]
    joint = mixture.prior.copy()
    for k in range(n_components):
        for turn in range(turns_played):
            utilities = column_features(images[0, turn], prompts[0]) @ mixture.weights[k]
            probabilities = np.exp(utilities) / np.exp(utilities).sum()
            joint[k] *= probabilities[choices[0, turn]]
    found = mixture.posterior(images, prompts, choices)[0]
    assert found == pytest.approx(joint / joint.sum(), abs=1e-5)
    if turns_played == 0:
        assert found == pytest.approx(mixture.prior)


def test_running_posteriors_start_at_the_prior_and_add_one_turn_at_a_time():
    prior, logs = np.array([0.25, 0.75]), np.log(np.array([[[0.6, 0.2], [0.5, 0.5]]]))
    # .25 * .6 : .75 * .2 is one to one; the second turn tells nothing.
    assert running_posteriors(prior, logs)[0] == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]))


def planted(n_episodes, seed, n_turns=6, slate_size=4):
    """Choices of three kinds of people with unequal shares and opposite tastes over random features."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.5, 0.3, 0.2])
    weights = 2.0 * np.array([[1, 0, 0, 0.5], [-1, 0, 1, 0], [0, -1.5, 0, -0.5]])
    kinds = rng.choice(3, size=n_episodes, p=shares)
    # Scales differ by feature, and a feature that never varies within a slate must do no harm.
    features = rng.normal(size=(n_episodes, n_turns, slate_size, 5)) * np.array([1, 1, 1, 1, 0])
    utilities = np.einsum("ntlf,nf->ntl", features[..., :4], weights[kinds])
    choices = (utilities + rng.gumbel(size=utilities.shape)).argmax(-1)
    features[..., :4] *= np.array([1.0, 10.0, 0.1, 1.0])
    return features.astype(np.float32), choices, kinds, shares, weights / np.array([1.0, 10.0, 0.1, 1.0])


@pytest.fixture(scope="module")
def planted_fit():
    features, choices, *_ = planted(2500, seed=0)
    return fit_choice_mixture(features, choices, MixtureConfig(n_components=3, steps=200, restarts=2), seed=1)


def test_em_recovers_planted_components_and_their_unequal_shares(planted_fit):
    features, choices, kinds, shares, weights = planted(1500, seed=77)
    found = planted_fit.mixture
    distance = np.abs((found.weights[:, None, :4] - weights) * np.array([1.0, 10.0, 0.1, 1.0])).max(-1)
    match = distance.argmin(axis=0)
    assert sorted(match) == [0, 1, 2]
    assert distance[match, [0, 1, 2]].max() < 0.6
    assert found.prior[match] == pytest.approx(shares, abs=0.06)
    belief = posterior(found.prior, choice_log_likelihoods(features, choices, found.weights).sum(1))
    assert (belief[:, match].argmax(1) == kinds).mean() > 0.9


def test_the_mixture_predicts_held_out_choices_better_than_one_taste_and_that_better_than_guessing(planted_fit):
    assert planted_fit.uniform_log_likelihood == pytest.approx(-np.log(4))
    assert planted_fit.pooled_log_likelihood > planted_fit.uniform_log_likelihood + 0.02
    assert planted_fit.held_out_log_likelihood > planted_fit.pooled_log_likelihood + 0.15


def test_the_same_seed_gives_the_same_fit_and_another_seed_another():
    features, choices, *_ = planted(200, seed=3)
    config = MixtureConfig(n_components=2, steps=20, restarts=1)
    first, again, other = (fit_choice_mixture(features, choices, config, seed=seed).mixture for seed in (4, 4, 5))
    assert np.array_equal(first.weights, again.weights)
    assert not np.array_equal(first.weights, other.weights)


def test_one_component_and_missing_choices_are_fine():
    features, choices, *_ = planted(100, seed=3)
    choices[:, 3:] = -1
    fit = fit_choice_mixture(features, choices, MixtureConfig(n_components=1, steps=30), seed=0)
    assert fit.mixture.prior.tolist() == [1.0]
    assert fit.held_out_log_likelihood == fit.pooled_log_likelihood


def test_too_few_conversations_are_refused():
    features, choices, *_ = planted(9, seed=3)
    with pytest.raises(ValueError, match="at least 10 conversations, got 9"):
        fit_choice_mixture(features, choices, MixtureConfig(), seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_components": 0}, "n_components must be at least 1, got 0"),
        ({"held_out": 1.0}, r"between 0 and 1, got 1\.0"),
        ({"prior_rate": 0.0}, r"\(0, 1\], got 0\.0"),
    ],
)
def test_bad_mixture_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        MixtureConfig(**setting)


def some_mixture(world, seed=0):
    rng = np.random.default_rng(seed)
    weights = 2 * rng.normal(size=(3, 3 * world.embedding_dim + 2)).astype(np.float32)
    return ChoiceMixture(prior=np.array([0.6, 0.3, 0.1]), weights=weights)


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
