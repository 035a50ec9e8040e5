import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats

from benchmarks import paired
from benchmarks.aggregates import Stratum, resample
from benchmarks.paired import (
    bootstrap_p_value,
    drawn_differences,
    holm,
    paired_differences,
    resamples_for,
    sign_flip_test,
    sign_flip_tests,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def scipys(differences, n_resamples):
    return scipy_stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis=-1: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=rng(9),
    ).pvalue


def test_sign_flips_by_hand():
    assert sign_flip_test(np.array([1.0, 1, 1]), rng()) == 2 / 8
    # Sums of 3 and -1 with any signs: 4, 2, -2, -4; all are at least as far from 0 as the one seen.
    assert sign_flip_test(np.array([3.0, -1]), rng()) == 1.0
    # 1 + 2 + 4 = 7 is reached by all signs alike; 1 + 4 - 2 = 3 by six of eight.
    assert sign_flip_test(np.array([1.0, 2, 4]), rng()) == 2 / 8
    assert sign_flip_test(np.array([1.0, -2, 4]), rng()) == 6 / 8
    assert sign_flip_test(np.zeros(5), rng()) == 1.0


@pytest.mark.parametrize("n", [2, 5, 9])
def test_few_sign_flips_are_counted_one_by_one_as_in_scipy(n):
    differences = rng(n).normal(0.5, 1, size=n)
    assert_allclose(sign_flip_test(differences, rng()), scipys(differences, np.inf))
    # Nothing is drawn.
    generator = rng(3)
    sign_flip_test(differences, generator)
    assert generator.bit_generator.state == rng(3).bit_generator.state


def test_many_sign_flips_are_drawn_as_in_scipy():
    differences = rng(1).normal(0.25, 1, size=60)
    ours, theirs = sign_flip_test(differences, rng(2), 9999), scipys(differences, 9999)
    assert 0.01 < ours < 0.5
    assert_allclose(ours, theirs, atol=0.02)
    assert ours == sign_flip_test(differences, rng(2), 9999) != sign_flip_test(differences, rng(3), 9999)


def test_drawn_and_counted_sign_flips_agree():
    differences = rng(4).normal(0.4, 1, size=11)
    counted, drawn = sign_flip_test(differences, rng(), 2**11), sign_flip_test(differences, rng(), 2**11 - 1)
    assert counted != drawn
    assert_allclose(counted, drawn, atol=0.03)


def test_a_drawn_p_value_is_never_zero():
    assert_allclose(sign_flip_test(np.ones(200), rng(), 1999), 1 / 2000)


@pytest.mark.parametrize("n_rows", [1, 24, 144])
def test_no_length_of_table_hides_what_its_sign_flips_show(n_rows):
    """Holm's method multiplies the least p-value by the number of rows: with 10,000 flips for 24 rows it was 0.0024."""
    rows = [np.ones(70)] * n_rows
    adjusted = holm(sign_flip_tests(rows, rng()))
    assert (adjusted < 0.001).all()
    assert_allclose(adjusted, min(n_rows / (resamples_for(n_rows) + 1), 1))


def test_the_number_of_flips_grows_with_the_table_from_ten_thousand_on():
    assert [resamples_for(n) for n in (0, 1, 5, 6, 144)] == [10_000, 10_000, 10_000, 12_000, 288_000]


def test_rows_that_share_flips_have_the_p_values_of_each_alone():
    rows = [rng(seed).normal(0.2, 1, size=n) for seed, n in enumerate((30, 60, 30, 4, 60))]
    rows.insert(2, np.zeros(60))
    together = sign_flip_tests(rows, rng(8), 2000)
    assert together == sign_flip_tests(rows, rng(8), 2000) != sign_flip_tests(rows, rng(9), 2000)
    assert_allclose(together[0], sign_flip_test(rows[0], rng(8), 2000))  # the first to draw
    assert_allclose(together[4], sign_flip_test(rows[4], rng(), 2000))  # counted one by one
    assert together[2] == 1.0
    assert_allclose(together[5], scipys(rows[5], 9999), atol=0.04)
    same = sign_flip_tests([rows[1], -3 * rows[1], rows[1][::-1]], rng(8), 2000)
    assert same[0] == same[1] != same[2]


