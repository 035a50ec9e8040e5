"""Agents that choose slates of prompts: what an agent is, and the ones that come with PASTA Gym.

An agent is any object with the methods of :class:`Agent`; a learner has those of :class:`LearningAgent`. Nothing
needs to be registered or inherited from: the benchmark builds an agent from the ``_target_`` in its configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import OBSERVATION_KEYS, IntArray, UInt64Array

Observations = Mapping[str, NDArray[Any]]
Log = Callable[[dict[str, float]], None]


@runtime_checkable
class Agent(Protocol):
    """Chooses slates from observations alone and keeps no memory between calls.

    Attributes:
        name: Short name for tables and files.
        privileged: Whether the agent uses insides of the environment that a real system would not have.
    """

    name: str
    privileged: bool

    def act(self, observations: Observations, seeds: UInt64Array) -> IntArray:
        """Choose a slate for each of B conversations.

        Args:
            observations: The environment's observation, every array with a leading batch axis B.
            seeds: ``(B,)`` random key of each decision, for agents that draw at random.

        Returns:
            ``(B, slate_size)`` int64 indices into the candidates. Row b depends on row b of the input only.
        """
        ...


@runtime_checkable
class LearningAgent(Agent, Protocol):
    """An agent that is trained on logged conversations and can be stored."""

    def train(self, dataset: TrajectoryDataset, *, seed: int, log: Log) -> None:
        """Learn from scratch.

        Args:
            dataset: Logged conversations.
            seed: Fixes initial weights and batches; the same seed and data give the same agent on one machine.
            log: Called now and then with named metrics.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the agent into ``folder``."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an agent that :meth:`save` wrote."""
        ...


def check_observations(observations: Observations) -> tuple[int, int]:
    """Check that ``observations`` is a batch of the environment's observations in which a slate is due.

    Args:
        observations: Arrays by name, each with a leading batch axis.

    Returns:
        Batch size and slate size.

    Raises:
        ValueError: If a key is missing, there is no batch axis, batch sizes differ, or a conversation is over.
    """
    missing = [key for key in OBSERVATION_KEYS if key not in observations]
    if missing:
        raise ValueError(f"observations lack {missing}; pass the environment's observation dict with all of its keys")
    turns = np.asarray(observations["turn"])
    if turns.ndim != 1:
        raise ValueError(
            f"observations must be batched, but turn has shape {turns.shape}; "
            "for one environment add a leading axis of length 1 to every array"
        )
    sizes = {key: len(observations[key]) for key in OBSERVATION_KEYS}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"all observation arrays must have the same batch size, got {sizes}")
    _, horizon, slate_size, _ = observations["slate_prompts"].shape
    if ((turns < 0) | (turns >= horizon)).any():
        raise ValueError(
            f"turn must lie in 0..{horizon - 1} when a slate is due, got {turns.min()}..{turns.max()}; "
            "reset conversations that are over"
        )
    return len(turns), slate_size
