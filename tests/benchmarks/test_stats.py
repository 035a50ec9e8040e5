import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats

from benchmarks import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def test_interquartile_mean_matches_scipy_and_a_hand_case():
    values = rng().normal(size=(3, 40))
    assert_allclose(stats.interquartile_mean(values), scipy_stats.trim_mean(values, 0.25, axis=1))
    assert_allclose(stats.interquartile_mean(values.T, axis=0), scipy_stats.trim_mean(values, 0.25, axis=1))
    # Of five values the middle 2.5 count: (0.75 * 2 + 3 + 0.75 * 7) / 2.5.
    assert_allclose(stats.interquartile_mean(np.array([100.0, 2, 3, 7, -50])), (1.5 + 3 + 5.25) / 2.5)


def test_one_seed_gives_the_interval_of_the_mean():
    scores = rng().normal(3, 2, size=(1, 400))
    made = stats.mean_intervals({"a": scores}, rng(1), 2000)["a"]
    half = 1.96 * scores.std() / 20
    assert_allclose([made.low, made.high], [scores.mean() - half, scores.mean() + half], atol=0.2 * half)


def test_seeds_that_differ_widen_the_interval():
    episodes = rng().normal(size=400)
    alike, apart = np.stack([episodes] * 3), np.stack([episodes - 2, episodes, episodes + 2])
    narrow, wide = (stats.mean_intervals({"a": s}, rng(1))["a"] for s in (alike, apart))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    # The standard deviation of a mean of three drawn from -2, 0, 2 is sqrt(8/9).
    replicates = stats.bootstrap_means({"a": apart}, rng(1), 4000)["a"]
    assert_allclose(replicates.std(), np.sqrt(8 / 9 + 1 / 400), rtol=0.05)


def test_conversations_are_paired_across_agents():
    episodes = rng().normal(0, 10, size=(1, 200))
    scores = {"a": episodes, "b": np.concatenate([episodes + 1, episodes + 1])}
    gap = stats.difference_interval(scores, "b", "a", rng(2))
    assert_allclose([gap.estimate, gap.low, gap.high], 1.0)


def test_normalised_ends_have_no_width_and_the_middle_is_in_the_middle():
    base = rng().normal(size=(1, 300))
    scores = {"random": base, "clairvoyant": base + 4, "agent": np.stack([base[0] + 1, base[0] + 2, base[0] + 3])}
    made = stats.normalised_intervals(scores, rng(3))
    assert_allclose([made["random"].low, made["random"].high], 0, atol=1e-12)
    assert_allclose([made["clairvoyant"].low, made["clairvoyant"].high], 1)
    assert_allclose(made["agent"].estimate, 0.5)
    assert_allclose([made["agent"].low, made["agent"].high], [0.25, 0.75], atol=0.1)


def test_a_change_is_paired_in_conversations_and_in_seeds():
    luck = rng(0).normal(0, 3, size=(1, 100))
    noise = rng(1).normal(np.array([[-2.0], [0.0], [2.0]]), 3, size=(3, 100))
    before = {"random": luck, "agent": luck + 1 + noise, "clairvoyant": luck + 4}
    # Twice the luck, twice the scale, and half of it more: whatever is drawn, the score is 0.5 higher.
    after = {"clairvoyant": 2 * luck + 8, "agent": 2 * (luck + 1 + noise) + 4, "random": 2 * luck}
    made = stats.normalised_change_intervals(before, after, rng(2), n_replicates=300)
    assert_allclose([made["agent"].estimate, made["agent"].low, made["agent"].high], 0.5)
    assert_allclose([made["random"].high, made["clairvoyant"].low], 0, atol=1e-12)
    alone = stats.normalised_intervals(before, rng(2), n_replicates=300)["agent"]
    assert alone.high - alone.low > 0.5


def test_a_change_of_other_shapes_or_without_a_scale_is_refused():
    side = {"random": np.zeros((1, 4)), "agent": np.ones((2, 4)), "clairvoyant": np.full((1, 4), 2.0)}
    with pytest.raises(ValueError, match="both sides must have the same agents, seeds and episodes"):
        stats.normalised_change_intervals(side, {**side, "agent": np.ones((1, 4))}, rng())
    with pytest.raises(ValueError, match=r"clairvoyant \(0.000\) must be above random"):
        stats.normalised_change_intervals(side, {**side, "clairvoyant": np.zeros((1, 4))}, rng())


