"""Trains the mini CLIP: contrastive, with captions that differ from the true one in one slot as hard negatives."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pasta_gym.mini import grammar
from pasta_gym.mini.clip import build_clip
from pasta_gym.mini.tokenizer import build_tokenizer, tokenize
from pasta_gym.mini.training_data import painted_set, to_unit
from pasta_gym.mini.training_loop import LoopConfig, optimise

if TYPE_CHECKING:
    import open_clip

BATCH = 128
HARD_NEGATIVES = 1
N_PAINTINGS = 40_000
DEFAULTS = LoopConfig(steps=2000, learning_rate=1.5e-3, ema=0.99, seed=303, weight_decay=1e-2)


def captions_for(shown: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a true caption and captions wrong in one slot for paintings ``(n, 6)``.

    Returns:
        Prompt ids of the true captions ``(n,)`` and of the wrong ones ``(n, HARD_NEGATIVES)``.
    """
    n = len(shown)
    share = rng.uniform(0.15, 1.0, size=(n, 1))
    keep = rng.random(shown.shape) < share
    keep[np.arange(n), rng.integers(0, grammar.N_SLOTS, n)] = True
    said = np.where(keep, shown, 0)
    phrasing = rng.integers(0, grammar.N_PHRASINGS, n)
    wrong = np.repeat(said[:, None], HARD_NEGATIVES, axis=1)
    for j in range(HARD_NEGATIVES):
        # Half of the wrong captions get the subject wrong: it is what a small model learns last.
        weight = np.where(keep, rng.random(shown.shape), -1.0)
        weight[:, grammar.SUBJECT] += (rng.random(n) < 0.4) & keep[:, grammar.SUBJECT]
        slot = weight.argmax(axis=1)
        n_values = np.array(grammar.CARDINALITIES)[slot] - 1
        old = said[np.arange(n), slot]
        wrong[np.arange(n), j, slot] = (old - 1 + rng.integers(1, n_values)) % n_values + 1
    return grammar.prompt_ids(said, phrasing), grammar.prompt_ids(wrong, phrasing[:, None])


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, wrong: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of matches, each image also against its own wrong captions.

    Args:
        image: ``(n, d)`` unit embeddings.
        text: ``(n, d)`` unit embeddings of the true captions.
        wrong: ``(n, j, d)`` unit embeddings of the wrong ones.
        scale: The learned inverse temperature.
    """
    logits = scale * image @ text.T
    own = scale * torch.einsum("nd,njd->nj", image, wrong)
    target = torch.arange(len(image))
    return 0.5 * (
        functional.cross_entropy(torch.cat([logits, own], dim=1), target) + functional.cross_entropy(logits.T, target)
    )


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
        right, wrong = captions_for(np.asarray(data.shown[rows]), rng)
        x = torch.from_numpy(to_unit(data.images[rows])).to(memory_format=torch.channels_last)
        texts = grammar.prompt_texts(np.concatenate([right, wrong.reshape(-1)]))
        tokens = tokenize(tokenizer, texts)
        with torch.autocast("cpu", torch.bfloat16):
            image = functional.normalize(model.encode_image(x).float(), dim=-1)
            text = functional.normalize(model.encode_text(tokens).float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100.0)
        loss = contrastive_loss(image, text[:BATCH], text[BATCH:].reshape(BATCH, HARD_NEGATIVES, -1), scale)
        match = (image @ text[:BATCH].T).argmax(dim=1) == torch.arange(BATCH)
        return {"loss": loss, "match": match.float().mean()}

    optimise("clip", model, step, config, run)
    return model.eval()
