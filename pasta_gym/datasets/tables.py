"""Tables inside an archive, of any of four formats, as streams of rows."""

from __future__ import annotations

import csv
import io
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pasta_gym.datasets.archive import BROKEN_FILE, Archive, as_text
from pasta_gym.datasets.json_rows import LARGEST_ENTRY, array_rows, line_rows
from pasta_gym.datasets.parquet_rows import column_names, parquet_rows
from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.rows import Row, require_columns

FORMATS: tuple[str, ...] = ("parquet", "csv", "json", "jsonl")

_JSON_ROWS_FOR_COLUMNS = 50
# A row may hold a slate of pictures, megabytes.
_BATCH_ROWS = 8
_BROKEN: tuple[type[Exception], ...] = (*BROKEN_FILE, csv.Error)
_LIMIT = threading.Lock()
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class CellRow(Row):
    """A row of a CSV file: all cells are text, and are read as what they are asked for. Empty ones hold nothing."""

    def value(self, column: str, kind: type) -> Any:
        """Return a cell as ``kind`` where it reads as one, else as the text that it is."""
        cell = self.values.get(column)
        if not isinstance(cell, str) or kind is str:
            return cell
        if kind is bool:
            return _BOOLEANS.get(cell.strip().lower(), cell)
        try:
            return kind(cell) if kind in (int, float) else json.loads(cell)
        except (ValueError, RecursionError):
            return cell

    def _whole(self, value: Any, column: str) -> int:
        """Cells gathered from several columns are still text."""
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                pass
        return super()._whole(value, column)


@dataclass(frozen=True)
class Table:
    """A table and where it lies.

    Attributes:
        archive: The folder or zip file.
        member: Its name in there.
        kind: One of ``FORMATS``.
        columns: Names of the columns; of JSON, the keys of the first rows.
    """

    archive: Archive
    member: str
    kind: str
    columns: tuple[str, ...]

    @property
    def file(self) -> str:
        """What messages call the table."""
        return self.archive.called(self.member)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Stream the rows.

        Args:
            columns: Columns that are needed; Parquet reads no others. All if left out.

        Raises:
            DatasetError: If the table is broken.
        """
        with self.archive.open(self.member) as stream:
            yield from _rows(stream, self.kind, self.file, list(columns or self.columns))


def open_table(archive: Archive, member: str, kind: str) -> Table:
    """Look up the columns of a table.

    Raises:
        DatasetError: If it is broken.
    """
    with archive.open(member) as stream:
        file = archive.called(member)
        if kind == "parquet":
            return Table(archive, member, kind, tuple(column_names(stream, file)))
        rows = itertools.islice(_rows(stream, kind, file, []), _JSON_ROWS_FOR_COLUMNS)
        found = dict.fromkeys(str(key) for row in rows for key in row.values)
    if kind == "csv" and not found:
        found = dict.fromkeys(_csv_header(archive, member))
    return Table(archive, member, kind, tuple(found))


def _rows(stream: BinaryIO, kind: str, file: str, columns: list[str]) -> Iterator[Row]:
    if kind == "parquet":
        return parquet_rows(stream, columns, name=file, batch_rows=_BATCH_ROWS)
    if kind == "csv":
        return _csv_rows(stream, file, columns)
    return array_rows(stream, name=file) if kind == "json" else line_rows(stream, name=file)


def _csv_header(archive: Archive, member: str) -> list[str]:
    with archive.open(member) as stream:
        text = as_text(stream)
        try:
            return next(_csv_reader(text), [])
        finally:
            text.detach()


def _csv_reader(text: io.TextIOBase) -> Iterator[list[str]]:
    first = text.readline()
    delimiter = "\t" if first.count("\t") > first.count(",") else ","
    return _large_cells(csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True))


def _large_cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Read rows whose cells may hold pictures in base64.

    The module ``csv`` has one limit for all its readers, 131,072 characters; others get theirs back after every row.
    """
    while True:
        with _LIMIT:
            before = csv.field_size_limit(LARGEST_ENTRY)
            try:
                cells = next(reader, None)
            finally:
                csv.field_size_limit(before)
        if cells is None:
            return
        yield cells


def _csv_rows(stream: BinaryIO, file: str, columns: list[str]) -> Iterator[Row]:
    text = as_text(stream)
    number = 0
    try:
        reader = _csv_reader(text)
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DatasetError(f"two columns of one name in {', '.join(header)}", file=file)
        require_columns(columns, header, file)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DatasetError(f"expected {len(header)} cells, got {len(cells)}", file=file, row=number)
            yield CellRow(file, number, {name: cell or None for name, cell in zip(header, cells, strict=True)})
            number += 1
    except DatasetError:
        raise
    except _BROKEN as error:
        raise DatasetError(f"cannot be read as CSV ({error})", file=file, row=number) from error
    finally:
        if not stream.closed:
            text.detach()
