"""PASTA's rater sessions (section 4.1, appendix B), whose file names and columns nobody published.

The loader looks into the archive, finds columns by a table of names, reads every table once for what only the whole
file can tell, and then streams sessions. What it concludes stands in ``report.decisions``; what it cannot conclude
is an error that says which argument settles it.
"""

from __future__ import annotations

import fnmatch
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pasta_gym.datasets.base import BaseDataset
from pasta_gym.datasets.pasta_columns import ALIASES, Columns, fields_named, match_columns
from pasta_gym.datasets.pasta_images import check_pattern, patterned_slate, stored_image
from pasta_gym.datasets.pasta_layout import Conversation, Layout, conversations, find_layout
from pasta_gym.datasets.pasta_probe import ONE_OBJECT, PLAIN_VALUES, Probe, called_table, probe
from pasta_gym.datasets.pasta_survey import Survey, survey
from pasta_gym.datasets.records import VERDICTS, DatasetError, Image, Session, Turn, Verdict
from pasta_gym.datasets.rows import Row, shown
from pasta_gym.datasets.tables import Table

CARD_SLATE = (4, 4)
"""Columns and images in a column, as the published description of the data has them."""

SATISFACTION_LEVELS = 5
ALL_TABLES = ("*",)


@dataclass(frozen=True)
class _Source:
    """Tables of one kind that hold sessions: the shards of one big table, perhaps."""

    tables: tuple[Table, ...]
    columns: Columns
    layout: Layout
    is_simulated: bool

    @property
    def name(self) -> str:
        """What decisions about it go by."""
        more = len(self.tables) - 1
        return self.tables[0].member + (f" and {more} more" if more else "")


