import json
import shutil
import types

import numpy as np
import pytest

from pasta_gym.images import DiffusionImages
from pasta_gym.images.conditions import PromptConditions, returned_embeddings
from pasta_gym.images.model_config import DiffusionModelConfig, diffusion_preset
from pasta_gym.images.pipelines import fetch_command, find_pipeline, load_pipeline, model_identity
from pasta_gym.seeding import mix
from pasta_gym.worlds import GrammarPromptBook
from tests.images.tiny_families import tiny_family
from tests.images.tiny_pipelines import (
    PROMPTS,
    WordyPrompts,
    mean_color,
    quiet,
    require_own_pictures,
    sdxl_config,
    tiny_config,
    write_tiny_flux,
    write_tiny_stable_diffusion,
)


@pytest.fixture(scope="session")
def flux(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    write_tiny_flux(folder)
    return folder


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stable-diffusion")
    write_tiny_stable_diffusion(folder)
    return folder


def images(config):
    with quiet():
        return DiffusionImages.load(config, GrammarPromptBook(), mean_color, 3)


def painter_of(kind, request, **changes):
    if kind not in ("cogview4", "z_image", "stable_diffusion_3"):
        return images(config_of(kind, request, **changes))
    options = {"size": 32, "steps": 2, "guidance": 3.0, **changes}
    return DiffusionImages(tiny_family(kind), WordyPrompts(), mean_color, 3, **options)


def config_of(kind, request, **changes):
    if kind == "sdxl":
        return sdxl_config(**changes)
    options = {"max_sequence_length": 16} if kind == "flux" else {"guidance": 3.0}
    return tiny_config(request.getfixturevalue(kind), **{**options, **changes})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("flux", {}),
        ("stable_diffusion", {}),
        ("sdxl", {}),
        ("sdxl", {"guidance": 0.0, "steps": 1}),
        ("sdxl", {"scheduler": "EulerAncestralDiscreteScheduler"}),
        ("stable_diffusion_3", {}),
        ("cogview4", {}),
        ("z_image", {}),
        ("z_image", {"guidance": 0.0}),
    ],
    ids=[
        *("flux", "stable-diffusion", "sdxl", "sdxl-turbo", "ancestral-noise"),
        *("stable-diffusion-3", "cogview4", "z-image", "z-image-turbo"),
    ],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers, with numpy 2
def test_a_picture_depends_on_its_own_prompt_and_key(kind, changes, request):
    require_own_pictures(painter_of(kind, request, **changes), PROMPTS)


@pytest.mark.parametrize("kind", ["flux", "stable_diffusion", "sdxl"])
def test_each_prompt_is_encoded_once(kind, request, monkeypatch):
    painter = images(config_of(kind, request))
    encoded = []
    own = type(painter.pipeline).encode_prompt

    def watched(*given, **named):  # the pipeline calls it too, with embeddings in place of a prompt
        if named.get("prompt") is not None:
            encoded.append(named)
        return own(painter.pipeline, *given, **named)

    monkeypatch.setattr(painter.pipeline, "encode_prompt", watched)
    painter.generate(PROMPTS[[0, 1, 0]], mix(np.arange(3)[:, None], np.arange(3)))
    asked = [text for named in encoded for text in named["prompt"]]
    assert sorted(asked) == sorted(GrammarPromptBook().texts(PROMPTS[:2]))
    if kind == "flux":
        assert encoded[0]["max_sequence_length"] == 16


def test_an_autoencoder_that_ran_out_of_memory_in_float32_goes_back(monkeypatch):
    """diffusers casts it back only after it has decoded."""
    import torch

    painter = images(sdxl_config(dtype="bfloat16", batch_size=2))
    vae = painter.pipeline.vae
    vae.register_to_config(force_upcast=True)
    monkeypatch.setattr(type(painter.pipeline.vae), "decode", decode := Failing(vae.decode))
    monkeypatch.setattr(painter.pipeline, "upcast_vae", lambda: vae.to(torch.float32))
    keys = mix(np.arange(2)[:, None], np.arange(1))
    painted = painter.generate(PROMPTS[:2], keys).pixels
    assert decode.calls == 3  # two together, then one by one
    assert vae.dtype == torch.bfloat16
    assert painted.shape == (2, 1, 64, 64, 3)


