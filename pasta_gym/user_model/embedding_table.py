"""Gives what a dataset names a row in a table of embeddings, in the order in which it first appears."""

from __future__ import annotations

import pathlib
from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pasta_gym.encoders.embedding_cache import EmbeddingCache
from pasta_gym.files import whole_file
from pasta_gym.types import FloatArray, IntArray

T = TypeVar("T")
_COPIED_AT_ONCE = 4096
NO_ROW = -1


@dataclass(frozen=True)
class Item(Generic[T]):
    """Something to be embedded, or embedded already.

    Attributes:
        name: What tells it from others.
        content: What to encode.
        embedding: ``(d,)``, if it came with the dataset.
    """

    name: Hashable
    content: T
    embedding: FloatArray | None


class EmbeddingTable(Generic[T]):
    """Rows of images, or of prompts.

    Rows are numbered by first appearance, whatever the cache held before: the same data gives the same arrays.
    Equal contents share a row.

    Args:
        what: What the items are called in messages.
        embed: Takes items without embeddings and returns their rows in the cache, ``(n,)``, -1 for bad ones. None if
            there is no encoder.
        dim: The embeddings' width d, if an encoder decides it.
        on_row: Called with every new row and the item that it was made for.
    """

    def __init__(
        self,
        what: str,
        embed: Callable[[Sequence[Item[T]]], IntArray] | None,
        dim: int | None,
        on_row: Callable[[int, Item[T]], None] | None = None,
    ) -> None:
        self._what = what
        self._embed = embed
        self._on_row = on_row
        self.dim = dim
        self._row_of: dict[Hashable, int] = {}
        self._row_of_cached: dict[int, int] = {}
        self._cached = array("q")  # row in the cache, -1 for what came with its embedding
        self._given: dict[int, FloatArray] = {}

    def __len__(self) -> int:
        """Number of rows so far."""
        return len(self._cached)

    def has(self, name: Hashable) -> bool:
        """Whether an item has been resolved, well or badly."""
        return name in self._row_of

    def __getitem__(self, name: Hashable) -> int:
        """Row of a resolved item, -1 if it is bad."""
        return self._row_of[name]

    def resolve(self, items: Sequence[Item[T]]) -> None:
        """Give rows to items that have none yet.

        Raises:
            ValueError: If an embedding has another width, or there is none and no encoder.
        """
        fresh = {item.name: item for item in items if item.name not in self._row_of}
        encoded = [item for item in fresh.values() if item.embedding is None]
        if encoded and self._embed is None:
            raise ValueError(
                f"{self._what} {encoded[0].name} comes without an embedding; pass an encoder and a cache_folder, "
                "such as ClipEncoder.pretrained()"
            )
        found = iter(self._embed(encoded).tolist() if encoded and self._embed else ())
        for item in fresh.values():
            given, n_before = item.embedding is not None, len(self)
            self._row_of[item.name] = self._given_row(item) if given else self._encoded_row(next(found))
            if self._on_row is not None and len(self) > n_before:
                self._on_row(n_before, item)

    def _encoded_row(self, cached: int) -> int:
        if cached < 0:
            return NO_ROW
        if cached not in self._row_of_cached:
            self._row_of_cached[cached] = len(self._cached)
            self._cached.append(cached)
        return self._row_of_cached[cached]

    def _given_row(self, item: Item[T]) -> int:
        embedding = np.asarray(item.embedding)
        self.dim = self.dim or embedding.shape[-1]
        if embedding.shape != (self.dim,) or not np.isfinite(embedding).all():
            raise ValueError(
                f"the embedding of {self._what} {item.name} must be {self.dim} finite numbers as of the others, got "
                f"shape {embedding.shape}; embeddings of two encoders do not mix"
            )
        row = len(self._cached)
        self._given[row] = embedding
        self._cached.append(-1)
        return row

    def table(self, cache: EmbeddingCache | None, file: pathlib.Path | None) -> FloatArray:
        """Build the table ``(n, d)``.

        Args:
            cache: Where encoded items are.
            file: Where to write the table if it is spread over the cache, so that it need not fit in memory; None
                keeps it in memory.

        Returns:
            A slice of the cache's own memory map if that is all it takes; a memory map of ``file``; or an array, in
            the narrowest type that holds what was given.
        """
        rows = np.array(self._cached, dtype=np.int64)
        if cache is None or not len(rows):
            given = [self._given[i] for i in range(len(rows))]
            return np.stack(given) if given else np.zeros((0, self.dim or 0), dtype=np.float32)
        every = cache.table()
        if self._given:
            kind = np.result_type(every.dtype, *{e.dtype for e in self._given.values()})
            mixed: FloatArray = np.zeros((len(rows), every.shape[1]), dtype=kind)
            mixed[rows >= 0] = every[rows[rows >= 0]]
            for i, embedding in self._given.items():
                mixed[i] = embedding
            return mixed
        if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return every[rows[0] : rows[0] + len(rows)]
        return every[rows] if file is None else _spill(every, rows, file)


def _spill(every: FloatArray, rows: IntArray, file: pathlib.Path) -> FloatArray:
    """Copy rows into a file of their own, all or nothing, and map it as the cache maps its own.

    It is mapped before it gets its name, under which another process may put its own at any moment.
    """
    with whole_file(file) as partial:
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=every.dtype, shape=(len(rows), every.shape[1]))
        for start in range(0, len(rows), _COPIED_AT_ONCE):
            out[start : start + _COPIED_AT_ONCE] = every[rows[start : start + _COPIED_AT_ONCE]]
        out.flush()
        mapped: FloatArray = np.load(partial, mmap_mode="c", allow_pickle=False)
    return mapped
