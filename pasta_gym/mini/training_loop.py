"""The one optimisation loop behind every trained part: resumable, logged, with a progress bar."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from pasta_gym.files import whole_file

logger = logging.getLogger(__name__)

StepFunction = Callable[[torch.Generator], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn.

    Attributes:
        steps: Gradient steps in all.
        learning_rate: Peak rate of AdamW, reached after ``warmup`` steps and decayed as a half cosine to 2%.
        warmup: Steps of linear warm-up.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        ema: Decay of the moving average of the weights that is kept at the end; 0 keeps the last weights.
        seed: Seed of batches and noise; batch ``i`` depends on the seed and ``i`` alone.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between lines of the log.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50


def rate_factor(step: int, config: LoopConfig) -> float:
    """Learning rate at ``step`` as a share of the peak: linear warm-up, half cosine down to 2%."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return 0.02 + 0.98 * 0.5 * (1.0 + float(torch.cos(torch.tensor(progress * torch.pi))))


def weights_key(*modules: nn.Module) -> str:
    """Hash the weights and buffers of some modules: 16 hex digits."""
    return _digest(tensor for module in modules for tensor in module.state_dict().values())


def _digest(tensors: Iterable[torch.Tensor], start: str = "") -> str:
    found = hashlib.sha256(start.encode())
    for tensor in tensors:
        plain = tensor.detach().contiguous()
        found.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def optimise(
    name: str,
    module: nn.Module,
    step_function: StepFunction,
    config: LoopConfig,
    run: pathlib.Path,
    *,
    data: Iterable[torch.Tensor] = (),
) -> None:
    """Train ``module`` in place and leave it holding the averaged weights.

    Args:
        name: What the progress bar says.
        module: The parameters to train.
        step_function: Computes the losses of one batch, drawn with the generator given; ``"loss"`` is minimised.
        config: Length, rate and seed.
        run: Folder of ``checkpoint.pt`` and ``log.jsonl``. A checkpoint of the same configuration, first weights and
            data is gone on from; any other is replaced.
        data: What the batches are drawn from, as far as another run might have other data.
    """
    run.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    average = [p.detach().clone() for p in parameters]
    first = 0
    checkpoint = run / "checkpoint.pt"
    key = _digest([*module.state_dict().values(), *data], json.dumps(dataclasses.asdict(config)))
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    if state is not None and state.get("key") != key:
        logger.warning("%s: %s is of another configuration, start or data, and is replaced", name, checkpoint)
        state = None
    if state is not None:
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        average, first = state["average"], state["step"]
    began = time.monotonic()
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, desc=name, mininterval=5)
    for step in bar:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_factor(step, config)
        losses = step_function(generator)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        decay = min(config.ema, (step + 1) / (step + 10)) if config.ema else 0.0
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1.0 - decay)
        if (step + 1) % config.log_every == 0:
            figures = {k: round(float(v.detach()), 5) for k, v in losses.items()}
            bar.set_postfix(figures)
            with (run / "log.jsonl").open("a") as log:
                log.write(
                    json.dumps({"step": step + 1, "seconds": round(time.monotonic() - began, 1), **figures}) + "\n"
                )
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            state = {
                "module": module.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "step": step + 1,
                "key": key,
            }
            with whole_file(checkpoint) as partial:
                torch.save(state, partial)
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
