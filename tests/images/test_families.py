"""Families that read prompts with a language model or take a picture too, from folders of the real format."""

import functools
import json
import shutil

import diffusers
import numpy as np
import pytest

from pasta_gym.images import DiffusionImages
from pasta_gym.images.conditions import PromptConditions
from pasta_gym.images.pipelines import fetch_command, find_pipeline, load_pipeline, model_identity, paints_from_text
from pasta_gym.seeding import mix, seeds_for_torch
from tests.images.tiny_families import tiny_family
from tests.images.tiny_pipelines import (
    PROMPTS,
    WordyPrompts,
    distances,
    mean_color,
    quiet,
    require_own_pictures,
    tiny_config,
    write_tiny_stable_diffusion,
)

# The longest prompt has fewer than 150 tokens.
KINDS = {
    "flux2": {"guidance": 3.0, "max_sequence_length": 150},
    "flux2_klein": {"guidance": 3.0, "max_sequence_length": 150},
    "flux2_klein_kv": {"max_sequence_length": 150},
    "qwen_image": {"guidance": 3.0},
    "glm_image": {"guidance": 3.0, "height": 64, "width": 64},
}


class QuotedPrompts(WordyPrompts):
    """Texts that GLM-Image is to write into its pictures."""

    def texts(self, ids):
        return [f'"{text}"' for text in super().texts(ids)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Write a family to disk, once."""

    @functools.cache
    def folder(kind):
        with quiet():
            tiny_family(kind).save_pretrained(path := tmp_path_factory.mktemp(kind))
        return path

    return folder


def painter_of(kind, saved, **changes):
    with quiet():
        return DiffusionImages.load(
            tiny_config(saved(kind), **{**KINDS[kind], **changes}), WordyPrompts(), mean_color, 3
        )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("flux2", {}), ("flux2_klein", {}), ("flux2_klein_kv", {}), ("qwen_image", {}), ("qwen_image", {"guidance": 0.0})],
    ids=["flux2", "flux2-klein", "flux2-klein-kv", "qwen-image", "qwen-image-unguided"],
)
def test_a_picture_depends_on_its_own_prompt_and_key(kind, changes, saved):
    require_own_pictures(painter_of(kind, saved, **changes), PROMPTS)


def test_a_layout_by_a_language_model_depends_on_its_own_prompt_and_key(saved):
    """The pipeline draws it from torch's global generator, as the first picture of a batch says."""
    import torch

    painter = painter_of("glm_image", saved, steps=1, batch_size=5)
    painter.prompt_book = QuotedPrompts()
    keys = mix(np.arange(2)[:, None], np.arange(2))
    before = torch.random.get_rng_state()
    whole = painter.generate(PROMPTS[:2], keys).pixels
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(painter.generate(PROMPTS[1:2], keys[1:, 1:]).pixels[0, 0], whole[1, 1])
    assert distances(painter.generate(PROMPTS[:1], keys[1:, 1:]).pixels[0, 0], whole[1, 1]) > 1
    assert distances(whole[0, 0], whole[0, 1]) > 1
    assert painter.batch_size == 5  # nothing ran out of memory
    assert painter.settings["drawn_on"] == "cpu"


@pytest.mark.parametrize(
    ("kind", "negative"), [("flux2", []), ("flux2_klein", [""]), ("flux2_klein_kv", []), ("qwen_image", [" "])]
)
def test_each_prompt_is_encoded_once(kind, negative, saved, monkeypatch):
    painter = painter_of(kind, saved)
    asked = []
    own = type(painter.pipeline).encode_prompt

    def watched(*given, **named):  # the pipeline calls it too, with embeddings in place of a prompt
        if named.get("prompt_embeds") is None:
            asked.extend(named["prompt"])
        return own(painter.pipeline, *given, **named)

    monkeypatch.setattr(painter.pipeline, "encode_prompt", watched)
    painter.batch_size = 2
    for _ in range(2):
        painter.generate(PROMPTS[[0, 1, 0]], mix(np.arange(3)[:, None], np.arange(2)))
    assert sorted(asked) == sorted(painter.prompt_book.texts(PROMPTS[:2]) * 2 + negative)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("flux2", {"guidance_scale": 3.0, "max_sequence_length": 150}),
        ("flux2_klein", {"guidance_scale": 3.0, "max_sequence_length": 150}),
        ("flux2_klein_kv", {"max_sequence_length": 150}),
        ("qwen_image", {"true_cfg_scale": 3.0, "negative_prompt": " ", "max_sequence_length": 600}),
        ("glm_image", {"guidance_scale": 3.0}),
    ],
)
def test_a_family_paints_what_it_paints_from_texts(kind, named, saved):
    import torch

    length = named.get("max_sequence_length")
    painter = painter_of(kind, saved, max_sequence_length=length, steps=2)
    keys = mix(np.arange(2)[:, None], np.arange(1))
    painted = painter.generate(PROMPTS[1:], keys).pixels[:, 0]
    options = {"height": painter.height, "width": painter.width, "num_inference_steps": 2, "output_type": "np", **named}
    seeds = seeds_for_torch(keys)
    for prompt, seed, pixels in zip(painter.prompt_book.texts(PROMPTS[1:]), seeds, painted, strict=True):
        with torch.random.fork_rng(devices=[]):
            own = painter.pipeline(prompt=prompt, generator=torch.Generator().manual_seed(seed), **options).images[0]
        assert distances(np.rint(own * 255), pixels) < 0.1