def test_flips_are_drawn_and_counted_in_pieces(monkeypatch):
    drawn, counted = rng(1).normal(0.25, 1, size=64), rng(2).normal(0.5, 1, size=9)
    whole = sign_flip_test(drawn, rng(3), 4096), sign_flip_test(counted, rng())
    monkeypatch.setattr(paired, "_ROWS", 64)  # of whole words, so the same flips come
    assert (sign_flip_test(drawn, rng(3), 4096), sign_flip_test(counted, rng())) == whole


def test_sign_flips_reject_a_true_null_as_often_as_they_say():
    """Differences that are symmetric about zero but far from normal."""
    draws = rng(7)
    rejected = [sign_flip_test(draws.standard_t(2, size=8), draws) <= 0.05 for _ in range(500)]
    # Of 256 flips, 12 are at most 5%: 4.7%.
    assert_allclose(np.mean(rejected), 12 / 256, atol=0.03)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=1, max_size=8),
    st.floats(0.1, 10),
    st.randoms(use_true_random=False),
)
def test_order_sign_and_unit_change_no_exact_p_value(values, unit, shuffler):
    moved = list(values)
    shuffler.shuffle(moved)
    p = sign_flip_test(np.array(values), rng())
    assert 2.0 ** (1 - len(values)) <= p <= 1
    assert_allclose(sign_flip_test(-unit * np.array(moved), rng()), p)


def test_pairs_are_taken_in_each_conversation():
    better, worse = np.array([[1.0, 2, 9], [3.0, 2, 1]]), np.array([[0.0, 0, 4], [2.0, 0, 0]])
    assert_allclose(paired_differences(better, worse), [[0, 2, 7], [2, 2, -1]])
    with pytest.raises(ValueError, match="the same conversations, got 3 and 2 of them"):
        paired_differences(better, worse[:, :2])


def test_the_paired_bootstrap_is_blind_to_what_conversations_have_in_common():
    luck = rng(1).normal(0, 50, size=(1, 30))
    scores = {"a": luck + np.array([[1.0], [2.0], [3.0]]), "b": luck}
    [draw] = resample([Stratum("sparse", scores, "mini")], rng(2), 4000)
    found = drawn_differences(scores["a"], scores["b"], draw, ("a", "b"))
    # Only the three seeds vary: their mean has a standard deviation of sqrt(2/3 / 3).
    assert_allclose([found.mean(), found.std()], [2, np.sqrt(2 / 9)], atol=0.02)


def test_the_bootstrap_p_value_counts_the_far_side_twice():
    assert_allclose(bootstrap_p_value(np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8])), 2 * 2 / 10)
    assert_allclose(bootstrap_p_value(np.arange(1.0, 100)), 2 / 100)
    assert bootstrap_p_value(-np.arange(1.0, 100)) == bootstrap_p_value(np.arange(1.0, 100))
    assert bootstrap_p_value(np.zeros(9)) == 1.0
    assert bootstrap_p_value(np.array([-1.0, 1])) == 1.0


def test_holm_by_hand():
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert_allclose(holm([0.6, 0.9]), [1, 1])
    assert holm([]).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_the_p_value_and_bonferronis(p_values):
    given_p, adjusted = np.array(p_values), holm(p_values)
    assert (adjusted >= given_p).all()
    assert (adjusted <= np.minimum(len(given_p) * given_p, 1)).all()
    assert (np.diff(adjusted[np.argsort(given_p, kind="stable")]) >= 0).all()


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"finite vector, not empty, got shape \(0,\)"):
        sign_flip_test(np.array([]), rng())
    with pytest.raises(ValueError, match=r"finite vector, not empty, got shape \(1, 2\)"):
        sign_flip_test(np.ones((1, 2)), rng())
    with pytest.raises(ValueError, match="finite vector"):
        sign_flip_test(np.array([1.0, np.inf]), rng())
    with pytest.raises(ValueError, match="no resamples"):
        bootstrap_p_value(np.array([]))
