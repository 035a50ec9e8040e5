"""User types once a model is fitted: whose type is it, which types behave alike, what can data tell apart.

A new rater's posterior comes from any mix of labels (section 5.3). Types whose choices cannot be told apart are one
type and may be merged, and a dataset is checked for slates that tell types apart (appendix C.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.metrics import log_sigmoid, spearman
from pasta_gym.user_model.user_model import UserModel

KINDS: tuple[str, ...] = ("comparisons", "ratings", "choices")
RATING_DEVIATION = 0.2
"""Standard deviation of a rating around the score where the model's metadata names none."""

MERGE_THRESHOLD = 0.025
"""Divergence in bits within a merged group. In the mini world's first world the same type diverges from itself by 0.008
to 0.019 between two fits of the same raters, and different types by 0.057 or more: the default lies between."""

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
class Evidence:
    """What is known of some raters; a kind that nobody gave is None.

    Attributes:
        n_raters: How many raters; one without any label has the prior as posterior.
        comparisons: Pairs.
        ratings: Ratings.
        choices: Choices.
    """

    n_raters: int
    comparisons: Comparisons | None = None
    ratings: Ratings | None = None
    choices: Choices | None = None


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
    comparisons = ratings = choices = None
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
        mine = position[data.session_raters]
        rows, turns = np.nonzero((data.session_choices >= 0) & (mine >= 0)[:, None])
        choices = Choices(
            mine[rows],
            data.prompt_embeddings[data.session_prompts[rows]],
            data.image_embeddings[data.session_images[rows, turns]],
            data.session_choices[rows, turns],
        )
    return Evidence(len(raters), comparisons, ratings, choices)


def comparison_log_likelihoods(model: UserModel, comparisons: Comparisons) -> FloatArray:
    """Log-likelihood of each comparison by type, Bradley and Terry's model (equation 5): ``(n, K)``."""
    scores = _scores(model, comparisons.prompts, comparisons.images)
    logits = model.comparison_temperature * (scores[:, :, 0] - scores[:, :, 1])
    wins = comparisons.labels[:, None]
    result: FloatArray = wins * log_sigmoid(logits) + (1 - wins) * log_sigmoid(-logits)
    return result


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
        deviation = float(model.metadata.get("config", {}).get("rating_deviation", RATING_DEVIATION))
    if not deviation > 0:
        raise ValueError(f"the ratings' deviation must be above 0, got {deviation}; {RATING_DEVIATION} is usual")
    scores = _scores(model, ratings.prompts, ratings.images[:, None])[:, :, 0]
    result: FloatArray = -np.square(scores - ratings.values[:, None]) / (2 * deviation**2)
    return result


def choice_log_likelihoods(model: UserModel, choices: Choices) -> FloatArray:
    """Log-likelihood of each choice by type (equation 4), 0 where there is none: ``(n, K)``."""
    result = np.zeros((len(choices.columns), model.n_types))
    seen = np.flatnonzero(choices.columns >= 0)
    for rows in _blocks(seen):
        log_p = _log_choice_probabilities(model, choices.prompts[rows], choices.slates[rows])
        result[rows] = np.take_along_axis(log_p, choices.columns[rows][:, None, None], axis=2)[..., 0]
    return result


