"""One integer for a slate, for learners with a discrete action."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from pasta_gym.envs.arguments import checked_actions
from pasta_gym.types import IntArray
from pasta_gym.wrappers.inside import config_inside
from pasta_gym.wrappers.slate_numbers import SlateNumbers


class SlateIndex(
    gymnasium.Wrapper[dict[str, Any], Any, dict[str, Any], IntArray],
    RecordConstructorArgs,
):
    """Numbers the slates: ``Discrete(3125)`` with one candidate per category at most, 12,650 if any four will do.

    Index i names a choice of categories and a rank within each; what stands there changes every turn.

    Args:
        env: A single environment.
        one_per_category: Whether a slate takes at most one candidate of a category.

    Raises:
        ValueError: If a slate has more columns than there are categories, or candidates, or candidates are not shared
            out equally among the categories.
    """

    def __init__(self, env: gymnasium.Env[dict[str, Any], IntArray], *, one_per_category: bool = True) -> None:
        RecordConstructorArgs.__init__(self, one_per_category=one_per_category)
        gymnasium.Wrapper.__init__(self, env)
        config = config_inside(env, "SlateIndex")
        self.one_per_category = one_per_category
        self._slate_size, self._n_candidates = config.slate_size, config.n_candidates
        self._numbers = SlateNumbers(
            config.n_candidates, config.n_categories, config.slate_size, one_per_category=one_per_category
        )
        self.action_space = spaces.Discrete(self._numbers.size)
        self._categories: IntArray | None = None

    def slate(self, index: int) -> IntArray:
        """Return the slate ``(L,)`` that an index stands for at this turn.

        Raises:
            ValueError: If the index is no integer or out of range.
            ResetNeeded: If no conversation has begun.
        """
        n = self._numbers.size
        if not isinstance(index, int | np.integer | np.ndarray) or isinstance(index, bool):
            raise ValueError(f"a slate's index must be an integer in 0..{n - 1}, got {index!r}")
        number = np.asarray(index)
        if number.shape != () or not np.issubdtype(number.dtype, np.integer) or not 0 <= number < n:
            raise ValueError(f"a slate's index must be an integer in 0..{n - 1}, got {index!r}")
        slate: IntArray = self._numbers.decode(number.astype(np.int64)[None], self._shown())[0]
        return slate

    def index(self, slate: IntArray) -> int:
        """Return the index of a slate ``(L,)`` in any order: the inverse of ``slate``.

        Raises:
            ValueError: If it is no slate of the environment, or this wrapper cannot show it.
            ResetNeeded: If no conversation has begun.
        """
        members = checked_actions(slate, (self._slate_size,), self._n_candidates)
        return int(self._numbers.encode(members[None], self._shown())[0])

    def _shown(self) -> IntArray:
        if self._categories is None:
            raise ResetNeeded("no conversation has begun, so there are no candidates yet; call reset() first")
        return self._categories[None]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a conversation."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._categories = np.array(observation["categories"])
        return observation, info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Show the slate that an index stands for."""
        observation, reward, terminated, truncated, info = self.env.step(self.slate(action))
        self._categories = np.array(observation["categories"])
        return observation, reward, terminated, truncated, info
