"""Logged conversations as arrays: what an offline learner is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.envs.rewards import REWARDS, Reward
from pasta_gym.types import FloatArray, IntArray

TEXT_KEYS = ("initial_prompt_text", "candidate_texts", "slate_texts")
"""What agents that read text are shown beside an observation, in words."""


@dataclass(frozen=True)
class TrajectoryDataset:
    """``N`` whole conversations of ``H`` turns, as in the paper's offline data (section 5.2).

    Prompts are rows of ``prompt_embeddings``, so that a prompt met a thousand times is stored once.

    Attributes:
        initial_prompts: ``(N,)`` rows of ``prompt_embeddings``.
        initial_images: ``(N, M, d)`` float16 embeddings of the initial prompt's images.
        candidates: ``(N, H, C)`` rows of ``prompt_embeddings``.
        categories: ``(N, H, C)`` category of each candidate.
        actions: ``(N, H, L)`` the slates, as places in the turn's candidates.
        behaviour_probabilities: ``(N, H)`` probability that the logging policy showed this slate (as a set).
        slate_images: ``(N, H, L, M, d)`` float16 embeddings of the images shown.
        choices: ``(N, H)`` column that the user chose, 0..L-1.
        rewards: ``(N, H)`` 10 x utility of the chosen column: at every turn if dense, else at the last.
        prompt_embeddings: ``(P, d)`` float32.
        metadata: Identity and provenance, as in ``metadata.json``.
        prompt_texts: ``(P,)`` object array, the words of the prompts; None where only embeddings are known.
    """

    initial_prompts: IntArray
    initial_images: NDArray[np.float16]
    candidates: IntArray
    categories: IntArray
    actions: IntArray
    behaviour_probabilities: FloatArray
    slate_images: NDArray[np.float16]
    choices: IntArray
    rewards: FloatArray
    prompt_embeddings: FloatArray
    metadata: dict[str, Any]
    prompt_texts: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.initial_prompts)

    @property
    def horizon(self) -> int:
        """Turns of a conversation, the paper's ``H``."""
        return int(self.actions.shape[1])

    @property
    def slate_size(self) -> int:
        """Prompts of a slate, the paper's ``L``."""
        return int(self.actions.shape[2])

    def observations(self, episodes: IntArray, turns: IntArray) -> dict[str, NDArray[Any]]:
        """Rebuild what the agent saw before it acted.

        Args:
            episodes: ``(B,)`` in 0..N-1.
            turns: ``(B,)`` in 0..H-1, the number of slates seen before. The observation after the last turn
                is not stored, because no action follows it.

        Returns:
            The environment's observation keys, batched over ``B``. Images went through float16.

        Raises:
            ValueError: If an episode or a turn is out of range, or the shapes differ.
        """
        episodes, turns = self._checked(episodes, turns)
        past = np.arange(self.horizon)[None, :] < turns[:, None]  # (B, H)
        shown = np.take_along_axis(self.candidates[episodes], self.actions[episodes], axis=2)  # (B, H, L)
        slate_prompts = self.prompt_embeddings[shown] * past[..., None, None]
        slate_images = self.slate_images[episodes].astype(np.float32)
        slate_images[~past] = 0.0
        return {
            "turn": turns.copy(),
            "initial_prompt": self.prompt_embeddings[self.initial_prompts[episodes]],
            "initial_images": self.initial_images[episodes].astype(np.float32),
            "candidates": self.prompt_embeddings[self.candidates[episodes, turns]],
            "categories": self.categories[episodes, turns].astype(np.int64),
            "slate_prompts": slate_prompts.astype(np.float32),
            "slate_images": slate_images,
            "choices": np.where(past, self.choices[episodes], -1).astype(np.int64),
        }

    def texts(self, episodes: IntArray, turns: IntArray) -> dict[str, NDArray[np.object_]]:
        """Write out the words of what the agent saw before it acted, for agents that read text.

        Args:
            episodes: ``(B,)`` in 0..N-1.
            turns: ``(B,)`` in 0..H-1.

        Returns:
            Object arrays under ``TEXT_KEYS``: the initial prompt ``(B,)``, the candidates ``(B, C)`` and the slates
            ``(B, H, L)``, "" for turns to come.

        Raises:
            ValueError: If an episode or a turn is out of range, the shapes differ, or no words are known.
        """
        if self.prompt_texts is None:
            raise ValueError(
                "prompt_texts must hold the prompts' words, got None; pasta_gym.trajectories.load reads them"
            )
        episodes, turns = self._checked(episodes, turns)
        past = np.arange(self.horizon)[None, :] < turns[:, None]
        shown = np.take_along_axis(self.candidates[episodes], self.actions[episodes], axis=2)
        slates = np.where(past[..., None], self.prompt_texts[shown], "")
        initial = self.prompt_texts[self.initial_prompts[episodes]]
        candidates = self.prompt_texts[self.candidates[episodes, turns]]
        return dict(zip(TEXT_KEYS, (initial, candidates, slates), strict=True))

    def with_reward(self, reward: Reward) -> TrajectoryDataset:
        """Return the same conversations under another reward.

        Randomness is keyed and the logging policy ignores rewards, so this equals collecting anew.

        Args:
            reward: ``"sparse"`` keeps the last turn's reward alone; ``"dense"`` needs dense data.

        Raises:
            ValueError: If the reward is unknown, or dense is asked of sparse data, which cannot be undone.
        """
        if reward not in REWARDS:
            raise ValueError(f"reward must be one of {REWARDS}, got {reward!r}")
        stored = self.metadata.get("reward", "dense")
        if reward == stored:
            return self
        if reward == "dense":
            raise ValueError("reward='dense' cannot be made from sparse data; collect again with reward='dense'")
        rewards = np.zeros_like(self.rewards)
        rewards[:, -1] = self.rewards[:, -1]
        return replace(self, rewards=rewards, metadata={**self.metadata, "reward": reward})

    def take(self, episodes: IntArray) -> TrajectoryDataset:
        """Return the conversations ``episodes (B,)`` in that order; prompts stay shared."""
        episodes = _whole("episodes", episodes)
        _require_range("episodes", episodes, len(self))
        return replace(
            self,
            initial_prompts=self.initial_prompts[episodes],
            initial_images=self.initial_images[episodes],
            candidates=self.candidates[episodes],
            categories=self.categories[episodes],
            actions=self.actions[episodes],
            behaviour_probabilities=self.behaviour_probabilities[episodes],
            slate_images=self.slate_images[episodes],
            choices=self.choices[episodes],
            rewards=self.rewards[episodes],
        )

    def _checked(self, episodes: IntArray, turns: IntArray) -> tuple[IntArray, IntArray]:
        episodes, turns = _whole("episodes", episodes), _whole("turns", turns)
        if episodes.ndim != 1 or episodes.shape != turns.shape:
            raise ValueError(
                f"episodes and turns must be one-dimensional and of one length, got {episodes.shape} and {turns.shape}"
            )
        _require_range("episodes", episodes, len(self))
        _require_range("turns", turns, self.horizon)
        return episodes, turns


def _whole(name: str, values: Any) -> IntArray:
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        hint = "; np.flatnonzero(mask) gives those of a mask" if found.dtype == np.bool_ else ""
        raise ValueError(f"{name} must be whole numbers, got {found.dtype}{hint}")
    return found.astype(np.int64)


def _require_range(name: str, values: IntArray, end: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= end):
        wrong = values[(values < 0) | (values >= end)][0]
        raise ValueError(f"{name} must be in 0..{end - 1}, got {wrong}")
