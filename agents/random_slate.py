"""The random agent: a uniform choice of categories, and of one candidate in each (appendix C.1)."""

from __future__ import annotations

import numpy as np

from agents import Observations, check_observations
from pasta_gym.trajectories.random_policy import random_slates
from pasta_gym.types import IntArray, UInt64Array


class RandomAgent:
    """Shows a random slate with at most one prompt a category: the policy that logs the offline data.

    It is the zero of the normalised score.
    """

    privileged = False

    def __init__(self, name: str = "random") -> None:
        self.name = name

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Draw a slate for each conversation.

        Args:
            observations: The environment's observations with a leading batch axis B.
            seeds: ``(B,)`` key of each decision; the same key and categories give the same slate.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates.

        Raises:
            ValueError: If the observations are malformed or have fewer categories than the slate has places.
        """
        _, slate_size = check_observations(observations)
        slates, _ = random_slates(np.asarray(observations["categories"]), seeds, slate_size)
        return slates
