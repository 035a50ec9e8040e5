"""Human Preference Dataset v2 (Wu et al., 2023): ``train.json`` of pairs and ``test.json`` of rankings, images beside.

The published README and the published files spell two keys differently; both spellings are read.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

from pasta_gym.datasets.base import BaseDataset
from pasta_gym.datasets.image_files import image_in_folder
from pasta_gym.datasets.json_rows import array_rows
from pasta_gym.datasets.records import Comparison, DatasetError, Image
from pasta_gym.datasets.rows import Row, shown

SPLITS: tuple[str, ...] = ("train", "test")
IMAGE_KEYS: tuple[str, ...] = ("image_path", "file_path")
POSITION_KEYS: tuple[str, ...] = ("annotation", "rank")
_MANY = 1_000_000

Rankings: TypeAlias = Literal["annotators", "averaged"]
"""Which rankings of the test split: each annotator's own, or their average."""


class HPDv2(BaseDataset):
    """Pairs (train) or rankings of nine or ten images (test) of HPD v2.

    The train split has no rater ids: each row is its own rater. In the test split every annotator's ranking is a
    comparison of its own, by ``user_hash``. Positions count from the best, from 0 or from 1 alike; equal ones are a
    tie, which the averaged ranking may not have. A bad image takes its pair with it; a ranking goes on without it while
    two images are left.

    Args:
        folder: Folder of ``train.json`` and ``train/*.jpg``, ``test.json`` and ``test/*.jpg``.
        split: One of ``SPLITS``.
        images: Folder of the images if it is another one than ``folder/split``.
        rankings: ``"averaged"`` yields the averaged ranking of a test prompt, without a rater, in place of the
            annotators' own. Files of the first release have no others.
        verify_images: Whether to read and decode the images before a record is yielded.
        max_bad_images: The share of bad images past which the stream raises.
        name: Name of the dataset.

    Raises:
        ValueError: If the split, the rankings or the share is unknown.
        DatasetError: If the JSON file is not there.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        split: str = "train",
        *,
        images: str | pathlib.Path | None = None,
        rankings: Rankings = "annotators",
        verify_images: bool = True,
        max_bad_images: float = 0.01,
        name: str = "hpdv2",
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if rankings not in get_args(Rankings):
            raise ValueError(f"rankings must be one of {', '.join(get_args(Rankings))}, got {rankings!r}")
        super().__init__(name, verify_images=verify_images, max_bad_images=max_bad_images)
        self.split = split
        self.file = pathlib.Path(folder) / f"{split}.json"
        if not self.file.is_file():
            raise DatasetError(f"no such file; expected {split}.json and the folder {split} beside it", file=self.file)
        self._images = pathlib.Path(images) if images is not None else pathlib.Path(folder) / split
        self._rankings = rankings

    def comparisons(self) -> Iterator[Comparison]:
        """Stream the pairs or rankings.

        Raises:
            DatasetError: If the JSON is broken, a value makes no sense, or too many images are bad.
        """
        return self._counted("comparisons", self._records())

    def _records(self) -> Iterator[Comparison]:
        check = self._image_check()
        for row in array_rows(self.file):
            prompt = row.text("prompt")
            if not prompt.strip():
                self.report.skipped["no prompt"] += 1
                continue
            images = self._row_images(row)
            kept = [index for index, good in enumerate(check.good(images)) if good]
            if len(kept) < (2 if self.split == "test" else len(images)):
                self.report.skipped["bad image"] += 1
                continue
            for rater, ranks in self._judgements(row, len(images)):
                yield Comparison(rater, prompt, tuple(images[i] for i in kept), tuple(ranks[i] for i in kept))
        check.finish()

    def _row_images(self, row: Row) -> list[Image]:
        key = _one_key(row, IMAGE_KEYS)
        images = []
        for path in row.texts(key):
            basename = pathlib.PurePosixPath(path).name
            if not basename:
                raise row.error(f"expected an image's file name, got {shown(path)}", key)
            # By basename: the archive's folders are not always kept when it is unpacked.
            images.append(image_in_folder(f"{self.split}/{basename}", self._images, (basename,)))
        if len(images) < 2 or (self.split == "train" and len(images) != 2):
            expected = "2 images" if self.split == "train" else "2 images or more"
            raise row.error(f"expected {expected}, got {len(images)}", key)
        return images

    def _judgements(self, row: Row, n_images: int) -> Iterator[tuple[str | None, list[float]]]:
        if self.split == "train":
            yield None, _pair_ranks(row)
        elif self._rankings == "annotators" and row.values.get("raw_annotations") is not None:
            for index, annotation in enumerate(row.items("raw_annotations")):
                yield self._annotation(row, index, annotation, n_images)
        elif self._rankings == "annotators":
            raise row.error(
                "no annotators' rankings (they were added to test.json in August 2023): fetch the file again, or pass "
                "rankings='averaged'",
                "raw_annotations",
            )
        else:
            yield None, _permutation(row, "rank", n_images)

    def _annotation(self, row: Row, index: int, annotation: Any, n_images: int) -> tuple[str | None, list[float]]:
        place = f"raw_annotations[{index}]"
        if not isinstance(annotation, dict):
            raise row.error(f"expected an object, got {shown(annotation)}", place)
        inner = Row(row.file, f"{row.number}, {place}", annotation)
        key = _one_key(inner, POSITION_KEYS)
        return inner.identifier("user_hash"), _positions(inner, key, n_images)


def _one_key(row: Row, keys: tuple[str, ...]) -> str:
    """Return the first of several spellings of a key that the row has."""
    for key in keys:
        if key in row.values:
            return key
    raise row.error(f"no {' or '.join(keys)}; found {', '.join(map(str, row.values)) or 'nothing'}", keys[0])


def _pair_ranks(row: Row) -> list[float]:
    preference = row.integers("human_preference")
    if preference not in ([1, 0], [0, 1]):
        raise row.error(f"expected [1, 0] or [0, 1], got {shown(preference)}", "human_preference")
    return [1.0 - value for value in preference]


def _positions(row: Row, key: str, n_images: int) -> list[float]:
    """Positions as they stand: a comparison's ranks mean their order alone, so their base does not matter.

    An annotator may have put two images at one place; the averaged ranking is one of all images.
    """
    positions = [
        int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MANY and value == int(value)
        else -1
        for value in row.items(key)
    ]
    if len(positions) != n_images or min(positions) < 0:
        raise row.error(
            f"expected {n_images} positions, one an image, whole numbers of 0 or more, got {shown(row.values[key])}; "
            "fetch the file again",
            key,
        )
    return [float(position) for position in positions]


def _permutation(row: Row, key: str, n_images: int) -> list[float]:
    positions = _positions(row, key, n_images)
    if sorted(positions) not in (list(range(n_images)), list(range(1, n_images + 1))):
        raise row.error(
            f"expected each of 0..{n_images - 1} or of 1..{n_images} once, got {shown(row.values[key])}; fetch the "
            "file again",
            key,
        )
    return positions
