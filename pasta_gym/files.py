"""Files and folders that are either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def whole_file(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Fill a hidden neighbour of ``target``, which takes its name only when the block ends without an error.

    So neither an error nor a killed process leaves half a file, and processes that write the same one do not mix. After
    a power cut it may be empty, unless the block flushed it to the disk.

    Yields:
        The file to write, which is not there yet. Its name does not end as the target's does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text as a whole file, which a power cut does not empty."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON atomically, keys sorted."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextmanager
def whole_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Fill a hidden neighbour of ``target``, which takes its name only when the block ends without an error.

    If another process finished the same folder first, its copy stays and ours is dropped.

    Yields:
        The folder to write to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def digest(content: Any) -> str:
    """Hash plain data (numbers, strings, lists, dicts) to 16 hex digits that depend on the content alone."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: pathlib.Path) -> str:
    """Hash a file's bytes to 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
