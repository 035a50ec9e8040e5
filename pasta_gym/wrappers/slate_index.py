"""One integer for a slate, for learners with a discrete action."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from pasta_gym.envs.arguments import checked_actions
from pasta_gym.types import IntArray
from pasta_gym.wrappers.inside import config_inside


def candidates_by_category(categories: IntArray, n_categories: int) -> IntArray:
    """Sort candidates into categories: ``(C,)`` to indices ``(n_categories, C / n_categories)``.

    Raises:
        ValueError: If the categories differ in size.
    """
    sizes = np.bincount(categories, minlength=n_categories)
    if len(sizes) != n_categories or (sizes != sizes[0]).any():
        raise ValueError(f"every category must have the same number of candidates, got {sizes.tolist()}")
    table: IntArray = np.argsort(categories, kind="stable").reshape(n_categories, -1)
    return table


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
        ValueError: If a slate has more columns than there are categories, or candidates.
    """

    def __init__(self, env: gymnasium.Env[dict[str, Any], IntArray], *, one_per_category: bool = True) -> None:
        RecordConstructorArgs.__init__(self, one_per_category=one_per_category)
        gymnasium.Wrapper.__init__(self, env)
        config = config_inside(env, "SlateIndex")
        self.one_per_category = one_per_category
        self._n_candidates, self._n_categories = config.n_candidates, config.n_categories
        pool, what = (config.n_categories, "categories") if one_per_category else (config.n_candidates, "candidates")
        if config.slate_size > pool:
            raise ValueError(f"a slate of {config.slate_size} needs as many {what}, but there are {pool}")
        self._sets: IntArray = np.array(list(itertools.combinations(range(pool), config.slate_size)), dtype=np.int64)
        self._share = config.n_candidates // config.n_categories if one_per_category else 1
        self._shape = (len(self._sets),) + (self._share,) * config.slate_size
        self.action_space = spaces.Discrete(math.prod(self._shape))
        self._categories: IntArray | None = None

    def slate(self, index: int) -> IntArray:
        """Return the slate ``(L,)`` that an index stands for at this turn.

        Raises:
            ValueError: If the index is no integer or out of range.
            ResetNeeded: If no conversation has begun.
        """
        n = math.prod(self._shape)
        if not isinstance(index, int | np.integer | np.ndarray) or isinstance(index, bool):
            raise ValueError(f"a slate's index must be an integer in 0..{n - 1}, got {index!r}")
        number = np.asarray(index)
        if number.shape != () or not np.issubdtype(number.dtype, np.integer) or not 0 <= number < n:
            raise ValueError(f"a slate's index must be an integer in 0..{n - 1}, got {index!r}")
        which, *ranks = np.unravel_index(int(number), self._shape)
        chosen: IntArray = self._sets[which]
        if self.one_per_category:
            chosen = self._table()[chosen, ranks]
        return chosen

    def index(self, slate: IntArray) -> int:
        """Return the index of a slate ``(L,)`` in any order: the inverse of ``slate``.

        Raises:
            ValueError: If it is no slate of the environment, or this wrapper cannot show it.
            ResetNeeded: If no conversation has begun.
        """
        members = np.sort(checked_actions(slate, self._sets.shape[1:], self._n_candidates))
        ranks: IntArray = np.zeros(len(members), dtype=np.int64)
        if self.one_per_category:
            table = self._table()
            places = np.array([np.argwhere(table == candidate)[0] for candidate in members])
            members, ranks = places[np.argsort(places[:, 0])].T
        found = np.flatnonzero((self._sets == members).all(axis=1))
        if not len(found):
            rule = "different categories" if self.one_per_category else "different candidates"
            raise ValueError(f"the slate {np.asarray(slate).tolist()} has no index: its columns must be of {rule}")
        return int(np.ravel_multi_index((int(found[0]), *ranks.tolist()), self._shape))

    def _table(self) -> IntArray:
        if self._categories is None:
            raise ResetNeeded("no conversation has begun, so there are no candidates yet; call reset() first")
        return candidates_by_category(self._categories, self._n_categories)

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
