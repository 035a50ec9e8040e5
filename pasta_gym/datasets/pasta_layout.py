"""How a table of rater sessions is laid out: three layouts as one stream of conversations.

A row a turn; a row a session with a column of turns; a row a session with columns that list one value a turn.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pasta_gym.datasets.pasta_columns import SESSION_FIELDS, TURN_FIELDS, Columns, match_columns
from pasta_gym.datasets.rows import Row, shown
from pasta_gym.datasets.tables import Table

Kind: TypeAlias = Literal["a row a turn", "a row a session, turns in a column", "a row a session, a list a column"]

MAX_TURNS = 5

_SAME_IN_A_SESSION = ("initial_prompt", "rater_id", "is_simulated", "user_type")


@dataclass(frozen=True)
class Layout:
    """How a table is laid out.

    Attributes:
        kind: Which of the three layouts.
        turn_columns: Columns by field of one turn; inside a column of turns they are its keys.
        inner: Keys of the turns inside a column of turns.
    """

    kind: Kind
    turn_columns: Mapping[str, str]
    inner: Columns | None = None

    def required_columns(self, columns: Columns) -> dict[str, str]:
        """The table's columns by field that it could not do without."""
        fields = ("turns",) if self.inner else ("choice", "images", *(("turn",) if self.kind == "a row a turn" else ()))
        wanted = ("session_id", "initial_prompt", *fields)
        return {field: columns.by_field[field] for field in wanted if field in columns.by_field}

    def described(self) -> str:
        """Write out the keys inside a column of turns, if there is one."""
        return f"; in each turn {self.inner}" if self.inner else ""


@dataclass(frozen=True)
class Conversation:
    """The rows of one session.

    Attributes:
        session_id: Its id.
        row: Fields of the session.
        turns: Fields of each turn, in order.
    """

    session_id: str
    row: Row
    turns: tuple[Row, ...]


def find_layout(table: Table, columns: Columns, given: Mapping[str, str], *, has_pattern: bool) -> Layout:
    """Tell the layout of a table by its columns and its first row.

    Args:
        table: The table.
        columns: Its columns by field.
        given: Columns by field that a person named; here they may be keys inside a column of turns.
        has_pattern: Whether images are files that no column names.

    Raises:
        ValueError: If fields are missing, with the missing ones and the columns that are there. A ``DatasetError`` if
            the table is broken.
    """
    needed_in_turns = ("choice",) if has_pattern else ("choice", "images")
    first = next(table.rows(), None)
    if first is None:
        raise ValueError("the table has no rows")
    turns = first.value(columns.by_field["turns"], list) if "turns" in columns.by_field else None
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        keys = [str(key) for key in turns[0]]
        _require_found(given, [*table.columns, *keys])
        inner = match_columns(keys, {field: key for field, key in given.items() if key in keys})
        _require_fields(("session_id", "initial_prompt"), columns, table.columns)
        _require_fields(needed_in_turns, inner, keys)
        return Layout("a row a session, turns in a column", inner.by_field, inner)
    _require_found(given, table.columns)
    _require_fields(("session_id", "initial_prompt", *needed_in_turns), columns, table.columns)
    turn_columns = {field: columns.by_field[field] for field in TURN_FIELDS if field in columns.by_field}
    if isinstance(first.value(turn_columns["choice"], list), list):
        return Layout("a row a session, a list a column", turn_columns)
    _require_fields(("turn",), columns, table.columns)
    return Layout("a row a turn", turn_columns)