class PastaSessions(BaseDataset):
    """Sessions of human raters, or simulated ones, with the untrained generator.

    Args:
        path: The zip file, the folder it was unpacked to, or one table.
        columns: Columns by field for those that the names do not settle, e.g. ``{"rater_id": "worker"}``; the fields
            are those of ``pasta_gym.datasets.pasta_columns.ALIASES``. Fields of a turn inside a column of turns are
            named by their keys there.
        tables: Which tables to read, as file name patterns, and each of them must hold sessions; all that do if left
            out, but for none that is broken, empty, or like one of those with a column missing.
        image_pattern: Where images are files that no column names: their path inside the archive, like
            ``images/{session_id}/{turn}_{column}_{image}.jpg``. ``{turn1}``, ``{column1}`` and ``{image1}`` count
            from 1.
        slate_size: Columns of a slate, for tables that list a slate's images in one row without saying so.
        choice_base: 0 or 1, the number of the first column, where the choices themselves do not tell.
        verify_images: Whether to read and decode the images before a session is yielded. A bad one takes its session
            with it.
        max_bad_images: The share of bad images past which the stream raises.
        name: Name of the dataset.

    Raises:
        ValueError: If an argument makes no sense.
        DatasetError: If no table holds sessions; the message lists, table by table, the fields that are missing and
            the columns that are there. If a table beside good ones would be lost, see ``tables``.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        *,
        columns: Mapping[str, str] | None = None,
        tables: Sequence[str] = ALL_TABLES,
        image_pattern: str | None = None,
        slate_size: int = CARD_SLATE[0],
        choice_base: Literal[0, 1] | None = None,
        verify_images: bool = True,
        max_bad_images: float = 0.01,
        name: str = "pasta",
    ) -> None:
        super().__init__(name, verify_images=verify_images, max_bad_images=max_bad_images)
        if choice_base not in (None, 0, 1):
            raise ValueError(f"choice_base must be 0, 1 or None, got {choice_base!r}")
        if slate_size < 1:
            raise ValueError(f"slate_size must be 1 or more, got {slate_size}")
        if image_pattern is not None:
            check_pattern(image_pattern)
        if unknown := [field for field in columns or () if field not in ALIASES]:
            raise ValueError(f"columns has no field {unknown[0]!r}; the fields are {', '.join(ALIASES)}")
        tables = (tables,) if isinstance(tables, str) else tables
        self._columns = dict(columns or {})
        self._pattern = image_pattern
        self._slate_size = slate_size
        self._choice_base = choice_base
        self.probe: Probe = probe(path)
        self._sources = self._find_sources(tuple(tables))
        self._surveys: dict[str, Survey] = {}

    def sessions(self) -> Iterator[Session]:
        """Stream the sessions, table after table. Each table is first read once for its small columns.

        Raises:
            DatasetError: If a table is broken, a value makes no sense, or too many images are bad.
        """
        return self._counted("sessions", self._records())

    def _records(self) -> Iterator[Session]:
        check = self._image_check()
        for source in self._sources:
            surveyed = self._survey(source)
            for table in source.tables:
                # That no session is in two shards is known since the survey.
                for conversation in conversations(table, source.columns, source.layout, turn_base=surveyed.turn_base):
                    session = self._session(_Place(source, table, conversation.session_id), surveyed, conversation)
                    if session is None:
                        self.report.skipped["no prompt"] += 1
                    elif not check.all_good(_images(session)):
                        self.report.skipped["bad image"] += 1
                    else:
                        yield session
        check.finish()

    def _find_sources(self, patterns: tuple[str, ...]) -> list[_Source]:
        sources: dict[tuple[str, bool], _Source] = {}
        unmatched = dict(self.probe.problems)
        for table in self.probe.tables:
            if not _selected(table.member, patterns):
                continue
            try:
                # A given column may also be a key inside a column of turns.
                outer = {field: column for field, column in self._columns.items() if column in table.columns}
                columns = match_columns(table.columns, outer)
                layout = find_layout(table, columns, self._columns, has_pattern=self._pattern is not None)
            except ValueError as error:
                unmatched[table.member] = error.problem if isinstance(error, DatasetError) else str(error)
                continue
            simulated = "simulat" in table.member.lower()
            kind = f"{layout.kind}; {columns}{layout.described()}"
            known = sources.get((kind, simulated))
            tables = (*known.tables, table) if known else (table,)
            sources[kind, simulated] = _Source(tables, columns, layout, simulated)
        if not sources:
            listed = "".join(f"\n  {member}: {problem}" for member, problem in unmatched.items())
            raise DatasetError(
                "no table holds sessions. Name columns with columns={field: column}, or look inside with "
                f"python -m pasta_gym.datasets.pasta_probe{listed or ' (there are no tables)'}",
                file=self.probe.archive.path,
            )
        self._require_nothing_lost(list(sources.values()), unmatched, patterns)
        for (kind, _), source in sources.items():
            self.report.decisions[f"columns of {source.name}"] = kind
        self.report.decisions.update({f"not read: {member}": problem for member, problem in unmatched.items()})
        return list(sources.values())

    def _require_nothing_lost(
        self, sources: list[_Source], unmatched: Mapping[str, str], patterns: tuple[str, ...]
    ) -> None:
        """Refuse what would be passed over and may be a shard of what is read."""
        tables = {table.member: table for table in self.probe.tables}
        for member, problem in unmatched.items():
            if not _selected(member, patterns):
                continue
            table = tables.get(member)
            if patterns != ALL_TABLES:
                why = "tables= selects it"
            elif table is None:
                is_other = problem in (ONE_OBJECT, PLAIN_VALUES) or not called_table(member)
                why = "" if is_other else "it is called a table"
            elif called_table(member) and (broken := _broken(table)):
                problem, why = broken, "it is called a table"
            else:
                same = next((s for s in sources if _like(table, s, self._columns)), None)
                why = "" if same is None else f"it is much like {same.tables[0].member}"
            if why:
                raise DatasetError(
                    f"{problem}. Other tables hold sessions and this one would be left out, though {why}: mend it, or "
                    "say which tables to read with tables=",
                    file=self.probe.archive.called(member),
                )

    def _survey(self, source: _Source) -> Survey:
        if source.name not in self._surveys:
            first = next(conversations(source.tables[0], source.columns, source.layout, turn_base=None))
            slate = self._slate(_Place(source, source.tables[0], first.session_id), 0, first.turns[0])
            found = survey(source.tables, source.columns, source.layout, len(slate), self._choice_base)
            self._surveys[source.name] = found
            self.report.decisions[f"choices of {source.name}"] = str(found)
            self.report.decisions[f"sessions of {source.name}"] = _origin(source)
        return self._surveys[source.name]

    def _session(self, place: _Place, surveyed: Survey, conversation: Conversation) -> Session | None:
        row, by_field = conversation.row, place.source.columns.by_field
        if not row.text(by_field["initial_prompt"]).strip():
            return None
        simulated = by_field.get("is_simulated")
        with row.blamed():
            session = Session(
                rater=row.identifier(by_field["rater_id"]) if "rater_id" in by_field else None,
                prompt=row.text(by_field["initial_prompt"]),
                turns=tuple(self._turn(place, surveyed, *numbered) for numbered in enumerate(conversation.turns)),
                initial_images=_initial_images(place, row),
                is_simulated=place.source.is_simulated if simulated is None else row.boolean(simulated),
                user_type=_optional_integer(row, by_field.get("user_type")),
            )
        size = f"{len(session.turns[0].images)} columns of {len(session.turns[0].images[0])} images"
        noted = self.report.decisions.setdefault(f"slates of {place.source.name}", size)
        if noted != size:
            raise row.error(f"a slate of {size}, where others of the table have {noted}", "images")
        return session

    def _turn(self, place: _Place, surveyed: Survey, number: int, row: Row) -> Turn:
        by_field = place.source.layout.turn_columns
        with row.blamed():
            return Turn(
                images=self._slate(place, number, row),
                choice=row.integer(by_field["choice"]) - surveyed.choice_base,
                prompts=_expansions(row, by_field.get("expansions")),
                satisfactions=_satisfactions(row, by_field.get("satisfactions")),
                satisfaction=_satisfaction(row, by_field.get("satisfaction")),
                versus_previous=_verdict(row, by_field.get("versus_previous")),
                critique=_optional_text(row, by_field.get("critique")),
            )

    def _slate(self, place: _Place, number: int, row: Row) -> tuple[tuple[Image, ...], ...]:
        by_field = place.source.layout.turn_columns
        expansions = _expansions(row, by_field.get("expansions"))
        n_columns = self._slate_size if expansions is None else len(expansions)
        column = by_field.get("images")
        if column is None:
            assert self._pattern is not None
            return patterned_slate(
                self._pattern,
                place.table.archive,
                place.table.member,
                place.session_id,
                number,
                (n_columns, CARD_SLATE[1]),
            )
        slate = row.items(column)
        if not all(isinstance(values, list) for values in slate):
            slate = _folded(row, column, slate, n_columns)
        return tuple(
            tuple(place.image(row, column, value, f"{number}/{c}/{m}") for m, value in enumerate(values))
            for c, values in enumerate(slate)
        )


def _selected(member: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(member, pattern) for pattern in patterns)


def _broken(table: Table) -> str | None:
    """Why a table has no first row."""
    try:
        return "the table has no rows" if next(table.rows(), None) is None else None
    except DatasetError as error:
        return error.problem


def _like(table: Table, source: _Source, given: Mapping[str, str]) -> bool:
    """Whether a table has all that a source needs but for one column, or most of its columns.

    Three fields or fewer are no sign: a table of the sessions' prompts has two of those that nested turns need.
    """
    required = source.layout.required_columns(source.columns)
    missing = set(required) - fields_named(table.columns, given)
    theirs = source.tables[0].columns
    return (len(missing) <= 1 and len(required) > 3) or 2 * len(set(theirs).intersection(table.columns)) > len(theirs)


@dataclass(frozen=True)
class _Place:
    """Where a session stands."""

    source: _Source
    table: Table
    session_id: str

    def image(self, row: Row, column: str, value: Any, key: str) -> Image:
        """Return the image that a cell of the session holds or names."""
        member = self.table.member
        return stored_image(row, column, value, f"{member}:{self.session_id}/{key}", self.table.archive, member)


def _images(session: Session) -> list[Image]:
    slates = [image for turn in session.turns for column in turn.images for image in column]
    return [*session.initial_images, *slates]


def _initial_images(place: _Place, row: Row) -> tuple[Image, ...]:
    column = place.source.columns.by_field.get("initial_images")
    if column is None or row.missing(column):
        return ()
    return tuple(place.image(row, column, value, f"initial/{m}") for m, value in enumerate(row.items(column)))


def _origin(source: _Source) -> str:
    by_field = source.columns.by_field
    rater = "" if "rater_id" in by_field else "; no rater ids: each session is its own rater"
    if "is_simulated" in by_field:
        return f"human or simulated as the table says{rater}"
    return f"{'simulated, by the name of the file' if source.is_simulated else 'human'}{rater}"


def _folded(row: Row, column: str, images: list[Any], n_columns: int) -> list[list[Any]]:
    """Cut a flat list of images into columns."""
    if not images or len(images) % n_columns or any(isinstance(image, list) for image in images):
        raise row.error(
            f"expected {n_columns} columns of images, as lists or one after the other, got {len(images)} entries; "
            "slate_size says how many columns there are",
            column,
        )
    each = len(images) // n_columns
    return [images[c * each : (c + 1) * each] for c in range(n_columns)]


def _expansions(row: Row, column: str | None) -> tuple[str, ...] | None:
    return None if column is None or row.missing(column) else tuple(row.texts(column))


def _optional_integer(row: Row, column: str | None) -> int | None:
    return None if column is None or row.missing(column) else row.integer(column)


def _optional_text(row: Row, column: str | None) -> str | None:
    return None if column is None or row.missing(column) else row.text(column).strip() or None


def _satisfaction(row: Row, column: str | None) -> float | None:
    if column is None or row.missing(column):
        return None
    return (row.number_in(column, 1, SATISFACTION_LEVELS) - 1) / (SATISFACTION_LEVELS - 1)


def _satisfactions(row: Row, column: str | None) -> tuple[float, ...] | None:
    if column is None or row.missing(column):
        return None
    levels = row.integers(column)
    if not all(1 <= level <= SATISFACTION_LEVELS for level in levels):
        raise row.error(f"expected satisfactions from 1 to {SATISFACTION_LEVELS}, got {shown(levels)}", column)
    return tuple((level - 1) / (SATISFACTION_LEVELS - 1) for level in levels)


def _verdict(row: Row, column: str | None) -> Verdict | None:
    said = _optional_text(row, column)
    if said is not None and said.lower() not in VERDICTS:
        raise row.error(f"expected one of {', '.join(VERDICTS)} or nothing, got {shown(said)}", column)
    return None if said is None else cast("Verdict", said.lower())
