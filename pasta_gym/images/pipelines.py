"""Finds diffusers pipelines on this machine, names what is missing of them, and loads them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import pathlib
import shlex
from dataclasses import dataclass
from typing import Any

from pasta_gym.encoders.clip_encoder import find_device
from pasta_gym.images.model_config import DiffusionModelConfig
from pasta_gym.torchvision_ops import ensure_importable

INDEX = "model_index.json"
_SHOWN = 5  # missing files in a message
# The configuration of a part, by a word of its class's name; any other class has weights and a ``config.json``.
# One of the files is enough: recent versions of transformers write another for what handles both words and pictures.
_LIGHT_PARTS = {
    "Tokenizer": ("tokenizer_config.json",),
    "Scheduler": ("scheduler_config.json",),
    "Processor": ("preprocessor_config.json", "processor_config.json"),
    "Extractor": ("preprocessor_config.json",),
}
# They also take pictures, and paint from text without.
_IMAGE_OPTIONAL = frozenset({"Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinKVPipeline", "GlmImagePipeline"})


@dataclass(frozen=True)
class PipelineFiles:
    """Where a pipeline lies.

    Attributes:
        folder: The folder with ``model_index.json``.
        revision: The hub's commit, None for a folder of one's own.
        weights: Its weights, without those of other variants.
    """

    folder: pathlib.Path
    revision: str | None
    weights: tuple[pathlib.Path, ...]


def find_pipeline(config: DiffusionModelConfig) -> PipelineFiles:
    """Find a pipeline's files, or fetch them if that is allowed.

    Raises:
        ValueError: If some are missing; the message names them and the command that fetches them.
    """
    folder = pathlib.Path(config.model)
    is_local = folder.is_dir()
    if not is_local:
        folder = _hub_folder(config)
    cure = (
        "put the pipeline's files there, as save_pretrained writes them"
        if is_local
        else f"nothing is fetched unless allow_download=True. Fetch it with: {fetch_command(config)}"
    )
    parts = _read_index(folder / INDEX, cure)
    missing: list[str] = []
    weights: list[pathlib.Path] = []
    for name, class_name in parts.items():
        light = next((files for word, files in _LIGHT_PARTS.items() if word in class_name), None)
        named = [folder / name / file for file in light or ("config.json",)]
        expected = [next((path for path in named if path.is_file()), named[0])]
        if light is None:
            own = _weights(folder / name, config.variant)
            weights += own
            expected += own
        missing += [str(path.relative_to(folder)) for path in expected if not path.is_file()]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(f"{config.model} lacks {', '.join(missing[:_SHOWN])}{more} in {folder}; {cure}")
    return PipelineFiles(folder, None if is_local else folder.name, tuple(weights))


def fetch_command(config: DiffusionModelConfig) -> str:
    """Write the command that fetches what a pipeline needs, and not the other formats of its weights."""
    command = ["hf", "download", config.model, *(["--revision", config.revision] if config.revision else [])]
    for pattern in _patterns(config)[0]:
        command += ["--include", pattern]
    for pattern in _patterns(config)[1]:
        command += ["--exclude", pattern]
    command += ["--cache-dir", config.cache_dir] if config.cache_dir else []
    return shlex.join(command)


def load_pipeline(config: DiffusionModelConfig) -> Any:
    """Load a text-to-image pipeline and put it where it will work.

    Returns:
        A diffusers pipeline.

    Raises:
        ValueError: If files are missing or broken, the precision does not suit the device, there is no GPU where one
            is needed, the pipeline does not paint from text, or its attention cannot be sliced where that is asked.
    """
    ensure_importable()
    import torch
    from diffusers import DiffusionPipeline

    device = _device(config)
    files = find_pipeline(config)
    options: dict[str, Any] = {_dtype_argument(): getattr(torch, config.dtype)}
    if "StableDiffusionXL" in json.loads((files.folder / INDEX).read_text(encoding="utf-8"))["_class_name"]:
        options["add_watermarker"] = False  # else pictures differ where a certain package is installed
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            files.folder, variant=config.variant, local_files_only=True, use_safetensors=True, **options
        )
    except Exception as error:  # diffusers, transformers and safetensors each raise their own
        raise ValueError(
            f"the pipeline in {files.folder} cannot be loaded ({str(error).strip().splitlines()[0][:300]}); fetch it "
            "again, or install what it names"
        ) from error
    if not paints_from_text(type(pipeline)):
        raise ValueError(
            f"{type(pipeline).__name__} needs a picture, or paints without one in a way unknown here; choose a "
            "text-to-image pipeline"
        )
    if config.scheduler is not None:
        pipeline.scheduler = _scheduler(config.scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    _place(pipeline, config, device)
    return pipeline


def paints_from_text(kind: type) -> bool:
    """Whether a class of pipelines needs nothing but a prompt.

    A default of None does not tell: pipelines for image-to-image and inpainting have it too, and fail without a
    picture. So those that take a picture are told by their names.
    """
    accepted = inspect.signature(kind.__call__).parameters
    return {"prompt", "generator"} <= accepted.keys() and ("image" not in accepted or kind.__name__ in _IMAGE_OPTIONAL)


def channels_last(pipeline: Any) -> None:
    """Lay out the weights of a pipeline's flat convolutions as their fastest kernels read them."""
    import torch

    for part in (getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)):
        for layer in part.modules() if isinstance(part, torch.nn.Module) else ():
            if isinstance(layer, torch.nn.Conv2d):
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_denoiser(pipeline: Any) -> None:
    """Compile the part of a pipeline that does nearly all of the work, at its next call.

    Raises:
        ValueError: If there is no such part.
    """
    denoiser = _denoiser(pipeline)
    if denoiser is None:
        raise ValueError(f"{type(pipeline).__name__} has no denoiser to compile; use compile=False")
    denoiser.compile()


