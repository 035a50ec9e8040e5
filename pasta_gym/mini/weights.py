"""Where the mini world's trained weights live, and how they are written and read: safetensors with a card."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import TYPE_CHECKING, Any

from pasta_gym.files import whole_file, write_text

if TYPE_CHECKING:
    import torch

CARD_FILE = "card.json"
_PACKAGES = ("torch", "diffusers", "open_clip_torch", "transformers", "numpy")

_RENEW = "copy the whole folder again; weights of your own go there without the old card.json"


def weights_directory() -> pathlib.Path:
    """Folder of the shipped weights, or ``$PASTA_GYM_MINI_WEIGHTS`` if that is set."""
    override = os.environ.get("PASTA_GYM_MINI_WEIGHTS")
    return pathlib.Path(override) if override else pathlib.Path(__file__).parent / "shipped"


def read_tensors(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file as float32.

    Raises:
        ValueError: If the file is missing, truncated or not safetensors; the message names it and the cure.
    """
    import torch
    from safetensors.torch import load_file

    cure = "reinstall pasta-gym, or train the part again with `python -m pasta_gym.mini.train`"
    if not path.is_file():
        raise ValueError(f"the weights {path} are missing; {cure}")
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises several unrelated types
        raise ValueError(f"the weights {path} are no readable safetensors file ({error}); {cure}") from error
    return {k: v.float() if v.is_floating_point() and v.dtype != torch.float32 else v for k, v in tensors.items()}


def load_weights(module: torch.nn.Module, path: pathlib.Path) -> None:
    """Load a safetensors file into ``module``.

    A card beside the file is believed: weights with a flipped byte, or nothing but zeros, have the right names and
    shapes, and only their hash tells them apart. A file without a card is loaded as it is.

    Raises:
        ValueError: If the file cannot be read, is not the one that the card beside it names, or holds other tensors
            than the module needs.
    """
    if (path.parent / CARD_FILE).is_file():
        check_files(path.parent)
    tensors = read_tensors(path)
    own = module.state_dict()
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or surplus or shapes:
        raise ValueError(
            f"the weights {path} do not fit {type(module).__name__}: missing {missing[:3]}, surplus {surplus[:3]}, "
            f"other shapes {shapes[:3]}; train the part again with `python -m pasta_gym.mini.train`"
        )
    module.load_state_dict(tensors)


def save_weights(module: torch.nn.Module, path: pathlib.Path) -> None:
    """Write a module as half-precision safetensors, all or nothing."""
    from safetensors.torch import save_file

    def half(t: torch.Tensor) -> torch.Tensor:
        return (t.half() if t.is_floating_point() else t).contiguous().clone()

    with whole_file(path) as partial:
        save_file({k: half(v.detach()) for k, v in module.state_dict().items()}, partial, metadata={"format": "pt"})


def file_hash(path: pathlib.Path) -> str:
    """First 16 hex digits of a file's sha-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def write_card(folder: pathlib.Path, card: dict[str, Any]) -> None:
    """Write ``card.json``: what a part was trained on, how, with which versions, and what it scores."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    card = {**card, "versions": {"python": platform.python_version(), **versions}}
    card["files"] = {p.relative_to(folder).as_posix(): file_hash(p) for p in sorted(folder.rglob("*.safetensors"))}
    _replace_card(folder, card)


def add_figures(folder: pathlib.Path, figures: dict[str, Any]) -> None:
    """Write what a part scores into its card, and leave the rest of it as it is.

    Raises:
        ValueError: If there is no card, or it is broken.
    """
    _replace_card(folder, {**read_card(folder), "figures": figures})


def _replace_card(folder: pathlib.Path, card: dict[str, Any]) -> None:
    write_text(folder / CARD_FILE, json.dumps(card, indent=2) + "\n")


def check_files(folder: pathlib.Path) -> None:
    """Compare a part's weights with the hashes in its card.

    Raises:
        ValueError: If the card cannot be read or lists no files, or a file is missing or is another one than the
            card names.
    """
    listed = read_card(folder).get("files")
    if not isinstance(listed, dict):
        raise ValueError(f"the card {folder / CARD_FILE} lists no files; reinstall pasta-gym, or {_RENEW}")
    for name, digest in listed.items():
        path = folder / name
        found = file_hash(path) if path.is_file() else None
        if found != digest:
            what = "are missing" if found is None else f"are not those of card.json ({found}, not {digest})"
            raise ValueError(f"the weights {path} {what}; reinstall pasta-gym, or {_RENEW}")


def read_card(folder: pathlib.Path) -> dict[str, Any]:
    """Read ``card.json`` of a part.

    Raises:
        ValueError: If it is missing or no JSON.
    """
    path = folder / CARD_FILE
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"the card {path} cannot be read ({error}); reinstall pasta-gym") from error
    return card