class Failing:
    """Decodes, but for the first time."""

    def __init__(self, decode):
        self._decode, self.calls = decode, 0

    def __call__(self, *given, **named):
        self.calls += 1
        if self.calls == 1:
            import torch

            raise torch.OutOfMemoryError("no room")
        return self._decode(*given, **named)


@pytest.mark.parametrize(("guidance", "is_guided"), [(0.0, False), (1.0, False), (1.5, True)])
def test_a_negative_prompt_is_encoded_for_guidance_alone(guidance, is_guided, monkeypatch):
    painter = images(sdxl_config(guidance=guidance))
    assert painter._conditions._options["do_classifier_free_guidance"] is is_guided
    given = painter._conditions.encode(["a cat"])
    assert ("negative_prompt_embeds" in given) is is_guided
    assert painter.generate(PROMPTS[:1], mix(np.zeros((1, 1), dtype=int))).pixels.shape == (1, 1, 64, 64, 3)


def test_families_are_told_by_their_names():
    from diffusers import FluxPipeline, OvisImagePipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline

    def of(kind):
        return returned_embeddings(kind.__new__(kind))

    assert of(FluxPipeline) == ("prompt_embeds", "pooled_prompt_embeds", None)
    assert of(StableDiffusionXLPipeline) == of(StableDiffusion3Pipeline)
    assert of(StableDiffusionXLPipeline)[1] == "negative_prompt_embeds"
    assert of(OvisImagePipeline) == ()  # the same arguments as Stable Diffusion's, and four values
    assert returned_embeddings(types.SimpleNamespace()) == ()


@pytest.mark.parametrize("name", ["ChromaInpaintPipeline", "FluxPipeline"])
def test_guidance_that_does_nothing_is_refused(name):
    import diffusers

    kind = getattr(diffusers, name)

    def conditions(guidance, *, is_distilled):
        pipeline = kind.__new__(kind)
        model = types.SimpleNamespace(config=types.SimpleNamespace(guidance_embeds=is_distilled))
        pipeline.__dict__["transformer"] = model
        return PromptConditions(pipeline, guidance)

    with pytest.raises(
        ValueError, match=rf"guidance is 4\.0, but {name} with this model paints the same .* use 0 or 1"
    ):
        conditions(4.0, is_distilled=False)
    rows = np.array([0])
    assert conditions(1.0, is_distilled=False).select(rows, ["a cat"], None)["guidance_scale"] == 1.0
    assert conditions(4.0, is_distilled=True).select(rows, ["a cat"], None)["guidance_scale"] == 4.0


def test_a_pipeline_without_guidance_is_not_given_any():
    class Pipeline:
        def __call__(self, prompt):
            pass

    with pytest.raises(ValueError, match=r"guidance is 1\.5, but Pipeline with this model paints the same"):
        PromptConditions(Pipeline(), 1.5)
    assert PromptConditions(Pipeline(), 0.0).select(np.array([1]), ["a", "b"], None) == {"prompt": ["b"]}


def test_the_mini_world_paints_as_through_its_own_loader():
    from pasta_gym.mini import sdxl
    from pasta_gym.worlds import make_world

    keys = mix(np.arange(2)[:, None], np.arange(2))
    own = make_world("mini").image_generator("diffusion").generate(PROMPTS[:2], keys)
    config = sdxl_config(steps=sdxl.DEFAULT_STEPS, guidance=sdxl.DEFAULT_GUIDANCE, batch_size=16)
    assert np.abs(images(config).generate(PROMPTS[:2], keys).pixels.astype(int) - own.pixels).max() <= 1


