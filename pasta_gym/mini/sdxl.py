"""The mini SDXL: the classes of ``StableDiffusionXLPipeline``, small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasta_gym.torchvision_ops import ensure_importable

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LATENT_CHANNELS = 12
LATENT_SIZE = 8
VAE_CHANNELS = (16, 32, 64, 96)


def build_vae() -> AutoencoderKL:
    """Build the autoencoder, untrained: 64x64x3 to 8x8x12."""
    ensure_importable()
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(VAE_CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(VAE_CHANNELS),
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
