"""Tests of the difference between two agents that met the same conversations (common random numbers)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.aggregates import Draw, run_means
from benchmarks.stats import Scores

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


def sign_flip_test(differences: Scores, rng: np.random.Generator, n_resamples: int = 10_000) -> float:
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
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"differences must be a finite vector, not empty, got shape {values.shape}; check the runs")
    scale = np.abs(values).max()
    if scale == 0:
        return 1.0
    values = values / scale
    seen = abs(values.sum()) - 1e-9  # sums of the same numbers in another order are ties
    exact = len(values) < 60 and 2 ** len(values) <= n_resamples
    flips = _all_flips(len(values)) if exact else _drawn_flips(len(values), rng, n_resamples)
    n_flips = as_extreme = 0
    for flipped in flips:
        sums = values.sum() - 2 * (flipped @ values)
        n_flips += len(sums)
        as_extreme += int((np.abs(sums) >= seen).sum())
    return as_extreme / n_flips if exact else (as_extreme + 1) / (n_flips + 1)


def _all_flips(n: int) -> Iterator[Scores]:
    yield ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)


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
