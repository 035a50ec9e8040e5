"""The studio of the raters' sessions: the mini world's diffusion pipeline, its candidates, and both readers.

``python -m pasta_gym.mini.rater_data paint`` looks it up by name, because the mini world lies below these parts.
"""

from __future__ import annotations

import functools

from pasta_gym.mini import grammar, raters
from pasta_gym.mini.clip import load_clip
from pasta_gym.mini.rater_sessions import Studio
from pasta_gym.mini.reader import load_reader, read_images
from pasta_gym.types import FloatArray, ImageArray
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