def test_the_length_of_a_prompt_counts_where_embeddings_are_cut_again(saved):
    painter = painter_of("qwen_image", saved, max_sequence_length=9)
    assert painter._conditions.encode(["a fox"] * 2)["prompt_embeds"].shape[1] == 9
    long = painter_of("qwen_image", saved, max_sequence_length=700)
    encoded = long._conditions.encode(texts := ["a fox", "a fox in deep fog"])
    widths = [
        long._conditions.select(np.array(rows), texts, encoded)["prompt_embeds"].shape[1] for rows in ([0], [0, 1])
    ]
    assert widths[0] < widths[1] == encoded["prompt_embeds"].shape[1]  # no padding is painted with
    assert long._conditions.select(np.array([0]), ["a fox"], None)["max_sequence_length"] == 700


@pytest.mark.parametrize("kind", ["flux2", "flux2_klein", "qwen_image"])
def test_guidance_moves_pictures(kind, saved):
    keys = mix(np.zeros((1, 1), dtype=int))
    plain, weak, strong = (
        painter_of(kind, saved, guidance=guidance).generate(PROMPTS[:1], keys).pixels for guidance in (1.0, 2.0, 4.0)
    )
    for one, other in ((plain, weak), (weak, strong)):
        assert distances(one, other).min() > 0.5


def test_guidance_that_a_model_of_a_family_does_not_heed_is_refused():
    distilled, unguided, drafted = (tiny_family(kind) for kind in ("flux2_klein", "flux2", "qwen_image"))
    distilled.register_to_config(is_distilled=True)
    unguided.transformer.register_to_config(guidance_embeds=False)
    drafted.transformer.register_to_config(guidance_embeds=True)
    for pipeline in (distilled, unguided):
        name = type(pipeline).__name__
        with pytest.raises(ValueError, match=rf"guidance is 3\.0, but {name} with this model paints the same"):
            PromptConditions(pipeline, 3.0)
        assert PromptConditions(pipeline, 1.0).are_encoded
    given = PromptConditions(drafted, 3.0).select(np.array([0]), ["a fox"], None)
    assert given == {"prompt": ["a fox"], "guidance_scale": 3.0}


def test_a_size_that_a_pipeline_rounds_is_refused(saved):
    painter = painter_of("qwen_image", saved, height=32)
    painter.height = 34  # the pipeline rounds to a multiple of 4
    with pytest.raises(ValueError, match=r"QwenImagePipeline painted 32 x 32 pixels where 34 x 32 were asked for"):
        painter.generate(PROMPTS[:1], mix(np.zeros((1, 1), dtype=int)))


def test_pipelines_that_need_a_picture_are_refused(tmp_path):
    accepted = ["Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinKVPipeline", "GlmImagePipeline", "QwenImagePipeline"]
    refused = ["FluxImg2ImgPipeline", "FluxKontextPipeline", "Flux2KleinInpaintPipeline", "QwenImageEditPipeline"]
    with quiet():
        assert all(paints_from_text(getattr(diffusers, name)) for name in accepted)
        assert not any(paints_from_text(getattr(diffusers, name)) for name in refused)
    write_tiny_stable_diffusion(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "StableDiffusionImg2ImgPipeline"}))
    with (
        quiet(),
        pytest.raises(ValueError, match=r"StableDiffusionImg2ImgPipeline needs a picture, or .* unknown here"),
    ):
        load_pipeline(tiny_config(tmp_path))


def test_processors_and_chat_templates_are_files_of_a_pipeline(saved, tmp_path):
    folder = tmp_path / "flux2"
    shutil.copytree(saved("flux2"), folder)
    first = model_identity(tiny_config(folder))
    template = folder / "tokenizer" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert model_identity(tiny_config(folder))["revision"] != first["revision"]
    assert "--include '*/*.jinja'" in fetch_command(tiny_config("acme/flux2"))
    processor = folder / "tokenizer" / "processor_config.json"
    processor.rename(processor.with_name("preprocessor_config.json"))  # as older versions write it
    find_pipeline(tiny_config(folder))
    processor.with_name("preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks tokenizer/preprocessor_config\.json in"):
        find_pipeline(tiny_config(folder))
