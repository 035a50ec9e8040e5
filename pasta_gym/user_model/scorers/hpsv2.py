"""HPSv2: a CLIP ViT-H/14 tuned on the Human Preference Dataset v2."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Sequence
from typing import Any

import PIL.Image

from pasta_gym.encoders.open_clip_models import import_open_clip
from pasta_gym.types import FloatArray
from pasta_gym.user_model.scorers.base import find_weights, in_batches, load_strictly, read_weights

VERSIONS: dict[str, str] = {"v2.0": "HPS_v2_compressed", "v2.1": "HPS_v2.1_compressed"}
ARCHITECTURE = "ViT-H-14"


class HPSv2:
    """The cosine, about 0.2 to 0.35; published tables show it times 100. Compare within a prompt and a version.

    The version has no default, because the package's two entry points disagree on it.

    Args:
        folder: Where ``HPS_v2_compressed.pt`` or ``HPS_v2.1_compressed.pt`` is, or the same as safetensors.
        version: ``"v2.0"`` or ``"v2.1"``.
        model_config: open_clip's ``model_cfg``; ViT-H-14's if None.

    Raises:
        ValueError: If the version is unknown, or weights are missing or do not fit.
    """

    def __init__(self, folder: str | pathlib.Path, *, version: str, model_config: dict[str, Any] | None = None) -> None:
        if version not in VERSIONS:
            raise ValueError(f"the version of HPS must be one of {', '.join(VERSIONS)}, got {version!r}")
        self.name = f"HPS {version}"
        root = pathlib.Path(folder)
        stem = VERSIONS[version]
        path = find_weights(root, stem, ".pt", f"hf download xswu/HPSv2 {stem}.pt --local-dir {root}")
        open_clip = import_open_clip()
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = copy.deepcopy(model_config or open_clip.get_model_config(ARCHITECTURE))
        self._model = open_clip.CLIP(**config).eval()
        load_strictly(self._model, read_weights(path), path)
        size = config["vision_cfg"]["image_size"]
        self._prepare = image_transform_v2(PreprocessCfg(size=size), is_train=False)
        self._tokenize = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])

    def scores(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        """Score image i for prompt i: ``(n,)`` in [-1, 1].

        Raises:
            ValueError: If there are not as many prompts as images.
        """
        return in_batches(self._score, prompts, images)

    def _score(self, prompts: Sequence[str], images: Sequence[PIL.Image.Image]) -> FloatArray:
        import torch

        with torch.inference_mode():
            pixels = torch.stack([self._prepare(image.convert("RGB")) for image in images])
            picture = self._model.encode_image(pixels, normalize=True)
            text = self._model.encode_text(self._tokenize(list(prompts)), normalize=True)
            scores: FloatArray = (picture * text).sum(dim=-1).double().numpy()
        return scores
