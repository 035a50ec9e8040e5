"""Hand logged conversations to other libraries: d3rlpy wants flat observations and continuous actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.types import OBSERVATION_KEYS
from pasta_gym.wrappers.flat import flat_rows
from pasta_gym.wrappers.scores import encode_slate


def flatten_observations(observations: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Lay a batch of observations out in rows, key after key in the order of ``OBSERVATION_KEYS``.

    Args:
        observations: The environment's keys, first axis ``B``.

    Returns:
        ``(B, D)`` float32.
    """
    return flat_rows(observations, OBSERVATION_KEYS)


def to_d3rlpy(dataset: TrajectoryDataset, *, n_episodes: int | None = None) -> Any:
    """Make a ``d3rlpy.dataset.MDPDataset`` of flat observations and slates written as candidate scores.

    A policy learned from it acts in the environment through the flat-observation and candidate-score wrappers.
    Flat observations hold the whole history at every turn: about 33 kB a turn at the default sizes.

    Args:
        dataset: Logged conversations.
        n_episodes: Take the first ones alone; all by default.

    Raises:
        ValueError: If ``n_episodes`` is not in 1..N, or a slate cannot be written as scores.
    """
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import MDPDataset

    n = len(dataset) if n_episodes is None else n_episodes
    if not 1 <= n <= len(dataset):
        raise ValueError(f"n_episodes must be in 1..{len(dataset)}, got {n}")
    horizon = dataset.horizon
    episodes, turns = np.repeat(np.arange(n), horizon), np.tile(np.arange(horizon), n)
    rows = [
        flatten_observations(dataset.observations(episodes[part], turns[part]))
        for part in np.array_split(np.arange(n * horizon), max(1, n * horizon // 1024))
    ]
    return MDPDataset(
        observations=np.concatenate(rows),
        actions=encode_slate(dataset.actions[:n], dataset.categories[:n]).reshape(len(turns), -1),
        rewards=dataset.rewards[:n].reshape(-1).astype(np.float32),
        terminals=(turns == horizon - 1).astype(np.float32),
        action_space=ActionSpace.CONTINUOUS,
    )
