"""Broken images: counted, reported and skipped, up to a stated share of all that were looked at.

Public datasets have a few images that do not decode. A loader that stops at the first is useless, one that hides
them is worse.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable

import numpy as np

from pasta_gym.datasets.records import DatasetError, Image, LoadReport
from pasta_gym.types import ImageArray

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
"""What the datasets use. Pillow's other decoders are never tried on a stranger's bytes."""

_FEWEST_TO_JUDGE = 1000
_FIRST = 5


def decode_image(encoded: bytes) -> ImageArray:
    """Decode a JPEG, PNG or WebP picture.

    Args:
        encoded: The file's bytes.

    Returns:
        ``(height, width, 3)`` uint8, RGB.

    Raises:
        DatasetError: If the bytes are not such a picture, or end too soon.
    """
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; the pixels are what counts
            with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
                return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes lead them to
        raise DatasetError(
            f"{len(encoded)} bytes are not a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture ({error})"
        ) from error


class ImageCheck:
    """Looks at the images of one stream before their records are handed out.

    Args:
        report: Where the counts go.
        max_bad_images: The largest share of bad images, in [0, 1], that is put up with.
        enabled: False lets every image pass unread.

    Raises:
        ValueError: If the share is not in [0, 1].
    """

    def __init__(self, report: LoadReport, *, max_bad_images: float, enabled: bool = True) -> None:
        self._report = report
        self._share = require_share(max_bad_images)
        self._enabled = enabled
        self._seen = 0
        self._bad = 0
        self._first: list[str] = []

    def good(self, images: Iterable[Image]) -> list[bool]:
        """Read and decode images; one looked at twice counts twice.

        Returns:
            Whether each image is whole.

        Raises:
            DatasetError: If the share of bad ones is past the limit, judged on 1000 images at least.
        """
        verdicts = [self._is_good(image) for image in images]
        self._judge(max(self._seen, _FEWEST_TO_JUDGE))
        return verdicts

    def all_good(self, images: Iterable[Image]) -> bool:
        """Whether all of the images are whole; see ``good``."""
        return all(self.good(images))

    def finish(self) -> None:
        """Judge the share over all images that the stream had, however few.

        Raises:
            DatasetError: If the share of bad ones is past the limit.
        """
        self._judge(self._seen)

    def _is_good(self, image: Image) -> bool:
        if not self._enabled:
            return True
        self._seen += 1
        self._report.images += 1
        try:
            decode_image(image.read())
        except DatasetError as error:
            self._bad += 1
            self._report.bad_images += 1
            said = f"{image.key}: {error}"
            for first in (self._first, self._report.first_bad_images):
                if len(first) < _FIRST:
                    first.append(said)
            return False
        return True

    def _judge(self, n_images: int) -> None:
        if self._bad > self._share * n_images:
            listed = "".join(f"\n  {said}" for said in self._first)
            raise DatasetError(
                f"{self._bad} of {self._seen} images are missing or broken, more than the share of {self._share:g} "
                f"that max_bad_images allows. Fetch them again, or pass a larger max_bad_images. The first:{listed}"
            )


def require_share(max_bad_images: float) -> float:
    """Return the share.

    Raises:
        ValueError: If it is not in [0, 1].
    """
    if not 0.0 <= max_bad_images <= 1.0:
        raise ValueError(f"max_bad_images is a share of the images, from 0 to 1, got {max_bad_images}")
    return max_bad_images
