"""What a pipeline is told to paint: prompts encoded once each where the pipeline takes embeddings, else the texts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pasta_gym.types import IntArray

if TYPE_CHECKING:
    import torch

Encoded: TypeAlias = "Mapping[str, torch.Tensor]"
"""Tensors by the names that the pipeline takes them under, one row a text, on the CPU."""

_POSITIVE, _NEGATIVE = "prompt_embeds", "negative_prompt_embeds"
_POOLED, _NEGATIVE_POOLED = "pooled_prompt_embeds", "negative_pooled_prompt_embeds"
# What ``encode_prompt`` returns, in order, by the names that ``__call__`` takes them under; None is not passed on.
_SDXL = (_POSITIVE, _NEGATIVE, _POOLED, _NEGATIVE_POOLED)  # Stable Diffusion 3 too
_STABLE_DIFFUSION = (_POSITIVE, _NEGATIVE)
_FLUX = (_POSITIVE, _POOLED, None)


def returned_embeddings(pipeline: Any) -> tuple[str | None, ...]:
    """Tell what a pipeline's ``encode_prompt`` returns; nothing for a pipeline that is given texts instead."""
    accepted = _parameters(type(pipeline), "__call__")
    encoder = _parameters(type(pipeline), "encode_prompt")
    if not encoder or any(name.endswith(("attention_mask", "embeds_mask")) for name in accepted):
        return ()
    is_guided = "do_classifier_free_guidance" in encoder
    if is_guided and all(name in accepted for name in _SDXL):
        return _SDXL
    if is_guided and all(name in accepted for name in _STABLE_DIFFUSION) and _POOLED not in accepted:
        return _STABLE_DIFFUSION
    if not is_guided and _POSITIVE in accepted and _POOLED in accepted:
        return _FLUX
    return ()


class PromptConditions:
    """Encodes prompts for a pipeline: each distinct prompt once, however many pictures it gets.

    Args:
        pipeline: A diffusers text-to-image pipeline.
        guidance: Its guidance scale. Up to 1 there is no negative prompt to encode.
        max_sequence_length: Longest prompt in tokens, for pipelines that let one choose; None for their own.

    Raises:
        ValueError: If the pipeline does not let one choose.
    """

    def __init__(self, pipeline: Any, guidance: float, max_sequence_length: int | None = None) -> None:
        self.pipeline = pipeline
        self._names = returned_embeddings(pipeline)
        self._is_guided = guidance > 1
        encoder = _parameters(type(pipeline), "encode_prompt" if self._names else "__call__")
        self._length: dict[str, Any] = {}
        if max_sequence_length is not None:
            if "max_sequence_length" not in encoder:
                raise ValueError(
                    f"max_sequence_length is {max_sequence_length}, but {type(pipeline).__name__} has no such setting; "
                    "leave it out"
                )
            self._length = {"max_sequence_length": max_sequence_length}
        self._options: dict[str, Any] = dict(self._length)
        if "do_classifier_free_guidance" in encoder:
            self._options["do_classifier_free_guidance"] = self._is_guided
        # Positional in some pipelines: their other text encoders read the same prompt.
        for name in ("prompt_2", "prompt_3"):
            if name in encoder and encoder[name].default is inspect.Parameter.empty:
                self._options[name] = None
        self._needs_device = "device" in encoder and encoder["device"].default is inspect.Parameter.empty

    @property
    def are_encoded(self) -> bool:
        """Whether the pipeline takes embeddings; texts otherwise."""
        return bool(self._names)

    def encode(self, texts: list[str]) -> Encoded:
        """Encode a batch of texts.

        Raises:
            ValueError: If the pipeline returns something else than its family does.
        """
        import torch

        if self._needs_device:
            self._options["device"] = self.pipeline._execution_device
        with torch.inference_mode():
            returned = self.pipeline.encode_prompt(prompt=texts, num_images_per_prompt=1, **self._options)
        if len(returned) != len(self._names):
            raise ValueError(
                f"{type(self.pipeline).__name__}.encode_prompt returned {len(returned)} tensors, expected "
                f"{len(self._names)}; another version of diffusers may fit"
            )
        pairs = zip(self._names, returned, strict=True)
        # On the CPU: a large call has thousands of prompts, and a batch of them is sent over in no time.
        return {name: part.cpu() for name, part in pairs if name is not None and part is not None}

    def select(self, rows: IntArray, texts: list[str], encoded: Encoded | None) -> dict[str, Any]:
        """Return the pipeline's arguments for pictures of the texts at ``rows (n,)``."""
        if encoded is None:
            return {"prompt": [texts[i] for i in rows], **self._length}
        import torch

        index = torch.from_numpy(np.asarray(rows))
        device = getattr(self.pipeline, "_execution_device", "cpu")
        return {name: part[index].to(device) for name, part in encoded.items()}


def joined(parts: list[Encoded]) -> Encoded:
    """Put encoded batches together."""
    import torch

    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _parameters(kind: type, method: str) -> Mapping[str, inspect.Parameter]:
    found = getattr(kind, method, None)
    return {} if found is None else inspect.signature(found).parameters