def _denoiser(pipeline: Any) -> Any | None:
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def model_identity(config: DiffusionModelConfig) -> dict[str, Any]:
    """Say which model a configuration paints with, as plain data.

    A published model is its name and commit, a folder the hash of its weights, settings and vocabularies, wherever it
    lies: reading them takes seconds for each ten gigabytes.

    Raises:
        ValueError: If files are missing.
    """
    files = find_pipeline(config)
    version = ".".join(importlib.metadata.version("diffusers").split(".")[:2])
    same = {"variant": config.variant, "dtype": config.dtype, "diffusers": version}
    if files.revision is not None:
        return {"model": config.model, "revision": files.revision, **same}
    digest = hashlib.sha256()
    # A sentencepiece vocabulary, as T5's, ends in .model.
    told = (path for ending in ("json", "txt", "model", "jinja") for path in files.folder.rglob(f"*.{ending}"))
    for path in sorted([*files.weights, *told]):
        digest.update(path.relative_to(files.folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"model": "own files", "revision": digest.hexdigest(), **same}


def _hub_folder(config: DiffusionModelConfig) -> pathlib.Path:
    """The snapshot of a hub's repository in the local cache."""
    import huggingface_hub

    if config.allow_download:
        include, exclude = _patterns(config)
        try:
            return pathlib.Path(
                huggingface_hub.snapshot_download(
                    config.model,
                    revision=config.revision,
                    cache_dir=config.cache_dir,
                    allow_patterns=include,
                    ignore_patterns=exclude,
                )
            )
        except Exception as error:  # the hub's client and its transports each raise their own
            raise ValueError(
                f"{config.model} could not be fetched ({str(error).strip().splitlines()[0][:300]}); on a machine with "
                f"a connection: {fetch_command(config)}"
            ) from error
    try:
        found = huggingface_hub.try_to_load_from_cache(
            config.model, INDEX, revision=config.revision, cache_dir=config.cache_dir
        )
    except ValueError as error:  # no such name can exist
        raise ValueError(f"model {config.model!r} is neither a folder nor a name on the hub ({error})") from error
    if not isinstance(found, str):
        raise ValueError(
            f"{INDEX} of {config.model} is not on this machine, and nothing is fetched unless allow_download=True. "
            f"Fetch the pipeline with: {fetch_command(config)}"
        )
    return pathlib.Path(found).parent


def _patterns(config: DiffusionModelConfig) -> tuple[list[str], list[str]]:
    """Which files of a repository to take and which to leave: one format of the weights, and no single-file copy."""
    variant = config.variant
    weights = f"*/*.{variant}*.safetensors" if variant else "*/*.safetensors"
    # Chat templates, of the language models that read prompts for newer families, are files of their own.
    include = [INDEX, "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja", weights]
    return include, ["*.fp16.*", "*.non_ema.*", "*/openvino*", "*/*.onnx*"] if not variant else ["*/openvino*"]


def _read_index(path: pathlib.Path, cure: str) -> dict[str, str]:
    """Read the names of a pipeline's parts and their classes; a part may be left empty."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; {cure}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {k: v for k, v in content.items() if not k.startswith("_") and isinstance(v, list) and len(v) == 2}
        if "_class_name" not in content:
            raise ValueError("no _class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read {path} ({error}); {cure}") from error
    return {name: class_name for name, (_, class_name) in parts.items() if class_name is not None}


def _weights(folder: pathlib.Path, variant: str | None) -> list[pathlib.Path]:
    """List the weights of a part, found or not: the shards of its index, else one file."""
    dot = f".{variant}" if variant else ""
    for stem in ("diffusion_pytorch_model", "model"):
        index = folder / f"{stem}.safetensors.index{dot}.json"
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / shard for shard in sorted(set(shards))]
        if (folder / f"{stem}{dot}.safetensors").is_file():
            return [folder / f"{stem}{dot}.safetensors"]
    is_transformers = (folder / "config.json").is_file() and "architectures" in (folder / "config.json").read_text()
    return [folder / f"{'model' if is_transformers else 'diffusion_pytorch_model'}{dot}.safetensors"]


def _device(config: DiffusionModelConfig) -> str:
    device = find_device(config.device).type
    if device == "cpu" and config.dtype == "float16":
        raise ValueError("dtype float16 paints on a GPU alone; on the CPU use float32 or bfloat16")
    if device == "cpu" and config.offload != "none":
        raise ValueError(f"offload {config.offload!r} moves parts to a GPU, but there is none in use; use 'none'")
    return device


def _dtype_argument() -> str:
    """The name of the argument for the precision, which has changed."""
    major, minor = (int(part) for part in importlib.metadata.version("diffusers").split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def _scheduler(name: str, own: Any) -> Any:
    """Make a scheduler of diffusers with the settings of another."""
    import diffusers

    found: Any = getattr(diffusers, name, None)
    is_scheduler = inspect.isclass(found) and issubclass(found, diffusers.SchedulerMixin)
    if not is_scheduler:
        raise ValueError(f"diffusers has no scheduler {name!r}; the model's own is {type(own).__name__}")
    return found.from_config(own.config)


def _place(pipeline: Any, config: DiffusionModelConfig, device: str) -> None:
    """Switch on what saves memory or time, and move the parts."""
    channels_last(pipeline)
    if config.attention_slicing:
        if not hasattr(_denoiser(pipeline), "set_attention_slice"):
            raise ValueError(
                f"attention_slicing has no effect on {type(pipeline).__name__}: diffusers slices that of UNets alone; "
                "use False, and a smaller batch_size or offload to save memory"
            )
        pipeline.enable_attention_slicing()
    if config.vae_slicing and hasattr(getattr(pipeline, "vae", None), "enable_slicing"):
        pipeline.vae.enable_slicing()
    if config.compile:
        compile_denoiser(pipeline)
    if config.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif config.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
