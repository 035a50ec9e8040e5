"""Embeds the prompts of any prompt book, each once, for books whose ids are not small integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pasta_gym.types import FloatArray, IntArray, PromptBook, TextEmbedder


class InternedTextEncoder:
    """A text encoder that keeps the embedding of every id it has met.

    Args:
        prompt_book: Writes ids out in words.
        encode_texts: The model underneath.
        embedding_dim: Width d of its embeddings.
    """

    def __init__(self, prompt_book: PromptBook, encode_texts: TextEmbedder, embedding_dim: int) -> None:
        self.prompt_book = prompt_book
        self.encode_texts = encode_texts
        self.embedding_dim = embedding_dim
        self._rows: dict[int, NDArray[np.float32]] = {}

    def embed(self, ids: IntArray) -> FloatArray:
        """Return float32 embeddings ``(..., d)`` of prompt ids ``(...)``."""
        distinct, positions = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
        missing = np.array([i for i in distinct.tolist() if i not in self._rows], dtype=np.int64)
        if len(missing):
            embedded = np.asarray(self.encode_texts(self.prompt_book.texts(missing)), dtype=np.float32)
            self._rows.update(zip(missing.tolist(), embedded, strict=True))
        table = np.array([self._rows[i] for i in distinct.tolist()], dtype=np.float32)
        embeddings: FloatArray = table.reshape(-1, self.embedding_dim)[positions.reshape(np.shape(ids))]
        return embeddings
