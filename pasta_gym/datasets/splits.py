"""Splits by rater and by prompt, never by row.

A row that shares its rater with a training row says little about new raters, and one that shares its prompt little
about new prompts. Which split somebody is in is a hash of the id and a seed: it depends on no other row, on no
order and on no file, so data may arrive in pieces.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar, get_args

from pasta_gym.datasets.records import Comparison, LoadReport, PreferenceDataset, Rating, Record, Session

By: TypeAlias = Literal["rater", "prompt", "both"]
"""What a split keeps apart."""

DEFAULT_FRACTIONS: Mapping[str, float] = MappingProxyType({"train": 0.8, "validation": 0.1, "test": 0.1})

_HASH_BYTES = 8
R = TypeVar("R", bound=Record)


def people_of(dataset: PreferenceDataset) -> str:
    """Name the people whose ids a dataset has: in two datasets of the same people one id is one person.

    Datasets of one class are of the same people, as the files of one publication are. One that is not says so by an
    attribute ``people`` of its own.
    """
    own = getattr(dataset, "people", None)
    return f"{type(dataset).__module__}.{type(dataset).__qualname__}" if own is None else str(own)


def normalised_prompt(prompt: str) -> str:
    """Fold case and white space: what is left is the same prompt for every split."""
    return " ".join(prompt.casefold().split())


def split_of_rater(rater: str, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0) -> str:
    """Return the split of a rater.

    Args:
        rater: The rater's id.
        fractions: The expected share of raters of each split; they sum to 1.
        seed: Another seed gives an independent assignment.

    Raises:
        ValueError: If the fractions are not shares that sum to 1.
    """
    return _assign("rater", rater, fractions, seed)


def split_of_prompt(prompt: str, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0) -> str:
    """Return the split of a prompt; case and white space make no difference.

    Args:
        prompt: The initial prompt.
        fractions: The expected share of prompts of each split; they sum to 1.
        seed: Another seed gives an independent assignment.

    Raises:
        ValueError: If the fractions are not shares that sum to 1.
    """
    return _assign("prompt", normalised_prompt(prompt), fractions, seed)


class Split:
    """The records of one split of a dataset, itself a dataset.

    With ``by="both"`` raters and prompts are assigned independently, and a record is kept only where the two agree;
    the others belong to no split and are counted as dropped, about a third of the records at the default fractions.
    A record without a rater follows its prompt.

    Args:
        dataset: What to split.
        name: Which split, a key of ``fractions``.
        by: ``"rater"``, ``"prompt"`` or ``"both"``.
        fractions: The expected share of each split; they sum to 1.
        seed: Another seed gives an independent assignment.

    Raises:
        ValueError: If an argument is unknown, or the fractions are not shares that sum to 1.
    """

    def __init__(
        self,
        dataset: PreferenceDataset,
        name: str,
        by: By = "rater",
        *,
        fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
        seed: int = 0,
    ) -> None:
        if by not in get_args(By):
            raise ValueError(f"by must be one of {', '.join(get_args(By))}, got {by!r}")
        require_fractions(fractions)
        if name not in fractions:
            raise ValueError(f"name must be one of the splits {', '.join(fractions)}, got {name!r}")
        self.name = f"{dataset.name}/{name}"
        self.people = people_of(dataset)
        self.encoder_sha256: str | None = getattr(dataset, "encoder_sha256", None)
        self.report = LoadReport()
        """What this split kept and dropped; the wrapped dataset's own report says what was read."""
        self._dataset = dataset
        self._split = name
        self._by = by
        self._fractions = dict(fractions)
        self._seed = seed

    def comparisons(self) -> Iterator[Comparison]:
        """Stream the comparisons of this split."""
        return self._kept("comparisons", self._dataset.comparisons())

    def ratings(self) -> Iterator[Rating]:
        """Stream the ratings of this split."""
        return self._kept("ratings", self._dataset.ratings())

    def sessions(self) -> Iterator[Session]:
        """Stream the sessions of this split."""
        return self._kept("sessions", self._dataset.sessions())

    def _kept(self, kind: str, records: Iterable[R]) -> Iterator[R]:
        for record in records:
            assigned = self._assigned(record)
            if len(assigned) > 1:
                self.report.skipped["rater and prompt in different splits"] += 1
            elif assigned != {self._split}:
                self.report.skipped["in another split"] += 1
            else:
                self.report.records[kind] += 1
                yield record

    def _assigned(self, record: Record) -> set[str]:
        """The splits of what must be kept apart; more than one means none."""
        splits = set()
        if self._by != "prompt" and record.rater is not None:
            splits.add(split_of_rater(record.rater, self._fractions, self._seed))
        if self._by != "rater" or record.rater is None:
            splits.add(split_of_prompt(record.prompt, self._fractions, self._seed))
        return splits


def require_fractions(fractions: Mapping[str, float]) -> None:
    """Refuse what cannot be the expected shares of all splits.

    Args:
        fractions: By split.

    Raises:
        ValueError: If there are none, one is not from 0 to 1, or they do not sum to 1.
    """
    if not fractions or any(not 0.0 <= share <= 1.0 for share in fractions.values()):
        raise ValueError(f"fractions must be shares from 0 to 1 by split, got {dict(fractions)}")
    if not math.isclose(total := math.fsum(fractions.values()), 1.0, abs_tol=1e-9):
        raise ValueError(
            f"fractions must sum to 1, got {dict(fractions)}, which sum to {total:g}; a split that is left out has none"
        )


def _assign(kind: str, value: str, fractions: Mapping[str, float], seed: int) -> str:
    require_fractions(fractions)
    # The kind is in the hash, or a rater and a prompt of the same text would share their luck.
    text = f"{seed}\0{kind}\0{value}".encode(errors="surrogatepass")
    drawn = int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BYTES).digest(), "big") / 2 ** (8 * _HASH_BYTES)
    edge = 0.0
    for name, share in fractions.items():
        edge += share
        if drawn < edge:
            return name
    # Rounding: the edges may end a hair below 1, and the number may be rounded up to it.
    return next(name for name, share in reversed(list(fractions.items())) if share > 0.0)
