"""ImageReward: a BLIP with a reward head, through its own package."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from pasta_gym.types import FloatArray
from pasta_gym.user_model.scorers.base import require_pairs

MEAN, DEVIATION = 0.16717, 1.03334
"""What the package takes off the raw reward and divides by, so that scores are about standard normal."""


class ImageReward:
    """ImageReward, about standard normal and unbounded.

    The network is a BLIP in its original code, whose names and layers ``transformers``' BLIP does not share, so the
    package ``image-reward`` is used; it is no dependency of this one. The package reads its ``.pt`` with
    ``torch.load``, which refuses code from torch 2.6 on. It cuts prompts at 35 tokens.

    Args:
        folder: Where ``ImageReward.pt`` and ``med_config.json`` are.
        device: ``cpu`` or ``cuda``.

    Raises:
        ValueError: If a file or the package is missing.
    """

    name = "ImageReward"

    def __init__(self, folder: str | pathlib.Path, device: str = "cpu") -> None:
        root = pathlib.Path(folder)
        for file in ("ImageReward.pt", "med_config.json"):
            if not (root / file).is_file():
                raise ValueError(
                    f"{root / file} is missing; fetch it with: "
                    f"hf download THUDM/ImageReward ImageReward.pt med_config.json --local-dir {root}"
                )
        try:
            package = importlib.import_module("ImageReward")
        except ImportError as error:
            raise ValueError(
                f"ImageReward needs a package of its own ({error}); pip install image-reward, and OpenAI's clip"
            ) from error
        self._model: Any = package.load(
            str(root / "ImageReward.pt"), device=device, med_config=str(root / "med_config.json")
        )

    def scores(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        """Score image i for prompt i: ``(n,)``.

        Raises:
            ValueError: If there are not as many prompts as images.
        """
        require_pairs(prompts, images)
        # One at a time: the package scores many images for one prompt only, and a list of one as a bare number.
        return np.array(
            [float(self._model.score(p, i.convert("RGB"))) for p, i in zip(prompts, images, strict=True)],
            dtype=np.float64,
        )

    @staticmethod
    def raw(scores: FloatArray) -> FloatArray:
        """Undo the package's scaling: the head's own output, ``(n,)``."""
        return scores * DEVIATION + MEAN
