"""The surrogate of the mini SDXL: image embeddings drawn from a prompt's embedding, without painting.

A network maps the mini CLIP embedding of a prompt to a Gaussian over image embeddings: a mean, a diagonal and
a low-rank factor, because the pictures of one prompt differ along few directions (what it leaves unsaid).
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pasta_gym.mini import weights
from pasta_gym.mini.clip import EMBEDDING_DIM

FloatArray = NDArray[np.float32]
RANK = 8
MEAN_HIDDEN, SPREAD_HIDDEN = 512, 256
_MIN_DEVIATION = 0.003


def _trunk(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (dim, hidden):
        layers += [nn.Linear(width, hidden), nn.SiLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers)


class SurrogateNetwork(nn.Module):
    """Prompt embedding to the parameters of a Gaussian over image embeddings, in standardised units.

    Mean and spread have hidden layers of their own. Dropout helps the mean and would spoil the spread: where a
    network's own noise moves its deviations, the likelihood is best served by deviations that are too large, and the
    pictures of a fully specified prompt, nearly all alike, would be drawn with three times their deviation.

    Args:
        dim: Width of the embeddings.
        mean_hidden: Width of the mean's two hidden layers.
        spread_hidden: Width of the spread's.
        rank: Columns of the low-rank factor.
    """

    prompt_mean: torch.Tensor
    prompt_scale: torch.Tensor
    image_mean: torch.Tensor
    image_scale: torch.Tensor

    def __init__(
        self,
        dim: int = EMBEDDING_DIM,
        mean_hidden: int = MEAN_HIDDEN,
        spread_hidden: int = SPREAD_HIDDEN,
        rank: int = RANK,
    ) -> None:
        super().__init__()
        self.dim, self.rank = dim, rank
        self.mean_trunk = _trunk(dim, mean_hidden, dropout=0.05)
        self.spread_trunk = _trunk(dim, spread_hidden, dropout=0.0)
        self.mean = nn.Linear(mean_hidden, dim)
        self.deviation = nn.Linear(spread_hidden, dim)
        self.factor = nn.Linear(spread_hidden, dim * rank)
        for name in ("prompt", "image"):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_scale", torch.ones(dim))

    def forward(self, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map prompt embeddings ``(n, d)`` to mean ``(n, d)``, deviations ``(n, d)`` and factor ``(n, d, r)``."""
        x = (prompts - self.prompt_mean) / self.prompt_scale
        mean, spread = self.mean(self.mean_trunk(x)), self.spread_trunk(x)
        deviation = nn.functional.softplus(self.deviation(spread)) + _MIN_DEVIATION
        return mean, deviation, self.factor(spread).unflatten(-1, (self.dim, self.rank)) * 0.3


def fitting_losses(
    x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the fit into the error of the mean and the likelihood of the spread around the pictures' own mean.

    Were the spread fitted around the predicted mean, it would also cover what that mean gets wrong, and columns
    would differ from draw to draw far more than those of the pipeline do.

    Args:
        x: ``(n, m, d)`` embeddings of ``m`` pictures of each prompt, m at least 2.
        mean: ``(n, d)``.
        deviation: ``(n, d)``.
        factor: ``(n, d, r)``.

    Returns:
        Mean squared error of the mean, and negative log density of the residuals, both per dimension.
    """
    own_mean = x.mean(dim=1)
    m = x.shape[1]
    residuals = (x - own_mean[:, None]) * (m / (m - 1)) ** 0.5
    error = (own_mean - mean).square().mean()
    return error, negative_log_likelihood(residuals, torch.zeros_like(mean), deviation, factor)


def negative_log_likelihood(
    x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    """Mean negative log density per dimension of ``x (n, m, d)`` under ``(n, ...)`` low-rank Gaussians."""
    gaussian = torch.distributions.LowRankMultivariateNormal(
        mean[:, None], factor[:, None], deviation.square()[:, None]
    )
    loss: torch.Tensor = -gaussian.log_prob(x).mean() / x.shape[-1]
    return loss


class Surrogate:
    """Means and spreads of image embeddings for prompts; whoever draws brings the noise.

    Args:
        network: The fitted network, put in evaluation mode.
    """

    def __init__(self, network: SurrogateNetwork) -> None:
        self.network = network.eval()
        self.embedding_dim = network.dim
        self.rank = network.rank

    def mean_and_spread(self, prompt_embeddings: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return mean ``(n, d)``, deviations ``(n, d)`` and factor ``(n, d, r)`` in embedding units.

        An image is ``mean + deviations * e + factor @ z`` with standard normal ``e (d,)`` and ``z (r,)``.
        """
        with torch.inference_mode():
            mean, deviation, factor = self.network(torch.from_numpy(np.ascontiguousarray(prompt_embeddings)))
            scale = self.network.image_scale
            # Laid out rank by rank, as those who draw multiply with it.
            by_rank = torch.empty(len(factor), self.rank, self.embedding_dim)
            torch.mul(factor.transpose(1, 2), scale, out=by_rank)
            return (
                (mean * scale + self.network.image_mean).numpy(),
                (deviation * scale).numpy(),
                by_rank.numpy().transpose(0, 2, 1),
            )


@functools.cache
def load_surrogate(folder: pathlib.Path | None = None) -> Surrogate:
    """Load the shipped surrogate, or one from ``folder`` (``surrogate.safetensors``).

    Raises:
        ValueError: If the weights are missing, broken, or not those that their card names.
    """
    folder = folder or weights.weights_directory() / "surrogate"
    network = SurrogateNetwork()
    weights.load_weights(network, folder / "surrogate.safetensors")
    return Surrogate(network)
