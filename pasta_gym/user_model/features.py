"""Where the fit takes CLIP's embeddings from: a table of a frozen encoder's, or an encoder that is trained."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import NO_IMAGE, PreferenceData

DEFAULT_BATCH_SIZE = 64


class Features(Protocol):
    """Embeddings of images and initial prompts by their rows in the data, before l2-normalisation."""

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed images ``(n,)``: ``(n, d)`` float32, where the rows are."""
        ...

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed initial prompts ``(n,)``: ``(n, d)`` float32, where the rows are."""
        ...


class FrozenFeatures:
    """Tables of embeddings. They may be memory maps: only the rows that are asked for are read.

    Args:
        image_embeddings: ``(I, d)``.
        prompt_embeddings: ``(P, d)``.
    """

    def __init__(self, image_embeddings: FloatArray, prompt_embeddings: FloatArray) -> None:
        self._images, self._prompts = image_embeddings, prompt_embeddings

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenFeatures:
        # The target network is a deep copy; what is frozen is shared with it.
        return self

    @classmethod
    def of(cls, data: PreferenceData) -> FrozenFeatures:
        """Take the tables of preference data."""
        return cls(data.image_embeddings, data.prompt_embeddings)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed images ``(n,)``: ``(n, d)`` float32, where the rows are."""
        return self._take(self._images, rows)

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed initial prompts ``(n,)``: ``(n, d)`` float32, where the rows are."""
        return self._take(self._prompts, rows)

    def _take(self, table: FloatArray, rows: torch.Tensor) -> torch.Tensor:
        index: IntArray = rows.cpu().numpy()
        return torch.from_numpy(np.asarray(table[index], dtype=np.float32)).to(rows.device)


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
        tokens: ``(P, context)`` token ids of all initial prompts, on the model's device.
        batch_size: Most pictures that go through the model at once. A gradient over more of them holds the activations
            of one such batch and computes those of the others again.

    Raises:
        ValueError: If the batch size is under 1.
    """

    tokens: torch.Tensor

    def __init__(
        self,
        clip: nn.Module,
        pictures: Callable[[IntArray], torch.Tensor],
        tokens: torch.Tensor,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        super().__init__()
        self.clip = clip
        self._pictures, self._batch_size = pictures, batch_size
        self.register_buffer("tokens", tokens, persistent=False)

    def __deepcopy__(self, memo: dict[int, object]) -> EncodedFeatures:
        # The target network has weights of its own and reads the same pictures.
        return EncodedFeatures(copy.deepcopy(self.clip, memo), self._pictures, self.tokens, self._batch_size)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed images ``(n,)``: ``(n, d)`` where the rows are; one that comes twice is embedded once."""
        distinct, place = torch.unique(rows, return_inverse=True)
        parts = torch.split(distinct, self._batch_size)
        is_split = len(parts) > 1 and torch.is_grad_enabled()
        embedded = torch.cat([self._image_batch(part, is_split) for part in parts])
        return embedded.to(rows.device)[place]

    def _image_batch(self, rows: torch.Tensor, is_computed_again: bool) -> torch.Tensor:
        pictures = self._pictures(rows.cpu().numpy()).to(self.tokens.device)
        if not is_computed_again:
            return self._model.encode_image(pictures)
        embedded: torch.Tensor = checkpoint(self._model.encode_image, pictures, use_reentrant=False)
        return embedded

    def prompts(self, rows: torch.Tensor) -> torch.Tensor:
        """Embed initial prompts ``(n,)``: ``(n, d)`` where the rows are."""
        distinct, place = torch.unique(rows, return_inverse=True)
        embedded = self._model.encode_text(self.tokens[distinct.to(self.tokens.device)])
        return embedded.to(rows.device)[place]

    @property
    def _model(self) -> ClipModel:
        return cast("ClipModel", self.clip)

    @torch.no_grad()
    def encoded(self, data: PreferenceData, shown: Shown) -> PreferenceData:
        """Return the data with embeddings computed by the encoder as it is now.

        Args:
            data: The data.
            shown: Which rows are needed. The tables are as long as before; other rows hold zeros and, on systems that
                give out memory as it is touched, take none.
        """

        def table(embed: Callable[[torch.Tensor], torch.Tensor], rows: IntArray, n: int) -> FloatArray:
            embeddings: FloatArray = np.zeros((n, data.embedding_dim), dtype=np.float32)
            for part in np.array_split(rows, max(1, -(-len(rows) // self._batch_size))):
                if len(part):
                    embeddings[part] = embed(torch.from_numpy(part)).float().cpu().numpy()
            return embeddings

        return dataclasses.replace(
            data,
            image_embeddings=table(self.images, shown.images, len(data.image_embeddings)),
            prompt_embeddings=table(self.prompts, shown.prompts, len(data.prompt_embeddings)),
            encoder_sha256=None,  # it changes with every step
        )


@dataclass(frozen=True)
class Shown:
    """What some raters were shown.

    Attributes:
        images: ``(i,)`` distinct rows of image embeddings.
        prompts: ``(p,)`` distinct rows of prompt embeddings.
    """

    images: IntArray
    prompts: IntArray


def shown_to(data: PreferenceData, raters: IntArray, *, sessions_only: bool = False) -> Shown:
    """Collect all that raters ``(n,)`` judged; ``sessions_only`` leaves pairs, rankings and ratings out."""
    kinds = [(data.session_raters, data.session_prompts, data.session_images)]
    if not sessions_only:
        kinds += [
            (data.pair_raters, data.pair_prompts, data.pair_images),
            (data.ranking_raters, data.ranking_prompts, data.rankings),
            (data.rating_raters, data.rating_prompts, data.rating_images),
        ]
    theirs = [(np.isin(who, raters), prompts, images) for who, prompts, images in kinds]
    images = np.concatenate([images[mine].reshape(-1) for mine, _, images in theirs])
    prompts = np.concatenate([prompts[mine] for mine, prompts, _ in theirs])
    return Shown(np.unique(images[images != NO_IMAGE]), np.unique(prompts))
