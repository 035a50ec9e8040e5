"""One row of any file, and what is asked of its values: a wrong one is an error that says where it stands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pasta_gym.datasets.records import DatasetError

_SHOWN = 60


@dataclass(frozen=True)
class Row:
    """A row with its place.

    Attributes:
        file: The file, as the user would type it.
        number: The row's number, from 0, or a database's own.
        values: Values by column.
    """

    file: str
    number: int | str
    values: Mapping[str, Any]

    def error(self, problem: str, column: str | None = None) -> DatasetError:
        """Return an error that names this row."""
        return DatasetError(problem, file=self.file, row=self.number, column=column)

    def value(self, column: str, kind: type) -> Any:
        """Return a value as the file has it, None where there is none. Files of text alone read it as ``kind``."""
        return self.values.get(column)

    def missing(self, column: str) -> bool:
        """Whether there is no value: none at all, or the "not a number" that tools write for it."""
        value = self.values.get(column)
        return value is None or (isinstance(value, float) and math.isnan(value))

    def text(self, column: str) -> str:
        """Return a text, which may be empty.

        Raises:
            DatasetError: If it is anything else.
        """
        value = self.value(column, str)
        if not isinstance(value, str):
            raise self.error(f"expected text, got {shown(value)}", column)
        return value

    def integer(self, column: str) -> int:
        """Return a whole number; 3.0 is one, because tools turn columns with gaps into floats.

        Raises:
            DatasetError: If it is anything else.
        """
        return self._whole(self.value(column, int), column)

    def number_in(self, column: str, low: float, high: float) -> float:
        """Return a number of the range.

        Raises:
            DatasetError: If it is anything else.
        """
        value = self.value(column, float)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(f"expected a number from {low:g} to {high:g}, got {shown(value)}", column)
        return float(value)

    def boolean(self, column: str) -> bool:
        """Return true or false.

        Raises:
            DatasetError: If it is anything else.
        """
        value = self.value(column, bool)
        if not isinstance(value, bool):
            raise self.error(f"expected true or false, got {shown(value)}", column)
        return value

    def items(self, column: str) -> list[Any]:
        """Return a list.

        Raises:
            DatasetError: If it is anything else.
        """
        value = self.value(column, list)
        if not isinstance(value, list):
            raise self.error(f"expected a list, got {shown(value)}", column)
        return value

    def texts(self, column: str) -> list[str]:
        """Return a list of texts.

        Raises:
            DatasetError: If it is anything else.
        """
        values = self.items(column)
        for value in values:
            if not isinstance(value, str):
                raise self.error(f"expected a list of texts, got {shown(value)} in it", column)
        return values

    def integers(self, column: str) -> list[int]:
        """Return a list of whole numbers.

        Raises:
            DatasetError: If it is anything else.
        """
        return [self._whole(value, column) for value in self.items(column)]

    def identifier(self, column: str) -> str | None:
        """Return somebody's or something's id as text, None where there is none. Ids are texts or whole numbers.

        Raises:
            DatasetError: If it is anything else.
        """
        if self.missing(column):
            return None
        value = self.values.get(column)
        if isinstance(value, str):
            return value.strip() or None
        return str(self._whole(value, column))

    def _whole(self, value: Any, column: str) -> int:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"expected a whole number, got {shown(value)}", column)
        return value

    @contextmanager
    def blamed(self, column: str | None = None) -> Iterator[None]:
        """Turn a record's complaint about values of this row into an error that names the row."""
        try:
            yield
        except DatasetError:
            raise
        except ValueError as error:
            raise self.error(str(error), column) from error


def shown(value: Any) -> str:
    """Write a value out, cut to a length that fits a message."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, str | int | float | list | dict) and not isinstance(value, bool):
        # A list or a text can be megabytes; its beginning tells enough.
        head = value[: _SHOWN + 1] if isinstance(value, str | list) else value
        if isinstance(head, int) and abs(head) > 10**_SHOWN:
            return "a huge number"
        text = repr(head)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return "nothing" if value is None else repr(value)


def require_columns(wanted: Sequence[str], found: Sequence[str], file: str) -> None:
    """Check that a file has columns.

    Raises:
        DatasetError: With the missing ones and those that are there.
    """
    missing = [column for column in wanted if column not in found]
    if missing:
        raise DatasetError(f"no column {', '.join(missing)}; found {', '.join(found) or 'none'}", file=file)
