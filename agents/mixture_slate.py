"""The best slate for somebody who may be of several kinds: choice-weighted values, averaged over a belief."""

from __future__ import annotations

import numpy as np

from agents.slate_search import choice_weights, exchanged_slate, ratio_extension
from agents.slate_selection import top_slate
from pasta_gym.softmax import softmax_mean
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
    values = np.take_along_axis(item_values, slates[..., None], axis=1)
    return np.asarray((belief * softmax_mean(values, logits, axis=1)).sum(axis=1))


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
    weights = choice_weights(choice_logits)
    extend = ratio_extension(item_values, weights, belief)
    by_value = top_slate((belief[:, None] * item_values).sum(axis=2), categories, slate_size)
    share = weights / weights.sum(axis=1, keepdims=True)
    by_share = top_slate((belief[:, None] * share * item_values).sum(axis=2), categories, slate_size)
    climbed = [
        exchanged_slate(start, extend, categories, item_values.shape[1], max_sweeps=max_sweeps)
        for start in (by_value, by_share)
    ]
    first, second = (mixture_slate_value(slates, item_values, choice_logits, belief) for slates in climbed)
    return np.where((second > first + 1e-12)[:, None], climbed[1], climbed[0])
