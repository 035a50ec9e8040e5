"""The mini world's tokenizer: a CLIP tokenizer whose merges make every word of the grammar one token."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
