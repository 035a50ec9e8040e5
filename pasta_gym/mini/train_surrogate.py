"""Fits the surrogate to embeddings of images that the mini SDXL painted."""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from numpy.typing import NDArray

from pasta_gym.mini.rater_sessions import load_pool
from pasta_gym.mini.surrogate import SurrogateNetwork, fitting_losses
from pasta_gym.mini.training_loop import LoopConfig, optimise

BATCH = 128
MEAN_WEIGHT = 10.0  # brings both losses to the same size
DEFAULTS = LoopConfig(steps=8000, learning_rate=1e-3, ema=0.998, seed=606, weight_decay=1e-3, checkpoint_every=1000)


def painted_prompts(pool_folder: pathlib.Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Collect what the training raters' sessions painted: no test prompt and no held-out triple among it.

    Args:
        pool_folder: What ``python -m pasta_gym.mini.rater_data paint`` wrote.

    Returns:
        Prompt ids ``(n,)`` and image embeddings ``(n, m, d)``, one row for each column ever shown.
    """
    pool, config, _, _ = load_pool(pool_folder)
    rows = config.rater_splits()[pool.raters] == 0
    prompts = np.concatenate([pool.initial_prompts[rows, None], pool.slates[rows].reshape(rows.sum(), -1)], axis=1)
    images = pool.image_embeddings[rows].astype(np.float32)
    images = images.reshape(prompts.size, config.images_per_prompt, images.shape[-1])
    return prompts.reshape(-1), images


def train(
    run: pathlib.Path,
    prompts: NDArray[np.float32],
    images: NDArray[np.float32],
    config: LoopConfig = DEFAULTS,
) -> SurrogateNetwork:
    """Fit the mean by squared error and the spread by maximum likelihood.

    Args:
        run: Folder of checkpoints and the log.
        prompts: ``(n, d)`` embeddings of prompts.
        images: ``(n, m, d)`` embeddings of ``m`` images of each.
        config: Length, rate, seed.

    Returns:
        The fitted network.

    Raises:
        ValueError: If there are fewer than two images of each, of which no spread can be learned.
    """
    if images.shape[1] < 2:
        raise ValueError(f"the spread needs 2 images of a prompt or more, got {images.shape[1]}; paint another pool")
    torch.manual_seed(config.seed)
    network = SurrogateNetwork(prompts.shape[-1])
    x, y = torch.from_numpy(prompts), torch.from_numpy(images)
    network.prompt_mean.copy_(x.mean(dim=0))
    network.prompt_scale.copy_(x.std(dim=0) + 1e-6)
    network.image_mean.copy_(y.mean(dim=(0, 1)))
    network.image_scale.copy_(y.std(dim=(0, 1)) + 1e-6)
    y = (y - network.image_mean) / network.image_scale
    network.train()

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        # The network's dropout is the only draw from torch's own generator: keep it tied to this step.
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        error, spread = fitting_losses(y[rows], *network(x[rows]))
        return {"loss": MEAN_WEIGHT * error + spread, "error": error.detach(), "spread": spread.detach()}

    optimise("surrogate", network, step, config, run, data=(x, y))
    return network.eval()
