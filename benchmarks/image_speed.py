"""How fast pictures are painted: this package against plain diffusers, prompt by prompt.

python -m benchmarks.image_speed                          SDXL's full size with random weights, nothing to download
python -m benchmarks.image_speed --model sdxl-turbo       a preset whose files are here
python -m benchmarks.image_speed --compile                ours compiled, with filled batches; plain diffusers as it is
python -m benchmarks.image_speed --clip openai            times embedding with ViT-L/14 too, whose files are here
python -m benchmarks.image_speed --model mini --repeats 3

Weights do not change the time of painting, so random ones of the right shapes will do. They do change that of keeping
pictures, as noise is hard to compress. One line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL.Image

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.images import PRESETS, DiffusionImages, ImageCache
from pasta_gym.images.image_cache import CachedImage, image_key
from pasta_gym.images.pipelines import channels_last, compile_denoiser, load_pipeline
from pasta_gym.seeding import mix, seeds_for_torch
from pasta_gym.torchvision_ops import ensure_importable
from pasta_gym.types import FloatArray, ImageArray, IntArray, UInt64Array

RANDOM_SDXL, MINI = "random-sdxl", "mini"
TURNS, SLATE_SIZE, IMAGES_PER_PROMPT = 5, 4, 4
PICTURES_PER_TRAJECTORY = IMAGES_PER_PROMPT * (1 + TURNS * SLATE_SIZE)
"""The initial prompt's and every slate's, with the paper's sizes: 84."""


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        model: What painted.
        device: The GPU's name, or ``cpu``.
        dtype: Precision.
        size: Height and width of a picture in pixels.
        steps: Denoising steps.
        compiled: Whether our way had a compiled denoiser; the plain one never has.
        batch_size: Pictures painted at once, after any halving.
        pictures: Painted in each repeat.
        seconds_per_picture: Fastest repeat.
        seconds_per_picture_plain: Of plain diffusers, one call a prompt.
        seconds_per_picture_embedded: From pixels on the CPU to its embedding there; None without a CLIP.
        seconds_per_picture_kept: Compressed and written into a cache on this disk, a call's pictures together.
        seconds_per_turn: 16 pictures, painted.
        hours_per_1000_trajectories: 84,000 pictures, without candidates and embeddings.
        peak_gigabytes: Most GPU memory in use, in 10^9 bytes.
    """

    model: str
    device: str
    dtype: str
    size: int
    steps: int
    compiled: bool
    batch_size: int
    pictures: int
    seconds_per_picture: float
    seconds_per_picture_plain: float
    seconds_per_picture_embedded: float | None
    seconds_per_picture_kept: float
    seconds_per_turn: float
    hours_per_1000_trajectories: float
    peak_gigabytes: float


class NumberedPrompts:
    """A prompt book of as many prompts as one likes."""

    def texts(self, ids: IntArray) -> list[str]:
        """Write ids out in words."""
        return [f"a castle by the sea at sunset, watercolor, number {i}" for i in ids]

    def keys(self, ids: IntArray) -> UInt64Array:
        """Return a random key for each id."""
        return mix(ids)

    def parse(self, text: str) -> int:
        """Refuse: nobody types these."""
        raise ValueError(f"numbered prompts are not read back, got {text!r}")


def random_sdxl(dtype: str, device: str) -> Any:
    """Build Stable Diffusion XL in its published shapes, with random weights."""
    ensure_importable()
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from pasta_gym.mini.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 77
    small = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    large = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=1024,
            scaling_factor=0.13025,
        )
        encoders = CLIPTextModel(small), CLIPTextModelWithProjection(large)
    vae.enable_slicing()
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    channels_last(pipeline)  # as load_pipeline does
    return pipeline.to(device, getattr(torch, dtype))


def paint_plainly(painter: DiffusionImages, prompts: IntArray, keys: UInt64Array) -> list[ImageArray]:
    """Paint the same pictures with the painter's pipeline alone, as its page shows it: one call a prompt.

    Args:
        painter: Whose pipeline, size, steps, guidance and longest prompt count.
        prompts: ``(N,)`` prompt ids.
        keys: ``(N, M)`` random keys.

    Returns:
        Pixels ``(M, height, width, 3)`` in 0..1 for each prompt.
    """
    import torch

    length = painter.max_sequence_length
    pictures = []
    for text, row in zip(painter.prompt_book.texts(prompts), keys, strict=True):
        output = painter.pipeline(
            text,
            height=painter.height,
            width=painter.width,
            num_inference_steps=painter.steps,
            guidance_scale=painter.guidance,
            num_images_per_prompt=len(row),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds_for_torch(row)],
            output_type="np",
            **({} if length is None else {"max_sequence_length": length}),
        )
        pictures.append(np.asarray(output.images))
    return pictures


def measure(
    name: str,
    pipeline: Any,
    *,
    size: int,
    steps: int,
    guidance: float,
    batch_size: int,
    n_prompts: int,
    repeats: int,
    max_sequence_length: int | None = None,
    compiled: bool = False,
    encoder: ClipEncoder | None = None,
) -> Speed:
    """Time both ways on the same prompts and seeds, the plain one first: what is compiled then stays so.

    Then the pictures are embedded, with an ``encoder``, and kept.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    painter = DiffusionImages(
        pipeline,
        NumberedPrompts(),
        _no_embedding,
        1,
        size=size,
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
        max_sequence_length=max_sequence_length,
        fill_batches=compiled,
    )
    prompts = np.arange(n_prompts)
    keys = mix(prompts[:, None], np.arange(IMAGES_PER_PROMPT))

    plain = _fastest(lambda: paint_plainly(painter, prompts, keys), repeats) / keys.size
    if compiled:
        compile_denoiser(pipeline)
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = _fastest(lambda: painter.generate(prompts, keys), repeats) / keys.size
    peak = torch.cuda.max_memory_allocated() / 1e9 if has_gpu else 0.0
    pixels = np.asarray(painter.generate(prompts, keys).pixels).reshape(keys.size, size, size, 3)
    embedded = None
    if encoder is not None:
        embedded = (
            _fastest(lambda: encoder.encode_images([PIL.Image.fromarray(p) for p in pixels]), repeats) / keys.size
        )
    return Speed(
        model=name,
        device=torch.cuda.get_device_name() if has_gpu else "cpu",
        dtype=painter.settings["dtype"],
        size=size,
        steps=steps,
        compiled=compiled,
        batch_size=painter.batch_size,
        pictures=keys.size,
        seconds_per_picture=round(seconds, 4),
        seconds_per_picture_plain=round(plain, 4),
        seconds_per_picture_embedded=None if embedded is None else round(embedded, 4),
        seconds_per_picture_kept=round(_fastest(lambda: _keep(pixels), repeats) / keys.size, 4),
        seconds_per_turn=round(seconds * SLATE_SIZE * IMAGES_PER_PROMPT, 3),
        hours_per_1000_trajectories=round(seconds * PICTURES_PER_TRAJECTORY * 1000 / 3600, 2),
        peak_gigabytes=round(peak, 2),
    )


