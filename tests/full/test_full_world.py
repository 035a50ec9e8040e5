"""A full-size world out of tiny models in their real formats: only the number of weights differs."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import pickle
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import pasta_gym  # noqa: F401
from benchmarks.settings import models_digest
from pasta_gym.candidates.llm import LLMCandidatesConfig
from pasta_gym.candidates.llm_chat import ChatRequest, Message, Sampling
from pasta_gym.envs.assembly import PastaConfig, assemble
from pasta_gym.full import ChatConfig, full_world_preset
from pasta_gym.full.world import load_chat
from pasta_gym.images import CachedImages, DiffusionImages
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig, collect, provenance
from pasta_gym.trajectories.storage import read_metadata, read_prompt_texts
from pasta_gym.worlds import WorldRecipe, make_world
from tests.candidates.server import answer, completion, serving
from tests.full.tiny_full import write_tiny_world, write_user_model
from tests.images.tiny_pipelines import quiet

CONF = pathlib.Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_tiny_world(tmp_path_factory.mktemp("full"))


SMALL = {"slate_size": 2, "images_per_prompt": 2, "horizon": 2}


def play(world, seed):
    with quiet():
        env = gym.make("PastaT2I-v0", world=world, split="train", reward="dense", **SMALL)
    observation, info = env.reset(seed=seed)
    seen, rewards, words = [observation], [], [info["initial_prompt"]]
    for _ in range(SMALL["horizon"]):
        observation, reward, terminated, _, info = env.step(np.array([0, 7]))
        seen.append(observation)
        rewards.append(reward)
        words += info["slate"]
    assert terminated
    assert env.observation_space.contains(observation)
    env.close()
    return seen, rewards, words


def test_an_episode_through_the_real_classes(config):
    seen, rewards, words = play(config, seed=3)
    assert words[0].startswith("a cat number")
    assert all(0 <= reward <= 10 for reward in rewards)
    assert np.abs(seen[-1]["slate_images"]).min(axis=-1).max() > 0
    images = make_world(config).image_generator("diffusion")
    assert isinstance(images, CachedImages)
    n_pictures = len(images.cache)
    assert n_pictures == 2 + SMALL["horizon"] * 4
    again, rewards_again, words_again = play(config, seed=3)
    assert words_again == words
    assert rewards_again == rewards
    np.testing.assert_array_equal(again[-1]["slate_images"], seen[-1]["slate_images"])
    assert len(images.cache) == n_pictures


@pytest.mark.parametrize("cached", [True, False])
def test_a_user_model_of_another_encoder_is_refused(config, tmp_path, cached):
    clip = hashlib.sha256((pathlib.Path(config.clip.model) / "open_clip_model.safetensors").read_bytes()).hexdigest()
    changed = config if cached else dataclasses.replace(config, image_cache="")
    for sha, fits in ((clip, True), ("a" * 64, False)):
        folder = tmp_path / sha[:4]
        write_user_model(folder)
        metadata = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps({**metadata, "encoder": {"sha256": sha}}))
        world = make_world(dataclasses.replace(changed, user_model=str(folder)))
        if fits:
            with quiet():
                assert isinstance(assemble(PastaConfig(images="diffusion"), world).images, CachedImages) is cached
        else:
            with quiet(), pytest.raises(ValueError, match=f"encoder {'a' * 16}, but images='diffusion' .* {clip[:16]}"):
                assemble(PastaConfig(images="diffusion"), world)


def test_a_world_is_made_once_and_travels_as_its_recipe(config):
    world = make_world(config)
    assert isinstance(config, WorldRecipe)
    assert make_world(dataclasses.replace(config)) is world
    assert pickle.loads(pickle.dumps(world)) is world
    assert dataclasses.replace(world, name="other").__reduce__()[0] is type(world)
    other = make_world(dataclasses.replace(config, image_cache=""))
    assert other is not world
    with quiet():
        assert isinstance(other.image_generator("diffusion"), DiffusionImages)


def test_initial_prompts_are_split(config):
    world = make_world(config)
    splits = {name: set(ids.tolist()) for name, ids in world.initial_prompts.items()}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 60
    assert all(text.startswith("a cat number") for text in world.prompt_book.texts(world.initial_prompts["train"]))


def test_what_was_made_in_a_world_is_filed_under_its_models(config):
    names = make_world(config).fingerprint()
    assert set(names) == {"candidates", "encoder", "images", "initial prompts"}
    steps = dataclasses.replace(config, image_model=dataclasses.replace(config.image_model, steps=3))
    changed = make_world(steps).fingerprint()
    assert {name for name in names if names[name] != changed[name]} == {"images"}
    assert EnvironmentConfig(world=config).world_name == "tiny-flux"
    assert dataclasses.asdict(EnvironmentConfig(world=config))["world"]["image_model"]["steps"] == 2


LOGGED = {"images": "diffusion", "slate_size": 2, "images_per_prompt": 1, "horizon": 2}


def test_other_prompts_or_users_under_the_same_names_make_other_data_and_runs(config, tmp_path):
    shutil.copytree(config.user_model, tmp_path / "users")
    shutil.copy(config.initial_prompts, tmp_path / "prompts.txt")
    own = dataclasses.replace(config, user_model=str(tmp_path / "users"), initial_prompts=str(tmp_path / "prompts.txt"))

    def names():
        make_world.cache_clear()  # what a new process has
        return {**make_world(own).fingerprint(), "run": models_digest(EnvironmentConfig(world=own))}

    seen = [names()]
    assert names() == seen[0]
    prompts = (tmp_path / "prompts.txt").read_text()
    (tmp_path / "prompts.txt").write_text(prompts.replace("number 59", "in the rain"))
    seen.append(names())
    assert {name for name in seen[0] if seen[0][name] != seen[1][name]} == {"initial prompts", "run"}
    weights = tmp_path / "users" / "user_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    seen.append(names())
    assert {name for name in seen[0] if seen[1][name] != seen[2][name]} == {"run"}
    make_world.cache_clear()


def test_data_are_filed_under_the_users_that_were_asked_and_not_under_the_worlds_own(config, tmp_path):
    def hashes(recipe, users=None):
        make_world.cache_clear()
        with quiet():
            envs = EnvironmentConfig(world=recipe, user_model=users, **LOGGED).make(1)
        try:
            return provenance.model_hashes(envs)
        finally:
            envs.close()

    alone = dataclasses.replace(config, user_model=str(tmp_path / "none yet"))
    by_argument = hashes(alone, config.user_model)
    assert set(by_argument) == {"candidates", "encoder", "images", "initial prompts", "user model in use"}
    assert by_argument == hashes(config)
    tmp_path.joinpath("none yet").mkdir()
    other = tmp_path / "other"
    shutil.copytree(config.user_model, other)
    record = json.loads((other / "metadata.json").read_text())
    (other / "metadata.json").write_text(json.dumps({**record, "note": "of others"}))
    assert {n for n, v in hashes(config, str(other)).items() if v != by_argument[n]} == {"user model in use"}
    make_world.cache_clear()


def test_a_killed_collection_goes_on_in_a_process_that_has_met_no_prompt(config, tmp_path):
    logged = CollectionConfig(EnvironmentConfig(world=config, **LOGGED), n_episodes=4, shard_size=2)

    def kill(done, _):
        raise KeyboardInterrupt(done)

    with quiet():
        whole = collect(logged, root=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt, match="2"):
            collect(logged, root=tmp_path / "cut", progress=kill)
        make_world.cache_clear()  # a new process has a new prompt book
        went_on = collect(logged, root=tmp_path / "cut")
    assert went_on.name == whole.name
    assert read_prompt_texts(went_on) == read_prompt_texts(whole)
    assert any(text.startswith("a cat number") for text in read_prompt_texts(went_on))
    stats = read_metadata(went_on)["candidate_stats"]
    assert stats == read_metadata(whole)["candidate_stats"]
    # Each episode is proposed for at 0, 1 and 2 turns, and nobody sees the last; the rules write all the others.
    assert {name: stats[name] for name in ("proposals", "incomplete_proposals", "fallback_prompts")} == {
        "proposals": 12,
        "incomplete_proposals": 8,
        "fallback_prompts": 200,
    }


def test_missing_parts_say_how_to_get_them(config, tmp_path, monkeypatch):
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs initial prompts, and there is no .*worlds.sdxl.prompts\.txt"):
        make_world("sdxl")
    (tmp_path / "worlds" / "sdxl").mkdir(parents=True)
    (tmp_path / "worlds" / "sdxl" / "prompts.txt").write_text("a cat\na dog\na house on a hill\n")
    with pytest.raises(
        ValueError, match=r"the world 'sdxl' needs a user model.*benchmarks\.fit_user_model.*gym\.make\(user_model="
    ):
        gym.make("PastaT2I-v0", world="sdxl")
    (tmp_path / "worlds" / "sdxl" / "user_model" / "phases").mkdir(parents=True)  # of a fit that was stopped
    with pytest.raises(ValueError, match=r"the world 'sdxl' needs a user model"):
        make_world("sdxl").users()
    with pytest.raises(ValueError, match=r"the world 'sdxl' needs a user model"):
        models_digest(EnvironmentConfig(world="sdxl"))  # before a sweep begins
    # With another's users the world needs none of its own: what is missing next are models.
    with pytest.raises(ValueError, match="hf download timm"):
        gym.make("PastaT2I-v0", world="sdxl", user_model=config.user_model)
    assert make_world("sdxl").users(config.user_model).n_types == 8
    shutil.copytree(config.user_model, tmp_path / "worlds" / "sdxl" / "user_model", dirs_exist_ok=True)
    world = make_world("sdxl")
    assert world.users().n_types == 8
    assert world.name == "sdxl"
    assert world.picture_size == 1024
    assert make_world("sdxl") is world
    assert models_digest(EnvironmentConfig(world="sdxl"))  # no model is loaded for it: there is none
    with pytest.raises(ValueError, match=r"world must be one of .*'sdxl', 'flux'.* got 'sdxk'"):
        make_world("sdxk")
    make_world.cache_clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name must be letters, digits.* got 'a/b'"),
        ({"name": ""}, "name must be letters"),
        ({"image_cache_gigabytes": 0}, "image_cache_gigabytes must be above 0, got 0"),
    ],
)
def test_values_out_of_range(config, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


def test_names_and_shapes_out_of_range(config):
    wide = dataclasses.replace(config.image_model, width=64)
    with pytest.raises(ValueError, match=r"square pictures, got 32 x 64"):
        dataclasses.replace(config, image_model=wide)
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'gemini'"):
        ChatConfig("gemini")
    with pytest.raises(ValueError, match=r"backend 'openai' needs the name of a model"):
        ChatConfig("openai")
    with pytest.raises(ValueError, match=r"preset must be one of .* got 'mini'"):
        full_world_preset("mini")
    with pytest.raises(ValueError, match=r"unknown fields \['clips'\]"):
        full_world_preset("sdxl", clips=1)


@pytest.mark.parametrize(
    ("name", "model", "steps"), [("sdxl", "stable-diffusion-xl", 30), ("flux", "FLUX.1-schnell", 4)]
)
def test_a_full_world_is_a_change_of_the_configuration(name, model, steps):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("run", overrides=[f"world={name}"])
        mini = compose("run")
    environment = instantiate(OmegaConf.to_container(composed.env, resolve=True))
    assert isinstance(environment, EnvironmentConfig)
    assert environment.world_name == name
    assert model in environment.world.image_model.model
    assert environment.world.image_model.steps == steps
    assert composed.images == "diffusion"
    assert instantiate(OmegaConf.to_container(composed.data, resolve=True)).environment.images == "diffusion"
    assert mini.env.world == "mini"
    assert mini.images == "surrogate"


def test_a_world_may_leave_out_what_its_model_refuses():
    page = (CONF.parent / "docs" / "full_size.md").read_text()
    (override,) = re.findall(r"`(\+env\.world\.candidates=[^`]+)`", page)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("run", overrides=["world=sdxl", " ".join(override.split())])
    world = instantiate(OmegaConf.to_container(composed.env, resolve=True)).world
    assert world.candidates == LLMCandidatesConfig(sampling=Sampling(top_p=None, temperature=None))


@pytest.mark.parametrize("name", ["sdxl", "flux"])
@pytest.mark.parametrize(
    ("override", "sent"),
    [
        ([], {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        (["env.world.chat.server.extra_body=null"], {}),
        (["env.world.chat.server.extra_body.top_k=0"], {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}),
    ],
)
def test_a_server_is_told_to_filter_by_the_nucleus_alone(name, override, sent):
    """vLLM fills what is not sent from the model's generation_config.json, which makes Qwen greedy."""
    pytest.importorskip("openai")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("run", overrides=[f"world={name}", *override])
    world = instantiate(OmegaConf.to_container(composed.env, resolve=True)).world
    with serving(answer(completion("- a fox"))) as (record, url):
        chat = load_chat(dataclasses.replace(world, chat=dataclasses.replace(world.chat, base_url=url), reply_cache=""))
        with contextlib.closing(chat):
            chat.complete([ChatRequest((Message("user", ("a",)),), 1)], Sampling())
    ((_, _, body),) = record.requests
    filters = {"top_k", "min_p", "repetition_penalty", "extra_body"}
    assert {field: value for field, value in body.items() if field in filters} == sent
    assert (body["top_p"], body["temperature"]) == (0.8, 1.0)
