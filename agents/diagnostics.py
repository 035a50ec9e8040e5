"""Does an agent use the history at all? A number to log, since a good loss does not show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from agents.history import Histories, LoggedHistories


@torch.no_grad()
def context_effect(
    score: Callable[[Histories, Tensor], Tensor], logged: LoggedHistories, *, n_histories: int = 512
) -> float:
    """How much the scores of the candidates change when the past is another person's.

    At the last turn, the past and the belief of every history are exchanged for those of another conversation, while
    initial prompt, current prompt and candidates stay. A shift that is common to all candidates of a history does not
    change the slate and is left out.

    Args:
        score: Values of prompts ``(B, n, d)`` for histories, ``(B, n)``.
        logged: The data.
        n_histories: How many conversations, the first ones, to use.

    Returns:
        Root mean square change over the root mean square spread of the scores between candidates: 0 if the past is
        ignored; the square root of 2 if nothing else matters. 0 with a horizon of 1 and with scores that are all equal.
    """
    episodes = torch.arange(min(n_histories, logged.n_episodes))
    turns = torch.full_like(episodes, logged.horizon - 1)
    histories, prompts = logged.histories(episodes, turns), logged.candidate_prompts(episodes, turns)
    exchanged = replace(histories, past=histories.past.roll(1, 0), belief=histories.belief.roll(1, 0))
    scores, other = score(histories, prompts), score(exchanged, prompts)
    scores, other = scores - scores.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    spread = scores.square().mean().sqrt()
    return float((scores - other).square().mean().sqrt() / spread) if spread > 0 else 0.0
