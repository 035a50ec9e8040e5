"""Planted raters as the users of an environment: they see pixels and choose by their own tastes.

What they say of a conversation, better, same or worse than the turn before and how satisfied they are at its end, is
keyed by the conversation, so that agents are judged with the same luck.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from pasta_gym.mini import grammar, raters
from pasta_gym.mini.rater_data import SATISFACTION_LEVELS, TRUTH, load_truth
from pasta_gym.mini.rater_sessions import crowd
from pasta_gym.types import FloatArray, ImageArray, IntArray

Eye = Callable[[ImageArray], FloatArray]
"""Reads ``(n, 38)`` of pictures ``(n, height, width, 3)``."""

CROWD_FILES = ("raters.parquet", TRUTH)
"""The files of a world's labels that say who its raters are."""
WORSE, SAME, BETTER = -1, 0, 1
_VERDICT, _SATISFACTION = 0x7E2D, 0x5A71


@dataclass(frozen=True)
class Crowd:
    """Which planted raters an environment draws its users from, as plain values.

    Attributes:
        world_seed: The world they live in.
        size: Raters of that world, of all splits; who rater i is depends on it.
        first: Number of the first rater who may be drawn.
        end: One past the last.
        temperature: Factor on utilities in their choices.
        judging: How they judge.
    """

    world_seed: int = 0
    size: int = 750
    first: int = 0
    end: int = 600
    temperature: float = 4.5
    judging: raters.RaterConfig = raters.DEFAULT_CONFIG

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.end <= self.size:
            raise ValueError(
                f"first and end must satisfy 0 <= first < end <= size, got {self.first}, {self.end}, {self.size}"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}; labels say it in truth.npz")

    def __len__(self) -> int:
        return self.end - self.first

    def people(self) -> raters.Raters:
        """Draw them, ``end - first`` raters in the order of their numbers."""
        _, everybody = crowd(self.world_seed, self.size, self.temperature, self.judging)
        own = slice(self.first, self.end)
        return raters.Raters(everybody.archetypes[own], everybody.weights[own], self.temperature, self.judging)


def crowd_of(labels: pathlib.Path, split: str) -> Crowd:
    """Find the raters of one split of a world's labels.

    Args:
        labels: What ``python -m pasta_gym.mini.rater_data label`` wrote.
        split: ``"train"`` for those on whose labels the user model is fitted, ``"test"`` for held-out ones.

    Raises:
        ValueError: If a file is missing, the split has nobody, or its raters are not the people that were planted.
    """
    import pyarrow.parquet as pq

    truth = load_truth(labels)
    try:
        table = pq.read_table(labels / "raters.parquet").to_pydict()
    except OSError as error:
        raise ValueError(f"cannot read {labels / 'raters.parquet'} ({error}); label the pool again") from error
    own = np.array([rater for rater, of in zip(table["rater"], table["split"], strict=True) if of == split])
    if not len(own) or not np.array_equal(own, np.arange(own[0], own[-1] + 1)):
        raise ValueError(f"{labels} must hold raters of split {split!r} in a row, got {own.tolist()[:5]}; label again")
    people = truth.raters
    found = Crowd(
        world_seed=truth.archetypes.seed,
        size=len(people),
        first=int(own[0]),
        end=int(own[-1]) + 1,
        temperature=people.temperature,
        judging=people.config,
    )
    if not np.allclose(found.people().weights, people.weights[found.first : found.end]):
        raise ValueError(f"the raters in {labels} are not those of world {found.world_seed} any more; label again")
    return found


