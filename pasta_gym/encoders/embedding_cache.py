"""Embeddings of images and texts, computed once and kept on disk under what they are embeddings of."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import PIL.Image
from tqdm.auto import tqdm

from pasta_gym.encoders.row_store import DTYPES, RowStore, exclusive
from pasta_gym.files import write_json
from pasta_gym.types import FloatArray, IntArray

FORMAT = 1
DEFAULT_DTYPE = "float32"
BLOCK = 256
"""Items that are encoded and written together; a killed run computes at most as many again."""

T = TypeVar("T")


class BadImagesError(ValueError):
    """Images that cannot be decoded.

    Attributes:
        reasons: What is wrong, by position in the batch.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(reasons)
        first = ", ".join(f"image {i}: {why}" for i, why in itertools.islice(self.reasons.items(), 3))
        super().__init__(f"{len(self.reasons)} images cannot be decoded ({first}); pass files of JPEG, PNG or WebP")


class Encoder(Protocol):
    """What the cache asks of an encoder; :class:`~pasta_gym.encoders.clip_encoder.ClipEncoder` is one."""

    embedding_dim: int
    identity: dict[str, Any]

    def encode_images(self, images: Sequence[bytes | PIL.Image.Image]) -> FloatArray:
        """Embed n images as ``(n, d)``; raises ``BadImagesError`` before anything is computed."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed n texts as ``(n, d)``."""
        ...


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Hash an encoder's identity, plain data, to 16 hex digits that depend on its content alone."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def image_key(image: bytes | PIL.Image.Image) -> bytes:
    """Hash an image: the bytes of a file as they are, a decoded picture by its size and RGB pixels.

    A file and the picture decoded from it have different keys, and are both right.
    """
    if isinstance(image, PIL.Image.Image):
        rgb = image.convert("RGB")
        return hashlib.sha256(b"pixels\0%d,%d\0" % rgb.size + rgb.tobytes()).digest()
    return hashlib.sha256(b"image\0" + image).digest()


def text_key(text: str) -> bytes:
    """Hash a text exactly as it is, capitals and spaces included."""
    return hashlib.sha256(b"text\0" + text.encode()).digest()


