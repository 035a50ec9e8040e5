"""The posterior over a new rater's type, from any mix of labels (the E-step of section 5.3, outside of a fit).

Labels are independent given the type, so log-likelihoods add up, whatever their kinds. What is said within a slate and
between two turns counts with the powers kappa_2 and kappa_3 that phase 2 of the fit gave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.metrics import log_sigmoid
from pasta_gym.user_model.posterior import rows_by_rater
from pasta_gym.user_model.sequential import SequentialConfig
from pasta_gym.user_model.session_losses import cross_turn_terms, in_turn_terms
from pasta_gym.user_model.user_model import UserModel

KINDS: tuple[str, ...] = ("comparisons", "ratings", "choices", "satisfactions", "verdicts")
RATING_DEVIATION = 0.2
"""Standard deviation of a rating around the score where the model's metadata names none."""

_ROWS = 512  # scored at once: bounds memory at any number of labels


@dataclass(frozen=True)
class Comparisons:
    """Pairs of images, one a row.

    Attributes:
        raters: ``(n,)`` in ``0..n_raters - 1``.
        prompts: ``(n, d)`` embeddings of the initial prompts.
        images: ``(n, 2, d)``.
        labels: ``(n,)`` 1 if the first is preferred, 0 if the second, 0.5 for a tie (half a win for each).
    """

    raters: IntArray
    prompts: FloatArray
    images: FloatArray
    labels: FloatArray


@dataclass(frozen=True)
class Ratings:
    """Rated images, one a row.

    Attributes:
        raters: ``(n,)`` in ``0..n_raters - 1``.
        prompts: ``(n, d)``.
        images: ``(n, d)``.
        values: ``(n,)`` in [0, 1].
    """

    raters: IntArray
    prompts: FloatArray
    images: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Choices:
    """Choices from slates, one a row.

    Attributes:
        raters: ``(n,)`` in ``0..n_raters - 1``.
        prompts: ``(n, d)`` embeddings of the initial prompts.
        slates: ``(n, L, M, d)``.
        columns: ``(n,)`` chosen columns; -1 is no evidence.
    """

    raters: IntArray
    prompts: FloatArray
    slates: FloatArray
    columns: IntArray


@dataclass(frozen=True)
class Satisfactions:
    """Satisfaction with the columns of slates, one slate a row; every two of its columns are a comparison.

    Attributes:
        raters: ``(n,)`` in ``0..n_raters - 1``.
        prompts: ``(n, d)`` embeddings of the initial prompts.
        slates: ``(n, L, M, d)``.
        values: ``(n, L)`` on any scale; NaN where nobody was asked. Equal ones are a tie.
    """

    raters: IntArray
    prompts: FloatArray
    slates: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Verdicts:
    """Answers to whether a turn was better than the one before, one a row: about the two columns that were chosen.

    Attributes:
        raters: ``(n,)`` in ``0..n_raters - 1``.
        prompts: ``(n, d)`` embeddings of the initial prompts.
        slates: ``(n, 2, L, M, d)``, that of the turn before and that of the turn.
        columns: ``(n, 2)`` what was chosen of each; -1 is no evidence.
        values: ``(n,)`` 1 better, 0 the same, -1 worse; NaN is no evidence.
    """

    raters: IntArray
    prompts: FloatArray
    slates: FloatArray
    columns: IntArray
    values: FloatArray


@dataclass(frozen=True)
class Evidence:
    """What is known of some raters; a kind that nobody gave is None.

    Attributes:
        n_raters: How many raters; one without any label has the prior as posterior.
        comparisons: Pairs.
        ratings: Ratings.
        choices: Choices.
        satisfactions: Comparisons of columns within a turn.
        verdicts: Comparisons of turns.
    """

    n_raters: int
    comparisons: Comparisons | None = None
    ratings: Ratings | None = None
    choices: Choices | None = None
    satisfactions: Satisfactions | None = None
    verdicts: Verdicts | None = None


