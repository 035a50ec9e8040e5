"""A table of labels, checked as its columns are taken: a value out of range is named by file, row and column."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pasta_gym.datasets.label_folder import COLUMNS
from pasta_gym.datasets.parquet_rows import open_parquet
from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.rows import require_columns, shown
from pasta_gym.types import FloatArray, IntArray


@dataclass(frozen=True)
class LabelTable:
    """The columns of one file.

    Attributes:
        file: Where they come from.
        columns: ``(n,)`` by name; numbers as such with NaN for gaps, everything else as objects.
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

    def within(self, column: str, low: float, high: float) -> FloatArray:
        """Return a column of numbers from ``low`` to ``high``.

        Raises:
            DatasetError: If one is out of range, with the first such row.
        """
        values = self._numbers(column)
        good = (values >= low) & (values <= high)
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

    def places(self, column: str, names: tuple[str, ...], *, gaps: bool = False) -> IntArray:
        """Return where in ``names`` the texts of a column are; -1 where one is missing, which ``gaps`` allows.

        Raises:
            DatasetError: If one is not there, with the first such row.
        """
        values = self.columns[column].tolist()
        place: dict[object, int] = {name: i for i, name in enumerate(names)}
        known = [(value is None and gaps) or (isinstance(value, str) and value in place) for value in values]
        self._require(column, np.array(known, dtype=bool), f"one of {', '.join(names)}{' or nothing' * gaps}")
        return np.array([place.get(value, -1) for value in values], dtype=np.int64)

    def lists(self, column: str, low: int, high: int, length: int | None = None, *, gaps: bool = False) -> FloatArray:
        """Return a column of lists of whole numbers from ``low`` to ``high``: ``(n, length)``, or ``(n, longest)``.

        Args:
            column: Which.
            low: The least.
            high: The most.
            length: Of each list; if left out, each may have one of its own, 2 or more, and NaN fills its row up.
            gaps: Whether entries, or lists, may be missing, as NaN.

        Raises:
            DatasetError: If a list is of another length or too short, or holds anything else, with the first such row.
        """
        values = self.columns[column].tolist()
        lengths = [len(entries) for entries in values if isinstance(entries, list)]
        least, most = (2, max(lengths, default=2)) if length is None else (length, length)
        found = np.full((len(values), max(least, most)), np.nan)
        for row, entries in enumerate(values):
            if gaps and entries is None:
                continue
            if not isinstance(entries, list) or not least <= len(entries) <= most:
                said = f"{len(entries)}" if isinstance(entries, list) else shown(entries)
                self.refuse(column, row, f"expected a list of {least}{' or more' * (length is None)}, got {said}")
            for place, entry in enumerate(entries):
                if gaps and _is_nothing(entry):
                    continue
                if not _is_number(entry) or not low <= entry <= high or entry != math.floor(entry):
                    self.refuse(column, row, f"expected a whole number from {low} to {high}, got {shown(entry)}")
                found[row, place] = entry
        return found

    def refuse(self, column: str, row: int, problem: str) -> NoReturn:
        """Raise a ``DatasetError`` about a row."""
        raise DatasetError(problem, file=self.file, row=row, column=column)

    def _numbers(self, column: str) -> FloatArray:
        values = self.columns[column]
        if values.dtype == object:
            good = [_is_number(value) or _is_nothing(value) for value in values.tolist()]
            self._require(column, np.array(good, dtype=bool), "a number")
        numbers: FloatArray = values.astype(np.float64)  # None becomes NaN
        return numbers

    def _require(self, column: str, good: NDArray[np.bool_], expected: str) -> None:
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            (value,) = self.columns[column][row : row + 1].tolist()
            said = "nothing" if _is_nothing(value) else shown(value)
            self.refuse(column, row, f"expected {expected}, got {said}")


def read_label_table(folder: pathlib.Path, name: str, columns: tuple[str, ...]) -> LabelTable:
    """Read columns of one table of a world's labels.

    Args:
        folder: The labels.
        name: Which table, a key of ``COLUMNS``.
        columns: Those that are looked at; the table must have the others too.

    Raises:
        DatasetError: If the file is missing or broken, or lacks a column.
    """
    import pyarrow as pa

    path = folder / f"{name}.parquet"
    with open_parquet(path) as file:
        require_columns(COLUMNS[name], file.schema_arrow.names, str(path))
        read = file.read(columns=list(columns))
        found: dict[str, NDArray[np.generic]] = {}
        for column in columns:
            kind, values = read.schema.field(column).type, read[column]
            if pa.types.is_integer(kind) or pa.types.is_floating(kind):
                found[column] = values.to_numpy()
            else:
                found[column] = objects = np.empty(len(values), dtype=object)
                objects[:] = values.to_pylist()
    return LabelTable(path, found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
