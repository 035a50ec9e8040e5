"""A start for EM: sort raters by a mixture of linear tastes, which is quick enough to try many times.

The paper does not say how EM starts. Heads that start at random learn what pictures show and who likes what at
once, and raters that are sorted wrongly early on stay so. Here each type is one vector over whitened image
embeddings; all starts are fitted together and the best by likelihood gives the first posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pasta_gym.settings import check_counts, check_not_negative, check_positive
from pasta_gym.user_model.posterior import rows_by_rater

if TYPE_CHECKING:
    from pasta_gym.user_model.labels import Labels


@dataclass(frozen=True)
class SortingConfig:
    """How raters are sorted.

    Attributes:
        starts: Random starts; the best by likelihood is kept.
        steps: Gradient steps of Adam on all labels.
        learning_rate: Adam's.
        spread: Standard deviation of the first tastes.
        ridge: Precision of the Gaussian prior on tastes.
        rating_deviation: Standard deviation of a rating around the linear model's, on the [0, 1] scale.
        labels_per_rater: At most so many pairs and so many ratings of each rater are looked at, the first ones; 0
            means all. Sorting needs fewer labels than the heads do.
    """

    starts: int = 6
    steps: int = 120
    learning_rate: float = 0.05
    spread: float = 0.2
    ridge: float = 5.0
    rating_deviation: float = 0.25
    labels_per_rater: int = 60

    def __post_init__(self) -> None:
        check_counts(self, "starts", "steps")
        check_counts(self, "labels_per_rater", least=0, note="0 takes all labels")
        check_positive(self, "learning_rate", "spread", "rating_deviation")
        check_not_negative(self, "ridge")


def whitening(embeddings: torch.Tensor, floor: float = 1e-3) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean ``(d,)`` and matrix ``(d, d)`` that give embeddings ``(n, d)`` the identity as covariance.

    Directions with less than ``floor`` of the largest variance are left as small as they are.
    """
    x = embeddings.double()
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    scale = values.clamp(min=float(values.max()) * floor).rsqrt()
    return mean.float(), (vectors * scale).float()


def linear_features(labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened differences of the pairs ``(n, d + 1)`` and whitened rated images ``(m, d + 1)``.

    The last feature is the cosine of image and prompt embeddings, scaled to variance 1: how well the picture fits.
    """
    used = torch.cat([labels.pair_images[:, 0], labels.pair_images[:, 1], labels.rating_images])
    prompts = torch.cat([labels.pair_prompts, labels.pair_prompts, labels.rating_prompts])
    images = labels.image_embeddings[used].float()
    mean, matrix = whitening(images)
    fit = nn.functional.cosine_similarity(images, labels.prompt_embeddings[prompts], dim=-1)
    fit = (fit - fit.mean()) / fit.std().clamp(min=1e-6)
    features = torch.cat([(images - mean) @ matrix, fit[:, None]], dim=-1)
    n = len(labels.pair_labels)
    return features[:n] - features[n : 2 * n], features[2 * n :]


def first_labels(labels: Labels, most: int) -> Labels:
    """Keep the first ``most`` pairs and the first ``most`` ratings of each rater; rows are sorted by rater."""

    def kept(raters: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(raters)) - torch.searchsorted(raters, raters) < most

    return labels.rows(kept(labels.pair_raters), kept(labels.rating_raters))


def sort_raters(
    labels: Labels, n_types: int, generator: torch.Generator, config: SortingConfig | None = None
) -> torch.Tensor:
    """Sort raters into types by a mixture of linear tastes, fitted by gradient ascent on the likelihood.

    Args:
        labels: Labels of all raters.
        n_types: K.
        generator: Source of the first tastes.
        config: How to fit.

    Returns:
        ``(n_raters, K)`` posterior under the best start.
    """
    config = config or SortingConfig()
    labels = first_labels(labels, config.labels_per_rater) if config.labels_per_rater else labels
    differences, rated = linear_features(labels)
    s, k = config.starts, n_types
    tastes = (config.spread * torch.randn(differences.shape[1], s * k, generator=generator)).requires_grad_()
    base = torch.zeros(s * k, requires_grad=True)
    slope = torch.zeros(s * k, requires_grad=True)
    log_prior = torch.zeros(s, k, requires_grad=True)
    optimiser = torch.optim.Adam([tastes, base, slope, log_prior], lr=config.learning_rate)
    sign = 2.0 * labels.pair_labels - 1.0

    def log_joint() -> torch.Tensor:
        # A tie has sign 0: it says the same of every type.
        pairs = nn.functional.logsigmoid(sign[:, None] * (differences @ tastes))
        predicted = torch.sigmoid(base + slope.exp() * (rated @ tastes))
        ratings = -(predicted - labels.ratings[:, None]).square() / (2 * config.rating_deviation**2)
        likelihood = rows_by_rater(pairs, labels.pair_raters, labels.n_raters)
        likelihood = likelihood + rows_by_rater(ratings, labels.rating_raters, labels.n_raters)
        return likelihood.view(-1, s, k) + torch.log_softmax(log_prior, dim=-1)

    for _ in range(config.steps):
        penalty = 0.5 * config.ridge * tastes.square().sum()
        loss = penalty - torch.logsumexp(log_joint(), dim=-1).sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss / labels.n_raters)
        optimiser.step()
    with torch.no_grad():
        joint = log_joint()
        ridge = 0.5 * config.ridge * tastes.square().view(-1, s, k).sum(dim=(0, 2))
        best = int((torch.logsumexp(joint, dim=-1).sum(dim=0) - ridge).argmax())
        return torch.softmax(joint[:, best], dim=-1)
