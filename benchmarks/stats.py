"""Intervals that respect how scores were made: few training seeds, and conversations that all agents share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""``(seeds, episodes)``: one row a training seed; column ``e`` is the same conversation for every agent."""


class NoScaleError(ValueError):
    """Two agents do not make a scale: the upper end is not above the lower one in every resample."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile bootstrap interval."""

    estimate: float
    low: float
    high: float

    def text(self, digits: int = 2, *, percent: bool = False) -> str:
        """Write the estimate with its interval, ``0.25 [0.20, 0.30]`` or ``25% [20%, 30%]``."""
        values = (self.estimate, self.low, self.high)
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        rounded = [round(value, digits + 2 * percent) + 0.0 for value in values]
        estimate, low, high = (f"{value:.{digits}{'%' if percent else 'f'}}" for value in rounded)
        return f"{estimate} [{low}, {high}]"


def bootstrap_means(
    scores: Mapping[str, Scores], rng: np.random.Generator, n_replicates: int = 2000
) -> dict[str, Scores]:
    """Resample mean scores of all agents together.

    In each replicate the conversations are drawn with replacement once and shared by all agents and seeds,
    because they met the same ones; the training seeds are drawn with replacement for each agent by itself.

    Args:
        scores: ``(seeds, episodes)`` of each agent; the number of episodes is common, that of seeds is not.
        rng: Source of the resamples.
        n_replicates: How many.

    Returns:
        ``(n_replicates,)`` means of each agent; replicate ``r`` of two agents is paired.

    Raises:
        ValueError: If an array has another shape, is empty or is not finite.
    """
    sizes = {name: _require_scores(name, values).shape[1] for name, values in scores.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"agents must be scored on the same episodes, got {sizes} of them; evaluate the others again")
    n_episodes = next(iter(sizes.values()))
    counts = _times_drawn(n_episodes, n_replicates, rng)
    means = {}
    for name, values in scores.items():
        of_seed = counts @ values.T / n_episodes  # (n_replicates, seeds)
        drawn = rng.integers(0, len(values), size=of_seed.shape)
        means[name] = np.take_along_axis(of_seed, drawn, axis=1).mean(axis=1)
    return means


def interval(estimate: float, replicates: Scores, confidence: float = 0.95) -> Interval:
    """Percentile interval of bootstrap replicates.

    Raises:
        ValueError: If ``confidence`` is not inside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be inside (0, 1), got {confidence}")
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(estimate), float(low), float(high))


def mean_intervals(
    scores: Mapping[str, Scores], rng: np.random.Generator, n_replicates: int = 2000
) -> dict[str, Interval]:
    """Mean score of each agent with its 95% interval (see :func:`bootstrap_means`)."""
    replicates = bootstrap_means(scores, rng, n_replicates)
    return {name: interval(float(values.mean()), replicates[name]) for name, values in scores.items()}


def mean_interval_where(
    scores: Scores, chosen: NDArray[np.bool_], rng: np.random.Generator, n_replicates: int = 2000
) -> Interval | None:
    """Mean score of some conversations of each training seed, averaged over the seeds, with its 95% interval.

    Seeds have other conversations of that kind and other numbers of them, and count alike: a seed with more does not
    weigh more. Conversations and seeds are drawn as in :func:`bootstrap_means`.

    Args:
        scores: ``(seeds, episodes)`` of one agent.
        chosen: ``(seeds, episodes)`` which count. A seed without any is left out of the mean.
        rng: Source of the resamples.
        n_replicates: How many.

    Returns:
        None if there are so few of them that a resample holds none: they have no interval.

    Raises:
        ValueError: If the two differ in shape, or ``scores`` are not finite.
    """
    if _require_scores("one agent", scores).shape != chosen.shape:
        raise ValueError(f"chosen must have the shape of scores, {scores.shape}, got {chosen.shape}")
    counts = _times_drawn(scores.shape[1], n_replicates, rng)
    drawn = rng.integers(0, len(scores), size=(n_replicates, len(scores)))

    def mean_of_seeds(times: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Scores, NDArray[np.int64]]:
        n_there = times @ chosen.T.astype(np.int64)
        of_seed: Scores = times @ (scores * chosen).T / np.maximum(n_there, 1)
        has_any = np.take_along_axis(n_there > 0, rows, axis=1)
        n_seeds: NDArray[np.int64] = has_any.sum(axis=1)
        total = (np.take_along_axis(of_seed, rows, axis=1) * has_any).sum(axis=1)
        return total / np.maximum(n_seeds, 1), n_seeds

    replicates, n_seeds = mean_of_seeds(counts, drawn)
    if not n_seeds.all():
        return None
    as_played = np.ones((1, scores.shape[1]), dtype=np.int64), np.arange(len(scores))[None]
    return interval(float(mean_of_seeds(*as_played)[0][0]), replicates)


def normalised_intervals(
    scores: Mapping[str, Scores],
    rng: np.random.Generator,
    *,
    zero: str = "random",
    one: str = "clairvoyant",
    n_replicates: int = 2000,
) -> dict[str, Interval]:
    """Scores on the scale where ``zero`` is 0 and ``one`` is 1, with 95% intervals.

    The two ends are resampled too, with the same conversations, so their own intervals have no width.

    Raises:
        ValueError: If an end has no scores; a ``NoScaleError`` if ``one`` is not above ``zero`` in every resample.
    """
    return {name: interval(*made) for name, made in _normalised(scores, rng, zero, one, n_replicates).items()}


def normalised_change_intervals(
    before: Mapping[str, Scores],
    after: Mapping[str, Scores],
    rng: np.random.Generator,
    *,
    zero: str = "random",
    one: str = "clairvoyant",
    n_replicates: int = 2000,
) -> dict[str, Interval]:
    """Normalised score after a change of the environment minus that before, with paired 95% intervals.

    Each side is on its own scale from ``zero`` to ``one``. In each replicate the same conversations and the same
    training seeds are drawn on both sides.

    Args:
        before: ``(seeds, episodes)`` of each agent.
        after: Of the same agents, seeds and conversations in the same order.
        rng: Source of the resamples.
        zero: The agent that scores 0 on either side.
        one: The agent that scores 1 on either side.
        n_replicates: How many resamples.

    Raises:
        ValueError: If the two sides have other agents or shapes, or a side has no scale (see
            :func:`normalised_intervals`).
    """
    shapes = [{name: np.shape(values) for name, values in side.items()} for side in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"both sides must have the same agents, seeds and episodes, got {shapes[0]} and {shapes[1]}")
    # Generators in equal states and equal shapes in equal order: the draws are equal, which pairs the two sides.
    seed = int(rng.integers(2**63))
    sides = [
        _normalised({name: side[name] for name in before}, np.random.default_rng(seed), zero, one, n_replicates)
        for side in (before, after)
    ]
    return {
        name: interval(sides[1][name][0] - sides[0][name][0], sides[1][name][1] - sides[0][name][1]) for name in before
    }


def _normalised(
    scores: Mapping[str, Scores], rng: np.random.Generator, zero: str, one: str, n_replicates: int
) -> dict[str, tuple[float, Scores]]:
    """Estimate and ``(n_replicates,)`` resamples of each agent's normalised score."""
    missing = {zero, one} - set(scores)
    if missing:
        raise ValueError(f"the normalised score needs {sorted(missing)} among the agents, got {sorted(scores)}")
    bottom, top = float(scores[zero].mean()), float(scores[one].mean())
    if not top > bottom:
        raise NoScaleError(f"{one} ({top:.3f}) must be above {zero} ({bottom:.3f}) to make a scale of them")
    replicates = bootstrap_means(scores, rng, n_replicates)
    width = scale_width(replicates[zero], replicates[one])
    return {
        name: ((float(values.mean()) - bottom) / (top - bottom), (replicates[name] - replicates[zero]) / width)
        for name, values in scores.items()
    }


