"""Embeds prompts whose ids are small integers: one table, filled as prompts are met, kept between processes."""

from __future__ import annotations

import logging
import os
import pathlib

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pasta_gym.files import whole_file
from pasta_gym.types import FloatArray, IntArray, PromptBook, TextEmbedder

logger = logging.getLogger(__name__)

_FIRST_SAVE = 4096


class TableTextEncoder:
    """A text encoder that looks embeddings up in a table ``(n_prompts, d)``.

    Rows are filled in batches on first use; memory that no prompt has touched costs nothing. With a cache
    file, the filled rows are written whenever their number has grown by a quarter, and read when the next process
    starts. The file is replaced in one piece, so processes may share it.

    Args:
        prompt_book: Writes ids out in words.
        encode_texts: The model underneath.
        embedding_dim: Width d of its embeddings.
        n_prompts: Ids are in ``0..n_prompts - 1``.
        cache_file: An ``.npz`` file whose name says which model made it, or None to keep nothing.
    """

    def __init__(
        self,
        prompt_book: PromptBook,
        encode_texts: TextEmbedder,
        embedding_dim: int,
        n_prompts: int,
        *,
        cache_file: pathlib.Path | None = None,
    ) -> None:
        self.prompt_book = prompt_book
        self.encode_texts = encode_texts
        self.embedding_dim = embedding_dim
        self.n_prompts = n_prompts
        self.cache_file = cache_file
        self._table: NDArray[np.float32] = np.zeros((n_prompts, embedding_dim), dtype=np.float32)
        self._is_filled = np.zeros(n_prompts, dtype=np.bool_)
        self._n_saved = 0
        self._read_cache()

    @property
    def n_filled(self) -> int:
        """How many prompts have been embedded so far."""
        return int(self._is_filled.sum())

    def embed(self, ids: IntArray) -> FloatArray:
        """Return float32 embeddings ``(..., d)`` of prompt ids ``(...)``.

        Raises:
            ValueError: If an id is out of range.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.n_prompts):
            raise ValueError(f"prompt ids must be in 0..{self.n_prompts - 1}, got {ids.min()}..{ids.max()}")
        filled = self._is_filled[ids]
        if not filled.all():
            missing = np.unique(ids[~filled])
            self._table[missing] = self.encode_texts(self.prompt_book.texts(missing))
            self._is_filled[missing] = True
            if self.cache_file is not None and self.n_filled >= max(1.25 * self._n_saved, _FIRST_SAVE):
                self.save()
        return self._table[ids]

    def fill(self, *, batch_size: int = 8192, progress: bool = False) -> None:
        """Embed every prompt that has not been met yet, and save.

        Args:
            batch_size: Prompts between two moves of the progress bar.
            progress: Whether to show one.
        """
        missing = np.flatnonzero(~self._is_filled)
        with tqdm(total=self.n_prompts, initial=self.n_filled, desc="embedding prompts", disable=not progress) as bar:
            for start in range(0, len(missing), batch_size):
                bar.update(len(self.embed(missing[start : start + batch_size])))
        if len(missing):
            self.save()

    def save(self) -> None:
        """Write the filled rows to the cache file, together with those another process has written.

        A folder that cannot be written costs a warning in the log, never the episode.
        """
        if self.cache_file is None:
            return
        self._read_cache()
        ids = np.flatnonzero(self._is_filled)
        try:
            with whole_file(self.cache_file) as partial, partial.open("wb") as file:
                np.savez(file, ids=ids, embeddings=self._table[ids])
        except OSError as error:
            logger.warning("prompt embeddings were not kept in %s: %s", self.cache_file, error)
        self._n_saved = len(ids)

    def _read_cache(self) -> None:
        """Fill the rows that the cache file holds; a file that cannot be read counts as empty."""
        if self.cache_file is None or not os.access(self.cache_file, os.R_OK):
            return
        try:
            with np.load(self.cache_file) as kept:
                ids, embeddings = kept["ids"], kept["embeddings"]
            if embeddings.shape != (len(ids), self.embedding_dim) or not np.isfinite(embeddings).all():
                raise ValueError(f"embeddings of shape {embeddings.shape} for {len(ids)} ids")
            if len(ids) and not (ids.min() >= 0 and ids.max() < self.n_prompts):
                raise ValueError(f"ids {ids.min()}..{ids.max()}")
        except Exception as error:  # zipfile, numpy and the system each raise their own
            logger.warning("prompt embeddings in %s cannot be read (%s) and are made again", self.cache_file, error)
            return
        fresh = ~self._is_filled[ids]
        self._table[ids[fresh]] = embeddings[fresh]
        self._is_filled[ids] = True
        self._n_saved = max(self._n_saved, len(ids))
