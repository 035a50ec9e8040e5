"""Which text-to-image model paints, and how: plain values for configuration files, and presets by name."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "float16", "bfloat16")
OFFLOADS = ("none", "model", "sequential")
# What says where, how fast and in how much memory, and no picture's key in the cache either.
_OF_THE_MACHINE = frozenset(
    {"device", "batch_size", "compile", "attention_slicing", "vae_slicing", "offload", "allow_download", "cache_dir"}
)
_SIZE_STEP = 8  # pixels of one latent, in every autoencoder of this kind


@dataclass(frozen=True)
class DiffusionModelConfig:
    """A diffusers text-to-image pipeline and its settings.

    Attributes:
        model: Name of a repository on the hub, or a local folder with ``model_index.json``.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale; 0 for models that were distilled without it.
        height: Of a picture in pixels, a multiple of 8.
        width: Of a picture in pixels, a multiple of 8.
        revision: Commit, branch or tag of the hub's repository. Only a commit is the same model for ever.
        variant: Which files of the weights, such as ``fp16`` for half of the download.
        scheduler: Class in diffusers that replaces the model's own scheduler, with the settings of the own one.
        max_sequence_length: Longest prompt in tokens, for pipelines that let one choose (Flux: up to 256 or 512).
        dtype: Precision of the weights: ``float32``, ``bfloat16``, or on a GPU ``float16``.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        batch_size: Pictures painted at once. What does not fit the memory is halved.
        compile: Compile the denoiser: minutes at first, then faster. Batches are then filled up to their full size.
        attention_slicing: Compute attention in pieces: less memory, slower. For models with a UNet, as SDXL.
        vae_slicing: Decode one picture at a time: much less memory, hardly slower.
        offload: ``model`` keeps on the GPU only the part that works, ``sequential`` only the layer (much slower).
        allow_download: Whether missing files may be fetched. Without it no network is used.
        cache_dir: The hub's cache, if not the usual one.

    Raises:
        ValueError: If a value is out of range.
    """

    model: str
    steps: int
    guidance: float
    height: int
    width: int
    revision: str | None = None
    variant: str | None = None
    scheduler: str | None = None
    max_sequence_length: int | None = None
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int = 8
    compile: bool = False
    attention_slicing: bool = False
    vae_slicing: bool = True
    offload: str = "none"
    allow_download: bool = False
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must name a repository on the hub or a folder with model_index.json, got ''")
        for name, known in (("dtype", DTYPES), ("device", DEVICES), ("offload", OFFLOADS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("height", "width"):
            pixels = getattr(self, name)
            if pixels < _SIZE_STEP or pixels % _SIZE_STEP:
                raise ValueError(f"{name} must be a positive multiple of {_SIZE_STEP} pixels, got {pixels}")
        if not self.guidance >= 0:
            raise ValueError(f"guidance must be 0 or more, got {self.guidance}; 0 and 1 switch it off")
        if self.max_sequence_length is not None and self.max_sequence_length < 1:
            raise ValueError(f"max_sequence_length must be at least 1, got {self.max_sequence_length}")

    def identity(self) -> dict[str, Any]:
        """Everything that pictures depend on, as plain data; a local folder by its whole path.

        What may move a pixel by rounding alone does not count, here as in the cache of pictures: ``compile``, slicing,
        offloading and batches.
        """
        content = {name: value for name, value in asdict(self).items() if name not in _OF_THE_MACHINE}
        return {**content, "model": whole_path(self.model)}


def whole_path(name: str) -> str:
    """Return the whole path of a folder; another name, such as a hub's, as it is."""
    return str(pathlib.Path(name).resolve()) if pathlib.Path(name).is_dir() else name


PRESETS: Mapping[str, DiffusionModelConfig] = MappingProxyType(
    {
        "sdxl": DiffusionModelConfig(
            "stabilityai/stable-diffusion-xl-base-1.0",
            steps=30,
            guidance=5.0,
            height=1024,
            width=1024,
            variant="fp16",
            dtype="float16",
        ),
        "sdxl-turbo": DiffusionModelConfig(
            "stabilityai/sdxl-turbo",
            steps=1,
            guidance=0.0,
            height=512,
            width=512,
            variant="fp16",
            dtype="float16",
            batch_size=16,
        ),
        "flux-schnell": DiffusionModelConfig(
            "black-forest-labs/FLUX.1-schnell",
            steps=4,
            guidance=0.0,
            height=1024,
            width=1024,
            max_sequence_length=256,
            dtype="bfloat16",
            batch_size=4,
        ),
    }
)
"""Published models with the steps, guidance and size that they were made for. The paper's is ``sdxl``."""


def diffusion_preset(name: str, **changes: Any) -> DiffusionModelConfig:
    """Return a preset, with fields of your own in place of its.

    Args:
        name: A key of ``PRESETS``.
        **changes: Fields of ``DiffusionModelConfig``.

    Raises:
        ValueError: If the preset or a field is unknown, or a value out of range.
    """
    if name not in PRESETS:
        raise ValueError(
            f"preset must be one of {tuple(PRESETS)}, got {name!r}; describe any other model with DiffusionModelConfig"
        )
    unknown = sorted(set(changes) - set(DiffusionModelConfig.__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"unknown fields {unknown}; DiffusionModelConfig has {tuple(DiffusionModelConfig.__dataclass_fields__)}"
        )
    return replace(PRESETS[name], **changes)