def spans_scale(zero: Scores, one: Scores) -> bool:
    """Whether ``one`` is above ``zero`` in every resample, so that scores normalised by the two are defined."""
    return bool((one > zero).all())


def scale_width(zero: Scores, one: Scores) -> Scores:
    """Width of a scale in each resample, ``(R,)``.

    A width of zero or less would turn scores round, or make them infinite, in the middle of an interval.

    Raises:
        NoScaleError: If the upper end is not above the lower one in every resample.
    """
    if not spans_scale(zero, one):
        raise NoScaleError(
            "the upper end of a scale must be above the lower one in every resample, got "
            f"{int((one <= zero).sum())} of {len(one)} where it is not; score both on more conversations"
        )
    return one - zero


def difference_interval(
    scores: Mapping[str, Scores], better: str, worse: str, rng: np.random.Generator, n_replicates: int = 2000
) -> Interval:
    """Mean of ``better`` minus mean of ``worse`` with a 95% interval from paired conversations."""
    pair = {"better": scores[better], "worse": scores[worse]}
    replicates = bootstrap_means(pair, rng, n_replicates)
    estimate = float(pair["better"].mean() - pair["worse"].mean())
    return interval(estimate, replicates["better"] - replicates["worse"])


def interquartile_mean(values: Scores, axis: int = -1) -> Scores:
    """Mean of the middle half along an axis; values on the edge count by the share that lies inside.

    Equals scipy's ``trim_mean(values, 0.25)`` where a quarter of the count is a whole number.
    """
    ordered = np.sort(np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1), axis=-1)
    n = ordered.shape[-1]
    if n == 0:
        raise ValueError("the interquartile mean of no values is not defined; give at least one")
    places = np.arange(n)
    inside = np.clip(np.minimum(places + 1, 0.75 * n) - np.maximum(places, 0.25 * n), 0, None)
    result: Scores = ordered @ (inside / inside.sum())
    return result


def probability_of_improvement(better: Scores, worse: Scores) -> float:
    """Share of paired conversations (ties count half) and pairs of seeds in which ``better`` scored higher.

    Args:
        better: ``(seeds, episodes)``.
        worse: ``(other seeds, episodes)``.
    """
    gap = better[:, None, :] - worse[None, :, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _times_drawn(n: int, n_replicates: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``n`` of ``n`` with replacement: how often each came, ``(n_replicates, n)``."""
    drawn = rng.integers(0, n, size=(n_replicates, n)) + np.arange(n_replicates)[:, None] * n
    return np.bincount(drawn.reshape(-1), minlength=n_replicates * n).reshape(n_replicates, n)


def _require_scores(name: str, values: Scores) -> Scores:
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"scores of {name} must be (seeds, episodes) and not empty, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"scores of {name} must be finite; a run is broken, evaluate it again")
    return values
