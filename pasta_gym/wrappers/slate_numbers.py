"""Numbers for slates, of many conversations at once. Pure."""

from __future__ import annotations

import itertools
import math

import numpy as np

from pasta_gym.types import IntArray


class SlateNumbers:
    """Numbers the slates of ``L`` candidates out of ``C``, in any order: 3,125 of four out of five categories of five.

    A number stands for a choice of categories and of a rank within each. What is shown at that rank changes every
    turn, so the number alone says nothing about the prompts. If any candidates may stand together, it stands for a
    choice of candidates.

    Args:
        n_candidates: C.
        n_categories: Among which they are shared out equally.
        slate_size: L.
        one_per_category: Whether a slate takes at most one candidate of a category.

    Attributes:
        size: How many slates there are.

    Raises:
        ValueError: If a slate has more columns than there are categories, or candidates; or C is no multiple of the
            number of categories.
    """

    def __init__(self, n_candidates: int, n_categories: int, slate_size: int, *, one_per_category: bool = True) -> None:
        pool, what = (n_categories, "categories") if one_per_category else (n_candidates, "candidates")
        if slate_size > pool:
            raise ValueError(f"a slate of {slate_size} needs as many {what}, but there are {pool}")
        if one_per_category and n_candidates % n_categories:
            raise ValueError(
                f"n_candidates must be a multiple of the {n_categories} categories, got {n_candidates}; slates are "
                "numbered only where every category has the same number of candidates"
            )
        self.one_per_category = one_per_category
        self._n_groups = pool
        self._share = n_candidates // pool
        self._sets: IntArray = np.array(list(itertools.combinations(range(pool), slate_size)), dtype=np.int64)
        self._shape = (len(self._sets),) + (self._share,) * slate_size
        self.size = math.prod(self._shape)

    def encode(self, slates: IntArray, categories: IntArray) -> IntArray:
        """Number slates ``(B, L)`` among categories ``(B, C)``: ``(B,)``, the inverse of ``decode``.

        Raises:
            ValueError: If a slate shows two candidates of one category, or one twice; or categories differ in size.
        """
        places = np.argsort(self._table(categories).reshape(len(categories), -1), axis=1)  # candidate -> its place
        members = np.sort(np.take_along_axis(places, slates, axis=1), axis=1)
        groups, ranks = np.divmod(members, self._share)
        matches = (groups[:, None] == self._sets).all(axis=2)
        has_number = matches.any(axis=1)
        if not has_number.all():
            rule = "different categories" if self.one_per_category else "different candidates"
            slate = slates[int(np.flatnonzero(~has_number)[0])].tolist()
            raise ValueError(f"the slate {slate} has no number: its columns must be of {rule}")
        numbers: IntArray = np.asarray(np.ravel_multi_index((matches.argmax(axis=1), *ranks.T), self._shape))
        return numbers

    def decode(self, numbers: IntArray, categories: IntArray) -> IntArray:
        """Read numbers ``(B,)`` as slates ``(B, L)`` among categories ``(B, C)``.

        Raises:
            ValueError: If a number is out of range, or categories differ in size.
        """
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.size:
            raise ValueError(f"a slate's number must lie in 0..{self.size - 1}, got {numbers.min()}..{numbers.max()}")
        which, *ranks = np.unravel_index(numbers, self._shape)
        rows = np.arange(len(numbers))[:, None]
        slates: IntArray = self._table(categories)[rows, self._sets[which], np.stack(ranks, axis=1)]
        return slates

    def _table(self, categories: IntArray) -> IntArray:
        """Candidates ``(B, groups, share)`` of each group, in their order."""
        if not self.one_per_category:
            return np.broadcast_to(np.arange(self._n_groups)[:, None], (len(categories), self._n_groups, 1))
        order = np.argsort(categories, axis=1, kind="stable")
        table = order.reshape(len(categories), self._n_groups, -1)
        found = np.take_along_axis(categories, order, axis=1).reshape(table.shape)
        if (found != np.arange(self._n_groups)[:, None]).any():
            raise ValueError(
                f"every category 0..{self._n_groups - 1} must have {self._share} candidates at every turn for slates "
                "to be numbered; use scores of candidates (CandidateScores) instead"
            )
        return table
