"""The small networks that learning agents share: values of prompts and of histories, given a context.

The *context* is what is known about the person: a belief over components, the output of a history encoder, or both.
A network has one output for everybody and one for each entry of the context; its value is the first plus the others
weighted by the context. A belief over types therefore averages one value function per type, so that taste interacts
with the candidate without having to be learned through a hidden layer. The context goes into the features that those
functions share as well, so the average is not linear in the belief.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def linear(n_in: int, n_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Make a linear layer whose initial weights come from ``generator`` and not from the global one.

    Weights and biases are uniform in ``±1/sqrt(n_in)``, PyTorch's usual start.

    Args:
        n_in: Inputs.
        n_out: Outputs.
        generator: Source of the initial weights.
        bias: Whether there is a bias.

    Returns:
        The layer.
    """
    layer = nn.Linear(n_in, n_out, bias=bias, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(max(n_in, 1))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def hidden_layers(width: int, n_layers: int, generator: torch.Generator) -> nn.Sequential:
    """ReLU layers after the first: ``n_layers - 1`` of them, each ``width`` to ``width``."""
    layers: list[nn.Module] = []
    for _ in range(n_layers - 1):
        layers += [linear(width, width, generator), nn.ReLU()]
    return nn.Sequential(*layers)


@torch.no_grad()
def start_at(network: PromptNetwork | ValueNetwork, value: float) -> None:
    """Set the bias of the common output, so that an untrained network's values lie around ``value``.

    Starting far from the data would make the first steps move everything in one direction, and a history encoder
    then saturates before it has learned to tell one past from another.

    Args:
        network: An untrained network, changed in place.
        value: Mean of the values to come.
    """
    (network.from_state if network.head is None else network.head).bias[0] = value


def context_average(outputs: Tensor, context: Tensor) -> Tensor:
    """Combine one common output with one output per context entry.

    Args:
        outputs: ``(..., 1 + n_context)``.
        context: ``(..., n_context)``, broadcastable against the outputs.

    Returns:
        ``(...)``: ``outputs[0] + sum_k context[k] * outputs[1 + k]``.
    """
    return outputs[..., 0] + (outputs[..., 1:] * context).sum(-1)


class PromptNetwork(nn.Module):
    """A value for each candidate prompt given the history, ``f(h, p)``.

    With ``n_layers=0`` it is linear in state, context and prompt for each context entry.
    """

    def __init__(
        self,
        state_dim: int,
        context_dim: int,
        prompt_dim: int,
        *,
        width: int,
        n_layers: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        first_width = width if n_layers else 1 + context_dim
        self.from_state = linear(state_dim + context_dim, first_width, generator)
        self.from_prompt = linear(prompt_dim, first_width, generator, bias=False)
        self.hidden = hidden_layers(width, n_layers, generator)
        self.head = linear(width, 1 + context_dim, generator) if n_layers else None

    def forward(self, state: Tensor, context: Tensor, prompts: Tensor) -> Tensor:
        """Value the prompts.

        Args:
            state: ``(B, state_dim)``.
            context: ``(B, context_dim)``.
            prompts: ``(B, n, prompt_dim)`` standardised embeddings.

        Returns:
            ``(B, n)``.
        """
        outputs = self.from_state(torch.cat([state, context], dim=1))[:, None] + self.from_prompt(prompts)
        if self.head is not None:
            outputs = self.head(self.hidden(torch.relu(outputs)))
        return context_average(outputs, context[:, None])


class ValueNetwork(nn.Module):
    """A value for the history, ``v(h)``; linear with ``n_layers=0``."""

    def __init__(
        self, state_dim: int, context_dim: int, *, width: int, n_layers: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        first_width = width if n_layers else 1 + context_dim
        self.from_state = linear(state_dim + context_dim, first_width, generator)
        self.hidden = hidden_layers(width, n_layers, generator)
        self.head = linear(width, 1 + context_dim, generator) if n_layers else None

    def forward(self, state: Tensor, context: Tensor) -> Tensor:
        """Value the histories.

        Args:
            state: ``(B, state_dim)``.
            context: ``(B, context_dim)``.

        Returns:
            ``(B,)``.
        """
        outputs = self.from_state(torch.cat([state, context], dim=1))
        if self.head is not None:
            outputs = self.head(self.hidden(torch.relu(outputs)))
        return context_average(outputs, context)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move the target network's parameters towards the online ones, in place.

    Args:
        target: The network that lags behind.
        online: The network that is trained.
        rate: Share of the way, in (0, 1]; 1 copies.
    """
    for lagging, current in zip(target.parameters(), online.parameters(), strict=True):
        lagging.lerp_(current, rate)
