"""An encoder that was trained with a user model: kept beside it, and what its users see through it."""

import io
import json

import gymnasium as gym
import numpy as np
import PIL.Image
import pytest
import torch

import pasta_gym  # noqa: F401
from agents.belief import load_user_model
from pasta_gym.encoders.clip_encoder import ClipEncoder
from pasta_gym.envs.eyes import Eyes
from pasta_gym.types import Images
from pasta_gym.user_model.embedding_table import Item
from pasta_gym.user_model.encoder_identity import ENCODER_FOLDER, module_bytes, module_hash
from pasta_gym.user_model.originals import Originals
from pasta_gym.user_model.own_encoder import load_own_encoder, own_encoder
from pasta_gym.user_model.user_model import UserModel
from pasta_gym.worlds import make_world
from pasta_gym.wrappers import BelievedUserType

ID = "PastaT2I-v0"


def picture(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def frozen():
    return ClipEncoder.mini(device="cpu")


@pytest.fixture(scope="module")
def folder(frozen, tmp_path_factory):
    """The shipped users with another encoder: the mini CLIP, its weights moved."""
    folder = tmp_path_factory.mktemp("users")
    clip = frozen.copy_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in clip.parameters():
            weight += 0.05 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    frozen.write_with_weights(module_bytes(clip), folder / ENCODER_FOLDER)
    model = UserModel.load(make_world("mini").user_model)
    sha = {"frozen_sha256": frozen.identity["weights_sha256"], "sha256": module_hash(clip)}
    model.metadata["encoder"] = sha
    model.save(folder)
    return folder


def test_the_folder_holds_an_encoder_that_anybody_can_load(folder, frozen):
    model = UserModel.load(folder)
    found = own_encoder(model.metadata, model.encoder_folder)
    assert found.identity["weights_sha256"] == model.metadata["encoder"]["sha256"]
    clip = frozen.copy_model()
    load_own_encoder(model, clip)
    assert module_hash(clip) == model.metadata["encoder"]["sha256"]
    with torch.no_grad():
        expected = clip.encode_image(frozen.prepare([picture(0)])).numpy()
        texts = clip.encode_text(frozen.tokenize(["a red fox"])).numpy()
    assert np.allclose(found.encode_images([picture(0)]), expected, atol=1e-5)
    assert np.allclose(found.encode_texts(["a red fox"]), texts, atol=1e-5)
    assert not np.allclose(frozen.encode_images([picture(0)]), expected, atol=1e-2)
    # The frozen one was copied.
    assert np.allclose(frozen.encode_images([picture(0)]), ClipEncoder.mini(device="cpu").encode_images([picture(0)]))


def test_users_see_with_their_own_encoder_and_observations_do_not(folder, frozen):
    model = UserModel.load(folder)
    own = own_encoder(model.metadata, model.encoder_folder)
    options = {"images": "painter", "images_per_prompt": 2, "reveal": True}
    with gym.make(ID, user_model=str(folder), **options) as env, gym.make(ID, **options) as usual:
        seen, info = env.reset(seed=5)
        for name, value in usual.reset(seed=5)[0].items():
            np.testing.assert_array_equal(seen[name], value, err_msg=name)
        action = np.array([0, 5, 10, 15])
        after, _, _, _, said = env.step(action)
        usual_after, _, _, _, usual_said = usual.step(action)
        np.testing.assert_array_equal(after["slate_images"], usual_after["slate_images"])
        pixels = env.unwrapped._conversations.slate_pixels[0]
        pictures = [PIL.Image.fromarray(p) for p in pixels.reshape(-1, *pixels.shape[2:])]
        features = model.prompt_features(own.encode_texts([info["initial_prompt"]]))
        images = own.encode_images(pictures).reshape(1, 4, 2, -1)
        expected = model.utilities(np.array([said["user_type"]]), features, images)[0]
        assert np.allclose(said["utilities"], expected, atol=1e-5)
        assert not np.allclose(said["utilities"], usual_said["utilities"], atol=1e-3)
        assert np.allclose(frozen.encode_images(pictures).reshape(4, 2, -1), after["slate_images"][0], atol=1e-4)
    many = gym.make_vec(ID, num_envs=2, vectorization_mode="vector_entry_point", user_model=str(folder), **options)
    many.reset(seed=[5, 6])
    assert np.allclose(many.step(np.stack([action, action]))[4]["utilities"][0], expected, atol=1e-5)
    many.close()


def test_embeddings_without_pictures_are_refused(folder):
    words = r"an encoder of their own, [0-9a-f]{16}, .*images='surrogate' gives embeddings of .*images=\"diffusion\".*"
    with pytest.raises(ValueError, match=words + "rater_data paint.*mini.train surrogate"):
        gym.make(ID, images="surrogate", user_model=str(folder))
    model = UserModel.load(folder)
    eyes = Eyes(own_encoder(model.metadata, model.encoder_folder), make_world("mini").prompt_book)
    with pytest.raises(ValueError, match="this image generator gives embeddings alone"):
        eyes.images(Images(np.zeros((1, 2, 64), dtype=np.float32)))


def test_whoever_reads_observations_is_refused(folder):
    env = gym.make(ID, images="painter", user_model=str(folder))
    users, model = env.unwrapped.user_model, UserModel.load(folder)
    assert (users.n_types, users.aggregator, users.temperature) == (8, "softmax", model.temperature)
    assert users.metadata["encoder"] == model.metadata["encoder"]
    assert users.with_aggregator("max").aggregator == "max"
    for reading in (users, users.with_aggregator("max")):
        for name in ("prompt_features", "utilities", "all_utilities", "posterior"):
            with pytest.raises(ValueError, match="beliefs and utilities cannot be computed from observations"):
                getattr(reading, name)()
    with pytest.raises(ValueError, match="cannot be computed from observations"):
        BelievedUserType(env).reset(seed=0)
    with pytest.raises(ValueError, match="a privileged belief reads embeddings of the frozen encoder"):
        load_user_model(str(folder))
    # The world's users may be handed on.
    again = gym.make(ID, images="painter", user_model=users)
    assert again.unwrapped._conversations.parts.eyes is not None


def test_a_copy_takes_the_encoder_along(folder, tmp_path):
    copied = UserModel.load(folder).with_aggregator("mean")
    copied.save(tmp_path / "copy")
    assert UserModel.load(tmp_path / "copy").encoder_folder == tmp_path / "copy" / ENCODER_FOLDER
    gym.make(ID, images="painter", user_model=str(tmp_path / "copy")).close()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "and the user model was fitted with"),
        (lambda path: path.unlink(), "has no encoder of its own"),
    ],
)
def test_a_harmed_encoder_is_refused(harm, words, folder, tmp_path):
    UserModel.load(folder).save(tmp_path)
    harm(tmp_path / ENCODER_FOLDER / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=words):
        gym.make(ID, images="painter", user_model=str(tmp_path))