def test_coverage_of_the_interval_is_near_its_name():
    hits = 0
    for trial in range(100):
        truth = rng(trial)
        seeds = truth.normal(5, 0.5, size=(6, 1))
        scores = seeds + truth.normal(0, 1, size=(1, 50)) + truth.normal(0, 1, size=(6, 50))
        made = stats.mean_intervals({"a": scores}, rng(trial), 200)["a"]
        hits += made.low <= 5 <= made.high
    assert 0.82 <= hits / 100 <= 0.99


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 30))
def test_intervals_hold_the_replicates_and_do_not_depend_on_other_generators(seed, n_seeds, n_episodes):
    scores = {"a": rng(seed).normal(size=(n_seeds, n_episodes))}
    first, again = (stats.mean_intervals(scores, rng(seed), 200)["a"] for _ in range(2))
    assert first == again
    assert first.low <= first.high
    assert scores["a"].min() - 1e-9 <= first.low
    assert first.high <= scores["a"].max() + 1e-9


def test_a_mean_of_some_conversations_counts_seeds_alike():
    scores = np.array([[1.0, 2, 3, 4], [10.0, 20, 30, 40]])
    chosen = np.array([[True, True, True, False], [False, False, True, True]])
    made = stats.mean_interval_where(scores, chosen, rng(), 4000)
    assert made is None  # one of four conversations alone may be drawn
    wide, where = np.tile(scores, 20), np.tile(chosen, 20)
    made = stats.mean_interval_where(wide, where, rng(), 4000)
    assert made.estimate == pytest.approx((2 + 35) / 2)
    # Seeds: both the one, one of each, both the other.
    assert made.low == pytest.approx(2, abs=0.3)
    assert made.high == pytest.approx(35, abs=2)
    same = stats.mean_interval_where(wide[:1], where[:1], rng(), 4000)
    assert same.estimate == 2
    # A mean of about 60 values 1, 2 and 3.
    assert_allclose([same.low, same.high], [2 - 1.96 * np.sqrt(2 / 3 / 60), 2 + 1.96 * np.sqrt(2 / 3 / 60)], atol=0.03)


def test_a_seed_without_any_of_them_is_left_out():
    scores = np.array([[1.0, 3.0] * 20, [50.0, 70.0] * 20])
    chosen = np.array([[True, True] * 20, [False, False] * 20])
    assert stats.mean_interval_where(scores, chosen, rng(), 50) is None  # both draws of a seed may be of the second
    half = np.concatenate([scores, scores[:1]])
    made = stats.mean_interval_where(half[[0, 2]], chosen[[0, 0]], rng(), 50)
    assert made.estimate == 2
    with pytest.raises(ValueError, match=r"the shape of scores, \(2, 40\), got \(1, 40\)"):
        stats.mean_interval_where(scores, chosen[:1], rng())


def test_no_interval_shows_a_negative_zero():
    tiny = stats.Interval(-0.001, -0.004, 0.001)
    assert tiny.text() == "0.00 [0.00, 0.00]"
    assert tiny.text(3) == "-0.001 [-0.004, 0.001]"
    assert tiny.text(0, percent=True) == "0% [0%, 0%]"
    assert stats.Interval(0.256, 0.2, -0.004).text(1, percent=True) == "25.6% [20.0%, -0.4%]"


def test_improvement_counts_ties_half():
    assert_allclose(stats.probability_of_improvement(np.array([[1.0, 2, 3]]), np.array([[0.0, 2, 4]])), 0.5)
    better, worse = rng().normal(size=(2, 50)), rng(1).normal(size=(3, 50))
    total = stats.probability_of_improvement(better, worse) + stats.probability_of_improvement(worse, better)
    assert_allclose(total, 1.0)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="same episodes"):
        stats.bootstrap_means({"a": np.ones((1, 3)), "b": np.ones((1, 4))}, rng())
    with pytest.raises(ValueError, match="finite"):
        stats.bootstrap_means({"a": np.array([[1.0, np.nan]])}, rng())
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        stats.bootstrap_means({"a": np.ones(3)}, rng())
    with pytest.raises(ValueError, match="needs \\['clairvoyant'\\]"):
        stats.normalised_intervals({"random": np.ones((1, 3))}, rng())
    with pytest.raises(ValueError, match="must be above"):
        stats.normalised_intervals({"random": np.ones((1, 3)), "clairvoyant": np.zeros((1, 3))}, rng())
    with pytest.raises(ValueError, match="confidence"):
        stats.interval(0.0, np.zeros(3), confidence=1.0)
