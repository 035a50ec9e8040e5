"""The untrained generator as a logging policy: the paper's sessions with people are its conversations (section 5.1)."""

from __future__ import annotations

import math

import numpy as np

from pasta_gym.mini.rater_sessions import baseline_slates
from pasta_gym.trajectories.random_policy import category_sizes
from pasta_gym.types import FloatArray, IntArray, UInt64Array

NAME = "untrained_generator"


def untrained_slates(categories: IntArray, keys: UInt64Array, slate_size: int) -> tuple[IntArray, FloatArray]:
    """Take the first candidate of each of ``slate_size`` categories drawn at random.

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
    places = np.broadcast_to(np.arange(categories.shape[1]), categories.shape)
    slates = baseline_slates(places, categories, slate_size, keys)
    present = (category_sizes(categories) > 0).sum(axis=1)
    probabilities = np.array([1.0 / math.comb(int(n), slate_size) for n in present])
    return slates, probabilities
