import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats as scipy_stats

from benchmarks import stats
from benchmarks.aggregates import (
    AGGREGATES,
    Stratum,
    aggregate_intervals,
    as_played,
    has_scale,
    improvement_in_conversations,
    improvement_of_runs,
    normalised_runs,
    optimality_gap,
    pooled,
    resample,
    run_means,
    share_higher,
)
from benchmarks.stats import interquartile_mean


def rng(seed=0):
    return np.random.default_rng(seed)


def stratum(name="sparse", conversations="mini", **scores):
    return Stratum(name, {agent: np.array(values, dtype=float) for agent, values in scores.items()}, conversations)


def noisy(seed, *, n_seeds=3, n_episodes=12, shift=1.0, name="sparse", conversations="mini"):
    draws = rng(seed)
    luck = draws.normal(size=(1, n_episodes))
    return stratum(
        name,
        conversations,
        random=luck + 0.3 * draws.normal(size=(2, n_episodes)),
        learner=luck + shift + draws.normal(size=(n_seeds, n_episodes)),
        clairvoyant=luck + 9,
    )


def test_runs_are_put_on_the_scale_of_their_stratum():
    small = stratum(random=[[1, 3]], learner=[[3, 5], [2, 4]], clairvoyant=[[5, 7]])
    large = stratum("dense", random=[[10, 10]], learner=[[30, 50], [10, 10]], clairvoyant=[[60, 60]])
    runs = normalised_runs([small, large], as_played([small, large]))
    assert_allclose(runs["learner"][0], [[0.5, 0.25]])
    assert_allclose(runs["learner"][1], [[0.6, 0.0]])
    assert_allclose(pooled(runs["learner"]), [[0.5, 0.25, 0.6, 0.0]])
    assert_allclose([*runs["random"][1], *runs["clairvoyant"][0]], [[0], [1]])


def test_an_agent_that_a_stratum_lacks_has_no_runs():
    with_it = stratum(random=[[0, 1]], learner=[[1, 1]], clairvoyant=[[2, 2]])
    without = stratum("dense", random=[[0, 1]], clairvoyant=[[2, 2]])
    assert set(normalised_runs([with_it, without], as_played([with_it, without]))) == {"random", "clairvoyant"}


def test_the_bootstrap_over_seeds_and_strata_is_scipys():
    """One conversation, so that seeds alone are resampled, each stratum within itself as scipy does its samples."""
    first, second = rng(1).normal(0.3, 0.1, size=7), rng(2).normal(0.6, 0.2, size=9)
    ends = {"random": [[0]], "clairvoyant": [[1]]}
    strata = [stratum(learner=first[:, None], **ends), stratum("dense", learner=second[:, None], **ends)]
    for statistic in AGGREGATES.values():
        now, drawn = (normalised_runs(strata, some) for some in (as_played(strata), resample(strata, rng(3), 9999)))
        ours = aggregate_intervals(now, drawn, statistic)["learner"]
        theirs = scipy_stats.bootstrap(
            (first, second),
            lambda *parts, axis=-1, use=statistic: use(np.concatenate(parts, axis=-1)),
            method="percentile",
            n_resamples=9999,
            rng=rng(4),
        ).confidence_interval
        assert_allclose(ours.estimate, statistic(np.concatenate([first, second])))
        assert_allclose([ours.low, ours.high], theirs, atol=0.006)
        assert ours.high - ours.low > 0.08


def test_the_bootstrap_over_conversations_is_scipys():
    """One seed and fixed ends: the paired difference of two agents, resampled over conversations alone."""
    luck = rng(0).normal(0, 3, size=80)
    scores = {"a": luck + rng(1).normal(1, 1, size=80), "b": luck}
    both = stratum(a=[scores["a"]], b=[scores["b"]])
    [draw] = resample([both], rng(2), 9999)
    ours = np.subtract(*(run_means(both.scores[name], draw, name)[:, 0] for name in "ab"))
    theirs = scipy_stats.bootstrap(
        (scores["a"], scores["b"]),
        lambda a, b, axis=-1: (a - b).mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=rng(3),
    ).confidence_interval
    assert_allclose(np.quantile(ours, [0.025, 0.975]), theirs, atol=0.02)


def test_strata_are_resampled_within_themselves():
    """Each stratum is constant, the two are far apart: a resample that mixed them would move the mean."""
    strata = [
        stratum(name, random=[[0]] * 2, learner=[[value]] * 4, clairvoyant=[[1]])
        for name, value in (("sparse", 0.1), ("dense", 0.9))
    ]
    runs = pooled(normalised_runs(strata, resample(strata, rng(), 200))["learner"])
    assert_allclose(runs.mean(axis=1), 0.5)


def test_strata_with_the_same_conversations_share_their_luck():
    luck = rng(1).normal(size=(1, 40))
    one, other = stratum(learner=luck), stratum("dense", learner=-luck)
    apart = stratum("dense", "mini_2", learner=-luck)

    def total(*strata):
        draws = resample(strata, rng(2), 300)
        return sum(run_means(s.scores["learner"], d, "learner") for s, d in zip(strata, draws, strict=True))

    assert_allclose(total(one, other), 0, atol=1e-12)
    assert total(one, apart).std() > 0.1


def test_every_resample_holds_as_many_conversations_and_known_seeds():
    made = noisy(0)
    [draw] = resample([made], rng(1), 50)
    assert_allclose(draw.times.sum(axis=1), made.n_episodes)
    assert {agent: rows.shape for agent, rows in draw.rows.items()} == {
        "random": (50, 2),
        "learner": (50, 3),
        "clairvoyant": (50, 1),
    }
    assert set(np.unique(draw.rows["learner"])) == {0, 1, 2}
    assert_array_equal(draw.first(3).times, draw.times[:3])
    assert_array_equal(draw.first(3).rows["random"], draw.rows["random"][:3])