class EmbeddingCache:
    """Embeddings ``(n, d)`` of one encoder, by content, in ``<folder>/<fingerprint>/``.

    What is there is never computed again, so a run that was stopped goes on where it was, and several processes may
    fill one cache together. ``docs/embedding_cache.md`` describes the files.

    Args:
        folder: Holds the caches of any number of encoders, each in a folder of its own.
        identity: What the embeddings depend on, as plain data; ``ClipEncoder.identity``.
        dim: Width d of an embedding.
        dtype: How a new cache stores numbers. ``float32`` keeps what the encoder returned, so a cached run equals a
            fresh one. ``float16`` halves the disk for a relative error of 5e-4; CLIP's embeddings before
            normalisation fit in it. None means what the folder already has, or ``float32``.

    Raises:
        ValueError: If the folder holds something else under this fingerprint, or is broken.
    """

    def __init__(
        self, folder: str | pathlib.Path, identity: Mapping[str, Any], dim: int, *, dtype: str | None = None
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)} or None, got {dtype!r}")
        self.identity = json.loads(json.dumps(identity))
        self.fingerprint = fingerprint_of(self.identity)
        self.folder = pathlib.Path(folder) / self.fingerprint
        kept = self._read_header()
        self._header = {
            "format": FORMAT,
            "dim": int(dim),
            "dtype": dtype or (kept or {}).get("dtype", DEFAULT_DTYPE),
            "identity": self.identity,
        }
        self._is_described = kept is not None
        if kept is not None:
            self._require_same(kept)
        self._store = RowStore(self.folder, dim, self._header["dtype"])

    @classmethod
    def of(cls, encoder: Encoder, folder: str | pathlib.Path, *, dtype: str | None = None) -> EmbeddingCache:
        """Open the cache of an encoder."""
        return cls(folder, encoder.identity, encoder.embedding_dim, dtype=dtype)

    def __len__(self) -> int:
        """Number of embeddings."""
        self._store.refresh()
        return len(self._store)

    @property
    def dim(self) -> int:
        """Width d of an embedding."""
        return self._store.dim

    @property
    def dtype(self) -> str:
        """How numbers are stored: ``float32`` or ``float16``."""
        return str(self._header["dtype"])

    def rows(self, keys: Sequence[bytes]) -> IntArray:
        """Find ``(n,)`` row numbers of keys made by ``image_key`` and ``text_key``; -1 for what is missing."""
        return self._store.find(keys)

    def get(self, rows: IntArray) -> FloatArray:
        """Read embeddings ``(n, d)`` float32 of row numbers ``(n,)``.

        Raises:
            ValueError: If a row does not exist; -1 means that its key is missing.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and rows.max() >= len(self._store):
            self._store.refresh()
        n = len(self._store)
        if rows.size and not (rows.min() >= 0 and rows.max() < n):
            raise ValueError(f"rows must be in 0..{n - 1}, got {rows.min()}..{rows.max()}; embed what is missing first")
        embeddings: FloatArray = self._store.table()[rows].astype(np.float32)
        return embeddings

    def table(self) -> FloatArray:
        """Map all embeddings into memory: ``(n, d)`` in the stored type; memory holds what is touched.

        Writing to the map never reaches the disk. Rows that are added later are not in it; call again.
        """
        self._store.refresh()
        return self._store.table()

    def add(self, keys: Sequence[bytes], embeddings: FloatArray) -> IntArray:
        """Keep embeddings ``(n, d)`` under n keys; keys that are there already stay as they are.

        Returns:
            ``(n,)`` row numbers.

        Raises:
            ValueError: If an embedding is not finite, too large for the stored type, or of another width.
        """
        self._write_header()
        return self._store.add(keys, embeddings)

    def check(self) -> IntArray:
        """Verify every row's checksum.

        Returns:
            ``(b,)`` numbers of broken rows. Embedding the same images or texts again mends them in place.
        """
        return self._store.check()

    def embed_images(
        self,
        encoder: Encoder,
        images: Iterable[bytes | PIL.Image.Image],
        *,
        block: int = BLOCK,
        progress: bool = False,
        on_bad: Callable[[int, str], None] | None = None,
    ) -> IntArray:
        """Embed the images that are not there yet.

        Args:
            encoder: The encoder this cache belongs to.
            images: Encoded files or pictures, as a list or as a stream of which only a block is held in memory.
            block: Images encoded and written together. The encoder's own batch size is separate.
            progress: Show a bar.
            on_bad: Called with the position of an image that cannot be decoded and the reason; its row is -1.
                Without it such an image is an error.

        Returns:
            ``(n,)`` row numbers, -1 for bad images.

        Raises:
            ValueError: If the encoder is another one, or an image is bad and ``on_bad`` is None.
        """

        def encode(items: Sequence[bytes | PIL.Image.Image]) -> tuple[list[int], FloatArray, dict[int, str]]:
            good, bad = list(range(len(items))), dict[int, str]()
            try:
                return good, encoder.encode_images(items), bad
            except BadImagesError as error:
                if on_bad is None:
                    raise
                bad = error.reasons
            good = [i for i in good if i not in bad]
            return good, encoder.encode_images([items[i] for i in good]), bad

        return self._embed(encoder, images, image_key, encode, block, progress, on_bad)

    def embed_texts(
        self, encoder: Encoder, texts: Iterable[str], *, block: int = BLOCK, progress: bool = False
    ) -> IntArray:
        """Embed the texts that are not there yet; arguments as in ``embed_images``.

        Returns:
            ``(n,)`` row numbers.
        """

        def encode(items: Sequence[str]) -> tuple[list[int], FloatArray, dict[int, str]]:
            return list(range(len(items))), encoder.encode_texts(items), {}

        return self._embed(encoder, texts, text_key, encode, block, progress, None)

    def _embed(
        self,
        encoder: Encoder,
        items: Iterable[T],
        key_of: Callable[[T], bytes],
        encode: Callable[[Sequence[T]], tuple[list[int], FloatArray, dict[int, str]]],
        block: int,
        progress: bool,
        on_bad: Callable[[int, str], None] | None,
    ) -> IntArray:
        if fingerprint_of(encoder.identity) != self.fingerprint:
            raise ValueError(
                f"this cache holds embeddings of encoder {self.fingerprint}, got encoder "
                f"{fingerprint_of(encoder.identity)}; open its own with EmbeddingCache.of(encoder, folder)"
            )
        if block < 1:
            raise ValueError(f"block must be 1 or more, got {block}")
        found = [np.zeros(0, dtype=np.int64)]
        total = len(items) if isinstance(items, Sequence) else None
        stream, position = iter(items), 0
        with tqdm(total=total, disable=not progress, desc="embedding", mininterval=1) as bar:
            while batch := list(itertools.islice(stream, block)):
                keys = [key_of(item) for item in batch]
                rows = self.rows(keys)
                first: dict[bytes, int] = {}
                for i in np.flatnonzero(rows < 0).tolist():
                    first.setdefault(keys[i], i)
                if missing := list(first.values()):
                    good, embeddings, bad = encode([batch[i] for i in missing])
                    if good:
                        self.add([keys[missing[i]] for i in good], embeddings)
                    reasons = {keys[missing[i]]: why for i, why in bad.items()}
                    for i, key in enumerate(keys):
                        if key in reasons and on_bad is not None:
                            on_bad(position + i, reasons[key])
                    rows = self.rows(keys)
                found.append(rows)
                position += len(batch)
                bar.update(len(batch))
        return np.concatenate(found)

    def _read_header(self) -> dict[str, Any] | None:
        path = self.folder / "identity.json"
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(header, dict) or "identity" not in header:
                raise ValueError("not what an embedding cache writes")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path} ({error}); delete the folder {self.folder} to start anew") from error
        return header

    def _require_same(self, kept: dict[str, Any]) -> None:
        for name, wanted in self._header.items():
            if kept.get(name) != wanted:
                raise ValueError(
                    f"{self.folder} holds embeddings with {name} {kept.get(name)}, asked for {name} {wanted}; "
                    "use another folder, or delete this one to compute them again"
                )

    def _write_header(self) -> None:
        """Say what the folder holds before the first row is in it: all or nothing, and once."""
        if self._is_described:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "lock"):
            kept = self._read_header()
            if kept is not None:  # another process was first
                self._require_same(kept)
            else:
                write_json(self.folder / "identity.json", self._header)
        self._is_described = True
