"""One vector for an observation, for learners that take nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorObservationWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from pasta_gym.types import OBSERVATION_KEYS, FloatArray

Observation = dict[str, Any]
ORDER = (*OBSERVATION_KEYS, "belief", "user_type")


class FlatLayout:
    """Where each key of an observation lies in the vector.

    In the order of ``ORDER``, each key's numbers as they are, row by row, as the exporters of logged data write
    them; then ``belief`` and a one-hot ``user_type``, where wrappers have added them.

    Args:
        space: The observation space of one conversation.

    Raises:
        ValueError: If the space is not an environment's, or holds a key that has no place.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Dict) or not set(space.spaces) <= set(ORDER):
            raise ValueError(f"flat observations are made of the keys {ORDER}, got {space}")
        self.slices: dict[str, slice] = {}
        lows, highs, start = [], [], 0
        for name in ORDER:
            if name not in space.spaces:
                continue
            low, high = _bounds(name, space[name])
            self.slices[name] = slice(start, start + len(low))
            start += len(low)
            lows.append(low)
            highs.append(high)
        self.space = spaces.Box(np.concatenate(lows), np.concatenate(highs), dtype=np.float32)

    def flatten(self, observations: Observation) -> FloatArray:
        """Write batched observations as vectors ``(B, n)`` float32."""
        if "user_type" in self.slices:
            place = self.slices["user_type"]
            types = np.asarray(observations["user_type"])[:, None] == np.arange(place.stop - place.start)
            observations = {**observations, "user_type": types}
        return flat_rows(observations, self.slices)


def flat_rows(observations: Observation, keys: Iterable[str]) -> NDArray[np.float32]:
    """Write batched observations ``(B, ...)`` as rows ``(B, n)``, key after key, each one's numbers as they are."""
    parts = [np.asarray(observations[key], dtype=np.float32) for key in keys]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _bounds(name: str, space: spaces.Space[Any]) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest value of each number that a key is written as, ``(n,)`` each."""
    if isinstance(space, spaces.Discrete):
        n = int(space.n)
        low, high = (np.zeros(n), np.ones(n)) if name == "user_type" else (np.zeros(1), np.array([n - 1]))
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = np.zeros(space.nvec.shape), space.nvec - 1
    else:
        assert isinstance(space, spaces.Box)
        low, high = space.low, space.high
    return low.reshape(-1).astype(np.float32), high.reshape(-1).astype(np.float32)


class FlatObservation(
    gymnasium.ObservationWrapper[FloatArray, Any, Observation],
    RecordConstructorArgs,
):
    """Gives one ``Box`` vector; ``layout.slices`` says where each key lies.

    Args:
        env: A single environment, wrapped for beliefs or the user type or not.
    """

    def __init__(self, env: gymnasium.Env[Observation, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.layout = FlatLayout(env.observation_space)
        self.observation_space = self.layout.space

    def observation(self, observation: Observation) -> FloatArray:
        """Write the observation as a vector."""
        flat: FloatArray = self.layout.flatten({name: np.asarray(v)[None] for name, v in observation.items()})[0]
        return flat


class VectorFlatObservation(VectorObservationWrapper):
    """Gives one matrix ``(num_envs, n)``; see :class:`FlatObservation`.

    Args:
        env: A PASTA vector environment, wrapped or not.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.layout = FlatLayout(env.single_observation_space)
        self.single_observation_space = self.layout.space
        self.observation_space = batch_space(self.layout.space, env.num_envs)

    def observations(self, observations: Observation) -> FloatArray:
        """Write the observations as vectors."""
        return self.layout.flatten(observations)