def test_max_sequence_length_needs_a_pipeline_that_has_it():
    with pytest.raises(ValueError, match=r"max_sequence_length is 16, but StableDiffusionXLPipeline has no such"):
        images(sdxl_config(max_sequence_length=16))


def test_compiled_pipelines_are_given_full_batches():
    sizes = []

    class Pipeline:
        def __call__(self, prompt, height, width, num_inference_steps, guidance_scale, generator, output_type):
            import torch

            sizes.append(len(prompt))
            noise = torch.stack([torch.rand(height, width, 3, generator=g) for g in generator])
            return types.SimpleNamespace(images=noise.numpy())

    def paint(*, fill_batches, batch_size=4):
        painter = DiffusionImages(
            Pipeline(),
            GrammarPromptBook(),
            mean_color,
            3,
            size=8,
            steps=1,
            guidance=0,
            batch_size=batch_size,
            fill_batches=fill_batches,
        )
        return painter.generate(PROMPTS[:2], mix(np.arange(2)[:, None], np.arange(6))).pixels

    filled, plain = paint(fill_batches=True), paint(fill_batches=False)
    assert sizes == [4, 4, 4, 4, 4, 2, 4, 2]  # of texts, so a batch has pictures of one prompt
    np.testing.assert_array_equal(filled, plain)
    sizes.clear()
    np.testing.assert_array_equal(paint(fill_batches=True, batch_size=16), plain)
    assert sizes == [6, 6]  # not filled beyond what every prompt has


def test_pictures_that_are_no_numbers_and_global_draws():
    class Pipeline:
        def __init__(self, paint):
            self.paint = paint

        def __call__(self, prompt, height, width, num_inference_steps, guidance_scale, generator, output_type):
            return types.SimpleNamespace(images=self.paint((len(prompt), height, width, 3)))

    def generate(paint):
        painter = DiffusionImages(
            Pipeline(paint), GrammarPromptBook(), mean_color, 3, size=8, steps=1, guidance=0, batch_size=4
        )
        return painter.generate(PROMPTS[:1], mix(np.zeros((1, 1), dtype=int)))

    def global_draws(shape):
        import torch

        return torch.rand(shape).numpy()

    with pytest.raises(ValueError, match=r"values that are no numbers .* use dtype='bfloat16'"):
        generate(lambda shape: np.full(shape, np.nan))
    with pytest.raises(RuntimeError, match=r"draws from torch's global generator"):
        generate(global_draws)


def test_the_switches_reach_the_pipeline(monkeypatch):
    import torch

    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    with quiet():
        pipeline = load_pipeline(sdxl_config(compile=True, attention_slicing=True, dtype="bfloat16"))
        plain = load_pipeline(sdxl_config(vae_slicing=False, scheduler="EulerDiscreteScheduler"))
    assert compiled == ["UNet2DConditionModel"]
    assert pipeline.dtype == torch.bfloat16
    assert pipeline.vae.use_slicing
    assert not plain.vae.use_slicing
    names = {type(p).__name__ for p in pipeline.unet.attn_processors.values()}
    assert names == {"SlicedAttnProcessor"}
    assert type(plain.scheduler).__name__ == "EulerDiscreteScheduler"
    assert plain.scheduler.config.prediction_type == "v_prediction"  # the own scheduler's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "float16 paints on a GPU alone; on the CPU use float32 or bfloat16"),
        ({"offload": "model"}, "offload 'model' moves parts to a GPU, but there is none in use"),
        ({"scheduler": "Euler"}, "diffusers has no scheduler 'Euler'; the model's own is DDIMScheduler"),
        ({"variant": "fp16"}, r"lacks .*text_encoder/model\.fp16\.safetensors"),
    ],
)
def test_what_does_not_suit_is_refused(changes, message):
    with quiet(), pytest.raises(ValueError, match=message):
        load_pipeline(sdxl_config(**changes))


