"""Trains the mini CLIP: contrastive, on whole captions and on short ones that name a single value."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pasta_gym.mini import grammar
from pasta_gym.mini.clip import build_clip
from pasta_gym.mini.reader import N_VALUES
from pasta_gym.mini.tokenizer import build_tokenizer, tokenize
from pasta_gym.mini.training_data import painted_set, to_unit
from pasta_gym.mini.training_loop import LoopConfig, optimise

if TYPE_CHECKING:
    import open_clip

BATCH = 128
N_PAINTINGS = 40_000
DEFAULTS = LoopConfig(steps=2000, learning_rate=1.5e-3, ema=0.99, seed=303, weight_decay=1e-2)


def draw_captions(shown: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one true caption for each painting ``(n, 6)``: any subset of what it shows, as prompt ids ``(n,)``."""
    n = len(shown)
    keep = rng.random(shown.shape) < rng.uniform(0.15, 1.0, size=(n, 1))
    keep[np.arange(n), rng.integers(0, grammar.N_SLOTS, n)] = True
    return grammar.prompt_ids(np.where(keep, shown, 0), rng.integers(0, grammar.N_PHRASINGS, n))


def short_captions(rng: np.random.Generator) -> NDArray[np.int64]:
    """Write one caption for every value of every slot, saying nothing else: ``(38,)`` prompt ids, slot by slot."""
    values = np.zeros((sum(N_VALUES), grammar.N_SLOTS), dtype=np.int64)
    row = 0
    for s, n in enumerate(N_VALUES):
        values[row : row + n, s] = np.arange(1, n + 1)
        row += n
    return grammar.prompt_ids(values, rng.integers(0, grammar.N_PHRASINGS, len(values)))


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of matching pictures ``(n, d)`` and captions ``(n, d)``, both of unit length."""
    logits = scale * image @ text.T
    target = torch.arange(len(image))
    return 0.5 * (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target))


def short_caption_loss(
    image: torch.Tensor, short: torch.Tensor, shown: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of each picture against the short captions of each slot, the subject counting double.

    Whole captions are told apart by their easy slots, so the subject would hardly be learned from them alone.

    Args:
        image: ``(n, d)`` unit embeddings.
        short: ``(38, d)`` unit embeddings of ``short_captions``.
        shown: ``(n, 6)`` slot values of the paintings.
        scale: The learned inverse temperature.
    """
    parts = (scale * image @ short.T).split(N_VALUES, dim=1)
    losses = [functional.cross_entropy(part, shown[:, s] - 1) for s, part in enumerate(parts)]
    return torch.stack([2 * losses[grammar.SUBJECT], *losses[1:]]).mean()


def train(run: pathlib.Path, config: LoopConfig = DEFAULTS, start: open_clip.CLIP | None = None) -> open_clip.CLIP:
    """Fit the mini CLIP on paintings.

    Args:
        run: Folder of checkpoints and the log.
        config: Length, rate, seed.
        start: Weights to go on from; a fresh model if None.

    Returns:
        The trained model.
    """
    torch.manual_seed(config.seed)
    model = (start or build_clip()).train()
    data = painted_set(N_PAINTINGS, seed=1)
    tokenizer = build_tokenizer()

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        rows = rng.integers(0, len(data), BATCH)
        shown = np.asarray(data.shown[rows])
        ids = np.concatenate([draw_captions(shown, rng), short_captions(rng)])
        x = torch.from_numpy(to_unit(data.images[rows])).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            image = functional.normalize(model.encode_image(x).float(), dim=-1)
            text = model.encode_text(tokenize(tokenizer, grammar.prompt_texts(ids)))
            text = functional.normalize(text.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100.0)
        whole = contrastive_loss(image, text[:BATCH], scale)
        short = short_caption_loss(image, text[BATCH:], torch.from_numpy(shown), scale)
        return {"loss": whole + short, "whole": whole.detach(), "short": short.detach()}

    optimise("clip", model, step, config, run)
    return model.eval()
