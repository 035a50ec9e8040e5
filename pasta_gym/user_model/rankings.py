"""How well the order of ranked lists is predicted, which may be of any lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.evaluation import held_out, means, rows_by_rater, type_posteriors
from pasta_gym.user_model.metrics import hps_spearman, log_sigmoid, spearman
from pasta_gym.user_model.predictors import ModelPredictor, Predictor
from pasta_gym.user_model.user_model import UserModel

N_SEEN = 3
"""Images of a ranked list that the posterior is computed from (section 6.2)."""
FEWEST = N_SEEN + 2
"""Images of the shortest list that counts: the posterior must leave two to rank."""


def lists_to_rank(data: PreferenceData, split: str = "test") -> IntArray:
    """Find a split's ranked lists that ``list_correlations`` counts: their rows in ``data.rankings``, ``(n,)``."""
    theirs = np.isin(data.ranking_raters, data.raters_of(split))
    return np.flatnonzero(theirs & (data.ranking_lengths >= FEWEST)).astype(np.int64)


def _scored_lists(predictor: Predictor, data: PreferenceData, rows: IntArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Score ranked lists ``(n,)``, those of m images at once: some of the rows ``(g,)``, and ``(g, K, m)``, best first.

    What fills a row up points at no image, so no predictor may meet it.
    """
    lengths = data.ranking_lengths[rows]
    for m in np.unique(lengths).tolist():
        these = rows[lengths == m]
        yield these, predictor.scores(data.ranking_prompts[these], data.rankings[these, :m])


def list_correlations(
    predictor: Predictor, data: PreferenceData, rng: np.random.Generator, split: str = "test"
) -> tuple[IntArray, FloatArray]:
    """Rank correlation of every ranked list as on the HPS test set (section 6.2).

    Three images of a list, drawn at random, give three pairs for the posterior, from the prior anew for every list.
    The others are ranked. Lists may be of any lengths; those of fewer than five images are left out.

    Args:
        predictor: What predicts.
        data: All labels.
        rng: Source of the three.
        split: Whose lists.

    Returns:
        Raters and correlations of the n lists of ``lists_to_rank``, ``(n,)`` each.

    Raises:
        ValueError: If there are lists, and all are shorter than five.
    """
    rows = lists_to_rank(data, split)
    lengths = data.ranking_lengths[np.isin(data.ranking_raters, data.raters_of(split))]
    if not len(rows) and len(lengths):
        raise ValueError(
            f"lists of {FEWEST} images or more are needed, got {lengths.max()} at most: {N_SEEN} give the posterior"
        )
    scores: dict[int, FloatArray] = {}
    for these, scored in _scored_lists(predictor, data, rows):
        scores.update(zip(these.tolist(), scored, strict=True))
    correlations = []
    for row in rows.tolist():  # as listed: which three are drawn must not depend on how lists were scored
        by_type = scores[row]
        n_ranked = by_type.shape[1]
        seen = np.sort(rng.choice(n_ranked, N_SEEN, replace=False))
        left = np.setdiff1d(np.arange(n_ranked), seen)
        better, worse = np.triu_indices(N_SEEN, 1)
        gaps = by_type[:, seen[better]] - by_type[:, seen[worse]]
        likelihood = log_sigmoid(predictor.comparison_temperature * gaps).sum(axis=1)
        posterior = softmax(np.log(predictor.prior) + likelihood)
        correlations.append(hps_spearman(by_type[:, left], posterior))
    return data.ranking_raters[rows], np.array(correlations, dtype=np.float64)


def hps_correlations(
    predictor: Predictor, data: PreferenceData, rng: np.random.Generator, split: str = "test"
) -> FloatArray:
    """Mean of ``list_correlations`` of each rater: ``(R,)``, NaN for raters without lists."""
    who, correlations = list_correlations(predictor, data, rng, split)
    return means([correlations[rows] for rows in rows_by_rater(who, data.raters_of(split))])


def ranking_correlation(model: UserModel, data: PreferenceData, split: str = "test") -> float:
    """Mean Spearman correlation of held-out rankings with the learned utility, after 50 pairs."""
    tasks = held_out(data, split)
    posterior = np.zeros((data.n_raters, model.n_types))
    posterior[tasks.raters] = type_posteriors(model, data, tasks.learn, tasks.learn.shape[1])
    rows = np.flatnonzero(np.isin(data.ranking_raters, tasks.raters))
    correlations = []
    for these, scores in _scored_lists(ModelPredictor(model, data), data, rows):
        utility = np.einsum("nkm,nk->nm", scores, posterior[data.ranking_raters[these]])
        best_first = -np.arange(utility.shape[1], dtype=np.float64)
        correlations += [spearman(u, best_first) for u in utility]
    return float(np.mean(correlations))
