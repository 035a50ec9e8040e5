"""What a pipeline is told to paint: prompts encoded once each for the families below, for others the texts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
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
_MASK, _NEGATIVE_MASK = "prompt_embeds_mask", "negative_prompt_embeds_mask"
_SDXL = (_POSITIVE, _NEGATIVE, _POOLED, _NEGATIVE_POOLED)


@dataclass(frozen=True)
class _Family:
    """How a family encodes prompts.

    Attributes:
        returned: What ``encode_prompt`` returns, in order, by the names that ``__call__`` takes them under; None is
            not passed on.
        negative: The same for a negative prompt that ``encode_prompt`` does not encode by itself.
        negative_prompt: The words of that prompt.
    """

    returned: tuple[str | None, ...]
    negative: tuple[str | None, ...] = ()
    negative_prompt: str = ""


# By the names of classes: methods with the same arguments return lists, masks or more in other families, or pad prompts
# to the longest of their batch, so that an embedding depends on its neighbours. Qwen-Image pads too, but says where.
_FAMILIES: Mapping[str, _Family] = MappingProxyType(
    {
        "StableDiffusionPipeline": _Family((_POSITIVE, _NEGATIVE)),
        "StableDiffusionXLPipeline": _Family(_SDXL),
        "StableDiffusion3Pipeline": _Family(_SDXL),
        "FluxPipeline": _Family((_POSITIVE, _POOLED, None)),
        "Flux2Pipeline": _Family((_POSITIVE, None)),
        "Flux2KleinPipeline": _Family((_POSITIVE, None), (_NEGATIVE, None)),
        "Flux2KleinKVPipeline": _Family((_POSITIVE, None)),
        # The space is how its authors say that nothing is to be avoided.
        "QwenImagePipeline": _Family((_POSITIVE, _MASK), (_NEGATIVE, _NEGATIVE_MASK), " "),
    }
)
_NOT_ENCODED = _Family(())
# A language model lays out their pictures. It draws from torch's global generator, seeded by a batch's first picture.
_SEED_TORCH = frozenset({"GlmImagePipeline"})


def returned_embeddings(pipeline: Any) -> tuple[str | None, ...]:
    """Tell what a pipeline's ``encode_prompt`` returns; nothing for a pipeline that is given texts instead."""
    return _family(pipeline).returned


def _family(pipeline: Any) -> _Family:
    return _FAMILIES.get(type(pipeline).__name__, _NOT_ENCODED)


class PromptConditions:
    """Encodes prompts for a pipeline of a known family: each distinct prompt once, however many pictures it gets.

    Where a family has no negative prompt of its own for guidance, an empty one is encoded, once in all. Any other
    pipeline is given texts. What it makes of a prompt may depend on the others in its batch, so a batch
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
        self._family = _family(pipeline)
        self._is_guided = guidance > 1
        self._call = _guidance_arguments(pipeline, guidance)
        self._negative: Encoded = {}
        encoder = _parameters(type(pipeline), "encode_prompt" if self.are_encoded else "__call__")
        length: dict[str, Any] = {}
        if max_sequence_length is not None:
            if "max_sequence_length" not in encoder:
                raise ValueError(
                    f"max_sequence_length is {max_sequence_length}, but {type(pipeline).__name__} has no such setting; "
                    "leave it out"
                )
            length = {"max_sequence_length": max_sequence_length}
        self._options: dict[str, Any] = dict(length)
        # Qwen-Image cuts embeddings too, at a default of its own.
        if "max_sequence_length" in _parameters(type(pipeline), "__call__"):
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
        return bool(self._family.returned)

    @property
    def seeds_torch(self) -> bool:
        """Whether the pipeline seeds torch's global generators by the first picture of a batch.

        Its pictures depend on their own seed if they are painted one by one, with generators lent.
        """
        return type(self.pipeline).__name__ in _SEED_TORCH

    def encode(self, texts: list[str]) -> Encoded:
        """Encode a batch of texts, and at first the negative prompt, if the pipeline does not do so with each.

        Raises:
            ValueError: If the pipeline returns something else than its family does.
        """
        if self._is_guided and self._family.negative and not self._negative:
            self._negative = self._encoded([self._family.negative_prompt], self._family.negative)
        return self._encoded(texts, self._family.returned)

    def _encoded(self, texts: list[str], names: tuple[str | None, ...]) -> Encoded:
        import torch

        if self._needs_device:
            self._options["device"] = self.pipeline._execution_device
        with torch.inference_mode():
            returned = self.pipeline.encode_prompt(prompt=texts, num_images_per_prompt=1, **self._options)
        if len(returned) != len(names):
            raise ValueError(
                f"{type(self.pipeline).__name__}.encode_prompt returned {len(returned)} tensors, expected "
                f"{len(names)}; another version of diffusers may fit"
            )
        # On the CPU: a large call has thousands of prompts, and a batch of them is sent over in no time.
        given = {
            name: part.cpu() for name, part in zip(names, returned, strict=True) if not (name is None or part is None)
        }
        for name in {_MASK, _NEGATIVE_MASK}.intersection(filter(None, names)) - given.keys():
            # No mask says that nothing is padding: the next batch may have some, and the pipeline warns without one.
            given[name] = torch.ones(returned[0].shape[:2], dtype=torch.int64)
        return given

    def select(self, rows: IntArray, texts: list[str], encoded: Encoded | None) -> dict[str, Any]:
        """Return the pipeline's arguments for pictures of the texts at ``rows (n,)``."""
        if encoded is None:
            return {"prompt": [texts[i] for i in rows], **self._call}
        import torch

        index = torch.from_numpy(np.asarray(rows))
        chosen = {name: part[index] for name, part in encoded.items()}
        if _MASK in chosen:
            longest = int(chosen[_MASK].sum(dim=1).max())
            chosen |= {name: chosen[name][:, :longest] for name in (_POSITIVE, _MASK)}
        chosen |= {name: part.expand(len(rows), *part.shape[1:]) for name, part in self._negative.items()}
        device = getattr(self.pipeline, "_execution_device", "cpu")
        return {name: part.to(device) for name, part in chosen.items()} | self._call