class RaterUsers:
    """A user model whose types are single planted raters. It reads reads, not embeddings.

    Where others take prompt embeddings it takes slot values of initial prompts ``(B, 6)``, and where they take image
    embeddings, reads of the raters' eye ``(..., 38)``.

    Args:
        crowd: Who they are; type k is rater ``crowd.first + k``. All are equally common.
    """

    aggregator = "raters"

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self._people = crowd.people()
        self.prior: FloatArray = np.full(len(crowd), 1.0 / len(crowd))

    @property
    def n_types(self) -> int:
        """How many raters there are."""
        return len(self.crowd)

    def with_aggregator(self, aggregator: str) -> NoReturn:
        """Refuse: how a rater judges a column is planted."""
        raise ValueError(f"raters judge a column by its best picture; leave the aggregator out, got {aggregator!r}")

    def prompt_features(self, prompt_embeddings: FloatArray) -> FloatArray:
        """Repeat the slot values ``(B, 6)`` for every rater, ``(B, K, 6)``: all raters understand them alike."""
        values = np.asarray(prompt_embeddings)
        return np.broadcast_to(values[:, None], (len(values), self.n_types, values.shape[1]))

    def utilities(self, user_types: IntArray, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Return planted utilities ``(B, L)``, from slot values ``(B, K, 6)`` and reads ``(B, L, M, 38)``."""
        values = prompt_features[np.arange(len(user_types)), user_types].astype(np.int64)[:, None, None]
        weights = self._people.weights[user_types][:, None, None]
        pictures = raters.image_utilities(image_embeddings, values, weights, self._people.config)
        return raters.column_utilities(pictures, self._people.config.best_image_sharpness)

    def all_utilities(self, prompt_features: FloatArray, image_embeddings: FloatArray) -> FloatArray:
        """Return the utilities of columns for every rater, ``(B, K, L)``."""
        b = len(prompt_features)
        each = [self.utilities(np.full(b, k), prompt_features, image_embeddings) for k in range(self.n_types)]
        return np.stack(each, axis=1)

    def choice_logits(self, utilities: FloatArray) -> FloatArray:
        """Return logits of columns, temperature times utility."""
        logits: FloatArray = self._people.temperature * np.asarray(utilities)
        return logits

    def posterior(self, prompt_embeddings: FloatArray, slate_images: FloatArray, choices: IntArray) -> NoReturn:
        """Refuse: nobody but the raters knows who they are."""
        raise ValueError("planted raters have no posterior; ask the learned user model for its belief")

    @property
    def metadata(self) -> dict[str, Any]:
        """Who they are, for provenance."""
        c = self.crowd
        return {"planted raters": [c.world_seed, c.size, c.first, c.end, c.temperature, repr(c.judging)]}


def verdicts(chosen: FloatArray, keys: IntArray, config: raters.RaterConfig) -> IntArray:
    """Say of each turn but the first whether its chosen column is an improvement on the one chosen before.

    Args:
        chosen: ``(n, H)`` planted utilities of the columns that were chosen.
        keys: ``(n,)`` what a conversation's noise depends on; equal keys, equal noise.
        config: How raters judge.

    Returns:
        ``(n, H - 1)`` of ``WORSE``, ``SAME`` or ``BETTER``.
    """
    said = [
        raters.sample_improvements(row[:-1], row[1:], config, np.random.default_rng([int(key), _VERDICT]))
        for row, key in zip(chosen, keys, strict=True)
    ]
    return np.stack(said)


def final_satisfaction(chosen: FloatArray, keys: IntArray, config: raters.RaterConfig) -> IntArray:
    """Rate the column chosen last on 1-5, ``(n,)``, from ``chosen (n, H)``; equal keys, equal noise."""
    noise = config.satisfaction_noise
    said = [
        raters.sample_ratings(row[-1:], SATISFACTION_LEVELS, noise, np.random.default_rng([int(key), _SATISFACTION]))
        for row, key in zip(chosen, keys, strict=True)
    ]
    return np.concatenate(said)


def slot_values_of(ids: IntArray) -> FloatArray:
    """Slot values ``(n, 6)`` of prompt ids ``(n,)``, as ``RaterUsers.prompt_features`` takes them."""
    return grammar.slot_values(np.asarray(ids, dtype=np.int64)).astype(np.float64)
