"""How agents are stored: a folder with ``agent.safetensors`` (tensors) and ``agent.json`` (everything else)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pasta_gym.files import whole_file, write_json

FORMAT_VERSION = 1
TENSOR_FILE = "agent.safetensors"
CARD_FILE = "agent.json"


class _IsDataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Config = TypeVar("Config", bound=_IsDataclass)


@dataclass(frozen=True)
class Checkpoint:
    """What a stored agent consists of.

    Attributes:
        name: The agent's short name.
        folder: Where it was read.
        config: The agent's configuration as plain values.
        sizes: Array sizes the networks were built for.
        tensors: Weights and statistics by name.
        notes: What else the card tells by name; older cards have none.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    sizes: dict[str, int]
    tensors: dict[str, Tensor]
    notes: dict[str, str] = field(default_factory=dict)

    def size(self, name: str) -> int:
        """One of the sizes.

        Raises:
            ValueError: If it is missing or under 1.
        """
        if self.sizes.get(name, 0) < 1:
            raise ValueError(
                f"{self.folder / CARD_FILE} must give sizes.{name} as 1 or more, got {self.sizes.get(name)}; "
                "train and save the agent again"
            )
        return self.sizes[name]


def write_checkpoint(
    folder: Path,
    *,
    kind: str,
    name: str,
    config: _IsDataclass,
    sizes: Mapping[str, int],
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write an agent into ``folder``, which is made when it does not exist.

    Each file is written beside its place and then moved, so that no half-written file is ever found there. The card
    comes last: a folder with a card is complete.

    Args:
        folder: Where to write.
        kind: Which sort of agent, checked when it is read.
        name: The agent's short name.
        config: A dataclass of plain values.
        sizes: Array sizes the networks were built for.
        tensors: Weights and statistics by name.
        notes: What else its card tells.
    """
    folder = Path(folder)
    with whole_file(folder / TENSOR_FILE) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    card = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "name": name,
        "config": asdict(config),
        "sizes": dict(sizes),
        "notes": dict(notes or {}),
    }
    write_json(folder / CARD_FILE, card)


def read_checkpoint(folder: Path, *, kind: str) -> Checkpoint:
    """Read what :func:`write_checkpoint` wrote.

    Args:
        folder: The agent's folder.
        kind: The sort of agent that is expected.

    Returns:
        Its parts.

    Raises:
        ValueError: If a file is missing or broken, or the folder holds another kind of agent or format.
    """
    card_path, tensor_path = Path(folder) / CARD_FILE, Path(folder) / TENSOR_FILE
    for path in (card_path, tensor_path):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; train the agent and save it there, or name another folder")
    try:
        card = json.loads(card_path.read_text())
        version, found_kind, name = card["format_version"], card["kind"], str(card["name"])
        config, sizes = dict(card["config"]), {str(name): int(size) for name, size in card["sizes"].items()}
        notes = {str(name): str(note) for name, note in card.get("notes", {}).items()}
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{card_path} cannot be read ({error!r}); train and save the agent again") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{card_path} has format version {version}, this code reads {FORMAT_VERSION}; "
            "use the matching version of the code, or train the agent again"
        )
    if found_kind != kind:
        raise ValueError(f"{card_path} holds a {found_kind!r} agent, expected {kind!r}; load it with its own class")
    try:
        tensors = load_file(tensor_path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{tensor_path} cannot be read ({error}); train and save the agent again") from error
    return Checkpoint(name=name, folder=Path(folder), config=config, sizes=sizes, tensors=tensors, notes=notes)


def config_from_card(cls: type[Config], values: Mapping[str, Any], folder: Path) -> Config:
    """Build the configuration dataclass from a stored card.

    Raises:
        ValueError: If a name is unknown or a value is refused, naming the card.
    """
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{Path(folder) / CARD_FILE} has unknown settings {unknown}; known are {sorted(known)}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{Path(folder) / CARD_FILE} has a bad setting: {error}") from error


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill ``module`` with stored tensors, whose names begin with ``network.``.

    Raises:
        ValueError: If names or shapes differ, or a tensor is not finite, naming the file.
    """
    path = Path(folder) / TENSOR_FILE
    broken = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if broken:
        raise ValueError(f"{path} holds values that are not finite in {broken}; train and save the agent again")
    try:
        module.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its card ({error}); train and save the agent again") from error
