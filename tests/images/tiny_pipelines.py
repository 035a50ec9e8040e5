"""Pipelines of the real classes, a few thousand weights small, written to disk as save_pretrained writes them."""

import contextlib
import pathlib

import numpy as np

from pasta_gym.images import DiffusionModelConfig
from pasta_gym.mini import grammar
from pasta_gym.mini.tokenizer import END_ID, START_ID, build_tokenizer
from pasta_gym.mini.weights import weights_directory
from pasta_gym.seeding import mix
from pasta_gym.torchvision_ops import ensure_importable
from pasta_gym.worlds import GrammarPromptBook

PROMPTS = grammar.initial_prompt_ids("train")[:3]


def mean_color(pixels):
    return pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)


class WordyPrompts(GrammarPromptBook):
    """Prompts of one, four and seven sentences: of other lengths in tokens, however they are padded."""

    def texts(self, ids):
        n = {int(id_): 3 * i + 1 for i, id_ in enumerate(PROMPTS)}
        return [" ".join([text] * n[int(id_)]) for id_, text in zip(ids, super().texts(ids), strict=True)]


@contextlib.contextmanager
def quiet():
    """Without the progress bars of the libraries."""
    ensure_importable()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for log in (diffusers_logging, transformers_logging):
        log.disable_progress_bar()
    yield


def tiny_vae(scaling_factor, shift_factor=None, n_levels=2, **changes):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n_levels,
        up_block_types=("UpDecoderBlock2D",) * n_levels,
        block_out_channels=(8,) * n_levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        **changes,
    )


def tiny_clip_text(tokenizer, *, projects=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


def listen_to_prompts(layers, factor):
    """Enlarge the weights through which a prompt comes in: random ones hardly move a picture from prompt to prompt."""
    import torch

    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(factor)


def write_tiny_flux(folder):
    """Write a Flux pipeline with random weights for pictures of 32 x 32 pixels."""
    with quiet():
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
        from transformers import T5Config, T5EncoderModel

        tokenizer = build_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = FluxPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(),
                vae=tiny_vae(0.5, 0.1),
                text_encoder=tiny_clip_text(tokenizer),
                tokenizer=tokenizer,
                text_encoder_2=T5EncoderModel(
                    T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
                ),
                tokenizer_2=tokenizer,
                transformer=FluxTransformer2DModel(
                    in_channels=16,
                    num_layers=1,
                    num_single_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=16,
                    pooled_projection_dim=16,
                    axes_dims_rope=(4, 4, 8),
                ),
            )
        transformer = pipeline.transformer
        listen_to_prompts([transformer.context_embedder, transformer.time_text_embed.text_embedder.linear_2], 10)
        pipeline.save_pretrained(folder)


def write_tiny_stable_diffusion(folder):
    """Write a Stable Diffusion 1 pipeline with random weights for pictures of 32 x 32 pixels."""
    with quiet():
        import torch
        from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

        tokenizer = build_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = StableDiffusionPipeline(
                vae=tiny_vae(0.5),
                text_encoder=tiny_clip_text(tokenizer),
                tokenizer=tokenizer,
                unet=UNet2DConditionModel(
                    sample_size=16,
                    down_block_types=("CrossAttnDownBlock2D",),
                    up_block_types=("CrossAttnUpBlock2D",),
                    block_out_channels=(16,),
                    layers_per_block=1,
                    attention_head_dim=2,
                    cross_attention_dim=16,
                    norm_num_groups=2,
                ),
                scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        layers = dict(pipeline.unet.named_modules())
        listen_to_prompts([layers[name] for name in layers if name.endswith(("attn2.to_q", "attn2.to_v"))], 10)
        listen_to_prompts([layers[name] for name in layers if name.endswith("attn2.to_out.0")], 10)
        pipeline.save_pretrained(folder)


def distances(pictures, others):
    """Mean absolute difference of each pair of pictures, in levels of 256."""
    return np.abs(pictures.astype(float) - others).mean(axis=(-3, -2, -1))


def require_own_pictures(painter, prompts):
    """Require that a picture depends on its own prompt and key alone, for three prompts."""
    keys = mix(np.arange(3)[:, None], np.arange(2))
    painter.batch_size = 4
    whole = painter.generate(prompts, keys).pixels
    size = painter.height
    assert whole.shape == (3, 2, size, size, 3)
    painter.batch_size = 1
    alone = painter.generate(prompts[1:2], keys[1:2]).pixels[0]
    painter.batch_size = 2  # texts are encoded two by two as well
    again = painter.generate(prompts[::-1], keys[::-1]).pixels[::-1]
    painter.batch_size = 1
    other_key = painter.generate(prompts[1:2], keys[:1]).pixels[0]
    other_prompts = [painter.generate(prompts[[i]], keys[1:2]).pixels[0] for i in (0, 2)]
    assert distances(other_key, alone).min() > 1
    unlike = min(distances(pictures, alone).min() for pictures in other_prompts)
    assert unlike > 0.5
    # Another batch adds in another order, which a few steps with random weights blow up, but to no other prompt.
    assert distances(alone, whole[1]).max() < 0.3 * unlike
    assert distances(again, whole).max() < 0.3 * unlike


def sdxl_config(**changes):
    """The mini world's SDXL, which is a folder of the real format."""
    fields = {"steps": 2, "guidance": 2.0, "height": 64, "width": 64, "device": "cpu", **changes}
    return DiffusionModelConfig(str(weights_directory() / "sdxl"), **fields)


def tiny_config(folder: pathlib.Path, **changes):
    fields = {"steps": 2, "guidance": 0.0, "height": 32, "width": 32, "device": "cpu", **changes}
    return DiffusionModelConfig(str(folder), **fields)
