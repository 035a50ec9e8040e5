"""The records that every preference dataset yields, whatever its files look like (section 5.2).

A record holds references to images, never pixels: an image is read when somebody asks for it, so that a stream over
a hundred gigabytes costs no more memory than one batch of rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

from pasta_gym.types import FloatArray

Verdict: TypeAlias = Literal["better", "same", "worse"]
"""How a slate compares with the one before."""

VERDICTS: tuple[str, ...] = get_args(Verdict)


class DatasetError(ValueError):
    """A file that cannot be read as what it should be.

    Attributes:
        file: Path of the file, as the user would type it; None if no single file is to blame.
        row: Row (or entry, or table key) inside the file, counted from 0; None if the file as a whole is to blame.
        column: Column, field or key; None if the row as a whole is to blame.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object | None = None,
        row: int | str | None = None,
        column: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.row = row
        self.column = column
        place = [
            *([] if self.file is None else [self.file]),
            *([] if row is None else [f"row {row}"]),
            *([] if column is None else [f"column {column}"]),
        ]
        super().__init__(f"{', '.join(place)}: {problem}" if place else problem)


@dataclass(frozen=True)
class Image:
    """A reference to one image. Two images are equal when their keys are.

    Attributes:
        key: Stable name, unique within the dataset (uid, relative path, ...).
        read: Returns the encoded bytes (JPEG, PNG, WebP); raises ``DatasetError`` when they are missing. Holds no
            open file.
        embedding: ``(d,)`` CLIP embedding, not normalised, where a dataset ships embeddings in place of pixels.
    """

    key: str
    read: Callable[[], bytes] = field(repr=False, compare=False)
    embedding: FloatArray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_text("an image's key", self.key)


@dataclass(frozen=True)
class Comparison:
    """A pair, a tie or a ranking: images of one prompt that one rater put in order.

    Attributes:
        rater: Who compared; None if unknown, and then the row is its own rater.
        prompt: The initial prompt.
        images: Two or more.
        ranks: One for each image: lower is better, equal is a tie. Only their order means anything.
        prompt_embedding: ``(d,)`` CLIP embedding of the prompt, not normalised, where a dataset ships it.
    """

    rater: str | None
    prompt: str
    images: tuple[Image, ...]
    ranks: tuple[float, ...]
    prompt_embedding: FloatArray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_context(self.rater, self.prompt)
        if len(self.images) < 2:
            raise ValueError(f"a comparison needs 2 images or more, got {len(self.images)}")
        if len(self.ranks) != len(self.images):
            raise ValueError(f"a comparison needs one rank an image, got {len(self.ranks)} for {len(self.images)}")
        if not all(math.isfinite(rank) for rank in self.ranks):
            raise ValueError(f"ranks must be finite numbers, got {self.ranks}")


@dataclass(frozen=True)
class Rating:
    """One rater's rating of one image.

    Attributes:
        rater: Who rated; None if unknown, and then the row is its own rater.
        prompt: The initial prompt.
        image: What was rated.
        value: In [0, 1]: min-max scaled by the ends of the dataset's own scale.
        prompt_embedding: ``(d,)`` CLIP embedding of the prompt, not normalised, where a dataset ships it.
    """

    rater: str | None
    prompt: str
    image: Image
    value: float
    prompt_embedding: FloatArray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_context(self.rater, self.prompt)
        _require_unit("a rating", self.value)


@dataclass(frozen=True)
class Turn:
    """One slate and what the rater said about it (appendix B).

    Attributes:
        images: L columns of M images.
        choice: The preferred column, from 0; None where nobody chose.
        prompts: The expansions, one a column.
        satisfactions: With each column, in [0, 1]; None for a column where nobody was asked, or for all.
        satisfaction: With the whole turn, in [0, 1].
        versus_previous: The slate against the one before.
        critique: What the rater would like changed.
    """

    images: tuple[tuple[Image, ...], ...]
    choice: int | None
    prompts: tuple[str, ...] | None = None
    satisfactions: tuple[float | None, ...] | None = None
    satisfaction: float | None = None
    versus_previous: Verdict | None = None
    critique: str | None = None

    def __post_init__(self) -> None:
        n_columns = len(self.images)
        sizes = {len(column) for column in self.images}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                "a slate needs one column or more, each with the same number of images, 1 or more; "
                f"got {[len(column) for column in self.images]}"
            )
        if self.choice is not None and not 0 <= self.choice < n_columns:
            raise ValueError(f"the choice must be a column, 0..{n_columns - 1}, got {self.choice}")
        for name, values in (("prompt", self.prompts), ("satisfaction", self.satisfactions)):
            if values is not None and len(values) != n_columns:
                raise ValueError(f"expected one {name} for each of {n_columns} columns, got {len(values)}")
        for value in self.satisfactions or ():
            if value is not None:
                _require_unit("a column's satisfaction", value)
        if self.satisfaction is not None:
            _require_unit("a turn's satisfaction", self.satisfaction)
        if self.versus_previous is not None and self.versus_previous not in VERDICTS:
            raise ValueError(f"versus_previous must be one of {', '.join(VERDICTS)}, got {self.versus_previous!r}")


