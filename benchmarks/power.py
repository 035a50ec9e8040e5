"""How many episodes and training seeds it takes to see a difference, from the spread that finished runs show.

Two questions, two numbers. *Are these trained agents different?* Their seeds stay as they are and conversations are
new: a paired t-test over conversations. *Is this way of training better?* Seeds are new too: a t-test whose degrees of
freedom are those of the seeds, which is careful where conversations are most of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from benchmarks.stats import Scores

LEVEL, POWER = 0.05, 0.8
LARGEST = 10_000_000


@dataclass(frozen=True)
class Spread:
    """Variances of paired differences, in squared units of the score.

    Attributes:
        seed: Between training seeds, over all conversations.
        conversation: Between conversations, over all seeds: what the conversation itself favours.
        rest: What is left in one conversation of one seed.
    """

    seed: float
    conversation: float
    rest: float

    def __post_init__(self) -> None:
        if not all(0 <= part < math.inf for part in (self.seed, self.conversation, self.rest)):
            raise ValueError(f"variances must be finite and not below 0, got {self}; check the runs")

    def over_conversations(self, seeds: int, episodes: int) -> float:
        """Variance of the mean difference over new conversations, with the same trained agents."""
        return (self.conversation + self.rest / seeds) / episodes

    def over_both(self, seeds: int, episodes: int) -> float:
        """Variance of the mean difference over new training seeds and new conversations."""
        return self.seed / seeds + self.over_conversations(seeds, episodes)


def spread_of(differences: Scores) -> Spread:
    """Split the variance of paired differences by a two-way analysis of variance without repeats.

    Args:
        differences: ``(seeds, episodes)``. Of one seed nothing is known between seeds: ``seed`` is 0 and all is
            ``conversation``.

    Returns:
        Estimates by the method of moments, those below 0 set to 0.

    Raises:
        ValueError: If there are fewer than two episodes, or values are not finite.
    """
    between_seeds, between_conversations, rest = _mean_squares(differences)
    n_seeds, n_episodes = differences.shape
    return Spread(
        seed=max(between_seeds - rest, 0.0) / n_episodes,
        conversation=max(between_conversations - rest, 0.0) / n_seeds,
        rest=rest,
    )


def _mean_squares(differences: Scores) -> tuple[float, float, float]:
    """Mean squares between seeds, between conversations and of the rest."""
    if differences.ndim != 2 or differences.shape[0] < 1 or differences.shape[1] < 2:
        raise ValueError(
            f"differences must be (seeds, episodes) with two episodes or more, got shape {differences.shape}; "
            "evaluate more"
        )
    if not np.isfinite(differences).all():
        raise ValueError("differences must be finite; a run is broken, evaluate it again")
    n_seeds, n_episodes = differences.shape
    of_seed, of_episode = differences.mean(axis=1), differences.mean(axis=0)
    conversation = n_seeds * float(of_episode.var(ddof=1))
    if n_seeds == 1:
        return 0.0, conversation, 0.0
    left = differences - of_seed[:, None] - of_episode + differences.mean()
    rest = float((left**2).sum()) / ((n_seeds - 1) * (n_episodes - 1))
    return n_episodes * float(of_seed.var(ddof=1)), conversation, rest


def seed_test(differences: Scores) -> float:
    """Test whether the mean difference is zero over new training seeds and new conversations.

    A t-test with ``seeds - 1`` degrees of freedom; its variance adds that of the seeds to that of the conversations
    which they share, so it is the one-sample t-test of the seeds' means plus what those means have in common.

    Args:
        differences: ``(seeds, episodes)``, two or more of each.

    Returns:
        Two-sided p-value.

    Raises:
        ValueError: If there are fewer than two seeds or episodes.
    """
    n_seeds, n_episodes = differences.shape
    if n_seeds < 2:
        raise ValueError(f"a test over training seeds needs two of them, got {n_seeds}; train more")
    between_seeds, between_conversations, rest = _mean_squares(differences)
    variance = (between_seeds + max(between_conversations - rest, 0.0)) / (n_seeds * n_episodes)
    mean = abs(float(differences.mean()))
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * scipy_stats.t.sf(mean / math.sqrt(variance), n_seeds - 1))


def t_power(size: float, variance: float, degrees: float, level: float = LEVEL) -> float:
    """Probability that a two-sided t-test finds a difference.

    Args:
        size: The true difference.
        variance: Variance of its estimate.
        degrees: Degrees of freedom of that variance.
        level: Of the test.

    Raises:
        ValueError: If ``level`` is not inside (0, 1), or ``degrees`` is below 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be inside (0, 1), got {level}; 0.05 is usual")
    if degrees < 1:
        raise ValueError(f"degrees of freedom must be 1 or more, got {degrees}; use two seeds or episodes or more")
    if size == 0:
        return level
    if variance == 0:
        return 1.0
    shift = abs(size) / math.sqrt(variance)
    bound = float(scipy_stats.t.isf(level / 2, degrees))
    if degrees > 1e5:
        return float(scipy_stats.norm.sf(bound - shift) + scipy_stats.norm.cdf(-bound - shift))
    if shift > 35:
        # scipy's series fail this far out, where only the estimate of the variance can hide the difference.
        return float(scipy_stats.chi2.cdf(degrees * (shift / bound) ** 2, degrees))
    wrong_sign = scipy_stats.nct.cdf(-bound, degrees, shift) if shift < 5 else 0.0  # below 1e-6 beyond
    return float(scipy_stats.nct.sf(bound, degrees, shift) + wrong_sign)


