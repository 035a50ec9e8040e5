"""Finds and builds open_clip models: the mini world's, a published one by name and tag, one from files.

Nothing is fetched unless it is asked for, and weights are read from safetensors alone, which cannot run code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import PIL.Image
import PIL.ImageOps

from pasta_gym.files import whole_file
from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    import open_clip
    import torch

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
_MINI = "mini_tokenizer"  # in a config: texts and pixels go through the mini world's own preparation
_OWN = "own files"  # a folder may be moved: its config and the weights' hash say which model it is
_PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class ClipFiles:
    """Where a model comes from.

    Attributes:
        name: What to call it.
        model_config: open_clip's ``model_cfg``.
        preprocess_config: open_clip's ``preprocess_cfg``, possibly in part; the rest are open_clip's defaults.
        weights: The safetensors file.
        revision: The hub's commit, if the weights come from there.
        tokenizer_folder: Files of the tokenizer, for models whose texts open_clip's own does not read.
        is_mini: The mini world's model, which has a tokenizer and a scaling of pixels of its own.
    """

    name: str
    model_config: dict[str, Any]
    preprocess_config: dict[str, Any]
    weights: pathlib.Path
    revision: str | None = None
    tokenizer_folder: pathlib.Path | None = None
    is_mini: bool = False


@dataclass(frozen=True)
class BuiltClip:
    """A model with what goes before it.

    Attributes:
        model: The module, in evaluation mode, on the CPU.
        prepare: Turns an RGB picture into ``(3, h, w)`` float32.
        tokenize: Turns n texts into ``(n, context)`` token ids.
        preprocessing: What ``prepare`` does, as plain data.
        tokenizer: Which tokenizer, as plain data.
    """

    model: open_clip.CLIP
    prepare: Callable[[PIL.Image.Image], torch.Tensor]
    tokenize: Callable[[Sequence[str]], torch.Tensor]
    preprocessing: dict[str, Any]
    tokenizer: str


def mini_files() -> ClipFiles:
    """Find the mini world's CLIP, or that of ``$PASTA_GYM_MINI_WEIGHTS``."""
    from pasta_gym.mini import clip, weights

    path = weights.weights_directory() / "clip" / WEIGHTS_FILE
    return ClipFiles("mini", clip.MODEL_CONFIG, clip.PREPROCESS_CONFIG, path, is_mini=True)


def pretrained_files(
    name: str, tag: str, *, revision: str | None = None, allow_download: bool = False, cache_dir: str | None = None
) -> ClipFiles:
    """Find a published model in the hub's local cache, or fetch it if that is allowed.

    Args:
        name: A model of ``open_clip.list_models()``, such as ``ViT-L-14-quickgelu``.
        tag: One of its weights, such as ``openai``.
        revision: Commit, branch or tag of the hub's repository; None means ``main``.
        allow_download: Whether the network may be used.
        cache_dir: The hub's cache, if not the usual one.

    Raises:
        ValueError: If there is no such model or tag, the tag was trained with another activation function, there are
            no safetensors, or files are not here; the message has the command that fetches them.
    """
    open_clip = import_open_clip()
    config, entry = open_clip.get_model_config(name), open_clip.get_pretrained_cfg(name, tag)
    if config is None:
        raise ValueError(f"open_clip has no model {name!r}; {_near(name, open_clip.list_models())}")
    if not entry:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"open_clip has no weights {tag!r} for {name}; the tags are {tags}")
    _require_its_activation(name, tag, config, entry, open_clip.list_models())
    repository, _, file = str(entry.get("hf_hub") or "").rpartition("/")
    if not repository:
        raise ValueError(
            f"{name} with {tag} is published as a pickle at {entry.get('url')}, and a pickle can run code; "
            f"{_CONVERT}, and pass that file as weights"
        )
    weights_name = f"{pathlib.PurePosixPath(file).stem}.safetensors" if file else WEIGHTS_FILE
    find = functools.partial(_hub_file, revision=revision, allow_download=allow_download, cache_dir=cache_dir)
    weights = find(repository, weights_name)
    text = config["text_cfg"]
    tokenizer_folder = None
    if "hf_tokenizer_name" in text:
        find(text["hf_tokenizer_name"], "tokenizer_config.json", revision=None)
        tokenizer_folder = find(text["hf_tokenizer_name"], "tokenizer.json", revision=None).parent
    parts = weights.parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision
    return ClipFiles(f"{name}/{tag}", config, dict(entry), weights, commit, tokenizer_folder)


