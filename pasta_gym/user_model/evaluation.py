"""How good a user model is on raters it has not seen, beside one type and beside the ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.user_model import UserModel

N_LABELS: tuple[int, ...] = (0, 5, 20, 50)


def adjusted_rand_index(first: IntArray, second: IntArray) -> float:
    """Agreement of two groupings ``(n,)`` of the same things: 1 the same groups, about 0 by chance.

    Raises:
        ValueError: If the lengths differ or there are fewer than two things.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"two groupings of the same two or more things are needed, got {len(first)} and {len(second)}")
    _, a = np.unique(first, return_inverse=True)
    _, b = np.unique(second, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def couples(counts: FloatArray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, rows, columns = couples(table), couples(table.sum(axis=1)), couples(table.sum(axis=0))
    expected = rows * columns / (len(a) * (len(a) - 1) / 2)
    most = 0.5 * (rows + columns)
    return 1.0 if most == expected else float((together - expected) / (most - expected))


def calibration_error(probabilities: FloatArray, outcomes: FloatArray, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap of predicted and observed frequency over bins of equal width.

    Args:
        probabilities: ``(n,)`` predicted, in [0, 1].
        outcomes: ``(n,)`` 1 where it came true, else 0.
        n_bins: Number of bins.

    Returns:
        The gap, weighted by the bins' sizes, in [0, 1].
    """
    bins = np.minimum((probabilities * n_bins).astype(np.int64), n_bins - 1)
    gaps = np.bincount(bins, weights=probabilities - outcomes, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(probabilities))


def _ranks(x: FloatArray) -> FloatArray:
    """Ranks ``(n,)``, ties sharing their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    means: FloatArray = (last - (counts - 1) / 2.0)[inverse]
    return means


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Rank correlation of two arrays ``(n,)`` in [-1, 1]; 0 if one is constant."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0


@dataclass(frozen=True)
class HeldOut:
    """Held-out raters' labels: pairs to learn from, pairs to predict, choices to predict.

    Attributes:
        raters: ``(R,)`` ids.
        learn: ``(R, n)`` rows of pairs to learn from, in the order they are seen.
        test: ``(R, t)`` rows of pairs to predict, ties included.
        sessions: ``(R, s)`` rows of sessions.
    """

    raters: IntArray
    learn: IntArray
    test: IntArray
    sessions: IntArray


def held_out(data: PreferenceData, split: str = "test", n_learn: int = max(N_LABELS)) -> HeldOut:
    """Split the labels of a split's raters.

    Args:
        data: All labels.
        split: Which split.
        n_learn: Pairs to learn from; what is left is to be predicted.

    Returns:
        The rows.

    Raises:
        ValueError: If the raters have too few pairs, or not all the same number of pairs and sessions.
    """
    raters = data.raters_of(split)
    pairs = [np.flatnonzero(data.pair_raters == r) for r in raters]
    sessions = [np.flatnonzero(data.session_raters == r) for r in raters]
    if not pairs or len({len(p) for p in pairs}) != 1 or len({len(s) for s in sessions}) != 1:
        raise ValueError(f"the raters of split {split!r} must have equal numbers of pairs and of sessions")
    if len(pairs[0]) <= n_learn:
        raise ValueError(f"raters need more than {n_learn} pairs, got {len(pairs[0])}; label more of split {split!r}")
    rows = np.stack(pairs).astype(np.int64)
    return HeldOut(raters, rows[:, :n_learn], rows[:, n_learn:], np.stack(sessions).astype(np.int64))


def log_sigmoid(x: FloatArray) -> FloatArray:
    """Logarithm of the logistic function, safe for large arguments."""
    result: FloatArray = -np.logaddexp(0.0, -x)
    return result


def pair_differences(model: UserModel, data: PreferenceData, rows: IntArray) -> FloatArray:
    """Logit that the first image of each pair is preferred, by type: rows ``(n,)`` to ``(n, K)``."""
    features = model.prompt_features(data.prompt_embeddings[data.pair_prompts[rows]])
    scores = model.scores(features, data.image_embeddings[data.pair_images[rows]])
    differences: FloatArray = model.comparison_temperature * (scores[:, :, 0] - scores[:, :, 1]).astype(np.float64)
    return differences


def type_posteriors(model: UserModel, data: PreferenceData, rows: IntArray, n: int) -> FloatArray:
    """Posterior over types after each rater's first n pairs: rows ``(R, m)`` to ``(R, K)``."""
    logits = pair_differences(model, data, rows[:, :n].reshape(-1)).reshape(len(rows), n, model.n_types)
    labels = data.pair_labels[rows[:, :n]][..., None]
    likelihood = (labels * log_sigmoid(logits) + (1 - labels) * log_sigmoid(-logits)).sum(axis=1)
    joint = np.log(model.prior) + likelihood
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    posterior: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return posterior


def choice_by_type(model: UserModel, data: PreferenceData, sessions: IntArray) -> FloatArray:
    """Choice probabilities by type for sessions ``(R, s)``: ``(R, s * H, K, L)``."""
    r, s = sessions.shape
    images = data.session_images[sessions.reshape(-1)]
    h = images.shape[1]
    features = model.prompt_features(data.prompt_embeddings[data.session_prompts[sessions.reshape(-1)]])
    embeddings = data.image_embeddings[images].reshape(-1, *images.shape[2:], data.embedding_dim)
    utilities = model.all_utilities(np.repeat(features, h, axis=0), embeddings)
    probabilities: FloatArray = np.exp(model.log_choice_probabilities(utilities)).reshape(
        r, s * h, *utilities.shape[1:]
    )
    return probabilities


def score_pairs(preferences: FloatArray, labels: FloatArray) -> tuple[float, float]:
    """Accuracy and mean log-likelihood of predicted preferences over pairs that are no ties, same shapes."""
    kept = labels != 0.5
    p, y = preferences[kept], labels[kept]
    correct = np.where(y == 1, p, 1 - p)
    return float((correct > 0.5).mean()), float(np.log(np.maximum(correct, 1e-12)).mean())


def score_choices(probabilities: FloatArray, choices: IntArray) -> tuple[float, float]:
    """Accuracy of the likeliest column and mean log-likelihood: ``(n, L)`` and ``(n,)``."""
    chosen = np.take_along_axis(probabilities, choices[:, None], axis=1)[:, 0]
    return float((probabilities.argmax(axis=1) == choices).mean()), float(np.log(np.maximum(chosen, 1e-12)).mean())


def evaluate(
    model: UserModel, data: PreferenceData, split: str = "test", n_labels: tuple[int, ...] = N_LABELS
) -> dict[str, Any]:
    """Predict held-out raters' pairs and choices after n of their pairs, for each n.

    Args:
        model: The user model.
        data: All labels.
        split: Which split's raters.
        n_labels: Numbers of pairs that the posterior has seen.

    Returns:
        By n, as text: ``pair_accuracy, pair_log_likelihood, choice_accuracy, choice_log_likelihood``, with the
        calibration errors ``pair_ece, choice_ece``; and ``uniform_choice_log_likelihood``.
    """
    tasks = held_out(data, split, max(n_labels))
    r, t = tasks.test.shape
    logits = pair_differences(model, data, tasks.test.reshape(-1)).reshape(r, t, -1)
    first_wins = np.exp(log_sigmoid(logits))
    by_type = choice_by_type(model, data, tasks.sessions)
    choices = data.session_choices[tasks.sessions].reshape(-1)
    labels = data.pair_labels[tasks.test]
    kept = labels != 0.5
    figures: dict[str, Any] = {"uniform_choice_log_likelihood": float(-np.log(by_type.shape[-1]))}
    for n in n_labels:
        posterior = type_posteriors(model, data, tasks.learn, n)
        preferences = (first_wins * posterior[:, None]).sum(axis=-1)
        chosen = np.einsum("rnkl,rk->rnl", by_type, posterior).reshape(len(choices), -1)
        pair_accuracy, pair_likelihood = score_pairs(preferences, labels)
        choice_accuracy, choice_likelihood = score_choices(chosen, choices)
        hits = np.arange(chosen.shape[1]) == choices[:, None]
        figures[str(n)] = {
            "pair_accuracy": pair_accuracy,
            "pair_log_likelihood": pair_likelihood,
            "pair_ece": calibration_error(preferences[kept], (labels[kept] == 1).astype(np.float64)),
            "choice_accuracy": choice_accuracy,
            "choice_log_likelihood": choice_likelihood,
            "choice_ece": calibration_error(chosen.reshape(-1), hits.reshape(-1).astype(np.float64)),
        }
    return figures


def ranking_correlation(model: UserModel, data: PreferenceData, split: str = "test") -> float:
    """Mean Spearman correlation of held-out rankings with the learned utility, after 50 pairs (section 6.2)."""
    tasks = held_out(data, split)
    posterior = np.zeros((data.n_raters, model.n_types))
    posterior[tasks.raters] = type_posteriors(model, data, tasks.learn, tasks.learn.shape[1])
    rows = np.flatnonzero(np.isin(data.ranking_raters, tasks.raters))
    features = model.prompt_features(data.prompt_embeddings[data.ranking_prompts[rows]])
    scores = model.scores(features, data.image_embeddings[data.rankings[rows]])
    utility = np.einsum("nkm,nk->nm", scores, posterior[data.ranking_raters[rows]])
    best_first = -np.arange(utility.shape[1], dtype=np.float64)
    return float(np.mean([spearman(u, best_first) for u in utility]))
