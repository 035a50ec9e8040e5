"""Pick-a-Pic v1 and v2 (Kirstain et al., 2023): Parquet shards of pairs with user ids, ties and image bytes.

Labels are streamed; the pixel columns, which are nearly all of the 200 to 320 GB, are read beside them only when an
image is asked for.
"""

from __future__ import annotations

import bisect
import itertools
import pathlib
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from pasta_gym.datasets.base import BaseDataset
from pasta_gym.datasets.image_check import ImageCheck
from pasta_gym.datasets.parquet_rows import column_names, open_parquet, parquet_rows, reading_parquet
from pasta_gym.datasets.records import Comparison, DatasetError, Image
from pasta_gym.datasets.rows import Row, shown

SPLITS: tuple[str, ...] = ("train", "validation", "test", "validation_unique", "test_unique")
COLUMNS: tuple[str, ...] = (
    "caption",
    "has_label",
    "image_0_uid",
    "image_1_uid",
    "label_0",
    "label_1",
    "user_id",
)
PIXELS: tuple[str, ...] = ("jpg_0", "jpg_1")

_RANKS = {(1.0, 0.0): (0.0, 1.0), (0.0, 1.0): (1.0, 0.0), (0.5, 0.5): (0.0, 0.0)}
_PIXEL_ROWS = 32
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")


