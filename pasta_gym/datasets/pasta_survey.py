"""What only the whole of the tables of rater sessions can tell, read before the first session is handed out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pasta_gym.datasets.pasta_columns import Columns
from pasta_gym.datasets.pasta_layout import Layout, conversations
from pasta_gym.datasets.records import DatasetError
from pasta_gym.datasets.tables import Table

MAX_WORDS = 12
"""Of an initial prompt and of a critique, as the raters were told."""

_WORDY_SHARE = 0.01
_SMALL_FIELDS = ("session_id", "initial_prompt", "turn", "choice", "critique")


@dataclass(frozen=True)
class Survey:
    """Conclusions about tables of one kind.

    Attributes:
        choice_base: Number of the first column.
        turn_base: Number of the first turn where a row is a turn, else None.
        choices: The smallest and the largest choice.
        n_columns: Columns of a slate.
        n_sessions: Number of sessions.
    """

    choice_base: int
    turn_base: int | None
    choices: tuple[int, int]
    n_columns: int
    n_sessions: int

    def __str__(self) -> str:
        return (
            f"counted from {self.choice_base}: {self.choices[0]}..{self.choices[1]} for {self.n_columns} columns "
            f"in {self.n_sessions} sessions"
        )


class _WordCount:
    """Counts texts of more words than raters could write."""

    def __init__(self) -> None:
        self.texts = 0
        self.wordy = 0

    def add(self, value: Any) -> None:
        if isinstance(value, str) and value.strip():
            self.texts += 1
            self.wordy += len(value.split()) > MAX_WORDS

    def require_few(self, table: Table, field: str, column: str) -> None:
        if self.wordy > _WORDY_SHARE * self.texts:
            raise DatasetError(
                f"{self.wordy} of {self.texts} have more than {MAX_WORDS} words, so this is hardly the {field}; name "
                f"the right one with columns={{{field!r}: ...}}",
                file=table.file,
                column=column,
            )


def survey(
    tables: Sequence[Table], columns: Columns, layout: Layout, n_columns: int, choice_base: int | None
) -> Survey:
    """Read tables of one kind, the shards of one big table perhaps, once.

    Of Parquet the pictures stay unread, unless they lie inside a column of turns.

    Args:
        tables: The tables, one or more.
        columns: Their columns by field.
        layout: Their layout.
        n_columns: Columns of a slate.
        choice_base: Number of the first column where a person said so, else None.

    Raises:
        DatasetError: If the tables break the rules under which the data were collected: choices that are no columns
            from 0 or from 1, turns that begin elsewhere, prompts or critiques that are often too long.
    """
    prompts, critiques = _WordCount(), _WordCount()
    choices: set[int] = set()
    turns: set[int] = set()
    n_sessions = 0
    turn_column = layout.turn_columns.get("turn") if layout.kind == "a row a turn" else None
    table = tables[0]
    files: dict[str, str] = {}
    for conversation in itertools.chain.from_iterable(
        conversations(each, columns, layout, turn_base=None, fields=_SMALL_FIELDS, seen=files) for each in tables
    ):
        n_sessions += 1
        prompts.add(conversation.row.values.get(columns.by_field["initial_prompt"]))
        for turn in conversation.turns:
            choices.add(turn.integer(layout.turn_columns["choice"]))
            critiques.add(turn.values.get(layout.turn_columns.get("critique", "")))
            if turn_column is not None:
                turns.add(turn.integer(turn_column))
    prompts.require_few(table, "initial_prompt", columns.by_field["initial_prompt"])
    critiques.require_few(table, "critique", layout.turn_columns.get("critique", ""))
    if turns and min(turns) not in (0, 1):
        raise DatasetError(f"turns begin at {min(turns)}, expected 0 or 1", file=table.file, column=turn_column)
    seen = (min(choices), max(choices))
    base = _choice_base(table, layout.turn_columns["choice"], seen, n_columns, choice_base)
    return Survey(base, min(turns) if turns else None, seen, n_columns, n_sessions)


def _choice_base(table: Table, column: str, seen: tuple[int, int], n_columns: int, given: int | None) -> int:
    bases = (0, 1) if given is None else (given,)
    possible = [base for base in bases if base <= seen[0] and seen[1] <= base + n_columns - 1]
    if len(possible) == 1:
        return possible[0]
    if possible:
        problem = (
            f"choices are {seen[0]}..{seen[1]}: with {n_columns} columns they may be counted from 0 or from 1; pass "
            "choice_base=0 or choice_base=1"
        )
    else:
        problem = (
            f"choices are {seen[0]}..{seen[1]}, which are not {n_columns} columns counted from "
            f"{' or from '.join(map(str, bases))}"
        )
    raise DatasetError(problem, file=table.file, column=column)
