import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats

from benchmarks.power import (
    LARGEST,
    Spread,
    episodes_needed,
    seed_test,
    seeds_needed,
    smallest_difference,
    spread_of,
    t_power,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def differences(draws, spread, n_seeds, n_episodes, mean=0.0):
    return (
        mean
        + draws.normal(0, np.sqrt(spread.seed), size=(n_seeds, 1))
        + draws.normal(0, np.sqrt(spread.conversation), size=(1, n_episodes))
        + draws.normal(0, np.sqrt(spread.rest), size=(n_seeds, n_episodes))
    )


def test_variances_by_hand():
    # Seeds differ by 4, conversations by 2, nothing is left.
    found = spread_of(np.array([[0.0, 2], [4, 6]]))
    assert_allclose([found.seed, found.conversation, found.rest], [8, 2, 0])
    # Only the rest: all means are equal, and the negative estimates are cut at 0.
    found = spread_of(np.array([[1.0, -1], [-1, 1]]))
    assert_allclose([found.seed, found.conversation, found.rest], [0, 0, 4])
    found = spread_of(np.array([[1.0, 3, 5]]))
    assert_allclose([found.seed, found.conversation, found.rest], [0, 4, 0])


def test_planted_variances_are_found_again():
    planted = Spread(0.5, 2.0, 3.0)
    found = [spread_of(differences(draws, planted, 6, 40)) for draws in map(rng, range(200))]
    means = np.mean([[f.seed, f.conversation, f.rest] for f in found], axis=0)
    assert_allclose(means, [0.5, 2.0, 3.0], rtol=0.1)


def test_the_variance_of_a_mean_is_what_repeats_show():
    planted = Spread(0.5, 2.0, 3.0)
    draws = rng(3)
    means = [differences(draws, planted, 4, 10).mean() for _ in range(3000)]
    assert_allclose(planted.over_both(4, 10), 0.5 / 4 + 2 / 10 + 3 / 40)
    assert_allclose(np.var(means), planted.over_both(4, 10), rtol=0.1)


def test_without_shared_luck_the_seed_test_is_the_t_test_of_the_seeds_means():
    of_seed = np.array([0.4, 1.0, 0.1, 0.9])
    repeated = np.repeat(of_seed[:, None], 6, axis=1)
    assert_allclose(seed_test(repeated), scipy_stats.ttest_1samp(of_seed, 0).pvalue)
    # Luck that seeds share widens it: four seeds of the same conversations know no more of them than one.
    lucky = repeated + 4 * np.array([1.0, -1, 1, -1, 1, -1])
    assert seed_test(lucky) > 2 * seed_test(repeated)
    assert seed_test(np.zeros((2, 3))) == 1.0
    assert seed_test(np.ones((2, 3))) == 0.0


@pytest.mark.parametrize("spread", [Spread(1, 0, 1), Spread(0.3, 4, 2)])
def test_the_seed_test_seldom_rejects_a_true_null(spread):
    draws = rng(4)
    rejected = np.mean([seed_test(differences(draws, spread, 4, 20)) <= 0.05 for _ in range(400)])
    assert rejected <= 0.08


def test_power_is_what_a_simulated_paired_t_test_shows():
    draws = rng(1)
    for size, n in ((0.5, 20), (0.3, 50), (1.5, 4)):
        luck = draws.normal(0, 3, size=(6000, n))
        worse = luck + draws.normal(0, np.sqrt(0.5), size=(6000, n))
        better = luck + size + draws.normal(0, np.sqrt(0.5), size=(6000, n))
        found = (scipy_stats.ttest_rel(better, worse, axis=1).pvalue <= 0.05).mean()
        assert_allclose(t_power(size, 1 / n, n - 1), found, atol=0.02)


@pytest.mark.parametrize(("spread", "tolerance"), [(Spread(0.5, 0, 4), 0.06), (Spread(0.4, 1.0, 4), 0.1)])
def test_power_over_seeds_is_what_the_simulated_seed_test_shows(spread, tolerance):
    n_seeds, n_episodes, size = 6, 15, 1.2
    draws = rng(2)
    trials = (differences(draws, spread, n_seeds, n_episodes, size) for _ in range(400))
    found = np.mean([seed_test(trial) <= 0.05 for trial in trials])
    assert 0.3 < found < 0.95
    assert_allclose(t_power(size, spread.over_both(n_seeds, n_episodes), n_seeds - 1), found, atol=tolerance)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_episodes_are_those_of_the_tables_for_paired_t_tests(effect, pairs):
    assert episodes_needed(effect, Spread(0, 1, 0), 1) == pairs
    # Four seeds average away what is not shared; how seeds differ does not matter to agents that stay as they are.
    assert episodes_needed(effect, Spread(7, 0.5, 2), 4) == pairs
    assert episodes_needed(-3 * effect, Spread(0, 9, 0), 1) == pairs


def test_seeds_are_those_of_the_tables_until_conversations_alone_leave_too_much():
    assert seeds_needed(0.5, Spread(0.5, 0, 50), 100) == 34
    assert seeds_needed(0.5, Spread(0.5, 1, 50), 100) > 34
    # With 100 conversations the best that any number of seeds can do is a standard error of sqrt(4 / 100).
    assert seeds_needed(0.5, Spread(0.5, 4, 50), 100) is None


def test_the_smallest_number_is_enough_and_one_less_is_not():
    spread = Spread(0.2, 3, 5)
    episodes = episodes_needed(0.3, spread, 3, power=0.9, level=0.01)
    power = [t_power(0.3, spread.over_conversations(3, n), n - 1, 0.01) for n in (episodes - 1, episodes)]
    assert power[0] < 0.9 <= power[1]
    assert episodes_needed(1.0, Spread(0, 0, 0), 1) == 2
    assert episodes_needed(1e-5, spread, 3) is None
    assert LARGEST >= episodes_needed(0.003, spread, 3) > 1e6


def test_the_smallest_difference_is_the_one_that_needs_these_episodes():
    spread = Spread(0.2, 3, 5)
    for episodes in (2, 5, 300):
        size = smallest_difference(spread, 3, episodes)
        assert episodes_needed(size * 1.001, spread, 3) == episodes
        assert episodes_needed(size * 0.9, spread, 3) > episodes
    assert smallest_difference(Spread(4, 0, 0), 3, 10) == 0.0


def test_power_is_finite_and_rises_wherever_it_is_asked():
    sizes = np.array([0.01, 0.5, 1, 3, 4.9, 5.1, 8, 20, 34, 36, 100, 1e4])
    for degrees, level in itertools.product((1, 2, 3, 10, 100, 99_999, 100_001), (0.001, 0.05)):
        found = np.array([t_power(size, 1.0, degrees, level) for size in sizes])
        assert np.isfinite(found).all()
        assert (found >= level - 1e-9).all()
        assert (found <= 1 + 1e-9).all()
        # Approximations meet where one takes over from the other.
        assert (np.diff(found) >= -1e-4).all()
    assert t_power(0, 1.0, 10) == 0.05
    assert t_power(0.1, 0.0, 10) == 1.0


@settings(max_examples=12, deadline=None)
@given(
    st.floats(0.05, 5),
    st.floats(0.01, 4),
    st.floats(0.01, 4),
    st.floats(0.01, 4),
    st.integers(1, 8),
    st.floats(1.05, 3),
)
def test_more_spread_or_a_smaller_difference_never_needs_less(size, seed, conversation, rest, seeds, factor):
    spread, wider = Spread(seed, conversation, rest), Spread(factor * seed, factor * conversation, factor * rest)
    now = episodes_needed(size, spread, seeds)
    assert episodes_needed(size, wider, seeds) >= now
    assert episodes_needed(size / factor, spread, seeds) >= now
    assert episodes_needed(size, spread, seeds + 1) <= now
    assert episodes_needed(size, spread, seeds, power=0.9) >= now
    few, many = (seeds_needed(size, spread, episodes) or np.inf for episodes in (4 * now + 4, now + 1))
    assert few <= many


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5), st.integers(2, 9), st.randoms(use_true_random=False))
def test_order_changes_no_variance_and_no_p_value(seed, n_seeds, n_episodes, shuffler):
    values = differences(rng(seed), Spread(1, 1, 1), n_seeds, n_episodes, 0.5)
    rows, columns = list(range(n_seeds)), list(range(n_episodes))
    shuffler.shuffle(rows)
    shuffler.shuffle(columns)
    moved = values[rows][:, columns]
    first, second = spread_of(values), spread_of(moved)
    assert_allclose(
        [first.seed, first.conversation, first.rest],
        [second.seed, second.conversation, second.rest],
        atol=1e-12,
    )
    assert_allclose(seed_test(values), seed_test(moved), rtol=1e-9)
    assert 0 <= seed_test(values) <= 1


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="needs two of them, got 1; train more"):
        seed_test(np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"two episodes or more, got shape \(3, 1\); evaluate more"):
        spread_of(np.ones((3, 1)))
    with pytest.raises(ValueError, match="must be finite; a run is broken"):
        spread_of(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="variances must be finite and not below 0"):
        Spread(-1, 0, 0)
    with pytest.raises(ValueError, match=r"level must be inside \(0, 1\), got 1"):
        t_power(1, 1, 3, level=1)
    with pytest.raises(ValueError, match="degrees of freedom must be 1 or more, got 0"):
        t_power(1, 1, 0)
    with pytest.raises(ValueError, match=r"power must be inside \(0, 1\), got 1.0"):
        episodes_needed(1, Spread(0, 1, 0), 1, power=1.0)
