"""Simulacra Aesthetic Captions (Pressman et al., 2022): ratings from 1 to 10 in an SQLite file, images in a folder.

The release has no user ids. A survey's row, ``sid``, stands for the person who answered it. The survey answers
themselves, some of which a bug spoilt, are not read.
"""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from pasta_gym.datasets.base import BaseDataset
from pasta_gym.datasets.image_check import ImageCheck
from pasta_gym.datasets.image_files import image_in_folder
from pasta_gym.datasets.records import DatasetError, Rating
from pasta_gym.datasets.rows import Row, require_columns

TABLES: dict[str, tuple[str, ...]] = {
    "ratings": ("sid", "iid", "rating"),
    "images": ("id", "gid", "idx"),
    "generations": ("id", "prompt"),
    "paths": ("iid", "path"),
}
LOWEST, HIGHEST = 1, 10

# Outer joins: a rating of an image that the other tables do not know must be counted, not lost.
_QUERY = """
    SELECT ratings.rowid, ratings.sid, ratings.rating, ratings.iid,
           images.id, images.gid, images.idx, generations.prompt, found.path
    FROM ratings
    LEFT JOIN images ON images.id = ratings.iid
    LEFT JOIN generations ON generations.id = images.gid
    LEFT JOIN (SELECT iid, MIN(path) AS path FROM paths GROUP BY iid) AS found ON found.iid = images.id
    ORDER BY ratings.rowid
"""
_SELECTED = ("rowid", "sid", "rating", "iid", "image", "gid", "idx", "prompt", "path")


class Simulacra(BaseDataset):
    """Ratings of Simulacra Aesthetic Captions, scaled from 1..10 to [0, 1].

    Rows without a rating, with an empty prompt, or of an image that no table knows are skipped and counted. An image
    is looked for by its path, by its path's last part, and as ``{gid}_{idx}.png``, the short name that tools give to
    files whose own names are too long.

    Args:
        file: ``sac_public_2022_06_29.sqlite``. It is opened for reading alone.
        images: Folder of the unpacked images.
        verify_images: Whether to read and decode an image before its rating is yielded.
        max_bad_images: The share of bad images past which the stream raises.
        name: Name of the dataset.

    Raises:
        ValueError: If the share is not in [0, 1].
        DatasetError: If the file is not there, is no SQLite database, or lacks a table or column.
    """

    def __init__(
        self,
        file: str | pathlib.Path,
        images: str | pathlib.Path,
        *,
        verify_images: bool = True,
        max_bad_images: float = 0.01,
        name: str = "simulacra",
    ) -> None:
        super().__init__(name, verify_images=verify_images, max_bad_images=max_bad_images)
        self.file = pathlib.Path(file)
        self._images = pathlib.Path(images)
        self._require_tables()

    def ratings(self) -> Iterator[Rating]:
        """Stream the ratings.

        Raises:
            DatasetError: If the database is broken, a value makes no sense, or too many images are bad.
        """
        return self._counted("ratings", self._records())

    def _records(self) -> Iterator[Rating]:
        check = self._image_check()
        for row in self._query(_QUERY, _SELECTED, "ratings"):
            rating = self._rating(row, check)
            if rating is not None:
                yield rating
        check.finish()

    def _rating(self, row: Row, check: ImageCheck) -> Rating | None:
        if row.values["rating"] is None:
            self.report.skipped["no rating"] += 1
            return None
        rating = row.integer("rating")
        if not LOWEST <= rating <= HIGHEST:
            raise row.error(f"expected a rating from {LOWEST} to {HIGHEST}, got {rating}", "rating")
        if row.values["image"] is None:
            self.report.skipped["unknown image"] += 1
            return None
        prompt = row.text("prompt") if row.values["prompt"] is not None else ""
        if not prompt.strip():
            self.report.skipped["no prompt"] += 1
            return None
        image = image_in_folder(f"image {row.integer('image')}", self._images, _file_names(row))
        if not check.all_good([image]):
            self.report.skipped["bad image"] += 1
            return None
        return Rating(row.identifier("sid"), prompt, image, (rating - LOWEST) / (HIGHEST - LOWEST))

    def _require_tables(self) -> None:
        if not self.file.is_file():
            raise DatasetError("no such file; expected sac_public_2022_06_29.sqlite", file=self.file)
        for table, columns in TABLES.items():
            found = [
                str(row.values["name"]) for row in self._query(f"PRAGMA table_info({table})", ("cid", "name"), table)
            ]
            require_columns([f"{table}.{c}" for c in columns], [f"{table}.{c}" for c in found], str(self.file))

    def _query(self, query: str, columns: tuple[str, ...], table: str) -> Iterator[Row]:
        """Stream a query's rows; a row is known by its table and its first column."""
        address = f"{self.file.resolve().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True)) as connection:
                for values in connection.execute(query):
                    row = dict(zip(columns, values, strict=False))
                    yield Row(str(self.file), f"{table} {values[0]}", row)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise DatasetError(
                f"cannot be read as SQLite ({error}); it may be cut short: fetch it again", file=self.file
            ) from error


def _file_names(row: Row) -> tuple[str, ...]:
    short = f"{row.integer('gid')}_{row.integer('idx')}.png"
    if row.values["path"] is None:
        return (short,)
    path = row.text("path")
    return (path, pathlib.PurePosixPath(path).name, short)
