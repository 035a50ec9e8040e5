"""SlateQ's networks: item values and choice scores, for one kind of person or for each component of a mixture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.history import Histories, StateEncoder
from agents.networks import PromptNetwork, hidden_layers, linear
from agents.prompt_taste import PromptTaste


class ItemScores(NamedTuple):
    """What is known of n items, for each of K components; K is 1 without a mixture.

    Attributes:
        values: ``(B, n, K)`` value of each item, given that it is chosen.
        logits: ``(B, n, K)`` choice scores.
        weights: ``(B, K)`` probability of each component, given the history.
    """

    values: Tensor
    logits: Tensor
    weights: Tensor


class SlateQNetwork(nn.Module):
    """The item value q(h, i) and the choice score g(h, i), on one encoding of the history."""

    def __init__(
        self,
        *,
        embedding_dim: int,
        horizon: int,
        n_components: int,
        n_encoder_outputs: int,
        width: int,
        n_layers: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder = StateEncoder(
            embedding_dim=embedding_dim,
            horizon=horizon,
            n_encoder_outputs=n_encoder_outputs,
            width=width,
            generator=generator,
        )
        state_dim, context_dim = self.encoder.state_dim, n_components + n_encoder_outputs
        self.item_value = PromptNetwork(
            state_dim, context_dim, embedding_dim, width=width, n_layers=n_layers, generator=generator
        )
        self.choice_score = PromptNetwork(
            state_dim, context_dim, embedding_dim, width=width, n_layers=n_layers, generator=generator
        )

    def forward(self, histories: Histories, prompts: Tensor) -> ItemScores:
        """Score prompts ``(B, n, d)``; K = 1."""
        state, context = self.encoder(histories)
        standardised = self.encoder.prompts(prompts)
        values, logits = self.item_value(state, context, standardised), self.choice_score(state, context, standardised)
        return ItemScores(values[..., None], logits[..., None], torch.ones(len(state), 1))


class MixtureSlateQNetwork(nn.Module):
    """Item values and choice scores of each component of a mixture, weighted by the belief.

    The choice scores are the tastes of the mixture times its temperature; they are fitted beforehand. The item values
    start as tastes, with one slope and one level a turn, and a network of state and prompt adds what is missing:
    what an item is worth in the turns that follow. Values and scores of a component do not depend on the belief.
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        horizon: int,
        n_components: int,
        taste_width: int,
        width: int,
        n_layers: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder = StateEncoder(
            embedding_dim=embedding_dim, horizon=horizon, n_encoder_outputs=0, width=width, generator=generator
        )
        self.taste = PromptTaste(embedding_dim, n_components, width=taste_width, generator=generator)
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))
        first_width = width if n_layers else n_components
        self.from_state = linear(self.encoder.state_dim, first_width, generator)
        self.from_item = linear(embedding_dim + n_components, first_width, generator, bias=False)
        self.hidden = hidden_layers(width, n_layers, generator)
        self.head = linear(width, n_components, generator) if n_layers else None
        self.slope = nn.Parameter(torch.ones(horizon))
        self.level = nn.Parameter(torch.zeros(horizon))

    def forward(self, histories: Histories, prompts: Tensor) -> ItemScores:
        """Score prompts ``(B, n, d)``; K is the mixture's."""
        state, belief = self.encoder(histories)
        standardised = self.encoder.prompts(prompts)
        with torch.no_grad():
            tastes = self.taste(self.encoder.prompts(histories.initial_prompts), standardised)
        outputs = self.from_state(state)[:, None] + self.from_item(torch.cat([standardised, tastes], dim=2))
        if self.head is not None:
            outputs = self.head(self.hidden(torch.relu(outputs)))
        # After the last turn nothing is worth anything and the value is not used, so it may share an entry.
        turns = histories.turns.clamp(max=len(self.slope) - 1)
        values = self.level[turns][:, None, None] + self.slope[turns][:, None, None] * tastes + outputs
        return ItemScores(values, self.temperature * tastes, belief)
