import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

from pasta_gym.user_model import metrics


def test_the_papers_accuracy_by_hand():
    differences = np.array([0.3, 0.02, -0.3, 0.0, 0.09, -0.09, 0.1, 0.5])
    labels = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    # A small margin on the right side counts; no margin selects nobody; a tie of exactly 0.1 is none.
    expected = [1, 1, 0, 0, 1, 1, 0, 0]
    assert metrics.pickapic_paper_credit(differences, labels).tolist() == expected
    assert metrics.pickapic_paper_credit(np.array([-0.3, 0.3]), np.array([0.0, 0.0])).tolist() == [1, 0]


def test_the_scripts_accuracy_by_hand():
    # Margins 2p - 1: .6, .1, -.6, .1; predicted 1, tie, 0, tie at threshold .2.
    preferences, labels = np.array([0.8, 0.55, 0.2, 0.55]), np.array([1.0, 1.0, 1.0, 0.5])
    assert metrics.pickapic_script_credit(preferences, labels, 0.2).tolist() == [1, 0.5, 0, 1]
    assert metrics.pickapic_script_credit(preferences, labels, 0.0).tolist() == [1, 1, 0, 0.5]
    # The margin at the threshold itself is a tie.
    assert metrics.pickapic_script_credit(np.array([0.75]), np.array([0.5]), 0.5).tolist() == [1]


def test_the_threshold_is_the_best_and_smallest():
    # Sure pairs are decided, unsure ones are ties: 0.2 is the first threshold that gets all right.
    preferences, labels = np.array([0.9, 0.1, 0.58, 0.43]), np.array([1.0, 0.0, 0.5, 0.5])
    assert metrics.choose_threshold(preferences, labels) == 0.2
    assert metrics.choose_threshold(preferences[:2], labels[:2]) == 0.0


@given(
    hnp.arrays(np.float64, 20, elements=st.floats(0, 1)),
    hnp.arrays(np.float64, 20, elements=st.sampled_from([0, 0.5, 1])),
)
def test_swapping_the_images_changes_no_credit(preferences, labels):
    for t in (0.0, 0.3):
        swapped = metrics.pickapic_script_credit(1 - preferences, 1 - labels, t)
        close = np.isclose(np.abs(2 * preferences - 1), t)  # rounding decides there
        assert np.array_equal(swapped[~close], metrics.pickapic_script_credit(preferences, labels, t)[~close])
    difference = preferences - 0.5
    assert np.array_equal(
        metrics.pickapic_paper_credit(difference, labels), metrics.pickapic_paper_credit(-difference, 1 - labels)
    )


def test_hps_correlation_averages_correlations_not_scores():
    # Type 0 ranks (best first) 3, 2, 1: correlation 1. Type 1 ranks 1, 3, 2: -0.5.
    scores = np.array([[0.3, 0.2, 0.1], [0.1, 30.0, 20.0]])
    assert metrics.hps_spearman(scores, np.array([1.0, 0.0])) == pytest.approx(1.0)
    assert metrics.hps_spearman(scores, np.array([0.25, 0.75])) == pytest.approx(0.25 - 0.75 * 0.5)
    with pytest.raises(ValueError, match="lists of five or more"):
        metrics.hps_spearman(scores[:, :1], np.array([0.5, 0.5]))


def test_cross_turn_accuracy_by_hand():
    differences = np.array([0.2, -0.1, 0.3, -0.4, 0.1])
    verdicts = np.array([1.0, 1.0, 0.0, -1.0, np.nan])
    assert np.array_equal(metrics.cross_turn_credit(differences, verdicts), [1, 0, np.nan, 1, np.nan], equal_nan=True)
    assert metrics.cross_turn_accuracy(differences, verdicts) == pytest.approx(2 / 3)
    assert np.isnan(metrics.cross_turn_accuracy(differences[2:3], verdicts[2:3]))


def test_calibration_by_hand():
    # Bin .2-.3: predicted .25, came true 2 of 4: gap .25. Bin .9-1: predicted .95, came true 1 of 1: gap .05.
    p, y = np.array([0.25, 0.25, 0.25, 0.25, 0.95]), np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    curve = metrics.reliability_curve(p, y)
    assert curve.predicted.tolist() == [0.25, 0.95]
    assert curve.observed.tolist() == [0.5, 1.0]
    assert curve.counts.tolist() == [4, 1]
    assert metrics.calibration_error(p, y) == pytest.approx((4 * 0.25 + 0.05) / 5)
    assert metrics.calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0
    with pytest.raises(ValueError, match="are these scores or logits"):
        metrics.reliability_curve(np.array([1.2]), np.array([1.0]))


