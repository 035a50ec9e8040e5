"""What the user model is fitted on: pairs, ratings, rankings and sessions with rater ids (section 5.2).

The planted truth of synthetic raters is never read here.
"""

from __future__ import annotations

import hashlib
import pathlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pasta_gym.datasets.label_folder import (
    NO_CHOICE,
    of_another,
    read_label_folder,
    read_pool,
    scattered,
    second_time,
    wrong_turn,
)
from pasta_gym.mini.rater_data import SATISFACTION_LEVELS
from pasta_gym.user_model.label_table import LabelTable, read_label_table

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]
SPLITS: tuple[str, ...] = ("train", "validation", "test")
VERDICTS: dict[object, float] = {"worse": -1.0, "same": 0.0, "better": 1.0, None: np.nan}
"""What ``session_versus_previous`` holds for each answer."""
NO_IMAGE = -1
"""Fills a row of ``rankings`` up behind its last image."""
_ANSWERS = ("better", "same", "worse")


@dataclass(frozen=True)
class Source:
    """A dataset that labels came from.

    Attributes:
        name: The dataset's name.
        people: The same for datasets of the same people, as the files of one publication are.
        raters: ``(n,)`` whose labels it has, in order. A person of two datasets of the same people is in both, with
            what was said in either.
    """

    name: str
    people: str
    raters: IntArray


