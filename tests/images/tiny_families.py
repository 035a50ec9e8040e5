"""Small pipelines of further families of diffusers, with random weights, made in memory."""

from __future__ import annotations

from pasta_gym.mini.tokenizer import build_tokenizer
from tests.images.tiny_pipelines import listen_to_prompts, quiet, tiny_clip_text, tiny_vae

_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}


def tiny_family(name):
    """Make ``cogview4``, ``z_image`` or ``stable_diffusion_3``."""
    with quiet():
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = {"cogview4": _cogview4, "z_image": _z_image, "stable_diffusion_3": _stable_diffusion_3}[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _cogview4():
    """It pads prompts to the longest of a batch, and its transformer looks at the padding."""
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import GlmConfig, GlmModel

    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    text = GlmConfig(vocab_size=len(tokenizer), num_key_value_heads=1, pad_token_id=0, **_TEXT)
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        pos_embed_max_size=16,
        sample_size=16,
        rope_axes_dim=(8, 8),
    )
    listen_to_prompts([transformer.patch_embed.text_proj], 10)
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=GlmModel(text).eval(),
        vae=tiny_vae(0.5),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75),
    )


def _z_image():
    """Its embeddings are lists, and its ``encode_prompt`` has no ``num_images_per_prompt``."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 8],
        axes_lens=[1024, 64, 64],
    )
    with torch.no_grad():
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            token.zero_()  # not set by diffusers, as weights are loaded
    listen_to_prompts([transformer.cap_embedder[1]], 10)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(0.5, 0.1),
        text_encoder=Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, **_TEXT)).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def _stable_diffusion_3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    tokenizer = build_tokenizer()
    t5 = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    listen_to_prompts([transformer.context_embedder, transformer.time_text_embed.text_embedder.linear_2], 10)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(0.5, 0.1),
        text_encoder=tiny_clip_text(tokenizer, projects=True),
        tokenizer=tokenizer,
        text_encoder_2=tiny_clip_text(tokenizer, projects=True),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(t5).eval(),
        tokenizer_3=tokenizer,
    )
