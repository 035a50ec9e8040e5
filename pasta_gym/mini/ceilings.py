"""How well anybody could predict a rater: Bayes' rule with the planted archetypes, variation and noise.

The predictor knows how raters are made, sees pictures through the raters' own eye, and has seen the same labels
of the rater as the user model; it does not know who the rater is. It averages over draws of (archetype, own
weights), weighted by the likelihood of the labels seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pasta_gym.mini import raters
from pasta_gym.softmax import softmax
from pasta_gym.types import FloatArray, IntArray


@dataclass(frozen=True)
class Crowd:
    """Draws of raters to average over.

    Attributes:
        weights: ``(D, 26)`` each draw's own weights.
        temperature: Factor on utilities in choices and comparisons.
        config: How raters judge.
    """

    weights: FloatArray
    temperature: float
    config: raters.RaterConfig


def draw_crowd(
    archetypes: raters.Archetypes,
    n: int,
    temperature: float,
    rng: np.random.Generator,
    config: raters.RaterConfig = raters.DEFAULT_CONFIG,
) -> Crowd:
    """Draw ``n`` possible raters as ``raters.draw_raters`` does."""
    drawn = raters.draw_raters(archetypes, n, temperature, rng, config=config)
    return Crowd(drawn.weights.astype(np.float32), temperature, config)


def utilities(crowd: Crowd, reads: FloatArray, prompt_values: IntArray) -> FloatArray:
    """Utilities of pictures for every draw.

    Args:
        crowd: D possible raters.
        reads: ``(n, 38)`` of the pictures, by the raters' eye.
        prompt_values: ``(n, 6)`` of their initial prompts.

    Returns:
        ``(n, D)`` in [0, 1].
    """
    offset = crowd.config.base - raters.prompt_penalty(reads, prompt_values, crowd.config)
    liked = reads[:, raters.N_SUBJECTS :].astype(np.float32) @ crowd.weights.T
    return raters.sigmoid(liked + offset[:, None].astype(np.float32))


def comparison_log_likelihoods(crowd: Crowd, first: FloatArray, second: FloatArray, labels: FloatArray) -> FloatArray:
    """Log-likelihood of comparisons, ties included, for every draw.

    Args:
        crowd: D possible raters.
        first: ``(n, D)`` utilities of the first pictures.
        second: ``(n, D)`` utilities of the second ones.
        labels: ``(n,)`` 1, 0.5 or 0.

    Returns:
        ``(n, D)``.
    """
    probabilities = raters.comparison_probabilities(first, second, crowd.temperature, crowd.config.tie)
    index = np.rint(2 * labels).astype(np.int64)[:, None, None]
    chosen = np.take_along_axis(probabilities, np.broadcast_to(index, (*first.shape, 1)), axis=-1)[..., 0]
    result: FloatArray = np.log(np.maximum(chosen, 1e-30))
    return result


def posterior_weights(log_likelihoods: FloatArray) -> FloatArray:
    """Importance weights of the draws: ``(n, D)`` log-likelihoods of the labels seen to ``(D,)`` summing to 1."""
    return softmax(log_likelihoods.sum(axis=0))


def effective_draws(weights: FloatArray) -> float:
    """How many draws carry the average: ``1 / sum of squared weights``."""
    return float(1.0 / np.square(weights).sum())


def preference(crowd: Crowd, weights: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Probability that the first picture is preferred, given that it is no tie: ``(n,)``.

    Args:
        crowd: D possible raters.
        weights: ``(D,)`` posterior weights.
        first: ``(n, D)`` utilities of the first pictures.
        second: ``(n, D)`` utilities of the second ones.
    """
    p = raters.comparison_probabilities(first, second, crowd.temperature, crowd.config.tie)
    won, lost = p[..., 2] @ weights, p[..., 0] @ weights
    result: FloatArray = won / (won + lost)
    return result


def choice_probabilities(crowd: Crowd, weights: FloatArray, pictures: FloatArray) -> FloatArray:
    """Probability of choosing each column.

    Args:
        crowd: D possible raters.
        weights: ``(D,)`` posterior weights.
        pictures: ``(n, L, M, D)`` utilities of the slates' pictures.

    Returns:
        ``(n, L)``.
    """
    columns = raters.column_utilities(np.moveaxis(pictures, -1, 0), crowd.config.best_image_sharpness)
    by_draw = raters.choice_probabilities(columns, crowd.temperature)
    expected: FloatArray = np.einsum("dnl,d->nl", by_draw, weights)
    return expected


@dataclass(frozen=True)
class RaterTask:
    """What there is of one held-out rater: labels to learn from and labels to predict.

    Attributes:
        prompt_values: ``(n + t, 6)`` initial prompts of the pairs, to learn from first.
        reads: ``(n + t, 2, 38)`` of their pictures.
        labels: ``(n + t,)``.
        slate_prompt_values: ``(c, 6)`` initial prompts of the choices.
        slate_reads: ``(c, L, M, 38)``.
        choices: ``(c,)`` chosen columns.
        n_learn: n, how many pairs may be learned from.
    """

    prompt_values: IntArray
    reads: FloatArray
    labels: FloatArray
    slate_prompt_values: IntArray
    slate_reads: FloatArray
    choices: IntArray
    n_learn: int


@dataclass(frozen=True)
class Prediction:
    """The Bayes predictor's view of one rater after some labels.

    Attributes:
        preferences: ``(t,)`` probability that the first picture of a test pair is preferred, given no tie.
        choices: ``(c, L)`` probability of choosing each column.
        effective_draws: How many draws carry it.
    """

    preferences: FloatArray
    choices: FloatArray
    effective_draws: float


def predict(crowd: Crowd, task: RaterTask, n_labels: tuple[int, ...]) -> list[Prediction]:
    """Predict one rater after the first n pairs, for each n in ``n_labels``.

    Args:
        crowd: Possible raters.
        task: The rater's labels.
        n_labels: Numbers of pairs seen, each at most ``task.n_learn``.

    Returns:
        One prediction for each number.

    Raises:
        ValueError: If more pairs are asked for than there are to learn from.
    """
    if max(n_labels) > task.n_learn:
        raise ValueError(f"n_labels must be at most {task.n_learn}, the pairs to learn from, got {max(n_labels)}")
    first, second = (utilities(crowd, task.reads[:, i], task.prompt_values) for i in (0, 1))
    n = task.n_learn
    seen = comparison_log_likelihoods(crowd, first[:n], second[:n], task.labels[:n])
    c, n_columns, m, size = task.slate_reads.shape
    values = np.repeat(task.slate_prompt_values, n_columns * m, axis=0)
    pictures = utilities(crowd, task.slate_reads.reshape(-1, size), values).reshape(c, n_columns, m, -1)
    predictions = []
    for count in n_labels:
        weights = posterior_weights(seen[:count])
        predictions.append(
            Prediction(
                preference(crowd, weights, first[n:], second[n:]),
                choice_probabilities(crowd, weights, pictures),
                effective_draws(weights),
            )
        )
    return predictions
