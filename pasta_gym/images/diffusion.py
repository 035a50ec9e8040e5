"""Paints prompts with any diffusers text-to-image pipeline and embeds the pictures."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pasta_gym.images.batches import work_in_batches
from pasta_gym.images.conditions import Encoded, PromptConditions, joined
from pasta_gym.images.model_config import DiffusionModelConfig
from pasta_gym.images.recovery import Recovery
from pasta_gym.seeding import seeds_for_torch
from pasta_gym.types import FloatArray, ImageArray, ImageEmbedder, Images, IntArray, PromptBook, UInt64Array

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH_SIZE = 16

Keep: TypeAlias = Callable[[int, ImageArray, FloatArray], None]
"""Is given a painted batch: number of its first picture, pixels ``(n, height, width, 3)``, embeddings ``(n, d)``."""


class DiffusionImages:
    """An image generator around a diffusers pipeline.

    Every picture has a ``torch.Generator`` of its own on the CPU, seeded by its key: its first latents and the noise
    that a scheduler adds on the way come from there. So what it shows does not depend on the batch it was painted in
    (up to rounding: a GPU may add in another order in another batch), nor on the device. Stable Diffusion, SDXL,
    Stable Diffusion 3, Flux, Flux 2 and Qwen-Image get prompts encoded once for each distinct prompt of a call. Others
    get the texts, and batches of one prompt each, as many pad a batch's prompts to the longest. GLM-Image is given one
    picture at a time, and its language model draws a layout on the device, so another kind of device paints another.

    Args:
        pipeline: A diffusers text-to-image pipeline, on its device.
        prompt_book: Writes ids out in words.
        encode_images: Embeds the pictures.
        embedding_dim: Width d of its embeddings.
        size: Height and width of the pictures in pixels; one number for both.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale.
        batch_size: Pictures painted at once. It shrinks, with a warning, when they do not fit the memory.
        max_sequence_length: Longest prompt in tokens, for pipelines that let one choose.
        fill_batches: Fill up the last batch with copies, for compiled pipelines: another shape would be compiled anew.

    Attributes:
        encoder_sha256: Hash of the encoder of the embeddings, if whoever builds this knows it.

    Raises:
        ValueError: If steps, size or batch_size is under 1, the pipeline has no ``max_sequence_length``, or guidance is
            above 1 and has no effect on its pictures.
    """

    def __init__(
        self,
        pipeline: Any,
        prompt_book: PromptBook,
        encode_images: ImageEmbedder,
        embedding_dim: int,
        *,
        size: int | tuple[int, int],
        steps: int,
        guidance: float,
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_sequence_length: int | None = None,
        fill_batches: bool = False,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        for name, number in (("steps", steps), ("batch_size", batch_size), ("size", min(height, width))):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.pipeline = pipeline
        self.prompt_book = prompt_book
        self.encode_images = encode_images
        self.embedding_dim = embedding_dim
        self.height, self.width = height, width
        self.steps = steps
        self.guidance = guidance
        self.encoder_sha256: str | None = None
        self.batch_size = batch_size
        self.max_sequence_length = max_sequence_length
        self.fill_batches = fill_batches
        self._conditions = PromptConditions(pipeline, guidance, max_sequence_length)
        self._recovery = Recovery(pipeline)

    @classmethod
    def load(
        cls, config: DiffusionModelConfig, prompt_book: PromptBook, encode_images: ImageEmbedder, embedding_dim: int
    ) -> DiffusionImages:
        """Load a pipeline and put it behind a generator.

        Raises:
            ValueError: If the pipeline cannot be loaded; missing files are named, with the command that fetches them.
        """
        from pasta_gym.images.pipelines import load_pipeline

        return cls(
            load_pipeline(config),
            prompt_book,
            encode_images,
            embedding_dim,
            size=(config.height, config.width),
            steps=config.steps,
            guidance=config.guidance,
            batch_size=config.batch_size,
            max_sequence_length=config.max_sequence_length,
            fill_batches=config.compile,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What a picture depends on beside the model's weights, its prompt and its key, as plain data."""
        scheduler = getattr(self.pipeline, "scheduler", None)
        options = dict(getattr(scheduler, "config", {}))
        return {
            "scheduler": type(scheduler).__name__,
            "scheduler_options": {k: str(v) for k, v in sorted(options.items()) if not k.startswith("_")},
            "steps": self.steps,
            "guidance": float(self.guidance),
            "height": self.height,
            "width": self.width,
            "dtype": str(getattr(self.pipeline, "dtype", "unknown")).removeprefix("torch."),
            "max_sequence_length": self.max_sequence_length,
            **({"drawn_on": self.pipeline._execution_device.type} if self._conditions.seeds_torch else {}),
        }

    def generate(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts.

        Args:
            prompts: ``(N,)`` prompt ids.
            keys: ``(N, M)`` random keys.

        Returns:
            Pixels ``(N, M, height, width, 3)`` uint8 and their embeddings ``(N, M, d)`` float32.

        Raises:
            RuntimeError: If one picture alone does not fit the memory, or the scheduler draws from torch's global
                generator.
            ValueError: If the pipeline paints values that are no numbers, or another size than was asked for.
        """
        keys = np.asarray(keys, dtype=np.uint64)
        pixels = self._painted(prompts, keys, None)
        embeddings = np.zeros((keys.size, self.embedding_dim), dtype=np.float32)

        def embed(chunk: slice) -> None:
            embeddings[chunk] = self.encode_images(pixels[chunk])

        # All at once where they fit: an embedding's last digits depend on its batch, and seeded rollouts must not move.
        work_in_batches(keys.size, max(keys.size, 1), embed)
        return Images(
            embeddings.reshape(*keys.shape, self.embedding_dim), pixels.reshape(*keys.shape, *pixels.shape[1:])
        )

    def generate_and_keep(self, prompts: IntArray, keys: UInt64Array, keep: Keep) -> None:
        """Paint prompts and embed each painted batch before the next: what was kept is not lost if a later one fails.

        Args:
            prompts: ``(N,)`` prompt ids.
            keys: ``(N, M)`` random keys.
            keep: Is given every batch in turn.

        Raises:
            RuntimeError: As ``generate``.
            ValueError: As ``generate``.
        """
        self._painted(prompts, np.asarray(keys, dtype=np.uint64), keep)

    def _painted(self, prompts: IntArray, keys: UInt64Array, keep: Keep | None) -> ImageArray:
        """Paint all pixels ``(N * M, height, width, 3)``; with ``keep`` each batch is embedded and handed over too."""
        n_images = keys.size
        distinct, positions = np.unique(np.asarray(prompts, dtype=np.int64), return_inverse=True)
        rows = np.repeat(positions.reshape(-1), keys.shape[1])
        texts = self.prompt_book.texts(distinct)
        encoded = self._encode(texts) if self._conditions.are_encoded and texts else None
        seeds = seeds_for_torch(keys)
        pixels = np.zeros((n_images, self.height, self.width, 3), dtype=np.uint8)

        def paint(stretch: slice, chunk: slice) -> None:
            size = chunk.stop - chunk.start  # of what is painted, which may be more than is wanted
            part = slice(stretch.start + chunk.start, min(stretch.start + chunk.stop, stretch.stop))
            pixels[part] = self._paint(rows[part], texts, encoded, seeds[part], size)
            if keep is not None:
                embeddings = np.asarray(self.encode_images(pixels[part]), dtype=np.float32)
                keep(part.start, pixels[part], embeddings)

        alone = [] if self._conditions.are_encoded else _stretches(rows)
        # A prompt alone is filled up to the pictures of the one that has most.
        longest = max((stretch.stop - stretch.start for stretch in alone), default=self.batch_size)
        for stretch in alone or [slice(0, n_images)]:
            work = functools.partial(paint, stretch)
            size = 1 if self._conditions.seeds_torch else min(self.batch_size, longest)
            fitting = work_in_batches(stretch.stop - stretch.start, size, work, fill=self.fill_batches)
            if fitting < size:
                self.batch_size = fitting
        return pixels

    def _encode(self, texts: list[str]) -> Encoded:
        """Encode each text once."""
        parts: list[Encoded] = []

        def encode(chunk: slice) -> None:
            with self._recovery.watching():
                parts.append(self._conditions.encode(texts[chunk]))

        work_in_batches(len(texts), self.batch_size, encode, what="prompt")
        return joined(parts)

    def _paint(
        self, rows: IntArray, texts: list[str], encoded: Encoded | None, seeds: list[int], size: int
    ) -> ImageArray:
        """Paint one batch: the texts at ``rows (n,)`` with seeds ``(n,)``, as ``(n, height, width, 3)`` uint8.

        It is filled up to ``size`` with copies.
        """
        import torch

        n = len(rows)
        if n < size:
            copies = np.arange(size) % n
            rows, seeds = rows[copies], [seeds[i] for i in copies]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        before = _global_states()
        lent = _lent_generators() if self._conditions.seeds_torch else contextlib.nullcontext()
        with self._recovery.watching(), lent:
            output = self.pipeline(
                **self._conditions.select(rows, texts, encoded),
                height=self.height,
                width=self.width,
                num_inference_steps=self.steps,
                generator=generators,
                output_type="np",
            )
        if any(not torch.equal(old, new) for old, new in zip(before, _global_states(), strict=True)):
            raise RuntimeError(
                f"{type(getattr(self.pipeline, 'scheduler', None)).__name__} draws from torch's global generator, so a "
                "picture would depend on what was painted before it; choose another scheduler"
            )
        painted = np.asarray(output.images)[:n]
        if painted.shape[1:3] != (self.height, self.width):
            raise ValueError(
                f"{type(self.pipeline).__name__} painted {painted.shape[1]} x {painted.shape[2]} pixels where "
                f"{self.height} x {self.width} were asked for; use a multiple of what it rounds to, 16 or 32 in most"
            )
        if not np.isfinite(painted).all():
            raise ValueError(
                f"the pipeline painted values that are no numbers in {self.settings['dtype']}; use dtype='bfloat16' "
                "or 'float32', or an autoencoder made for float16"
            )
        whole: ImageArray = np.rint(np.clip(painted, 0, 1) * 255).astype(np.uint8)
        return whole


def _stretches(rows: IntArray) -> list[slice]:
    """Cut rows ``(n,)`` where they change."""
    cuts = np.flatnonzero(np.diff(rows)) + 1
    return [slice(a, b) for a, b in itertools.pairwise([0, *cuts.tolist(), len(rows)])]


def _lent_generators() -> contextlib.AbstractContextManager[None]:
    """Give torch's global generators back as they were, of all GPUs that are in use."""
    import torch

    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else [])


def _global_states() -> list[torch.Tensor]:
    """The states of torch's global generators, to see whether somebody drew from them."""
    import torch

    states = [torch.random.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states
