"""Offline data: conversations logged by a random policy, on disk and as arrays."""

from pasta_gym.trajectories.collection import CollectionConfig, collect
from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.trajectories.environment import EnvironmentConfig
from pasta_gym.trajectories.storage import load, read_metadata, read_prompt_texts

__all__ = [
    "CollectionConfig",
    "EnvironmentConfig",
    "TrajectoryDataset",
    "collect",
    "load",
    "read_metadata",
    "read_prompt_texts",
]
