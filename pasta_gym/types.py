"""What the parts pass to each other: array aliases, records, and the protocols that a part of your own follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
UInt64Array: TypeAlias = NDArray[np.uint64]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
ImageArray: TypeAlias = NDArray[np.uint8]
BoolArray: TypeAlias = NDArray[np.bool_]

NOT_YET = -1
"""Fills ``slates`` and ``choices`` of turns that are still to come."""


OBSERVATION_KEYS: tuple[str, ...] = (
    "turn",
    "initial_prompt",
    "initial_images",
    "candidates",
    "categories",
    "slate_prompts",
    "slate_images",
    "choices",
)
"""The keys of an observation, in the order in which flat vectors hold them."""


@dataclass(frozen=True)
class History:
    """What has been said in B conversations, which may be at different turns.

    Attributes:
        initial_prompts: ``(B,)`` prompt ids that the users began with.
        slates: ``(B, H, L)`` prompt ids that were shown, -1 for turns to come.
        choices: ``(B, H)`` columns that were chosen, -1 for turns to come.
        chosen_prompts: ``(B,)`` prompt ids chosen last, the initial prompt before the first choice.
        turns: ``(B,)`` slates seen so far, 0..H.
        keys: ``(B,)`` random keys of whatever is proposed next.
        horizon: H, the number of turns in an episode.
        pixels: The pictures that a conversation's user saw, by row and turn: ``(M, height, width, 3)`` uint8 of the
            initial prompt at turn 0, ``(L, M, height, width, 3)`` of a slate. None, or returning None, where only
            embeddings exist; kept for generators with a true attribute ``wants_pixels`` alone.
    """

    initial_prompts: IntArray
    slates: IntArray
    choices: IntArray
    chosen_prompts: IntArray
    turns: IntArray
    keys: UInt64Array
    horizon: int
    pixels: Callable[[int, int], ImageArray | None] | None = None


@dataclass(frozen=True)
class Images:
    """M pictures for each of N prompts.

    Attributes:
        embeddings: ``(N, M, d)`` float32 image embeddings, before l2-normalisation.
        pixels: ``(N, M, height, width, 3)`` uint8, or None where only embeddings exist.
    """

    embeddings: FloatArray
    pixels: ImageArray | None = None


@runtime_checkable
class PromptBook(Protocol):
    """Turns prompt ids into text and into stable random keys."""

    def texts(self, ids: IntArray) -> list[str]:
        """Write prompt ids ``(n,)`` out in words."""
        ...

    def keys(self, ids: IntArray) -> UInt64Array:
        """Return a random key for each id, same shape; it depends on the prompt, never on the order of use."""
        ...

    def parse(self, text: str) -> int:
        """Return the id of a prompt that a person wrote; ValueError for what cannot be read."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Embeds prompts."""

    embedding_dim: int

    def embed(self, ids: IntArray) -> FloatArray:
        """Return float32 embeddings ``(..., d)`` of prompt ids ``(...)``, before l2-normalisation."""
        ...


@runtime_checkable
class CandidateGenerator(Protocol):
    """Proposes expansions of the last chosen prompt (section 3.1)."""

    n_candidates: int
    category_titles: tuple[str, ...]

    def propose(self, history: History) -> tuple[IntArray, IntArray]:
        """Return prompt ids and categories, ``(B, n_candidates)`` each; equal histories and keys, equal proposals."""
        ...


@runtime_checkable
class ImageGenerator(Protocol):
    """Paints prompts. A picture is a function of its prompt and its key, never of what else is in the batch."""

    embedding_dim: int

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts ``(N,)`` with random keys ``(N, M)``, one key an image."""
        ...


@runtime_checkable
class UserModelProtocol(Protocol):
    """What the environment asks of a user model (section 3.2). Numpy arrays in and out."""

    @property
    def n_types(self) -> int:
        """K, the number of user types."""
        ...

    @property
    def prior(self) -> FloatArray:
        """``(K,)`` share of each type."""
        ...

    @property
    def aggregator(self) -> str:
        """How the scores of one column's images become its utility."""
        ...

    def with_aggregator(self, aggregator: str) -> UserModelProtocol:
        """Return the same users with another aggregator; ValueError for an unknown one."""
        ...

    def prompt_features(self, prompt_embeddings: FloatArray) -> FloatArray:
        """Return each type's reading of initial prompts: ``(B, d)`` to ``(B, K, d)``. Needed once an episode."""
        ...

    def utilities(self, user_types: IntArray, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Return utilities ``(B, L)`` in [0, 1] of columns ``(B, L, M, d)`` for users of types ``(B,)``."""
        ...

    def all_utilities(self, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Return utilities ``(B, K, L)`` for every type."""
        ...

    def choice_logits(self, utilities: FloatArray) -> FloatArray:
        """Return choice logits of utilities ``(..., L)``, same shape (equation 4)."""
        ...

    def posterior(self, prompt_embeddings: FloatArray, slate_images: FloatArray, choices: IntArray) -> FloatArray:
        """Return ``(B, K)`` beliefs from initial prompts ``(B, d)``, slates ``(B, H, L, M, d)``, choices ``(B, H)``.

        A choice of -1 is no evidence.
        """
        ...


class TextEmbedder(Protocol):
    """The model under a text encoder."""

    def __call__(self, texts: list[str]) -> FloatArray:
        """Embed texts ``(n,)`` as float32 ``(n, d)``."""
        ...


class ImageEmbedder(Protocol):
    """The model that embeds painted pictures."""

    def __call__(self, pixels: ImageArray, /) -> FloatArray:
        """Embed pictures ``(n, height, width, 3)`` uint8 as float32 ``(n, d)``."""
        ...
