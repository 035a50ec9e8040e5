"""JSON files as streams of rows: an array of objects, or one object a line. Never the whole file in memory."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from pasta_gym.datasets.archive import BROKEN_FILE
from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.rows import Row, shown

_WINDOW = 1 << 18
LARGEST_ENTRY = 1 << 26
"""Most characters of one entry: a slate of pictures in base64, several times over."""
_DECODER = json.JSONDecoder()


def array_rows(source: pathlib.Path | BinaryIO, *, name: str | None = None, window: int = _WINDOW) -> Iterator[Row]:
    """Stream the objects of a JSON array.

    Args:
        source: A path or an open binary file, which stays open.
        name: What messages call the file; the path if left out.
        window: Characters read at a time.

    Raises:
        DatasetError: If the file is missing, cut short, or anything but an array of objects.
    """
    called = name or str(source)
    with _text(source, called) as file:
        yield from _ArrayReader(file, called, window).rows()


def line_rows(source: pathlib.Path | BinaryIO, *, name: str | None = None) -> Iterator[Row]:
    """Stream the objects of a file with one JSON object a line; empty lines are passed over.

    Raises:
        DatasetError: If the file is missing or a line is not an object.
    """
    called = name or str(source)
    with _text(source, called) as file:
        number = 0
        for line in _lines(file, called):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"not a JSON object ({error})", file=called, row=number) from error
            yield _row(value, called, number)
            number += 1


class _ArrayReader:
    """A window of text that slides over an array; entries are decoded as soon as they are whole."""

    def __init__(self, file: io.TextIOBase, name: str, window: int) -> None:
        self._file = file
        self._name = name
        self._chunk = window
        self._text = ""
        self._at = 0
        self._number = 0
        self._ended = False

    def rows(self) -> Iterator[Row]:
        if self._peek() != "[":
            raise self._error(f"expected an array of objects, got {shown(self._text[:20])}")
        self._at += 1
        if self._peek() == "]":
            self._at += 1
        else:
            yield from self._entries()
        if rest := self._peek():
            raise self._error(f"expected nothing after the array's end, got {rest!r}")

    def _entries(self) -> Iterator[Row]:
        while True:
            yield _row(self._entry(), self._name, self._number)
            self._number += 1
            separator = self._peek()
            self._at += 1
            if separator == "]":
                return
            if separator != ",":
                raise self._error(f"expected a comma or the array's end, got {separator!r}" if separator else _CUT)

    def _entry(self) -> Any:
        """Decode one entry, reading on while it may only be incomplete."""
        if not (first := self._peek()):
            raise self._error(_CUT)
        if first != "{":  # a number could go on in the next chunk; an object says itself where it ends
            raise self._error(f"expected an object, got {shown(self._text[self._at : self._at + 20])}")
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self._error(f"broken or cut short ({error.msg})") from error
                if len(self._text) - self._at > LARGEST_ENTRY:
                    raise self._error(f"broken, or larger than {LARGEST_ENTRY >> 20} MiB ({error.msg})") from error
                # Twice as much each time, or a long entry would be decoded over and over.
                self._read(max(self._chunk, len(self._text) - self._at))
            except (ValueError, RecursionError) as error:  # numbers or nesting beyond all reason
                raise self._error(str(error)) from error
            else:
                return value

    def _peek(self) -> str:
        """Return the next character that is not white space, "" at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read(self._chunk)

    def _read(self, size: int) -> None:
        try:
            more = self._file.read(size)
        except BROKEN_FILE as error:
            raise self._error(f"cannot be read as text ({error})") from error
        self._ended = not more
        self._text = self._text[self._at :] + more
        self._at = 0

    def _error(self, problem: str) -> DatasetError:
        return DatasetError(problem, file=self._name, row=self._number)


_CUT = "the file ends inside the array: it was cut short; fetch it again"


def _row(value: Any, file: str, number: int) -> Row:
    if not isinstance(value, dict):
        raise DatasetError(f"expected an object, got {shown(value)}", file=file, row=number)
    return Row(file, number, value)


def _lines(file: io.TextIOBase, name: str) -> Iterator[str]:
    try:
        for line in file:  # noqa: UP028  (`yield from` would close the file with this generator)
            yield line
    except BROKEN_FILE as error:
        raise DatasetError(f"cannot be read as text ({error})", file=name) from error


@contextmanager
def _text(source: pathlib.Path | BinaryIO, name: str) -> Iterator[io.TextIOBase]:
    """Open a file as UTF-8 text; a byte order mark is dropped."""
    if isinstance(source, pathlib.Path):
        try:
            file = source.open(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise DatasetError(f"cannot be opened ({error})", file=name) from error
        with file:
            yield file
        return
    text = io.TextIOWrapper(source, encoding="utf-8-sig")
    try:
        yield text
    finally:
        text.detach()
