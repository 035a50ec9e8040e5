"""How a conversation reads as text, and its tokens (figure 12 of the paper, in words of our own).

    Initial prompt: a cat
    1. a cat, watercolor
    2. a cat at night
    Chosen 2. a cat at night
    Candidate: a cat at night, neon colors

A longer history begins with the text of every shorter one, so one pass over a conversation holds the value of each of
its histories. Pieces are tokenised one by one and their tokens joined, so that this also holds for tokens, whatever a
tokeniser does across a border.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

LEAD = "Candidate:"
"""Goes before a candidate; its tokens have no value of their own."""
_CACHED_PIECES = 1 << 17


def opening(initial_prompt: str) -> list[str]:
    """Pieces of the history before the first turn."""
    return ["Initial prompt:", f" {initial_prompt}", "\n"]


def turn(slate: Sequence[str], choice: int) -> list[str]:
    """Pieces that a turn adds to the history.

    Args:
        slate: The prompts shown.
        choice: Column chosen, 0..L-1; the text counts from 1.

    Raises:
        ValueError: If the choice is out of range.
    """
    if not 0 <= choice < len(slate):
        raise ValueError(f"choice must be in 0..{len(slate) - 1} for a turn that was played, got {choice}")
    shown = [piece for i, prompt in enumerate(slate) for piece in (f"{i + 1}.", f" {prompt}", "\n")]
    return [*shown, f"Chosen {choice + 1}.", f" {slate[choice]}", "\n"]


class Reader:
    """Turns conversations into token ids with the tokeniser of a language model."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a tokeniser of ``transformers``.

        Args:
            tokenizer: Its start token, where it has one, begins every history.
        """
        self.tokenizer = tokenizer
        self._ids = functools.lru_cache(maxsize=_CACHED_PIECES)(self._encode)
        self.lead = self._ids(LEAD)

    @property
    def padding(self) -> int:
        """A token id to fill up with; it is never attended to."""
        return 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    def history_parts(
        self, initial_prompt: str, slates: Sequence[Sequence[str]], choices: Sequence[int]
    ) -> list[list[int]]:
        """Token ids that the opening and each turn add: ``[h_0, turn 1, ..., turn t]``; joined, they are ``h_t``."""
        start = self.tokenizer.bos_token_id
        parts = [([] if start is None else [int(start)]) + self._joined(opening(initial_prompt))]
        return parts + [self._joined(turn(slate, int(choice))) for slate, choice in zip(slates, choices, strict=True)]

    def history(self, initial_prompt: str, slates: Sequence[Sequence[str]], choices: Sequence[int]) -> list[int]:
        """Token ids of h, after as many turns as there are slates."""
        return [token for part in self.history_parts(initial_prompt, slates, choices) for token in part]

    def prompt(self, text: str) -> list[int]:
        """Token ids of a candidate's own words, the paper's ``p`` of length ``T_p``; ``lead`` goes before them.

        Raises:
            ValueError: If there are none.
        """
        ids = self._ids(f" {text}")
        if not text.strip() or not ids:
            raise ValueError(f"a prompt must have at least one token, got {text!r}; the candidate generator made it")
        return list(ids)

    def _joined(self, pieces: Sequence[str]) -> list[int]:
        return [token for piece in pieces for token in self._ids(piece)]

    def _encode(self, piece: str) -> tuple[int, ...]:
        return tuple(int(token) for token in self.tokenizer(piece, add_special_tokens=False)["input_ids"])