def conversations(
    table: Table,
    columns: Columns,
    layout: Layout,
    *,
    turn_base: int | None,
    fields: Sequence[str] | None = None,
    seen: MutableMapping[str, str] | None = None,
) -> Iterator[Conversation]:
    """Stream the sessions of a table.

    Args:
        table: The table.
        columns: Its columns by field.
        layout: Its layout.
        turn_base: Number of the first turn where a row is a turn; None leaves the numbers unchecked.
        fields: Fields that are needed, where the format can leave others unread; all if left out.
        seen: The file of each session so far, where the table is one of several shards; this table's are added.

    Raises:
        DatasetError: If the table is broken, or turns are missing, twice, too many or scattered over the tables.
    """
    wanted = columns.needed((*(fields or (*SESSION_FIELDS, *TURN_FIELDS)), *(("turns",) if layout.inner else ())))
    rows = (dataclasses.replace(row, values=columns.gathered(row.values)) for row in table.rows(wanted))
    id_column = columns.by_field["session_id"]
    seen = {} if seen is None else seen
    for session_id, group in itertools.groupby(rows, key=lambda row: _session_id(row, id_column)):
        members = list(itertools.islice(group, MAX_TURNS + 1))
        first = members[0]
        if session_id in seen:
            if seen[session_id] != table.file:
                raise first.error(
                    f"session {session_id} is in {seen[session_id]} too. If the two are copies, leave one out with "
                    "tables=; if they are parts, put a session's turns into one table; if ids begin anew in each file, "
                    "make them unique, as pictures are known by them",
                    id_column,
                )
            raise first.error(
                f"session {session_id} is here again, after others; sort the table by session and turn", id_column
            )
        seen[session_id] = table.file
        if layout.kind == "a row a turn":
            turns = _sorted_turns(members, columns, layout, turn_base)
        elif len(members) > 1:
            raise members[1].error(f"a second row of session {session_id}, where a row is a session", id_column)
        else:
            turns = _nested_turns(first, columns, layout) if layout.inner else _listed_turns(first, layout)
        if not 1 <= len(turns) <= MAX_TURNS:
            raise first.error(f"expected 1 to {MAX_TURNS} turns of session {session_id}, got {len(turns)}", id_column)
        yield Conversation(session_id, first, tuple(turns))


def _sorted_turns(rows: list[Row], columns: Columns, layout: Layout, turn_base: int | None) -> list[Row]:
    column = layout.turn_columns["turn"]
    ordered = sorted(rows, key=lambda row: row.integer(column))
    for name in (columns.by_field[field] for field in _SAME_IN_A_SESSION if field in columns.by_field):
        for row in rows[1:]:
            if not _agree(row, rows[0], name):
                began = shown(rows[0].values.get(name))
                raise row.error(f"{shown(row.values.get(name))} in a session that began with {began}", name)
    numbers = [row.integer(column) for row in ordered]
    if turn_base is not None and numbers != list(range(turn_base, turn_base + len(numbers))):
        raise rows[0].error(f"expected turns {turn_base}, {turn_base + 1}, ... without gaps, got {numbers}", column)
    return ordered


def _agree(row: Row, other: Row, column: str) -> bool:
    return bool(row.values.get(column) == other.values.get(column)) or (row.missing(column) and other.missing(column))


def _nested_turns(row: Row, columns: Columns, layout: Layout) -> list[Row]:
    assert layout.inner is not None
    column = columns.by_field["turns"]
    turns = []
    for index, values in enumerate(row.items(column)):
        if not isinstance(values, dict):
            raise row.error(f"expected an object for each turn, got {shown(values)}", column)
        turns.append(Row(row.file, f"{row.number}, {column}[{index}]", layout.inner.gathered(values)))
    if (key := layout.turn_columns.get("turn")) is not None:
        numbers = [turn.integer(key) for turn in turns]
        if numbers not in (list(range(len(turns))), list(range(1, len(turns) + 1))):
            raise row.error(f"expected turns in order from 0 or 1, got {shown(numbers)}", column)
    return turns


def _listed_turns(row: Row, layout: Layout) -> list[Row]:
    lists: dict[str, list[Any]] = {}
    for field, column in layout.turn_columns.items():
        # A table may leave an optional column empty in some rows, and a reader may not have been asked for others.
        if field == "choice" or not row.missing(column):
            lists[column] = row.items(column)
    n_turns = len(lists[layout.turn_columns["choice"]])
    for column, values in lists.items():
        if len(values) != n_turns:
            raise row.error(f"expected one entry for each of {n_turns} turns, got {len(values)}", column)
    if (numbers := lists.get(layout.turn_columns.get("turn", ""))) is not None and numbers not in (
        list(range(n_turns)),
        list(range(1, n_turns + 1)),
    ):
        raise row.error(f"expected turns in order from 0 or 1, got {shown(numbers)}", layout.turn_columns["turn"])
    return [
        Row(row.file, f"{row.number}, turn {index}", {column: values[index] for column, values in lists.items()})
        for index in range(n_turns)
    ]


def _session_id(row: Row, column: str) -> str:
    session_id = row.identifier(column)
    if session_id is None:
        raise row.error("expected the session's id, got nothing", column)
    return session_id


def _require_fields(fields: Sequence[str], columns: Columns, found: Sequence[str]) -> None:
    missing = [field for field in fields if field not in columns.by_field]
    if missing:
        raise ValueError(f"no column known as {', '.join(missing)}; found {', '.join(found) or 'none'}")


def _require_found(given: Mapping[str, str], found: Sequence[str]) -> None:
    for field, column in given.items():
        if column not in found:
            raise ValueError(f"no column {column!r} for {field}; found {', '.join(found) or 'none'}")
