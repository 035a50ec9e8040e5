"""The mini world's tokenizer: a CLIP tokenizer whose merges make every word of the grammar one token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pasta_gym.mini import grammar
from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer

CONTEXT_LENGTH = 24
START_ID, END_ID = 0, 1


def build_tokenizer() -> CLIPTokenizer:
    """Fit byte-pair merges on the grammar's words and wrap them as transformers' ``CLIPTokenizer``.

    The result depends on the grammar alone. Padding is the end token, as in CLIP.
    """
    ensure_importable()
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    pieces = sorted({piece for word in grammar.vocabulary() for piece in word.split("-")} | {"-", ","})
    start, end = "<|startoftext|>", "<|endoftext|>"
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=end))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        special_tokens=[start, end],
        show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz,-"),
    )
    bpe.train_from_iterator([" ".join(pieces)], trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=CONTEXT_LENGTH)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Turn texts into ``(n, 24)`` token ids, padded with the end token."""
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"]
    return ids