def episodes_needed(
    size: float, spread: Spread, seeds: int, *, power: float = POWER, level: float = LEVEL
) -> int | None:
    """Count the episodes a seed with which these trained agents are told apart.

    Args:
        size: The difference to see.
        spread: Of the paired differences (see :func:`spread_of`).
        seeds: Training seeds, all scored on the same conversations.
        power: Probability of seeing it.
        level: Of the two-sided test.

    Returns:
        The smallest number, two at least; None beyond ``LARGEST``.
    """

    def power_of(episodes: int) -> float:
        return t_power(size, spread.over_conversations(seeds, episodes), episodes - 1, level)

    return _smallest(power_of, power)


def seeds_needed(
    size: float, spread: Spread, episodes: int, *, power: float = POWER, level: float = LEVEL
) -> int | None:
    """Count the training seeds, each with so many episodes, with which the ways of training are told apart.

    Args:
        size: The difference to see.
        spread: Of the paired differences, of two seeds or more.
        episodes: Conversations, the same for every seed.
        power: Probability of seeing it.
        level: Of the two-sided test.

    Returns:
        The smallest number, two at least; None where no number is enough, because the seeds share their conversations
        and these alone leave too much noise.
    """

    def power_of(seeds: int) -> float:
        return t_power(size, spread.over_both(seeds, episodes), seeds - 1, level)

    return _smallest(power_of, power)


def smallest_difference(
    spread: Spread, seeds: int, episodes: int, *, power: float = POWER, level: float = LEVEL
) -> float:
    """Find the difference that these trained agents would show with the given probability.

    Args:
        spread: Of the paired differences.
        seeds: Training seeds.
        episodes: Conversations a seed, two or more.
        power: Probability of seeing it.
        level: Of the two-sided test.

    Returns:
        In units of the score; 0 where differences do not vary.
    """
    variance = spread.over_conversations(seeds, episodes)
    low, high = 0.0, math.sqrt(variance)
    while high > 0 and t_power(high, variance, episodes - 1, level) < power:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        found = t_power(middle, variance, episodes - 1, level) >= power
        low, high = (low, middle) if found else (middle, high)
    return high


def _smallest(power_of: Callable[[int], float], wanted: float) -> int | None:
    """Bisect for the smallest count, two or more, whose power is enough; power rises with the count."""
    if not 0 < wanted < 1:
        raise ValueError(f"power must be inside (0, 1), got {wanted}; 0.8 is usual")
    high = 2
    while power_of(high) < wanted:
        if high >= LARGEST:
            return None
        high = min(2 * high, LARGEST)
    low = high // 2
    while high - low > 1 and high > 2:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= wanted else (middle, high)
    return high
