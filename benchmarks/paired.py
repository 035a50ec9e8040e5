"""Tests of the difference between two agents that met the same conversations (common random numbers)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.aggregates import Draw, run_means
from benchmarks.stats import Scores

MIN_RESAMPLES, RESAMPLES_A_ROW = 10_000, 2_000
"""Sign flips that are drawn for one test, and for each row of a table whose p-values are adjusted together."""
_ROWS = 1000  # sign flips held in memory at a time


def paired_differences(better: Scores, worse: Scores) -> Scores:
    """Difference in each conversation of each seed of one agent, to the mean over the other's seeds.

    Args:
        better: ``(seeds, episodes)``.
        worse: ``(other seeds, episodes)`` of an agent that learns nothing, or of one taken as it is.

    Returns:
        ``(seeds, episodes)``.

    Raises:
        ValueError: If the two have other numbers of episodes.
    """
    if better.shape[1] != worse.shape[1]:
        raise ValueError(
            f"a paired test needs the same conversations, got {better.shape[1]} and {worse.shape[1]} of them; "
            "take those that both have"
        )
    differences: Scores = better - worse.mean(axis=0)
    return differences


def drawn_differences(better: Scores, worse: Scores, draw: Draw, names: Sequence[str]) -> Scores:
    """Difference of means in each resample of a stratum, ``(R,)``: the paired bootstrap.

    Args:
        better: ``(seeds, episodes)``.
        worse: ``(other seeds, episodes)``.
        draw: Resamples of the stratum that both belong to.
        names: The two agents, as ``draw.rows`` calls them.
    """
    difference: Scores = run_means(better, draw, names[0]).mean(axis=1) - run_means(worse, draw, names[1]).mean(axis=1)
    return difference


def bootstrap_p_value(replicates: Scores) -> float:
    """Two-sided p-value of a zero difference: twice the share of resamples on its far side, never 0."""
    n = len(replicates)
    if n == 0:
        raise ValueError("a p-value of no resamples is not defined; give at least one")
    tail = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (n + 1))


def resamples_for(n_rows: int) -> int:
    """Say how many sign flips a table of tests needs.

    Holm's method multiplies the smallest p-value, which is 1 / (flips + 1), by the number of rows. So many flips keep
    the product below 0.0005, whatever the table's length.
    """
    return max(MIN_RESAMPLES, RESAMPLES_A_ROW * n_rows)


def sign_flip_test(differences: Scores, rng: np.random.Generator, n_resamples: int = MIN_RESAMPLES) -> float:
    """Test by sign flips whether the mean of paired differences is zero.

    If the two agents are alike, a difference and its negative are equally likely in each conversation.

    Args:
        differences: ``(n,)`` one a conversation (or one a seed).
        rng: Source of the flips; not used where all of them are counted.
        n_resamples: Flips drawn, and the largest number of flips that are counted one by one: up to ``2 ** n`` of it
            the p-value is exact.

    Returns:
        Two-sided p-value, at least ``2 ** (1 - n)`` if exact and ``1 / (n_resamples + 1)`` if drawn.

    Raises:
        ValueError: If ``differences`` is no vector, is empty or is not finite.
    """
    return sign_flip_tests([differences], rng, n_resamples)[0]


def sign_flip_tests(rows: Sequence[Scores], rng: np.random.Generator, n_resamples: int | None = None) -> list[float]:
    """Test each row of a table as :func:`sign_flip_test` does, with flips that rows of one length share.

    Args:
        rows: One vector of paired differences each; their lengths may differ.
        rng: Source of the flips; equal states give equal p-values.
        n_resamples: As in :func:`sign_flip_test`; what :func:`resamples_for` says of the table if None.

    Returns:
        Two-sided p-values in the order of the rows, not adjusted.

    Raises:
        ValueError: If a row is no vector, is empty or is not finite.
    """
    drawn = resamples_for(len(rows)) if n_resamples is None else n_resamples
    by_length: dict[int, list[int]] = {}
    scaled: list[Scores] = []
    for place, row in enumerate(rows):
        scaled.append(_scaled(row))
        by_length.setdefault(len(scaled[-1]), []).append(place)
    found = [1.0] * len(rows)
    for places in by_length.values():
        tested = [place for place in places if scaled[place].any()]  # a row of zeros shows nothing
        if tested:
            for place, p in zip(tested, _flip(np.stack([scaled[place] for place in tested]), rng, drawn), strict=True):
                found[place] = p
    return found


def _scaled(differences: Scores) -> Scores:
    """Check a vector of differences, and divide it by the largest: the unit moves no p-value."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"differences must be a finite vector, not empty, got shape {values.shape}; check the runs")
    scale = np.abs(values).max()
    return values / scale if scale > 0 else values


def _flip(values: Scores, rng: np.random.Generator, n_resamples: int) -> list[float]:
    """Two-sided p-values of ``(rows, n)`` differences, from the same flips of all rows."""
    n = values.shape[1]
    sums = values.sum(axis=1)
    seen = np.abs(sums) - 1e-9  # sums of the same numbers in another order are ties
    exact = n < 60 and 2**n <= n_resamples
    n_flips, as_extreme = 0, np.zeros(len(values), dtype=np.int64)
    for flipped in _all_flips(n) if exact else _drawn_flips(n, rng, n_resamples):
        n_flips += len(flipped)
        as_extreme += (np.abs(sums - 2 * (flipped @ values.T)) >= seen).sum(axis=0)
    found = as_extreme / n_flips if exact else (as_extreme + 1) / (n_flips + 1)
    return [float(p) for p in found]


def _all_flips(n: int) -> Iterator[Scores]:
    for first in range(0, 2**n, _ROWS):
        numbers = np.arange(first, min(first + _ROWS, 2**n))
        yield ((numbers[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _drawn_flips(n: int, rng: np.random.Generator, n_resamples: int) -> Iterator[Scores]:
    for first in range(0, n_resamples, _ROWS):
        rows = min(_ROWS, n_resamples - first)
        packed = rng.integers(0, 256, size=(rows, -(-n // 8)), dtype=np.uint8)
        yield np.unpackbits(packed, axis=1, count=n).astype(np.float64)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Adjust p-values of several tests by Holm's method: rejecting at 5% errs in any of them at most 5% of the time.

    Returns:
        In the order given, each at least as large as it was.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * (len(given) - np.arange(len(given))))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
