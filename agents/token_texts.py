"""The words of a conversation beside its embeddings, for agents that read text.

An agent with ``reads_text = True`` is shown three more arrays, of the same batch as the observation. They hold what
the environment puts into ``info`` for everybody, and nothing hidden. Object arrays, so that words of any length fit
and rows can be taken like those of the other arrays.

| key | shape | |
|---|---|---|
| ``initial_prompt_text`` | ``(B,)`` | |
| ``candidate_texts`` | ``(B, C)`` | of this turn |
| ``slate_texts`` | ``(B, H, L)`` | "" for turns to come |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Observations
from pasta_gym.trajectories.dataset import TEXT_KEYS
from pasta_gym.types import IntArray

Texts = dict[str, NDArray[np.object_]]


class TextRecord:
    """Writes out what ``B`` conversations of a vector environment have shown, turn by turn.

    ``info`` names the last slate alone, so the earlier ones are kept here.
    """

    def __init__(
        self, texts: Callable[[IntArray], list[str]], info: Mapping[str, Any], *, horizon: int, slate_size: int
    ) -> None:
        """Begin with the ``info`` of a reset.

        Args:
            texts: Writes prompt ids out in words: the environment's ``texts``.
            info: Has ``initial_prompt_id (B,)`` and ``candidate_ids (B, C)``.
            horizon: Turns of a conversation.
            slate_size: Prompts of a slate.
        """
        self._texts = texts
        self._initial = self._written(info["initial_prompt_id"])
        self._candidates = self._written(info["candidate_ids"])
        self._slates = np.full((len(self._initial), horizon, slate_size), "", dtype=object)

    def add(self, info: Mapping[str, Any], turn: int) -> None:
        """Take in the ``info`` of the step that played turn ``turn``, counted from 0."""
        self._slates[:, turn] = self._written(info["slate_ids"])
        self._candidates = self._written(info["candidate_ids"])

    def texts(self) -> Texts:
        """The three arrays; copies."""
        return dict(zip(TEXT_KEYS, (self._initial.copy(), self._candidates.copy(), self._slates.copy()), strict=True))

    def _written(self, ids: Any) -> NDArray[np.object_]:
        ids = np.asarray(ids, dtype=np.int64)
        distinct, inverse = np.unique(ids, return_inverse=True)
        return np.array(self._texts(distinct), dtype=object)[inverse].reshape(ids.shape)


def check_texts(observations: Observations) -> None:
    """Check that the words are there and fit the observation.

    Raises:
        ValueError: If an array is missing, of another shape, or lacks the words of a slate that was played.
    """
    missing = [key for key in TEXT_KEYS if key not in observations]
    if missing:
        raise ValueError(
            f"observations lack {missing}; an agent with reads_text = True needs the conversation's words: add "
            "agents.token_texts.TextRecord(...).texts(), as benchmarks.evaluate does"
        )
    shapes = (
        np.shape(observations["turn"]),
        np.shape(observations["categories"]),
        np.shape(observations["slate_prompts"])[:3],
    )
    for key, shape in zip(TEXT_KEYS, shapes, strict=True):
        if np.shape(observations[key]) != shape:
            raise ValueError(f"{key} must have shape {shape} like the embeddings, got {np.shape(observations[key])}")
    past = np.arange(shapes[2][1]) < np.asarray(observations["turn"])[:, None]
    if (np.asarray(observations["slate_texts"])[past] == "").any():
        raise ValueError("slate_texts must hold the prompts of every turn played; call TextRecord.add after each step")
