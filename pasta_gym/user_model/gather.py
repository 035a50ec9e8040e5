"""Gathers preference datasets into the arrays that the user model is fitted on (section 5.2)."""

from __future__ import annotations

import hashlib
import logging
import pathlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
from tqdm.auto import tqdm

from pasta_gym.datasets.records import (
    Comparison,
    DatasetError,
    Image,
    LoadReport,
    PreferenceDataset,
    Rating,
    Record,
    Session,
)
from pasta_gym.datasets.splits import (
    DEFAULT_FRACTIONS,
    people_of,
    require_fractions,
    split_of_prompt,
    split_of_rater,
)
from pasta_gym.encoders.embedding_cache import EmbeddingCache, Encoder
from pasta_gym.types import IntArray
from pasta_gym.user_model.data import SPLITS, PreferenceData, Source
from pasta_gym.user_model.embedding_table import NO_ROW, EmbeddingTable, Item
from pasta_gym.user_model.encoder_identity import require_given_embeddings
from pasta_gym.user_model.label_columns import LabelColumns
from pasta_gym.user_model.originals import Originals
from pasta_gym.user_model.pins import Pins

logger = logging.getLogger(__name__)

WINDOW = 256
"""New images that are collected before they are encoded together."""

_MOST_RECORDS = 4096
_FEWEST_TO_JUDGE = 1000
_FIRST = 5
_DROPPED = "in another split than its rater"
_HELD_OUT = "its rater, or prompt, is put into another split by another dataset"

R = TypeVar("R", bound=Record)
ImageItem = Item[bytes | DatasetError | None]
"""A file's bytes, or why there are none; None beside an embedding."""


@dataclass(frozen=True)
class RaterSplits:
    """How raters are split where a dataset has no ``rater_split`` of its own and is not put into a split whole.

    Attributes:
        fractions: Expected share of raters by split; they sum to 1.
        seed: Another seed gives an independent assignment.
        by: ``rater`` keeps raters apart. ``both`` also drops records whose prompt falls in another split than their
            rater, so that no prompt is in two splits either. A record without a rater follows its prompt.

    Raises:
        ValueError: If ``by`` or a split is unknown, or the fractions are not shares that sum to 1.
    """

    fractions: Mapping[str, float] = field(default_factory=lambda: DEFAULT_FRACTIONS)
    seed: int = 0
    by: Literal["rater", "both"] = "rater"

    def __post_init__(self) -> None:
        if self.by not in ("rater", "both"):
            raise ValueError(f"by must be rater or both, got {self.by!r}")
        if unknown := sorted(set(self.fractions) - set(SPLITS)):
            raise ValueError(f"fractions must be by split, {', '.join(SPLITS)}, got {', '.join(unknown)}")
        require_fractions(self.fractions)


