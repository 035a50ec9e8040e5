"""CLIP embeddings of images and texts, before l2-normalisation as the paper uses them (section 5.1)."""

from __future__ import annotations

import copy
import importlib.metadata
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pasta_gym.encoders import open_clip_models
from pasta_gym.encoders.embedding_cache import BadImagesError, fingerprint_of

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16")
PRESET = ("ViT-L-14-quickgelu", "openai")
"""The usual CLIP: 768 numbers. OpenAI's weights need QuickGELU; plain ``ViT-L-14`` would compute other features."""

_VERSIONS_THAT_MATTER = ("open_clip_torch", "pillow")  # what the model is, and how pictures are resized
_MOST_WORKERS = 8


class ClipEncoder:
    """Embeds images and texts with an open_clip model. Build one with ``mini``, ``pretrained`` or ``from_files``.

    Pictures are converted to RGB, then resized and cropped as the model's own preprocessing says. An embedding does
    not depend on the batch it was computed in, up to rounding.

    Args:
        files: Which model.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one. Not part of the identity: devices agree up
            to rounding.
        dtype: ``float32``, or ``bfloat16`` for mixed precision, faster on a GPU, with a relative error near 1e-2.
        batch_size: Largest batch sent through the model.
        workers: Threads that decode and resize pictures; None means one a processor, up to 8.

    Attributes:
        embedding_dim: Width d of an embedding.
        identity: What the embeddings depend on, as plain data: model, revision, sha-256 of the weights,
            preprocessing, tokenizer, precision, and the major versions of open_clip and Pillow.

    Raises:
        ValueError: If an argument is out of range, there is no GPU for ``cuda``, or the model cannot be loaded.
    """

    def __init__(
        self,
        files: open_clip_models.ClipFiles,
        *,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 256,
        workers: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        for name, value in (("batch_size", batch_size), ("workers", 1 if workers is None else workers)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.device = find_device(device)
        self.dtype = dtype
        self.batch_size = batch_size
        self.workers = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
        self._files = files
        self._clip = open_clip_models.build(files)
        self._clip.model.to(self.device)
        self.embedding_dim = int(files.model_config["embed_dim"])
        self.identity: dict[str, Any] = {
            "model": files.name,
            "model_config": files.model_config,
            "revision": files.revision,
            "weights_sha256": open_clip_models.file_sha256(files.weights),
            "preprocessing": self._clip.preprocessing,
            "tokenizer": self._clip.tokenizer,
            "dtype": dtype,
            "embedding_dim": self.embedding_dim,
            "versions": {p: importlib.metadata.version(p).split(".")[0] for p in _VERSIONS_THAT_MATTER},
        }

    @classmethod
    def mini(cls, **options: Any) -> ClipEncoder:
        """Load the mini world's CLIP (64 numbers), which comes with the package; options as of the class."""
        return cls(open_clip_models.mini_files(), **options)

    @classmethod
    def pretrained(
        cls,
        name: str = PRESET[0],
        tag: str = PRESET[1],
        *,
        revision: str | None = None,
        allow_download: bool = False,
        cache_dir: str | None = None,
        **options: Any,
    ) -> ClipEncoder:
        """Load a published model that is in the hub's local cache.

        Args:
            name: A model of ``open_clip.list_models()``.
            tag: One of its weights.
            revision: Commit of the hub's repository; None means ``main``.
            allow_download: Whether missing files may be fetched. Without it no network is used.
            cache_dir: The hub's cache, if not the usual one.
            **options: ``device``, ``dtype``, ``batch_size``, ``workers``.

        Raises:
            ValueError: If the model is unknown or not here; the message has the command that fetches it.
        """
        files = open_clip_models.pretrained_files(
            name, tag, revision=revision, allow_download=allow_download, cache_dir=cache_dir
        )
        return cls(files, **options)

    @classmethod
    def from_files(
        cls, model: str | pathlib.Path, weights: str | pathlib.Path | None = None, **options: Any
    ) -> ClipEncoder:
        """Load a model from files of your own.

        Args:
            model: A folder of open_clip's layout; or, with ``weights``, a config file (``.json``) or open_clip's name
                of the architecture.
            weights: A ``.safetensors`` file.
            **options: ``device``, ``dtype``, ``batch_size``, ``workers``.

        Raises:
            ValueError: If a file is missing, broken, a pickle, or does not fit.
        """
        if weights is None:
            return cls(open_clip_models.folder_files(model), **options)
        return cls(open_clip_models.weights_files(model, weights), **options)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the identity."""
        return fingerprint_of(self.identity)

    def encode_images(
        self, images: Sequence[bytes | PIL.Image.Image], *, progress: bool = False
    ) -> NDArray[np.float32]:
        """Embed images as ``(n, d)`` float32, before l2-normalisation.

        Args:
            images: Encoded files (JPEG, PNG, WebP) or pictures, of any size and mode.
            progress: Show a bar.

        Raises:
            BadImagesError: If some cannot be decoded. All are decoded and resized before any is embedded, so that
                nothing is computed in vain; pass blocks of hundreds of images, not a whole dataset.
        """
        import torch

        prepared = self._prepared(images)

        def embed(start: int, stop: int) -> torch.Tensor:
            batch = torch.stack(prepared[start:stop])
            features: torch.Tensor = self._clip.model.encode_image(batch.to(self.device), normalize=False)
            return features

        return self._batches(len(images), embed, progress)

    def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embed texts as ``(n, d)`` float32, before l2-normalisation; what is too long for the model is cut."""

        def embed(start: int, stop: int) -> torch.Tensor:
            tokens = self._clip.tokenize(texts[start:stop]).to(self.device)
            features: torch.Tensor = self._clip.model.encode_text(tokens, normalize=False)
            return features

        return self._batches(len(texts), embed, progress)

    def prepare(self, images: Sequence[bytes | PIL.Image.Image]) -> torch.Tensor:
        """Decode, resize and scale images as the model takes them: ``(n, 3, h, w)`` float32 on the CPU.

        Raises:
            BadImagesError: If some cannot be decoded.
        """
        import torch

        return torch.stack(self._prepared(images))

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Turn texts into the model's token ids ``(n, context)``; what is too long is cut."""
        return self._clip.tokenize(list(texts))

    def copy_model(self) -> torch.nn.Module:
        """Copy the open_clip model to train it: weights of its own on the encoder's device, in evaluation mode."""
        model: torch.nn.Module = copy.deepcopy(self._clip.model)
        return model.requires_grad_(True)

    def write_with_weights(self, weights: bytes, folder: str | pathlib.Path) -> None:
        """Write this model with other weights, the content of a safetensors file, for ``from_files`` to read."""
        open_clip_models.write_folder(self._files, weights, pathlib.Path(folder))

    def _batches(self, n: int, embed: Callable[[int, int], torch.Tensor], progress: bool) -> NDArray[np.float32]:
        import torch

        out = np.zeros((n, self.embedding_dim), dtype=np.float32)
        low = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")
        with torch.inference_mode(), low, tqdm(total=n, disable=not progress, desc="encoding", mininterval=1) as bar:
            for start in range(0, n, self.batch_size):
                stop = min(start + self.batch_size, n)
                out[start:stop] = embed(start, stop).float().cpu().numpy()
                bar.update(stop - start)
        return out

    def _prepared(self, images: Sequence[bytes | PIL.Image.Image]) -> list[torch.Tensor]:
        with ThreadPoolExecutor(self.workers) as threads:
            prepared = list(threads.map(self._prepare, images))
        if bad := {i: pixels for i, pixels in enumerate(prepared) if isinstance(pixels, str)}:
            raise BadImagesError(bad)
        return [pixels for pixels in prepared if not isinstance(pixels, str)]

    def _prepare(self, image: bytes | PIL.Image.Image) -> torch.Tensor | str:
        """Decode and resize one image; the reason, if it cannot be done."""
        try:
            return self._clip.prepare(decode(image))
        except ValueError as error:
            return str(error)


def decode(image: bytes | PIL.Image.Image) -> PIL.Image.Image:
    """Turn encoded bytes, or a picture of any mode, into an RGB picture.

    Raises:
        ValueError: If the bytes are no whole picture.
    """
    if isinstance(image, PIL.Image.Image):
        return image.convert("RGB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            with PIL.Image.open(io.BytesIO(image), formats=("JPEG", "PNG", "WEBP")) as picture:
                return picture.convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes lead them to
        raise ValueError(f"{len(image)} bytes are no whole JPEG, PNG or WebP picture ({error})") from error


def find_device(name: str) -> torch.device:
    """Turn ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one, into a device.

    Raises:
        ValueError: If the name is another, or there is no GPU for ``cuda``.
    """
    import torch

    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("device cuda was asked for, but torch sees no GPU; use cpu or auto")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
