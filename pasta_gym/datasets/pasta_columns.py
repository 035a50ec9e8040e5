"""Which column of an unknown table means what: by a table of names, never by a guess.

The rater sessions' files are published without a description. A field is found when exactly one column has one of
its names, or a numbered row of columns has (``image_0_0`` ... ``image_3_3``). Everything else is an error that lists
what is missing and what is there, and a person decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALIASES: Mapping[str, tuple[str, ...]] = {
    "session_id": (
        "session_id",
        "session",
        "conversation_id",
        "trajectory_id",
        "episode_id",
        "dialog_id",
        "dialogue_id",
    ),
    "rater_id": (
        "rater_id",
        "rater",
        "user_id",
        "annotator_id",
        "worker_id",
        "participant_id",
        "rater_hash",
        "user_hash",
    ),
    "turn": ("turn", "turn_id", "turn_index", "turn_number", "round", "step", "t"),
    "initial_prompt": ("initial_prompt", "prompt", "original_prompt", "user_prompt", "starting_prompt", "p0"),
    "expansions": ("expansions", "prompt_expansions", "expanded_prompts", "slate_prompts", "prompts", "slate"),
    "images": ("images", "slate_images", "image_bytes", "image_paths", "image_files", "image_columns", "columns"),
    "choice": (
        *("choice", "chosen_column", "selected_column", "preferred_column", "choice_col", "choice_column"),
        *("selection", "selected", "chosen", "preference", "choices"),
    ),
    "critique": ("critique", "feedback", "comment", "user_critique", "free_text", "critiques"),
    "satisfactions": ("satisfactions", "column_satisfaction", "column_satisfactions", "satisfaction_scores"),
    "satisfaction": ("satisfaction", "turn_satisfaction", "overall_satisfaction", "slate_satisfaction"),
    "versus_previous": (
        "versus_previous",
        "than_before",
        "improvement",
        "relative_satisfaction",
        "cross_turn_preference",
    ),
    "initial_images": ("initial_images", "initial_prompt_images"),
    "is_simulated": ("is_simulated", "simulated", "is_synthetic"),
    "user_type": ("user_type", "type_id", "user_type_id"),
    "turns": ("turns", "trajectory", "interactions", "steps", "rounds", "history"),
}
"""Names by field, in lower case with underscores. No name belongs to two fields."""

NUMBERED: Mapping[str, tuple[str, ...]] = {
    "images": ("image", "img", "image_bytes", "image_path", "column"),
    "expansions": ("expansion", "prompt_expansion", "expanded_prompt", "slate_prompt", "prompt"),
    "satisfactions": ("satisfaction", "column_satisfaction", "satisfaction_score"),
}
"""Names before a number, or before a column's and an image's number, for fields that may be spread over columns."""

SESSION_FIELDS: tuple[str, ...] = (
    *("session_id", "rater_id", "initial_prompt", "initial_images", "is_simulated", "user_type"),
)
TURN_FIELDS: tuple[str, ...] = (
    *("turn", "choice", "images", "expansions", "critique", "satisfactions", "satisfaction", "versus_previous"),
)

_NUMBERED = re.compile(r"^(.+?)_?(\d+)(?:_(\d+))?$")


@dataclass(frozen=True)
class Columns:
    """What was found.

    Attributes:
        by_field: The column of each field; a numbered row of columns goes by one name, like ``image_0_0..image_3_3``.
        numbered: The columns behind such a name, in order of their numbers.
        grids: The size of such a row as (columns, images), or (columns,).
    """

    by_field: Mapping[str, str]
    numbered: Mapping[str, tuple[str, ...]]
    grids: Mapping[str, tuple[int, ...]]

    def needed(self, fields: Sequence[str]) -> list[str]:
        """List the table's columns that hold the fields."""
        names = [self.by_field[field] for field in fields if field in self.by_field]
        return [column for name in names for column in self.numbered.get(name, (name,))]

    def gathered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's values with every numbered row of columns as one list, nested as its numbers are."""
        row = dict(values)
        for name, columns in self.numbered.items():
            flat = [values.get(column) for column in columns]
            grid = self.grids[name]
            row[name] = flat if len(grid) == 1 else [flat[i * grid[1] : (i + 1) * grid[1]] for i in range(grid[0])]
        return row

    def __str__(self) -> str:
        return ", ".join(f"{field} = {column}" for field, column in self.by_field.items())


def match_columns(found: Sequence[str], given: Mapping[str, str]) -> Columns:
    """Find the fields' columns.

    Args:
        found: Columns of the table.
        given: Columns by field that a person named; they go before all aliases.

    Raises:
        ValueError: If two columns have a name of one field, or a given field or column does not exist.
    """
    by_field: dict[str, str] = {}
    numbered: dict[str, tuple[str, ...]] = {}
    grids: dict[str, tuple[int, ...]] = {}
    for field, column in given.items():
        if field not in ALIASES:
            raise ValueError(f"columns has no field {field!r}; the fields are {', '.join(ALIASES)}")
        if column not in found:
            raise ValueError(f"no column {column!r} for {field}; found {', '.join(found)}")
        by_field[field] = column
    free = [column for column in found if column not in given.values()]
    for field, aliases in ALIASES.items():
        if field in by_field:
            continue
        matches = [column for column in free if normalised(column) in aliases]
        if len(matches) > 1:
            raise ValueError(
                f"{' and '.join(matches)} could both be {field}; say which with columns={{{field!r}: {matches[0]!r}}}"
            )
        if matches:
            by_field[field] = matches[0]
        elif (row := _numbered_row(field, free)) is not None:
            name = f"{row[0][0]}..{row[0][-1]}"
            by_field[field], numbered[name], grids[name] = name, row[0], row[1]
    return Columns(by_field, numbered, grids)


def fields_named(found: Sequence[str], given: Mapping[str, str]) -> set[str]:
    """List the fields that a table has a column for, or several; see ``match_columns``, which must know which."""
    names = {normalised(column) for column in found}
    return {
        field
        for field, aliases in ALIASES.items()
        if given.get(field) in found or names.intersection(aliases) or _numbered_row(field, found) is not None
    }


def normalised(column: str) -> str:
    """Write a column's name in lower case with underscores: ``initialPrompt`` and ``Initial prompt`` are one."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _numbered_row(field: str, found: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Return the columns of a field that are numbered without gaps, in order, and the size of their grid."""
    for stem in NUMBERED.get(field, ()):
        places: dict[tuple[int, ...], str] = {}
        for column in found:
            match = _NUMBERED.match(normalised(column))
            if match and match[1] == stem:
                places[tuple(int(number) for number in match.groups()[1:] if number is not None)] = column
        grid = _grid(list(places))
        if grid is not None:
            return tuple(places[place] for place in sorted(places)), grid
    return None


def _grid(places: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the size of a full grid of numbers from 0 or from 1; None if they are none."""
    if len(places) < 2 or len({len(place) for place in places}) != 1:
        return None
    axes = [sorted(set(axis)) for axis in zip(*places, strict=True)]
    full = all(axis in (list(range(len(axis))), list(range(1, len(axis) + 1))) for axis in axes)
    size = 1
    for axis in axes:
        size *= len(axis)
    return tuple(len(axis) for axis in axes) if full and size == len(places) else None
