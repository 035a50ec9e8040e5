"""User types once a model is fitted: which behave alike, and what can data tell apart; whose is which: ``evidence.py``.

Types whose choices cannot be told apart are one type and may be merged, and a dataset is checked for slates that tell
types apart (appendix C.2).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from torch import nn

from pasta_gym.types import FloatArray
from pasta_gym.user_model.evidence import blocks
from pasta_gym.user_model.metrics import spearman
from pasta_gym.user_model.user_model import UserModel

MERGE_THRESHOLD = 0.025
"""Divergence in bits within a merged group. In the mini world's first world the same type diverges from itself by 0.008
to 0.019 between two fits of the same raters, and different types by 0.057 or more: the default lies between."""


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
    for rows in blocks(np.arange(len(slates))):
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
    scores = copy.deepcopy(model.score_model)
    for heads in (scores.image_heads, scores.text_heads):
        heads.weight3 = nn.Parameter(heads.weight3[kept].clone(), requires_grad=False)
        heads.bias3 = nn.Parameter(heads.bias3[kept].clone(), requires_grad=False)
    prior = np.array([model.prior[list(group)].sum() for group in groups])
    merged = model.with_scores(scores, prior)
    # What was measured of the unmerged types, and what they were filed under, is not about these.
    for name in [n for n in merged.metadata if n in ("key", "sha256") or n.startswith("held_out")]:
        del merged.metadata[name]
    merged.metadata["n_types"] = len(groups)
    merged.metadata["merged"] = {"groups": [list(group) for group in groups], "threshold": threshold}
    return merged, groups
