"""What the embeddings are of: the pictures and the initial prompts behind their rows, to train an encoder or score."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import torch

from pasta_gym.datasets.records import DatasetError
from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.encoders.embedding_cache import image_key
from pasta_gym.files import whole_file
from pasta_gym.types import IntArray
from pasta_gym.user_model.embedding_table import Item
from pasta_gym.user_model.features import EncodedFeatures


class Originals:
    """Pictures and prompts by row. ``gather`` fills it.

    Training reads pictures in any order, which the formats that datasets come in are slow at. So each is copied once
    into a file of its own, named by its content: a later run finds it, and several may share the folder.

    Args:
        folder: Where the files are.

    Attributes:
        prompts: ``P`` initial prompts.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self.folder = pathlib.Path(folder)
        self.prompts: list[str] = []
        self._keys: list[bytes] = []

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._keys)

    def add_prompt(self, row: int, item: Item[str]) -> None:
        """Take the prompt of the next row."""
        assert row == len(self.prompts)
        self.prompts.append(item.content)

    def add_image(self, row: int, item: Item[bytes | DatasetError | None]) -> None:
        """Take the picture of the next row.

        Raises:
            ValueError: If it has no pixels.
        """
        assert row == len(self._keys)
        if not isinstance(item.content, bytes):
            raise ValueError(
                f"image {item.name} comes as an embedding, without pixels, so no encoder can be trained on it and no "
                "scorer can look at it; take data with pictures. A fit that leaves the encoder as it is needs none "
                "(user_model.train_encoder=false)"
            )
        key = image_key(item.content)
        self._keys.append(key)
        path = self._path(key)
        if path.is_file() and path.stat().st_size == len(item.content):
            return
        with whole_file(path) as partial:
            partial.write_bytes(item.content)

    def images(self, rows: IntArray) -> list[bytes]:
        """Read the encoded files of rows ``(n,)``.

        Raises:
            ValueError: If one is missing or not what was written.
        """
        return [self._read(self._keys[row]) for row in rows.tolist()]

    def features(self, encoder: ClipEncoder, batch_size: int) -> EncodedFeatures:
        """Put a copy of an encoder before these pictures and prompts, to be trained.

        Args:
            encoder: The frozen one; it is not changed.
            batch_size: Most pictures that go through the encoder at once.
        """
        prepared: Callable[[IntArray], torch.Tensor] = lambda rows: encoder.prepare(self.images(rows))  # noqa: E731
        tokens = encoder.tokenize(self.prompts).to(encoder.device)
        return EncodedFeatures(encoder.copy_model(), prepared, tokens, batch_size)

    def _path(self, key: bytes) -> pathlib.Path:
        name = key.hex()
        return self.folder / name[:2] / name

    def _read(self, key: bytes) -> bytes:
        path = self._path(key)
        try:
            found = path.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read the picture {path} ({error}); give the command again to copy it") from error
        if image_key(found) != key:
            raise ValueError(f"the picture {path} is broken; delete it and give the command again to copy it anew")
        return found
