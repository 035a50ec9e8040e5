"""The studio of the raters' sessions: the mini world's diffusion pipeline, its candidates, and both readers.

``python -m pasta_gym.mini.rater_data paint`` looks it up by name, because the mini world lies below these parts.
"""

from __future__ import annotations

import copy
import dataclasses
import functools

import torch

from pasta_gym.images import DiffusionImages
from pasta_gym.mini import grammar, raters
from pasta_gym.mini.clip import load_clip
from pasta_gym.mini.rater_sessions import Studio
from pasta_gym.mini.reader import load_reader, read_images
from pasta_gym.types import FloatArray, ImageArray, Images, IntArray, UInt64Array
from pasta_gym.worlds import make_world

N_CANDIDATES, N_CATEGORIES = 25, 5


def _read(pixels: ImageArray, *, role: str) -> FloatArray:
    """Read pictures ``(n, 64, 64, 3)`` by one of the two readers: ``(n, 38)``."""
    return raters.pack_reads(list(read_images(load_reader(role), pixels)))


def diffusion_studio() -> Studio:
    """Assemble the parts from the shipped weights.

    Raises:
        ValueError: If weights are missing or broken.
    """
    world = make_world("mini")
    return Studio(
        candidates={split: world.candidate_generator(split, N_CANDIDATES, N_CATEGORIES) for split in grammar.SPLITS},
        images=world.image_generator("diffusion"),
        encode_texts=load_clip().encode_texts,
        eye=functools.partial(_read, role="eye"),
        judge=functools.partial(_read, role="judge"),
    )


class HalfPrecision:
    """Paints under bf16 autocast, twice as fast on many CPUs; pictures are embedded and read in float32.

    The environment itself paints in float32: this is for making training data only.

    Args:
        images: A diffusion generator; a shallow copy of it is used.
        batch_size: Pictures painted at once.
    """

    def __init__(self, images: DiffusionImages, batch_size: int = 64) -> None:
        self.embedding_dim = images.embedding_dim
        self.encoder_sha256 = images.encoder_sha256
        self._images = copy.copy(images)
        self._images.batch_size = batch_size
        encode = images.encode_images

        def encode_in_full(pixels: ImageArray) -> FloatArray:
            with torch.autocast("cpu", enabled=False):
                return encode(pixels)

        self._images.encode_images = encode_in_full

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts ``(N,)`` with keys ``(N, M)``."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._images.generate(prompts, keys)


def half_precision_studio() -> Studio:
    """Assemble the same parts, painting in bf16."""
    studio = diffusion_studio()
    assert isinstance(studio.images, DiffusionImages)
    return dataclasses.replace(studio, images=HalfPrecision(studio.images))
