"""The studio that paints the raters' sessions: the mini world's own candidates, diffusion pipeline and readers."""

from __future__ import annotations

import numpy as np
import torch

from pasta_gym.candidates.edits import EditCandidates
from pasta_gym.images.diffusion import DiffusionImages
from pasta_gym.mini import clip, reader, sdxl
from pasta_gym.mini.rater_sessions import Studio
from pasta_gym.mini.train_sdxl import use_plain_attention
from pasta_gym.types import FloatArray, ImageArray, Images, IntArray, UInt64Array
from pasta_gym.worlds import GrammarPromptBook

BATCH = 64


class HalfPrecision:
    """Paints in bf16, twice as fast on a CPU; the environment itself paints in float32.

    Args:
        images: The generator to run under autocast.
    """

    def __init__(self, images: DiffusionImages) -> None:
        self.images = images
        self.embedding_dim = images.embedding_dim

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts ``(N,)`` with keys ``(N, M)``."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.images.generate(prompts, keys)


def diffusion_studio() -> Studio:
    """Assemble the studio from the shipped weights."""
    mini_clip = clip.load_clip()
    pipeline = sdxl.load_pipeline()
    use_plain_attention(pipeline.unet)

    def embed(pixels: ImageArray) -> FloatArray:
        with torch.autocast("cpu", enabled=False):
            return mini_clip.encode_images(pixels)

    def read(role: str, pixels: ImageArray) -> FloatArray:
        with torch.autocast("cpu", enabled=False):
            return np.concatenate(reader.read_images(reader.load_reader(role), pixels), axis=1)

    images = DiffusionImages(
        pipeline,
        GrammarPromptBook(),
        embed,
        clip.EMBEDDING_DIM,
        size=sdxl.IMAGE_SIZE,
        steps=sdxl.DEFAULT_STEPS,
        guidance=sdxl.DEFAULT_GUIDANCE,
        batch_size=BATCH,
    )
    return Studio(
        candidates={s: EditCandidates(avoid_held_out=s == "train") for s in ("train", "validation", "test")},
        images=HalfPrecision(images),
        encode_texts=mini_clip.encode_texts,
        eye=lambda pixels: read("eye", pixels),
        judge=lambda pixels: read("judge", pixels),
    )