def gather(
    datasets: PreferenceDataset | Sequence[PreferenceDataset],
    encoder: Encoder | None = None,
    cache_folder: str | pathlib.Path | None = None,
    *,
    splits: RaterSplits | None = None,
    as_split: Mapping[str, str] | None = None,
    max_comparisons: int | None = None,
    max_ratings: int | None = None,
    max_sessions: int | None = None,
    max_bad_images: float = 0.01,
    originals: Originals | None = None,
    progress: bool = False,
) -> PreferenceData:
    """Read datasets once, from end to end, and embed what they show.

    A comparison of two becomes a pair. An untied ranking stays one, whatever its length; a ranking with ties, which
    no list can say, is broken into pairs of neighbours, which is what ``PreferenceData.all_pairs`` makes of rankings
    anyway. Neighbours that are tied are a tie, and the order within the tie is that of the record.

    An image that cannot be read leaves its comparison, which goes on without it if two are left, drops its rating,
    and takes the choice from its turn. Such images are counted in the dataset's ``report``.

    Args:
        datasets: One or several. An id of two datasets of the same people (``people_of``) is one rater, whose labels in
            both say what this person likes; images of two datasets are different images.
        encoder: Embeds what comes without an embedding. Embeddings that come with records must be of the same one, as
            far as the dataset's ``encoder_sha256`` says whose they are.
        cache_folder: Where embeddings are kept, in ``images`` and ``texts``, for this run and later ones.
        splits: How raters are split; a dataset with a method ``rater_split(rater)`` decides itself.
        as_split: Datasets all of whose raters are of one split, by name: ``{"hpdv2_test": "test"}``. They are read
            first. A person whom two datasets of one kind know is in one split, see ``Pins``; what must be left out for
            that is counted in the ``report``.
        max_comparisons: Most comparisons taken of each dataset; None means all.
        max_ratings: Most ratings.
        max_sessions: Most sessions.
        max_bad_images: The share of unreadable images past which gathering stops.
        originals: Keeps what is behind each row of the embeddings, to train an encoder on it or score it.
        progress: Show a bar.

    Returns:
        The data. ``image_embeddings`` may be a private memory map, which is never written to.

    Raises:
        DatasetError: If a dataset is broken, or has more bad images than allowed.
        ValueError: If embeddings do not fit each other or are of two encoders, slates differ in size, two datasets have
            one name, a split or a dataset of ``as_split`` is unknown, or there is no encoder for what needs one.
    """
    several = [datasets] if isinstance(datasets, PreferenceDataset) else list(datasets)
    names = Counter(dataset.name for dataset in several)
    if repeated := [name for name, n in names.items() if n > 1]:
        raise ValueError(f"two datasets are called {repeated[0]!r}, and images are told apart by it; pass name=...")
    if not 0.0 <= max_bad_images <= 1.0:
        raise ValueError(f"max_bad_images is a share of the images, from 0 to 1, got {max_bad_images}")
    if encoder is not None and cache_folder is None:
        raise ValueError("an encoder needs a cache_folder, where its embeddings are kept")
    for name, most in (
        ("max_comparisons", max_comparisons),
        ("max_ratings", max_ratings),
        ("max_sessions", max_sessions),
    ):
        if most is not None and most < 0:
            raise ValueError(f"{name} must be 0 or more, or None for all, got {most}")
    rule = splits or RaterSplits()
    pins = Pins(as_split or {}, several, prompts_too=rule.by == "both")
    gathered = _Gatherer(encoder, cache_folder, rule, pins, max_bad_images, originals)
    for dataset in pins.in_order(several):
        gathered.start(dataset)  # refuses another encoder's embeddings before anything is read
        with tqdm(disable=not progress, desc=f"gathering {dataset.name}", unit=" records", mininterval=1) as bar:
            gathered.take(islice(dataset.comparisons(), max_comparisons), gathered.add_comparison, bar)
            gathered.take(islice(dataset.ratings(), max_ratings), gathered.add_rating, bar)
            gathered.take(islice(dataset.sessions(), max_sessions), gathered.add_session, bar)
        gathered.judge(1)
        if n_left_out := dataset.report.skipped[_HELD_OUT]:
            logger.warning("%d records of %s are left out: %s", n_left_out, dataset.name, _HELD_OUT)
    return gathered.data()


