"""The mini CLIP: open_clip's model class, small, trained on paintings and their captions."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.mini import weights
from pasta_gym.mini.tokenizer import CONTEXT_LENGTH, END_ID, WordTokenizer, build_tokenizer
from pasta_gym.mini.training_data import to_unit
from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    import open_clip
    import torch

EMBEDDING_DIM = 64
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": EMBEDDING_DIM,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64},
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 411,
        "width": 96,
        "heads": 4,
        "layers": 3,
        "pool_type": "eos",
        "eos_id": END_ID,
        "pad_id": END_ID,
    },
}
PREPROCESS_CONFIG = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}


def build_clip() -> open_clip.CLIP:
    """Build the model, untrained."""
    ensure_importable()
    import open_clip

    return open_clip.CLIP(**MODEL_CONFIG)


class MiniClip:
    """Embeds prompts and pictures in one 64-dimensional space, before l2-normalisation as the paper uses it.

    Args:
        model: The open_clip model; put in evaluation mode.
        batch_size: Largest batch sent through the model.
    """

    embedding_dim = EMBEDDING_DIM

    def __init__(self, model: open_clip.CLIP, batch_size: int = 512) -> None:
        self.model = model.eval()
        self.tokenizer = build_tokenizer()
        self.batch_size = batch_size
        self._tokenize = WordTokenizer(self.tokenizer)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as ``(n, 64)`` float32.

        Texts of like length go through the model together, without the padding that they do not need.
        """
        import torch

        out = np.zeros((len(texts), EMBEDDING_DIM), dtype=np.float32)
        ids, lengths = self._tokenize(texts)
        by_length = np.argsort(lengths, kind="stable")
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                rows = by_length[start : start + self.batch_size]
                tokens = torch.from_numpy(ids[rows, : lengths[rows[-1]]])
                out[rows] = _encode_tokens(self.model, tokens, lengths[rows]).numpy()
        return out

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed images ``(n, 64, 64, 3)`` uint8 as ``(n, 64)`` float32."""
        import torch

        out = np.zeros((len(images), EMBEDDING_DIM), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                rows = slice(start, start + self.batch_size)
                out[rows] = self.model.encode_image(torch.from_numpy(to_unit(images[rows]))).numpy()
        return out


def _encode_tokens(model: open_clip.CLIP, tokens: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
    """Embed token ids ``(n, t)``, each with its end token at ``lengths - 1``, for any t up to the context's length.

    ``model.encode_text`` takes the whole context only. Attention is causal, so what follows the end token, from
    which the embedding is read, changes nothing.
    """
    import torch

    t = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:t]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:t, :t]))
    ends = torch.from_numpy(lengths - 1)
    embedded: torch.Tensor = x[torch.arange(len(tokens)), ends] @ model.text_projection
    return embedded


@functools.cache
def load_clip(folder: pathlib.Path | None = None) -> MiniClip:
    """Load the shipped mini CLIP, or one from ``folder`` (``open_clip_model.safetensors``).

    Raises:
        ValueError: If the weights are missing, broken, of another shape, or not those that their card names.
    """
    folder = folder or weights.weights_directory() / "clip"
    model = build_clip()
    weights.load_weights(model, folder / "open_clip_model.safetensors")
    return MiniClip(model)


def slot_prototypes(clip: MiniClip) -> list[torch.Tensor]:
    """Embed every value of every slot alone: one ``(n_values, 64)`` unit matrix a slot, mean of four phrasings."""
    import torch

    from pasta_gym.mini import grammar

    prototypes = []
    for s, slot in enumerate(grammar.SLOTS):
        values = np.zeros((len(slot.values), grammar.N_SLOTS), dtype=np.int64)
        values[:, s] = np.arange(1, len(slot.values) + 1)
        ids = grammar.prompt_ids(values[:, None], np.arange(grammar.N_PHRASINGS))
        embedded = torch.from_numpy(clip.encode_texts(grammar.prompt_texts(ids.reshape(-1))))
        unit = torch.nn.functional.normalize(embedded, dim=-1).reshape(*ids.shape, -1).mean(dim=1)
        prototypes.append(torch.nn.functional.normalize(unit, dim=-1))
    return prototypes


def zero_shot(clip: MiniClip, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read every slot of images ``(n, 64, 64, 3)`` by the nearest prototype: ``(n, 6)`` values from 1."""
    import torch

    embedded = torch.nn.functional.normalize(torch.from_numpy(clip.encode_images(images)), dim=-1)
    read = [(embedded @ p.T).argmax(dim=-1) + 1 for p in slot_prototypes(clip)]
    result: NDArray[np.int64] = torch.stack(read, dim=1).numpy()
    return result
