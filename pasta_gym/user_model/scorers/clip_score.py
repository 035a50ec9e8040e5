"""CLIP score: the cosine of image and prompt embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.types import FloatArray
from pasta_gym.user_model.scorers.base import require_pairs


class ClipScore:
    """CLIP score in [-1, 1], not multiplied by 100; about 0.15 to 0.35 for OpenAI's ViT-L/14.

    Args:
        encoder: Any open_clip model.
    """

    name = "CLIP score"

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder

    def scores(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        """Score image i for prompt i: ``(n,)``.

        Raises:
            ValueError: If there are not as many prompts as images, or a picture cannot be read.
        """
        require_pairs(prompts, images)
        if not len(images):
            return np.zeros(0)
        text = self._encoder.encode_texts(prompts).astype(np.float64)
        picture = self._encoder.encode_images(images).astype(np.float64)
        cosines: FloatArray = (text * picture).sum(axis=1) / (
            np.linalg.norm(text, axis=1) * np.linalg.norm(picture, axis=1)
        )
        return cosines