class PickAPic(BaseDataset):
    """Pairs of Pick-a-Pic, one comparison a row.

    Rows without a label, with an empty prompt, or that show one image twice are skipped and counted. Users are known
    by ``user_id``. In the ``*_no_images`` variant ``Image.read`` raises, because its URLs are dead.

    Args:
        path: The folder that was downloaded (``data/train-00000-of-00645-….parquet`` or
            ``train/0000.parquet`` under it), or one Parquet file.
        split: One of ``SPLITS``.
        verify_images: Whether to read and decode both images before a pair is yielded. Without pixel columns there is
            nothing to verify.
        max_bad_images: The share of bad images past which the stream raises.
        name: Name of the dataset.

    Raises:
        ValueError: If the split or the share is unknown.
        DatasetError: If no shard of the split is there, or one lacks a column.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        split: str = "train",
        *,
        verify_images: bool = True,
        max_bad_images: float = 0.01,
        name: str = "pickapic",
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.shards = _find_shards(pathlib.Path(path), split)
        found = column_names(self.shards[0])
        self.has_pixels = any(column in found for column in PIXELS)
        super().__init__(name, verify_images=verify_images and self.has_pixels, max_bad_images=max_bad_images)
        self.report.decisions["shards"] = _completeness(self.shards)
        if not self.has_pixels:
            self.report.decisions["images"] = "none in these files: they have no columns jpg_0 and jpg_1"
        self._pixels = _PixelReader()

    def comparisons(self) -> Iterator[Comparison]:
        """Stream the pairs, shard after shard.

        Raises:
            DatasetError: If a shard is broken, a value makes no sense, or too many images are bad.
        """
        return self._counted("comparisons", self._pairs())

    def _pairs(self) -> Iterator[Comparison]:
        check = self._image_check()
        for shard in self.shards:
            for row in parquet_rows(shard, COLUMNS):
                pair = self._pair(row, shard, check)
                if pair is not None:
                    yield pair
        check.finish()

    def _pair(self, row: Row, shard: pathlib.Path, check: ImageCheck) -> Comparison | None:
        if not row.boolean("has_label"):
            self.report.skipped["no label"] += 1
            return None
        labels = (row.number_in("label_0", 0.0, 1.0), row.number_in("label_1", 0.0, 1.0))
        if labels not in _RANKS:
            raise row.error(f"label_0, label_1 must be 1, 0 or 0, 1 or 0.5, 0.5, got {labels}", "label_0")
        caption = row.text("caption") if row.values["caption"] is not None else ""
        if not caption.strip():
            self.report.skipped["no prompt"] += 1
            return None
        images = tuple(self._image(row, shard, side) for side in (0, 1))
        if images[0] == images[1]:
            self.report.skipped["one image twice"] += 1
            return None
        if not check.all_good(images):
            self.report.skipped["bad image"] += 1
            return None
        return Comparison(row.identifier("user_id"), caption, images, _RANKS[labels])

    def _image(self, row: Row, shard: pathlib.Path, side: int) -> Image:
        column = f"image_{side}_uid"
        uid = row.identifier(column)
        if uid is None:
            raise row.error("expected the image's uid, got nothing", column)
        assert isinstance(row.number, int)
        return Image(uid, partial(self._read, shard, row.number, PIXELS[side]))

    def _read(self, shard: pathlib.Path, row: int, column: str) -> bytes:
        if not self.has_pixels:
            raise DatasetError(
                "has no pixels, and its image URLs are dead; the datasets pickapic_v1 and pickapic_v2 (not "
                "*_no_images) have them in the columns jpg_0 and jpg_1",
                file=shard,
                row=row,
                column=column,
            )
        return self._pixels.read(shard, row, column)


class _PixelReader:
    """Reads single images out of shards: one file open and a few rows in memory, whatever was asked for before.

    Images asked for in the order of the rows cost one pass over the file. Going back, or into another row group,
    costs reading that row group from its beginning.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._shard: pathlib.Path | None = None
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[Any] = iter(())
        self._first_rows: list[int] = []
        self._group = -1
        self._start = 0
        self._rows: dict[str, list[Any]] = {}

    def read(self, shard: pathlib.Path, row: int, column: str) -> bytes:
        """Return one image's encoded bytes.

        Raises:
            DatasetError: If the shard is broken or holds no bytes there.
        """
        with self._lock:
            try:
                with reading_parquet(str(shard)):
                    return self._value(shard, row, column)
            except DatasetError:
                self._close()
                raise

    def _value(self, shard: pathlib.Path, row: int, column: str) -> bytes:
        if shard != self._shard:
            self._change_to(shard)
        if column not in self._columns():
            raise DatasetError(f"no column {column}, so this row has half of its pixels", file=shard, row=row)
        self._move_to(row)
        value = self._rows[column][row - self._start]
        if isinstance(value, dict):  # as the datasets library stores an image
            value = value.get("bytes")
        if not isinstance(value, bytes) or not value:
            raise DatasetError(
                f"expected the bytes of an image, got {shown(value)}", file=shard, row=row, column=column
            )
        return value

    def _columns(self) -> list[str]:
        assert self._file is not None
        return [column for column in PIXELS if column in self._file.schema_arrow.names]

    def _change_to(self, shard: pathlib.Path) -> None:
        self._close()
        self._file = self._open.enter_context(open_parquet(shard))
        self._shard = shard
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._first_rows = list(itertools.accumulate(sizes, initial=0))

    def _move_to(self, row: int) -> None:
        """Make the batch in memory the one that holds the row."""
        assert self._file is not None
        assert self._shard is not None
        if not 0 <= row < self._first_rows[-1]:
            raise DatasetError(f"has {self._first_rows[-1]} rows", file=self._shard, row=row)
        group = bisect.bisect_right(self._first_rows, row) - 1
        if group != self._group or row < self._start:
            self._group, self._start, self._rows = group, self._first_rows[group], {}
            self._batches = self._file.iter_batches(
                batch_size=_PIXEL_ROWS, row_groups=[group], columns=self._columns(), use_threads=False
            )
        while row >= self._start + self._n_rows():
            self._start += self._n_rows()
            self._rows = {}
            self._rows = _next_batch(self._batches, self._shard)

    def _n_rows(self) -> int:
        return len(next(iter(self._rows.values()))) if self._rows else 0

    def _close(self) -> None:
        stack, self._open = self._open, ExitStack()
        self._shard, self._file, self._group, self._start, self._rows = None, None, -1, 0, {}
        self._batches = iter(())
        stack.close()


def _next_batch(batches: Iterator[Any], shard: pathlib.Path) -> dict[str, list[Any]]:
    batch = next(batches, None)
    if batch is None or batch.num_rows == 0:
        raise DatasetError("ends before the rows that its footer promises", file=shard)
    columns: dict[str, list[Any]] = batch.to_pydict()
    return columns


def _find_shards(path: pathlib.Path, split: str) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    for folder in (path / "data", path, path / "default"):
        shards = sorted(folder.glob(f"{split}-*.parquet")) or sorted((folder / split).glob("*.parquet"))
        if shards:
            return shards
    present = sorted(str(found.relative_to(path)) for found in path.glob("**/*.parquet"))[:5] if path.is_dir() else []
    raise DatasetError(
        f"no Parquet files of the split {split!r}; expected data/{split}-00000-of-NNNNN-….parquet or "
        f"{split}/0000.parquet, found {', '.join(present) or 'no Parquet files'}",
        file=path,
    )


def _completeness(shards: list[pathlib.Path]) -> str:
    numbered = [_SHARD.search(shard.name) for shard in shards]
    totals = {int(match[2]) for match in numbered if match}
    return f"{len(shards)} of {totals.pop()}" if len(totals) == 1 else str(len(shards))
