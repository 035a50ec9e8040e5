"""The mini world's raters: labels of one world in Parquet, and the pool of painted sessions that they point into.

The pool keeps CLIP embeddings, no pixels. They are one table of a few megabytes that every label points into at
random, so it is read once and kept; labels are streamed. Where the pictures were kept as well, records can have those.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import NoReturn, cast

from pasta_gym.datasets.base import BaseDataset
from pasta_gym.datasets.label_folder import (
    COLUMNS,
    NO_CHOICE,
    Pool,
    of_another,
    read_label_folder,
    read_pool,
    scattered,
    second_time,
    wrong_turn,
)
from pasta_gym.datasets.parquet_rows import parquet_rows
from pasta_gym.datasets.records import VERDICTS, Comparison, DatasetError, Image, Rating, Session, Turn, Verdict
from pasta_gym.datasets.rows import Row, shown
from pasta_gym.mini import grammar
from pasta_gym.mini.pool_pictures import PoolPictures
from pasta_gym.mini.rater_data import SATISFACTION_LEVELS


class MiniRaters(BaseDataset):
    """Pairs, rankings, ratings and sessions of the mini world's raters. Prompts come with their embeddings.

    Args:
        folder: A folder that ``python -m pasta_gym.mini.rater_data label`` wrote; its ``metadata.json`` names the pool.
        pictures: Folder of the pool's pictures, which ``rater_data paint --pictures`` keeps. Images are then PNG files
            to be embedded; without it each comes as its embedding.
        name: Name of the dataset.

    Raises:
        DatasetError: If a file is missing or broken, or of another format, or there are no pictures.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        pictures: str | pathlib.Path | None = None,
        name: str = "mini_raters",
    ) -> None:
        super().__init__(name, verify_images=False, max_bad_images=0.0)
        self.folder = pathlib.Path(folder)
        self.people = f"the mini world's raters in {self.folder.resolve()}"
        """Two worlds number their raters alike."""
        self._labels = read_label_folder(self.folder)
        self.encoder_sha256 = self._labels.encoder_sha256
        self._pool: Pool | None = None
        self._pictures = (
            None if pictures is None else _open_pictures(pathlib.Path(pictures), self._labels.images_per_session)
        )
        self._splits = self._read_splits()

    def rater_split(self, rater: str) -> str:
        """Return the split of a rater and of all the rater's prompts: ``train``, ``validation`` or ``test``.

        Raises:
            ValueError: If nobody has this id.
        """
        if rater not in self._splits:
            raise ValueError(f"no rater {rater!r}; the ids are {', '.join(sorted(self._splits)[:3])}, ...")
        return self._splits[rater]

    def comparisons(self) -> Iterator[Comparison]:
        """Stream the pairs, ties among them, and then the rankings.

        Raises:
            DatasetError: If a file is broken or a value makes no sense.
        """

        def stream() -> Iterator[Comparison]:
            for row in self._rows("pairs"):
                label = row.number_in("label", 0.0, 1.0)
                if label not in (0.0, 0.5, 1.0):
                    raise row.error(f"expected 1, 0.5 or 0, got {label}", "label")
                yield self._comparison(row, [row.integer("first"), row.integer("second")], (1.0 - label, label))
            for row in self._rows("rankings"):
                images = row.integers("images")
                yield self._comparison(row, images, tuple(float(rank) for rank in range(len(images))))

        return self._counted("comparisons", stream())

    def ratings(self) -> Iterator[Rating]:
        """Stream the ratings.

        Raises:
            DatasetError: If a file is broken or a value makes no sense.
        """

        def stream() -> Iterator[Rating]:
            levels = self._labels.rating_levels
            for row in self._rows("ratings"):
                value = (row.number_in("rating", 1, levels) - 1) / (levels - 1)
                session = self._session_index(row)
                image = self._image(row, session, row.integer("image"))
                yield Rating(self._rater(row), _prompt(row), image, value, self.pool.prompts[session])

        return self._counted("ratings", stream())

    def sessions(self) -> Iterator[Session]:
        """Stream the sessions.

        Raises:
            DatasetError: If a file is broken, a value makes no sense, or a session's turns are not in order.
        """

        def stream() -> Iterator[Session]:
            seen: set[int] = set()
            for session, group in groupby(self._rows("turns"), key=self._session_index):
                rows = list(group)
                if session in seen:
                    raise rows[0].error(scattered(session), "session")
                seen.add(session)
                yield self._session(rows, session)

        return self._counted("sessions", stream())

    @property
    def pool(self) -> Pool:
        """Embeddings of all images and prompts, read on first use.

        Raises:
            DatasetError: If a shard is missing or broken.
        """
        if self._pool is None:
            self._pool = read_pool(self._labels.pool, self._labels.images_per_session)
        return self._pool

    def _rows(self, table: str) -> Iterator[Row]:
        return parquet_rows(self.folder / f"{table}.parquet", COLUMNS[table])

    def _read_splits(self) -> dict[str, str]:
        splits: dict[str, str] = {}
        numbered: dict[int, Row] = {}
        for row in self._rows("raters"):
            split = row.text("split")
            if split not in grammar.SPLITS:
                raise row.error(f"expected one of {', '.join(grammar.SPLITS)}, got {shown(split)}", "split")
            rater = row.integer("rater")
            if str(rater) in splits:
                raise row.error(second_time(rater), "rater")
            splits[str(rater)] = split
            numbered[rater] = row
        for rater, row in numbered.items():
            if not 0 <= rater < len(splits):
                raise row.error(f"expected a whole number from 0 to {len(splits) - 1}, got {rater}", "rater")
        return splits

    def _comparison(self, row: Row, images: list[int], ranks: tuple[float, ...]) -> Comparison:
        session = self._session_index(row)
        pictures = tuple(self._image(row, session, image) for image in images)
        with row.blamed():
            return Comparison(self._rater(row), _prompt(row), pictures, ranks, self.pool.prompts[session])

    def _session(self, rows: list[Row], session: int) -> Session:
        first = rows[0]
        if wrong := wrong_turn([row.integer("turn") for row in rows], self._labels.horizon):
            raise rows[wrong[0]].error(wrong[1], "turn")
        for row in rows[1:]:
            if row.integer("rater") != first.integer("rater"):
                raise row.error(of_another(session, first.integer("rater")), "rater")
        m = self._labels.images_per_prompt
        return Session(
            rater=self._rater(first),
            prompt=_prompt(first),
            turns=tuple(self._turn(row, session) for row in rows),
            initial_images=tuple(self._image(first, session, i) for i in range(m)),
            prompt_embedding=self.pool.prompts[session],
        )

    def _turn(self, row: Row, session: int) -> Turn:
        n_columns, m = self._labels.slate_size, self._labels.images_per_prompt
        start = m * (1 + row.integer("turn") * n_columns)
        columns = tuple(
            tuple(self._image(row, session, start + column * m + i) for i in range(m)) for column in range(n_columns)
        )
        verdict = row.values["than_before"]
        if verdict is not None and verdict not in VERDICTS:
            raise row.error(f"expected one of {', '.join(VERDICTS)} or nothing, got {shown(verdict)}", "than_before")
        choice = row.integer("choice")
        if not NO_CHOICE <= choice < n_columns:
            raise row.error(f"expected a whole number from {NO_CHOICE} to {n_columns - 1}, got {choice}", "choice")
        with row.blamed():
            return Turn(
                images=columns,
                choice=None if choice == NO_CHOICE else choice,
                prompts=tuple(_prompt_text(row, prompt, "slate") for prompt in row.integers("slate")),
                satisfactions=_satisfactions(row, n_columns),
                satisfaction=_satisfaction(row, "turn_satisfaction"),
                versus_previous=cast("Verdict | None", verdict),
                critique=None if row.values["critique"] is None else row.text("critique"),
            )

    def _rater(self, row: Row) -> str:
        rater = str(row.integer("rater"))
        if rater not in self._splits:
            raise row.error(f"rater {rater} is not in raters.parquet", "rater")
        return rater

    def _session_index(self, row: Row) -> int:
        session = row.integer("session")
        if not 0 <= session < len(self.pool.prompts):
            raise row.error(f"the pool has sessions 0..{len(self.pool.prompts) - 1}, got {session}", "session")
        return session

    def _image(self, row: Row, session: int, image: int) -> Image:
        n_images = self.pool.images.shape[1]
        if not 0 <= image < n_images:
            raise row.error(f"a session has images 0..{n_images - 1}, got {image}")
        key = f"{session}/{image}"
        if self._pictures is not None:
            return Image(key, partial(_read_picture, self._pictures, session, image))
        return Image(key, partial(_no_pixels, self._labels.pool, key), self.pool.images[session, image])


