"""Which candidates to show: choosing a slate from scores, at most one candidate per category.

Everything here works on a batch of candidate sets. ``categories=None`` means a free slate: any distinct
candidates. Slates are ``(batch, slate_size)`` indices into the candidates, never the same index twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.slate_search import Extension, choice_weights, exchanged_slate, ratio_extension
from pasta_gym import seeding
from pasta_gym.softmax import softmax_mean
from pasta_gym.types import FloatArray, IntArray, UInt64Array

BoolArray = NDArray[np.bool_]


def check_slate_problem(scores: FloatArray, categories: IntArray | None, slate_size: int) -> None:
    """Check that every row of ``scores`` has a legal slate of ``slate_size``.

    Args:
        scores: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None`` for a free slate.
        slate_size: Number of candidates to show, at least 1.

    Raises:
        ValueError: If the shapes do not fit, a score is not finite, or a row has too few candidates or categories.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must have shape (batch, n_candidates), got {scores.shape}; add a batch axis")
    if not 1 <= slate_size <= scores.shape[1]:
        raise ValueError(
            f"slate_size must lie in 1..{scores.shape[1]} (the number of candidates), got {slate_size}; "
            "ask for a smaller slate or more candidates"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise ValueError(f"scores must be finite, row {row} is not; check the observation for NaN or infinity")
    if categories is None:
        return
    if categories.shape != scores.shape:
        raise ValueError(f"categories must have the shape of scores {scores.shape}, got {categories.shape}")
    ordered = np.sort(categories, axis=1)
    n_distinct = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
    if (n_distinct < slate_size).any():
        row = int(np.flatnonzero(n_distinct < slate_size)[0])
        raise ValueError(
            f"a slate of {slate_size} with one candidate per category needs {slate_size} categories, "
            f"row {row} has {int(n_distinct[row])}; ask for a smaller slate or use one_per_category=False"
        )


def value_unit(reward_scale: float) -> float:
    """Size of a large value of a learner whose rewards, utilities x 10, are multiplied by ``reward_scale``."""
    return 10 * reward_scale


def rounded(scores: FloatArray, unit: float = 1.0) -> FloatArray:
    """Round a network's outputs to five decimals of ``unit``, as float64.

    The last bits of a float32 matrix product depend on the size of the batch. Rounded, candidates that are the same
    prompt tie, and the tie goes to the lower index in every batch.

    Args:
        scores: Any shape.
        unit: Size of a typical output, above 0: of values, their :func:`value_unit`.
    """
    return np.round(np.asarray(scores, dtype=np.float64) / unit, 5) * unit


def top_slate(scores: FloatArray, categories: IntArray | None, slate_size: int) -> IntArray:
    """Choose the slate with the largest sum of scores: the best of each category, then the best categories.

    This is the arg max of PASTA's slate value, the mean of the prompt values (equation 1 and section E.3).

    Args:
        scores: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None`` for the top of all candidates.
        slate_size: Number of candidates to show.

    Returns:
        ``(batch, slate_size)`` indices, best first; of equal scores the lower index comes first.

    Raises:
        ValueError: If there is no legal slate; see :func:`check_slate_problem`.
    """
    check_slate_problem(scores, categories, slate_size)
    return _top(scores, categories, slate_size)


def _top(scores: FloatArray, categories: IntArray | None, slate_size: int) -> IntArray:
    order = np.argsort(-scores, axis=1, kind="stable")
    if categories is None:
        return order[:, :slate_size].astype(np.int64)
    ranked = np.take_along_axis(categories, order, axis=1)
    # A candidate is the best of its category when no better-ranked one shares the label.
    same_as_earlier = np.tril(ranked[:, :, None] == ranked[:, None, :], k=-1).any(axis=2)
    first = np.argsort(same_as_earlier, axis=1, kind="stable")[:, :slate_size]
    return np.take_along_axis(order, first, axis=1).astype(np.int64)


def sampled_slate(
    scores: FloatArray, categories: IntArray | None, slate_size: int, *, temperature: float, gumbel_noise: FloatArray
) -> IntArray:
    """Draw a slate one candidate after the other with probability proportional to ``exp(score / temperature)``.

    A drawn candidate, and with ``categories`` all others of its category, cannot be drawn again (appendix G's
    "sampling policy based on a value function"). Adding Gumbel noise and taking the top is that draw.

    Args:
        scores: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        slate_size: Number of candidates to show.
        temperature: Softness, above 0; the greedy slate as it tends to 0.
        gumbel_noise: ``(batch, n_candidates)`` standard Gumbel draws.

    Returns:
        ``(batch, slate_size)`` indices in the order of drawing.

    Raises:
        ValueError: If ``temperature`` is not positive or there is no legal slate.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; for the best slate use top_slate")
    return top_slate(scores / temperature + gumbel_noise, categories, slate_size)


def slate_sampled_by_value(
    values: FloatArray,
    categories: IntArray | None,
    slate_size: int,
    *,
    temperature: float,
    seeds: UInt64Array,
    unit: float = 1.0,
) -> IntArray:
    """Draw slates by the values of prompts (appendix G): :func:`sampled_slate` in units of each row's spread.

    Args:
        values: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        slate_size: Number of candidates to show.
        temperature: Softness, above 0, in standard deviations of the row's values.
        seeds: ``(batch,)`` key of each decision.
        unit: See :func:`rounded`.

    Returns:
        ``(batch, slate_size)`` indices in the order of drawing.

    Raises:
        ValueError: As for :func:`sampled_slate`.
    """
    scores = rounded(values, unit)
    spread = np.maximum(scores.std(axis=1, keepdims=True), 1e-12 * unit)
    noise = seeding.gumbels(seeding.mix(np.asarray(seeds)[:, None], np.arange(scores.shape[1])))
    return sampled_slate(scores / spread, categories, slate_size, temperature=temperature, gumbel_noise=noise)


def slate_by_value(
    values: FloatArray,
    categories: IntArray | None,
    slate_size: int,
    *,
    selection: str,
    temperature: float,
    reward_scale: float,
    seeds: UInt64Array,
) -> IntArray:
    """Choose slates by the values of prompts: the best of them, or a draw.

    Args:
        values: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        slate_size: Number of candidates to show.
        selection: ``greedy`` or ``sample``.
        temperature: Of a draw; see :func:`slate_sampled_by_value`.
        reward_scale: Of the learner; see :func:`value_unit`.
        seeds: ``(batch,)`` key of each draw.

    Returns:
        ``(batch, slate_size)`` indices, best or first drawn first.

    Raises:
        ValueError: As for :func:`sampled_slate`.
    """
    unit = value_unit(reward_scale)
    if selection == "greedy":
        return top_slate(rounded(values, unit), categories, slate_size)
    return slate_sampled_by_value(values, categories, slate_size, temperature=temperature, seeds=seeds, unit=unit)


def choice_weighted_value(slates: IntArray, item_values: FloatArray, choice_logits: FloatArray) -> FloatArray:
    """SlateQ's slate value: the item values, weighted by the probability that the user chooses each item.

    ``Q(h, P) = sum_i P(i | h, P) q(h, i)`` with ``P(i | h, P) = softmax of the choice logits over the slate``.

    Args:
        slates: ``(batch, slate_size)`` indices of candidates.
        item_values: ``(batch, n_candidates)`` value of each candidate, given that it is chosen.
        choice_logits: ``(batch, n_candidates)`` choice scores.

    Returns:
        ``(batch,)`` values.
    """
    logits = np.take_along_axis(choice_logits, slates, axis=1)
    return softmax_mean(np.take_along_axis(item_values, slates, axis=1), logits, axis=1)


def topk_choice_slate(
    item_values: FloatArray, choice_logits: FloatArray, categories: IntArray | None, slate_size: int
) -> IntArray:
    """Choose the slate with the largest sum of ``P(i) q(i)``, where P is over all candidates (a heuristic).

    Args:
        item_values: ``(batch, n_candidates)``.
        choice_logits: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        slate_size: Number of candidates to show.

    Returns:
        ``(batch, slate_size)`` indices, best first.

    Raises:
        ValueError: If there is no legal slate.
    """
    weights = choice_weights(choice_logits)
    return top_slate(weights * item_values, categories, slate_size)


def coordinate_slate(
    item_values: FloatArray,
    choice_logits: FloatArray,
    categories: IntArray | None,
    slate_size: int,
    *,
    max_sweeps: int = 10,
) -> IntArray:
    """Improve :func:`topk_choice_slate` one position at a time until no single exchange helps.

    Where it stops by itself the slate is optimal: for the value ``x`` it has, no exchange raises ``sum w (q - x)``,
    and legal slates are the bases of a matroid, on which a sum has no merely local maximum. Rounding limits it as it
    does :func:`exact_choice_slate`, from which it differs in speed, and when ``max_sweeps`` cuts it short.

    Args:
        item_values: ``(batch, n_candidates)``.
        choice_logits: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        slate_size: Number of candidates to show.
        max_sweeps: Most passes over the positions.

    Returns:
        ``(batch, slate_size)`` indices; their value is at least that of the starting slate.

    Raises:
        ValueError: If there is no legal slate.
    """
    start = topk_choice_slate(item_values, choice_logits, categories, slate_size)
    return exchanged_slate(
        start, _extension(item_values, choice_logits), categories, item_values.shape[1], max_sweeps=max_sweeps
    )


def exact_choice_slate(
    item_values: FloatArray, choice_logits: FloatArray, categories: IntArray | None, slate_size: int
) -> IntArray:
    """Find a slate with the largest choice-weighted value, without enumerating the slates.

    The value is a ratio, ``sum w q / sum w`` with ``w = exp(logit) > 0``. Dinkelbach's method solves it exactly:
    a slate is optimal for the value ``x`` it has if and only if no slate has ``sum w (q - x) > 0``, and the best
    slate of that sum is a plain :func:`top_slate`. Each round strictly raises ``x``, so it ends. Weights are doubles:
    where logits of one row lie more than about 25 apart, an item of which nobody takes notice may be chosen wrongly.

    Args:
        item_values: ``(batch, n_candidates)``.
        choice_logits: ``(batch, n_candidates)``.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        slate_size: Number of candidates to show.

    Returns:
        ``(batch, slate_size)`` indices of an optimal slate.

    Raises:
        ValueError: If there is no legal slate.
    """
    slates = topk_choice_slate(item_values, choice_logits, categories, slate_size)
    weights = choice_weights(choice_logits)
    values = choice_weighted_value(slates, item_values, choice_logits)
    improving = np.arange(len(slates))
    while improving.size:
        rows = improving
        excess = weights[rows] * (item_values[rows] - values[rows, None])
        proposal = _top(excess, None if categories is None else categories[rows], slate_size)
        proposal_values = choice_weighted_value(proposal, item_values[rows], choice_logits[rows])
        better = proposal_values > values[rows] + 1e-12
        improving = rows[better]
        slates[improving] = proposal[better]
        values[improving] = proposal_values[better]
    return slates


def _extension(item_values: FloatArray, choice_logits: FloatArray) -> Extension:
    """One choice model, as a mixture of one."""
    one = np.ones((len(item_values), 1))
    return ratio_extension(item_values[..., None], choice_weights(choice_logits)[..., None], one)
