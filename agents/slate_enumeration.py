"""The best slate by trying them all: exact for any choice model and any belief.

With 25 candidates and slates of four there are 3,125 slates of one prompt a category (five categories of five) and
12,650 free ones. A value here is the expected utility of the chosen column, or any other value of what is chosen,
averaged over samples of pictures and of types.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agents.slate_search import ChoiceLogits, candidate_labels
from pasta_gym.softmax import softmax_mean
from pasta_gym.types import FloatArray, IntArray


def best_slates(
    utilities: FloatArray,
    weights: FloatArray,
    categories: IntArray | None,
    slate_size: int,
    *,
    choice_logits: ChoiceLogits,
    has_constant_temperature: bool,
    item_values: FloatArray | None = None,
) -> IntArray:
    """Find the slate with the largest expected value of the chosen column, by enumeration.

    Args:
        utilities: ``(B, S, C)`` of candidates in samples (of pictures, or of pictures and types).
        weights: ``(S,)`` probability of each sample, or ``(B, S)``.
        categories: ``(B, C)`` for slates of one prompt a category, or ``None`` for free ones.
        slate_size: The paper's ``L``.
        choice_logits: The choice model, of the utilities.
        has_constant_temperature: Whether a column's logit depends on its own utility alone; then all slates' values
            are a few products of matrices, else every slate is scored by itself.
        item_values: ``(B, S, C)`` what is earned when a candidate is chosen, where that is not its utility.

    Returns:
        ``(B, L)`` places; among equal slates the first of the table.

    Raises:
        ValueError: If there is no legal slate.
    """
    utilities = np.asarray(utilities)
    values = utilities if item_values is None else item_values
    labels = candidate_labels(categories, len(utilities), utilities.shape[2])
    weights = np.broadcast_to(weights, utilities.shape[:2])
    chances = sample_choice_weights(utilities, choice_logits) if has_constant_temperature else None
    slates = np.empty((len(utilities), slate_size), dtype=np.int64)
    for rows, table, members in tables(labels, slate_size):
        if chances is not None:
            scores = expected_chosen_values(values[rows], chances[rows], weights[rows], members)
        else:
            scores = _values_slate_by_slate(values[rows], utilities[rows], choice_logits, weights[rows], table)
        slates[rows] = table[scores.argmax(axis=1)]
    return slates


def sample_choice_weights(utilities: FloatArray, choice_logits: ChoiceLogits) -> FloatArray:
    """Exponentials of choice logits, ``(..., C)``, scaled so that the largest of the last axis is 1."""
    logits = np.asarray(choice_logits(utilities), dtype=np.float32)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights: FloatArray = np.exp(np.maximum(shifted, -80.0))  # the floor keeps sums above 0 in float32
    return weights


def expected_chosen_values(
    item_values: FloatArray, chances: FloatArray, weights: FloatArray, members: NDArray[np.float32]
) -> FloatArray:
    r"""Value all slates of a table under a choice model with one temperature.

    A slate's value in sample ``s`` is :math:`\sum_i e^{l_i} q_i / \sum_i e^{l_i}` (equation 4): both sums over
    all slates are products with a table of zeros and ones.

    Args:
        item_values: ``(B, S, C)``.
        chances: ``(B, S, C)`` positive, exponentials of the choice logits up to a factor for each sample.
        weights: ``(B, S)`` probability of each sample, or ``(S,)``.
        members: ``(C, P)``, 1 where slate ``p`` holds candidate ``c``.

    Returns:
        ``(B, P)`` float32.
    """
    chosen = np.asarray(chances, dtype=np.float32)
    paid = chosen * np.asarray(item_values, dtype=np.float32)
    shares = np.broadcast_to(weights, paid.shape[:2]).astype(np.float32)
    values = np.zeros((len(paid), members.shape[1]), dtype=np.float32)
    for sample in range(paid.shape[1]):
        ratio = paid[:, sample] @ members
        ratio /= chosen[:, sample] @ members
        ratio *= shares[:, sample, None]
        values += ratio
    return values


def _values_slate_by_slate(
    item_values: FloatArray, utilities: FloatArray, choice_logits: ChoiceLogits, weights: FloatArray, table: IntArray
) -> FloatArray:
    """The same values ``(B, P)`` for choice logits that depend on the whole slate."""
    scores = np.zeros((len(utilities), len(table)))
    for sample in range(utilities.shape[1]):
        shown = np.asarray(utilities[:, sample], dtype=np.float64)[:, table]  # (B, P, L)
        logits = np.asarray(choice_logits(shown), dtype=np.float64)
        earned = softmax_mean(np.asarray(item_values[:, sample])[:, table], logits)
        scores += weights[:, sample, None] * earned
    return scores


def tables(labels: IntArray, slate_size: int) -> Iterator[tuple[IntArray, IntArray, NDArray[np.float32]]]:
    """Group conversations ``(B, C)`` by the layout of their categories.

    Yields:
        Rows of each group, its table of slates, and the table as zeros and ones; see :func:`slate_table`.
    """
    layouts, group = np.unique(labels, axis=0, return_inverse=True)
    for index, layout in enumerate(layouts):
        table, members = slate_table(tuple(int(c) for c in layout), slate_size)
        yield np.flatnonzero(group.reshape(-1) == index), table, members


@lru_cache(maxsize=64)
def slate_table(categories: tuple[int, ...], slate_size: int) -> tuple[IntArray, NDArray[np.float32]]:
    """List every slate with at most one prompt a category: 3,125 for four of five categories of five.

    Args:
        categories: Category of each of ``C`` candidates; all different for free slates.
        slate_size: The paper's ``L``.

    Returns:
        ``(P, L)`` places in the candidates, and ``(C, P)`` ones where a slate holds a candidate.

    Raises:
        ValueError: If there are fewer categories than ``slate_size``.
    """
    places = [[i for i, c in enumerate(categories) if c == category] for category in sorted(set(categories))]
    if not 1 <= slate_size <= len(places):
        raise ValueError(f"slate_size must be in 1..{len(places)}, the number of categories, got {slate_size}")
    rows = [slate for chosen in itertools.combinations(places, slate_size) for slate in itertools.product(*chosen)]
    table = np.array(rows, dtype=np.int64)
    members = np.zeros((len(categories), len(table)), dtype=np.float32)
    members[table, np.arange(len(table))[:, None]] = 1.0
    return table, members
