"""The paper's three regimes of offline data: human, simulated, and both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.files import digest
from pasta_gym.trajectories.collection import CollectionConfig, Progress, collect
from pasta_gym.trajectories.dataset import TrajectoryDataset
from pasta_gym.trajectories.environment import EnvironmentConfig
from pasta_gym.trajectories.rater_sessions import RaterSessionsConfig
from pasta_gym.trajectories.storage import load

_BY_CONVERSATION = (
    *("initial_images", "categories", "actions", "behaviour_probabilities"),
    *("slate_images", "choices", "rewards"),
)


@dataclass(frozen=True)
class MixedConfig:
    """Human and simulated conversations together. Each conversation counts once, or the human ones several times.

    Attributes:
        environment: What both share; each keeps the pictures of its own.
        human: The raters' sessions.
        simulated: Conversations with the learned users.
        human_repeats: How often each session of a rater occurs. With 1 the defaults are 7,000 sessions among 37,000
            conversations, a weight of 19%.
    """

    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    human: RaterSessionsConfig = field(default_factory=RaterSessionsConfig)
    simulated: CollectionConfig = field(default_factory=CollectionConfig)
    human_repeats: int = 1

    def __post_init__(self) -> None:
        if self.human_repeats < 1:
            raise ValueError(f"human_repeats must be 1 or more, got {self.human_repeats}; use data=simulated for none")


DataConfig = CollectionConfig | RaterSessionsConfig | MixedConfig


def dataset_of(config: DataConfig, *, progress: Progress | None = None) -> TrajectoryDataset:
    """Read a dataset with dense rewards; what the cache lacks is collected first.

    Args:
        config: Of which regime.
        progress: Called with the conversations done and in all while something is collected.
    """
    if isinstance(config, MixedConfig):
        shared = config.environment
        human, simulated = (
            dataset_of(replace(part, environment=replace(shared, images=part.environment.images)), progress=progress)
            for part in (config.human, config.simulated)
        )
        return join([*[human] * config.human_repeats, simulated])
    if isinstance(config, RaterSessionsConfig):
        return load(config.collect(progress=progress))
    return load(collect(config, progress=progress))


def label_hashes(config: DataConfig) -> dict[str, str]:
    """Hash the files of labels that a dataset is made from: none for simulated conversations.

    Raises:
        ValueError: If one is missing.
    """
    human = config.human if isinstance(config, MixedConfig) else config
    return human.label_hashes() if isinstance(human, RaterSessionsConfig) else {}


def join(parts: Sequence[TrajectoryDataset]) -> TrajectoryDataset:
    """Put datasets one behind the other. Learners draw conversations at random, so their order does not matter.

    Args:
        parts: With equal sizes but for the number of conversations, and equal rewards.

    Returns:
        All conversations; its id names the parts and their order.

    Raises:
        ValueError: If there are none, or two do not fit each other.
    """
    shapes = {(*p.candidates.shape[1:], *p.slate_images.shape[2:]) for p in parts}
    rewards = {p.metadata.get("reward", "dense") for p in parts}
    if len(shapes) != 1 or len(rewards) != 1:
        raise ValueError(f"datasets to join must have equal sizes and rewards, got {sorted(shapes)} and {rewards}")
    offsets = np.cumsum([0, *(len(p.prompt_embeddings) for p in parts[:-1])])
    ids = [str(p.metadata.get("dataset_id")) for p in parts]
    texts = [p.prompt_texts for p in parts if p.prompt_texts is not None]
    metadata: dict[str, Any] = {
        "dataset_id": digest(ids),
        "parts": [{"dataset_id": name, "n_episodes": len(p)} for name, p in zip(ids, parts, strict=True)],
        "n_episodes": sum(len(p) for p in parts),
        "reward": rewards.pop(),
    }
    shifted: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(p, name) + first for p, first in zip(parts, offsets, strict=True)])
        for name in ("initial_prompts", "candidates")
    }
    return TrajectoryDataset(
        **shifted,
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _BY_CONVERSATION},
        prompt_embeddings=np.concatenate([p.prompt_embeddings for p in parts]),
        metadata=metadata,
        prompt_texts=np.concatenate(texts) if len(texts) == len(parts) else None,
    )