def test_originals_are_copied_once_and_read_by_row(tmp_path):
    originals = Originals(tmp_path)
    for row in range(3):
        originals.add_image(row, Item(("d", str(row)), picture(row), None))
    assert originals.images(np.array([2, 0, 2])) == [picture(2), picture(0), picture(2)]
    assert len(originals) == 3
    again = Originals(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again.add_image(0, Item("x", picture(1), None))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert again.images(np.array([0])) == [picture(1)]
    (file,) = [path for path in before if path.read_bytes() == picture(1)]
    file.write_bytes(picture(2))
    with pytest.raises(ValueError, match="is broken; delete it and give the command again"):
        again.images(np.array([0]))
    file.unlink()
    with pytest.raises(ValueError, match="cannot read the picture"):
        again.images(np.array([0]))


def test_an_embedding_without_pixels_trains_no_encoder(tmp_path):
    with pytest.raises(ValueError, match=r"comes as an embedding, without pixels.*train_encoder=false"):
        Originals(tmp_path).add_image(0, Item(("mini", "3/4"), None, np.zeros(4)))


def test_a_published_model_is_written_in_open_clips_layout(frozen, tmp_path):
    frozen.write_with_weights(module_bytes(frozen.copy_model()), tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert set(config) == {"model_cfg", "preprocess_cfg"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    found = ClipEncoder.from_files(tmp_path, device="cpu")
    for name in ("model_config", "preprocessing", "tokenizer"):
        assert found.identity[name] == frozen.identity[name], name
    assert np.array_equal(found.encode_images([picture(0)]), frozen.encode_images([picture(0)]))
