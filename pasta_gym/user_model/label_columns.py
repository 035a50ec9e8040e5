"""Labels that arrive one by one, as the columns of ``PreferenceData``."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pasta_gym.datasets.records import Turn
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import NO_IMAGE, VERDICTS, PreferenceData
from pasta_gym.user_model.embedding_table import NO_ROW


@dataclass
class _Rows:
    """Growing columns, eight bytes a number: rater, prompt, images and value of each label."""

    raters: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, rater: int, prompt: int, images: Iterable[int], value: float) -> None:
        self.raters.append(rater)
        self.prompts.append(prompt)
        self.images.extend(images)
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.raters)


@dataclass(frozen=True)
class _SessionRow:
    rater: int
    prompt: int
    images: IntArray  # (T, L, M)
    choices: IntArray  # (T,)
    satisfactions: FloatArray  # (T, L)
    verdicts: FloatArray  # (T,)


class LabelColumns:
    """Pairs, ratings, rankings and sessions so far. Raters, prompts and images are numbers already."""

    def __init__(self) -> None:
        self._pairs, self._ratings, self._rankings = _Rows(), _Rows(), _Rows()
        self._ranking_lengths = array("q")
        self._sessions: list[_SessionRow] = []

    def add_comparison(self, rater: int, prompt: int, images: Sequence[int], ranks: Sequence[float]) -> None:
        """Add two images or more with their ranks, lower is better.

        Two are a pair, as listed. An untied ranking stays one, however long. A ranking with ties becomes the pairs of
        its neighbours, in which the order within a tie is that of the list.
        """
        if len(images) == 2:
            self._pairs.add(rater, prompt, images, _preference(ranks[0], ranks[1]))
            return
        order = sorted(range(len(images)), key=lambda i: ranks[i])  # stable
        if len(set(ranks)) == len(ranks):
            self._rankings.add(rater, prompt, (images[i] for i in order), 1.0)
            self._ranking_lengths.append(len(order))
            return
        for i, j in pairwise(order):
            self._pairs.add(rater, prompt, (images[i], images[j]), _preference(ranks[i], ranks[j]))

    def add_rating(self, rater: int, prompt: int, image: int, value: float) -> None:
        """Add a rating in [0, 1]."""
        self._ratings.add(rater, prompt, (image,), value)

    def add_session(self, rater: int, prompt: int, images: IntArray, turns: Sequence[Turn]) -> None:
        """Add a session.

        A turn with a bad image keeps no choice, a column with one no satisfaction, and a slate is compared with the
        one before only if both are whole.

        Args:
            rater: Who chose.
            prompt: The initial prompt.
            images: ``(T, L, M)``, ``NO_ROW`` for bad ones.
            turns: The T turns.

        Raises:
            ValueError: If the slates are of another size than those of the sessions before.
        """
        if self._sessions and (kept := self._sessions[0].images.shape[1:]) != images.shape[1:]:
            raise ValueError(
                f"the slates of all sessions must be of one size, got (columns, images) {kept} and {images.shape[1:]}; "
                "gather these datasets apart"
            )
        whole = (images != NO_ROW).all(axis=2)
        shown = whole.all(axis=1)
        asked = np.array([turn.satisfactions or [np.nan] * len(turn.images) for turn in turns], dtype=np.float64)
        verdicts = np.array([VERDICTS[turn.versus_previous] for turn in turns])
        self._sessions.append(
            _SessionRow(
                rater,
                prompt,
                images=np.where(images == NO_ROW, 0, images),  # no evidence points there; any row will do
                choices=np.where(shown, [-1 if turn.choice is None else turn.choice for turn in turns], -1),
                satisfactions=np.where(whole, asked, np.nan),
                verdicts=np.where(shown & np.concatenate([[False], shown[:-1]]), verdicts, np.nan),
            )
        )

    def data(
        self, prompt_embeddings: FloatArray, image_embeddings: FloatArray, rater_splits: IntArray
    ) -> PreferenceData:
        """Build the arrays over two tables of embeddings.

        Args:
            prompt_embeddings: ``(P, d)``.
            image_embeddings: ``(I, d)``.
            rater_splits: ``(R,)``.

        Returns:
            The data.
        """
        pairs, rankings = self._pairs, self._rankings
        horizon = max((len(row.choices) for row in self._sessions), default=0)
        slate = self._sessions[0].images.shape[1:] if self._sessions else (1, 1)
        satisfactions = self._padded([s.satisfactions for s in self._sessions], (horizon, slate[0]), np.nan)
        verdicts = self._padded([s.verdicts for s in self._sessions], (horizon,), np.nan)
        return PreferenceData(
            prompt_embeddings=prompt_embeddings,
            image_embeddings=image_embeddings,
            rater_splits=rater_splits,
            pair_raters=_integers(pairs.raters),
            pair_prompts=_integers(pairs.prompts),
            pair_images=_integers(pairs.images).reshape(-1, 2),
            pair_labels=np.array(pairs.values, dtype=np.float64),
            rating_raters=_integers(self._ratings.raters),
            rating_prompts=_integers(self._ratings.prompts),
            rating_images=_integers(self._ratings.images),
            ratings=np.array(self._ratings.values, dtype=np.float64),
            ranking_raters=_integers(rankings.raters),
            ranking_prompts=_integers(rankings.prompts),
            rankings=self._filled_up(),
            session_raters=np.array([s.rater for s in self._sessions], dtype=np.int64),
            session_prompts=np.array([s.prompt for s in self._sessions], dtype=np.int64),
            session_images=self._padded([s.images for s in self._sessions], (horizon, *slate), 0).astype(np.int64),
            session_choices=self._padded([s.choices for s in self._sessions], (horizon,), -1).astype(np.int64),
            session_satisfactions=None if np.isnan(satisfactions).all() else satisfactions,
            session_versus_previous=None if np.isnan(verdicts).all() else verdicts,
        )

    def _filled_up(self) -> IntArray:
        """The rankings ``(r, longest)``, a row each."""
        lengths = _integers(self._ranking_lengths)
        found = np.full((len(lengths), lengths.max(initial=2)), NO_IMAGE, dtype=np.int64)
        found[np.arange(found.shape[1]) < lengths[:, None]] = _integers(self._rankings.images)  # row by row
        return found

    @staticmethod
    def _padded(rows: Sequence[FloatArray | IntArray], shape: tuple[int, ...], filling: float) -> FloatArray:
        """Stack rows of unlike numbers of turns: ``(S, *shape)``."""
        out = np.full((len(rows), *shape), filling)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out


def _preference(rank: float, other: float) -> float:
    """Label a pair: 1 if the first is better, which is a lower rank, 0 if the second, 0.5 for a tie."""
    return 0.5 if rank == other else float(rank < other)


def _integers(column: array[int]) -> IntArray:
    return np.array(column, dtype=np.int64)