def folder_files(folder: str | pathlib.Path) -> ClipFiles:
    """Find a model in a folder of open_clip's layout: ``open_clip_config.json`` and ``open_clip_model.safetensors``.

    Raises:
        ValueError: If the config is missing or broken.
    """
    root = pathlib.Path(folder)
    config, preprocess = _read_config(root / CONFIG_FILE)
    tokenizer_folder = root if "hf_tokenizer_name" in config["text_cfg"] else None
    is_mini = bool(preprocess.pop(_MINI, False))
    return ClipFiles(_OWN, config, preprocess, root / WEIGHTS_FILE, tokenizer_folder=tokenizer_folder, is_mini=is_mini)


def write_folder(files: ClipFiles, weights: bytes, folder: pathlib.Path) -> None:
    """Write other weights of a model as a folder that ``folder_files`` finds; the weights come last, in one piece.

    Args:
        files: The model.
        weights: What the safetensors file is to hold.
        folder: Made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {k: v for k, v in files.preprocess_config.items() if k in _PREPROCESSING}
    config = {"model_cfg": files.model_config, "preprocess_cfg": preprocess | ({_MINI: True} if files.is_mini else {})}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in _TOKENIZER_FILES if files.tokenizer_folder is not None else ():
        source = (files.tokenizer_folder or folder) / name
        if source.is_file():
            (folder / name).write_bytes(source.read_bytes())
    with whole_file(folder / WEIGHTS_FILE) as partial:
        partial.write_bytes(weights)


def weights_files(name_or_config: str | pathlib.Path, weights: str | pathlib.Path) -> ClipFiles:
    """Combine an architecture, by name or by a config file, with a file of weights.

    The config says which activation function the weights were trained with; nothing in the weights tells. OpenAI's
    need a name that ends in ``-quickgelu``.

    Raises:
        ValueError: If there is no such model, or the config is missing or broken.
    """
    if str(name_or_config).endswith(".json"):
        path = pathlib.Path(name_or_config)
        config, preprocess = _read_config(path)
        folder = path.parent if "hf_tokenizer_name" in config["text_cfg"] else None
        return ClipFiles(_OWN, config, preprocess, pathlib.Path(weights), tokenizer_folder=folder)
    open_clip = import_open_clip()
    config = open_clip.get_model_config(str(name_or_config))
    if config is None:
        raise ValueError(f"open_clip has no model {name_or_config!r}; {_near(name_or_config, open_clip.list_models())}")
    return ClipFiles(str(name_or_config), config, {}, pathlib.Path(weights))


def build(files: ClipFiles) -> BuiltClip:
    """Build a model and load its weights.

    Raises:
        ValueError: If the weights are missing, a pickle, broken or of another architecture, or the text tower is one
            that would have to be fetched.
    """
    open_clip = import_open_clip()
    _require_safetensors(files.weights)
    config = json.loads(json.dumps(files.model_config))  # a copy that open_clip may change
    if "hf_model_name" in config["text_cfg"]:
        raise ValueError(
            f"{files.name} has a text tower of transformers ({config['text_cfg']['hf_model_name']}), which is not "
            "read here; choose a model with open_clip's own, such as ViT-L-14-quickgelu"
        )
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    is_custom = config.pop("custom_text", False)
    try:
        kind = (
            open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
        )
        model = kind(**config)
    except (AssertionError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"open_clip cannot build {files.name} from its config ({error!r})") from error
    if files.is_mini:
        from pasta_gym.mini import weights

        weights.load_weights(model, files.weights)
        return _mini(model.eval(), files)
    try:
        open_clip.load_checkpoint(model, str(files.weights), strict=True)
    except Exception as error:  # safetensors, torch and open_clip each raise their own
        raise ValueError(
            f"the weights {files.weights} do not fit the model {files.name} ({_first_line(error)}); "
            "check that both are the same architecture and fetch the file again if it is cut short"
        ) from error
    return _published(model.eval(), files)


def import_open_clip() -> Any:
    """Import open_clip, which needs torchvision's operators declared first."""
    ensure_importable()
    import open_clip

    return open_clip


