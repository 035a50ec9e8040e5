"""Keeps a running phase of the fit on disk: a phase that was stopped goes on, and ends as it would have ended.

A checkpoint is one file of tensors and one of plain data. The second names the first and is replaced last, so that a
kill at any moment leaves the checkpoint before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pasta_gym.files import write_text
from pasta_gym.user_model.data import PreferenceData

logger = logging.getLogger(__name__)

FORMAT = 1
RECORD = "checkpoint.json"
_TENSORS = "tensors-*.safetensors"
_SAMPLED_ROWS = 4096


@dataclass(frozen=True)
class State:
    """All that a run needs to go on.

    Attributes:
        tensors: By name.
        numbers: Plain data.
    """

    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]


class Batcher(Protocol):
    """What draws batches."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return where it is: what it has still to give, and its generator."""
        ...

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to where ``state`` was called."""
        ...


@dataclass(frozen=True)
class RunParts:
    """What the runs of both phases have in common.

    Attributes:
        model: What is trained.
        target: Its target network.
        optimiser: Of the model's parameters.
        schedule: Of the learning rate.
        batches: Draws them.
    """

    model: torch.nn.Module
    target: torch.nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    batches: Batcher

    def state(self) -> State:
        """Return the state of all parts. Tensors are the parts' own, so keep it before the next step."""
        of_optimiser = self.optimiser.state_dict()
        moments = {f"{i}.{name}": t for i, all_of in of_optimiser["state"].items() for name, t in all_of.items()}
        tensors = {
            **_prefixed("model", self.model.state_dict()),
            **_prefixed("target", self.target.state_dict()),
            **_prefixed("optimiser", moments),
            **_prefixed("batches", self.batches.state()),
        }
        return State(tensors, {"groups": of_optimiser["param_groups"], "schedule": self.schedule.state_dict()})

    def restore(self, state: State) -> None:
        """Bring all parts, which must be those of an equal run, into a state."""
        self.model.load_state_dict(_without_prefix("model", state.tensors))
        self.target.load_state_dict(_without_prefix("target", state.tensors))
        self.batches.restore(_without_prefix("batches", state.tensors))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _without_prefix("optimiser", state.tensors).items():
            parameter, _, moment = name.partition(".")
            moments.setdefault(int(parameter), {})[moment] = tensor
        groups = [
            # JSON has no tuples.
            {name: tuple(value) if isinstance(own.get(name), tuple) else value for name, value in kept.items()}
            for own, kept in zip(self.optimiser.param_groups, state.numbers["groups"], strict=True)
        ]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.load_state_dict(state.numbers["schedule"])


class Checkpoints:
    """The checkpoints of one phase, of which the last is kept.

    Args:
        folder: Its folder; made when there is something to keep.
        key: What the phase is fitted from, see ``phase_key``. A checkpoint of another key is not gone on from.
        every: Steps between two checkpoints.

    Raises:
        ValueError: If ``every`` is under 1.
    """

    def __init__(self, folder: pathlib.Path, key: str, every: int) -> None:
        if every < 1:
            raise ValueError(f"the steps between two checkpoints must be at least 1, got {every}")
        self.folder, self.key, self.every = folder, key, every

    def is_due(self, step: int) -> bool:
        """Whether the state after a number of steps is to be kept."""
        return step % self.every == 0

    def save(self, runs: Mapping[str, State], numbers: Mapping[str, Any]) -> None:
        """Keep the states of some runs in place of what was kept before; a full disk costs a warning, not the fit.

        Args:
            runs: By name.
            numbers: Plain data beside them.
        """
        tensors = {f"{run}/{name}": t for run, state in runs.items() for name, t in state.tensors.items()}
        plain = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        before = set(self.folder.glob(_TENSORS))
        number = 1 + max((int(path.stem.partition("-")[2]) for path in before), default=0)
        path = self.folder / _TENSORS.replace("*", str(number))
        record = {
            "format": FORMAT,
            "key": self.key,
            "tensors": path.name,
            "runs": {run: state.numbers for run, state in runs.items()},
            "numbers": dict(numbers),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(plain, path)
            _sync(path)
            write_text(self.folder / RECORD, json.dumps(record))
        except (OSError, SafetensorError) as error:
            path.unlink(missing_ok=True)
            logger.warning("no checkpoint was written to %s (%s); the fit goes on without", self.folder, error)
            return
        for old in before:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, State], dict[str, Any]] | None:
        """Read what was kept: the runs by name, and the numbers beside them.

        Returns:
            None, and a message in the log, if it belongs to another configuration or other data, or cannot be read;
            None alone if there is nothing.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if (record["format"], record["key"]) != (FORMAT, self.key):
                logger.warning(
                    "the checkpoint in %s is of another configuration or of other data; this phase begins anew and "
                    "will replace it",
                    self.folder,
                )
                return None
            tensors = load_file(self.folder / record["tensors"])
            runs = {run: State(_without_prefix(run, tensors, "/"), n) for run, n in record["runs"].items()}
            return runs, dict(record["numbers"])
        except (OSError, KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            logger.warning("the checkpoint in %s cannot be read (%s); this phase begins anew", self.folder, error)
            return None

    def remove(self) -> None:
        """Delete what was kept, once the phase is done."""
        for path in (self.folder / RECORD, *self.folder.glob(_TENSORS), *self.folder.glob(f".{RECORD}.*")):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def phase_key(data: PreferenceData, *settings: Any) -> str:
    """Hash what a phase is fitted from.

    Args:
        data: Every label counts. Of the embeddings, which may be many gigabytes, evenly spaced rows stand for all.
        *settings: Anything that JSON can hold.

    Returns:
        64 hex digits.
    """
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for field in dataclasses.fields(data):
        array = getattr(data, field.name)
        # Which dataset somebody came from changes no fit, and of the embeddings their numbers count, not their name.
        if array is None or field.name in ("sources", "encoder_sha256", "images_sha256"):
            continue
        found.update(f"{field.name} {array.shape} {array.dtype}".encode())
        if field.name.endswith("_embeddings"):
            array = array[:: max(1, len(array) // _SAMPLED_ROWS)]
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, torch.Tensor], mark: str = ".") -> dict[str, torch.Tensor]:
    start = prefix + mark
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share their memory with another, as tied weights do: safetensors takes none of these."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def _sync(path: pathlib.Path) -> None:
    """Wait until a file is on the disk: a record must never be there before its tensors."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