def evidence_of(data: PreferenceData, raters: IntArray, kinds: tuple[str, ...] = KINDS) -> Evidence:
    """Collect the labels of some raters of a dataset; rankings count as pairs of neighbours.

    Args:
        data: All labels.
        raters: ``(R,)`` distinct rater ids; they are numbered in this order.
        kinds: Which of ``KINDS`` to look at.

    Returns:
        The evidence.

    Raises:
        ValueError: If a kind is unknown.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds must be among {KINDS}, got {unknown[0]!r}")
    position = np.full(data.n_raters, -1, dtype=np.int64)
    position[raters] = np.arange(len(raters))
    mine = position[data.session_raters]
    comparisons = ratings = choices = satisfactions = verdicts = None
    if "comparisons" in kinds:
        who, prompts, images, labels = data.all_pairs()
        rows = np.flatnonzero(position[who] >= 0)
        comparisons = Comparisons(
            position[who[rows]],
            data.prompt_embeddings[prompts[rows]],
            data.image_embeddings[images[rows]],
            labels[rows],
        )
    if "ratings" in kinds:
        rows = np.flatnonzero(position[data.rating_raters] >= 0)
        ratings = Ratings(
            position[data.rating_raters[rows]],
            data.prompt_embeddings[data.rating_prompts[rows]],
            data.image_embeddings[data.rating_images[rows]],
            data.ratings[rows],
        )
    if "choices" in kinds:
        rows, turns = np.nonzero((data.session_choices >= 0) & (mine >= 0)[:, None])
        choices = Choices(
            mine[rows],
            data.prompt_embeddings[data.session_prompts[rows]],
            data.image_embeddings[data.session_images[rows, turns]],
            data.session_choices[rows, turns],
        )
    if "satisfactions" in kinds and data.session_satisfactions is not None:
        rows, turns = np.nonzero((mine >= 0)[:, None] & _has_answers(data.session_satisfactions))
        satisfactions = Satisfactions(
            mine[rows],
            data.prompt_embeddings[data.session_prompts[rows]],
            data.image_embeddings[data.session_images[rows, turns]],
            data.session_satisfactions[rows, turns],
        )
    if "verdicts" in kinds and data.session_versus_previous is not None:
        asked = ~np.isnan(data.session_versus_previous[:, 1:]) & (mine >= 0)[:, None]
        rows, before = np.nonzero(asked & (data.session_choices[:, 1:] >= 0) & (data.session_choices[:, :-1] >= 0))
        both = (rows[:, None], before[:, None] + np.arange(2))
        verdicts = Verdicts(
            mine[rows],
            data.prompt_embeddings[data.session_prompts[rows]],
            data.image_embeddings[data.session_images[both]],
            data.session_choices[both],
            data.session_versus_previous[rows, before + 1],
        )
    return Evidence(len(raters), comparisons, ratings, choices, satisfactions, verdicts)


def _has_answers(satisfactions: FloatArray) -> NDArray[np.bool_]:
    """Which turns ``(S, H)`` have two satisfactions to compare."""
    asked: NDArray[np.bool_] = (~np.isnan(satisfactions)).sum(axis=-1) >= 2
    return asked


def fitted_with(model: UserModel, name: str, default: Any) -> Any:
    """Return a setting of the fit from a user model's metadata: phase 2's where there was one, else phase 1's."""
    config = model.metadata.get("config", {})
    for part in (model.metadata.get("sequential", {}), config, config.get("em", {}), config.get("sequential", {})):
        if name in part:
            return part[name]
    return default


def kappas(model: UserModel) -> tuple[float, float]:
    """Powers of in-turn and cross-turn likelihoods, kappa_2 and kappa_3: the fit's, or the paper's if it names none."""
    paper = SequentialConfig()
    return (
        float(fitted_with(model, "in_turn_weight", paper.in_turn_weight)),
        float(fitted_with(model, "cross_turn_weight", paper.cross_turn_weight)),
    )


def comparison_log_likelihoods(model: UserModel, comparisons: Comparisons) -> FloatArray:
    """Log-likelihood of each comparison by type, Bradley and Terry's model (equation 5): ``(n, K)``."""
    scores = _scores(model, comparisons.prompts, comparisons.images)
    logits = model.comparison_temperature * (scores[:, :, 0] - scores[:, :, 1])
    wins = comparisons.labels[:, None]
    result: FloatArray = wins * log_sigmoid(logits) + (1 - wins) * log_sigmoid(-logits)
    return result


def rating_deviation(model: UserModel) -> float:
    """Standard deviation nu of a rating around the score, as the model was fitted."""
    return float(fitted_with(model, "rating_deviation", RATING_DEVIATION))


def rating_log_likelihoods(model: UserModel, ratings: Ratings, deviation: float | None = None) -> FloatArray:
    """Log-likelihood of each rating by type, Gaussian around the score (equation 6), up to a constant: ``(n, K)``.

    Args:
        model: The user model.
        ratings: The ratings.
        deviation: nu; that of the model's fit if None.

    Raises:
        ValueError: If the deviation is not positive.
    """
    if deviation is None:
        deviation = rating_deviation(model)
    if not deviation > 0:
        raise ValueError(f"the ratings' deviation must be above 0, got {deviation}; {RATING_DEVIATION} is usual")
    scores = _scores(model, ratings.prompts, ratings.images[:, None])[:, :, 0]
    result: FloatArray = -np.square(scores - ratings.values[:, None]) / (2 * deviation**2)
    return result


def choice_log_likelihoods(model: UserModel, choices: Choices) -> FloatArray:
    """Log-likelihood of each choice by type (equation 4), 0 where there is none: ``(n, K)``."""
    result = np.zeros((len(choices.columns), model.n_types))
    seen = np.flatnonzero(choices.columns >= 0)
    for rows in blocks(seen):
        log_p = _log_choice_probabilities(model, choices.prompts[rows], choices.slates[rows])
        result[rows] = np.take_along_axis(log_p, choices.columns[rows][:, None, None], axis=2)[..., 0]
    return result


