"""Yardsticks that know what an agent cannot: the user model, and one of them the user.

All plan with the surrogate, whatever paints the pictures. Those here plan one turn ahead and remember nothing;
``benchmarks.reference_belief`` has those that go by the choices seen so far, ``benchmarks.reference_lookahead`` the one
that plans further ahead.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.slate_enumeration import best_slates
from agents.slate_selection import top_slate
from pasta_gym import seeding
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_SAMPLE = 0x5A3B1E  # salt of the imagined pictures' keys
_CONVERSATIONS_AT_ONCE = 50  # keeps the arrays of one batch within the processor's caches


class ReferenceAgent(abc.ABC):
    """Imagines ``n_samples`` columns of pictures for every candidate and plans with the user model's utilities.

    A kind of agent names its own defaults in ``name`` and ``n_samples``.

    Args:
        world: Whose surrogate draws the pictures.
        user_model: The environment's.
        n_samples: Imagined columns of each candidate; the kind's own without.
        one_per_category: Whether a slate holds at most one prompt a category; else any distinct prompts.
        name: Name in tables; the kind's own without.

    Attributes:
        name: Name in tables.
        n_samples: Imagined columns of each candidate.
        privileged: Always true.

    Raises:
        ValueError: If ``n_samples`` is under 1, or the world has no surrogate to imagine pictures with.
    """

    name: str
    n_samples: int
    privileged = True

    def __init__(
        self,
        *,
        world: Any,
        user_model: Any,
        n_samples: int | None = None,
        one_per_category: bool = True,
        name: str | None = None,
    ) -> None:
        if n_samples is not None and n_samples < 1:
            raise ValueError(f"n_samples must be 1 or more, got {n_samples}")
        self.name = type(self).name if name is None else name
        self.n_samples = type(self).n_samples if n_samples is None else n_samples
        self.one_per_category = one_per_category
        try:
            self._images = world.image_generator("surrogate")
        except ValueError as error:
            raise ValueError(
                f"agent {self.name!r} imagines pictures with a surrogate, and there is none ({error}); play it in a "
                "mini world, or give the world a surrogate"
            ) from error
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
        # One picture a key: the samples of a candidate are pictures of the same prompt.
        pictures = self._images.generate(ids.reshape(-1), keys).embeddings
        columns = pictures.reshape(n_rows, n_candidates * self.n_samples, n_images, -1)
        return self._user_model.prompt_features(observations["initial_prompt"]), columns

    def _utilities_to_type(
        self, observations: dict[str, NDArray[Any]], seeds: UInt64Array, user_types: IntArray
    ) -> FloatArray:
        """Return utilities ``(B, S, C)`` of the candidates to people of known types ``(B,)``."""
        features, columns = self._columns(observations, seeds)
        flat = self._user_model.utilities(user_types, features, columns)
        return np.swapaxes(flat.reshape(len(seeds), -1, self.n_samples), 1, 2)

    def _utilities_to_all(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> FloatArray:
        """Return utilities ``(B, K, S, C)`` of the candidates to every type."""
        features, columns = self._columns(observations, seeds)
        flat = self._user_model.all_utilities(features, columns)  # (B, K, C * S)
        return np.moveaxis(flat.reshape(len(seeds), self._user_model.n_types, -1, self.n_samples), 3, 2)

    def _labels(self, observations: dict[str, NDArray[Any]]) -> IntArray | None:
        """Categories ``(B, C)``, or None where slates are free."""
        return observations["categories"] if self.one_per_category else None

    @property
    def _has_constant_temperature(self) -> bool:
        """A user model that does not say so may have logits that depend on the whole slate."""
        return bool(getattr(self._user_model, "has_constant_temperature", False))

    def _best_for_type(
        self, observations: dict[str, NDArray[Any]], utilities: FloatArray, item_values: FloatArray | None = None
    ) -> IntArray:
        """Choose slates ``(B, L)`` for one type each: utilities and, if given, item values ``(B, S, C)``."""
        return best_slates(
            utilities,
            np.full(self.n_samples, 1 / self.n_samples),
            self._labels(observations),
            slate_size_of(observations),
            choice_logits=self._user_model.choice_logits,
            has_constant_temperature=self._has_constant_temperature,
            item_values=item_values,
        )

    def _best_for_belief(
        self, observations: dict[str, NDArray[Any]], utilities: FloatArray, belief: FloatArray
    ) -> IntArray:
        """Choose the slates with the largest expected chosen utility, averaged over a belief ``(B, K)``."""
        n_rows, _, _, n_candidates = utilities.shape
        return best_slates(
            utilities.reshape(n_rows, -1, n_candidates),
            np.repeat(belief, self.n_samples, axis=1) / self.n_samples,
            self._labels(observations),
            slate_size_of(observations),
            choice_logits=self._user_model.choice_logits,
            has_constant_temperature=self._has_constant_temperature,
        )

    def _best_marginal(
        self, observations: dict[str, NDArray[Any]], utilities: FloatArray, belief: FloatArray
    ) -> IntArray:
        """Choose the candidates with the largest utilities, averaged over a belief ``(B, K)``."""
        mean = np.einsum("bk,bkc->bc", belief, utilities.mean(axis=2))
        return top_slate(mean, self._labels(observations), slate_size_of(observations))

    def _prior(self, n_rows: int) -> FloatArray:
        """The prior of types for each conversation, ``(B, K)``."""
        return np.tile(np.asarray(self._user_model.prior), (n_rows, 1))


def slate_size_of(observations: dict[str, NDArray[Any]]) -> int:
    """Read L off the shape of the history."""
    return int(observations["slate_prompts"].shape[2])


class Clairvoyant(ReferenceAgent):
    """Knows the user's type and shows the slate with the largest expected utility of the chosen column.

    It is myopic, so an agent that plans ahead can pass it: a yardstick, not a ceiling. It is the 1 of the
    normalised score.
    """

    name = "clairvoyant"
    n_samples = 8

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities = self._utilities_to_type(observations, seeds, observations["user_type"])
        return self._best_for_type(observations, utilities)


class BlindSlateAware(ReferenceAgent):
    """Ignores the history; the slate with the largest expected chosen utility, averaged over the prior of types.

    It covers many tastes at once: the strongest agent without personalisation.
    """

    name = "blind_slate_aware"
    n_samples = 4

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities = self._utilities_to_all(observations, seeds)
        return self._best_for_belief(observations, utilities, self._prior(len(seeds)))


class BlindMarginal(ReferenceAgent):
    """Ignores the history; the candidate with the largest prior-mean utility of each of the best categories."""

    name = "blind_marginal"
    n_samples = 4

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities = self._utilities_to_all(observations, seeds)
        return self._best_marginal(observations, utilities, self._prior(len(seeds)))
