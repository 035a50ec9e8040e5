"""Yardsticks that go by the exact posterior over types, from the environment's own user model and the choices so far.

No system has that posterior, which makes them upper rows for agents that must learn one. They do not read the type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.belief import PrivilegedBelief
from agents.slate_enumeration import expected_chosen_values, sample_choice_weights, tables
from agents.slate_search import ChoiceLogits, candidate_labels
from benchmarks.reference import ReferenceAgent, slate_size_of
from pasta_gym import seeding
from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray, UInt64Array

_DRAW = 0xD2A3  # salt of the type that posterior sampling draws


class BeliefAgent(ReferenceAgent):
    """A reference agent with the posterior over types given the choices seen so far.

    Args:
        user_model: The environment's.
        **settings: As for :class:`ReferenceAgent`.
    """

    def __init__(self, *, user_model: Any, **settings: Any) -> None:
        super().__init__(user_model=user_model, **settings)
        self._posterior = PrivilegedBelief(user_model)

    def belief(self, observations: dict[str, NDArray[Any]]) -> FloatArray:
        """Posterior over types given the slates shown and the columns chosen, ``(B, K)``; the prior at turn 0."""
        return self._posterior.of_observations(observations)


class BeliefMarginal(BeliefAgent):
    """The candidate with the largest posterior-mean utility of each of the best categories."""

    name = "belief_marginal"
    n_samples = 4

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities = self._utilities_to_all(observations, seeds)
        return self._best_marginal(observations, utilities, self.belief(observations))


class BeliefSlateAware(BeliefAgent):
    """The slate with the largest expected chosen utility, averaged over the posterior: myopic, but not forgetful."""

    name = "belief_slate_aware"
    n_samples = 4

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities = self._utilities_to_all(observations, seeds)
        return self._best_for_belief(observations, utilities, self.belief(observations))


class PosteriorSampling(BeliefAgent):
    """Draws one type from the posterior at each turn and shows what is best for it (Thompson sampling)."""

    name = "posterior_sampling"
    n_samples = 8

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        user_types = drawn_types(self.belief(observations), seeding.uniforms(seeding.mix(seeds, _DRAW)))
        return self._best_for_type(observations, self._utilities_to_type(observations, seeds, user_types))


def drawn_types(belief: FloatArray, uniform: FloatArray) -> IntArray:
    """Draw a type for each number ``(B,)`` in (0, 1), with probabilities ``belief (B, K)``."""
    edges = np.cumsum(np.asarray(belief, dtype=np.float64), axis=1)
    types: IntArray = (edges[:, :-1] / edges[:, -1:] <= uniform[:, None]).sum(axis=1)
    return types


class BeliefVOI(BeliefAgent):
    r"""Weighs what a slate pays now against what its choice tells about the person.

    It maximises :math:`v_b(P) + n \, \mathrm{VOI}(P)`: ``v_b`` is the expected chosen utility under the belief ``b``,
    ``n`` the number of turns to come, because each of them can use what was learned, and

    .. math:: \mathrm{VOI}(P) = \sum_i p_b(i | P) \max_{P'} v_{b | i, P}(P') - \max_{P'} v_b(P')

    the expected improvement of the best slate of one later turn when the belief is updated by the choice. This turn's
    candidates stand in for those of later turns, of which only edits of what is chosen are known. At the last turn it
    is :class:`BeliefSlateAware`.

    Args:
        n_slates: Slates whose information is valued: the best ones by what they pay now.
        **settings: As for :class:`ReferenceAgent`.

    Raises:
        ValueError: If ``n_samples`` or ``n_slates`` is under 1.
    """

    name = "belief_voi"
    n_samples = 4

    def __init__(self, *, n_slates: int = 64, **settings: Any) -> None:
        if n_slates < 1:
            raise ValueError(f"n_slates must be 1 or more, got {n_slates}")
        super().__init__(**settings)
        self.n_slates = n_slates

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities, belief = self._utilities_to_all(observations, seeds), self.belief(observations)
        turns_to_come = observations["slate_prompts"].shape[1] - 1 - np.asarray(observations["turn"])
        labels = candidate_labels(self._labels(observations), len(seeds), utilities.shape[-1])
        logits = self._user_model.choice_logits
        slates = np.empty((len(seeds), slate_size_of(observations)), dtype=np.int64)
        for rows, table, members in tables(labels, slates.shape[1]):
            for row in rows:
                values = slate_values_by_type(
                    utilities[row], table, members, logits, has_constant_temperature=self._has_constant_temperature
                )
                pays = belief[row] @ values
                shortlist = np.argsort(-pays, kind="stable")[: self.n_slates if turns_to_come[row] else 1]
                chances = choice_probabilities(utilities[row], table[shortlist], logits)
                information = values_of_information(belief[row], values, chances)
                score = pays[shortlist] + turns_to_come[row] * information
                slates[row] = table[shortlist[score.argmax()]]
        return slates


def slate_values_by_type(
    utilities: FloatArray,
    table: IntArray,
    members: NDArray[np.float32],
    choice_logits: ChoiceLogits,
    *,
    has_constant_temperature: bool,
) -> FloatArray:
    """Expected chosen utility of all slates to every type.

    Args:
        utilities: ``(K, S, C)`` of candidates in samples of pictures.
        table: ``(P, L)`` the slates.
        members: ``(C, P)`` the same as zeros and ones.
        choice_logits: The choice model.
        has_constant_temperature: Whether a column's logit depends on its own utility alone.

    Returns:
        ``(K, P)``.
    """
    if has_constant_temperature:
        mean = np.full(utilities.shape[1], 1 / utilities.shape[1])
        return expected_chosen_values(utilities, sample_choice_weights(utilities, choice_logits), mean, members)
    chances = _sample_choice_probabilities(utilities, table, choice_logits)
    return np.asarray((chances * utilities[..., table]).sum(axis=-1).mean(axis=1))


def choice_probabilities(utilities: FloatArray, slates: IntArray, choice_logits: ChoiceLogits) -> FloatArray:
    """Probability of each column, averaged over samples of pictures.

    Args:
        utilities: ``(K, S, C)``.
        slates: ``(N, L)`` places of candidates.
        choice_logits: The choice model.

    Returns:
        ``(K, N, L)``.
    """
    return np.asarray(_sample_choice_probabilities(utilities, slates, choice_logits).mean(axis=1))


def _sample_choice_probabilities(utilities: FloatArray, slates: IntArray, choice_logits: ChoiceLogits) -> FloatArray:
    """``(K, S, N, L)``."""
    logits = np.asarray(choice_logits(utilities[..., slates]), dtype=np.float64)
    return softmax(logits)


def values_of_information(belief: FloatArray, values: FloatArray, chances: FloatArray) -> FloatArray:
    """Expected improvement of the best slate when the belief is updated by the choice in a slate.

    Args:
        belief: ``(K,)``.
        values: ``(K, P)`` value of every slate that may be shown afterwards, to every type.
        chances: ``(K, N, L)`` choice probabilities in the slates that are valued.

    Returns:
        ``(N,)``, at least 0: knowing more never hurts who decides by expectation.
    """
    joint = belief[:, None, None] * chances  # of type and column
    column = joint.sum(axis=0)  # (N, L)
    posterior = (joint / np.maximum(column, 1e-30)).reshape(len(belief), -1)  # (K, N * L)
    after = (posterior.T.astype(np.float32) @ values.astype(np.float32)).max(axis=1).reshape(column.shape)
    before = float((belief @ values).max())
    return np.asarray((column * after).sum(axis=1) - before)
