"""How the parts of the mini world learn: the loop, the losses, and what is folded into the autoencoder."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pasta_gym.mini import grammar, sdxl, surrogate, train_clip, train_reader, train_sdxl, train_surrogate
from pasta_gym.mini.clip import MiniClip, load_clip
from pasta_gym.mini.tokenizer import CONTEXT_LENGTH, END_ID, START_ID, WordTokenizer, build_tokenizer, tokenize
from pasta_gym.mini.training_loop import LoopConfig, optimise, rate_factor, weights_key


def test_the_rate_warms_up_then_falls_as_half_a_cosine():
    config = LoopConfig(steps=110, learning_rate=1.0, warmup=10)
    assert rate_factor(0, config) == pytest.approx(0.1)
    assert rate_factor(10, config) == pytest.approx(1.0)
    assert rate_factor(60, config) == pytest.approx(0.51)  # half-way: 0.02 + 0.98 / 2
    assert rate_factor(110, config) == pytest.approx(0.02, abs=1e-6)


def _fit(run, steps_then, config, *, data=(), start=0.5):
    module = nn.Linear(4, 1)
    with torch.no_grad():
        module.weight.fill_(start)
        module.bias.zero_()

    def step(generator):
        if steps_then is not None and module.count == steps_then:
            raise KeyboardInterrupt
        module.count += 1
        x = torch.randn(8, 4, generator=generator)
        return {"loss": (module(x)[:, 0] - x.sum(dim=1)).square().mean()}

    module.count = 0
    optimise("test", module, step, config, run, data=data)
    return module


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    config = LoopConfig(steps=30, learning_rate=0.05, warmup=3, ema=0.9, checkpoint_every=10, log_every=5, seed=3)
    whole = _fit(tmp_path / "whole", None, config)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "killed", 17, config)
    resumed = _fit(tmp_path / "killed", None, config)
    assert resumed.count == 20  # from the checkpoint at 10
    torch.testing.assert_close(resumed.weight, whole.weight)
    other = _fit(tmp_path / "other", None, dataclasses.replace(config, seed=4))
    assert not torch.equal(other.weight, whole.weight)


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path, caplog):
    config = LoopConfig(steps=12, learning_rate=0.05, warmup=3, checkpoint_every=5, seed=3)
    first = _fit(tmp_path, None, config)
    again = _fit(tmp_path, None, config)
    assert again.count == 0  # it is done
    torch.testing.assert_close(again.weight, first.weight)
    assert not caplog.messages
    other = dataclasses.replace(config, seed=4)
    fresh, stale = _fit(tmp_path / "fresh", None, other), _fit(tmp_path, None, other)
    assert stale.count == 12
    torch.testing.assert_close(stale.weight, fresh.weight)
    [said] = caplog.messages
    assert "checkpoint.pt is of another configuration, start or data, and is replaced" in said
    # Other data and another start alike.
    assert _fit(tmp_path, None, other, data=(torch.ones(3),)).count == 12
    assert _fit(tmp_path, None, other, data=(torch.ones(3),)).count == 0
    assert _fit(tmp_path, None, other, data=(torch.zeros(3),)).count == 12
    assert _fit(tmp_path, None, other, data=(torch.zeros(3),), start=0.25).count == 12


def test_weights_have_the_key_of_their_numbers():
    module, other = nn.Linear(2, 3), nn.Linear(2, 3)
    assert weights_key(module) != weights_key(other)
    other.load_state_dict(module.state_dict())
    assert weights_key(module) == weights_key(other) != weights_key(module, other)


def test_every_word_is_one_token_between_start_and_end():
    tokenizer = build_tokenizer()
    for word in grammar.vocabulary():
        pieces = word.split("-")
        assert len(tokenizer(word)["input_ids"]) == 2 + 2 * len(pieces) - 1
    ids = tokenize(tokenizer, ["a cat", "a cat on the beach at night, pixel art"])
    assert ids.shape == (2, CONTEXT_LENGTH)
    assert (ids[:, 0] == START_ID).all()
    assert ids[0, 3] == END_ID


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, grammar.N_PROMPTS - 1), min_size=1, max_size=40))
def test_word_by_word_gives_the_tokenizers_own_ids(ids):
    texts = [*grammar.prompt_texts(np.array(ids)), "A CAT,on the  beach.. at night", "snow " * 40]
    expected = tokenize(build_tokenizer(), texts).numpy()
    found, lengths = WordTokenizer(build_tokenizer())(texts)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(lengths, (expected == END_ID).argmax(axis=1) + 1)


def test_texts_embed_as_the_model_does_with_its_whole_context():
    clip = load_clip()
    rng = np.random.default_rng(2)
    texts = [*grammar.prompt_texts(rng.integers(0, grammar.N_PROMPTS, 150)), "snow " * 40]
    with torch.inference_mode():
        expected = clip.model.encode_text(tokenize(clip.tokenizer, texts)).numpy()
    np.testing.assert_allclose(MiniClip(clip.model, batch_size=64).encode_texts(texts), expected, atol=2e-5)


def test_the_longest_prompt_fits_the_context():
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(1, c, 3000) for c in grammar.CARDINALITIES], axis=1)
    ids = grammar.prompt_ids(values, rng.integers(0, 4, 3000))
    lengths = [len(x) for x in build_tokenizer()(grammar.prompt_texts(ids))["input_ids"]]
    assert max(lengths) <= CONTEXT_LENGTH


def test_captions_say_only_what_the_painting_shows():
    rng = np.random.default_rng(1)
    shown = np.stack([rng.integers(1, c, 500) for c in grammar.CARDINALITIES], axis=1)
    said = grammar.slot_values(train_clip.draw_captions(shown, rng))
    assert ((said == shown) | (said == 0)).all()
    assert ((said > 0).any(axis=1)).all()


def test_short_captions_name_each_value_once():
    values = grammar.slot_values(train_clip.short_captions(np.random.default_rng(2)))
    assert ((values > 0).sum(axis=1) == 1).all()
    assert len(np.unique(values, axis=0)) == sum(c - 1 for c in grammar.CARDINALITIES) == len(values)


def test_contrastive_loss_by_hand():
    image = torch.eye(2)
    # logits [[2, 0], [0, 2]]: log(1 + e^-2) both ways
    assert train_clip.contrastive_loss(image, image, torch.tensor(2.0)).item() == pytest.approx(
        math.log1p(math.exp(-2))
    )


def test_short_caption_loss_counts_the_subject_twice():
    n = sum(c - 1 for c in grammar.CARDINALITIES)
    shown = torch.ones(1, grammar.N_SLOTS, dtype=torch.long)
    flat = train_clip.short_caption_loss(torch.zeros(1, 3), torch.zeros(n, 3), shown, torch.tensor(5.0))
    sizes = [c - 1 for c in grammar.CARDINALITIES]
    assert flat.item() == pytest.approx((2 * math.log(sizes[0]) + sum(map(math.log, sizes[1:]))) / 6)


def test_roughened_pictures_stay_in_range_and_a_third_are_untouched():
    x = torch.rand(300, 3, 16, 16) * 2 - 1
    y = train_reader.roughen(x, torch.Generator().manual_seed(0))
    assert y.abs().max() <= 1
    untouched = (x == y).flatten(1).all(dim=1).float().mean()
    assert 0.2 < untouched < 0.45


def test_standardised_latents_decode_to_the_same_picture():
    vae = sdxl.build_vae().eval()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, std = torch.linspace(-1, 1, 12), torch.linspace(0.5, 3, 12)
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        picture = vae.decode(before.mean).sample
        train_sdxl.standardise_latents(vae, mean, std)
        after = vae.encode(x).latent_dist
        torch.testing.assert_close(after.mean, (before.mean - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(after.std, before.std / std[:, None, None])
        torch.testing.assert_close(vae.decode(after.mean).sample, picture, atol=1e-4, rtol=1e-4)


def test_the_surrogates_likelihood_is_that_of_the_dense_gaussian():
    generator = torch.Generator().manual_seed(0)
    mean, factor = torch.randn(2, 5, generator=generator), torch.randn(2, 5, 3, generator=generator)
    deviation = torch.rand(2, 5, generator=generator) + 0.5
    x = torch.randn(2, 4, 5, generator=generator)
    expected = 0.0
    for i in range(2):
        covariance = factor[i] @ factor[i].T + torch.diag(deviation[i] ** 2)
        dense = torch.distributions.MultivariateNormal(mean[i], covariance)
        expected += dense.log_prob(x[i]).sum().item()
    nll = surrogate.negative_log_likelihood(x, mean, deviation, factor)
    assert nll.item() == pytest.approx(-expected / (2 * 4 * 5), rel=1e-4)


def test_the_surrogate_recovers_a_planted_map(tmp_path):
    rng = np.random.default_rng(0)
    plant = rng.normal(size=(6, 6)).astype(np.float32) / 2
    prompts = rng.normal(size=(4000, 6)).astype(np.float32)
    spread = np.array([0.1, 0.2, 0.3, 0.5, 0.8, 1.0], dtype=np.float32)
    images = (prompts @ plant)[:, None] + spread * rng.normal(size=(4000, 4, 6)).astype(np.float32)
    config = LoopConfig(steps=400, learning_rate=3e-3, warmup=20, ema=0.98)
    fitted = surrogate.Surrogate(train_surrogate.train(tmp_path, prompts, images, config))
    fresh = rng.normal(size=(500, 6)).astype(np.float32)
    mean, deviation, factor = fitted.mean_and_spread(fresh)
    error = np.square(mean - fresh @ plant).mean() / np.square(fresh @ plant).mean()
    assert error < 0.05
    total = np.sqrt(np.square(deviation) + np.square(factor).sum(axis=-1)).mean(axis=0)
    np.testing.assert_allclose(total, spread, rtol=0.25)


def test_prompts_whose_pictures_are_all_alike_get_a_small_spread(tmp_path):
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=(4000, 6)).astype(np.float32)
    spread = np.where(prompts[:, :1] > 0, 1.0, 0.03).astype(np.float32)
    images = prompts[:, None] + spread[:, None] * rng.normal(size=(4000, 4, 6)).astype(np.float32)
    config = LoopConfig(steps=800, learning_rate=3e-3, warmup=20, ema=0.98)
    fitted = surrogate.Surrogate(train_surrogate.train(tmp_path, prompts, images, config))
    fresh = rng.normal(size=(500, 6)).astype(np.float32)
    fresh = fresh[np.abs(fresh[:, 0]) > 0.5]
    _, deviation, factor = fitted.mean_and_spread(fresh)
    total = np.sqrt((np.square(deviation) + np.square(factor).sum(axis=-1)).mean(axis=-1))
    assert np.median(total[fresh[:, 0] > 0]) == pytest.approx(1.0, rel=0.2)
    assert np.median(total[fresh[:, 0] < 0]) < 0.06


def test_one_image_of_a_prompt_says_nothing_about_a_spread(tmp_path):
    with pytest.raises(ValueError, match="the spread needs 2 images of a prompt or more, got 1"):
        train_surrogate.train(tmp_path, np.zeros((4, 3), np.float32), np.zeros((4, 1, 3), np.float32))


def test_the_surrogates_spread_ignores_what_the_mean_gets_wrong():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 5, generator=generator)
    mean, deviation = torch.randn(3, 5, generator=generator), torch.rand(3, 5, generator=generator) + 0.5
    factor = torch.zeros(3, 5, 2)
    error, spread = surrogate.fitting_losses(x, mean, deviation, factor)
    assert error.item() == pytest.approx((x.mean(dim=1) - mean).square().mean().item(), rel=1e-5)
    shifted_error, shifted_spread = surrogate.fitting_losses(x + 7, mean, deviation, factor)
    assert shifted_spread.item() == pytest.approx(spread.item(), rel=1e-4)
    assert shifted_error.item() > error.item()
    # Independent draws: the residuals' variance is that of the draws, not smaller by (m - 1) / m.
    draws = torch.randn(400, 4, 5, generator=generator) * 2
    fits = {
        s: surrogate.fitting_losses(draws, torch.zeros(400, 5), torch.full((400, 5), s), torch.zeros(400, 5, 1))[
            1
        ].item()
        for s in (1.7, 2.0, 2.3)
    }
    assert min(fits, key=fits.__getitem__) == 2.0


def test_token_numbers_are_those_the_weights_were_trained_with():
    # Byte-pair training gives these words other numbers in every process, so the merges are a file.
    ids = build_tokenizer()("a cat, close-up, in an icy city")["input_ids"]
    assert ids == [0, 46, 145, 49, 337, 35, 241, 49, 177, 125, 182, 338, 1]
