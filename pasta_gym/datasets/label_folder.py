"""A folder of one world's labels as every reader finds it: the metadata, and the pool that the labels point into."""

from __future__ import annotations

import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.rows import Row, shown
from pasta_gym.mini.rater_data import FORMAT
from pasta_gym.mini.rater_sessions import ENCODER
from pasta_gym.types import FloatArray

WRITE_AGAIN = "write it with: python -m pasta_gym.mini.rater_data label"
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "raters": ("rater", "split"),
    "pairs": ("rater", "session", "prompt", "first", "second", "label"),
    "ratings": ("rater", "session", "prompt", "image", "rating"),
    "rankings": ("rater", "session", "prompt", "images"),
    "turns": (
        *("rater", "session", "turn", "prompt", "slate", "choice"),
        *("column_satisfaction", "turn_satisfaction", "than_before", "critique"),
    ),
}
"""What each table must have, whoever reads it and whatever of it."""

NO_CHOICE = -1
_LARGEST_SIZE = 1000


@dataclass(frozen=True)
class LabelFolder:
    """What ``metadata.json`` says.

    Attributes:
        pool: Folder of the pool.
        horizon: H, most turns of a session.
        slate_size: L, columns of a slate.
        images_per_prompt: M, images of a column.
        rating_levels: Ratings are 1 to this.
        encoder_sha256: Hash of the encoder whose embeddings the pool holds, None where unknown.
    """

    pool: pathlib.Path
    horizon: int
    slate_size: int
    images_per_prompt: int
    rating_levels: int
    encoder_sha256: str | None

    @property
    def images_per_session(self) -> int:
        """Images of a session: those of the initial prompt, then turn by turn, column by column."""
        return self.images_per_prompt * (1 + self.horizon * self.slate_size)


@dataclass(frozen=True)
class Pool:
    """Embeddings of all sessions: ``prompts`` ``(S, d)`` and ``images`` ``(S, n_images, d)``."""

    prompts: FloatArray
    images: FloatArray


def read_label_folder(folder: pathlib.Path) -> LabelFolder:
    """Read the metadata of a world's labels.

    Raises:
        DatasetError: If the file is missing, broken or of another format, or a size is none.
    """
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise ValueError(f"expected an object, got {type(metadata).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"cannot be read ({error}); {WRITE_AGAIN}", file=path) from error
    row = Row(str(path), 0, metadata)
    if (found := row.integer("format")) != FORMAT:
        raise DatasetError(f"format {found}, this version reads {FORMAT}; {WRITE_AGAIN}", file=path, column="format")

    def size(name: str, least: int = 1) -> int:
        value = row.integer(name)
        if not least <= value <= _LARGEST_SIZE:
            raise row.error(
                f"expected a whole number from {least} to {_LARGEST_SIZE}, got {value}; {WRITE_AGAIN}", name
            )
        return value

    return LabelFolder(
        folder / row.text("pool"),
        size("horizon"),
        size("slate_size"),
        size("images_per_prompt"),
        size("rating_levels", least=2),
        None if row.missing(ENCODER) else row.text(ENCODER),
    )


def wrong_turn(turns: Sequence[int], horizon: int) -> tuple[int, str] | None:
    """Find what is wrong with the turns of a session in the order of its rows, which stand together.

    A session has all its turns: what somebody did not choose is ``NO_CHOICE``, and a row that is missing was lost.

    Returns:
        Which of the rows, and the problem; None if the turns are 0 to H - 1 in order.
    """
    expected = list(range(horizon))
    if list(turns) == expected:
        return None
    wrong = [at for at, (turn, right) in enumerate(zip(turns, expected, strict=False)) if turn != right]
    at = wrong[0] if wrong else min(len(turns), horizon) - 1
    return at, f"expected turns 0..{horizon - 1} in order, got {shown(list(turns))}"


def scattered(session: int) -> str:
    """Say that rows of a session stand apart."""
    return f"session {session} is here again, after others; sort the table by session and turn"


def of_another(session: int, rater: int) -> str:
    """Say that the rows of a session name two raters."""
    return f"session {session} is of rater {rater} in another row"


def second_time(rater: int) -> str:
    """Say that a rater is listed twice."""
    return f"rater {rater} is here a second time"


def read_pool(folder: pathlib.Path, n_images: int) -> Pool:
    """Read a pool's embeddings.

    Args:
        folder: Folder of ``shard-*.npz``.
        n_images: Images of a session.

    Raises:
        DatasetError: If a shard is missing or broken, or of other sessions.
    """
    try:
        paths = sorted(folder.glob("shard-*.npz"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot be listed ({error})", file=folder) from error
    if not paths:
        raise DatasetError("no shard-*.npz; paint them with: python -m pasta_gym.mini.rater_data paint", file=folder)
    shards = [_read_shard(path, n_images) for path in paths]
    numbers = np.concatenate([shard[0] for shard in shards])
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise DatasetError(
            f"the shards hold {len(numbers)} sessions with gaps or repeats; paint again, which goes on from there",
            file=folder,
        )
    if len({shard[2].shape[-1] for shard in shards}) != 1:
        raise DatasetError("the shards have embeddings of several sizes; paint the pool again", file=folder)
    return Pool(np.concatenate([shard[1] for shard in shards]), np.concatenate([shard[2] for shard in shards]))


def _read_shard(path: pathlib.Path, n_images: int) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    names = ("sessions", "prompt_embeddings", "image_embeddings")
    try:
        # Opened here, because NumPy leaves a broken archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
            sessions, prompts, images = (shard[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(
            f"cannot be read ({error}); delete it and paint again, which redoes it alone", file=path
        ) from error
    if (
        sessions.ndim != 1
        or prompts.ndim != 2
        or images.shape != (len(sessions), n_images, prompts.shape[-1])
        or len(prompts) != len(sessions)
        or not all(np.issubdtype(array.dtype, np.floating) for array in (prompts, images))
    ):
        raise DatasetError(
            f"expected sessions (S,), prompt_embeddings (S, d) and image_embeddings (S, {n_images}, d), got "
            f"{sessions.shape}, {prompts.shape}, {images.shape}; name the pool that the "
            "labels are of, or paint it again",
            file=path,
        )
    for name, array in (("prompt_embeddings", prompts), ("image_embeddings", images)):
        if not np.isfinite(array).all():
            raise DatasetError("holds numbers that are not finite; paint it again", file=path, column=name)
    return sessions, prompts, images
