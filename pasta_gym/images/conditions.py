"""What a pipeline is told to paint: prompts encoded once each for the families below, for others the texts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
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
# By the names of classes: methods with the same arguments return lists, masks or more in other families, or pad prompts
# to the longest of their batch, so that an embedding depends on its neighbours.
_SDXL = (_POSITIVE, _NEGATIVE, _POOLED, _NEGATIVE_POOLED)
_FAMILIES: Mapping[str, tuple[str | None, ...]] = MappingProxyType(
    {
        "StableDiffusionPipeline": (_POSITIVE, _NEGATIVE),
        "StableDiffusionXLPipeline": _SDXL,
        "StableDiffusion3Pipeline": _SDXL,
        "FluxPipeline": (_POSITIVE, _POOLED, None),
    }
)


def returned_embeddings(pipeline: Any) -> tuple[str | None, ...]:
    """Tell what a pipeline's ``encode_prompt`` returns; nothing for a pipeline that is given texts instead."""
    return _FAMILIES.get(type(pipeline).__name__, ())


class PromptConditions:
    """Encodes prompts for a pipeline of a known family: each distinct prompt once, however many pictures it gets.

    Any other pipeline is given texts. What it makes of a prompt may depend on the others in its batch, so a batch
    should be pictures of one prompt.

    Args:
        pipeline: A diffusers text-to-image pipeline.
        guidance: Its guidance scale. Up to 1 there is no negative prompt to encode.
        max_sequence_length: Longest prompt in tokens, for pipelines that let one choose; None for their own.

    Raises:
        ValueError: If the pipeline does not let one choose, or guidance is above 1 and has no effect on its pictures.
    """

    def __init__(self, pipeline: Any, guidance: float, max_sequence_length: int | None = None) -> None:
        self.pipeline = pipeline
        self._names = returned_embeddings(pipeline)
        self._is_guided = guidance > 1
        accepts_guidance = _accepts(type(pipeline), "guidance_scale")
        if self._is_guided and not (accepts_guidance and _heeds_guidance(pipeline)):
            raise ValueError(
                f"guidance is {guidance}, but {type(pipeline).__name__} with this model paints the same whatever it "
                "is; use 0 or 1, or a model that was trained with guidance"
            )
        self._call: dict[str, Any] = {"guidance_scale": guidance} if accepts_guidance else {}
        encoder = _parameters(type(pipeline), "encode_prompt" if self._names else "__call__")
        length: dict[str, Any] = {}
        if max_sequence_length is not None:
            if "max_sequence_length" not in encoder:
                raise ValueError(
                    f"max_sequence_length is {max_sequence_length}, but {type(pipeline).__name__} has no such setting; "
                    "leave it out"
                )
            length = {"max_sequence_length": max_sequence_length}
        self._options: dict[str, Any] = dict(length)
        if not self._names:
            self._call |= length
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
            return {"prompt": [texts[i] for i in rows], **self._call}
        import torch

        index = torch.from_numpy(np.asarray(rows))
        device = getattr(self.pipeline, "_execution_device", "cpu")
        return {name: part[index].to(device) for name, part in encoded.items()} | self._call


def joined(parts: list[Encoded]) -> Encoded:
    """Put encoded batches together."""
    import torch

    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _accepts(kind: type, name: str) -> bool:
    accepted = _parameters(kind, "__call__")
    return name in accepted or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())


def _heeds_guidance(pipeline: Any) -> bool:
    """Whether the scale moves pictures: Flux and Qwen-Image hand it to models distilled with it, and to no other.

    Guidance with a negative prompt goes by another name there, ``true_cfg_scale``, which is not used here.
    """
    if not _accepts(type(pipeline), "true_cfg_scale"):
        return True
    config = getattr(getattr(pipeline, "transformer", None), "config", None)
    return bool(getattr(config, "guidance_embeds", True))


def _parameters(kind: type, method: str) -> Mapping[str, inspect.Parameter]:
    found = getattr(kind, method, None)
    return {} if found is None else inspect.signature(found).parameters
