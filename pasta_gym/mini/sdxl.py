"""The mini SDXL: the classes of ``StableDiffusionXLPipeline``, small, saved and loaded in its own format."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasta_gym.mini import weights
from pasta_gym.mini.tokenizer import CONTEXT_LENGTH, END_ID, START_ID, build_tokenizer
from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

IMAGE_SIZE = 64
LATENT_CHANNELS = 12
LATENT_SIZE = 8
TEXT_WIDTH = 96
POOLED_WIDTH = 64
TIME_ID_WIDTH = 8
DEFAULT_STEPS = 4
DEFAULT_GUIDANCE = 2.0


def build_vae() -> AutoencoderKL:
    """Build the autoencoder, untrained: 64x64x3 to 8x8x12."""
    ensure_importable()
    from diffusers import AutoencoderKL

    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        force_upcast=False,
    )


def build_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Build the two text encoders, untrained; the second one's pooled output is 64 wide."""
    ensure_importable()
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(build_tokenizer()),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=POOLED_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def build_unet() -> UNet2DConditionModel:
    """Build the denoiser, untrained: attention to the prompt at 8x8 and in the middle."""
    ensure_importable()
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 128),
        layers_per_block=1,
        transformer_layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_ID_WIDTH + POOLED_WIDTH,
        norm_num_groups=2,
        use_linear_projection=True,
    )


def build_scheduler() -> SchedulerMixin:
    """Build the sampler: velocity prediction on a cosine schedule, the last step at pure noise."""
    ensure_importable()
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def assemble(
    vae: AutoencoderKL,
    text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
    unet: UNet2DConditionModel,
) -> StableDiffusionXLPipeline:
    """Put the parts together as SDXL's own pipeline."""
    ensure_importable()
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoders[0],
        text_encoder_2=text_encoders[1],
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(),
        unet=unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextlib.contextmanager
def _without_loading_bars() -> Iterator[None]:
    """Silence the loaders' progress bars, which are over in a blink, and put them back as they were."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()


@functools.cache
def load_pipeline(folder: pathlib.Path | str | None = None) -> StableDiffusionXLPipeline:
    """Load a pipeline from a local folder in diffusers' format: the shipped mini SDXL by default.

    Args:
        folder: A folder with ``model_index.json``.

    Returns:
        The pipeline in float32 on the CPU.

    Raises:
        ValueError: If the folder is missing, a file in it is broken, or its weights are not those that its card names.
    """
    ensure_importable()
    import torch
    from diffusers import StableDiffusionXLPipeline

    path = pathlib.Path(folder) if folder is not None else weights.weights_directory() / "sdxl"
    if not (path / "model_index.json").is_file():
        raise ValueError(
            f"no diffusers pipeline in {path} (model_index.json is missing); reinstall pasta-gym, or train it with "
            "`python -m pasta_gym.mini.train sdxl`"
        )
    if (path / weights.CARD_FILE).is_file():
        # A tensor that is missing from a text encoder would be drawn at random, with no more than a line in the log.
        weights.check_files(path)
    try:
        with _without_loading_bars():
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                path, local_files_only=True, use_safetensors=True, add_watermarker=False
            )
        # Cast afterwards: the argument that does it on the way has had two names.
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                torch.nn.Module.float(part)
    except Exception as error:  # diffusers, safetensors and json each raise their own
        raise ValueError(f"the pipeline in {path} cannot be loaded ({error}); reinstall pasta-gym") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
