"""Softmax of arrays, which stays finite however large the logits are. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.types import FloatArray


def softmax(logits: FloatArray, axis: int = -1) -> FloatArray:
    """Turn unnormalised log-probabilities into probabilities of the same shape, which sum to 1 over an axis."""
    weights = _weights(logits, axis)
    result: FloatArray = weights / weights.sum(axis=axis, keepdims=True)
    return result


def log_softmax(logits: FloatArray, axis: int = -1) -> FloatArray:
    """Return logarithms of ``softmax``, exact where a probability itself would be 0."""
    shifted = logits - logits.max(axis=axis, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return result


def softmax_mean(values: FloatArray, logits: FloatArray, axis: int = -1) -> NDArray[Any]:
    """Average values over an axis with the probabilities of a softmax: what a choice among them is worth.

    Args:
        values: ``(..., L, ...)``.
        logits: The same shape.
        axis: Of the L.
    """
    weights = _weights(logits, axis)
    return np.asarray((weights * values).sum(axis=axis) / weights.sum(axis=axis))


def _weights(logits: FloatArray, axis: int) -> FloatArray:
    weights: FloatArray = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return weights
