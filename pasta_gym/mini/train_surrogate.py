"""Fits the surrogate to embeddings of images that the mini SDXL painted."""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from numpy.typing import NDArray

from pasta_gym.mini.surrogate import SurrogateNetwork, negative_log_likelihood
from pasta_gym.mini.training_loop import LoopConfig, optimise

BATCH = 128
DEFAULTS = LoopConfig(steps=6000, learning_rate=1e-3, ema=0.998, seed=606, weight_decay=1e-3, checkpoint_every=1000)


def train(
    run: pathlib.Path,
    prompts: NDArray[np.float32],
    images: NDArray[np.float32],
    config: LoopConfig = DEFAULTS,
) -> SurrogateNetwork:
    """Fit by maximum likelihood.

    Args:
        run: Folder of checkpoints and the log.
        prompts: ``(n, d)`` embeddings of prompts.
        images: ``(n, m, d)`` embeddings of ``m`` images of each.
        config: Length, rate, seed.

    Returns:
        The fitted network.
    """
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
        return {"loss": negative_log_likelihood(y[rows], *network(x[rows]))}

    optimise("surrogate", network, step, config, run)
    return network.eval()
