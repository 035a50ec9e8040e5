"""The best slate for somebody who may be of several kinds: choice-weighted values, averaged over a belief."""

from __future__ import annotations

import numpy as np

from agents.slate_selection import top_slate
from pasta_gym.types import FloatArray, IntArray


def mixture_slate_value(
    slates: IntArray, item_values: FloatArray, choice_logits: FloatArray, belief: FloatArray
) -> FloatArray:
    r"""Value slates under a mixture of choice models, ``sum_k b_k sum_i P_k(i | P) q_k(i)``.

    One item a taste can be better than the best items on average, because everybody chooses what suits them: the
    value of covering several tastes, which no single softmax has.

    Args:
        slates: ``(batch, slate_size)`` indices of candidates.
        item_values: ``(batch, n_candidates, K)`` value of each candidate to each component, given that it is chosen.
        choice_logits: ``(batch, n_candidates, K)`` choice scores.
        belief: ``(batch, K)`` probability of each component.

    Returns:
        ``(batch,)`` values.
    """
    logits = np.take_along_axis(choice_logits, slates[..., None], axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    values = np.take_along_axis(item_values, slates[..., None], axis=1)
    of_components = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return np.asarray((belief * of_components).sum(axis=1))


def mixture_slate(
    item_values: FloatArray,
    choice_logits: FloatArray,
    belief: FloatArray,
    categories: IntArray | None,
    slate_size: int,
    *,
    max_sweeps: int = 10,
) -> IntArray:
    """Find a slate that no exchange of one item improves, from two starts: the better one is taken.

    The value is a sum of ratios, for which the exact method of one ratio does not work, and an exchange can end beside
    the optimum. On random problems of this size it loses a few per cent of the gain over the start.

    Args:
        item_values: ``(batch, n_candidates, K)``.
        choice_logits: ``(batch, n_candidates, K)``.
        belief: ``(batch, K)``.
        categories: ``(batch, n_candidates)`` labels, or ``None`` for a free slate.
        slate_size: Number of candidates to show.
        max_sweeps: Most passes over the positions.

    Returns:
        ``(batch, slate_size)`` indices.

    Raises:
        ValueError: If there is no legal slate; see :func:`agents.slate_selection.check_slate_problem`.
    """
    weights = _choice_weights(choice_logits)
    labels = (
        np.broadcast_to(np.arange(item_values.shape[1]), item_values.shape[:2]) if categories is None else categories
    )
    by_value = top_slate((belief[:, None] * item_values).sum(axis=2), categories, slate_size)
    share = weights / weights.sum(axis=1, keepdims=True)
    by_share = top_slate((belief[:, None] * share * item_values).sum(axis=2), categories, slate_size)
    climbed = [_exchange(start, item_values, weights, belief, labels, max_sweeps) for start in (by_value, by_share)]
    first, second = (mixture_slate_value(slates, item_values, choice_logits, belief) for slates in climbed)
    return np.where((second > first + 1e-12)[:, None], climbed[1], climbed[0])


def _exchange(
    slates: IntArray,
    item_values: FloatArray,
    weights: FloatArray,
    belief: FloatArray,
    labels: IntArray,
    max_sweeps: int,
) -> IntArray:
    """Exchange one position at a time while a slate of the batch improves."""
    slates, rows, paid = slates.copy(), np.arange(len(slates)), weights * item_values
    for _ in range(max_sweeps):
        before = slates.copy()
        for position in range(slates.shape[1]):
            others = np.delete(slates, position, axis=1)
            of_others = others[..., None]
            numerator = np.take_along_axis(paid, of_others, axis=1).sum(axis=1)[:, None] + paid
            denominator = np.take_along_axis(weights, of_others, axis=1).sum(axis=1)[:, None] + weights
            value = (belief[:, None] * numerator / denominator).sum(axis=2)
            taken = (labels[:, :, None] == np.take_along_axis(labels, others, axis=1)[:, None, :]).any(axis=2)
            value = np.where(taken, -np.inf, value)
            best = value.argmax(axis=1)
            # Rounding may make an equal slate look better: exchange for a real gain only.
            gain = value[rows, best] - value[rows, slates[:, position]]
            slates[:, position] = np.where(gain > 1e-12, best, slates[:, position])
        if np.array_equal(before, slates):
            break
    return slates


def _choice_weights(choice_logits: FloatArray) -> FloatArray:
    """Exponentials of the logits, ``(batch, n_candidates, K)``, the largest of each component 1 and none 0."""
    logits = choice_logits - choice_logits.max(axis=1, keepdims=True)
    return np.asarray(np.exp(np.maximum(logits, -500.0).astype(np.float64)))