def test_the_optimality_gap_does_not_reward_what_lies_above_the_target():
    assert_allclose(optimality_gap(np.array([0.5, 1.5, 0.9])), (0.5 + 0 + 0.1) / 3)
    assert_allclose(optimality_gap(np.array([[0.5, 2.0], [1.0, 3.0]]), target=2, axis=0), [1.25, 0.0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_the_share_of_higher_pairs_is_mann_and_whitneys_u(better, worse):
    u = scipy_stats.mannwhitneyu(better, worse).statistic
    share = share_higher(np.array(better, dtype=float), np.array(worse, dtype=float))
    assert_allclose(share, u / (len(better) * len(worse)))
    assert 0 <= share <= 1
    assert_allclose(share + share_higher(np.array(worse, dtype=float), np.array(better, dtype=float)), 1)


def test_improvement_of_runs_is_the_mean_over_strata():
    better, worse = [np.array([[1.0, 3]]), np.array([[0.0]])], [np.array([[2.0]]), np.array([[0.0, 1]])]
    assert_allclose(improvement_of_runs(better, worse), [(0.5 + 0.25) / 2])


def test_improvement_in_conversations_is_that_of_pairs_and_its_resamples_are_counted_right():
    made = noisy(5, n_episodes=9)
    ours, theirs = made.scores["learner"], made.scores["random"]
    played = improvement_in_conversations([made], as_played([made]), "learner", "random")
    assert_allclose(played, stats.probability_of_improvement(ours, theirs))
    draws = resample([made], rng(1), 7)
    found = improvement_in_conversations([made], draws, "learner", "random")
    for replicate in range(7):
        total = 0.0
        for i in draws[0].rows["learner"][replicate]:
            for j in draws[0].rows["random"][replicate]:
                gap = ours[i] - theirs[j]
                total += draws[0].times[replicate] @ ((gap > 0) + 0.5 * (gap == 0)) / 9
        assert_allclose(found[replicate], total / 6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_conversations_and_seeds_changes_no_estimate(seed, shuffler):
    made = noisy(seed)
    columns, rows = list(range(12)), list(range(3))
    shuffler.shuffle(columns)
    shuffler.shuffle(rows)
    scores = {agent: values[:, columns] for agent, values in made.scores.items()}
    moved = Stratum("sparse", {**scores, "learner": scores["learner"][rows]}, "mini")
    for statistic in AGGREGATES.values():
        first, second = (statistic(pooled(normalised_runs([s], as_played([s]))["learner"])) for s in (made, moved))
        assert_allclose(first, second)
    first, second = (improvement_in_conversations([s], as_played([s]), "learner", "random") for s in (made, moved))
    assert_allclose(first, second)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 3))
def test_a_better_learner_is_never_ranked_lower(seed, gain):
    strata = [noisy(seed, shift=shift) for shift in (1.0, 1.0 + gain)]
    draws = resample(strata[:1], rng(seed), 30)
    worse, better = (normalised_runs([s], draws) for s in strata)
    low, high = (pooled(runs["learner"]) for runs in (worse, better))
    assert (interquartile_mean(high) > interquartile_mean(low)).all()
    assert (optimality_gap(high) <= optimality_gap(low)).all()
    assert (
        improvement_of_runs(better["learner"], better["random"]) >= share_higher(low, pooled(worse["random"]))
    ).all()
    shares = [improvement_in_conversations([s], draws, "learner", "random") for s in strata]
    assert (shares[1] >= shares[0]).all()
    assert (shares[0] >= 0).all()
    assert (shares[1] <= 1).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_same_seed_gives_the_same_interval_inside_the_range_of_runs(seed, n_seeds):
    strata = [noisy(seed, n_seeds=n_seeds), noisy(seed + 1, n_seeds=n_seeds, name="dense")]
    first, again, other = (
        aggregate_intervals(
            normalised_runs(strata, as_played(strata)),
            normalised_runs(strata, resample(strata, rng(own), 50)),
            interquartile_mean,
        )["learner"]
        for own in (seed, seed, seed + 1)
    )
    assert first == again
    assert first != other
    assert first.low <= first.high


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"scores of sparse must be \(seeds, episodes\)"):
        stratum(learner=[1, 2])
    with pytest.raises(ValueError, match="agents of sparse must be scored on the same episodes"):
        stratum(learner=[[1, 2]], random=[[1]])
    with pytest.raises(ValueError, match="scores of sparse must be finite"):
        stratum(learner=[[1, np.nan]])
    with pytest.raises(ValueError, match="got 0 and 5; give more"):
        resample([], rng(), 5)
    with pytest.raises(ValueError, match="got 1 and 0; give more"):
        resample([noisy(0)], rng(), 0)
    with pytest.raises(ValueError, match="dense has 3 conversations and another stratum with the same ones 2"):
        resample([stratum(learner=[[1, 2]]), stratum("dense", learner=[[1, 2, 3]])], rng())
    tied = stratum(random=[[0, 1]], clairvoyant=[[2, 1]])
    assert has_scale(tied, as_played([tied])[0])
    assert not has_scale(tied, resample([tied], rng(), 50)[0])
    assert not has_scale(stratum(random=[[0, 1]]), as_played([tied])[0])
    with pytest.raises(ValueError, match="clairvoyant must be above random in every resample of sparse"):
        normalised_runs([tied], resample([tied], rng(), 50))