class _Gatherer:
    """What has been gathered so far."""

    def __init__(
        self,
        encoder: Encoder | None,
        cache_folder: str | pathlib.Path | None,
        splits: RaterSplits,
        pins: Pins,
        max_bad_images: float,
        originals: Originals | None,
    ) -> None:
        self._splits = splits
        self._pins = pins
        self._max_bad_images = max_bad_images
        self._encoder = encoder
        self._originals = originals
        self._images_sha256 = hashlib.sha256()
        self._image_cache = self._text_cache = None
        dim = None
        if encoder is not None and cache_folder is not None:
            # Apart, so that the images of one dataset are one slice of the cache and need no copy.
            self._image_cache = EmbeddingCache.of(encoder, pathlib.Path(cache_folder) / "images")
            self._text_cache = EmbeddingCache.of(encoder, pathlib.Path(cache_folder) / "texts")
            dim = encoder.embedding_dim
        self._images = EmbeddingTable[bytes | DatasetError | None](
            "image",
            self._embed_images if encoder else None,
            dim,
            self._image_row,
        )
        self._prompts = EmbeddingTable[str](
            "prompt",
            self._embed_texts if encoder else None,
            dim,
            originals.add_prompt if originals is not None else None,
        )
        self._rater_of: dict[tuple[str, str], int] = {}
        self._rater_splits = array("q")
        self._labels = LabelColumns()
        self._dataset: PreferenceDataset | None = None
        self._raters_of: list[tuple[PreferenceDataset, set[int]]] = []
        self._report, self._people = LoadReport(), ""
        self._encoder_sha256: str | None = None if encoder is None else encoder.identity.get("weights_sha256")

    def start(self, dataset: PreferenceDataset) -> None:
        """Take records from another dataset from here on."""
        self._dataset, self._report, self._people = dataset, dataset.report, people_of(dataset)
        theirs: str | None = getattr(dataset, "encoder_sha256", None)
        require_given_embeddings(dataset.name, theirs, self._encoder_sha256)
        self._encoder_sha256 = self._encoder_sha256 or theirs
        self._raters_of.append((dataset, set()))
        self._seen = self._bad = 0
        self._first: list[str] = []

    def take(self, records: Iterator[R], add: Callable[[R], None], bar: tqdm[None]) -> None:
        """Read a stream in windows: collect images, encode them together, add the records."""
        window: list[R] = []
        waiting: dict[tuple[str, str], ImageItem] = {}

        def flush() -> None:
            self._images.resolve(list(waiting.values()))
            self._prompts.resolve([self._prompt_item(record) for record in window])
            for record in window:
                add(record)
            bar.update(len(window))
            window.clear()
            waiting.clear()
            self.judge(_FEWEST_TO_JUDGE)

        for record in records:
            if self._split_of(record) is None:
                self._report.skipped[_DROPPED if self._pins.of_dataset(self._name) is None else _HELD_OUT] += 1
                continue
            self._pins.meet(self._name, self._people, record)
            window.append(record)
            for image in _images_of(record):
                name = (self._name, image.key)
                if name not in waiting and not self._images.has(name):
                    # Read now: where a loader reads in step with its rows, going back to an image is slow.
                    waiting[name] = Item(name, self._content(image), image.embedding)
            if len(waiting) >= WINDOW or len(window) >= _MOST_RECORDS:
                flush()
        flush()

    def judge(self, fewest: int) -> None:
        """Stop if too many of the images are bad, judged on ``fewest`` at least."""
        if self._bad > self._max_bad_images * max(self._seen, fewest):
            listed = "".join(f"\n  {said}" for said in self._first)
            raise DatasetError(
                f"{self._bad} of {self._seen} images of {self._name} are missing or broken, more than the share of "
                f"{self._max_bad_images:g} that max_bad_images allows. Fetch them again, or pass a larger one. "
                f"The first:{listed}"
            )

    def add_comparison(self, comparison: Comparison) -> None:
        """Add a pair, or a ranking, of the images that can be read."""
        rows = self._rows(comparison.images)
        good = [i for i, row in enumerate(rows) if row != NO_ROW]
        if len(good) < 2:
            self._report.skipped["comparison with fewer than two good images"] += 1
            return
        self._labels.add_comparison(
            *self._context(comparison), [rows[i] for i in good], [comparison.ranks[i] for i in good]
        )

    def add_rating(self, rating: Rating) -> None:
        """Add a rating, if its image can be read."""
        (row,) = self._rows((rating.image,))
        if row == NO_ROW:
            self._report.skipped["rating of a bad image"] += 1
            return
        self._labels.add_rating(*self._context(rating), row, rating.value)

    def add_session(self, session: Session) -> None:
        """Add a session, if a turn is left whose images can all be read."""
        images = np.array([[self._rows(column) for column in turn.images] for turn in session.turns], dtype=np.int64)
        if not (images != NO_ROW).all(axis=(1, 2)).any():
            self._report.skipped["session without a turn of good images"] += 1
            return
        self._labels.add_session(*self._context(session), images, session.turns)

    def data(self) -> PreferenceData:
        """Build the arrays."""
        spread = None if self._image_cache is None else self._image_cache.folder / "gathered.npy"
        data = self._labels.data(
            np.asarray(self._prompts.table(self._text_cache, None), dtype=np.float32),
            self._images.table(self._image_cache, spread),
            np.array(self._rater_splits, dtype=np.int64),
        )
        sources = [
            Source(dataset.name, people_of(dataset), np.array(sorted(raters), dtype=np.int64))
            for dataset, raters in self._raters_of
        ]
        return replace(
            data,
            sources=tuple(sources),
            encoder_sha256=self._encoder_sha256,
            images_sha256=self._images_sha256.hexdigest(),
        )

    @property
    def _name(self) -> str:
        return "" if self._dataset is None else self._dataset.name

    def _rows(self, images: Sequence[Image]) -> list[int]:
        return [self._images[self._name, image.key] for image in images]

    def _prompt_item(self, record: Record) -> Item[str]:
        # An embedding that came along belongs to its dataset; what is encoded here is the same in all.
        given = record.prompt_embedding is not None
        name = (self._name, record.prompt) if given else ("", record.prompt)
        return Item(name, record.prompt, record.prompt_embedding)

    def _context(self, record: Record) -> tuple[int, int]:
        """The record's rater and prompt."""
        return self._rater(record), self._prompts[self._prompt_item(record).name]

    def _rater(self, record: Record) -> int:
        """Number a record's rater; whoever is unknown is somebody new."""
        known = self._known(record)
        number = len(self._rater_splits) if known is None else known
        if known is None:
            split = self._split_of(record)
            if split not in SPLITS:
                raise ValueError(
                    f"rater {record.rater} of {self._name} is in split {split!r}, expected one of {SPLITS}"
                )
            self._rater_splits.append(SPLITS.index(split))
        if record.rater is not None:
            self._rater_of[self._people, record.rater] = number
        self._raters_of[-1][1].add(number)
        return number

    def _known(self, record: Record) -> int | None:
        """Number of a rater who was met before, in any dataset of the same people."""
        return None if record.rater is None else self._rater_of.get((self._people, record.rater))

    def _split_of(self, record: Record) -> str | None:
        """Return the split of a record, None if its rater and its prompt disagree and both count, or if others do."""
        if self._pins.of_dataset(self._name) is not None:
            return self._pins.split_of(self._name, self._people, record)
        met = self._pins.of_rater(self._people, record)
        if met is None and (known := self._known(record)) is not None:
            met = SPLITS[self._rater_splits[known]]
        own = getattr(self._dataset, "rater_split", None)
        if own is not None and record.rater is not None:
            return met or str(own(record.rater))
        rule = self._splits
        of_prompt = self._pins.of_prompt(record) or split_of_prompt(record.prompt, rule.fractions, rule.seed)
        if record.rater is None:
            return of_prompt
        of_rater = met or split_of_rater(record.rater, rule.fractions, rule.seed)
        return None if rule.by == "both" and of_rater != of_prompt else of_rater

    def _embed_texts(self, items: Sequence[Item[str]]) -> IntArray:
        assert self._text_cache is not None
        assert self._encoder is not None
        return self._text_cache.embed_texts(self._encoder, [item.content for item in items])

    def _embed_images(self, items: Sequence[ImageItem]) -> IntArray:
        assert self._image_cache is not None
        assert self._encoder is not None
        rows = np.full(len(items), NO_ROW, dtype=np.int64)
        read: dict[int, bytes] = {}
        for i, item in enumerate(items):
            if isinstance(item.content, bytes):
                read[i] = item.content
            else:
                self._count_bad(item, str(item.content))
        places = list(read)
        found = self._image_cache.embed_images(
            self._encoder, list(read.values()), on_bad=lambda i, why: self._count_bad(items[places[i]], why)
        )
        rows[places] = found
        self._seen += len(items)
        self._report.images += len(items)
        return rows

    def _image_row(self, row: int, item: ImageItem) -> None:
        """Note which image the next row is of."""
        self._images_sha256.update(f"{item.name!r}\n".encode(errors="surrogatepass"))
        if self._originals is not None:
            self._originals.add_image(row, item)

    def _content(self, image: Image) -> bytes | DatasetError | None:
        if image.embedding is not None or self._encoder is None:
            return None
        try:
            return image.read()
        except DatasetError as error:
            return error

    def _count_bad(self, item: ImageItem, why: str) -> None:
        assert isinstance(item.name, tuple)
        said = f"{item.name[1]}: {why}"
        logger.debug("bad image %s", said)
        self._bad += 1
        self._report.bad_images += 1
        for first in (self._first, self._report.first_bad_images):
            if len(first) < _FIRST:
                first.append(said)


def _images_of(record: Record) -> Iterator[Image]:
    """The images whose scores count. A session's initial ones are seen by nobody's model."""
    if isinstance(record, Comparison):
        yield from record.images
    elif isinstance(record, Rating):
        yield record.image
    else:
        for turn in record.turns:
            for column in turn.images:
                yield from column
