"""How a user of a type chooses one column of a slate (equation 4), and how the choice model is fitted.

The temperature multiplies the utilities. It is one learned positive number, or a learned positive function of the
slate's utilities; either way raising one column's utility never lowers its own probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pasta_gym.settings import check_counts, check_positive
from pasta_gym.user_model.temperature import CONSTANT, Slopes, bounded_slopes, free_slopes, slate_temperature
from pasta_gym.user_model.utility import aggregate


def choice_logits(
    utilities: torch.Tensor, temperature: torch.Tensor | float, slopes: torch.Tensor | Slopes = CONSTANT
) -> torch.Tensor:
    """Logits of choosing each column: tau times the utilities.

    Args:
        utilities: ``(..., L)`` of the columns of one slate, in [0, 1].
        temperature: tau, or its value at utilities of zero where slopes are given.
        slopes: How log tau grows with the slate's sorted utilities.

    Returns:
        ``(..., L)``.
    """
    if isinstance(slopes, Slopes) and slopes == CONSTANT:
        return temperature * utilities
    return slate_temperature(utilities, temperature, slopes)[..., None] * utilities


def log_choice_probabilities(
    utilities: torch.Tensor, temperature: torch.Tensor | float, slopes: torch.Tensor | Slopes = CONSTANT
) -> torch.Tensor:
    """Log-probability of choosing each column ``(..., L)``: log-softmax of the logits (equation 4)."""
    return torch.log_softmax(choice_logits(utilities, temperature, slopes), dim=-1)


@dataclass(frozen=True)
class ChoiceFit:
    """A fitted choice model.

    Attributes:
        temperature: tau, at utilities of zero where the slopes are not.
        sharpness: beta of the softmax aggregator; 0 for the others.
        log_likelihood: Mean log-likelihood of a choice under the posterior over types.
        slopes: How log tau grows with the slate's sorted utilities.
    """

    temperature: float
    sharpness: float
    log_likelihood: float
    slopes: Slopes = CONSTANT


@dataclass(frozen=True)
class ChoiceConfig:
    """How the numbers are fitted.

    Attributes:
        steps: Steps of L-BFGS.
        temperature: First tau.
        sharpness: First beta.
        max_sharpness: Largest beta; beyond it softmax is the maximum for all purposes.
        slate_dependent: Whether tau may depend on the slate; else it is one number.
    """

    steps: int = 60
    temperature: float = 5.0
    sharpness: float = 10.0
    max_sharpness: float = 200.0
    slate_dependent: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "steps")
        check_positive(self, "temperature", "sharpness", "max_sharpness")
        if self.sharpness > self.max_sharpness:
            raise ValueError(
                f"sharpness must be at most max_sharpness ({self.max_sharpness}), got {self.sharpness}, and stays there"
            )


def fit_choice_model(
    scores: torch.Tensor,
    choices: torch.Tensor,
    posterior: torch.Tensor,
    aggregator: str,
    config: ChoiceConfig | None = None,
) -> ChoiceFit:
    """Fit temperature and sharpness on sessions by the expected log-likelihood of the choices (L^cm of D.3).

    Args:
        scores: ``(n, K, L, M)`` scores of the slates' images by type.
        choices: ``(n,)`` chosen columns.
        posterior: ``(n, K)`` posterior over the chooser's type, held fixed.
        aggregator: Which aggregate.
        config: How to fit.

    Returns:
        The fit.
    """
    config = config or ChoiceConfig()
    log_tau = torch.tensor(math.log(config.temperature), requires_grad=True)
    log_beta = torch.tensor(math.log(config.sharpness), requires_grad=True)
    ceiling = math.log(config.max_sharpness)
    free = free_slopes(CONSTANT).requires_grad_()
    parameters = [log_tau, log_beta] if aggregator == "softmax" else [log_tau]
    parameters += [free] if config.slate_dependent else []
    optimiser = torch.optim.LBFGS(parameters, lr=0.5, max_iter=config.steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        utilities = aggregate(scores, aggregator, log_beta.clamp(max=ceiling).exp())
        slopes = bounded_slopes(free) if config.slate_dependent else CONSTANT
        log_p = log_choice_probabilities(utilities, log_tau.exp(), slopes)
        chosen = log_p.gather(-1, choices[:, None, None].expand(-1, scores.shape[1], 1))[..., 0]
        return -(posterior * chosen).sum(dim=-1).mean()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value

    optimiser.step(closure)
    with torch.no_grad():
        final = -float(loss())
        sharpness = float(log_beta.clamp(max=ceiling).exp()) if aggregator == "softmax" else 0.0
        slopes = Slopes(*bounded_slopes(free).tolist()) if config.slate_dependent else CONSTANT
        return ChoiceFit(float(log_tau.exp()), sharpness, final, slopes)
