"""What each component of people thinks of a prompt before its images exist: the mixture's utilities, distilled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.history import LoggedHistories, StateEncoder
from agents.networks import linear
from pasta_gym.settings import check_counts, check_not_negative, check_positive


@dataclass(frozen=True)
class TasteConfig:
    """How :class:`PromptTaste` is fitted.

    Attributes:
        width: Hidden units.
        steps: Gradient steps.
        batch_size: Turns in a step; each brings all the columns of its slate.
        learning_rate: Adam's first step size, which falls to 0 along a cosine.
        weight_decay: Decoupled.
    """

    width: int = 64
    steps: int = 400
    batch_size: int = 256
    learning_rate: float = 0.01
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: Naming the setting and its range.
        """
        check_counts(self, "width", "steps", "batch_size")
        check_positive(self, "learning_rate")
        check_not_negative(self, "weight_decay")


class PromptTaste(nn.Module):
    """Expected utility of a prompt's column for each of K components, given the initial prompt."""

    def __init__(self, embedding_dim: int, n_components: int, *, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.from_prompt = linear(embedding_dim, width, generator)
        self.from_initial = linear(embedding_dim, width, generator, bias=False)
        self.from_product = linear(embedding_dim, width, generator, bias=False)
        self.out = linear(width, n_components, generator)

    def forward(self, initial_prompts: Tensor, prompts: Tensor) -> Tensor:
        """Value prompts.

        Args:
            initial_prompts: ``(B, d)`` standardised.
            prompts: ``(B, n, d)`` standardised.

        Returns:
            ``(B, n, K)`` in units of utility.
        """
        initial = initial_prompts[:, None]
        hidden = self.from_prompt(prompts) + self.from_initial(initial) + self.from_product(prompts * initial)
        utilities: Tensor = self.out(nn.functional.silu(hidden))
        return utilities


def fit_prompt_taste(
    taste: PromptTaste,
    encoder: StateEncoder,
    logged: LoggedHistories,
    utilities: Tensor,
    config: TasteConfig,
    generator: torch.Generator,
) -> float:
    """Regress the utilities of the columns shown on their prompts, in place.

    Every column shown is an example for every component, chosen or not, so this learns from ``L K`` numbers a turn
    where the logged choice alone is one.

    Args:
        taste: An untrained network.
        encoder: Standardises prompts.
        logged: N logged conversations.
        utilities: ``(N, H, L, K)`` of the columns shown, from the fitted mixture.
        config: Settings.
        generator: Draws the batches.

    Returns:
        Share of the variance between the columns of a slate that the prompts explain, in [0, 1] or below 0 if they
        explain nothing, over 4,096 random turns. The rest is luck of the images and error.
    """
    optimiser = torch.optim.AdamW(
        taste.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    with torch.no_grad():
        taste.out.bias.add_(utilities.mean(dim=(0, 1, 2)))

    def errors(batch_size: int) -> tuple[Tensor, Tensor]:
        episodes, turns = logged.sample(batch_size, generator)
        initial = encoder.prompts(logged.prompt_embeddings[logged.initial_prompts[episodes]])
        expected = utilities[episodes, turns]
        return taste(initial, encoder.prompts(logged.slate_prompts(episodes, turns))) - expected, expected

    for _ in range(config.steps):
        error, _ = errors(config.batch_size)
        optimiser.zero_grad()
        error.square().mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        error, expected = errors(4096)
        left = (error - error.mean(1, keepdim=True)).square().sum()
        total = (expected - expected.mean(1, keepdim=True)).square().sum()
    return float(1 - left / total.clamp(min=1e-12))
