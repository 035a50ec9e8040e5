"""Searching for a slate one candidate at a time: greedily, or by exchanges while one helps.

A slate's value enters as an *extension*: a function that adds each candidate in turn to slates that lack one. Choice
models with one temperature have a fast one; those whose temperature depends on the slate have one that scores every
slate anew. Legal slates hold at most one candidate a category; ``categories=None`` means any distinct candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pasta_gym.softmax import softmax_mean
from pasta_gym.types import FloatArray, IntArray

Extension = Callable[[IntArray], FloatArray]
"""Slates ``(batch, l)`` of distinct candidates to the values ``(batch, n_candidates)`` of each with one added."""

ChoiceLogits = Callable[[FloatArray], FloatArray]
"""Utilities of slates ``(..., l)`` to their choice logits, same shape."""


def choice_weights(choice_logits: FloatArray) -> FloatArray:
    """Exponentials of logits, each row's largest 1 and none 0, so that ratios of their sums are defined.

    Args:
        choice_logits: ``(batch, n_candidates, ...)``; the largest is taken over the candidates.

    Returns:
        The same shape, float64.
    """
    logits = choice_logits - choice_logits.max(axis=1, keepdims=True)
    return np.asarray(np.exp(np.maximum(logits, -500.0).astype(np.float64)))


def ratio_extension(item_values: FloatArray, weights: FloatArray, belief: FloatArray) -> Extension:
    r"""Extend slates whose value is :math:`\sum_k b_k \sum_i w_{ik} q_{ik} / \sum_i w_{ik}`.

    Args:
        item_values: ``(batch, n_candidates, K)`` value of each candidate to each component, given that it is chosen.
        weights: ``(batch, n_candidates, K)`` positive choice weights; see :func:`choice_weights`.
        belief: ``(batch, K)`` probability of each component.

    Returns:
        The extension.
    """
    paid = weights * item_values

    def extend(slates: IntArray) -> FloatArray:
        of_slates = slates[..., None]
        numerator = np.take_along_axis(paid, of_slates, axis=1).sum(axis=1)[:, None] + paid
        denominator = np.take_along_axis(weights, of_slates, axis=1).sum(axis=1)[:, None] + weights
        return np.asarray((belief[:, None] * numerator / denominator).sum(axis=2))

    return extend


def slate_extension(
    item_values: FloatArray, utilities: FloatArray, choice_logits: ChoiceLogits, belief: FloatArray
) -> Extension:
    """Extend slates whose choice logits depend on the whole slate, as with a learned temperature function.

    Args:
        item_values: ``(batch, n_candidates, K)`` value of each candidate to each component, given that it is chosen.
        utilities: ``(batch, n_candidates, K)`` what the choice goes by.
        choice_logits: The choice model.
        belief: ``(batch, K)`` probability of each component.

    Returns:
        The extension.
    """
    n_candidates = utilities.shape[1]

    def extend(slates: IntArray) -> FloatArray:
        batch, size = slates.shape
        longer = np.empty((batch, n_candidates, size + 1), dtype=np.int64)
        longer[..., :size] = slates[:, None]
        longer[..., size] = np.arange(n_candidates)
        return slate_values(longer, item_values, utilities, choice_logits, belief)

    return extend


def slate_values(
    slates: IntArray, item_values: FloatArray, utilities: FloatArray, choice_logits: ChoiceLogits, belief: FloatArray
) -> FloatArray:
    """Value slates under any choice model: item values weighted by choice probabilities, averaged over the belief.

    Args:
        slates: ``(batch, n_slates, l)`` indices of candidates.
        item_values: ``(batch, n_candidates, K)``.
        utilities: ``(batch, n_candidates, K)``.
        choice_logits: The choice model.
        belief: ``(batch, K)``.

    Returns:
        ``(batch, n_slates)``.
    """
    rows = np.arange(len(slates))[:, None, None]
    shown = np.moveaxis(utilities[rows, slates], -1, 1)  # (batch, K, n_slates, l)
    values = np.moveaxis(item_values[rows, slates], -1, 1)
    logits = np.asarray(choice_logits(shown), dtype=np.float64)
    return np.asarray(np.einsum("bk,bkn->bn", belief, softmax_mean(values, logits)))


def greedy_slate(extend: Extension, categories: IntArray | None, n_candidates: int, batch: int, size: int) -> IntArray:
    """Add the candidate that makes the best slate of the ones so far, until there are enough.

    Args:
        extend: The value.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        n_candidates: How many there are.
        batch: How many slates are wanted.
        size: Candidates of each.

    Returns:
        ``(batch, size)`` indices; of equal candidates the lower one.
    """
    labels = candidate_labels(categories, batch, n_candidates)
    slates = np.empty((batch, 0), dtype=np.int64)
    for _ in range(size):
        best = np.where(_taken(labels, slates), -np.inf, extend(slates)).argmax(axis=1)
        slates = np.concatenate([slates, best[:, None]], axis=1)
    return slates


def exchanged_slate(
    start: IntArray, extend: Extension, categories: IntArray | None, n_candidates: int, *, max_sweeps: int = 10
) -> IntArray:
    """Improve slates one position at a time until no single exchange helps (coordinate ascent).

    Args:
        start: ``(batch, slate_size)`` legal slates.
        extend: The value.
        categories: ``(batch, n_candidates)`` labels, or ``None``.
        n_candidates: How many there are.
        max_sweeps: Most passes over the positions.

    Returns:
        ``(batch, slate_size)`` indices; their value is at least that of the start.
    """
    slates, rows = start.copy(), np.arange(len(start))
    labels = candidate_labels(categories, len(start), n_candidates)
    for _ in range(max_sweeps):
        before = slates.copy()
        for position in range(slates.shape[1]):
            others = np.delete(slates, position, axis=1)
            value = np.where(_taken(labels, others), -np.inf, extend(others))
            best = value.argmax(axis=1)
            # Rounding may make an equal slate look better: exchange for a real gain only.
            gain = value[rows, best] - value[rows, slates[:, position]]
            slates[:, position] = np.where(gain > 1e-12, best, slates[:, position])
        if np.array_equal(before, slates):
            break
    return slates


def candidate_labels(categories: IntArray | None, batch: int, n_candidates: int) -> IntArray:
    """Return categories, or for a free slate a category of its own for each candidate, ``(batch, n_candidates)``."""
    if categories is not None:
        return categories
    labels: IntArray = np.broadcast_to(np.arange(n_candidates), (batch, n_candidates))
    return labels


def _taken(labels: IntArray, slates: IntArray) -> np.ndarray:
    """Whether a candidate's category is in the slate already, ``(batch, n_candidates)``."""
    shown = np.take_along_axis(labels, slates, axis=1)
    return np.asarray((labels[:, :, None] == shown[:, None, :]).any(axis=2))
