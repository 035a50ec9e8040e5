"""The untrained generator: the paper's LMM baseline, a candidate generator without a selector behind it."""

from __future__ import annotations

import numpy as np

from agents import Observations, check_observations
from pasta_gym.mini.rater_sessions import baseline_slates
from pasta_gym.types import IntArray, UInt64Array


class UntrainedGenerator:
    """Shows the first candidate of each of L categories drawn at random, as in the raters' sessions (appendix B).

    An off-the-shelf language model that is asked for a slate writes one prompt in each of some categories and chooses
    nothing: the first of a category is what it thought of first. It reads the categories alone.
    """

    privileged = False

    def __init__(self, name: str = "untrained_generator") -> None:
        self.name = name

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each conversation.

        Args:
            observations: The environment's observations with a leading batch axis B.
            seeds: ``(B,)`` key of each decision; it draws the categories.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates.

        Raises:
            ValueError: If the observations are malformed or have fewer categories than the slate has places.
        """
        _, slate_size = check_observations(observations)
        categories = np.asarray(observations["categories"], dtype=np.int64)
        places = np.broadcast_to(np.arange(categories.shape[1]), categories.shape)
        return baseline_slates(places, categories, slate_size, np.asarray(seeds, dtype=np.uint64))
