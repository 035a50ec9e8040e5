"""A table of labels, checked as its columns are taken: a value out of range is named by file, row and column."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pasta_gym.datasets.records import DatasetError
from pasta_gym.types import FloatArray, IntArray


@dataclass(frozen=True)
class LabelTable:
    """The columns of one file.

    Attributes:
        file: Where they come from.
        columns: ``(n, ...)`` by name.
    """

    file: pathlib.Path
    columns: Mapping[str, NDArray[np.generic]]

    def whole(self, column: str, low: int, high: int) -> IntArray:
        """Return a column of whole numbers from ``low`` to ``high``.

        Raises:
            DatasetError: If one is not, with the first such row.
        """
        values = self._numbers(column)
        good = (values >= low) & (values <= high) & (values == np.floor(values))
        self._require(column, good, f"a whole number from {low} to {high}")
        found: IntArray = values.astype(np.int64)
        return found

    def within(self, column: str, low: float, high: float, *, gaps: bool = False) -> FloatArray:
        """Return a column of numbers from ``low`` to ``high``.

        Args:
            column: Which.
            low: The least.
            high: The most.
            gaps: Whether some may be missing, as NaN.

        Raises:
            DatasetError: If one is out of range, with the first such row.
        """
        values = self._numbers(column)
        good = (values >= low) & (values <= high) | (gaps & np.isnan(values))
        self._require(column, good, f"a number from {low:g} to {high:g}")
        return values

    def among(self, column: str, known: tuple[float, ...]) -> FloatArray:
        """Return a column of numbers that are all known ones.

        Raises:
            DatasetError: If one is not, with the first such row.
        """
        values = self._numbers(column)
        self._require(column, np.isin(values, known), f"one of {', '.join(f'{value:g}' for value in known)}")
        return values

    def places(self, column: str, names: tuple[str, ...]) -> IntArray:
        """Return where in ``names`` the texts of a column are.

        Raises:
            DatasetError: If one is not there, with the first such row.
        """
        values = self.columns[column]
        found: IntArray = np.full(len(values), -1, dtype=np.int64)
        for place, name in enumerate(names):
            found[values == name] = place
        self._require(column, found >= 0, f"one of {', '.join(names)}")
        return found

    def refuse(self, column: str, row: int, problem: str) -> NoReturn:
        """Raise a ``DatasetError`` about a row."""
        raise DatasetError(problem, file=self.file, row=row, column=column)

    def _numbers(self, column: str) -> FloatArray:
        try:
            numbers: FloatArray = self.columns[column].astype(np.float64)  # None becomes NaN
        except (TypeError, ValueError) as error:
            raise DatasetError(f"expected numbers ({error})", file=self.file, column=column) from error
        return numbers

    def _require(self, column: str, good: NDArray[np.bool_], expected: str) -> None:
        if not good.all():
            where = tuple(np.argwhere(~good)[0].tolist())
            self.refuse(column, where[0], f"expected {expected}, got {self.columns[column][where]}")
