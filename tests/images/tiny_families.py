"""Small pipelines of further families of diffusers, with random weights."""

from __future__ import annotations

from pasta_gym.mini.tokenizer import END_ID, START_ID, build_tokenizer
from tests.images.tiny_pipelines import listen_to_prompts, quiet, tiny_clip_text, tiny_vae

_TOKENS = {"bos_token_id": START_ID, "eos_token_id": END_ID, "pad_token_id": END_ID}
_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}


def tiny_family(name):
    """Make the pipeline of a name in ``FAMILIES`` in memory."""
    with quiet():
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = FAMILIES[name]()
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


def _flux2():
    """A multimodal language model reads the prompts; its processor could read pictures too."""
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralProcessor
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    text = {**_TEXT, "model_type": "mistral", "vocab_size": len(tokenizer), "num_key_value_heads": 1}
    vision = {"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = Mistral3Config(
        text_config={**text, "num_hidden_layers": 30},
        vision_config={**vision, "num_attention_heads": 1, "head_dim": 8, "image_size": 32, "patch_size": 16},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    # The last message is the prompt; the first says what the model is for.
    template = "{{ messages[-1]['content'][0]['text'] }}"
    processor = PixtralProcessor(PixtralImageProcessorPil(), tokenizer, chat_template=template)
    return Flux2Pipeline(
        text_encoder=Mistral3ForConditionalGeneration(config).eval(), tokenizer=processor, **_flux2_parts(guided=True)
    )


def _flux2_klein(*, is_distilled=False):
    from diffusers import Flux2KleinPipeline

    return Flux2KleinPipeline(is_distilled=is_distilled, **_klein_parts())


def _flux2_klein_kv():
    from diffusers import Flux2KleinKVPipeline

    return Flux2KleinKVPipeline(**_klein_parts())


def _klein_parts():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    text = {**_TEXT, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "num_hidden_layers": 28}
    model = Qwen3ForCausalLM(Qwen3Config(**text)).eval()
    return {"text_encoder": model, "tokenizer": tokenizer, **_flux2_parts(guided=False)}


def _flux2_parts(*, guided):
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,  # three layers of the language model
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guided,
    )
    attention = transformer.transformer_blocks[0].attn
    listen_to_prompts([transformer.context_embedder, attention.add_v_proj, attention.to_out[0]], 10)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
    )
    return {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler()}


def _qwen_image():
    """It pads prompts to the longest of a batch, and says where in a mask."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 1100
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    text = {**_TEXT, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "rope_parameters": rope, **_TOKENS}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_TOKENS)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    attention = transformer.transformer_blocks[0].attn
    listen_to_prompts([transformer.txt_in, attention.add_v_proj, attention.to_out[0]], 10)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return QwenImagePipeline(
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _glm_image():
    """A language model draws the layout of a picture from torch's global generator, seeded by the picture's own."""
    import transformers
    from diffusers import FlowMatchEulerDiscreteScheduler, GlmImagePipeline, GlmImageTransformer2DModel
    from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil

    marks = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    words = build_tokenizer()
    tokenizer = type(words)(vocab=words.get_vocab(), merges=words._merges, extra_special_tokens=marks)
    template = "{{ messages[0]['content'][0]['text'] }}"
    processor = transformers.GlmImageProcessor(GlmImageImageProcessorPil(), tokenizer, chat_template=template)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    text = {**_TEXT, **_TOKENS, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "rope_parameters": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "image_size": 32}
    config = transformers.GlmImageConfig(
        text_config={**text, "num_hidden_layers": 1, "vision_vocab_size": 66, "eos_token_id": None},
        vision_config=vision,
        vq_config={"embed_dim": 16, "latent_channels": 16, "num_embeddings": 64},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        image_start_token_id=64,
        image_end_token_id=65,
    )
    glyphs = transformers.ByT5Tokenizer()
    t5 = transformers.T5Config(vocab_size=len(glyphs), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=66,
    )
    # What a prompt has in quotes is read letter by letter.
    listen_to_prompts([transformer.glyph_projector.net[2], transformer.transformer_blocks[0].attn1.to_out[0]], 30)
    return GlmImagePipeline(
        tokenizer=glyphs,
        processor=processor,
        text_encoder=transformers.T5EncoderModel(t5).eval(),
        vision_language_encoder=transformers.GlmImageForConditionalGeneration(config).eval(),
        vae=tiny_vae(1.0, n_levels=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75),
    )


FAMILIES = {
    "cogview4": _cogview4,
    "z_image": _z_image,
    "stable_diffusion_3": _stable_diffusion_3,
    "flux2": _flux2,
    "flux2_klein": _flux2_klein,
    "flux2_klein_kv": _flux2_klein_kv,
    "qwen_image": _qwen_image,
    "glm_image": _glm_image,
}
