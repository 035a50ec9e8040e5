"""An image generator that paints only what was never painted before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pasta_gym.images.batches import work_in_batches
from pasta_gym.images.diffusion import DiffusionImages
from pasta_gym.images.image_cache import CachedImage, ImageCache, image_key
from pasta_gym.seeding import seeds_for_torch
from pasta_gym.types import FloatArray, ImageArray, Images, IntArray, UInt64Array


class CachedImages:
    """``DiffusionImages`` with a cache before it.

    A picture that comes from the cache is the one that was painted, to the bit. A broken entry is painted again. A
    picture that another encoder embedded is embedded again and not painted. Each batch is embedded and kept before the
    next is painted, so little is lost if a call does not end.

    Args:
        images: Paints what is missing.
        cache: Where pictures are kept.
        model: The model's identity, see ``pasta_gym.images.pipelines.model_identity``; the painter's settings are
            added to it.
        encoder_fingerprint: Names the encoder of the embeddings.

    Attributes:
        identity: What a picture depends on beside its prompt and seed.
    """

    def __init__(
        self, images: DiffusionImages, cache: ImageCache, *, model: Mapping[str, Any], encoder_fingerprint: str
    ) -> None:
        self.images = images
        self.cache = cache
        self.encoder_fingerprint = encoder_fingerprint
        self.embedding_dim = images.embedding_dim
        self.identity: dict[str, Any] = {"model": dict(model), **images.settings}

    @property
    def encoder_sha256(self) -> str | None:
        """Hash of the encoder of the embeddings, where it is known."""
        return self.images.encoder_sha256

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts ``(N,)`` with random keys ``(N, M)``, or find their pictures; as ``DiffusionImages`` does."""
        keys = np.asarray(keys, dtype=np.uint64)
        prompts = np.repeat(np.asarray(prompts, dtype=np.int64), keys.shape[1])
        seeds = seeds_for_torch(keys)
        texts = self.images.prompt_book.texts(prompts)
        names = [image_key(self.identity, text, seed) for text, seed in zip(texts, seeds, strict=True)]
        pixels = np.zeros((keys.size, self.images.height, self.images.width, 3), dtype=np.uint8)
        embeddings = np.zeros((keys.size, self.embedding_dim), dtype=np.float32)
        first = {name: i for i, name in reversed(list(enumerate(names)))}  # equal prompts and keys: one picture
        unpainted, unembedded = [], []
        for name, i in first.items():
            kept = self._kept(name)
            if kept is None:
                unpainted.append(i)
                continue
            pixels[i] = kept.pixels
            if self.encoder_fingerprint in kept.embeddings:
                embeddings[i] = kept.embeddings[self.encoder_fingerprint]
            else:
                unembedded.append((i, kept))
        unpainted.sort()

        def keep(begin: int, painted: ImageArray, embedded: FloatArray) -> None:
            rows = unpainted[begin : begin + len(painted)]
            pixels[rows], embeddings[rows] = painted, embedded
            keep_rows(rows, [{}] * len(rows))

        def keep_rows(rows: list[int], others: Sequence[Mapping[str, FloatArray]]) -> None:
            entries = []
            for i, other in zip(rows, others, strict=True):
                image = CachedImage(pixels[i], {**other, self.encoder_fingerprint: embeddings[i]})
                entries.append((names[i], image, {"prompt": texts[i], "seed": str(seeds[i])}))
            self.cache.put_all(entries)

        def embed(chunk: slice) -> None:
            rows = [i for i, _ in unembedded[chunk]]
            embeddings[rows] = self.images.encode_images(pixels[rows])
            keep_rows(rows, [kept.embeddings for _, kept in unembedded[chunk]])

        if unpainted:
            self.images.generate_and_keep(prompts[unpainted], keys.reshape(-1)[unpainted][:, None], keep)
        work_in_batches(len(unembedded), self.images.batch_size, embed)
        source = [first[name] for name in names]
        shape = keys.shape
        return Images(
            embeddings[source].reshape(*shape, self.embedding_dim), pixels[source].reshape(*shape, *pixels.shape[1:])
        )

    def _kept(self, name: str) -> CachedImage | None:
        kept = self.cache.get(name)
        if kept is None or kept.pixels.shape != (self.images.height, self.images.width, 3):
            return None
        own = kept.embeddings.get(self.encoder_fingerprint)
        if own is not None and own.shape != (self.embedding_dim,):
            return None
        return kept
