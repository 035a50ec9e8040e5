"""Slates as the actions of other libraries: a score for each candidate, or one number for the whole slate."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.wrappers import decode_scores, encode_slate


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


class SlateNumbers:
    """The action of the wrapper ``SlateIndex``, for many conversations at once.

    A number stands for a choice of categories and of a rank within each. What is shown at that rank changes every
    turn, so the number alone says nothing about the prompts.

    Args:
        n_candidates: C, the same number in each category.
        n_categories: At least L.
        slate_size: L.

    Raises:
        ValueError: If there are too few categories, or C is no multiple of their number.
    """

    def __init__(self, n_candidates: int, n_categories: int, slate_size: int) -> None:
        if slate_size > n_categories:
            raise ValueError(f"a slate of {slate_size} needs as many categories, but there are {n_categories}")
        if n_candidates % n_categories:
            raise ValueError(
                f"n_candidates must be a multiple of the {n_categories} categories, got {n_candidates}; slates are "
                "numbered only where every category has the same number of candidates"
            )
        self._n_categories = n_categories
        self._sets: IntArray = np.array(list(itertools.combinations(range(n_categories), slate_size)), dtype=np.int64)
        self._shape = (len(self._sets),) + (n_candidates // n_categories,) * slate_size
        self.size = math.prod(self._shape)

    def encode(self, slates: IntArray, categories: IntArray) -> NDArray[np.float32]:
        """Number slates ``(B, L)`` among categories ``(B, C)``: ``(B, 1)`` float32, exact up to 2**24.

        Raises:
            ValueError: If a slate shows two candidates of one category, or categories differ in size.
        """
        places = np.argsort(self._table(categories).reshape(len(categories), -1), axis=1)  # candidate -> its place
        members = np.sort(np.take_along_axis(places, slates, axis=1), axis=1)
        of_category, ranks = np.divmod(members, self._shape[1])
        matches = (of_category[:, None] == self._sets).all(axis=2)
        if not matches.any(axis=1).all():
            row = int(np.flatnonzero(~matches.any(axis=1))[0])
            raise ValueError(
                f"the slate {slates[row].tolist()} has no number: its columns must be of different categories"
            )
        numbers: IntArray = np.asarray(np.ravel_multi_index((matches.argmax(axis=1), *ranks.T), self._shape))
        return numbers[:, None].astype(np.float32)

    def decode(self, numbers: IntArray, categories: IntArray) -> IntArray:
        """Read numbers ``(B,)`` as slates ``(B, L)``.

        Raises:
            ValueError: If a number is out of range, or categories differ in size.
        """
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.size:
            raise ValueError(f"a slate's number must lie in 0..{self.size - 1}, got {numbers.min()}..{numbers.max()}")
        which, *ranks = np.unravel_index(numbers, self._shape)
        table, rows = self._table(categories), np.arange(len(numbers))[:, None]
        slates: IntArray = table[rows, self._sets[which], np.stack(ranks, axis=1)]
        return slates

    def _table(self, categories: IntArray) -> IntArray:
        """Candidates ``(B, n_categories, share)`` of each category, in their order."""
        table = np.argsort(categories, axis=1, kind="stable").reshape(len(categories), self._n_categories, -1)
        found = np.take_along_axis(categories, table.reshape(len(categories), -1), axis=1).reshape(table.shape)
        if (found != np.arange(self._n_categories)[:, None]).any():
            raise ValueError(
                f"every category 0..{self._n_categories - 1} must have {self._shape[1]} candidates at every turn; "
                "use an algorithm on scores"
            )
        return table
