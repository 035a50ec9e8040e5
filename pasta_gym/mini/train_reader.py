"""Trains the two readers on paintings, roughened so that they also read soft or noisy pictures."""

from __future__ import annotations

import pathlib

import torch
from torch.nn import functional

from pasta_gym.mini.reader import ROLES, Reader
from pasta_gym.mini.training_data import painted_set, to_unit
from pasta_gym.mini.training_loop import LoopConfig, optimise

BATCH = 64
N_PAINTINGS = 40_000
DEFAULTS = {
    "eye": LoopConfig(steps=2500, learning_rate=2e-3, ema=0.99, seed=101),
    "judge": LoopConfig(steps=2500, learning_rate=2e-3, ema=0.99, seed=202),
}


def roughen(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, coarsen, shade and speckle images ``(n, 3, h, w)`` at random, a third of them not at all."""
    n = len(x)
    draw = torch.rand(n, generator=generator)
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    coarse = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    pick = draw[:, None, None, None]
    x = torch.where(pick < 0.2, blurred, torch.where(pick < 0.35, coarse, x))
    gain = 1 + 0.1 * torch.randn(n, 3, 1, 1, generator=generator)
    shift = 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    noise = 0.15 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    rough = (x * gain + shift + noise).clamp(-1, 1)
    return torch.where(draw[:, None, None, None] > 0.67, x, rough)


def train(role: str, run: pathlib.Path, config: LoopConfig | None = None, start: Reader | None = None) -> Reader:
    """Fit one reader by cross-entropy over all slots.

    Args:
        role: ``"eye"`` or ``"judge"``; each has its own seed, paintings and architecture.
        run: Folder of checkpoints and the log.
        config: Length, rate, seed.
        start: Weights to go on from; a fresh model if None.

    Returns:
        The trained reader, in evaluation mode.
    """
    config = config or DEFAULTS[role]
    torch.manual_seed(config.seed)
    reader = start or Reader(role)
    reader.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = painted_set(N_PAINTINGS, seed=1 + ROLES.index(role))

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(data), (BATCH,), generator=generator).numpy()
        x = roughen(torch.from_numpy(to_unit(data.images[rows])), generator).to(memory_format=torch.channels_last)
        targets = torch.from_numpy(data.shown[rows] - 1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = reader(x)
        loss = sum(functional.cross_entropy(part.float(), targets[:, s]) for s, part in enumerate(logits))
        return {"loss": loss}  # type: ignore[dict-item]

    optimise(f"reader ({role})", reader, step, config, run)
    reader.eval()
    return reader