def file_sha256(path: pathlib.Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mini(model: open_clip.CLIP, files: ClipFiles) -> BuiltClip:
    """The mini CLIP as ``pasta_gym.mini.clip.MiniClip`` uses it."""
    import numpy as np
    import torch

    from pasta_gym.mini import tokenizer
    from pasta_gym.mini.training_data import to_unit

    size = int(files.model_config["vision_cfg"]["image_size"])
    words = tokenizer.build_tokenizer()

    def prepare(picture: PIL.Image.Image) -> torch.Tensor:
        if picture.size != (size, size):
            picture = PIL.ImageOps.fit(picture, (size, size), PIL.Image.Resampling.BICUBIC)
        return torch.from_numpy(to_unit(np.asarray(picture)[None])[0])

    return BuiltClip(
        model=model,
        prepare=prepare,
        tokenize=lambda texts: tokenizer.tokenize(words, texts),
        preprocessing={**files.preprocess_config, "size": size, "resize_mode": "shortest"},
        tokenizer=f"sha256:{file_sha256(tokenizer.TOKENIZER_FILE)}",
    )


def _published(model: open_clip.CLIP, files: ClipFiles) -> BuiltClip:
    import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    config = merge_preprocess_dict(PreprocessCfg(), files.preprocess_config)
    config["size"] = getattr(model.visual, "image_size", config["size"])
    tokenize, tokenizer = _tokenizer(files)
    return BuiltClip(
        model=model,
        prepare=image_transform_v2(PreprocessCfg(**config), is_train=False),
        tokenize=tokenize,
        preprocessing=json.loads(json.dumps(config)),
        tokenizer=tokenizer,
    )


def _tokenizer(files: ClipFiles) -> tuple[Callable[[Sequence[str]], torch.Tensor], str]:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = files.model_config["text_cfg"]
    options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
    if files.tokenizer_folder is None:
        simple = SimpleTokenizer(**options)
        return lambda texts: simple(list(texts)), "open_clip.SimpleTokenizer"
    path = files.tokenizer_folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"the tokenizer {path} is missing; put the model's tokenizer files beside its config")
    ours = HFTokenizer(str(files.tokenizer_folder), tokenizer_mode=text.get("tokenizer_mode"), **options)
    return lambda texts: ours(list(texts)), f"sha256:{file_sha256(path)}"


def _hub_file(
    repository: str, file: str, *, revision: str | None, allow_download: bool, cache_dir: str | None
) -> pathlib.Path:
    """Find one file of a hub repository in the local cache, or fetch it."""
    import huggingface_hub

    command = ["hf", "download", repository, file, *(["--revision", revision] if revision else [])]
    command += ["--cache-dir", cache_dir] if cache_dir else []
    if not allow_download:
        found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision, cache_dir=cache_dir)
        if isinstance(found, str):
            return pathlib.Path(found)
        raise ValueError(
            f"{file} of {repository} is not on this machine, and nothing is fetched unless allow_download=True. "
            f"Fetch it with: {shlex.join(command)}"
        )
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, file, revision=revision, cache_dir=cache_dir))
    except Exception as error:  # the hub's client and its transports each raise their own
        raise ValueError(
            f"{file} of {repository} could not be fetched ({_first_line(error)}); "
            f"on a machine with a connection: {shlex.join(command)}"
        ) from error


def _require_its_activation(
    name: str, tag: str, config: dict[str, Any], entry: dict[str, Any], known: Sequence[str]
) -> None:
    """Refuse weights under another activation function than theirs: open_clip computes other features and warns."""
    needs, has = bool(entry.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    if needs == has:
        return
    right = f"{name}-quickgelu" if needs else name.removesuffix("-quickgelu")
    cure = (
        f"use the model {right!r} with {tag!r}"
        if right in known and right != name
        else "no model of open_clip's fits them"
    )
    raise ValueError(
        f"the weights {tag} of {name} were trained {'with' if needs else 'without'} QuickGELU and would give other "
        f"embeddings in this model; {cure}"
    )


_CONVERT = (
    'on a machine where you trust the file, convert it once: python -c "import torch, safetensors.torch as s; '
    "w = torch.load('IN', map_location='cpu', weights_only=True); "
    "s.save_file({k: v.clone().contiguous() for k, v in w.get('state_dict', w).items()}, 'OUT.safetensors')\""
)


def _require_safetensors(path: pathlib.Path) -> None:
    if path.suffix in _PICKLES:
        raise ValueError(f"the weights {path} are a pickle, and a pickle can run code; {_CONVERT}")
    if path.suffix != ".safetensors":
        raise ValueError(f"weights must be a .safetensors file, got {path}")
    if not path.is_file():
        raise ValueError(f"the weights {path} are missing; put the model's safetensors file there")


def _read_config(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model = content.get("model_cfg", content)
        missing = [part for part in ("embed_dim", "vision_cfg", "text_cfg") if part not in model]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return model, content.get("preprocess_cfg", {})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"cannot read {path} ({error}); expected open_clip's config, with model_cfg and preprocess_cfg"
        ) from error


def _near(name: object, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"close ones are {', '.join(close)}" if close else "open_clip.list_models() names them"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
