"""A user model belongs to one encoder, and phase 2 may train it."""

import copy
import hashlib

import gymnasium as gym
import numpy as np
import pytest
import torch

import pasta_gym  # noqa: F401
from pasta_gym.user_model.encoder_identity import encoder_hash, module_hash, require_same_encoder, same_encoder
from pasta_gym.user_model.features import EncodedFeatures, shown_to
from pasta_gym.user_model.phases import PhasesConfig, fit_in_phases, fit_phase2, untrained
from pasta_gym.user_model.sequential import SequentialConfig
from pasta_gym.user_model.user_model import UserModel
from tests.user_model.test_sequential import D, make_data

A, B = "a" * 64, "b" * 64


class TinyClip(torch.nn.Module):
    """Stands in for open_clip's model: two linear maps of pictures and of token counts."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vision = torch.nn.Parameter(torch.randn(12, D, generator=generator))
        self.text = torch.nn.Parameter(torch.randn(7, D, generator=generator))
        self.seen = 0

    def encode_image(self, image):
        self.seen += len(image)
        return image.flatten(1) @ self.vision

    def encode_text(self, text):
        return torch.nn.functional.one_hot(text, 7).float().sum(dim=1) @ self.text


def make_encoder():
    pictures = torch.rand(60, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    tokens = torch.randint(7, (6, 4), generator=torch.Generator().manual_seed(4))
    return EncodedFeatures(TinyClip(), lambda rows: pictures[torch.from_numpy(rows)], tokens)


def test_an_image_that_comes_twice_is_embedded_once():
    encoder = make_encoder()
    got = encoder.images(torch.tensor([5, 9, 5]))
    assert encoder.clip.seen == 2
    assert torch.equal(got[0], got[2])
    assert not torch.equal(got[0], got[1])


def test_phase_2_trains_the_encoder_and_the_user_model_says_so():
    data, encoder = make_data(), make_encoder()
    frozen = copy.deepcopy(encoder.clip)
    config = PhasesConfig(sequential=SequentialConfig(steps=2, learning_rate=0.01))
    start = untrained(data, config)
    start.metadata["encoder"] = {"frozen_sha256": A, "sha256": A}
    fitted = fit_phase2(start, data, config, encoder=encoder)
    for name, before in frozen.state_dict().items():
        assert not torch.equal(before, encoder.clip.state_dict()[name]), name
    record = fitted.metadata["encoder"]
    assert record == {"frozen_sha256": A, "sha256": module_hash(encoder.clip)}
    assert module_hash(encoder.clip) != module_hash(frozen) == module_hash(copy.deepcopy(frozen))
    shown = shown_to(data, np.array([1, 2]))
    tables = encoder.encoded(data, shown)
    theirs = np.isin(data.session_raters, [1, 2])
    images = np.union1d(data.session_images[theirs], data.pair_images[np.isin(data.pair_raters, [1, 2])])
    images = np.union1d(images, data.rating_images[np.isin(data.rating_raters, [1, 2])])
    assert shown.images.tolist() == np.union1d(images, data.rankings).tolist()
    assert set(shown_to(data, np.array([1]), sessions_only=True).images) == set()
    assert np.array_equal(np.flatnonzero(tables.image_embeddings.any(axis=1)), shown.images)
    assert np.array_equal(np.flatnonzero(tables.prompt_embeddings.any(axis=1)), shown.prompts)
    row = int(shown.images[3])
    expected = encoder.images(torch.tensor([row])).detach().numpy()[0]
    assert np.allclose(tables.image_embeddings[row], expected, atol=1e-5)
    assert not np.allclose(tables.image_embeddings, data.image_embeddings)
    # Frozen is the default, and says nothing new.
    kept = fit_phase2(start, data, config).metadata
    assert encoder_hash(kept) in (None, A)


def test_a_gradient_does_not_depend_on_the_batches_it_is_computed_in():
    rows, gradients = torch.tensor([5, 9, 5, 11, 2, 30]), []
    for size in (64, 2):
        encoder = make_encoder()
        encoder = EncodedFeatures(encoder.clip, encoder._pictures, encoder.tokens, size)
        encoder.images(rows).square().sum().backward()
        # 5 distinct pictures; what goes through in parts is computed again for the gradient.
        assert encoder.clip.seen == (5 if size == 64 else 10)
        gradients.append(encoder.clip.vision.grad)
        with torch.no_grad():
            encoder.images(rows)
        assert encoder.clip.seen == (10 if size == 64 else 15)
    assert torch.allclose(*gradients, rtol=1e-5)
    assert copy.deepcopy(encoder)._batch_size == 2
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        EncodedFeatures(encoder.clip, encoder._pictures, encoder.tokens, 0)


def test_an_encoder_is_given_exactly_if_it_is_to_be_trained():
    data = make_data()
    with pytest.raises(ValueError, match="train_encoder is False, and an encoder to train was given"):
        fit_in_phases(data, PhasesConfig(), encoder=make_encoder())
    with pytest.raises(ValueError, match="train_encoder is True, and an encoder to train was not given"):
        fit_in_phases(data, PhasesConfig(train_encoder=True))
    with pytest.raises(ValueError, match="train_encoder is true, and phase2, which would train it, is false"):
        PhasesConfig(phase2=False, train_encoder=True)


def test_the_target_networks_encoder_is_a_copy_on_the_same_pictures():
    encoder = make_encoder()
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.clip.vision += 1
    rows = torch.tensor([1, 2])
    assert not torch.equal(encoder.images(rows), other.images(rows))
    assert torch.equal(encoder.prompts(rows), other.prompts(rows))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [(A, A, True), (A, A[:16], True), (A[:16], A, True), (A, B, False), (A, B[:16], False), (A, A[:8], False)],
)
def test_hashes_may_be_cut_short_but_not_too_short(first, second, same):
    assert same_encoder(first, second) is same


def test_another_encoder_is_refused_with_both_names_and_the_cure():
    words = r"encoder aaaaaaaaaaaaaaaa, but images='surrogate' gives those of bbbbbbbbbbbbbbbb.*train surrogate"
    with pytest.raises(ValueError, match=words):
        require_same_encoder({"encoder": {"sha256": A}}, B[:16], "surrogate")
    for metadata, images in (({}, B), ({"encoder": {"sha256": A}}, None), ({"encoder": {"sha256": A}}, A[:16])):
        require_same_encoder(metadata, images, "surrogate")


@pytest.mark.parametrize("images", ["surrogate", "painter", "diffusion", "diffusion_8"])
def test_the_mini_world_refuses_a_user_model_of_another_encoder(images):
    from pasta_gym.envs.assembly import PastaConfig, assemble
    from pasta_gym.mini.weights import weights_directory
    from pasta_gym.worlds import make_world

    clip = hashlib.sha256((weights_directory() / "clip" / "open_clip_model.safetensors").read_bytes()).hexdigest()
    own = UserModel.load(make_world("mini").user_model)
    own.metadata["encoder"] = {"sha256": clip}
    assert assemble(PastaConfig(images=images), "mini", own).user_model is own
    own.metadata["encoder"] = {"sha256": A}
    with pytest.raises(ValueError, match=f"encoder {A[:16]}, but images='{images}' gives those of {clip[:16]}"):
        assemble(PastaConfig(images=images), "mini", own)


def test_the_environment_refuses_a_user_model_of_another_encoder(tmp_path):
    from pasta_gym.worlds import make_world

    world = make_world("mini")
    own = UserModel.load(world.user_model)
    expected = world.image_generator("surrogate").encoder_sha256
    assert len(expected) == 16
    for sha, fits in ((expected + "0" * 48, True), (A, False)):
        own.metadata["encoder"] = {"sha256": sha}
        own.save(tmp_path / sha[:4])
        if fits:
            gym.make("PastaT2I-v0", images="surrogate", user_model=str(tmp_path / sha[:4])).close()
        else:
            with pytest.raises(ValueError, match=f"encoder {A[:16]}.*{expected}"):
                gym.make("PastaT2I-v0", images="surrogate", user_model=str(tmp_path / sha[:4]))