def type_posterior(model: UserModel, evidence: Evidence) -> FloatArray:
    """Posterior over the type of each rater from all of the rater's labels, whatever their kinds (section 5.3).

    Labels are independent given the type, so their log-likelihoods add up.

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
    for raters, likelihoods in parts:
        if len(raters) and not (raters.min() >= 0 and raters.max() < evidence.n_raters):
            raise ValueError(
                f"labels must be of raters 0..{evidence.n_raters - 1}, got {raters.min()}..{raters.max()}; "
                "number the raters from 0 or raise n_raters"
            )
        np.add.at(joint, raters, likelihoods)
    return normalised(joint)


def normalised(joint: FloatArray) -> FloatArray:
    """Turn unnormalised log-probabilities ``(..., K)`` into probabilities that sum to 1 over the last axis."""
    weights = np.exp(joint - joint.max(axis=-1, keepdims=True))
    result: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return result


def most_likely_type(model: UserModel, evidence: Evidence) -> IntArray:
    """The likeliest type of each rater, ``(n_raters,)``, as in appendix B.4."""
    types: IntArray = type_posterior(model, evidence).argmax(axis=1).astype(np.int64)
    return types


@dataclass(frozen=True)
class Behaviour:
    """How every type behaves on the same slates.

    Attributes:
        utilities: ``(n, K, L)``.
        choice_probabilities: ``(n, K, L)``.
    """

    utilities: FloatArray
    choice_probabilities: FloatArray


def behaviour(model: UserModel, prompts: FloatArray, slates: FloatArray) -> Behaviour:
    """Let every type look at slates.

    Args:
        model: The user model.
        prompts: ``(n, d)`` embeddings of the initial prompts.
        slates: ``(n, L, M, d)`` embeddings of the images.

    Returns:
        Utilities and choice probabilities.

    Raises:
        ValueError: If there is no slate.
    """
    if not len(slates):
        raise ValueError("types are compared on slates, and there are none; give at least one")
    utilities = []
    for rows in _blocks(np.arange(len(slates))):
        utilities.append(model.all_utilities(model.prompt_features(prompts[rows]), slates[rows]))
    u = np.concatenate(utilities)
    return Behaviour(u.astype(np.float64), np.exp(model.log_choice_probabilities(u).astype(np.float64)))


def jensen_shannon(first: FloatArray, second: FloatArray) -> FloatArray:
    """Jensen-Shannon divergence in bits, 0 (equal) to 1 (disjoint), of distributions ``(..., L)``: ``(...)``."""

    def entropy(p: FloatArray) -> FloatArray:
        result: FloatArray = -(p * np.log2(np.maximum(p, 1e-300))).sum(axis=-1)
        return result

    divergence: FloatArray = entropy(0.5 * (first + second)) - 0.5 * (entropy(first) + entropy(second))
    return np.maximum(divergence, 0.0)


def cross_divergences(first: Behaviour, second: Behaviour) -> FloatArray:
    """Mean divergence of the choices of each type of one model from each of another, same slates: ``(K, K')``."""
    p, q = first.choice_probabilities, second.choice_probabilities
    return np.stack([jensen_shannon(p[:, [k]], q).mean(axis=0) for k in range(p.shape[1])])


@dataclass(frozen=True)
class TypeDistances:
    """How far apart the types of a model are.

    Attributes:
        divergence: ``(K, K)`` mean Jensen-Shannon divergence, in bits, of the types' choices from the same slates;
            0 on the diagonal. This is what decides on merging.
        rank_correlation: ``(K, K)`` Spearman correlation of the utilities of all columns; 1 on the diagonal.
    """

    divergence: FloatArray
    rank_correlation: FloatArray


def type_distances(model: UserModel, prompts: FloatArray, slates: FloatArray) -> TypeDistances:
    """Compare the types of a model on a fixed set of slates.

    Args:
        model: The user model.
        prompts: ``(n, d)``.
        slates: ``(n, L, M, d)``; a few hundred from the generator the model will meet.

    Returns:
        The distances.
    """
    seen = behaviour(model, prompts, slates)
    k = model.n_types
    correlation = np.eye(k)
    for i in range(k):
        for j in range(i):
            correlation[i, j] = correlation[j, i] = spearman(
                seen.utilities[:, i].reshape(-1), seen.utilities[:, j].reshape(-1)
            )
    divergence = cross_divergences(seen, seen)
    np.fill_diagonal(divergence, 0.0)
    return TypeDistances(divergence, correlation)


def groups_within(distances: FloatArray, threshold: float) -> list[tuple[int, ...]]:
    """Group things so that no two of a group are further apart than the threshold (complete linkage).

    The two groups whose furthest members are closest are joined first, until none may be joined.

    Args:
        distances: ``(K, K)`` symmetric.
        threshold: Largest distance within a group; at 0 only equals are joined.

    Returns:
        The groups, each ascending, by their smallest member.

    Raises:
        ValueError: If the threshold is negative or the distances are not symmetric.
    """
    if not threshold >= 0:
        raise ValueError(f"the threshold must be 0 or more, got {threshold}; 0 joins equals alone")
    if not np.allclose(distances, distances.T):
        raise ValueError("distances must be symmetric; pass TypeDistances.divergence")
    groups: list[tuple[int, ...]] = [(k,) for k in range(len(distances))]
    while len(groups) > 1:
        furthest = {(a, b): distances[np.ix_(groups[a], groups[b])].max() for a in range(len(groups)) for b in range(a)}
        (a, b), closest = min(furthest.items(), key=lambda item: item[1])
        if closest > threshold:
            break
        joined = tuple(sorted(groups[a] + groups[b]))
        groups = [*(g for i, g in enumerate(groups) if i not in (a, b)), joined]
    return sorted(groups)


def merge_types(
    model: UserModel, prompts: FloatArray, slates: FloatArray, threshold: float = MERGE_THRESHOLD
) -> tuple[UserModel, list[tuple[int, ...]]]:
    """Merge types that behave alike: "we consider them the same user type and merge them" (appendix C.2).

    Two types behave alike if their choices from the given slates diverge by no more than the threshold on average
    (``type_distances``). What divergence means nothing is measured, not assumed: the same type in two fits of the
    same raters diverges by chance, and ``python -m benchmarks.identifiability --second MODEL`` prints by how much.
    A group keeps the heads of its commonest type, which exists and was fitted, and the sum of the shares.

    Args:
        model: The user model.
        prompts: ``(n, d)``.
        slates: ``(n, L, M, d)``.
        threshold: Largest divergence in bits within a group.

    Returns:
        The merged model, its types in the order of the groups, and the groups of old types.
    """
    groups = groups_within(type_distances(model, prompts, slates).divergence, threshold)
    kept = [max(group, key=lambda k: model.prior[k]) for group in groups]
    merged = copy.copy(model)
    merged._model = copy.deepcopy(model.score_model)
    for heads in (merged._model.image_heads, merged._model.text_heads):
        heads.weight3 = nn.Parameter(heads.weight3[kept].clone(), requires_grad=False)
        heads.bias3 = nn.Parameter(heads.bias3[kept].clone(), requires_grad=False)
    merged.prior = np.array([model.prior[list(group)].sum() for group in groups])
    merged.metadata = {
        **model.metadata,
        "n_types": len(groups),
        "merged": {"groups": [list(group) for group in groups], "threshold": threshold},
    }
    return merged, groups


def _blocks(rows: IntArray) -> Iterator[IntArray]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _scores(model: UserModel, prompts: FloatArray, images: FloatArray) -> FloatArray:
    """Score images ``(n, m, d)`` for prompts ``(n, d)`` by every type: ``(n, K, m)`` float64."""
    result = np.zeros((len(images), model.n_types, images.shape[1]))
    for rows in _blocks(np.arange(len(images))):
        result[rows] = model.scores(model.prompt_features(prompts[rows]), np.asarray(images[rows], dtype=np.float32))
    return result


def _log_choice_probabilities(model: UserModel, prompts: FloatArray, slates: FloatArray) -> FloatArray:
    """By every type: prompts ``(n, d)`` and slates ``(n, L, M, d)`` to ``(n, K, L)`` float64."""
    utilities = model.all_utilities(model.prompt_features(prompts), np.asarray(slates, dtype=np.float32))
    log_p: FloatArray = model.log_choice_probabilities(utilities).astype(np.float64)
    return log_p
