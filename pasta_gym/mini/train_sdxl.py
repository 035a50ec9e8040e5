"""Trains the mini SDXL's text encoders, then its denoiser, on paintings seen through the autoencoder."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from pasta_gym.files import whole_file
from pasta_gym.mini import grammar, sdxl
from pasta_gym.mini.tokenizer import build_tokenizer, tokenize
from pasta_gym.mini.training_data import PaintedSet, painted_set, to_unit
from pasta_gym.mini.training_loop import LoopConfig, optimise, weights_key

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

TEXT_BATCH = 256
TEXT_DEFAULTS = LoopConfig(steps=320, learning_rate=2e-3, warmup=50, ema=0.98, seed=404)
UNET_BATCH = 64
UNET_DEFAULTS = LoopConfig(steps=4500, learning_rate=1e-3, warmup=200, ema=0.999, seed=505, checkpoint_every=250)
PROMPT_DROPOUT = 0.1
PAINTED: tuple[tuple[int, int], ...] = ((40_000, 1), (40_000, 2))  # (how many, seed)
TIME_IDS = (64.0, 64.0, 0.0, 0.0, 64.0, 64.0)

TextEncoders = tuple["CLIPTextModel", "CLIPTextModelWithProjection"]


def encode(encoders: TextEncoders, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode tokens ``(n, 24)`` as the SDXL pipeline does: ``(n, 24, 192)`` hidden states, ``(n, 64)`` pooled."""
    first = encoders[0](tokens, output_hidden_states=True)
    second = encoders[1](tokens, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def train_text(
    run: pathlib.Path, config: LoopConfig = TEXT_DEFAULTS, start: TextEncoders | None = None
) -> TextEncoders:
    """Teach both text encoders what a prompt says: each slot's value, read linearly from what the denoiser gets.

    Args:
        run: Folder of checkpoints and the log.
        config: Length, rate, seed.
        start: Encoders to go on from; fresh ones if None.

    Returns:
        The trained encoders.
    """
    torch.manual_seed(config.seed)
    encoders = start or sdxl.build_text_encoders()
    n_out = sum(grammar.CARDINALITIES)
    pooled_head, token_head = nn.Linear(sdxl.POOLED_WIDTH, n_out), nn.Linear(2 * sdxl.TEXT_WIDTH, n_out)
    module = nn.ModuleList([*encoders, pooled_head, token_head])
    tokenizer = build_tokenizer()

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        values = grammar.sample_values(TEXT_BATCH, rng, set_probability=float(rng.uniform(0.2, 1.0)))
        ids = grammar.prompt_ids(values, rng.integers(0, grammar.N_PHRASINGS, len(values)))
        hidden, pooled = encode(encoders, tokenize(tokenizer, grammar.prompt_texts(ids)))
        targets = torch.from_numpy(values)
        loss = torch.zeros(())
        for logits in (pooled_head(pooled), token_head(hidden.mean(dim=1))):
            for s, part in enumerate(logits.split(grammar.CARDINALITIES, dim=-1)):
                loss = loss + functional.cross_entropy(part, targets[:, s])
        # Unit scale: the denoiser should not have to learn the size of what it is told.
        scale = (pooled.square().mean() - 1).square() + (hidden.square().mean() - 1).square()
        return {"loss": loss + 0.1 * scale, "scale": scale.detach()}

    optimise("text encoders", module, step, config, run)
    return encoders


def encode_latents(vae: AutoencoderKL, data: PaintedSet, path: pathlib.Path) -> NDArray[np.float32]:
    """Encode paintings as latent means ``(n, 12, 8, 8)``, kept at ``path`` once made."""
    if not path.exists():
        out = np.zeros((len(data), sdxl.LATENT_CHANNELS, sdxl.LATENT_SIZE, sdxl.LATENT_SIZE), dtype=np.float32)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for i in tqdm(range(0, len(data), 64), desc="encoding", mininterval=5):
                x = torch.from_numpy(to_unit(data.images[i : i + 64])).to(memory_format=torch.channels_last)
                out[i : i + 64] = vae.encode(x).latent_dist.mean.float().numpy()
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, out)
    latents: NDArray[np.float32] = np.load(path)
    return latents


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold a shift and scale of the latents ``(12,)`` into the autoencoder, so that they are standardised.

    SDXL's pipeline has room for one scaling factor only; the 1x1 convolutions around the latents can hold the rest.
    """
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]


def train_unet(
    run: pathlib.Path,
    vae: AutoencoderKL,
    encoders: TextEncoders,
    config: LoopConfig = UNET_DEFAULTS,
    start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """Fit the denoiser by velocity prediction; one prompt in ten is dropped, for classifier-free guidance.

    Args:
        run: Folder of latents, checkpoints and the log.
        vae: The trained autoencoder; its latents are standardised in place, by what they are on the paintings.
        encoders: The trained text encoders, frozen.
        config: Length, rate, seed.
        start: Weights to go on from; a fresh model if None.

    Returns:
        The trained denoiser.
    """
    torch.manual_seed(config.seed)
    run.mkdir(parents=True, exist_ok=True)
    sets = [painted_set(n, seed) for n, seed in PAINTED]
    vae.eval()
    seen_by = weights_key(vae)
    latents = torch.from_numpy(
        np.concatenate([encode_latents(vae, s, run / f"latents-{i}-{seen_by}.npy") for i, s in enumerate(sets)])
    )
    said = np.concatenate([s.said for s in sets])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    standardise_latents(vae, mean, std)
    latents = (latents - mean[:, None, None]) / std[:, None, None]
    unet = (start or sdxl.build_unet()).to(memory_format=torch.channels_last).train()
    use_plain_attention(unet)
    alphas = sdxl.build_scheduler().alphas_cumprod
    tokenizer = build_tokenizer()
    for encoder in encoders:
        encoder.eval()
    time_ids = torch.tensor([TIME_IDS] * UNET_BATCH)

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(latents), (UNET_BATCH,), generator=generator)
        phrasing = torch.randint(grammar.N_PHRASINGS, (UNET_BATCH,), generator=generator).numpy()
        texts = grammar.prompt_texts(grammar.prompt_ids(said[rows.numpy()], phrasing))
        with torch.no_grad():
            hidden, pooled = encode(encoders, tokenize(tokenizer, texts))
        kept = (torch.rand(UNET_BATCH, generator=generator) >= PROMPT_DROPOUT).float()
        hidden, pooled = hidden * kept[:, None, None], pooled * kept[:, None]
        x = latents[rows]
        noise = torch.randn(x.shape, generator=generator)
        # Stratified: every batch sees every noise level.
        t = ((torch.arange(UNET_BATCH) + torch.rand(UNET_BATCH, generator=generator)) / UNET_BATCH * 1000).long()
        a = alphas[t].sqrt()[:, None, None, None]
        s = (1 - alphas[t]).sqrt()[:, None, None, None]
        noisy = (a * x + s * noise).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            added = {"text_embeds": pooled, "time_ids": time_ids}
            predicted = unet(noisy, t, hidden, added_cond_kwargs=added).sample
        loss = functional.mse_loss(predicted.float(), a * noise - s * x)
        return {"loss": loss}

    spoken = [tensor for encoder in encoders for tensor in encoder.state_dict().values()]
    optimise("denoiser", unet, step, config, run, data=(latents, *spoken))
    return unet.eval()


def use_plain_attention(unet: UNet2DConditionModel) -> None:
    """Attend by plain matrix products: with a few dozen tokens the fused kernel's backward pass is slower."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())
