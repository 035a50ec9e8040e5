"""What every scorer is, and how weights are read."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image

from pasta_gym.types import FloatArray

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 32
SCORERS: tuple[str, ...] = ("clip", "pickscore", "hpsv2.0", "hpsv2.1", "imagereward", "aesthetic")


class Scorer(Protocol):
    """Scores images for prompts. Only comparable within one scorer, and often only within one prompt."""

    name: str

    def scores(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        """Score image i for prompt i: ``(n,)`` float64, more is better.

        Raises:
            ValueError: If there are not as many prompts as images.
        """
        ...


def make_scorer(name: str, folder: str | pathlib.Path | None = None) -> Scorer:
    """Load a scorer by name.

    Args:
        name: One of ``SCORERS``.
        folder: Where its weights are; ``clip`` without one is the mini world's.

    Returns:
        The scorer.

    Raises:
        ValueError: If the name is unknown, or weights are missing or do not fit; the message has the command that
            fetches them.
    """
    from pasta_gym.encoders.clip_encoder import ClipEncoder
    from pasta_gym.user_model import scorers

    if name not in SCORERS:
        raise ValueError(f"scorer must be one of {', '.join(SCORERS)}, got {name!r}")
    if name == "clip":
        return scorers.ClipScore(ClipEncoder.mini() if folder is None else ClipEncoder.from_files(folder))
    if folder is None:
        raise ValueError(f"{name} needs the folder of its weights; write {name}=FOLDER")
    root = pathlib.Path(folder)
    if name == "pickscore":
        return scorers.PickScore(root)
    if name == "imagereward":
        return scorers.ImageReward(root)
    if name == "aesthetic":
        return scorers.AestheticV2(root, ClipEncoder.pretrained())
    return scorers.HPSv2(root, version=name.removeprefix("hps"))


def require_pairs(prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> None:
    """Check that there is one prompt for each image.

    Raises:
        ValueError: If not.
    """
    if len(prompts) != len(images):
        raise ValueError(f"one prompt for each image is needed, got {len(prompts)} prompts and {len(images)} images")


def in_batches(
    score: Callable[[Sequence[str], Sequence[PIL.Image.Image]], FloatArray],
    prompts: Sequence[str],
    images: Sequence[PIL.Image.Image],
    batch_size: int = BATCH_SIZE,
) -> FloatArray:
    """Score a few at a time: ``(n,)`` float64."""
    require_pairs(prompts, images)

    def parts() -> Iterator[FloatArray]:
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            yield score(prompts[rows], images[rows])

    return np.concatenate([np.zeros(0), *parts()])


def find_weights(folder: pathlib.Path, stem: str, suffix: str, fetch: str) -> pathlib.Path:
    """Find weights in a folder: the safetensors if there are any, else the published file.

    Args:
        folder: Where to look; a file is taken as it is.
        stem: Name without suffix.
        suffix: Of the published file, such as ``.pt``.
        fetch: The command that fetches it.

    Raises:
        ValueError: If there is neither.
    """
    if folder.is_file():
        return folder
    for name in (f"{stem}.safetensors", f"{stem}{suffix}"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder / stem}{suffix} is missing, and no {stem}.safetensors is there; fetch it with: {fetch}")


def read_weights(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """Read tensors by name, from safetensors or from a pickle of nothing but tensors.

    A pickle can run code; ``weights_only`` makes torch refuse whatever is not a tensor or a plain container.

    Raises:
        ValueError: If the file is broken, or holds more than tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zipfile each raise their own
        raise ValueError(
            f"cannot read {path} ({str(error).strip().splitlines()[0]}); fetch it again if it is cut short. "
            "A pickle that holds more than tensors is refused, because it can run code"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no tensors by name; is it the file that its page links to?")
    return state


def load_strictly(module: torch.nn.Module, state: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    """Load tensors into a module, all of them and no others.

    Raises:
        ValueError: If names or shapes differ.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise ValueError(f"{path} does not fit the architecture: {lines[min(1, len(lines) - 1)].strip()}") from error
