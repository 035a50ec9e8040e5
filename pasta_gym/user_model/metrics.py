"""Figures of predicted preferences, as pure functions of arrays (section 6.2, and the datasets' own scripts)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pasta_gym.types import FloatArray, IntArray

PAPER_TIE = 0.1
"""Difference of scores below which the paper takes a tie as predicted (section 6.2)."""

SCRIPT_THRESHOLDS: tuple[float, ...] = tuple(i / 10 for i in range(11))
"""Thresholds that PickScore's script tries on its validation set."""

_ROUNDING = 1e-6  # what a mixture of float32 probabilities may be off


def log_sigmoid(x: FloatArray) -> FloatArray:
    """Logarithm of the logistic function, safe for large arguments."""
    result: FloatArray = -np.logaddexp(0.0, -x)
    return result


def adjusted_rand_index(first: IntArray, second: IntArray) -> float:
    """Agreement of two groupings ``(n,)`` of the same things: 1 the same groups, about 0 by chance.

    Raises:
        ValueError: If the lengths differ or there are fewer than two things.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"two groupings of the same two or more things are needed, got {len(first)} and {len(second)}")
    table = _contingency(first, second)

    def couples(counts: FloatArray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, rows, columns = couples(table), couples(table.sum(axis=1)), couples(table.sum(axis=0))
    expected = rows * columns / (len(first) * (len(first) - 1) / 2)
    most = 0.5 * (rows + columns)
    return 1.0 if most == expected else float((together - expected) / (most - expected))


def matched_recovery(found: IntArray, planted: IntArray) -> float:
    """Share of raters whose group is the one matched to their planted group, in [0, 1].

    Groups are matched one to one such that most raters agree. With fewer groups than were planted the raters of
    those left over count as lost; with more, those in groups left over do.

    Args:
        found: ``(n,)`` groups.
        planted: ``(n,)`` groups.
    """
    if len(found) != len(planted) or not len(found):
        raise ValueError(f"two groupings of the same things are needed, got {len(found)} and {len(planted)}")
    table = _contingency(found, planted)
    rows, columns = best_matching(table)
    return float(table[rows, columns].sum() / len(found))


def stability(groupings: list[IntArray]) -> float:
    """Mean adjusted Rand index over all pairs of groupings ``(n,)`` of the same raters, as restarts give them.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(groupings) < 2:
        raise ValueError(f"stability compares two groupings or more, got {len(groupings)}; fit with more seeds")
    return float(np.mean([adjusted_rand_index(a, b) for i, a in enumerate(groupings) for b in groupings[:i]]))


def best_matching(gains: FloatArray) -> tuple[IntArray, IntArray]:
    """Match rows to columns one to one with the greatest total gain (the assignment problem).

    Shortest augmenting paths with potentials, in time n^2 m.

    Args:
        gains: ``(n, m)``.

    Returns:
        Rows and columns, ``(min(n, m),)`` each, rows ascending.
    """
    if gains.shape[0] > gains.shape[1]:
        columns, rows = best_matching(gains.T)
        order = rows.argsort()
        return rows[order], columns[order]
    n, m = gains.shape
    costs = np.zeros((n + 1, m + 1))
    costs[1:, 1:] = -gains  # row and column 0 stand for "not matched yet"
    row_price, column_price = np.zeros(n + 1), np.zeros(m + 1)
    row_of = np.zeros(m + 1, dtype=np.int64)
    for row in range(1, n + 1):
        row_of[0] = row
        column, previous = 0, np.zeros(m + 1, dtype=np.int64)
        least, visited = np.full(m + 1, np.inf), np.zeros(m + 1, dtype=bool)
        while True:
            visited[column] = True
            reduced = costs[row_of[column]] - row_price[row_of[column]] - column_price
            closer = ~visited & (reduced < least)
            closer[0] = False
            least[closer], previous[closer] = reduced[closer], column
            open_columns = np.flatnonzero(~visited)
            nearest = int(open_columns[least[open_columns].argmin()])
            step = least[nearest]
            row_price[row_of[visited]] += step
            column_price[visited] -= step
            least[~visited] -= step
            column = nearest
            if row_of[column] == 0:
                break
        while column:
            row_of[column] = row_of[previous[column]]
            column = int(previous[column])
    columns = np.flatnonzero(row_of[1:])
    matched = row_of[1:][columns] - 1
    order = matched.argsort()
    return matched[order].astype(np.int64), columns[order].astype(np.int64)


