"""Painted pictures with captions, made once and kept on disk: what every part of the mini world learns from."""

from __future__ import annotations

import os
import pathlib
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pasta_gym.files import whole_file
from pasta_gym.mini import grammar, painter, unsaid


@dataclass(frozen=True)
class PaintedSet:
    """Paintings and what they show.

    Attributes:
        said: ``(n, 6)`` slot values of the caption, 0 where it leaves a slot unsaid.
        shown: ``(n, 6)`` slot values of the painting.
        images: ``(n, 64, 64, 3)`` uint8.
    """

    said: NDArray[np.int64]
    shown: NDArray[np.int64]
    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.said)


def cache_directory() -> pathlib.Path:
    """Where large intermediate files live: ``$PASTA_GYM_CACHE``, else ``~/.cache/pasta_gym``."""
    root = os.environ.get("PASTA_GYM_CACHE")
    return pathlib.Path(root) if root else pathlib.Path.home() / ".cache" / "pasta_gym"


def painted_set(n: int, seed: int) -> PaintedSet:
    """Paint ``n`` captions that hold no held-out triple, or read them back if that was done before.

    Args:
        n: Number of paintings.
        seed: Seed of captions, fillings and jitter.

    Returns:
        The set; the images are memory-mapped.
    """
    rng = np.random.default_rng(seed)
    said = grammar.sample_values(n, rng)
    shown = unsaid.fill_unset(said, rng)
    digest = zlib.crc32(pathlib.Path(painter.__file__).read_bytes(), zlib.crc32(said.tobytes() + shown.tobytes()))
    folder = cache_directory() / f"painted-{n}-{seed}-{digest:08x}"
    path = folder / "images.npy"
    if not path.exists():
        images = np.stack([painter.paint(v, rng) for v in tqdm(shown, desc=f"painting {n}", mininterval=5)])
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, images)
    return PaintedSet(said, shown, np.load(path, mmap_mode="r"))


def to_unit(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale ``(n, h, w, 3)`` uint8 to ``(n, 3, h, w)`` float32 in [-1, 1], as SDXL's autoencoder expects."""
    scaled: NDArray[np.float32] = np.ascontiguousarray(images).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
    return scaled
