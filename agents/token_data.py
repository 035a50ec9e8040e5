"""Logged conversations as token trees: one pass over a conversation holds all of its turns.

The trunk is the conversation up to its last turn; every slate's prompts branch off where they were due. The last token
of each history gives v(h_t), the tokens of a branch f(h_t, p^{1:t'}). Read one by one, the L prompts of H turns would
cost H x L histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.history import check_dataset
from agents.token_template import Reader
from agents.token_tree import Segment, TokenTree, token_tree
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import IntArray


@dataclass(frozen=True)
class TurnBatch:
    """All turns of ``B`` conversations.

    Attributes:
        tree: Their tokens.
        history_ends: ``(B, H)`` column of the last token of each history.
        prompt_tokens: ``(B, H, L, T)`` columns of the tokens of the prompts shown; 0 where a prompt is shorter.
        is_token: ``(B, H, L, T)`` bool, which of them exist.
        rewards: ``(B, H)`` float32.
    """

    tree: TokenTree
    history_ends: Tensor
    prompt_tokens: Tensor
    is_token: Tensor
    rewards: Tensor

    def history_values(self, values: Tensor) -> Tensor:
        """Pick v of each history, ``(B, H)``, from the values ``(B, S, 2)`` at every token."""
        return values[..., 1].gather(1, self.history_ends.to(values.device))

    def token_values(self, values: Tensor) -> Tensor:
        """Pick f of each beginning of each prompt, ``(B, H, L, T)``, from the values at every token."""
        columns = self.prompt_tokens.to(values.device)
        return values[..., 0].gather(1, columns.flatten(1)).view(columns.shape)


class LoggedTexts:
    """Logged conversations for a learner that reads text."""

    def __init__(self, dataset: TrajectoryDataset, reader: Reader) -> None:
        """Keep a dataset and what tokenises it.

        Raises:
            ValueError: If the dataset is malformed or has no texts.
        """
        check_dataset(dataset)
        if dataset.prompt_texts is None:
            raise ValueError(
                "an agent that reads text needs the prompts' words, but dataset.prompt_texts is None; read the dataset "
                "with pasta_gym.trajectories.load"
            )
        self.dataset = dataset
        self.reader = reader
        self._shown = np.take_along_axis(dataset.candidates, dataset.actions, axis=2)  # (N, H, L)

    def __len__(self) -> int:
        return len(self.dataset)

    def mean_return_to_go(self) -> float:
        """Mean over turns of the rewards from that turn on."""
        to_go = np.cumsum(self.dataset.rewards[:, ::-1], axis=1)
        return float(to_go.mean())

    def batch(self, episodes: IntArray) -> TurnBatch:
        """Lay out all turns of the conversations ``episodes (B,)``."""
        lead = len(self.reader.lead)
        rows, forks, lengths = [], [], []
        for episode in episodes:
            segments, ends, prompt_lengths = self._conversation(int(episode))
            rows.append(segments)
            forks.append(ends)
            lengths.append(prompt_lengths)
        tree = token_tree(rows, padding=self.reader.padding)
        n_tokens = torch.tensor(np.array(lengths))  # (B, H, L)
        offsets = torch.arange(int(n_tokens.max()))
        is_token = offsets < n_tokens[..., None]
        first = tree.starts[:, 1:].reshape(n_tokens.shape) + lead
        return TurnBatch(
            tree=tree,
            history_ends=tree.starts[:, :1] + torch.tensor(np.array(forks)) - 1,
            prompt_tokens=(first[..., None] + offsets) * is_token,
            is_token=is_token,
            rewards=torch.tensor(self.dataset.rewards[episodes], dtype=torch.float32),
        )

    def _conversation(self, episode: int) -> tuple[list[Segment], list[int], list[list[int]]]:
        """Segments of one conversation, the length of each history, and of each prompt shown."""
        texts, horizon = self.dataset.prompt_texts, self.dataset.horizon
        assert texts is not None
        slates = texts[self._shown[episode]].tolist()
        parts = self.reader.history_parts(
            str(texts[self.dataset.initial_prompts[episode]]),
            slates[: horizon - 1],
            self.dataset.choices[episode, : horizon - 1].tolist(),
        )
        ends = np.cumsum([len(part) for part in parts]).tolist()
        prompts = [[self.reader.prompt(prompt) for prompt in slate] for slate in slates]
        segments = [Segment([token for part in parts for token in part])]
        segments += branches(self.reader, prompts, ends)
        return segments, ends, [[len(tokens) for tokens in slate] for slate in prompts]


def branches(reader: Reader, prompts: Sequence[Sequence[list[int]]], ends: Sequence[int]) -> list[Segment]:
    """A branch for each prompt of each slate, which leaves the trunk where its turn's history ends."""
    found: list[Segment] = []
    for slate, end in zip(prompts, ends, strict=True):
        found += [
            Segment([*reader.lead, *tokens], branch=len(found) + i + 1, fork=end) for i, tokens in enumerate(slate)
        ]
    return found
