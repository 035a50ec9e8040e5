"""Keyed randomness: every random number is a function of integers that say what it is for.

Nothing is streamed, so two agents that act differently still meet the same luck, and a batch of conversations
gives the numbers that each would have met alone. Keys are 64-bit integers, hashed with the finaliser of
splitmix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import operator
from functools import cache
from statistics import NormalDist
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from pasta_gym.types import IntArray, UInt64Array

EPISODE, USER, PROMPT, CANDIDATES, IMAGE, CHOICE = range(1, 7)
"""What a key is for: the last part of every key of the environment."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_START = np.array([0x243F6A8885A308D3], dtype=np.uint64)
_QUANTILE_BITS = 16
_SLICES = 64 // _QUANTILE_BITS
# Arrays without axes: numpy takes them as they are, while it converts a Python integer at every operation.
_UNIFORM_SHIFT = np.array(12, dtype=np.uint64)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (np.array(shift, dtype=np.uint64) for shift in (30, 27, 31))
_FACTOR_1, _FACTOR_2 = (np.array(factor, dtype=np.uint64) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _finalise(x: UInt64Array) -> UInt64Array:
    """Scramble 64-bit integers ``(n, ...)`` in place (the finaliser of splitmix64: a bijection)."""
    x ^= x >> _SHIFT_1
    x *= _FACTOR_1
    x ^= x >> _SHIFT_2
    x *= _FACTOR_2
    x ^= x >> _SHIFT_3
    return x


@cache
def _step_of(part: int) -> UInt64Array:
    """One integer's part of a key: itself and the golden ratio, modulo 2**64."""
    return np.array(part + _GOLDEN & _MASK, dtype=np.uint64)


def _step(part: SupportsIndex | NDArray[np.integer]) -> UInt64Array:
    """Return integers plus the golden ratio, modulo 2**64."""
    if not isinstance(part, np.ndarray | np.generic):
        return _step_of(operator.index(part) & _MASK)
    if part.dtype.kind not in "iu":
        raise ValueError(f"keys are made of integers, got an array of {part.dtype}; convert it first")
    if part.ndim == 0:
        return _step_of(int(part) & _MASK)
    step: UInt64Array = part.astype(np.uint64)
    step += _step_of(0)
    return step


def mix(*parts: SupportsIndex | NDArray[np.integer]) -> UInt64Array:
    """Hash integers into keys; the order of the parts matters.

    Args:
        parts: Integers or integer arrays, broadcast against each other. Negative and huge ones count
            modulo 2**64.

    Returns:
        uint64 keys of the broadcast shape.

    Raises:
        ValueError: If there is no part, or a part is not of integers.
    """
    if not parts:
        raise ValueError("a key needs at least one part")
    key: UInt64Array = _START
    has_axes = False
    for part in parts:
        step = _step(part)
        has_axes = has_axes or step.ndim > 0
        key = _finalise(key + step)
    return key if has_axes else key.reshape(())


@cache
def _stream_steps(n: int) -> UInt64Array:
    """The first n multiples of the golden ratio, ``(n,)``."""
    return np.array([(i + 1) * _GOLDEN & _MASK for i in range(n)], dtype=np.uint64)


def _stream(keys: UInt64Array, n: int) -> UInt64Array:
    """Return n hashes of each key, ``(..., n)``: splitmix64 started at the key."""
    return _finalise(np.asarray(keys, dtype=np.uint64)[..., None] + _stream_steps(n))


def uniforms(keys: UInt64Array) -> NDArray[np.float64]:
    """Return one number for each key, uniform on the open interval (0, 1), same shape."""
    hashed = _stream(keys, 1)[..., 0]
    # 52 bits and a half: neither 0 nor 1 can come out.
    numbers: NDArray[np.float64] = ((hashed >> _UNIFORM_SHIFT).astype(np.float64) + 0.5) / float(1 << 52)
    return numbers


def integers(keys: UInt64Array, high: SupportsIndex | IntArray) -> IntArray:
    """Return one integer for each key, uniform on ``0..high - 1``; ``high`` broadcasts against the keys.

    Raises:
        ValueError: If any ``high`` is under 1.
    """
    bounds = np.asarray(high, dtype=np.int64)
    if (bounds < 1).any():
        raise ValueError(f"integers are drawn from 0..high - 1, so high must be at least 1, got {bounds.min()}")
    drawn: IntArray = (uniforms(keys) * bounds).astype(np.int64)
    return drawn


def gumbels(keys: UInt64Array) -> NDArray[np.float64]:
    """Return one standard Gumbel number for each key, same shape.

    The argmax of logits plus Gumbel numbers is a draw from the softmax of the logits.
    """
    numbers: NDArray[np.float64] = -np.log(-np.log(uniforms(keys)))
    return numbers


@cache
def _normal_quantiles() -> NDArray[np.float32]:
    """The standard normal at the middles of 2**16 equally likely intervals, scaled to variance 1."""
    n = 1 << _QUANTILE_BITS
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((i + 0.5) / n) for i in range(n // 2, n)])
    table = np.concatenate([-upper[::-1], upper])
    scaled: NDArray[np.float32] = (table / table.std()).astype(np.float32)
    return scaled


def normals(keys: UInt64Array, n: int) -> NDArray[np.float32]:
    """Return n standard normal numbers for each key.

    Each is looked up in a table of 65,536 quantiles, four from one hash: fast, and beyond 4.3 standard
    deviations there is nothing.

    Args:
        keys: ``(...)`` keys.
        n: How many numbers each key gives; the first m of them do not depend on n.

    Returns:
        ``(..., n)`` float32.
    """
    hashes = _stream(keys, -(-n // _SLICES))
    slices = hashes.astype("<u8", copy=False).view("<u2")[..., :n]
    numbers: NDArray[np.float32] = np.take(_normal_quantiles(), slices)
    return numbers


def seeds_for_torch(keys: UInt64Array) -> list[int]:
    """Return one seed for ``torch.Generator.manual_seed`` for each key, flattened, in 0..2**63 - 1."""
    return [int(seed) for seed in (_stream(keys, 1)[..., 0] >> np.uint64(1)).reshape(-1)]
