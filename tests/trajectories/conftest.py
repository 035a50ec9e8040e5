import numpy as np
import pytest

from pasta_gym.trajectories.storage import Shard


def make_shard(first: int, n: int, *, seed: int = 0) -> Shard:
    """Random numbers in the right shapes; no two sizes are equal, so that a swapped axis shows."""
    horizon, n_candidates, slate_size, n_images, dim = 3, 8, 2, 5, 7
    rng = np.random.default_rng([seed, first])
    table = np.random.default_rng(99).normal(size=(60, dim)).astype(np.float32)  # row i embeds prompt 10 i
    rows = np.sort(rng.choice(60, 40, replace=False))
    prompts = rows * 10
    categories = np.tile(np.repeat(np.arange(4), 2), (n, horizon, 1))
    actions = np.stack([rng.choice(n_candidates, slate_size, replace=False) for _ in range(n * horizon)])
    return Shard(
        first_episode=first,
        environment_seeds=first + 100 + np.arange(n),
        initial_prompts=rng.choice(prompts, n),
        initial_images=rng.normal(size=(n, n_images, dim)).astype(np.float16),
        candidates=rng.choice(prompts, (n, horizon, n_candidates)),
        categories=categories,
        actions=actions.reshape(n, horizon, slate_size),
        behaviour_probabilities=rng.uniform(0.1, 0.9, (n, horizon)),
        slate_images=rng.normal(size=(n, horizon, slate_size, n_images, dim)).astype(np.float16),
        choices=rng.integers(0, slate_size, (n, horizon)),
        rewards=rng.uniform(0, 10, (n, horizon)),
        prompts=prompts,
        prompt_embeddings=table[rows],
    )


@pytest.fixture
def shards():
    return [make_shard(0, 4), make_shard(4, 2)]


@pytest.fixture
def stored(tmp_path, shards):
    from pasta_gym.trajectories import storage

    folder = tmp_path / "dataset"
    folder.mkdir()
    storage.save(folder, shards, texts=lambda ids: [f"prompt {i}" for i in ids], metadata={"reward": "dense"})
    return folder
