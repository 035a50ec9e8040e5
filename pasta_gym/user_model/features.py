"""Where the fit takes CLIP's embeddings from: a table of a frozen encoder's, or an encoder that is trained."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import PreferenceData


class Features(Protocol):
    """Embeddings of images and initial prompts by their rows in the data, before l2-normalisation."""

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed images ``(n,)``: ``(n, d)`` float32."""
        ...

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed initial prompts ``(n,)``: ``(n, d)`` float32."""
        ...


class FrozenFeatures:
    """Tables of embeddings. They may be memory maps: only the rows that are asked for are read.

    Args:
        image_embeddings: ``(I, d)``.
        prompt_embeddings: ``(P, d)``.
        device: Where the rows go.
    """

    def __init__(
        self, image_embeddings: FloatArray, prompt_embeddings: FloatArray, device: torch.device | str = "cpu"
    ) -> None:
        self._images, self._prompts, self._device = image_embeddings, prompt_embeddings, torch.device(device)

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenFeatures:
        # The target network is a deep copy; what is frozen is shared with it.
        return self

    @classmethod
    def of(cls, data: PreferenceData, device: torch.device | str = "cpu") -> FrozenFeatures:
        """Take the tables of preference data."""
        return cls(data.image_embeddings, data.prompt_embeddings, device)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed images ``(n,)``: ``(n, d)`` float32."""
        return self._take(self._images, rows)

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed initial prompts ``(n,)``: ``(n, d)`` float32."""
        return self._take(self._prompts, rows)

    def _take(self, table: FloatArray, rows: torch.Tensor) -> torch.Tensor:
        index: IntArray = rows.cpu().numpy()
        return torch.from_numpy(np.asarray(table[index], dtype=np.float32)).to(self._device)
