"""A tiny world with planted tastes, in which agents can be trained and played in a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pasta_gym import seeding
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.trajectories.random_policy import random_slates

SHARES = (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class ToyWorld:
    """Prompts are directions; an image is its prompt plus noise; each type likes one direction."""

    embedding_dim: int = 6
    n_prompts: int = 60
    n_categories: int = 4
    per_category: int = 3
    slate_size: int = 3
    n_images: int = 2
    horizon: int = 3
    sharpness: float = 6.0
    seed: int = 5

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        prompts = rng.normal(size=(self.n_prompts, self.embedding_dim)).astype(np.float32)
        # Lengths differ from 1 and dimensions from each other, as CLIP's do before normalisation.
        object.__setattr__(self, "prompts", (prompts * np.linspace(3, 1, self.embedding_dim) + 0.2).astype(np.float32))
        unit = np.eye(self.embedding_dim)
        object.__setattr__(self, "tastes", np.stack([unit[0], -unit[0], unit[1]]))

    @property
    def n_candidates(self) -> int:
        return self.n_categories * self.per_category

    def images(self, prompts: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Prompts ``(B, L)`` and keys ``(B, L)`` to embeddings ``(B, L, M, d)``."""
        noise = seeding.normals(keys, self.n_images * self.embedding_dim)
        noise = noise.reshape(*prompts.shape, self.n_images, self.embedding_dim)
        return (self.prompts[prompts][:, :, None] + 0.3 * noise).astype(np.float32)

    def utilities(self, types: np.ndarray, images: np.ndarray) -> np.ndarray:
        unit = images / np.linalg.norm(images, axis=-1, keepdims=True)
        match = np.einsum("blmd,bd->blm", unit, self.tastes[types]).mean(-1)
        return 1 / (1 + np.exp(-4 * match))

    def play(self, act, n_episodes: int, *, seed: int, reward: str = "dense") -> TrajectoryDataset:
        """Play ``n_episodes`` with ``act(observations, seeds)``; the same seed meets the same luck."""
        world, horizon = self, self.horizon
        keys = seeding.mix(seed, np.arange(n_episodes))
        types = np.searchsorted(np.cumsum(SHARES), seeding.uniforms(seeding.mix(keys, 1))).clip(max=len(SHARES) - 1)
        initial = seeding.integers(seeding.mix(keys, 2), self.n_prompts)
        categories = np.tile(np.repeat(np.arange(self.n_categories), self.per_category), (n_episodes, horizon, 1))
        columns = np.arange(self.n_candidates)
        candidates = seeding.integers(
            seeding.mix(keys[:, None, None], 3, np.arange(horizon)[:, None], columns), self.n_prompts
        )
        shape = (n_episodes, horizon, self.slate_size)
        data = TrajectoryDataset(
            initial_prompts=initial,
            initial_images=world.images(initial[:, None], seeding.mix(keys, 4)[:, None])[:, 0].astype(np.float16),
            candidates=candidates,
            categories=categories,
            actions=np.zeros(shape, np.int64),
            behaviour_probabilities=np.ones((n_episodes, horizon)),
            slate_images=np.zeros((*shape, self.n_images, self.embedding_dim), np.float16),
            choices=np.zeros((n_episodes, horizon), np.int64),
            rewards=np.zeros((n_episodes, horizon)),
            prompt_embeddings=self.prompts,
            metadata={"types": types},
        )
        rows = np.arange(n_episodes)
        for turn in range(horizon):
            observations = data.observations(rows, np.full(n_episodes, turn))
            slates = act(observations, seeding.mix(keys, 5, turn))
            shown = np.take_along_axis(candidates[:, turn], slates, axis=1)
            images = world.images(shown, seeding.mix(keys[:, None], 6, turn, shown))
            images = images.astype(np.float16).astype(np.float32)
            utilities = world.utilities(types, images)
            luck = seeding.gumbels(seeding.mix(keys[:, None], 7, turn, shown))
            choices = (self.sharpness * utilities + luck).argmax(1)
            data.actions[:, turn] = slates
            data.slate_images[:, turn] = images
            data.choices[:, turn] = choices
            if reward == "dense" or turn == horizon - 1:
                data.rewards[:, turn] = 10 * utilities[rows, choices]
        return data

    def collect(self, n_episodes: int, *, seed: int = 0, reward: str = "dense") -> TrajectoryDataset:
        """Log the random policy."""

        def act(observations, seeds):
            return random_slates(observations["categories"], seeds, self.slate_size)[0]

        return self.play(act, n_episodes, seed=seed, reward=reward)
