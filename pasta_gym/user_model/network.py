"""The score of an image for a prompt and a user type: residual heads on frozen CLIP embeddings (section 5.1, D.4)."""

from __future__ import annotations

import math

import torch
from torch import nn


def _initial_linear(rows: int, columns: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    bound = 1.0 / math.sqrt(columns)
    weight = torch.empty(rows, columns).uniform_(-bound * math.sqrt(3), bound * math.sqrt(3), generator=generator)
    bias = torch.empty(rows).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight), nn.Parameter(bias)


class ResidualHeads(nn.Module):
    """One residual head a user type over embeddings of one kind: d - 2d - 4d - dK (D.4).

    The hidden layers are shared by the types; the last layer is split into K vectors. Each is added to the
    embedding, and the sum is l2-normalised. Embeddings are divided by a fixed ``scale`` first, so that a head's
    output and the embedding have like sizes; a common factor does not change the normalised sum's meaning.

    Args:
        embedding_dim: d.
        n_types: K.
        scale: Root mean square of the embeddings' entries.
        noise: Size of the last layer's first weights. Heads that start equal would never separate.
        generator: Source of the first weights.
    """

    scale: torch.Tensor

    def __init__(
        self, embedding_dim: int, n_types: int, *, scale: float, noise: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        d = embedding_dim
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.weight1, self.bias1 = _initial_linear(2 * d, d, generator)
        self.weight2, self.bias2 = _initial_linear(4 * d, 2 * d, generator)
        last = torch.randn(n_types, d, 4 * d, generator=generator) * (noise / math.sqrt(4 * d))
        self.weight3 = nn.Parameter(last)
        self.bias3 = nn.Parameter(torch.zeros(n_types, d))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Shared layers: scaled embeddings ``(n, d)`` to ``(n, 4d)``."""
        x = nn.functional.relu(nn.functional.linear(x, self.weight1, self.bias1))
        return nn.functional.relu(nn.functional.linear(x, self.weight2, self.bias2))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map embeddings ``(n, d)`` to every type's unit vectors ``(n, K, d)`` in one batched product."""
        k, d, _ = self.weight3.shape
        x = embeddings / self.scale
        residual = nn.functional.linear(self.hidden(x), self.weight3.reshape(k * d, -1), self.bias3.reshape(-1))
        return nn.functional.normalize(x[:, None, :] + residual.view(-1, k, d), dim=-1)

    def of_type(self, x: torch.Tensor, hidden: torch.Tensor, user_type: int) -> torch.Tensor:
        """Map scaled embeddings ``(n, d)`` and ``hidden(x)`` to one type's unit vectors ``(n, d)``."""
        return nn.functional.normalize(
            x + nn.functional.linear(hidden, self.weight3[user_type], self.bias3[user_type]), dim=-1
        )


class ScoreModel(nn.Module):
    """Scores of images for prompts by type, in [0, 1], and the temperature of comparisons.

    Args:
        embedding_dim: d.
        n_types: K.
        image_scale: Root mean square of image embeddings' entries.
        text_scale: The same of prompt embeddings.
        noise: See ``ResidualHeads``.
        comparison_temperature: First value of tau_s, the factor on a difference of scores.
        generator: Source of the first weights.
    """

    def __init__(
        self,
        embedding_dim: int,
        n_types: int,
        *,
        image_scale: float,
        text_scale: float,
        noise: float,
        comparison_temperature: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.image_heads = ResidualHeads(embedding_dim, n_types, scale=image_scale, noise=noise, generator=generator)
        self.text_heads = ResidualHeads(embedding_dim, n_types, scale=text_scale, noise=noise, generator=generator)
        self.log_comparison_temperature = nn.Parameter(torch.tensor(math.log(comparison_temperature)))

    @property
    def n_types(self) -> int:
        """K."""
        return int(self.image_heads.weight3.shape[0])

    @property
    def embedding_dim(self) -> int:
        """The embeddings' dimension, d."""
        return int(self.image_heads.weight3.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_comparison_temperature.device

    def forward(self, prompts: torch.Tensor, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Score images for the prompts they belong to.

        Args:
            prompts: ``(p, d)`` embeddings of distinct initial prompts.
            rows: ``(n,)`` which prompt each image belongs to.
            images: ``(n, d)`` embeddings.

        Returns:
            ``(n, K)`` scores in [0, 1].
        """
        return score(self.text_heads(prompts)[rows], self.image_heads(images))


def score(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Utility of unit vectors ``(..., d)``: ``u = (1 + cos) / 2`` in [0, 1], ``(...)``."""
    return 0.5 * (1.0 + (text * image).sum(dim=-1))
