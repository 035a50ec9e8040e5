"""A mixture of tastes and choice models: which kinds of people are there, and which one is this?

An agent's own belief rests on a mixture of K tastes, fitted to logged conversations (agents/mixture_fit.py). Under
component k a column is worth ``u_k(its images, the initial prompt)``; the probability of a choice is the softmax of
``tau * u_k`` over the slate (equation 4 of the paper), a logged reward is u_k of the chosen column plus noise, and a
whole conversation shares one component. The posterior over components after some choices is then a closed form.
Rewards help to tell the components apart while the mixture is fitted; a belief, which is needed while a conversation
lasts, rests on choices alone. Nothing of the environment's user model is used.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pasta_gym.softmax import log_softmax, softmax
from pasta_gym.trajectories import TrajectoryDataset
from pasta_gym.types import FloatArray, IntArray

CHUNK = 1000  # episodes whose images are held in float32 at a time


def column_features(slate_images: FloatArray, initial_prompts: FloatArray) -> FloatArray:
    """Describe the columns of a slate by their images and the initial prompt.

    All embeddings are l2-normalised first. The features are the mean image, the elementwise largest image, the mean
    image times the initial prompt (elementwise, so that a component can weigh parts of the match), and the mean and
    largest cosine between images and initial prompt.

    Args:
        slate_images: ``(..., L, M, d)`` image embeddings.
        initial_prompts: ``(..., d)`` embedding of the initial prompt, with the same leading axes.

    Returns:
        ``(..., L, 3 d + 2)`` float32. Columns of zeros (turns to come) give finite features.
    """
    images = _normalised(in_precision(slate_images, torch.float32))
    prompts = _normalised(np.asarray(initial_prompts, dtype=np.float32))
    pictures = [images[..., m, :] for m in range(images.shape[-2])]
    mean = sum(pictures[1:], start=pictures[0]) / len(pictures)  # reducing a short axis that is not last is slow
    cosines = np.einsum("...lmd,...d->...lm", images, prompts)
    return np.concatenate(
        [
            mean,
            functools.reduce(np.maximum, pictures),
            mean * prompts[..., None, :],
            cosines.mean(axis=-1, keepdims=True),
            cosines.max(axis=-1, keepdims=True),
        ],
        axis=-1,
    )


def _normalised(vectors: FloatArray) -> FloatArray:
    squares = np.einsum("...d,...d->...", vectors, vectors)[..., None]
    return np.asarray(vectors / np.maximum(np.sqrt(squares), 1e-8))


def in_precision(array: FloatArray, dtype: torch.dtype) -> FloatArray:
    """Convert to another precision; torch does it to and from float16 many times faster than numpy, bit for bit."""
    # Copied where it cannot be written to: torch warns about such arrays, though nothing writes to this one.
    converted: FloatArray = torch.from_numpy(np.require(array, requirements=["C", "W"])).to(dtype).numpy()
    return converted


def choice_log_likelihoods(utilities: FloatArray, choices: IntArray, temperature: float) -> FloatArray:
    """Log-probability of each choice under each component.

    Args:
        utilities: ``(..., L, K)`` of the slates' columns.
        choices: ``(...)`` column chosen; -1 means no evidence and gives 0.
        temperature: Factor on the utilities.

    Returns:
        ``(..., K)`` float64.
    """
    logits = temperature * np.asarray(utilities, dtype=np.float64)
    return np.where((choices >= 0)[..., None], _of_chosen(log_softmax(logits, axis=-2), choices), 0.0)


def reward_log_likelihoods(utilities: FloatArray, choices: IntArray, rewards: FloatArray, noise: float) -> FloatArray:
    """Log-density of each reward under each component, up to a constant that all components share.

    Args:
        utilities: ``(..., L, K)`` of the slates' columns.
        choices: ``(...)`` column chosen; -1 means no evidence and gives 0.
        rewards: ``(...)`` in units of utility; NaN where none was logged, which gives 0.
        noise: Standard deviation of a reward around the chosen column's utility.

    Returns:
        ``(..., K)`` float64.
    """
    error = (rewards[..., None] - _of_chosen(np.asarray(utilities, dtype=np.float64), choices)) / noise
    return np.where(((choices >= 0) & ~np.isnan(rewards))[..., None], -0.5 * error**2, 0.0)


def _of_chosen(columns: FloatArray, choices: IntArray) -> FloatArray:
    """Pick the chosen column of ``(..., L, K)``: ``(..., K)``, that of column 0 where nothing was chosen."""
    return np.take_along_axis(columns, np.maximum(choices, 0)[..., None, None], axis=-2)[..., 0, :]


def posterior(prior: FloatArray, log_likelihoods: FloatArray) -> FloatArray:
    """Bayes' rule in closed form: prior times the likelihood of the choices, normalised.

    Args:
        prior: ``(K,)`` probabilities above 0.
        log_likelihoods: ``(..., K)`` summed over the choices.

    Returns:
        ``(..., K)`` float64 probabilities.
    """
    return softmax(np.log(np.asarray(prior, dtype=np.float64)) + log_likelihoods)


class TasteWeights(NamedTuple):
    """Weights of the utilities ``u = silu(features hidden_weights' + hidden_biases) weights' + biases``.

    Attributes:
        hidden_weights: ``(W, F)``, shared by all components.
        hidden_biases: ``(W,)``.
        weights: ``(K, W)``.
        biases: ``(K,)``.
    """

    hidden_weights: FloatArray
    hidden_biases: FloatArray
    weights: FloatArray
    biases: FloatArray


@dataclass(frozen=True)
class ChoiceMixture:
    """A mixture of K tastes and choice models.

    Attributes:
        prior: ``(K,)`` shares.
        tastes: What a column is worth to each component, from :func:`column_features`.
        temperature: Factor on utilities in choices.
        reward_noise: Standard deviation of a reward around the chosen column's utility, in units of utility.
    """

    prior: FloatArray
    tastes: TasteWeights
    temperature: float
    reward_noise: float = 1.0

    def utilities(self, features: FloatArray) -> FloatArray:
        """What columns are worth to each component: features ``(..., F)`` to ``(..., K)`` float32."""
        hidden = np.asarray(features, dtype=np.float32) @ self.tastes.hidden_weights.T + self.tastes.hidden_biases
        hidden *= 0.5 * (1 + np.tanh(0.5 * hidden))  # silu; this form of the logistic never overflows
        return np.asarray(hidden @ self.tastes.weights.T + self.tastes.biases)

    def column_utilities(self, slate_images: FloatArray, initial_prompts: FloatArray) -> FloatArray:
        """What the columns of slates are worth to each component.

        Args:
            slate_images: ``(B, T, L, M, d)``.
            initial_prompts: ``(B, d)``.

        Returns:
            ``(B, T, L, K)`` float32.
        """
        shape = (*slate_images.shape[:2], initial_prompts.shape[-1])
        return self.utilities(column_features(slate_images, np.broadcast_to(initial_prompts[:, None], shape)))

    def dataset_utilities(self, dataset: TrajectoryDataset) -> FloatArray:
        """What every column shown in a dataset is worth to each component, ``(N, H, L, K)`` float32."""
        return np.concatenate(
            [
                self.column_utilities(
                    dataset.slate_images[rows], dataset.prompt_embeddings[dataset.initial_prompts[rows]]
                )
                for rows in chunks(len(dataset.choices))
            ]
        )

    def posterior(self, slate_images: FloatArray, initial_prompts: FloatArray, choices: IntArray) -> FloatArray:
        """Posterior over components given conversations so far; the prior when there is no choice yet.

        Args:
            slate_images: ``(B, T, L, M, d)``.
            initial_prompts: ``(B, d)``.
            choices: ``(B, T)``, -1 for turns without a choice.

        Returns:
            ``(B, K)``.
        """
        utilities = self.column_utilities(slate_images, initial_prompts)
        return posterior(self.prior, choice_log_likelihoods(utilities, choices, self.temperature).sum(axis=1))

    def responsibilities(self, utilities: FloatArray, choices: IntArray, rewards: FloatArray) -> FloatArray:
        """Posterior over components of *whole* logged conversations, from their choices and rewards.

        Args:
            utilities: ``(N, T, L, K)`` of the columns shown.
            choices: ``(N, T)``, -1 for turns without a choice.
            rewards: ``(N, T)`` in units of utility, NaN where none was logged.

        Returns:
            ``(N, K)`` float64.
        """
        evidence = choice_log_likelihoods(utilities, choices, self.temperature)
        evidence = evidence + reward_log_likelihoods(utilities, choices, rewards, self.reward_noise)
        return posterior(self.prior, evidence.sum(axis=1))


def running_posteriors(prior: FloatArray, log_likelihoods: FloatArray) -> FloatArray:
    """Posterior before each turn and after the last.

    Args:
        prior: ``(K,)``.
        log_likelihoods: ``(N, H, K)`` of each turn's choice.

    Returns:
        ``(N, H + 1, K)`` float32.
    """
    evidence = np.concatenate([np.zeros_like(log_likelihoods[:, :1]), np.cumsum(log_likelihoods, axis=1)], axis=1)
    return posterior(prior, evidence).astype(np.float32)


def chunks(n_episodes: int) -> list[slice]:
    """Slices of at most ``CHUNK`` episodes that cover all of them."""
    return [slice(start, min(start + CHUNK, n_episodes)) for start in range(0, n_episodes, CHUNK)]