@dataclass(frozen=True)
class Session:
    """One rater's conversation about one initial prompt.

    Attributes:
        rater: Who chose; None if unknown, and then the session is its own rater.
        prompt: The initial prompt.
        turns: In order, one or more, slates of one size.
        initial_images: Images of the initial prompt, shown before any slate.
        is_simulated: Whether a model made the choices.
        user_type: The type the choices were simulated with.
        prompt_embedding: ``(d,)`` CLIP embedding of the prompt, not normalised, where a dataset ships it.
    """

    rater: str | None
    prompt: str
    turns: tuple[Turn, ...]
    initial_images: tuple[Image, ...] = ()
    is_simulated: bool = False
    user_type: int | None = None
    prompt_embedding: FloatArray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_context(self.rater, self.prompt)
        if not self.turns:
            raise ValueError("a session needs at least one turn")
        slates = {(len(turn.images), len(turn.images[0])) for turn in self.turns}
        if len(slates) != 1:
            raise ValueError(f"the slates of a session must be of one size, got (columns, images) {sorted(slates)}")
        if self.user_type is not None and self.user_type < 0:
            raise ValueError(f"user_type must be 0 or more, got {self.user_type}")


Record: TypeAlias = Comparison | Rating | Session


@dataclass
class LoadReport:
    """What happened while a dataset was read. The counts add up over all its streams; ``clear`` starts anew.

    Attributes:
        records: How many records were yielded, by kind: ``comparisons``, ``ratings``, ``sessions``.
        skipped: How many rows were left out, by reason.
        images: How many images were looked at by the image check.
        bad_images: How many of them could not be read or decoded.
        first_bad_images: What was wrong with the first few.
        decisions: What a loader concluded from the files themselves, by subject.
    """

    records: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    images: int = 0
    bad_images: int = 0
    first_bad_images: list[str] = field(default_factory=list)
    decisions: dict[str, str] = field(default_factory=dict)

    def clear(self) -> None:
        """Set all counts back to nothing; decisions stay, because they belong to the files."""
        self.records.clear()
        self.skipped.clear()
        self.images = self.bad_images = 0
        self.first_bad_images.clear()

    def __str__(self) -> str:
        lines = [f"{kind}: {count}" for kind, count in sorted(self.records.items())]
        lines += [f"skipped, {reason}: {count}" for reason, count in sorted(self.skipped.items())]
        if self.images:
            lines.append(f"bad images: {self.bad_images} of {self.images}")
        lines += [f"  {what}" for what in self.first_bad_images]
        lines += [f"{subject}: {decision}" for subject, decision in sorted(self.decisions.items())]
        return "\n".join(lines) or "nothing read yet"


@runtime_checkable
class PreferenceDataset(Protocol):
    """A dataset as streams of records. Each call starts a fresh stream; a kind that a dataset lacks is empty."""

    name: str
    report: LoadReport

    def comparisons(self) -> Iterator[Comparison]:
        """Stream the pairs, ties and rankings."""
        ...

    def ratings(self) -> Iterator[Rating]:
        """Stream the ratings."""
        ...

    def sessions(self) -> Iterator[Session]:
        """Stream the sessions."""
        ...


def _require_text(name: str, value: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be text that is not empty, got {value!r}")


def _require_context(rater: str | None, prompt: str) -> None:
    if rater is not None:
        _require_text("a rater's id (None if unknown)", rater)
    _require_text("a prompt", prompt)


def _require_unit(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1]; scale it by the ends of the dataset's own scale, got {value}")
