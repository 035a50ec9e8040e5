"""The mini world's tokenizer: a CLIP tokenizer whose merges make every word of the grammar one token."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer

CONTEXT_LENGTH = 24
START_ID, END_ID = 0, 1
TOKENIZER_FILE = pathlib.Path(__file__).parent / "tokenizer.json"


def build_tokenizer() -> CLIPTokenizer:
    """Make transformers' ``CLIPTokenizer`` from the shipped merges.

    They were fitted once on the grammar's words and are kept as a file: byte-pair training breaks ties differently in
    every process, and the weights know tokens by number. Padding is the end token, as in CLIP.
    """
    ensure_importable()
    from transformers import CLIPTokenizer

    model = json.loads(TOKENIZER_FILE.read_text())
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=CONTEXT_LENGTH)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Turn texts into ``(n, 24)`` token ids, padded with the end token."""
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"]
    return ids


class WordTokenizer:
    """The same token ids as :func:`tokenize`, many times faster: each distinct word goes through the tokenizer once.

    No merge crosses a space, so a text's tokens are those of its words, one after the other.

    Args:
        tokenizer: What :func:`build_tokenizer` made.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokenise texts.

        Args:
            texts: n texts.

        Returns:
            Token ids ``(n, 24)`` padded with the end token, and lengths ``(n,)`` up to the first end token, which
            is counted. The end token also stands for what the tokenizer does not know.
        """
        ids = np.full((len(texts), CONTEXT_LENGTH), END_ID, dtype=np.int64)
        ids[:, 0] = START_ID
        for row, text in enumerate(texts):
            tokens = [token for word in text.split() for token in self._word(word)][: CONTEXT_LENGTH - 2]
            ids[row, 1 : 1 + len(tokens)] = tokens
        lengths: NDArray[np.int64] = (ids == END_ID).argmax(axis=1) + 1
        return ids, lengths

    def _word(self, word: str) -> list[int]:
        tokens = self._tokens.get(word)
        if tokens is None:
            tokens = self._tokens[word] = list(self.tokenizer(word, add_special_tokens=False)["input_ids"])
        return tokens
