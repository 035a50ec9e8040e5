"""Paints prompts with any diffusers text-to-image pipeline and embeds the pictures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta_gym.seeding import seeds_for_torch
from pasta_gym.types import ImageArray, ImageEmbedder, Images, IntArray, PromptBook, UInt64Array

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH_SIZE = 16
# What StableDiffusionXLPipeline.encode_prompt returns, in order, by the names its __call__ takes them.
_SDXL_EMBEDDINGS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


class DiffusionImages:
    """An image generator around a diffusers pipeline.

    Every picture has a ``torch.Generator`` of its own, seeded by its key, so what it shows does not depend on
    the batch it was painted in. Pipelines with SDXL's prompt embeddings get them encoded once for each distinct
    prompt of a call; others get the texts.

    Args:
        pipeline: A diffusers text-to-image pipeline, on its device.
        prompt_book: Writes ids out in words.
        encode_images: Embeds the pictures.
        embedding_dim: Width d of its embeddings.
        size: Height and width of the pictures in pixels.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale.
        batch_size: Pictures painted at once.

    Raises:
        ValueError: If steps or batch_size is under 1.
    """

    def __init__(
        self,
        pipeline: Any,
        prompt_book: PromptBook,
        encode_images: ImageEmbedder,
        embedding_dim: int,
        *,
        size: int,
        steps: int,
        guidance: float,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        for name, number in (("steps", steps), ("batch_size", batch_size), ("size", size)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.pipeline = pipeline
        self.prompt_book = prompt_book
        self.encode_images = encode_images
        self.embedding_dim = embedding_dim
        self.size = size
        self.steps = steps
        self.guidance = guidance
        self.batch_size = batch_size
        accepted = inspect.signature(type(pipeline).__call__).parameters
        self._takes_sdxl_embeddings = all(name in accepted for name in _SDXL_EMBEDDINGS)

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts.

        Args:
            prompts: ``(N,)`` prompt ids.
            keys: ``(N, M)`` random keys.

        Returns:
            Pixels ``(N, M, size, size, 3)`` uint8 and their embeddings ``(N, M, d)`` float32.
        """
        keys = np.asarray(keys, dtype=np.uint64)
        n_images = keys.size
        distinct, positions = np.unique(np.asarray(prompts, dtype=np.int64), return_inverse=True)
        rows = np.repeat(positions.reshape(-1), keys.shape[1])
        texts = self.prompt_book.texts(distinct)
        encoded = self._encode(texts) if self._takes_sdxl_embeddings else None
        seeds = seeds_for_torch(keys)
        pixels = np.zeros((n_images, self.size, self.size, 3), dtype=np.uint8)
        for start in range(0, n_images, self.batch_size):
            chunk = slice(start, start + self.batch_size)
            pixels[chunk] = self._paint(rows[chunk], texts, encoded, seeds[chunk])
        embeddings = np.asarray(self.encode_images(pixels), dtype=np.float32)
        return Images(
            embeddings.reshape(*keys.shape, self.embedding_dim), pixels.reshape(*keys.shape, *pixels.shape[1:])
        )

    def _encode(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """Encode each text once: SDXL's four tensors, one row a text."""
        import torch

        parts: list[tuple[torch.Tensor, ...]] = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                parts.append(
                    self.pipeline.encode_prompt(
                        prompt=texts[start : start + self.batch_size],
                        num_images_per_prompt=1,
                        do_classifier_free_guidance=True,
                    )
                )
        return {name: torch.cat([part[i] for part in parts]) for i, name in enumerate(_SDXL_EMBEDDINGS)}

    def _paint(
        self, rows: IntArray, texts: list[str], encoded: Mapping[str, torch.Tensor] | None, seeds: list[int]
    ) -> ImageArray:
        """Paint one batch: the texts at ``rows (n,)`` with seeds ``(n,)``, as ``(n, size, size, 3)`` uint8."""
        import torch

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if encoded is None:
            conditions: dict[str, Any] = {"prompt": [texts[i] for i in rows]}
        else:
            index = torch.from_numpy(np.asarray(rows))
            conditions = {name: part[index.to(part.device)] for name, part in encoded.items()}
        output = self.pipeline(
            **conditions,
            height=self.size,
            width=self.size,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=generators,
            output_type="np",
        )
        painted: ImageArray = np.rint(np.clip(np.asarray(output.images), 0, 1) * 255).astype(np.uint8)
        return painted
