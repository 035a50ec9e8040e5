"""Yardsticks that know what an agent cannot: the user model, and one of them the user.

All plan one turn ahead with the surrogate, whatever paints the pictures, and show at most one prompt a category.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasta_gym import seeding
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_SAMPLE = 0x5A3B1E  # salt of the imagined pictures' keys
_CONVERSATIONS_AT_ONCE = 50  # keeps the arrays of one batch within the processor's caches


class ReferenceAgent(abc.ABC):
    """Imagines ``n_samples`` columns of pictures for every candidate and plans with the user model's utilities.

    Attributes:
        name: Name in tables.
        privileged: Always true.
    """

    name: str
    privileged = True

    def __init__(self, *, name: str, world: Any, user_model: Any, n_samples: int) -> None:
        if n_samples < 1:
            raise ValueError(f"n_samples must be 1 or more, got {n_samples}")
        self.name = name
        self.n_samples = n_samples
        self._images = world.image_generator("surrogate")
        self._user_model = user_model

    def act(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        """Choose slates ``(B, L)``; reads ``prompt_ids`` beside the public observation."""
        rows = np.arange(len(seeds))
        slates = [
            self._plan({name: np.asarray(values)[part] for name, values in observations.items()}, seeds[part])
            for part in np.array_split(rows, max(1, -(-len(rows) // _CONVERSATIONS_AT_ONCE)))
        ]
        return np.concatenate(slates)

    @abc.abstractmethod
    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        """Choose the slates of one batch of conversations."""

    def _columns(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> tuple[FloatArray, FloatArray]:
        """Return prompt features ``(B, K, d)`` and imagined columns ``(B, C * S, M, d)``."""
        ids = observations["prompt_ids"]
        n_images = observations["initial_images"].shape[1]
        n_rows, n_candidates = ids.shape
        draws = np.arange(n_candidates * self.n_samples * n_images)
        keys = seeding.mix(seeds[:, None], draws, _SAMPLE).reshape(n_rows * n_candidates, -1)
        pictures = self._images.generate(ids.reshape(-1), keys).embeddings
        columns = pictures.reshape(n_rows, n_candidates * self.n_samples, n_images, -1)
        return self._user_model.prompt_features(observations["initial_prompt"]), columns

    def _slate_size(self, observations: dict[str, NDArray[Any]]) -> int:
        return int(observations["slate_prompts"].shape[2])

    def _best_slates(
        self, observations: dict[str, NDArray[Any]], utilities: FloatArray, weights: FloatArray
    ) -> IntArray:
        """Choose the slates ``(B, L)`` with the largest expected chosen utility over samples ``(B, S, C)``."""
        categories, slate_size = observations["categories"], self._slate_size(observations)
        # A user model that does not say so may have logits that depend on the whole slate.
        if getattr(self._user_model, "has_constant_temperature", False):
            return best_slates(utilities, self._choice_weights(utilities), weights, categories, slate_size)
        return best_slates_by_slate(utilities, self._user_model.choice_logits, weights, categories, slate_size)

    def _choice_weights(self, utilities: FloatArray) -> FloatArray:
        """Exponentials of choice logits, scaled so that the largest of the last axis is 1."""
        logits = np.asarray(self._user_model.choice_logits(utilities), dtype=np.float32)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        weights: FloatArray = np.exp(np.maximum(shifted, -80.0))  # the floor keeps sums above 0 in float32
        return weights


class Clairvoyant(ReferenceAgent):
    """Knows the user's type and shows the slate with the largest expected utility of the chosen column.

    It is myopic, so an agent that plans ahead can pass it: a yardstick, not a ceiling. It is the 1 of the
    normalised score.
    """

    def __init__(self, *, world: Any, user_model: Any, n_samples: int = 8, name: str = "clairvoyant") -> None:
        super().__init__(name=name, world=world, user_model=user_model, n_samples=n_samples)

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        features, columns = self._columns(observations, seeds)
        flat = self._user_model.utilities(observations["user_type"], features, columns)
        utilities = np.swapaxes(flat.reshape(len(seeds), -1, self.n_samples), 1, 2)  # (B, S, C)
        weights = np.full(utilities.shape[1], 1 / self.n_samples)
        return self._best_slates(observations, utilities, weights)


class BlindSlateAware(ReferenceAgent):
    """Ignores the history; the slate with the largest expected chosen utility, averaged over the prior of types.

    It covers many tastes at once: the strongest agent without personalisation.
    """

    def __init__(self, *, world: Any, user_model: Any, n_samples: int = 4, name: str = "blind_slate_aware") -> None:
        super().__init__(name=name, world=world, user_model=user_model, n_samples=n_samples)

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        features, columns = self._columns(observations, seeds)
        n_rows, n_types = len(seeds), self._user_model.n_types
        flat = self._user_model.all_utilities(features, columns)  # (B, K, C * S)
        split = flat.reshape(n_rows, n_types, -1, self.n_samples)
        utilities = np.moveaxis(split, 3, 2).reshape(n_rows, n_types * self.n_samples, -1)  # (B, K * S, C)
        prior = np.repeat(self._user_model.prior, self.n_samples) / self.n_samples
        return self._best_slates(observations, utilities, prior)


class BlindMarginal(ReferenceAgent):
    """Ignores the history; the candidate with the largest prior-mean utility of each of the best categories."""

    def __init__(self, *, world: Any, user_model: Any, n_samples: int = 4, name: str = "blind_marginal") -> None:
        super().__init__(name=name, world=world, user_model=user_model, n_samples=n_samples)

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        features, columns = self._columns(observations, seeds)
        flat = self._user_model.all_utilities(features, columns)
        of_type = flat.reshape(len(seeds), self._user_model.n_types, -1, self.n_samples).mean(axis=3)
        mean = np.einsum("k,bkc->bc", self._user_model.prior, of_type)
        return best_marginal_slates(mean, observations["categories"], self._slate_size(observations))


def best_slates(
    utilities: FloatArray, choice_weights: FloatArray, weights: FloatArray, categories: IntArray, slate_size: int
) -> IntArray:
    r"""Find the one-per-category slate with the largest expected utility of the chosen column, by enumeration.

    A slate's value in sample ``s`` is :math:`\sum_i e^{l_i} u_i / \sum_i e^{l_i}` (equation 4): both sums over
    all slates are products with a table of zeros and ones.

    Args:
        utilities: ``(B, S, C)`` of candidates in samples (of pictures, or of pictures and types).
        choice_weights: ``(B, S, C)`` exponentials of their choice logits, up to a factor for each sample.
        weights: ``(S,)`` probability of each sample.
        categories: ``(B, C)``.
        slate_size: The paper's ``L``.

    Returns:
        ``(B, L)`` places; among equal slates the first of the table.
    """
    slates = np.empty((len(utilities), slate_size), dtype=np.int64)
    for rows, table, members in _tables(categories, slate_size):
        values = expected_chosen_utilities(utilities[rows], choice_weights[rows], weights, members)
        slates[rows] = table[values.argmax(axis=1)]
    return slates


def best_slates_by_slate(
    utilities: FloatArray,
    choice_logits: Callable[[FloatArray], FloatArray],
    weights: FloatArray,
    categories: IntArray,
    slate_size: int,
) -> IntArray:
    """Do the same for choice logits that depend on the whole slate, as with a learned temperature function.

    Args:
        utilities: ``(B, S, C)`` of candidates in samples.
        choice_logits: Maps the utilities of slates ``(..., L)`` to their choice logits.
        weights: ``(S,)`` probability of each sample.
        categories: ``(B, C)``.
        slate_size: The paper's ``L``.

    Returns:
        ``(B, L)`` places; among equal slates the first of the table.
    """
    slates = np.empty((len(utilities), slate_size), dtype=np.int64)
    for rows, table, _ in _tables(categories, slate_size):
        values = np.zeros((len(rows), len(table)))
        for sample, weight in enumerate(weights):
            shown = np.asarray(utilities[rows, sample], dtype=np.float64)[:, table]  # (b, P, L)
            logits = np.asarray(choice_logits(shown), dtype=np.float64)
            chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
            values += weight * (chances * shown).sum(axis=-1) / chances.sum(axis=-1)
        slates[rows] = table[values.argmax(axis=1)]
    return slates


def expected_chosen_utilities(
    utilities: FloatArray, choice_weights: FloatArray, weights: FloatArray, members: NDArray[np.float32]
) -> FloatArray:
    """Value slates under the choice model.

    Args:
        utilities: ``(B, S, C)``.
        choice_weights: ``(B, S, C)`` positive.
        weights: ``(S,)`` probability of each sample.
        members: ``(C, P)``, 1 where slate ``p`` holds candidate ``c``.

    Returns:
        ``(B, P)`` float32.
    """
    chosen = np.asarray(choice_weights, dtype=np.float32)
    paid = chosen * np.asarray(utilities, dtype=np.float32)
    values = np.zeros((len(utilities), members.shape[1]), dtype=np.float32)
    for sample, weight in enumerate(weights):
        ratio = paid[:, sample] @ members
        ratio /= chosen[:, sample] @ members
        ratio *= np.float32(weight)
        values += ratio
    return values


def best_marginal_slates(utilities: FloatArray, categories: IntArray, slate_size: int) -> IntArray:
    """Show the best candidate of each of the best categories: ``(B, L)`` from utilities ``(B, C)``."""
    slates = np.empty((len(utilities), slate_size), dtype=np.int64)
    for rows, table, _ in _tables(categories, slate_size):
        slates[rows] = table[utilities[rows][:, table].sum(axis=2).argmax(axis=1)]
    return slates


def _tables(categories: IntArray, slate_size: int) -> Iterator[tuple[IntArray, IntArray, NDArray[np.float32]]]:
    """Group conversations by the layout of their categories, each with its table of slates."""
    layouts, group = np.unique(categories, axis=0, return_inverse=True)
    for index, layout in enumerate(layouts):
        table, members = slate_table(tuple(int(c) for c in layout), slate_size)
        yield np.flatnonzero(group.reshape(-1) == index), table, members


@lru_cache(maxsize=64)
def slate_table(categories: tuple[int, ...], slate_size: int) -> tuple[IntArray, NDArray[np.float32]]:
    """List every slate with at most one prompt a category: 3,125 for four of five categories of five.

    Args:
        categories: Category of each of ``C`` candidates.
        slate_size: The paper's ``L``.

    Returns:
        ``(P, L)`` places in the candidates, and ``(C, P)`` ones where a slate holds a candidate.

    Raises:
        ValueError: If there are fewer categories than ``slate_size``.
    """
    places = [[i for i, c in enumerate(categories) if c == category] for category in sorted(set(categories))]
    if not 1 <= slate_size <= len(places):
        raise ValueError(f"slate_size must be in 1..{len(places)}, the number of categories, got {slate_size}")
    rows = [slate for chosen in itertools.combinations(places, slate_size) for slate in itertools.product(*chosen)]
    table = np.array(rows, dtype=np.int64)
    members = np.zeros((len(categories), len(table)), dtype=np.float32)
    members[table, np.arange(len(table))[:, None]] = 1.0
    return table, members