def test_adjusted_rand_index_by_hand():
    # Table [[2, 1], [0, 3]]: 1 + 3 = 4 couples together; rows 3 + 3 = 6, columns 1 + 6 = 7, of 15 couples.
    # Expected 6 * 7 / 15 = 2.8, most 6.5: (4 - 2.8) / (6.5 - 2.8).
    first, second = np.array([0, 0, 0, 5, 5, 5]), np.array([1, 1, 0, 0, 0, 0])
    assert metrics.adjusted_rand_index(first, second) == pytest.approx(1.2 / 3.7)
    assert metrics.adjusted_rand_index(second, first) == pytest.approx(1.2 / 3.7)
    assert metrics.adjusted_rand_index(first, np.array([9, 9, 9, 2, 2, 2])) == 1.0
    with pytest.raises(ValueError, match="got 6 and 2"):
        metrics.adjusted_rand_index(first, second[:2])
    assert metrics.stability([first, first, second]) == pytest.approx((1 + 2 * 1.2 / 3.7) / 3)
    with pytest.raises(ValueError, match="fit with more seeds"):
        metrics.stability([first])


def test_chance_has_an_adjusted_rand_index_of_nothing():
    rng = np.random.default_rng(0)
    values = [metrics.adjusted_rand_index(rng.integers(4, size=60), rng.integers(3, size=60)) for _ in range(200)]
    assert abs(np.mean(values)) < 0.01


def test_matched_recovery_by_hand():
    # Groups 7, 8, 9 against 0, 1: 9 holds three of type 0, 7 both of type 1; 8's rater is lost, and one of 9.
    found, planted = np.array([9, 9, 9, 9, 7, 7, 8]), np.array([0, 0, 0, 1, 1, 1, 0])
    assert metrics.matched_recovery(found, planted) == pytest.approx(5 / 7)
    assert metrics.matched_recovery(planted, found) == pytest.approx(5 / 7)
    # The greedy match, 5 first, would leave 0: 4 + 4 is better.
    table = np.array([[5.0, 4.0], [4.0, 0.0]])
    assert [a.tolist() for a in metrics.best_matching(table)] == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="got 0 and 0"):
        metrics.matched_recovery(found[:0], planted[:0])


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(-5, 5)))
def test_matching_is_optimal(gains):
    rows, columns = metrics.best_matching(gains)
    assert len(set(rows)) == len(set(columns)) == min(gains.shape)
    best = linear_sum_assignment(gains, maximize=True)
    assert gains[rows, columns].sum() == pytest.approx(gains[best].sum())


@given(hnp.arrays(np.int64, 9, elements=st.integers(0, 4)), hnp.arrays(np.int64, 9, elements=st.integers(0, 4)))
def test_spearman_is_scipys(first, second):
    ours = metrics.spearman(first.astype(float), second.astype(float))
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert ours == pytest.approx(spearmanr(first, second).statistic)
    else:
        assert ours == 0.0


def test_a_choice_that_was_not_made_is_not_scored():
    p = np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]])
    accuracy, likelihood = metrics.score_choices(p, np.array([1, -1, 1]))
    assert accuracy == 0.5
    assert likelihood == pytest.approx(np.log([0.8, 0.1]).mean())
    assert np.isnan(metrics.score_choices(p, np.array([-1, -1, -1]))).all()
    assert np.isnan(metrics.score_pairs(np.array([0.2, 0.7]), np.array([0.5, 0.5]))).all()
    assert np.isnan(metrics.calibration_error(np.zeros(0), np.zeros(0)))


def test_rounding_of_mixtures_is_no_error():
    off = np.array([1.0000000000000002, -1e-8, 1 + 5e-7])
    curve = metrics.reliability_curve(off, np.array([1.0, 0.0, 1.0]))
    assert curve.predicted.tolist() == [0.0, 1.0]
    assert curve.counts.tolist() == [1, 2]
    for bad in (1.001, -0.001, np.nan):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\], got .*; are these scores or logits"):
            metrics.reliability_curve(np.array([0.5, bad]), np.array([1.0, 0.0]))


def test_scores_by_hand():
    accuracy, likelihood = metrics.score_pairs(np.array([0.8, 0.3, 0.6]), np.array([1.0, 1.0, 0.5]))
    assert accuracy == 0.5
    assert likelihood == pytest.approx((np.log(0.8) + np.log(0.3)) / 2)
    accuracy, likelihood = metrics.score_choices(np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]]), np.array([1, 1, 0]))
    assert accuracy == pytest.approx(2 / 3)
    assert likelihood == pytest.approx(np.log([0.8, 0.4, 0.9]).mean())
