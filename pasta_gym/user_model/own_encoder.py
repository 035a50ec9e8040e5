"""The encoder that was trained with a user model, read from the folder beside its weights."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.encoders.open_clip_models import WEIGHTS_FILE, file_sha256
from pasta_gym.user_model.encoder_identity import MIN_DIGITS, encoder_hash
from pasta_gym.user_model.user_model import UserModel

_MEND = "copy the user model's folder again, or fit it again with python -m benchmarks.fit_user_model"


def own_encoder(metadata: Mapping[str, Any], folder: pathlib.Path | None) -> ClipEncoder:
    """Load the encoder of a user model, once a process.

    Args:
        metadata: The user model's.
        folder: Its ``encoder_folder``.

    Raises:
        ValueError: If it is not at hand, or not the one that was trained with the user model.
    """
    return _loaded(_checked(metadata, folder), str(encoder_hash(metadata)))


def load_own_encoder(model: UserModel, clip: torch.nn.Module) -> None:
    """Read the weights of a user model's encoder into an open_clip model of the same architecture.

    Raises:
        ValueError: If they are not at hand, broken, or of another architecture.
    """
    folder = _checked(model.metadata, model.encoder_folder)
    try:
        clip.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"cannot read the encoder in {folder} ({error}); {_MEND}") from error


def _checked(metadata: Mapping[str, Any], folder: pathlib.Path | None) -> pathlib.Path:
    if folder is None or not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"the user model has no encoder of its own in {folder}; {_MEND}")
    found, expected = file_sha256(folder / WEIGHTS_FILE), str(encoder_hash(metadata))
    if found != expected:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} is encoder {found[:MIN_DIGITS]}, and the user model was fitted with "
            f"{expected[:MIN_DIGITS]}; {_MEND}"
        )
    return folder


@functools.cache
def _loaded(folder: pathlib.Path, sha256: str) -> ClipEncoder:
    return ClipEncoder.from_files(folder)
