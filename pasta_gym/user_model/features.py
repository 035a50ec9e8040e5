"""Where the fit takes CLIP's embeddings from: a table of a frozen encoder's, or an encoder that is trained."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

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


class ClipModel(Protocol):
    """What is asked of an open_clip model."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Embed pictures ``(n, 3, h, w)``: ``(n, d)``."""
        ...

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        """Embed token ids ``(n, context)``: ``(n, d)``."""
        ...


class EncodedFeatures(nn.Module):
    """An encoder in training: every embedding is computed anew, with gradients.

    Args:
        clip: The open_clip model. It is trained in place; pass a copy of the frozen one.
        pictures: Reads images by row: ``(n,)`` to prepared pictures ``(n, 3, h, w)``.
        tokens: ``(P, context)`` token ids of all initial prompts.
    """

    tokens: torch.Tensor

    def __init__(self, clip: nn.Module, pictures: Callable[[IntArray], torch.Tensor], tokens: torch.Tensor) -> None:
        super().__init__()
        self.clip = clip
        self._pictures = pictures
        self.register_buffer("tokens", tokens, persistent=False)

    def __deepcopy__(self, memo: dict[int, object]) -> EncodedFeatures:
        # The target network has weights of its own and reads the same pictures.
        return EncodedFeatures(copy.deepcopy(self.clip, memo), self._pictures, self.tokens)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed images ``(n,)``: ``(n, d)``; one that comes twice is embedded once."""
        distinct, place = torch.unique(rows, return_inverse=True)
        embedded: torch.Tensor = self._model.encode_image(self._pictures(distinct.numpy()).to(self.tokens.device))
        return embedded[place]

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed initial prompts ``(n,)``: ``(n, d)``."""
        distinct, place = torch.unique(rows, return_inverse=True)
        embedded: torch.Tensor = self._model.encode_text(self.tokens[distinct])
        return embedded[place]

    @property
    def _model(self) -> ClipModel:
        return cast("ClipModel", self.clip)

    @torch.no_grad()
    def encoded(self, data: PreferenceData, batch_size: int = 256) -> PreferenceData:
        """Return the data with all embeddings computed by the encoder as it is now."""

        def table(embed: Callable[[torch.Tensor], torch.Tensor], n: int) -> FloatArray:
            parts = [embed(rows).float().cpu() for rows in torch.split(torch.arange(n), batch_size)]
            embeddings: FloatArray = torch.cat(parts).numpy()
            return embeddings

        return dataclasses.replace(
            data,
            image_embeddings=table(self.images, len(data.image_embeddings)),
            prompt_embeddings=table(self.prompts, len(data.prompt_embeddings)),
        )