def joined(parts: list[Encoded]) -> Encoded:
    """Put encoded batches together; where their lengths in tokens differ, zeros fill them up to the longest."""
    import torch

    whole: dict[str, torch.Tensor] = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        longest = max(tensor.shape[1] for tensor in tensors)
        gaps = [tensor.new_zeros(len(tensor), longest - tensor.shape[1], *tensor.shape[2:]) for tensor in tensors]
        whole[name] = torch.cat([torch.cat(pair, dim=1) for pair in zip(tensors, gaps, strict=True)])
    return whole


def _accepts(kind: type, name: str) -> bool:
    accepted = _parameters(kind, "__call__")
    return name in accepted or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())


def _guidance_arguments(pipeline: Any, guidance: float) -> dict[str, Any]:
    """Return the arguments that set the guidance scale, by the name that the pipeline has for it.

    Raises:
        ValueError: If it is above 1 and has no effect.
    """
    kind = type(pipeline)
    has_scale, is_guided = _accepts(kind, "guidance_scale"), guidance > 1
    if kind.__name__ == "QwenImagePipeline" and not _is_trained_with_guidance(pipeline):
        # Guidance with a negative prompt. The other scale would only make it warn that it is ignored.
        return {"true_cfg_scale": guidance if is_guided else 1.0}
    if is_guided and not (has_scale and _heeds_guidance(pipeline)):
        raise ValueError(
            f"guidance is {guidance}, but {kind.__name__} with this model paints the same whatever it is; use 0 or 1, "
            "or a model that was trained with guidance"
        )
    return {"guidance_scale": guidance} if has_scale else {}


def _heeds_guidance(pipeline: Any) -> bool:
    """Whether ``guidance_scale`` moves pictures: Flux and Flux 2 hand it to models distilled with it, to no other.

    Flux.2 Klein is guided by an empty prompt instead, unless it was distilled to paint in a few steps.
    """
    kind = type(pipeline)
    if kind.__name__ == "Flux2KleinPipeline":
        return not pipeline.config.is_distilled
    if kind.__name__ == "Flux2Pipeline" or _accepts(kind, "true_cfg_scale"):
        return _is_trained_with_guidance(pipeline)
    return True


def _is_trained_with_guidance(pipeline: Any) -> bool:
    config = getattr(getattr(pipeline, "transformer", None), "config", None)
    return bool(getattr(config, "guidance_embeds", True))


def _parameters(kind: type, method: str) -> Mapping[str, inspect.Parameter]:
    found = getattr(kind, method, None)
    return {} if found is None else inspect.signature(found).parameters
