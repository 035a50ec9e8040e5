"""Trains the autoencoder of the mini SDXL on paintings."""

from __future__ import annotations

import pathlib
from typing import Any

import torch
from torch.nn import functional

from pasta_gym.mini.sdxl import build_vae
from pasta_gym.mini.training_data import painted_set, to_unit
from pasta_gym.mini.training_loop import LoopConfig, optimise

DEFAULTS = LoopConfig(steps=5000, learning_rate=2e-3, clip=1.0, checkpoint_every=500)
BATCH = 16
N_PAINTINGS = 40_000
KL_WEIGHT = 1e-5


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train(run: pathlib.Path, config: LoopConfig = DEFAULTS, start: torch.nn.Module | None = None) -> torch.nn.Module:
    """Fit the autoencoder: absolute error of pixels and of their differences, and a slight pull to N(0, 1).

    Args:
        run: Folder of checkpoints and the log.
        config: Length, rate, seed.
        start: Weights to go on from; a fresh model if None.

    Returns:
        The trained ``AutoencoderKL``.
    """
    torch.manual_seed(config.seed)
    vae: Any = start if start is not None else build_vae()
    vae.to(memory_format=torch.channels_last)
    data = painted_set(N_PAINTINGS, seed=1)

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(data), (BATCH,), generator=generator).numpy()
        x = torch.from_numpy(to_unit(data.images[rows])).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latent = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(latent).sample
        y = y.float()
        pixel = functional.l1_loss(y, x) + 0.5 * functional.mse_loss(y, x)
        edge = sum(functional.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True))
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        return {"loss": pixel + 0.5 * edge + KL_WEIGHT * kl, "pixel": pixel.detach(), "kl": kl.detach()}

    optimise("autoencoder", vae, step, config, run)
    result: torch.nn.Module = vae
    return result
