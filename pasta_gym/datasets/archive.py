"""A folder, a zip file or a single file as a set of named members."""

from __future__ import annotations

import io
import lzma
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from pasta_gym.datasets.records import DatasetError

BROKEN_FILE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # an encrypted member, an unknown compression
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
"""What reading a broken file or archive member raises."""


class Archive:
    """Members of a folder (with all folders under it), of a zip file, or a single file.

    A zip file is opened once and stays open; members are never unpacked to disk.

    Args:
        path: The folder or file.

    Raises:
        DatasetError: If there is nothing, or the zip file is broken.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        try:
            self._sizes = self._list()
        except BROKEN_FILE as error:
            raise DatasetError(f"cannot be listed ({error}); expected a folder or a zip file", file=path) from error
        self._by_basename: dict[str, list[str]] | None = None

    def sizes(self) -> dict[str, int]:
        """Return the members' sizes in bytes by name, sorted by name; names use forward slashes."""
        return dict(self._sizes)

    def called(self, member: str) -> str:
        """Return what messages call a member."""
        return str(self.path) if self.path.is_file() and self._zip is None else str(self.path / member)

    @contextmanager
    def open(self, member: str) -> Iterator[BinaryIO]:
        """Open a member for reading, seekable.

        Raises:
            DatasetError: If there is no such member or it is broken.
        """
        self._require(member)
        try:
            # Not read under a lock: the zip file has one of its own.
            stream = cast("BinaryIO", self._zip.open(member)) if self._zip else self._file(member).open("rb")
        except BROKEN_FILE as error:
            raise DatasetError(f"cannot be opened ({error})", file=self.called(member)) from error
        with stream:
            yield stream

    def read(self, member: str) -> bytes:
        """Return a member's bytes.

        Raises:
            DatasetError: If there is no such member or it is broken.
        """
        with self.open(member) as stream:
            try:
                return stream.read()
            except BROKEN_FILE as error:
                raise DatasetError(f"cannot be read ({error})", file=self.called(member)) from error

    def head(self, member: str, n_bytes: int) -> bytes:
        """Return the first bytes of a member.

        Raises:
            DatasetError: If there is no such member or it is broken.
        """
        with self.open(member) as stream:
            try:
                return stream.read(n_bytes)
            except BROKEN_FILE as error:
                raise DatasetError(f"cannot be read ({error})", file=self.called(member)) from error

    def find(self, name: str, beside: str = "") -> str | None:
        """Find the member that a path in a data file means.

        Args:
            name: The path as written.
            beside: The member it is written in.

        Returns:
            The member of that name, or of that name beside ``beside``, or the only one whose path ends with it; None
            where there is no such member or several.
        """
        wanted = pathlib.PurePosixPath(name.replace("\\", "/")).as_posix().lstrip("/")
        for exact in (wanted, str(pathlib.PurePosixPath(beside).parent / wanted)):
            if exact in self._sizes:
                return exact
        with self._lock:
            if self._by_basename is None:
                self._by_basename = {}
                for member in self._sizes:
                    self._by_basename.setdefault(member.rsplit("/", 1)[-1], []).append(member)
        same = [m for m in self._by_basename.get(wanted.rsplit("/", 1)[-1], ()) if f"/{m}".endswith(f"/{wanted}")]
        return same[0] if len(same) == 1 else None

    def _list(self) -> dict[str, int]:
        if self.path.is_dir():
            files = sorted(path for path in self.path.rglob("*") if path.is_file())
            return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}
        if not self.path.is_file():
            raise ValueError("nothing there")
        if not zipfile.is_zipfile(self.path):
            return {self.path.name: self.path.stat().st_size}
        self._zip = zipfile.ZipFile(self.path)
        infos = sorted((i for i in self._zip.infolist() if not i.is_dir()), key=lambda info: info.filename)
        return {info.filename: info.file_size for info in infos}

    def _file(self, member: str) -> pathlib.Path:
        return self.path / member if self.path.is_dir() else self.path

    def _require(self, member: str) -> None:
        if member not in self._sizes:
            raise DatasetError(f"no member {member!r}", file=self.path)


def as_text(stream: BinaryIO) -> io.TextIOWrapper:
    """Read a binary file as UTF-8 text with its own line ends; a byte order mark is dropped."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
