"""Slates as the actions of other libraries: a score for each candidate, or one number for the whole slate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.wrappers import decode_scores, encode_slate
from pasta_gym.wrappers.slate_numbers import SlateNumbers


class ScoreActions:
    """The action of the wrapper ``CandidateScores``: the best candidates of the best categories fill the slate.

    A logged slate is written as +1 for the candidates it shows and -1 for the others, which reproduces it: many
    other scores would too, because only their order counts.

    Args:
        n_candidates: C.
        slate_size: L.
    """

    def __init__(self, n_candidates: int, slate_size: int) -> None:
        self.size = n_candidates
        self._slate_size = slate_size

    def encode(self, slates: IntArray, categories: IntArray) -> NDArray[np.float32]:
        """Write slates ``(B, L)`` among categories ``(B, C)`` as scores ``(B, C)``.

        Raises:
            ValueError: If a slate shows two candidates of one category.
        """
        return encode_slate(slates, categories).astype(np.float32)

    def decode(self, scores: FloatArray, categories: IntArray) -> IntArray:
        """Read scores ``(B, C)`` as slates ``(B, L)``; ValueError if one is not finite."""
        return decode_scores(scores, categories, self._slate_size)


class NumberActions:
    """The action of the wrapper ``SlateIndex``, for many conversations at once.

    Args:
        n_candidates: C, the same number in each category.
        n_categories: At least L.
        slate_size: L.

    Raises:
        ValueError: If there are too few categories, or C is no multiple of their number.
    """

    def __init__(self, n_candidates: int, n_categories: int, slate_size: int) -> None:
        self._numbers = SlateNumbers(n_candidates, n_categories, slate_size)
        self.size = self._numbers.size

    def encode(self, slates: IntArray, categories: IntArray) -> NDArray[np.float32]:
        """Number slates ``(B, L)`` among categories ``(B, C)``: ``(B, 1)`` float32, exact up to 2**24.

        Raises:
            ValueError: If a slate shows two candidates of one category, or categories differ in size.
        """
        return self._numbers.encode(slates, categories)[:, None].astype(np.float32)

    def decode(self, numbers: IntArray, categories: IntArray) -> IntArray:
        """Read numbers ``(B,)`` as slates ``(B, L)``.

        Raises:
            ValueError: If a number is out of range, or categories differ in size.
        """
        return self._numbers.decode(numbers, categories)