@torch.inference_mode()
def satisfaction_log_likelihoods(model: UserModel, satisfactions: Satisfactions) -> FloatArray:
    """Log-likelihood of all comparisons of two columns within each turn by type, without kappa_2: ``(n, K)``."""
    result = np.zeros((len(satisfactions.values), model.n_types))
    for rows in blocks(np.arange(len(result))):
        features = model.prompt_features(satisfactions.prompts[rows])
        utilities = torch.from_numpy(model.all_utilities(features, satisfactions.slates[rows])).double()[:, None]
        said = torch.from_numpy(np.asarray(satisfactions.values[rows], dtype=np.float64))[:, None]
        terms, turns = in_turn_terms(utilities, said, model.comparison_temperature)
        result[rows] = rows_by_rater(terms, turns, len(rows)).numpy()
    return result


@torch.inference_mode()
def verdict_log_likelihoods(model: UserModel, verdicts: Verdicts) -> FloatArray:
    """Log-likelihood of each answer about two turns by type, without kappa_3, 0 where there is none: ``(n, K)``."""
    result = np.zeros((len(verdicts.values), model.n_types))
    for rows in blocks(np.arange(len(result))):
        features = np.repeat(model.prompt_features(verdicts.prompts[rows]), 2, axis=0)
        slates = verdicts.slates[rows]
        utilities = torch.from_numpy(model.all_utilities(features, slates.reshape(-1, *slates.shape[2:]))).double()
        said = np.stack([np.full(len(rows), np.nan), np.asarray(verdicts.values[rows], dtype=np.float64)], axis=1)
        terms, turns = cross_turn_terms(
            utilities.view(len(rows), 2, *utilities.shape[1:]),
            torch.from_numpy(verdicts.columns[rows]),
            torch.from_numpy(said),
            model.comparison_temperature,
        )
        result[rows] = rows_by_rater(terms, turns, len(rows)).numpy()
    return result


def type_posterior(model: UserModel, evidence: Evidence) -> FloatArray:
    """Posterior over the type of each rater from all of the rater's labels, whatever their kinds (section 5.3).

    Labels are independent given the type, so their log-likelihoods add up, in-turn and cross-turn ones with the fit's
    kappas as powers, as in its own E-step.

    Args:
        model: The user model.
        evidence: The labels.

    Returns:
        ``(n_raters, K)``, rows summing to 1; the prior where there is no label.

    Raises:
        ValueError: If labels are of a rater that does not exist.
    """
    with np.errstate(divide="ignore"):
        joint = np.tile(np.log(model.prior), (evidence.n_raters, 1))
    parts: list[tuple[IntArray, FloatArray]] = []
    if evidence.comparisons is not None:
        parts.append((evidence.comparisons.raters, comparison_log_likelihoods(model, evidence.comparisons)))
    if evidence.ratings is not None:
        parts.append((evidence.ratings.raters, rating_log_likelihoods(model, evidence.ratings)))
    if evidence.choices is not None:
        parts.append((evidence.choices.raters, choice_log_likelihoods(model, evidence.choices)))
    in_turn, cross_turn = kappas(model)
    if evidence.satisfactions is not None:
        likelihoods = satisfaction_log_likelihoods(model, evidence.satisfactions)
        parts.append((evidence.satisfactions.raters, in_turn * likelihoods))
    if evidence.verdicts is not None:
        parts.append((evidence.verdicts.raters, cross_turn * verdict_log_likelihoods(model, evidence.verdicts)))
    for raters, likelihoods in parts:
        if len(raters) and not (raters.min() >= 0 and raters.max() < evidence.n_raters):
            raise ValueError(
                f"labels must be of raters 0..{evidence.n_raters - 1}, got {raters.min()}..{raters.max()}; "
                "number the raters from 0 or raise n_raters"
            )
        np.add.at(joint, raters, likelihoods)
    return softmax(joint)


def most_likely_type(model: UserModel, evidence: Evidence) -> IntArray:
    """The likeliest type of each rater, ``(n_raters,)``, as in appendix B.4."""
    types: IntArray = type_posterior(model, evidence).argmax(axis=1).astype(np.int64)
    return types


def blocks(rows: IntArray) -> Iterator[IntArray]:
    """Cut rows into pieces that are scored at once."""
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _scores(model: UserModel, prompts: FloatArray, images: FloatArray) -> FloatArray:
    """Score images ``(n, m, d)`` for prompts ``(n, d)`` by every type: ``(n, K, m)`` float64."""
    result = np.zeros((len(images), model.n_types, images.shape[1]))
    for rows in blocks(np.arange(len(images))):
        result[rows] = model.scores(model.prompt_features(prompts[rows]), np.asarray(images[rows], dtype=np.float32))
    return result


def _log_choice_probabilities(model: UserModel, prompts: FloatArray, slates: FloatArray) -> FloatArray:
    """By every type: prompts ``(n, d)`` and slates ``(n, L, M, d)`` to ``(n, K, L)`` float64."""
    utilities = model.all_utilities(model.prompt_features(prompts), np.asarray(slates, dtype=np.float32))
    log_p: FloatArray = model.log_choice_probabilities(utilities).astype(np.float64)
    return log_p
