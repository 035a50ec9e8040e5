"""The pictures of a pool, kept beside it where somebody needs the pixels: to train an encoder, or to look at them.

A pool itself keeps embeddings and what the readers saw. Pictures are one uncompressed array a shard, a megabyte a
session, so that any picture is read without the others.
"""

from __future__ import annotations

import io
import pathlib
from functools import lru_cache

import numpy as np
import PIL.Image

from pasta_gym.files import whole_file
from pasta_gym.seeding import IMAGE, mix
from pasta_gym.types import ImageArray, IntArray, UInt64Array

_OPEN_FILES = 64  # memory maps that a reader keeps
_PAINT = "paint them with: python -m pasta_gym.mini.rater_data paint --pool POOL --pictures"


def image_keys(seed: int, sessions: IntArray, turn: int, columns: int, images_per_prompt: int) -> UInt64Array:
    """Keys of the pictures of one turn of sessions; the pictures are functions of prompts and keys.

    Args:
        seed: The pool's seed.
        sessions: ``(B,)`` ids of sessions.
        turn: 0 for the initial prompt, 1..H for the slates.
        columns: Columns of the turn; 1 for the initial prompt.
        images_per_prompt: M.

    Returns:
        ``(B, columns, M)``.
    """
    return mix(seed, sessions[:, None, None], turn, np.arange(columns)[:, None], np.arange(images_per_prompt), IMAGE)


def pictures_path(folder: pathlib.Path, first: int) -> pathlib.Path:
    """The file that holds the pictures of the shard whose first session is ``first``."""
    return folder / f"pictures-{first:06d}.npy"


def write_pictures(folder: pathlib.Path, first: int, pictures: ImageArray) -> None:
    """Write a shard's pictures ``(B, n_images, height, width, 3)`` whole or not at all."""
    with whole_file(pictures_path(folder, first)) as partial, partial.open("wb") as file:
        np.save(file, pictures, allow_pickle=False)


class PoolPictures:
    """Reads the pictures of a pool by session and number.

    Args:
        folder: Where ``paint_sessions(..., pictures=folder)`` put them.

    Raises:
        ValueError: If there are none, or a file is broken or of another size than the others.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self.folder = pathlib.Path(folder)
        paths = sorted(self.folder.glob("pictures-*.npy"))
        if not paths:
            raise ValueError(f"no pictures-*.npy in {self.folder}; {_PAINT} {self.folder}")
        self._first = np.array([int(path.stem.partition("-")[2]) for path in paths])
        self._open = lru_cache(maxsize=_OPEN_FILES)(self._opened)
        shapes = [self._open(first).shape for first in self._first.tolist()]
        self._sizes = {first: shape[0] for first, shape in zip(self._first.tolist(), shapes, strict=True)}
        if len({shape[1:] for shape in shapes}) != 1:
            raise ValueError(f"the files of {self.folder} hold pictures of several sizes; {_PAINT} {self.folder}")
        self.picture_shape: tuple[int, ...] = shapes[0][2:]
        self.images_per_session: int = shapes[0][1]

    def __len__(self) -> int:
        """Number of sessions that are painted."""
        return sum(self._sizes.values())

    def session(self, session: int) -> ImageArray:
        """Return the pictures of a session, ``(n_images, height, width, 3)``, a view of the file.

        Raises:
            ValueError: If the session is not painted.
        """
        first = int(self._first[max(0, int(np.searchsorted(self._first, session, side="right")) - 1)])
        if not first <= session < first + self._sizes[first]:
            raise ValueError(f"{self.folder} has no pictures of session {session}; {_PAINT} {self.folder}")
        pictures: ImageArray = self._open(first)[session - first]
        return pictures

    def encoded(self, session: int, image: int) -> bytes:
        """Return one picture as the bytes of a PNG file: the same bytes every time.

        Raises:
            ValueError: If the session is not painted or has no such picture.
        """
        pictures = self.session(session)
        if not 0 <= image < len(pictures):
            raise ValueError(f"a session has images 0..{len(pictures) - 1}, got {image}")
        file = io.BytesIO()
        PIL.Image.fromarray(np.ascontiguousarray(pictures[image])).save(file, format="PNG")
        return file.getvalue()

    def _opened(self, first: int) -> ImageArray:
        path = pictures_path(self.folder, first)
        try:
            pictures: ImageArray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"cannot read {path} ({error}); delete it and paint again, which redoes it alone"
            ) from error
        if pictures.ndim != 5 or pictures.dtype != np.uint8 or pictures.shape[-1] != 3:
            raise ValueError(
                f"{path} must hold (sessions, images, height, width, 3) uint8, got {pictures.shape} {pictures.dtype}; "
                "delete it and paint again"
            )
        return pictures