def _contingency(first: IntArray, second: IntArray) -> FloatArray:
    """How many things are in each pair of groups: ``(groups of first, groups of second)``."""
    _, a = np.unique(first, return_inverse=True)
    _, b = np.unique(second, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    return table


@dataclass(frozen=True)
class Reliability:
    """What was predicted against what came true, in bins of equal width; empty bins are left out.

    Attributes:
        predicted: ``(b,)`` mean prediction of each bin, in [0, 1].
        observed: ``(b,)`` how often it came true, in [0, 1].
        counts: ``(b,)``.
    """

    predicted: FloatArray
    observed: FloatArray
    counts: IntArray


def reliability_curve(probabilities: FloatArray, outcomes: FloatArray, n_bins: int = 10) -> Reliability:
    """Compare predicted and observed frequencies.

    Args:
        probabilities: ``(n,)`` predicted, in [0, 1] up to rounding.
        outcomes: ``(n,)`` 1 where it came true, else 0.
        n_bins: Number of bins.

    Returns:
        The curve.

    Raises:
        ValueError: If a probability is not in [0, 1] or there is none.
    """
    if not len(probabilities):
        raise ValueError("there are no probabilities to compare; predict at least one label")
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(f"probabilities must be in [0, 1], got {low:g} to {high:g}; are these scores or logits?")
    probabilities = probabilities.clip(0.0, 1.0)
    bins = np.minimum((probabilities * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    kept = counts > 0
    means = [np.bincount(bins, weights=x, minlength=n_bins)[kept] / counts[kept] for x in (probabilities, outcomes)]
    return Reliability(means[0], means[1], counts[kept].astype(np.int64))


def calibration_error(probabilities: FloatArray, outcomes: FloatArray, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap of the reliability curve, weighted by the bins' sizes, in [0, 1].

    Args:
        probabilities: ``(n,)`` predicted, in [0, 1].
        outcomes: ``(n,)`` 1 where it came true, else 0.
        n_bins: Number of bins.

    Returns:
        The error; NaN if there is nothing to compare.
    """
    if not len(probabilities):
        return float("nan")
    curve = reliability_curve(probabilities, outcomes, n_bins)
    return float((np.abs(curve.predicted - curve.observed) * curve.counts).sum() / curve.counts.sum())


def _ranks(x: FloatArray) -> FloatArray:
    """Ranks ``(n,)``, ties sharing their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    means: FloatArray = (last - (counts - 1) / 2.0)[inverse]
    return means


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Rank correlation of two arrays ``(n,)`` in [-1, 1]; 0 if one is constant."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0


def pickapic_paper_credit(differences: FloatArray, labels: FloatArray, tie: float = PAPER_TIE) -> FloatArray:
    """Credit of each pair as the paper words it (section 6.2).

    A pair with a preferred image earns 1 if that image has the higher score, whatever the margin. A labelled tie
    earns 1 if the scores differ by less than ``tie``. Anything else earns 0. The difference is one of *scores*, so
    the threshold means what it says only for scores in [0, 1].

    Args:
        differences: ``(...)`` score of the first image minus that of the second.
        labels: ``(...)`` 1 if the first is preferred, 0 if the second, 0.5 for a tie.
        tie: The threshold.

    Returns:
        ``(...)`` 0 or 1.
    """
    right = np.where(labels == 0.5, np.abs(differences) < tie, (differences > 0) == (labels == 1))
    right &= (differences != 0) | (labels == 0.5)
    return right.astype(np.float64)


def pickapic_script_credit(preferences: FloatArray, labels: FloatArray, threshold: float) -> FloatArray:
    """Credit of each pair as PickScore's evaluation script gives it.

    A tie is predicted where the two *probabilities* differ by at most the threshold. Agreement earns 1, a tie on one
    side alone 0.5, opposite winners 0.

    Args:
        preferences: ``(...)`` predicted probability that the first image is preferred.
        labels: ``(...)`` 1, 0 or 0.5.
        threshold: In [0, 1].

    Returns:
        ``(...)`` 0, 0.5 or 1.
    """
    margin = 2.0 * preferences - 1.0
    predicted = np.where(np.abs(margin) <= threshold, 0.5, margin > 0)
    credit: FloatArray = 1.0 - np.abs(predicted - labels)
    return credit


def choose_threshold(
    preferences: FloatArray, labels: FloatArray, thresholds: tuple[float, ...] = SCRIPT_THRESHOLDS
) -> float:
    """The threshold with the highest mean credit, the smallest of several; to be chosen on validation pairs."""
    return max(thresholds, key=lambda t: (pickapic_script_credit(preferences, labels, t).mean(), -t))


def hps_spearman(scores: FloatArray, posterior: FloatArray) -> float:
    """Rank correlation of one list with its images in order, best first, averaged over types by the posterior.

    The three images that the posterior was computed from are not among them (section 6.2). Each type ranks the list
    by itself, and correlations are averaged, not scores.

    Args:
        scores: ``(K, n)`` scores of the images that are left, best first.
        posterior: ``(K,)``.

    Returns:
        In [-1, 1].

    Raises:
        ValueError: If fewer than two images are left.
    """
    if scores.shape[1] < 2:
        raise ValueError(
            f"a rank correlation needs two images or more, got {scores.shape[1]}; "
            "three of a list go into the posterior, so lists of five or more are needed"
        )
    best_first = -np.arange(scores.shape[1], dtype=np.float64)
    return float(sum(share * spearman(row, best_first) for share, row in zip(posterior, scores, strict=True)))


def cross_turn_credit(differences: FloatArray, verdicts: FloatArray) -> FloatArray:
    """Credit for predicting "better" or "worse than the turn before" from utilities.

    Args:
        differences: ``(...)`` utility of the chosen column minus that of the column chosen one turn earlier.
        verdicts: ``(...)`` 1 better, -1 worse, 0 the same, NaN where nobody was asked.

    Returns:
        ``(...)`` 1 where the sign agrees, 0 where it does not, NaN where the answer is "same" or missing: utilities
        are never equal, so "same" cannot be predicted by a sign.
    """
    decided = np.isin(verdicts, (-1.0, 1.0))
    return np.where(decided, (np.sign(differences) == verdicts).astype(np.float64), np.nan)


def cross_turn_accuracy(differences: FloatArray, verdicts: FloatArray) -> float:
    """Mean of ``cross_turn_credit`` over the answers "better" and "worse"; NaN if there are none."""
    credit = cross_turn_credit(differences, verdicts)
    return float(np.nanmean(credit)) if np.isfinite(credit).any() else float("nan")


def score_pairs(preferences: FloatArray, labels: FloatArray) -> tuple[float, float]:
    """Accuracy and mean log-likelihood of predicted preferences over the pairs that are no ties, same shapes.

    Both are NaN if there are none.
    """
    kept = labels != 0.5
    if not kept.any():
        return float("nan"), float("nan")
    p, y = preferences[kept], labels[kept]
    correct = np.where(y == 1, p, 1 - p)
    return float((correct > 0.5).mean()), float(np.log(np.maximum(correct, 1e-12)).mean())


def score_choices(probabilities: FloatArray, choices: IntArray) -> tuple[float, float]:
    """Accuracy of the likeliest column and mean log-likelihood over the choices that there are.

    Args:
        probabilities: ``(n, L)``.
        choices: ``(n,)``, -1 where there is none.

    Returns:
        Both; NaN if there are none.
    """
    said = choices >= 0
    if not said.any():
        return float("nan"), float("nan")
    p, columns = probabilities[said], choices[said]
    chosen = np.take_along_axis(p, columns[:, None], axis=1)[:, 0]
    return float((p.argmax(axis=1) == columns).mean()), float(np.log(np.maximum(chosen, 1e-12)).mean())
