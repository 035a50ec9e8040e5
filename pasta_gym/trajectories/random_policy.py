"""The logging policy: a uniformly random slate with at most one prompt a category."""

from __future__ import annotations

import math

import numpy as np

from pasta_gym import seeding
from pasta_gym.types import FloatArray, IntArray, UInt64Array

NAME = "random_one_per_category"
# Salts that keep the two draws of one decision apart.
_WITHIN, _AMONG = 1, 2


def random_slates(categories: IntArray, keys: UInt64Array, slate_size: int) -> tuple[IntArray, FloatArray]:
    """Draw ``slate_size`` different categories, then one candidate of each.

    Args:
        categories: ``(B, C)`` category of each candidate, 0 or more; categories may differ in size and be empty.
        keys: ``(B,)`` key of each decision. The same key and categories give the same slate in any batch.
        slate_size: Prompts of a slate, the paper's ``L``.

    Returns:
        Slates ``(B, L)`` as places in the candidates, and ``(B,)`` the probability of each slate as a set.

    Raises:
        ValueError: If a row has fewer categories than ``slate_size``.
    """
    categories = np.asarray(categories, dtype=np.int64)
    n_candidates = categories.shape[1]
    sizes = category_sizes(categories)  # (B, G)
    _require_enough(sizes, slate_size)
    keys = np.asarray(keys, dtype=np.uint64)[:, None]
    luck = seeding.uniforms(seeding.mix(keys, _WITHIN, np.arange(n_candidates)))  # (B, C)
    winners = np.empty(sizes.shape, dtype=np.int64)
    for category in range(sizes.shape[1]):
        winners[:, category] = np.where(categories == category, luck, -1.0).argmax(axis=1)
    among = seeding.uniforms(seeding.mix(keys, _AMONG, np.arange(sizes.shape[1])))
    order = np.argsort(np.where(sizes > 0, among, -1.0), axis=1)[:, ::-1][:, :slate_size]
    slates: IntArray = np.take_along_axis(winners, order, axis=1)
    return slates, slate_probabilities(categories, slates)


def slate_probabilities(categories: IntArray, slates: IntArray) -> FloatArray:
    """Probability that :func:`random_slates` shows each slate, whatever its order.

    With ``G`` categories that are not empty it is ``1 / binomial(G, L)`` times one over the size of each
    category shown; 0 if a category occurs twice. Five categories of five and slates of four: 1/3125.

    Args:
        categories: ``(B, C)``.
        slates: ``(B, L)`` places in the candidates.

    Returns:
        ``(B,)`` float64.
    """
    slate_size = slates.shape[1]
    sizes = category_sizes(categories)
    shown = np.take_along_axis(categories, slates, axis=1)
    subsets = np.array([math.comb(int(g), slate_size) for g in range(sizes.shape[1] + 1)], dtype=np.float64)
    n_subsets = subsets[(sizes > 0).sum(axis=1)]
    ordered = np.sort(shown, axis=1)
    distinct = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1) & (n_subsets > 0)
    ways = n_subsets * np.take_along_axis(sizes, shown, axis=1).prod(axis=1)
    probabilities: FloatArray = np.where(distinct, 1.0 / np.maximum(ways, 1.0), 0.0)
    return probabilities


def category_sizes(categories: IntArray) -> IntArray:
    """Count the candidates of each category, ``(B, G)`` from ``(B, C)``; ``G`` is the largest category plus one."""
    n_categories = int(categories.max()) + 1
    sizes: IntArray = (categories[:, :, None] == np.arange(n_categories)).sum(axis=1)
    return sizes


def _require_enough(sizes: IntArray, slate_size: int) -> None:
    fewest = int((sizes > 0).sum(axis=1).min())
    if not 1 <= slate_size <= fewest:
        raise ValueError(
            f"slate_size must be in 1..{fewest} to hold at most one prompt of each category, got {slate_size}; "
            "use a smaller slate or candidates in more categories"
        )
