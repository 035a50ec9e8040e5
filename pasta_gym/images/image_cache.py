"""Painted pictures and their embeddings on disk: one file each, whole or not there, bounded in size, verifiable.

An entry is a safetensors file, ``<folder>/<2 hex digits>/<62 hex digits>.safetensors``, with a lossless PNG, one
embedding for each encoder that has seen it, and a checksum of everything. It is written beside and renamed, so a
reader finds the whole of it or nothing, and a writer that is killed leaves a partial file that nobody reads and the
next trimming removes. Reading takes no lock. Writers take turns for the moment of the renaming, which keeps the
total of all processes under the bound.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pathlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from pasta_gym.encoders.row_store import exclusive
from pasta_gym.types import FloatArray, ImageArray

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 50 * 10**9
_SUFFIX, _PARTIAL = ".safetensors", ".partial"
_STALE_SECONDS = 3600.0  # no writer takes that long for one picture
_KEPT_SHARE = 0.9  # trimming goes below the bound, or every next entry would trim again
_EMBEDDING = "embedding/"
_SIZE_BYTES = 8
_MOST_THREADS = 8


@dataclass(frozen=True)
class CachedImage:
    """One picture.

    Attributes:
        pixels: ``(height, width, 3)`` uint8.
        embeddings: ``(d,)`` float32 by the encoder's fingerprint.
    """

    pixels: ImageArray
    embeddings: Mapping[str, FloatArray]


@dataclass
class CacheStats:
    """What one process has met: entries found, not found, and found broken."""

    hits: int = 0
    misses: int = 0
    corrupt: int = 0


def image_key(identity: Mapping[str, Any], prompt: str, seed: int) -> str:
    """Name a picture by everything it depends on: 64 hex digits.

    Args:
        identity: Model, revision, scheduler, steps, guidance, size and precision, as plain data.
        prompt: Its text.
        seed: Its seed.
    """
    content = json.dumps({"identity": identity, "prompt": prompt, "seed": int(seed)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class ImageCache:
    """Pictures under keys, shared by any number of processes.

    What was used longest ago goes first when the bound is reached.

    Args:
        folder: Made when the first picture is added. It may be deleted at any time.
        max_bytes: Most bytes of entries on disk.

    Raises:
        ValueError: If the bound is not positive.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}; leave the cache out to keep nothing")
        self.folder = pathlib.Path(folder)
        self.max_bytes = max_bytes
        self.stats = CacheStats()

    def __len__(self) -> int:
        """Number of entries."""
        return sum(1 for _ in self._entries())

    def n_bytes(self) -> int:
        """Size of all entries."""
        return sum(size for _, size, _ in self._entries())

    def get(self, key: str) -> CachedImage | None:
        """Read a picture; None if it is not there or its bytes are not what was written."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.stats.misses += 1
            return None
        found = _unpacked(data, key)
        if found is None:
            logger.warning("%s is broken and counts as missing", path)
            self.stats.corrupt += 1
            return None
        try:
            os.utime(path)  # used just now
        except OSError:
            logger.debug("%s was removed while it was read, or the cache is read-only", path)
        self.stats.hits += 1
        return found

    def put(self, key: str, image: CachedImage, *, about: Mapping[str, str] | None = None) -> bool:
        """Write a picture, in place of one that is there.

        Args:
            key: From ``image_key``.
            image: What to keep.
            about: Words for people who open the file, such as the prompt.

        Returns:
            Whether it was kept: an entry larger than the bound is not, nor one whose folder is deleted again and again.

        Raises:
            ValueError: If the picture is not ``(height, width, 3)`` uint8, or an embedding not a finite vector.
            OSError: If the disk is full or the folder cannot be written; nothing is left of the entry then.
        """
        return self._put(key, _packed(key, image, about or {}))

    def put_all(self, entries: Sequence[tuple[str, CachedImage, Mapping[str, str]]]) -> None:
        """Write pictures, each as ``put`` does, one after the other; they are compressed side by side in threads.

        Args:
            entries: Key, picture and words for people, of each.

        Raises:
            ValueError: As ``put``.
            OSError: As ``put``; those before the one that failed are kept.
        """
        if not entries:
            return
        # Most of the time goes into compression, which Pillow does without Python's lock.
        with ThreadPoolExecutor(min(len(entries), os.cpu_count() or 1, _MOST_THREADS)) as threads:
            for (key, _, _), data in zip(entries, threads.map(lambda entry: _packed(*entry), entries), strict=True):
                self._put(key, data)

    def _put(self, key: str, data: bytes) -> bool:
        """Write an entry's bytes; return whether it was kept."""
        if len(data) > self.max_bytes:
            logger.warning("a picture of %d bytes is larger than the whole cache of %d", len(data), self.max_bytes)
            return False
        path = self._path(key)
        for _ in range(2):
            try:
                self._write(path, data)
            except FileNotFoundError:  # somebody deleted the folder under it
                continue
            return True
        logger.warning("%s was deleted while a picture was written, which is not kept", self.folder)
        return False

    def _write(self, path: pathlib.Path, data: bytes) -> None:
        """Write an entry beside its place and rename it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            # Not flushed to the disk itself: after a power cut the checksum tells, and the picture is painted again.
            partial.write_bytes(data)
            with exclusive(self.folder / "lock"):
                self._make_room(len(data))
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def check(self, *, remove: bool = False) -> list[pathlib.Path]:
        """Read every entry and compare it with its checksum.

        Args:
            remove: Delete what is broken. Otherwise it is replaced when it is next painted.

        Returns:
            Files of broken entries.
        """
        broken = []
        for path, _, _ in self._entries():
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # trimmed by another process
                continue
            if _unpacked(data, path.parent.name + path.name.removesuffix(_SUFFIX)) is None:
                broken.append(path)
                if remove:
                    path.unlink(missing_ok=True)
        return broken

    def trim(self, max_bytes: int | None = None) -> int:
        """Remove partial files of killed writers, and entries used longest ago until the rest fits.

        Args:
            max_bytes: What may remain, by default the bound.

        Returns:
            Bytes of entries that remain.
        """
        if not self.folder.is_dir():
            return 0
        with exclusive(self.folder / "lock"):
            total = self._trimmed(self.max_bytes if max_bytes is None else max_bytes)
            self._write_total(total)
        return total

    def _path(self, key: str) -> pathlib.Path:
        if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise ValueError(f"a key is 64 hex digits as image_key makes them, got {key!r}")
        return self.folder / key[:2] / f"{key[2:]}{_SUFFIX}"

    def _entries(self) -> Iterator[tuple[pathlib.Path, int, float]]:
        """File, size and time of last use of every entry; what vanishes meanwhile is left out."""
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield path, found.st_size, found.st_mtime

    def _make_room(self, n_bytes: int) -> None:
        """Count an entry before it is there, and trim if it would pass the bound. The lock is held."""
        total = self._read_total()
        if total is None or total + n_bytes > self.max_bytes:
            # Also after a writer was killed between counting and renaming: then the count is too high, never too low.
            needed = self.max_bytes - n_bytes
            total = self._trimmed(needed if total is None else min(int(self.max_bytes * _KEPT_SHARE), needed))
        self._write_total(total + n_bytes)

    def _trimmed(self, max_bytes: int) -> int:
        now = time.time()
        for partial in self.folder.glob(f"??/.*{_PARTIAL}"):
            try:
                if now - partial.stat().st_mtime > _STALE_SECONDS:
                    partial.unlink()
            except FileNotFoundError:
                continue
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        total = sum(size for _, size, _ in entries)
        for path, size, _ in entries:
            if total <= max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _read_total(self) -> int | None:
        """The count of bytes that all writers share; None if there is none yet."""
        try:
            data = (self.folder / "size").read_bytes()
        except FileNotFoundError:
            return None
        return int.from_bytes(data, "little") if len(data) == _SIZE_BYTES else None

    def _write_total(self, total: int) -> None:
        descriptor = os.open(self.folder / "size", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(descriptor, total.to_bytes(_SIZE_BYTES, "little"), 0)
        finally:
            os.close(descriptor)


def _packed(key: str, image: CachedImage, about: Mapping[str, str]) -> bytes:
    """Write an entry's bytes."""
    from safetensors.numpy import save

    pixels = np.asarray(image.pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"a picture is (height, width, 3) uint8, got {pixels.shape} {pixels.dtype}")
    png = io.BytesIO()
    PIL.Image.fromarray(pixels).save(png, format="PNG", compress_level=1)  # a fifth larger, many times faster
    tensors: dict[str, Any] = {"png": np.frombuffer(png.getvalue(), dtype=np.uint8)}
    for fingerprint, embedding in image.embeddings.items():
        vector = np.array(embedding, dtype=np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise ValueError(f"an embedding is a vector of finite numbers, got one of shape {vector.shape}")
        tensors[_EMBEDDING + fingerprint] = vector
    tensors["checksum"] = np.frombuffer(_checksum(key, tensors), dtype=np.uint8)
    packed: bytes = save(tensors, metadata={"format": "1", **about})
    return packed


def _unpacked(data: bytes, key: str) -> CachedImage | None:
    """Read an entry's bytes; None if they are not exactly what was written under this key."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        checksum = tensors.pop("checksum").tobytes()
        if checksum != _checksum(key, tensors):
            return None
        with PIL.Image.open(io.BytesIO(tensors.pop("png").tobytes()), formats=("PNG",)) as picture:
            pixels: ImageArray = np.array(picture)
    except (SafetensorError, KeyError, OSError, ValueError):
        return None
    return CachedImage(pixels, {name.removeprefix(_EMBEDDING): vector for name, vector in tensors.items()})


def _checksum(key: str, tensors: Mapping[str, Any]) -> bytes:
    """Hash an entry under its key, so that a file under another's name is broken too."""
    digest = hashlib.sha256(key.encode())
    for name, tensor in sorted(tensors.items()):
        data = np.ascontiguousarray(tensor)
        digest.update(f"{name} {data.dtype} {data.shape}".encode())
        digest.update(data.tobytes())
    return digest.digest()
