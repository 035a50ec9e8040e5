"""The mini world's painter as an image generator: the pictures that its diffusion model was trained on.

Prompts and encoder are the mini world's, the hand that paints is another: a test of transfer.
"""

from __future__ import annotations

import numpy as np

from pasta_gym.mini import grammar, painter, unsaid
from pasta_gym.seeding import seeds_for_torch
from pasta_gym.types import ImageArray, ImageEmbedder, Images, IntArray, UInt64Array


class PainterImages:
    """Draws each prompt with shapes and textures; what the prompt leaves unsaid is filled in at random.

    Args:
        encode_images: Embeds the pictures.
        embedding_dim: Width d of its embeddings.

    Attributes:
        encoder_sha256: Hash of the encoder of the embeddings, if whoever builds this knows it.
    """

    def __init__(self, encode_images: ImageEmbedder, embedding_dim: int) -> None:
        self.encode_images = encode_images
        self.embedding_dim = embedding_dim
        self.encoder_sha256: str | None = None

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts of the grammar.

        Args:
            prompts: ``(N,)`` prompt ids.
            keys: ``(N, M)`` random keys.

        Returns:
            Pixels ``(N, M, 64, 64, 3)`` uint8 and their embeddings ``(N, M, d)`` float32.
        """
        keys = np.asarray(keys, dtype=np.uint64)
        values = np.repeat(grammar.slot_values(np.asarray(prompts, dtype=np.int64)), keys.shape[1], axis=0)
        size = painter.IMAGE_SIZE
        pixels = np.zeros((keys.size, size, size, 3), dtype=np.uint8)
        for i, seed in enumerate(seeds_for_torch(keys)):
            pixels[i] = _paint(values[i], seed)
        embeddings = np.asarray(self.encode_images(pixels), dtype=np.float32)
        return Images(embeddings.reshape(*keys.shape, self.embedding_dim), pixels.reshape(*keys.shape, size, size, 3))


def _paint(values: IntArray, seed: int) -> ImageArray:
    rng = np.random.default_rng(seed)
    return painter.paint(unsaid.fill_unset(values[None], rng)[0], rng)
