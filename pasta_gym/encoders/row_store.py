"""Rows of numbers under keys in two append-only files that many processes read and write at once.

``rows.bin`` holds the rows, one after the other and nothing else, so that the whole table is one memory map.
``index.bin`` holds one record a row: its key, a checksum of the row, a checksum of the record. A row is written
before its record, so a row exists exactly when its record does, and a writer that is killed at any byte leaves a
tail that nobody reads and the next writer overwrites.
"""

from __future__ import annotations

import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.types import FloatArray, IntArray

KEY_BYTES = 32
RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("row_checksum", "<u4"), ("checksum", "<u4")])
DTYPES: dict[str, np.dtype[np.floating[Any]]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}

_CHECKED_BYTES = RECORD.itemsize - 4  # all of a record but its own checksum
_BLOCK_BYTES = 1 << 26
_RETIRED = bytes(KEY_BYTES)  # the key of a row that nobody can find any more


class RowStore:
    """Rows ``(n, d)`` under 32-byte keys. Row numbers never change.

    Reading needs no lock: committed rows are never moved. Writers take turns through a lock on the file ``lock``,
    which the system releases when its holder dies. One object serves one thread.

    Args:
        folder: Where the two files are; made when the first row is added.
        dim: Width d of a row.
        dtype: ``float32`` or ``float16``, how rows are stored.
    """

    def __init__(self, folder: pathlib.Path, dim: int, dtype: str) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if dim < 1:
            raise ValueError(f"dim must be 1 or more, got {dim}")
        self.folder = folder
        self.dim = dim
        self.dtype = DTYPES[dtype]
        self._n = 0
        self._row_of: dict[bytes, int] = {}
        self._holes: dict[int, bytes | None] = {}  # unusable rows, with their key where that can still be read
        self.refresh()

    def __len__(self) -> int:
        """Number of rows read so far, those that ``check`` found broken included."""
        return self._n

    @property
    def row_bytes(self) -> int:
        """Size of a row on disk."""
        return self.dim * self.dtype.itemsize

    @property
    def rows_path(self) -> pathlib.Path:
        """The rows."""
        return self.folder / "rows.bin"

    @property
    def index_path(self) -> pathlib.Path:
        """The records."""
        return self.folder / "index.bin"

    def refresh(self) -> None:
        """Take notice of rows that other processes have added."""
        records = self._read_records(self._n)
        # Rows are written first; if there are fewer, the file was cut and their records say nothing.
        whole = _size(self.rows_path) // self.row_bytes - self._n
        keys = _valid_keys(records[: max(whole, 0)])
        while keys and keys[-1] is None:  # a torn tail, not yet part of the table
            keys.pop()
        for row, key in enumerate(keys, start=self._n):
            if key is None:
                self._holes[row] = None
            elif key != _RETIRED:
                self._row_of[key] = row
        self._n += len(keys)

    def find(self, keys: Sequence[bytes]) -> IntArray:
        """Look keys up.

        Args:
            keys: n keys of 32 bytes.

        Returns:
            ``(n,)`` row numbers, -1 for keys that are not there.

        Raises:
            ValueError: If a key has another length.
        """
        _require_keys(keys)
        if any(key not in self._row_of for key in keys):
            self.refresh()
        return np.array([self._row_of.get(key, -1) for key in keys], dtype=np.int64)

    def table(self) -> FloatArray:
        """Map the rows read so far into memory: ``(n, d)``, loaded by the system as they are touched.

        The map is private: writing to it never reaches the file. Torch takes such arrays without a copy, and warns
        about read-only ones.
        """
        if not self._n:
            return np.zeros((0, self.dim), dtype=self.dtype)
        return np.memmap(self.rows_path, dtype=self.dtype, mode="c", shape=(self._n, self.dim))

    def add(self, keys: Sequence[bytes], rows: FloatArray) -> IntArray:
        """Write rows whose keys are not there yet; they are on the disk when this returns.

        Args:
            keys: n keys of 32 bytes.
            rows: ``(n, d)`` finite numbers that the stored type can hold.

        Returns:
            ``(n,)`` row numbers. A key that is there already keeps its row.

        Raises:
            ValueError: If shapes differ, or a number is not finite or too large.
            OSError: If the disk is full or the folder cannot be written; what is there stays whole.
        """
        _require_keys(keys)
        stored = self._stored(rows, len(keys))
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "lock"):
            self.refresh()
            self._look_at_holes_again()
            first: dict[bytes, int] = {}
            for i, key in enumerate(keys):
                if key not in self._row_of:
                    first.setdefault(key, i)
            missing = self._mend(list(first.items()), stored)
            self._append([key for key, _ in missing], stored[[i for _, i in missing]])
        return self.find(keys)

    def check(self) -> IntArray:
        """Compare every row with its checksum.

        Returns:
            ``(b,)`` numbers of broken rows. From now on this object does not find their keys, and ``add`` writes
            them anew in the same place. Where the key itself is lost, ``add`` makes a new row and retires the old.
        """
        self.refresh()
        table, records = self.table(), self._read_records(0)[: self._n]
        keys = _valid_keys(records)
        rows_a_block = max(_BLOCK_BYTES // self.row_bytes, 1)
        for start in range(0, len(keys), rows_a_block):
            block = np.ascontiguousarray(table[start : start + rows_a_block])
            for i, row in enumerate(block, start=start):
                key = keys[i]
                if key is None or zlib.crc32(row.data) != records["row_checksum"][i]:
                    self._holes[i] = key
                    if key is not None:
                        self._row_of.pop(key, None)
        return np.array(sorted(self._holes), dtype=np.int64)

    def _stored(self, rows: FloatArray, n: int) -> FloatArray:
        rows = np.asarray(rows)
        if rows.shape != (n, self.dim):
            raise ValueError(f"expected rows of shape {(n, self.dim)}, one for each key, got {rows.shape}")
        largest = float(np.finfo(self.dtype).max)
        if not (np.abs(rows) <= largest).all():  # also false for what is not a number
            raise ValueError(
                f"rows must be finite and at most {largest:g} in size to be stored as {self.dtype.name}, "
                f"got {np.abs(rows).max()}"
            )
        stored: FloatArray = np.ascontiguousarray(rows, dtype=self.dtype)
        return stored

    def _read_records(self, start: int) -> NDArray[np.void]:
        """Read the whole records from number ``start`` on."""
        try:
            with self.index_path.open("rb") as file:
                file.seek(start * RECORD.itemsize)
                data = file.read()
        except FileNotFoundError:
            data = b""
        return np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], dtype=RECORD)

    def _look_at_holes_again(self) -> None:
        """Another process may have mended a hole since; only the lock's holder can tell."""
        if not self._holes:
            return
        records, table = self._read_records(0), self.table()
        for row in list(self._holes):
            key = _valid_keys(records[row : row + 1])[0]
            if key is None or zlib.crc32(table[row].tobytes()) != records["row_checksum"][row]:
                self._holes[row] = key
            else:
                if key != _RETIRED:
                    self._row_of.setdefault(key, row)
                del self._holes[row]

    def _mend(self, missing: list[tuple[bytes, int]], stored: FloatArray) -> list[tuple[bytes, int]]:
        """Write broken rows anew in their own place, and retire those whose key is lost.

        A row never passes to another key, because other processes may still look the old key up there.

        Returns:
            What of ``missing`` has no place yet.
        """
        own = {key: row for row, key in self._holes.items() if key is not None}
        left = []
        for key, i in missing:
            row = own.get(key)
            if row is None:
                left.append((key, i))
                continue
            self._write(self.rows_path, stored[i].tobytes(), row * self.row_bytes)
            self._write(self.index_path, _records([key], stored[i : i + 1]).tobytes(), row * RECORD.itemsize)
            self._row_of[key] = row
            del self._holes[row]
        for row in [row for row, key in self._holes.items() if key is None]:
            retired = _records([_RETIRED], self.table()[row : row + 1])
            self._write(self.index_path, retired.tobytes(), row * RECORD.itemsize)
            del self._holes[row]
        return left

    def _append(self, keys: list[bytes], rows: FloatArray) -> None:
        if not keys:
            return
        self._write(self.rows_path, rows.tobytes(), self._n * self.row_bytes)
        self._write(self.index_path, _records(keys, rows).tobytes(), self._n * RECORD.itemsize, cut=True)
        self._row_of.update(zip(keys, range(self._n, self._n + len(keys)), strict=True))
        self._n += len(keys)

    @staticmethod
    def _write(path: pathlib.Path, data: bytes, offset: int, *, cut: bool = False) -> None:
        """Write at an offset and wait for the disk. The file of rows is never cut: others have it mapped."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if cut:
                os.ftruncate(descriptor, offset)
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
    """Hold a file's lock, waiting for it if need be. The system releases it when the process ends, however it ends.

    Raises:
        ValueError: On a system without POSIX file locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ValueError(
            "embeddings can be written only where POSIX file locks exist (Linux, macOS, WSL), not on Windows itself; "
            "fill the cache there and copy its folder: reading works everywhere"
        ) from error
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _require_keys(keys: Sequence[bytes]) -> None:
    for key in keys:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes (a sha-256), got {len(key)}: {key!r}")


def _records(keys: Sequence[bytes], rows: FloatArray) -> NDArray[np.void]:
    """Make the records of rows that are as they will be stored."""
    records = np.zeros(len(keys), dtype=RECORD)
    records["key"] = np.frombuffer(b"".join(keys), dtype=f"V{KEY_BYTES}")
    records["row_checksum"] = [zlib.crc32(row.tobytes()) for row in rows]
    records["checksum"] = [zlib.crc32(record.tobytes()[:_CHECKED_BYTES]) for record in records]
    return records


def _valid_keys(records: NDArray[np.void]) -> list[bytes | None]:
    """Read the keys of records; None where a record does not fit its checksum."""
    data, size = records.tobytes(), RECORD.itemsize
    sums = records["checksum"].tolist()
    return [
        data[i * size : i * size + KEY_BYTES] if zlib.crc32(data[i * size : i * size + _CHECKED_BYTES]) == s else None
        for i, s in enumerate(sums)
    ]
