"""What all loaders share: a name, a report, and empty streams for the kinds of records that a dataset lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pasta_gym.datasets.image_check import ImageCheck, require_share
from pasta_gym.datasets.records import Comparison, LoadReport, Rating, Record, Session

R = TypeVar("R", bound=Record)


class BaseDataset:
    """A dataset without records. Loaders override the streams that they have.

    Args:
        name: Short name; images of two datasets are told apart by it.
        verify_images: Whether every image is read and decoded before its record is yielded. Turn it off to stream
            labels alone: then pixels are read only by ``Image.read``.
        max_bad_images: The share of bad images, in [0, 1], past which a stream raises.

    Attributes:
        encoder_sha256: Hash of the weights of the encoder whose embeddings come along with images or prompts; None
            where none do, or nobody knows.

    Raises:
        ValueError: If the share is not in [0, 1].
    """

    def __init__(self, name: str, *, verify_images: bool, max_bad_images: float) -> None:
        self.name = name
        self.report = LoadReport()
        self.encoder_sha256: str | None = None
        self._verify_images = verify_images
        self._max_bad_images = require_share(max_bad_images)

    def comparisons(self) -> Iterator[Comparison]:
        """Stream the pairs, ties and rankings."""
        return iter(())

    def ratings(self) -> Iterator[Rating]:
        """Stream the ratings."""
        return iter(())

    def sessions(self) -> Iterator[Session]:
        """Stream the sessions."""
        return iter(())

    def _image_check(self) -> ImageCheck:
        return ImageCheck(self.report, max_bad_images=self._max_bad_images, enabled=self._verify_images)

    def _counted(self, kind: str, records: Iterable[R]) -> Iterator[R]:
        for record in records:
            self.report.records[kind] += 1
            yield record
