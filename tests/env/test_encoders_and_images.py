import logging
import types

import numpy as np
import pytest

from pasta_gym.encoders import InternedTextEncoder, TableTextEncoder
from pasta_gym.encoders import table as table_module
from pasta_gym.images import DiffusionImages, SurrogateImages
from pasta_gym.seeding import mix, normals
from pasta_gym.types import ImageGenerator, TextEncoder
from tests.env.tiny_world import TinyBook, TinyEncoder


class Counted:
    """Embeds "prompt i" as (i, 2 i, 3 i) and remembers how many texts it was asked for."""

    def __init__(self):
        self.n_texts = 0

    def __call__(self, texts):
        self.n_texts += len(texts)
        return np.array([[int(t.split()[1])] * 3 for t in texts], dtype=np.float32) * [1, 2, 3]


def table(model, cache_file=None, n=20_000):
    return TableTextEncoder(TinyBook(), model, 3, n, cache_file=cache_file)


def test_filling_embeds_what_is_missing_once_and_saves(tmp_path):
    model = Counted()
    encoder = table(model, n=50, cache_file=tmp_path / "kept.npz")
    encoder.embed(np.array([3, 41]))
    encoder.fill(batch_size=7)
    encoder.fill()
    assert model.n_texts == 50
    again = table(model, n=50, cache_file=tmp_path / "kept.npz")
    assert again.n_filled == 50
    np.testing.assert_array_equal(again.embed(np.arange(50)), np.arange(50)[:, None] * np.array([1, 2, 3]))
    assert model.n_texts == 50


def test_a_quarter_more_rows_are_written_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "_FIRST_SAVE", 8)
    file = tmp_path / "kept.npz"
    encoder = table(Counted(), file)
    kept = []
    for n in (7, 8, 9, 10):
        encoder.embed(np.arange(n))
        kept.append(table(Counted(), file).n_filled)
    assert kept == [0, 8, 8, 10]


@pytest.mark.parametrize("make", [table, lambda model: InternedTextEncoder(TinyBook(), model, 3)])
def test_each_prompt_is_embedded_once(make):
    model = Counted()
    encoder = make(model)
    assert isinstance(encoder, TextEncoder)
    ids = np.array([[5, 7, 5], [0, 7, 900]])
    embedded = encoder.embed(ids)
    assert embedded.dtype == np.float32
    np.testing.assert_array_equal(embedded, ids[..., None] * np.array([1, 2, 3]))
    assert model.n_texts == 4
    embedded[:] = -1  # the caller's own
    np.testing.assert_array_equal(encoder.embed(np.array([7, 8])), [[7, 14, 21], [8, 16, 24]])
    assert model.n_texts == 5
    assert encoder.embed(np.zeros((0, 2), dtype=np.int64)).shape == (0, 2, 3)


@pytest.mark.parametrize("bad", [-1, 20_000])
def test_ids_outside_the_table(bad):
    with pytest.raises(ValueError, match=r"0\.\.19999, got"):
        table(Counted()).embed(np.array([3, bad]))


def test_a_second_process_starts_warm(tmp_path):
    file = tmp_path / "folder" / "embeddings.npz"
    first, ids = table(Counted(), file), np.arange(5000)
    first.embed(ids)
    model = Counted()
    second = table(model, file)
    assert second.n_filled == 5000
    np.testing.assert_array_equal(second.embed(ids), first.embed(ids))
    assert model.n_texts == 0
    assert [p.name for p in file.parent.iterdir()] == ["embeddings.npz"]


def test_processes_that_share_a_file_keep_each_others_rows(tmp_path):
    file = tmp_path / "embeddings.npz"
    one, other = table(Counted(), file), table(Counted(), file)
    one.embed(np.arange(10))
    other.embed(np.arange(100, 120))
    one.save()
    other.save()
    assert table(Counted(), file).n_filled == 30


def test_a_broken_file_is_made_again(tmp_path, caplog):
    file = tmp_path / "embeddings.npz"
    file.write_bytes(b"not an archive")
    with caplog.at_level(logging.WARNING):
        encoder = table(Counted(), file)
    assert "made again" in caplog.text
    encoder.embed(np.arange(4))
    encoder.save()
    assert table(Counted(), file).n_filled == 4


def test_a_file_of_another_width_is_not_believed(tmp_path):
    file = tmp_path / "embeddings.npz"
    np.savez(file, ids=np.arange(2), embeddings=np.zeros((2, 4)))
    assert table(Counted(), file).n_filled == 0


class Gaussian:
    """Mean = prompt embedding; deviations 0.5; two factor columns, along axes 0 and 3."""

    embedding_dim, rank = 5, 2

    def __init__(self):
        self.n_prompts = 0

    def mean_and_spread(self, prompt_embeddings):
        n = len(prompt_embeddings)
        self.n_prompts += n
        factor = np.zeros((n, 5, 2), dtype=np.float32)
        factor[:, 0, 0], factor[:, 3, 1] = 2.0, 3.0
        return prompt_embeddings, np.full((n, 5), 0.5, dtype=np.float32), factor


def test_surrogate_images_have_the_models_mean_and_covariance():
    images = SurrogateImages(Gaussian(), TinyEncoder())
    assert isinstance(images, ImageGenerator)
    drawn = images.generate(np.array([3, 8]), mix(np.arange(2)[:, None], np.arange(20_000)))
    assert drawn.pixels is None
    assert drawn.embeddings.dtype == np.float32
    np.testing.assert_allclose(drawn.embeddings.mean(axis=1), TinyEncoder().embed(np.array([3, 8])), atol=0.1)
    expected = np.diag([0.25 + 4, 0.25, 0.25, 0.25 + 9, 0.25])
    np.testing.assert_allclose(np.cov(drawn.embeddings[1].T), expected, atol=0.35)


