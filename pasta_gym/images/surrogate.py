"""Draws image embeddings from a Gaussian for each prompt, without painting: thousands of turns a second."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pasta_gym.seeding import normals
from pasta_gym.types import Images, IntArray, TextEncoder, UInt64Array

Float32Array = NDArray[np.float32]
DEFAULT_CAPACITY = 1 << 16


class GaussianModel(Protocol):
    """The distribution of a prompt's image embeddings: a mean, a diagonal and a low-rank factor."""

    @property
    def embedding_dim(self) -> int:
        """Width d of the embeddings."""
        ...

    @property
    def rank(self) -> int:
        """Columns r of the factor."""
        ...

    def mean_and_spread(
        self, prompt_embeddings: NDArray[np.float32], /
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return mean ``(n, d)``, deviations ``(n, d)`` and factor ``(n, d, r)`` for prompts ``(n, d)``."""
        ...


class SurrogateImages:
    """An image generator that draws ``mean + deviations * e + factor @ z`` with noise keyed by the image.

    The parameters of each prompt are computed once and kept. Prompt ids are looked up in a sorted list, so any
    64-bit ids will do.

    Args:
        model: The Gaussian of each prompt.
        text_encoder: Embeds prompts for the model.
        capacity: How many prompts' parameters are kept; when full, it starts over.
    """

    paints = False  # there are embeddings alone

    def __init__(self, model: GaussianModel, text_encoder: TextEncoder, *, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 prompt, got {capacity}")
        self.model = model
        self.text_encoder = text_encoder
        self.capacity = capacity
        self.encoder_sha256: str | None = None  # of the encoder of the embeddings, if whoever builds this knows it
        self.embedding_dim = model.embedding_dim
        self._width = self.embedding_dim * (2 + model.rank)
        # Rows that nothing was written to take no memory.
        self._rows: Float32Array = np.empty((capacity, self._width), dtype=np.float32)
        self._forget()

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Draw image embeddings.

        Args:
            prompts: ``(N,)`` prompt ids.
            keys: ``(N, M)`` random keys.

        Returns:
            Embeddings ``(N, M, d)`` float32, and no pixels.
        """
        parameters = self._parameters(prompts)
        d, rank = self.embedding_dim, self.model.rank
        noise = normals(keys, d + rank)
        embeddings = noise[..., :d] * parameters[:, None, d : 2 * d]
        embeddings += np.matmul(noise[..., d:], parameters[:, 2 * d :].reshape(-1, rank, d))
        embeddings += parameters[:, None, :d]
        return Images(embeddings)

    def _forget(self) -> None:
        self._ids: IntArray = np.zeros(0, dtype=np.int64)  # sorted
        self._positions: IntArray = np.zeros(0, dtype=np.int64)  # row of each sorted id
        self._n_rows = 0

    def _parameters(self, prompts: IntArray) -> Float32Array:
        """Return mean, deviations and transposed factor of each prompt, ``(N, d * (2 + r))``."""
        prompts = np.asarray(prompts, dtype=np.int64)
        found = self._find(prompts)
        if (found < 0).any():
            missing = np.unique(prompts[found < 0])
            if self._n_rows + len(missing) > self.capacity:
                self._forget()
                missing = np.unique(prompts)
            self._append(missing)
            found = self._find(prompts)
        rows: Float32Array = self._rows[found]
        return rows

    def _find(self, prompts: IntArray) -> IntArray:
        """Row of each prompt, -1 where it is not kept."""
        if not len(self._ids):
            return np.full(len(prompts), -1, dtype=np.int64)
        nearest = np.minimum(np.searchsorted(self._ids, prompts), len(self._ids) - 1)
        found: IntArray = np.where(self._ids[nearest] == prompts, self._positions[nearest], -1)
        return found

    def _append(self, ids: IntArray) -> None:
        """Compute and keep the parameters of prompts ``(n,)``, sorted and none of them kept yet."""
        embedded = np.asarray(self.text_encoder.embed(ids), dtype=np.float32)
        mean, deviations, factor = self.model.mean_and_spread(embedded)
        d, rank = self.embedding_dim, self.model.rank
        begin, end = self._n_rows, self._n_rows + len(ids)
        if end > len(self._rows):  # one call asks for more than the capacity
            self._rows = np.concatenate([self._rows[:begin], np.empty((len(ids), self._width), dtype=np.float32)])
        new = self._rows[begin:end]
        new[:, :d], new[:, d : 2 * d] = mean, deviations
        new[:, 2 * d :].reshape(-1, rank, d)[:] = factor.transpose(0, 2, 1)
        places = np.searchsorted(self._ids, ids)
        self._ids = np.insert(self._ids, places, ids)
        self._positions = np.insert(self._positions, places, np.arange(begin, end))
        self._n_rows = end
