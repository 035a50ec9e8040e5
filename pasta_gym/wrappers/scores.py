"""A score for each candidate, for learners with a continuous action."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.wrappers.inside import config_inside


def decode_scores(scores: FloatArray, categories: IntArray, slate_size: int) -> IntArray:
    """Fill slates with the best candidate of each of the best categories.

    Args:
        scores: ``(..., C)`` finite numbers; only their order counts, and the first wins a tie.
        categories: ``(..., C)``.
        slate_size: L.

    Returns:
        ``(..., L)`` candidate indices in ascending order.

    Raises:
        ValueError: If a score is not finite, shapes differ, or there are fewer than L categories.
    """
    scores, categories = np.asarray(scores), np.asarray(categories)
    if scores.shape != categories.shape:
        raise ValueError(f"scores must have the candidates' shape {categories.shape}, got {scores.shape}")
    if not np.issubdtype(scores.dtype, np.number) or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite numbers, got {scores!r}")
    present = np.unique(categories)
    of_category = categories[..., None, :] == present[:, None]
    masked = np.where(of_category, scores[..., None, :].astype(np.float64), -np.inf)
    best, tops = masked.argmax(axis=-1), masked.max(axis=-1)
    if (np.isfinite(tops).sum(axis=-1) < slate_size).any():
        raise ValueError(f"a slate of {slate_size} with one candidate per category needs as many categories")
    order = np.argsort(-tops, axis=-1, kind="stable")[..., :slate_size]
    slates: IntArray = np.sort(np.take_along_axis(best, order, axis=-1), axis=-1)
    return slates


def encode_slate(slates: IntArray, categories: IntArray) -> FloatArray:
    """Write slates as scores: +1 for a candidate that was shown, -1 for the others.

    Decoding gives the same slate back, in ascending order.

    Args:
        slates: ``(..., L)`` candidate indices.
        categories: ``(..., C)``.

    Returns:
        ``(..., C)`` float32.

    Raises:
        ValueError: If a slate shows two candidates of one category, which no scores stand for.
    """
    slates, categories = np.asarray(slates), np.asarray(categories)
    shown = np.sort(np.take_along_axis(categories, slates, axis=-1), axis=-1)
    if (shown[..., 1:] == shown[..., :-1]).any():
        raise ValueError("a slate with two candidates of one category cannot be written as scores")
    scores = np.full(categories.shape, -1.0, dtype=np.float32)
    np.put_along_axis(scores, slates, np.float32(1.0), axis=-1)
    return scores


class CandidateScores(
    gymnasium.Wrapper[dict[str, Any], Any, dict[str, Any], Any],
    RecordConstructorArgs,
):
    """Takes a score in [-1, 1] for each candidate; the best of the best categories fill the slate.

    Args:
        env: A single environment.

    Raises:
        ValueError: If a slate has more columns than there are categories.
    """

    def __init__(self, env: gymnasium.Env[dict[str, Any], Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        config = config_inside(env, "CandidateScores")
        if config.slate_size > config.n_categories:
            raise ValueError(
                f"a slate of {config.slate_size} needs as many categories, but there are {config.n_categories}"
            )
        self._slate_size = config.slate_size
        self.action_space = spaces.Box(-1.0, 1.0, (config.n_candidates,), np.float32)
        self._categories: IntArray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a conversation."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._categories = np.array(observation["categories"])
        return observation, info

    def step(self, action: FloatArray) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Show the slate that the scores stand for.

        Raises:
            ResetNeeded: If no conversation has begun.
        """
        if self._categories is None:
            raise ResetNeeded("no conversation has begun; call reset() before step()")
        slate = decode_scores(action, self._categories, self._slate_size)
        observation, reward, terminated, truncated, info = self.env.step(slate)
        self._categories = np.array(observation["categories"])
        return observation, reward, terminated, truncated, info