def test_a_surrogate_image_by_hand():
    keys = mix(np.array([[1, 2]]), 4)
    drawn = SurrogateImages(Gaussian(), TinyEncoder()).generate(np.array([6]), keys).embeddings
    noise = normals(keys[0, 1], 7)
    by_hand = TinyEncoder().embed(np.array(6)) + 0.5 * noise[:5] + [2 * noise[5], 0, 0, 3 * noise[6], 0]
    np.testing.assert_allclose(drawn[0, 1], by_hand, atol=1e-6)


@pytest.mark.parametrize("capacity", [1, 7, 1000])
def test_surrogate_parameters_are_kept_up_to_the_capacity(capacity):
    model = Gaussian()
    images = SurrogateImages(model, TinyEncoder(), capacity=capacity)
    rng = np.random.default_rng(0)
    for _ in range(20):
        prompts = rng.integers(0, 2**40, 6)
        keys = mix(prompts[:, None], np.arange(3))
        fresh = SurrogateImages(Gaussian(), TinyEncoder()).generate(prompts[::-1], keys[::-1]).embeddings[::-1]
        np.testing.assert_allclose(images.generate(prompts, keys).embeddings, fresh, atol=1e-6)
        asked = model.n_prompts
        images.generate(prompts[:1], keys[:1])
        assert capacity < 6 or model.n_prompts == asked


def test_a_capacity_is_positive():
    with pytest.raises(ValueError, match="at least 1 prompt, got 0"):
        SurrogateImages(Gaussian(), TinyEncoder(), capacity=0)


class TextPipeline:
    """The least of a diffusers pipeline: grey pictures, darker with the prompt's number, noise by generator."""

    def __init__(self):
        self.batches = []

    def __call__(self, prompt, height, width, num_inference_steps, guidance_scale, generator, output_type):
        import torch

        self.batches.append(len(prompt))
        noise = torch.stack([torch.rand(height, width, 3, generator=g) for g in generator]).numpy()
        level = np.array([int(p.split()[1]) for p in prompt])[:, None, None, None] / 1000
        return types.SimpleNamespace(images=level + 0.2 * noise)


class StableDiffusionXLPipeline(TextPipeline):
    """The same with SDXL's embeddings, and its name."""

    def __init__(self):
        super().__init__()
        self.encoded = []

    def encode_prompt(self, prompt, num_images_per_prompt, do_classifier_free_guidance):
        import torch

        self.encoded += prompt
        numbers = torch.tensor([[float(p.split()[1])] for p in prompt])
        return numbers, -numbers, numbers + 0.25, numbers - 0.25

    def __call__(
        self,
        prompt_embeds,
        negative_prompt_embeds,
        pooled_prompt_embeds,
        negative_pooled_prompt_embeds,
        height,
        width,
        num_inference_steps,
        guidance_scale,
        generator,
        output_type,
    ):
        assert (negative_prompt_embeds == -prompt_embeds).all()
        assert (pooled_prompt_embeds == prompt_embeds + 0.25).all()
        assert (negative_pooled_prompt_embeds == prompt_embeds - 0.25).all()
        prompts = [f"prompt {int(p)}" for p in prompt_embeds[:, 0]]
        return super().__call__(prompts, height, width, num_inference_steps, guidance_scale, generator, output_type)


def mean_color(pixels):
    return pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)


def diffusion(pipeline, batch_size=4):
    return DiffusionImages(pipeline, TinyBook(), mean_color, 3, size=8, steps=2, guidance=1.5, batch_size=batch_size)


@pytest.mark.parametrize("pipeline", [TextPipeline, StableDiffusionXLPipeline])
def test_a_painted_image_does_not_depend_on_its_batch(pipeline):
    prompts, keys = np.array([700, 20, 700]), mix(np.arange(3)[:, None], np.arange(3))
    whole = diffusion(pipeline()).generate(prompts, keys)
    assert whole.pixels.shape == (3, 3, 8, 8, 3)
    assert whole.pixels.dtype == np.uint8
    assert whole.embeddings.shape == (3, 3, 3)
    for batch_size, rows in ((1, [0, 1, 2]), (100, [2, 1, 0])):
        again = diffusion(pipeline(), batch_size).generate(prompts[rows], keys[rows])
        np.testing.assert_array_equal(again.pixels, whole.pixels[rows])
    assert whole.pixels[0].mean() > whole.pixels[1].mean() + 100
    assert (whole.pixels[0] != whole.pixels[2]).mean() > 0.5  # other keys, other pictures of the same prompt
    np.testing.assert_allclose(whole.embeddings[1, 2], whole.pixels[1, 2].mean(axis=(0, 1)), rtol=1e-5)


def test_prompts_are_encoded_once_and_painted_in_batches():
    pipeline = StableDiffusionXLPipeline()
    diffusion(pipeline).generate(np.array([5, 9, 5, 5]), mix(np.arange(4)[:, None], np.arange(3)))
    assert sorted(pipeline.encoded) == ["prompt 5", "prompt 9"]
    assert pipeline.batches == [4, 4, 4]


@pytest.mark.parametrize("name", ["steps", "size", "batch_size"])
def test_numbers_of_the_painter_are_positive(name):
    numbers = {"size": 8, "steps": 2, "guidance": 1.5, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        DiffusionImages(TextPipeline(), TinyBook(), mean_color, 3, **numbers)