@dataclass(frozen=True)
class PreferenceData:
    """Preference labels over images of initial prompts. Indices point into the two embedding tables.

    Attributes:
        prompt_embeddings: ``(P, d)`` CLIP text embeddings of initial prompts, not normalised.
        image_embeddings: ``(I, d)`` CLIP image embeddings, not normalised; half precision is fine.
        rater_splits: ``(R,)`` index into ``SPLITS``: raters, and with them their prompts, are split, never rows.
        pair_raters: ``(n,)`` who compared.
        pair_prompts: ``(n,)`` initial prompt of both images.
        pair_images: ``(n, 2)`` the two images.
        pair_labels: ``(n,)`` 1 if the first is preferred, 0 if the second, 0.5 for a tie.
        rating_raters: ``(m,)`` who rated.
        rating_prompts: ``(m,)`` initial prompt.
        rating_images: ``(m,)`` the image.
        ratings: ``(m,)`` scaled to [0, 1].
        ranking_raters: ``(r,)`` who ranked.
        ranking_prompts: ``(r,)`` initial prompt.
        rankings: ``(r, longest)`` images, best first; shorter lists are filled up with ``NO_IMAGE``.
        session_raters: ``(S,)`` who chose.
        session_prompts: ``(S,)`` initial prompt.
        session_images: ``(S, H, L, M)`` images of the slates.
        session_choices: ``(S, H)`` chosen columns; -1 where there is none.
        session_satisfactions: ``(S, H, L)`` satisfaction with each column, scaled to [0, 1], NaN where nobody was
            asked; None if no session has any.
        session_versus_previous: ``(S, H)`` the slate against the one before, -1 worse, 0 the same, 1 better, NaN where
            nobody was asked, as at the first turn; None if no session has any.
        sources: The datasets that ``gather`` read; empty if nobody says where raters come from.
        encoder_sha256: Hash of the weights of the encoder of both tables; None where nobody knows.
        images_sha256: Hash of which image is in which row; None where nobody knows.
    """

    prompt_embeddings: FloatArray
    image_embeddings: FloatArray
    rater_splits: IntArray
    pair_raters: IntArray
    pair_prompts: IntArray
    pair_images: IntArray
    pair_labels: FloatArray
    rating_raters: IntArray
    rating_prompts: IntArray
    rating_images: IntArray
    ratings: FloatArray
    ranking_raters: IntArray
    ranking_prompts: IntArray
    rankings: IntArray
    session_raters: IntArray
    session_prompts: IntArray
    session_images: IntArray
    session_choices: IntArray
    session_satisfactions: FloatArray | None = None
    session_versus_previous: FloatArray | None = None
    sources: tuple[Source, ...] = ()
    encoder_sha256: str | None = None
    images_sha256: str | None = None

    @property
    def n_raters(self) -> int:
        """Number of raters, of all splits."""
        return len(self.rater_splits)

    @property
    def embedding_dim(self) -> int:
        """The embeddings' dimension, d."""
        return int(self.image_embeddings.shape[1])

    @property
    def ranking_lengths(self) -> IntArray:
        """Images of each ranking, ``(r,)``."""
        lengths: IntArray = (self.rankings != NO_IMAGE).sum(axis=1)
        return lengths

    def raters_of(self, split: str) -> IntArray:
        """List the raters of a split.

        Raises:
            ValueError: If the split is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        raters: IntArray = np.flatnonzero(self.rater_splits == SPLITS.index(split)).astype(np.int64)
        return raters

    def all_pairs(self) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
        """Join pairs and rankings: neighbours in a ranking are pairs too, as HPS is used in training.

        Under Plackett and Luce's model each of these pairs follows Bradley and Terry's. Only neighbours are taken,
        because all pairs of a ranking would count one judgement several times.

        Returns:
            Raters ``(n,)``, prompts ``(n,)``, images ``(n, 2)`` and labels ``(n,)``, sorted by rater.
        """
        neighbours = np.stack([self.rankings[:, :-1], self.rankings[:, 1:]], axis=-1)
        are_there = (neighbours != NO_IMAGE).all(axis=2)
        each = are_there.sum(axis=1)
        raters = np.concatenate([self.pair_raters, np.repeat(self.ranking_raters, each)])
        prompts = np.concatenate([self.pair_prompts, np.repeat(self.ranking_prompts, each)])
        images = np.concatenate([self.pair_images, neighbours[are_there]])
        labels = np.concatenate([self.pair_labels, np.ones(each.sum())])
        order = np.argsort(raters, kind="stable")
        return raters[order], prompts[order], images[order], labels[order]


def load_preferences(folder: str | pathlib.Path) -> PreferenceData:
    """Read the labels of one world and the embeddings of the pool they point into.

    Args:
        folder: A folder that ``pasta_gym.mini.rater_data label`` wrote, or one of the same layout: ``pairs``,
            ``ratings``, ``rankings``, ``turns`` and ``raters`` as Parquet, ``metadata.json`` naming the pool.

    Returns:
        The data.

    Raises:
        DatasetError: If a file is missing, broken or of another format, or a value is out of range, with its row. What
            ``pasta_gym.datasets.MiniRaters`` reads as well is valid for both or for neither. Texts are not read.
    """
    root = pathlib.Path(folder)
    sizes = read_label_folder(root)
    pool = read_pool(sizes.pool, sizes.images_per_session)
    prompts, images = pool.prompts.astype(np.float32), pool.images
    raters = read_label_table(root, "raters", ("rater", "split"))
    pairs = read_label_table(root, "pairs", ("rater", "session", "first", "second", "label"))
    ratings = read_label_table(root, "ratings", ("rater", "session", "image", "rating"))
    rankings = read_label_table(root, "rankings", ("rater", "session", "images"))
    said = ("rater", "session", "turn", "choice", "column_satisfaction", "than_before")
    turns = read_label_table(root, "turns", said)
    n_images, n_sessions, n_raters = images.shape[1], len(prompts), len(raters.columns["rater"])
    m, slate, horizon = sizes.images_per_prompt, sizes.slate_size, sizes.horizon

    def flat(session: IntArray, image: IntArray) -> IntArray:
        rows: IntArray = session * n_images + image
        return rows

    def context(of: LabelTable) -> tuple[IntArray, IntArray]:
        return of.whole("rater", 0, n_raters - 1), of.whole("session", 0, n_sessions - 1)

    def shown(of: LabelTable, column: str) -> IntArray:
        return of.whole(column, 0, n_images - 1)

    splits = np.full(n_raters, -1, dtype=np.int64)
    splits[_once(raters, raters.whole("rater", 0, n_raters - 1))] = raters.places("split", SPLITS)
    (pair_raters, pair_prompts), (rating_raters, rating_prompts) = context(pairs), context(ratings)
    (ranking_raters, ranking_prompts), ranked = context(rankings), rankings.lists("images", 0, n_images - 1)
    who, session_ids = context(turns)
    turn_ids = turns.whole("turn", 0, horizon - 1)
    kept = _whole_sessions(turns, who, session_ids, turn_ids, horizon)
    levels = turns.lists("column_satisfaction", 1, SATISFACTION_LEVELS, slate, gaps=True)
    answers = turns.places("than_before", _ANSWERS, gaps=True)
    rating_levels = sizes.rating_levels
    layout = m + np.arange(horizon * slate * m).reshape(horizon, slate, m)
    return PreferenceData(
        prompt_embeddings=prompts,
        image_embeddings=images.reshape(-1, images.shape[-1]),
        rater_splits=splits,
        pair_raters=pair_raters,
        pair_prompts=pair_prompts,
        pair_images=np.stack([flat(pair_prompts, shown(pairs, c)) for c in ("first", "second")], axis=1),
        pair_labels=pairs.among("label", (0.0, 0.5, 1.0)),
        rating_raters=rating_raters,
        rating_prompts=rating_prompts,
        rating_images=flat(rating_prompts, shown(ratings, "image")),
        ratings=(ratings.within("rating", 1, rating_levels) - 1.0) / (rating_levels - 1),
        ranking_raters=ranking_raters,
        ranking_prompts=ranking_prompts,
        rankings=np.where(
            np.isnan(ranked), NO_IMAGE, flat(ranking_prompts[:, None], np.nan_to_num(ranked).astype(np.int64))
        ),
        session_raters=who[::horizon],
        session_prompts=kept,
        session_images=kept[:, None, None, None] * n_images + layout,
        session_choices=turns.whole("choice", NO_CHOICE, slate - 1).reshape(-1, horizon),
        session_satisfactions=((levels - 1.0) / (SATISFACTION_LEVELS - 1)).reshape(-1, horizon, slate),
        session_versus_previous=np.array([VERDICTS[said] for said in (*_ANSWERS, None)])[answers].reshape(-1, horizon),
        encoder_sha256=sizes.encoder_sha256,
        # Sessions and images are in order, so the pool's embeddings tell all.
        images_sha256=hashlib.sha256(f"pool {images.shape} ".encode() + images.tobytes()).hexdigest(),
    )


def _once(table: LabelTable, raters: IntArray) -> IntArray:
    """Return raters ``(n,)`` none of whom may be there twice."""
    row = _first_repeat(raters)
    if row is not None:
        table.refuse("rater", row, second_time(int(raters[row])))
    return raters


def _first_repeat(numbers: IntArray) -> int | None:
    """Where the first of numbers ``(n,)`` stands that was there before."""
    _, first = np.unique(numbers, return_index=True)
    return None if len(first) == len(numbers) else int(np.setdiff1d(np.arange(len(numbers)), first)[0])


def _whole_sessions(turns: LabelTable, who: IntArray, sessions: IntArray, numbers: IntArray, horizon: int) -> IntArray:
    """Return the session ``(S,)`` of each H rows, which must be its turns in order, of one rater."""
    starts = np.flatnonzero(np.diff(sessions, prepend=-1))
    ends = [*starts.tolist(), len(sessions)][1:]
    for start, end in zip(starts.tolist(), ends, strict=True):
        if wrong := wrong_turn(numbers[start:end].tolist(), horizon):
            turns.refuse("turn", start + wrong[0], wrong[1])
        if (other := who[start:end] != who[start]).any():
            turns.refuse("rater", start + int(other.argmax()), of_another(int(sessions[start]), int(who[start])))
    kept: IntArray = sessions[starts]
    again = _first_repeat(kept)
    if again is not None:
        turns.refuse("session", int(starts[again]), scattered(int(kept[again])))
    return kept
