"""One number for an agent over training seeds, worlds and reward modes, with intervals from resamples within each.

A *run* is one training seed in one stratum; its score is the mean over its conversations, on the scale from random (0)
to the clairvoyant (1) of that stratum. Every statistic here is a function of strata and draws: the estimate is what it
says of the draw in which everything comes once, and the interval is what it says of resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.stats import Interval, Scores, interquartile_mean, interval, scale_width, spans_scale


@dataclass(frozen=True)
class Stratum:
    """A world and a reward mode, which resamples keep apart.

    Attributes:
        name: For the person who reads.
        scores: ``(seeds, episodes)`` returns of each agent; the number of episodes is common, that of seeds is not.
        conversations: Strata in which column ``e`` is the same conversation have equal values here, such as the two
            reward modes of a world. Their conversations are drawn together, because luck in one is luck in the other.
    """

    name: str
    scores: Mapping[str, Scores]
    conversations: Hashable

    def __post_init__(self) -> None:
        sizes = {agent: np.shape(values) for agent, values in self.scores.items()}
        if not sizes or any(len(size) != 2 or 0 in size for size in sizes.values()):
            raise ValueError(f"scores of {self.name} must be (seeds, episodes) and not empty, got shapes {sizes}")
        if len({size[1] for size in sizes.values()}) > 1:
            raise ValueError(f"agents of {self.name} must be scored on the same episodes, got shapes {sizes}")
        if not all(np.isfinite(values).all() for values in self.scores.values()):
            raise ValueError(f"scores of {self.name} must be finite; a run is broken, evaluate it again")

    @property
    def n_episodes(self) -> int:
        """Number of conversations."""
        return int(next(iter(self.scores.values())).shape[1])


@dataclass(frozen=True)
class Draw:
    """What ``R`` resamples of a stratum hold.

    Attributes:
        times: ``(R, episodes)`` how often each conversation came; rows sum to the number of episodes.
        rows: ``(R, seeds)`` indices of the training seeds of each agent.
    """

    times: Scores
    rows: Mapping[str, NDArray[np.int64]]

    def first(self, n: int) -> Draw:
        """Keep the first resamples alone."""
        return Draw(self.times[:n], {agent: rows[:n] for agent, rows in self.rows.items()})


def as_played(strata: Sequence[Stratum]) -> list[Draw]:
    """Draw every conversation and every seed once: statistics of it are the estimates."""
    return [
        Draw(
            np.ones((1, stratum.n_episodes)),
            {agent: np.arange(len(values))[None] for agent, values in stratum.scores.items()},
        )
        for stratum in strata
    ]


def resample(strata: Sequence[Stratum], rng: np.random.Generator, n_replicates: int = 2000) -> list[Draw]:
    """Draw with replacement within each stratum.

    Conversations are drawn once for all agents and for all strata that share them; training seeds are drawn for each
    agent and stratum by itself.

    Args:
        strata: What is resampled.
        rng: Source of the resamples; equal states give equal draws.
        n_replicates: How many.

    Returns:
        One entry a stratum, in their order.

    Raises:
        ValueError: If there is no stratum or replicate, or if strata with equal conversations have other numbers of
            them.
    """
    if not strata or n_replicates < 1:
        raise ValueError(f"resamples need a stratum and a replicate, got {len(strata)} and {n_replicates}; give more")
    times: dict[Hashable, Scores] = {}
    draws = []
    for stratum in strata:
        n, key = stratum.n_episodes, stratum.conversations
        if key not in times:
            times[key] = rng.multinomial(n, np.full(n, 1 / n), size=n_replicates).astype(np.float64)
        if times[key].shape[1] != n:
            raise ValueError(
                f"{stratum.name} has {n} conversations and another stratum with the same ones {times[key].shape[1]}; "
                "take those that both have"
            )
        rows = {
            agent: rng.integers(0, len(values), size=(n_replicates, len(values)))
            for agent, values in stratum.scores.items()
        }
        draws.append(Draw(times[key], rows))
    return draws


def run_means(values: Scores, draw: Draw, agent: str) -> Scores:
    """Mean score of each drawn seed over the drawn conversations, ``(R, seeds)``, from ``(seeds, episodes)``."""
    of_seed = draw.times @ values.T / values.shape[1]
    taken: Scores = np.take_along_axis(of_seed, draw.rows[agent], axis=1)
    return taken


def has_scale(stratum: Stratum, draw: Draw, *, zero: str = "random", one: str = "clairvoyant") -> bool:
    """Whether ``one`` is above ``zero`` in every draw, so that normalised scores are defined."""
    if not {zero, one} <= set(stratum.scores):
        return False
    return spans_scale(_drawn_mean(stratum, draw, zero), _drawn_mean(stratum, draw, one))


def normalised_runs(
    strata: Sequence[Stratum], draws: Sequence[Draw], *, zero: str = "random", one: str = "clairvoyant"
) -> dict[str, list[Scores]]:
    """Put runs on the scale where the mean of ``zero`` is 0 and that of ``one`` is 1, both as drawn.

    Returns:
        Of each agent that is in all strata: ``(R, seeds)`` a stratum, in their order.

    Raises:
        ValueError: If ``one`` is not above ``zero`` in some draw of a stratum.
    """
    shared = [agent for agent in strata[0].scores if all(agent in stratum.scores for stratum in strata)]
    runs: dict[str, list[Scores]] = {agent: [] for agent in shared}
    for stratum, draw in zip(strata, draws, strict=True):
        if not has_scale(stratum, draw, zero=zero, one=one):
            raise ValueError(
                f"{one} must be above {zero} in every resample of {stratum.name} to make a scale of them; "
                "score both on more conversations"
            )
        bottom = _drawn_mean(stratum, draw, zero)[:, None]
        width = scale_width(bottom, _drawn_mean(stratum, draw, one)[:, None])
        for agent in shared:
            runs[agent].append((run_means(stratum.scores[agent], draw, agent) - bottom) / width)
    return runs


def _drawn_mean(stratum: Stratum, draw: Draw, agent: str) -> Scores:
    """Mean of all runs of an agent in each draw, ``(R,)``."""
    mean: Scores = run_means(stratum.scores[agent], draw, agent).mean(axis=1)
    return mean


def pooled(runs: Sequence[Scores]) -> Scores:
    """Join the runs of all strata, ``(R, runs)``. A run counts once, whatever its stratum."""
    return np.concatenate(runs, axis=-1)


def optimality_gap(values: Scores, target: float = 1.0, axis: int = -1) -> Scores:
    """Mean shortfall below ``target`` along an axis; what lies above it counts as no shortfall, not as a gain."""
    gap: Scores = np.maximum(target - np.asarray(values, dtype=np.float64), 0).mean(axis=axis)
    return gap


AGGREGATES: dict[str, Callable[[Scores], Scores]] = {
    "interquartile_mean": interquartile_mean,
    "optimality_gap": optimality_gap,
}
"""Statistics of normalised runs, along the last axis."""


def aggregate_intervals(
    now: Mapping[str, Sequence[Scores]], drawn: Mapping[str, Sequence[Scores]], statistic: Callable[[Scores], Scores]
) -> dict[str, Interval]:
    """Apply a statistic to the runs of each agent, with its 95% interval.

    Args:
        now: Normalised runs as played (see :func:`normalised_runs`).
        drawn: The same of resamples.
        statistic: From ``(R, runs)`` to ``(R,)``.
    """
    return {
        agent: interval(float(statistic(pooled(runs))[0]), statistic(pooled(drawn[agent])))
        for agent, runs in now.items()
    }


def share_higher(better: Scores, worse: Scores) -> Scores:
    """Share of pairs in which ``better`` is higher, ties counting half: Mann and Whitney's U over the number of pairs.

    Args:
        better: ``(..., n)``.
        worse: ``(..., m)``.

    Returns:
        ``(...)`` in [0, 1].
    """
    gap = better[..., :, None] - worse[..., None, :]
    share: Scores = ((gap > 0) + 0.5 * (gap == 0)).mean(axis=(-2, -1))
    return share


def improvement_of_runs(better: Sequence[Scores], worse: Sequence[Scores]) -> Scores:
    """Probability that a run of one agent is above a run of another in the same stratum, ``(R,)``.

    Args:
        better: ``(R, seeds)`` a stratum.
        worse: ``(R, other seeds)`` a stratum, in the same order.

    Returns:
        The mean over strata of :func:`share_higher`.
    """
    shares = [share_higher(ours, theirs) for ours, theirs in zip(better, worse, strict=True)]
    mean: Scores = np.mean(shares, axis=0)
    return mean


def improvement_in_conversations(strata: Sequence[Stratum], draws: Sequence[Draw], better: str, worse: str) -> Scores:
    """Probability that a user does better with one agent than with another in the same conversation, ``(R,)``.

    Ties count half, every pair of their seeds counts once, and the result is the mean over strata.
    """
    shares = []
    for stratum, draw in zip(strata, draws, strict=True):
        ours, theirs = stratum.scores[better], stratum.scores[worse]
        gap = ours[:, None, :] - theirs[None, :, :]
        higher = ((gap > 0) + 0.5 * (gap == 0)).reshape(-1, stratum.n_episodes)
        of_pair = draw.times @ higher.T / stratum.n_episodes  # (R, seeds x other seeds)
        pairs = draw.rows[better][:, :, None] * len(theirs) + draw.rows[worse][:, None, :]
        shares.append(np.take_along_axis(of_pair, pairs.reshape(len(pairs), -1), axis=1).mean(axis=1))
    mean: Scores = np.mean(shares, axis=0)
    return mean
