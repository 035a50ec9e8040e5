import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats

from benchmarks.aggregates import Stratum, as_played, normalised_runs, resample
from benchmarks.profiles import conversation_profiles, profile_of, run_profiles, score_axis, share_above


def rng(seed=0):
    return np.random.default_rng(seed)


def strata(seed=0):
    draws = rng(seed)
    made = []
    for name, scale in (("sparse", 1.0), ("dense", 5.0)):
        luck = draws.normal(size=(1, 10))
        made.append(
            Stratum(
                name,
                {
                    "random": scale * luck,
                    "learner": scale * (luck + 2 + draws.normal(size=(3, 10))),
                    "clairvoyant": scale * (luck + 4),
                },
                "mini",
            )
        )
    return made


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_a_profile_is_scipys_survival_function_and_falls(values):
    scores = np.linspace(-4, 4, 17)
    share = share_above(np.array(values, dtype=float), scores)
    assert_allclose(share, scipy_stats.ecdf(values).sf.evaluate(scores))
    assert (np.diff(share) <= 0).all()
    assert (share[0], share[-1]) == (1, 0)


def test_profiles_of_runs_by_hand():
    now = {"a": [np.array([[0.2, 0.4]]), np.array([[0.6, 0.4]])]}
    drawn = {"a": [np.array([[0.2, 0.2], [0.4, 0.4]]), np.array([[0.6, 0.6], [0.4, 0.4]])]}
    made = run_profiles(now, drawn, np.array([0.0, 0.3, 0.4, 0.5]))["a"]
    assert_allclose(made.share, [1, 0.75, 0.25, 0.25])
    assert_allclose(made.low, [1, 0.5 + 0.025 * 0.5, 0 + 0.025 * 0.5, 0.025 * 0.5])
    assert_allclose(made.high, [1, 1 - 0.025 * 0.5, 0.5 - 0.025 * 0.5, 0.5 - 0.025 * 0.5])


def test_profiles_of_conversations_are_counted_right():
    made, scores = strata(), np.array([-0.5, 0.2, 0.5, 1.1])
    draws = resample(made, rng(1), 40)
    found = conversation_profiles(made, draws, scores)["learner"]
    values, replicates = [], np.zeros((40, 4))
    for stratum, draw in zip(made, draws, strict=True):
        bottom, top = stratum.scores["random"].mean(), stratum.scores["clairvoyant"].mean()
        normalised = (stratum.scores["learner"] - bottom) / (top - bottom)
        values.append(normalised.ravel())
        for replicate in range(40):
            repeated = np.repeat(normalised, draw.times[replicate].astype(int), axis=1)
            replicates[replicate] += share_above(repeated[draw.rows["learner"][replicate]].ravel(), scores) / 2
    assert_allclose(found.share, share_above(np.concatenate(values), scores))
    expected = profile_of(found.share, replicates)
    assert_allclose([found.low, found.high], [expected.low, expected.high])
    assert (found.high - found.low).max() > 0.05


def test_the_area_under_a_profile_is_the_mean():
    """Of conversations between 0 and 1; the ends of the scale are those values, too."""
    values = rng(2).uniform(size=(3, 400))
    made = [Stratum("sparse", {"random": np.zeros((1, 400)), "learner": values, "clairvoyant": np.ones((1, 400))}, 0)]
    scores = np.linspace(0, 1, 2001)
    share = conversation_profiles(made, as_played(made), scores)["learner"].share
    assert_allclose(np.trapezoid(share, scores), values.mean(), atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000))
def test_a_better_agent_has_the_higher_profile_and_bands_stay_in_bounds(seed):
    made, scores = strata(seed), np.linspace(-2, 2, 9)
    better = [Stratum(s.name, {**s.scores, "learner": s.scores["learner"] + 0.3}, s.conversations) for s in made]
    draws = resample(made, rng(seed), 20)
    low, high = (conversation_profiles(some, draws, scores)["learner"] for some in (made, better))
    assert (high.share >= low.share).all()
    assert (high.low >= low.low).all()
    assert (low.low >= 0).all()
    assert (high.high <= 1).all()
    now = normalised_runs(made, as_played(made))
    again = [run_profiles(now, normalised_runs(made, resample(made, rng(5), 20)), scores) for _ in range(2)]
    assert_allclose(again[0]["learner"].high, again[1]["learner"].high)


def test_the_axis_covers_the_scale_and_the_values():
    axis = score_axis([np.array([0.2, 0.4])], 11)
    assert_allclose([axis[0], axis[-1], len(axis)], [-0.05, 1.05, 11])
    wide = score_axis([np.linspace(-1, 2, 101)], 5)
    assert wide[0] < -0.97 < 1.97 < wide[-1]


def test_a_scale_is_needed():
    flat = [Stratum("sparse", {"random": np.ones((1, 3)), "clairvoyant": np.ones((1, 3))}, "mini")]
    with pytest.raises(ValueError, match="clairvoyant must be above random"):
        conversation_profiles(flat, as_played(flat), np.array([0.5]))