def _no_pixels(pool: pathlib.Path, key: str) -> NoReturn:
    raise DatasetError(
        f"image {key} has no pixels: the pool keeps embeddings; use Image.embedding, or keep the pictures with "
        "python -m pasta_gym.mini.rater_data paint --pictures and name their folder",
        file=pool,
    )


def _open_pictures(folder: pathlib.Path, n_images: int) -> PoolPictures:
    try:
        pictures = PoolPictures(folder)
    except (OSError, ValueError) as error:
        raise DatasetError(str(error), file=folder) from error
    if pictures.images_per_session != n_images:
        raise DatasetError(
            f"holds {pictures.images_per_session} pictures a session, the labels are about {n_images}; they are of "
            "another pool",
            file=folder,
        )
    return pictures


def _read_picture(pictures: PoolPictures, session: int, image: int) -> bytes:
    try:
        return pictures.encoded(session, image)
    except (OSError, ValueError) as error:
        raise DatasetError(str(error), file=pictures.folder, row=session) from error


def _prompt(row: Row) -> str:
    return _prompt_text(row, row.integer("prompt"), "prompt")


def _prompt_text(row: Row, prompt: int, column: str) -> str:
    with row.blamed(column):
        return grammar.prompt_text(prompt)


def _satisfactions(row: Row, n_columns: int) -> tuple[float | None, ...] | None:
    name = "column_satisfaction"
    if row.missing(name):
        return None
    levels = row.items(name)
    if len(levels) != n_columns:
        raise row.error(f"expected one for each of {n_columns} columns, got {len(levels)}", name)
    return tuple(_satisfaction(Row(row.file, row.number, {name: level}), name) for level in levels)


def _satisfaction(row: Row, column: str) -> float | None:
    """Read a satisfaction in [0, 1], None where nobody was asked."""
    if row.missing(column):
        return None
    level = row.integer(column)
    if not 1 <= level <= SATISFACTION_LEVELS:
        raise row.error(f"expected a whole number from 1 to {SATISFACTION_LEVELS}, got {level}", column)
    return (level - 1) / (SATISFACTION_LEVELS - 1)
