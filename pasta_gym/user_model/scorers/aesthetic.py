"""LAION's aesthetic predictor V2 ("improved"): how pleasing a picture is, whatever the prompt."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.types import FloatArray
from pasta_gym.user_model.scorers.base import find_weights, load_strictly, read_weights, require_pairs

if TYPE_CHECKING:
    import torch

STEM = "sac+logos+ava1-l14-linearMSE"
_PAGE = "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main"
_LINEAR = (0, 2, 4, 6, 7)
"""Places of the linear layers; dropout, which does nothing in use, stands between. There are no activations."""


class AestheticV2:
    """Aesthetic score, about 4 to 7 of 1 to 10, from the l2-normalised image embedding. Prompts are not looked at.

    Args:
        folder: Where ``sac+logos+ava1-l14-linearMSE.pth`` is, or the same as safetensors.
        encoder: The CLIP that the predictor was trained on: OpenAI's ViT-L/14 for the published weights.

    Raises:
        ValueError: If weights are missing, do not fit, or are for embeddings of another width.
    """

    name = "aesthetic V2"

    def __init__(self, folder: str | pathlib.Path, encoder: ClipEncoder) -> None:
        from torch import nn

        root = pathlib.Path(folder)
        fetch = f"curl -L -o '{root}/{STEM}.pth' '{_PAGE}/{STEM}.pth'"
        path = find_weights(root, STEM, ".pth", fetch)
        state = read_weights(path)
        missing = [f"layers.{i}.weight" for i in _LINEAR if f"layers.{i}.weight" not in state]
        if missing:
            raise ValueError(f"{path} has no {missing[0]}; expected linear layers {', '.join(map(str, _LINEAR))}")
        self._head = nn.Module()
        self._head.layers = nn.Sequential(*_layers(state))
        load_strictly(self._head, state, path)
        self._head.eval()
        width = int(state["layers.0.weight"].shape[1])
        if width != encoder.embedding_dim:
            raise ValueError(
                f"{path} is for embeddings of {width} numbers, and the encoder gives {encoder.embedding_dim}; "
                "the published weights are for ViT-L-14-quickgelu with openai"
            )
        self._encoder = encoder

    def scores(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        """Score images, the prompts being ignored: ``(n,)``.

        Raises:
            ValueError: If there are not as many prompts as images, or a picture cannot be read.
        """
        import torch

        require_pairs(prompts, images)
        if not len(images):
            return np.zeros(0)
        embeddings = torch.nn.functional.normalize(torch.from_numpy(self._encoder.encode_images(images)), dim=-1)
        layers = self._head.layers
        assert isinstance(layers, torch.nn.Sequential)
        with torch.inference_mode():
            scores: FloatArray = layers(embeddings)[:, 0].double().numpy()
        return scores


def _layers(state: dict[str, torch.Tensor]) -> list[torch.nn.Module]:
    """The layers in their places, of the sizes of the weights."""
    from torch import nn

    layers: list[nn.Module] = []
    for place in _LINEAR:
        layers += [nn.Dropout() for _ in range(place - len(layers))]
        rows, columns = state[f"layers.{place}.weight"].shape
        layers.append(nn.Linear(columns, rows))
    return layers
