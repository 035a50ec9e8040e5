"""PickScore: a CLIP ViT-H/14 tuned on Pick-a-Pic."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from pasta_gym.torchvision_ops import ensure_importable
from pasta_gym.types import FloatArray
from pasta_gym.user_model.scorers.base import in_batches

if TYPE_CHECKING:
    import torch

_MODEL = "hf download yuvalkirstain/PickScore_v1 config.json model.safetensors --local-dir"
_PROCESSOR = (
    "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K preprocessor_config.json tokenizer.json tokenizer_config.json "
    "special_tokens_map.json vocab.json merges.txt --local-dir"
)
_FILES = {
    "config.json": _MODEL,
    "model.safetensors": _MODEL,
    "preprocessor_config.json": _PROCESSOR,
    "tokenizer.json": _PROCESSOR,
}


class PickScore:
    """``exp(logit_scale) * cosine``, the scale of a logit: differences are log-odds of being preferred.

    With the published weights the factor is about 100 and scores lie near 20.

    Args:
        folder: Model and processor of ``transformers``' layout, with ``model.safetensors``.

    Raises:
        ValueError: If a file is missing.
    """

    name = "PickScore"

    def __init__(self, folder: str | pathlib.Path) -> None:
        root = pathlib.Path(folder)
        for file, fetch in _FILES.items():
            if not (root / file).is_file():
                raise ValueError(f"{root / file} is missing; fetch it with: {fetch} {root}")
        ensure_importable()
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

        local: dict[str, Any] = {"local_files_only": True}
        self._model = CLIPModel.from_pretrained(root, use_safetensors=True, **local).eval()
        self._tokenizer = CLIPTokenizerFast.from_pretrained(root, **local)
        self._pixels = CLIPImageProcessor.from_pretrained(root, **local)
        self._context = self._model.config.text_config.max_position_embeddings

    def scores(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        """Score image i for prompt i: ``(n,)``; prompts are cut at the model's context, 77 tokens.

        Raises:
            ValueError: If there are not as many prompts as images.
        """
        return in_batches(self._score, prompts, images)

    def _score(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        import torch

        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._context, return_tensors="pt"
        )
        pixels = self._pixels(images=[image.convert("RGB") for image in images], return_tensors="pt")
        with torch.inference_mode():
            text = _features(self._model.get_text_features(tokens["input_ids"], tokens["attention_mask"]))
            picture = _features(self._model.get_image_features(pixels["pixel_values"]))
            cosines = torch.nn.functional.cosine_similarity(text, picture)
            scores: FloatArray = (self._model.logit_scale.exp() * cosines).double().numpy()
        return np.asarray(scores)


def _features(output: Any) -> torch.Tensor:
    """Unwrap what ``get_*_features`` returns: a tensor, or from transformers 5 on an output that holds it."""
    features: torch.Tensor = getattr(output, "pooler_output", output)
    return features