def test_slicing_without_an_effect_is_refused(flux):
    with quiet(), pytest.raises(ValueError, match=r"attention_slicing has no effect on FluxPipeline.*batch_size"):
        load_pipeline(tiny_config(flux, attention_slicing=True))


def test_missing_files_are_named(flux, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(flux, broken)
    (broken / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (broken / "tokenizer" / "tokenizer_config.json").unlink()
    (broken / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks") as caught:
        find_pipeline(tiny_config(broken))
    for name in (
        "tokenizer/tokenizer_config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
    ):
        assert name in str(caught.value)
    assert "vae/" not in str(caught.value)
    (broken / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*model_index\.json"):
        find_pipeline(tiny_config(broken))
    (broken / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"model_index\.json is missing; put the pipeline's files there"):
        find_pipeline(tiny_config(broken))


def test_missing_shards_are_named(flux, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(flux, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    index = {"weight_map": {f"w{i}": f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)}}
    weights.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks transformer/diffusion_pytorch_model-00002-of-00002\.safetensors in"):
        find_pipeline(tiny_config(broken))


def test_broken_weights_are_an_error_that_names_the_folder(flux, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(flux, broken)
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with quiet(), pytest.raises(ValueError, match=r"the pipeline in .*broken cannot be loaded"):
        load_pipeline(tiny_config(broken))


def hub_copy(cache, folder, commit="c0ffee" * 6 + "c0ff"):
    """A repository in the hub's cache, as its client lays it out."""
    root = cache / "models--acme--tiny-flux"
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    return commit


def test_a_repository_in_the_hubs_cache(flux, tmp_path):
    commit = hub_copy(tmp_path, flux)
    config = DiffusionModelConfig(
        "acme/tiny-flux", 2, 0.0, 32, 32, device="cpu", cache_dir=str(tmp_path), max_sequence_length=16
    )
    assert find_pipeline(config).revision == commit
    assert model_identity(config)["revision"] == commit
    painted = images(config).generate(PROMPTS[:1], mix(np.zeros((1, 1), dtype=int))).pixels
    own = images(tiny_config(flux, max_sequence_length=16)).generate(PROMPTS[:1], mix(np.zeros((1, 1), dtype=int)))
    np.testing.assert_array_equal(painted, own.pixels)
    (tmp_path / "models--acme--tiny-flux" / "snapshots" / commit / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks vae/config\.json in .*hf download acme/tiny-flux"):
        find_pipeline(config)


def test_a_repository_that_is_not_here_says_how_to_fetch_it(tmp_path):
    config = diffusion_preset("sdxl", cache_dir=str(tmp_path), device="cpu", dtype="float32", revision="462165")
    with pytest.raises(ValueError, match=r"model_index\.json of stabilityai/.* is not on this machine") as caught:
        load_pipeline(config)
    assert fetch_command(config) in str(caught.value)
    assert fetch_command(config).startswith("hf download stabilityai/stable-diffusion-xl-base-1.0 --revision 462165")
    assert "'*/*.fp16*.safetensors'" in fetch_command(config)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"neither a folder nor a name on the hub"):
        find_pipeline(tiny_config("no such/folder/anywhere"))


def test_a_fetch_that_fails_says_the_command(tmp_path):
    config = DiffusionModelConfig("acme/none", 1, 0.0, 32, 32, allow_download=True, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"acme/none could not be fetched .* hf download acme/none"):
        find_pipeline(config)


def test_a_folder_is_known_by_its_content(flux, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(flux, copy)
    first = model_identity(tiny_config(flux))
    assert model_identity(tiny_config(copy)) == first
    assert model_identity(tiny_config(flux, dtype="bfloat16")) != first
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert model_identity(tiny_config(copy)) != first
    own_words = copy / "tokenizer_2" / "spiece.model"
    seen = [model_identity(tiny_config(copy))]
    for vocabulary in (b"a", b"b"):
        own_words.write_bytes(vocabulary)
        seen.append(model_identity(tiny_config(copy)))
    assert len({identity["revision"] for identity in seen}) == 3
