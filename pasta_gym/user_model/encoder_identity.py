"""Which encoder's embeddings a user model reads, so that it is never given another's.

Two encoders of the same width give numbers that look alike and mean different things. Metadata names the encoder by
the hash of its weights: ``encoder.frozen_sha256`` is that of the observation's, ``encoder.sha256`` that of the one
whose embeddings utilities are computed from. They differ where phase 2 trained the encoder as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save

MIN_DIGITS = 16
ENCODER_FOLDER = "encoder"
"""Where a user model with an encoder of its own keeps it, beside its weights."""


def encoder_hash(metadata: Mapping[str, Any]) -> str | None:
    """Hash of the encoder a user model was fitted to; None where its metadata does not say."""
    found = metadata.get("encoder", {}).get("sha256")
    return None if found is None else str(found)


def has_own_encoder(metadata: Mapping[str, Any]) -> bool:
    """Whether a user model reads other embeddings than observations hold, because its encoder was trained."""
    found = metadata.get("encoder", {})
    return "frozen_sha256" in found and "sha256" in found and found["sha256"] != found["frozen_sha256"]


def require_frozen_encoder(metadata: Mapping[str, Any], what: str) -> None:
    """Check that a user model reads the embeddings that observations and tables of embeddings hold.

    Args:
        metadata: The user model's.
        what: What needs them, to begin the message with.

    Raises:
        ValueError: If its encoder was trained.
    """
    if has_own_encoder(metadata):
        found = metadata["encoder"]
        raise ValueError(
            f"{what} reads embeddings of the frozen encoder {found['frozen_sha256'][:MIN_DIGITS]}, and this user model "
            f"those of its own, {found['sha256'][:MIN_DIGITS]}; take a user model whose encoder was not trained "
            "(user_model.train_encoder=false)"
        )


def same_encoder(first: str, second: str) -> bool:
    """Whether two hashes are of one encoder; either may be cut short to its first 16 digits or more."""
    shorter = min(len(first), len(second))
    return shorter >= MIN_DIGITS and first[:shorter] == second[:shorter]


def _apart(first: str | None, second: str | None) -> tuple[str, str] | None:
    """The first digits of two hashes that are of two encoders; None where they are of one, or one is not known."""
    if first is None or second is None or same_encoder(first, second):
        return None
    return first[:MIN_DIGITS], second[:MIN_DIGITS]


def require_same_encoder(metadata: Mapping[str, Any], images_encoder: str | None, images: str) -> None:
    """Check that a user model reads the embeddings that an image generator makes.

    Args:
        metadata: The user model's.
        images_encoder: Hash of the encoder of the generator's embeddings; None where it does not say.
        images: Name of the image generator.

    Raises:
        ValueError: If both are known and differ.
    """
    if (apart := _apart(encoder_hash(metadata), images_encoder)) is None:
        return
    own, theirs = apart
    raise ValueError(
        f"the user model reads embeddings of encoder {own}, but images={images!r} gives those of "
        f"{theirs}: its utilities would mean nothing. Fit the user model on this encoder "
        "(python -m benchmarks.fit_user_model encoder=...), or pass a World whose images are embedded by the user "
        "model's encoder and, for the surrogate, fit one to it (python -m pasta_gym.mini.train surrogate)"
    )


def require_encoder_of_data(metadata: Mapping[str, Any], data_encoder: str | None) -> None:
    """Check that a user model reads the embeddings that gathered labels point into.

    Args:
        metadata: The user model's.
        data_encoder: ``PreferenceData.encoder_sha256``.

    Raises:
        ValueError: If both are known and differ.
    """
    if (apart := _apart(encoder_hash(metadata), data_encoder)) is None:
        return
    own, theirs = apart
    raise ValueError(
        f"the user model reads embeddings of encoder {own}, but the labels are about embeddings of "
        f"{theirs}: its scores of them would mean nothing. Take labels of a pool that is embedded "
        "by the user model's encoder, or fit a user model to these (python -m pasta_gym.user_model.fit --data LABELS)"
    )


def require_given_embeddings(dataset: str, theirs: str | None, known: str | None) -> None:
    """Check that embeddings that come with a dataset are of the same encoder as all others.

    Args:
        dataset: Its name.
        theirs: Hash of the encoder of its embeddings; None where it has none, or does not say.
        known: Hash of the encoder of the others; None where nobody knows.

    Raises:
        ValueError: If both are known and differ.
    """
    if (apart := _apart(theirs, known)) is None:
        return
    own, others = apart
    raise ValueError(
        f"the dataset {dataset} comes with embeddings of encoder {own}, and the others are of "
        f"{others}; numbers of two encoders do not mix. Name the encoder of its embeddings (encoder=...), "
        "or take a dataset that is embedded by yours"
    )


def module_hash(module: torch.nn.Module) -> str:
    """Hash a module's weights: SHA-256 of the safetensors file they make."""
    return hashlib.sha256(module_bytes(module)).hexdigest()


def module_bytes(module: torch.nn.Module) -> bytes:
    """Write a module's weights as the content of a safetensors file."""
    return save({name: t.detach().cpu().contiguous().clone() for name, t in module.state_dict().items()})