def _fastest(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of so many runs, after one that warms up."""
    import torch

    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _keep(pixels: ImageArray) -> None:
    embeddings = {"clip": np.zeros(768, dtype=np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        ImageCache(folder).put_all(
            [(image_key({}, "", i), CachedImage(picture, embeddings), {}) for i, picture in enumerate(pixels)]
        )


def _clip_of(name: str | None, model: str) -> ClipEncoder | None:
    """The CLIP that is asked for; the mini world's beside its pictures."""
    if name is None:
        return ClipEncoder.mini() if model == MINI else None
    return ClipEncoder.pretrained() if name == "openai" else ClipEncoder.from_files(name)


def _no_embedding(pixels: ImageArray) -> FloatArray:
    return np.zeros((len(pixels), 1), dtype=np.float32)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_speed", description=__doc__)
    parser.add_argument("--model", default=RANDOM_SDXL, choices=(RANDOM_SDXL, MINI, *PRESETS))
    parser.add_argument("--prompts", type=int, default=4, help="distinct prompts; four pictures of each")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="float16", help="of random weights")
    parser.add_argument("--compile", action="store_true", help="compile the denoiser for our way: minutes at first")
    parser.add_argument("--clip", help="embed with it too: 'openai' (ViT-L/14, in the hub's cache) or a folder")
    given = parser.parse_args(arguments)
    for count in ("prompts", "batch_size", "repeats"):
        if getattr(given, count) < 1:
            raise ValueError(f"{count} must be at least 1, got {getattr(given, count)}")
    encoder = _clip_of(given.clip, given.model)
    shape: dict[str, Any] = {"size": 1024, "steps": 30, "guidance": 5.0}
    if given.model == MINI:
        from pasta_gym.mini import sdxl

        pipeline: Any = sdxl.load_pipeline()
        shape = {"size": sdxl.IMAGE_SIZE, "steps": sdxl.DEFAULT_STEPS, "guidance": sdxl.DEFAULT_GUIDANCE}
    elif given.model == RANDOM_SDXL:
        import torch

        if not torch.cuda.is_available():
            parser.error("full size needs a GPU; try --model mini")
        pipeline = random_sdxl(given.dtype, "cuda")
    else:
        config = PRESETS[given.model]
        pipeline = load_pipeline(config)
        shape = {"size": config.height, "steps": config.steps, "guidance": config.guidance}
        shape["max_sequence_length"] = config.max_sequence_length
    speed = measure(
        given.model,
        pipeline,
        batch_size=given.batch_size,
        n_prompts=given.prompts,
        repeats=given.repeats,
        compiled=given.compile,
        encoder=encoder,
        **shape,
    )
    sys.stdout.write(json.dumps(asdict(speed)) + "\n")


if __name__ == "__main__":
    main()
