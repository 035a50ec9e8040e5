from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from agents.choice_mixture import ChoiceMixture, posterior
from agents.mixture_fit import MixtureConfig, fit_choice_mixture, logged_rewards

NOISE = 0.02
NOTHING = np.full((1, 1), np.nan)


def planted(n_episodes, seed, n_turns=6, slate_size=4):
    """Choices and rewards of three kinds of people with unequal shares and different tastes over random features."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.5, 0.3, 0.2])
    tastes = 0.4 * np.array([[1, 0, 0, 0.5], [-1, 0, 1, 0], [0, -1.5, 0, -0.5]])
    kinds = rng.choice(3, size=n_episodes, p=shares)
    # Scales differ by feature, and a feature that never varies within a slate must do no harm.
    features = rng.normal(size=(n_episodes, n_turns, slate_size, 5)) * np.array([1, 1, 1, 1, 0])
    of_kinds = np.einsum("ntlf,kf->ntlk", features[..., :4], tastes)
    utilities = np.take_along_axis(of_kinds, kinds[:, None, None, None], 3)[..., 0]
    choices = (5 * utilities + rng.gumbel(size=utilities.shape)).argmax(-1)
    rewards = np.take_along_axis(utilities, choices[..., None], 2)[..., 0] + NOISE * rng.normal(size=choices.shape)
    features[..., :4] *= np.array([1.0, 10.0, 0.1, 1.0])
    return features.astype(np.float32), choices, rewards, kinds, of_kinds


def fit(n_episodes, rewarded, seed=1, **settings):
    features, choices, rewards, *_ = planted(n_episodes, seed=0)
    known = np.where(np.isin(np.arange(6), rewarded), rewards, np.nan)
    config = MixtureConfig(**{"n_components": 3, "width": 16, "steps": 300, **settings})
    return fit_choice_mixture(features, choices, known, config, seed=seed)


@pytest.fixture(scope="module")
def by_choices():
    return fit(2500, rewarded=[], restarts=2)


@pytest.fixture(scope="module")
def by_last_reward():
    return fit(2500, rewarded=[5])


def best_match(mixture: ChoiceMixture, features, of_kinds):
    """Order of the components in which their utilities, within slates, agree best with the planted ones; how well."""
    found = mixture.utilities(features)

    def within(columns):
        return (columns - columns.mean(2, keepdims=True)).reshape(-1, columns.shape[-1])

    agreement = np.corrcoef(within(found).T, within(of_kinds).T)[:3, 3:]
    order = max(itertools.permutations(range(3)), key=lambda p: agreement[list(p), range(3)].sum())
    return list(order), agreement[list(order), range(3)]


@pytest.mark.parametrize("name", ["by_choices", "by_last_reward"])
def test_planted_tastes_and_their_unequal_shares_are_recovered(name, request):
    mixture = request.getfixturevalue(name).mixture
    features, choices, _, kinds, of_kinds = planted(800, seed=77)
    order, agreement = best_match(mixture, features, of_kinds)
    assert agreement.min() > 0.9
    assert mixture.prior[order] == pytest.approx([0.5, 0.3, 0.2], abs=0.06)
    nothing = np.broadcast_to(NOTHING, choices.shape)
    belief = mixture.responsibilities(mixture.utilities(features), choices, nothing)
    assert (belief[:, order].argmax(1) == kinds).mean() > 0.9


def test_rewards_say_what_a_column_is_worth_and_sharpen_responsibilities(by_last_reward):
    mixture = by_last_reward.mixture
    features, choices, rewards, kinds, of_kinds = planted(400, seed=78)
    order, _ = best_match(mixture, features, of_kinds)
    utilities = mixture.utilities(features)
    assert np.abs(utilities[..., order] - of_kinds).mean() < 0.1
    assert mixture.temperature == pytest.approx(5.0, rel=0.2)
    first = np.where(np.arange(6) < 1, choices, -1)
    nothing = np.broadcast_to(NOTHING, choices.shape)
    by_choice = mixture.responsibilities(utilities, first, nothing)[:, order]
    by_both = mixture.responsibilities(utilities, first, np.where(first >= 0, rewards, np.nan))[:, order]
    rows = np.arange(400)
    assert by_both[rows, kinds].mean() > by_choice[rows, kinds].mean() + 0.1


def test_the_mixture_predicts_held_out_choices_better_with_the_history_than_without_and_that_better_than_guessing(
    by_choices,
):
    assert by_choices.uniform_log_likelihood == pytest.approx(-np.log(4))
    assert by_choices.memoryless_log_likelihood > by_choices.uniform_log_likelihood + 0.05
    assert by_choices.held_out_log_likelihood > by_choices.memoryless_log_likelihood + 0.15


def test_the_same_seed_gives_the_same_fit_and_another_seed_another():
    first, again, other = (fit(100, [5], seed=seed, steps=10).mixture for seed in (4, 4, 5))
    assert np.array_equal(first.tastes.weights, again.tastes.weights)
    assert not np.array_equal(first.tastes.weights, other.tastes.weights)


def test_one_component_and_missing_choices_are_fine():
    features, choices, rewards, *_ = planted(100, seed=3)
    choices[:, 3:] = -1
    fitted = fit_choice_mixture(features, choices, rewards, MixtureConfig(n_components=1, steps=30), seed=0)
    assert fitted.mixture.prior.tolist() == [1.0]
    assert fitted.held_out_log_likelihood == pytest.approx(fitted.memoryless_log_likelihood)
    alone = posterior(fitted.mixture.prior, np.zeros((2, 1)))
    assert alone.tolist() == [[1.0], [1.0]]


def test_what_is_written_at_a_turn_without_choice_is_no_evidence():
    features, choices, rewards, *_ = planted(60, seed=3)
    choices[:, 3:] = -1
    config = MixtureConfig(n_components=2, steps=10)
    spoilt = np.where(np.arange(6) < 3, rewards, 1e3)
    rewards = np.where(np.arange(6) < 3, rewards, np.nan)
    fits = []
    for known in (rewards, spoilt):
        # The start reads the rewards' mean and spread, so compare responsibilities and not fits.
        mixture = fit_choice_mixture(features, choices, rewards, config, seed=0).mixture
        fits.append(mixture.responsibilities(mixture.utilities(features), choices, known))
    assert np.array_equal(*fits)


def test_a_turn_that_is_never_rewarded_is_no_evidence():
    sparse = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    found = logged_rewards(sparse, MixtureConfig(reward_scale=0.5))
    assert np.isnan(found[:, :2]).all()
    assert found[:, 2].tolist() == [2.0, 0.0]
    assert np.isnan(logged_rewards(sparse, MixtureConfig(use_rewards=False))).all()


def test_too_few_conversations_are_refused():
    features, choices, rewards, *_ = planted(9, seed=3)
    with pytest.raises(ValueError, match="at least 10 conversations, got 9"):
        fit_choice_mixture(features, choices, rewards, MixtureConfig(), seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_components": 0}, "n_components must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"held_out": 1.0}, r"between 0 and 1, got 1\.0"),
        ({"reward_scale": 0.0}, r"reward_scale must be above 0, got 0\.0"),
    ],
)
def test_bad_mixture_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(MixtureConfig(), **setting)
