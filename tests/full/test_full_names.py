"""What data and runs of a full-size world are filed under: what moves conversations, and nothing else."""

import dataclasses
import shutil

import pytest

from benchmarks.settings import config_hash
from pasta_gym.candidates.llm import LLMCandidatesConfig
from pasta_gym.candidates.llm_openai import OpenAIConfig
from pasta_gym.files import digest
from pasta_gym.full import ChatConfig
from pasta_gym.images import DiffusionModelConfig
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig
from pasta_gym.trajectories.collection import dataset_identity
from pasta_gym.worlds import MiniWorld, make_world
from tests.full.tiny_full import write_tiny_world


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_tiny_world(tmp_path_factory.mktemp("full"))


HASHED = {"agent": {}, "evaluation": {}, "data": {}, "checkpoint": None}
OF_THE_MACHINE = {
    "image_model": {"batch_size": 3, "device": "auto", "compile": True, "attention_slicing": True, "vae_slicing": False,
                    "allow_download": True, "cache_dir": "elsewhere"},
    "chat": {"base_url": "http://localhost:1/v1", "api_key_env": "KEY", "device": "cpu", "allow_download": True,
             "server": OpenAIConfig(2, 3.0, 4, 5.0, 6.0, 7.0, stream=True, length_field="max_completion_tokens")},
    "clip": {"device": "auto", "batch_size": 3, "allow_download": True},
    None: {"image_cache": "elsewhere", "image_cache_gigabytes": 3.0, "reply_cache": "elsewhere"},
}  # fmt: skip
OF_THE_CONTENT = {
    "image_model": {"steps": 3, "guidance": 1.5, "height": 64, "revision": "r", "variant": "fp16", "dtype": "bfloat16",
                    "scheduler": "EulerDiscreteScheduler", "max_sequence_length": 17, "model": "acme/other"},
    "chat": {"model": "m", "revision": "r", "dtype": "bfloat16", "backend": "transformers",
             "server": [OpenAIConfig(send_seed=False), OpenAIConfig(extra_body={"top_k": 7})]},
    "clip": {"model": "ViT-B-32", "tag": "openai", "revision": "r", "dtype": "bfloat16"},
    None: {"name": "other", "user_model": "elsewhere", "initial_prompts": "elsewhere",
           "candidates": LLMCandidatesConfig(n_attempts=2)},
}  # fmt: skip


def changes_of(config, fields):
    """The world with each of the fields changed alone, with its name."""
    for part, values in fields.items():
        for name, value in values.items():
            for one in value if isinstance(value, list) else [value]:
                changes = {name: one}
                if (part, name) == ("image_model", "height"):
                    changes["width"] = one  # pictures are square
                if (part, one) == ("chat", "transformers"):
                    changes["model"] = config.chat.model or "m"
                inner = changes if part is None else {part: dataclasses.replace(getattr(config, part), **changes)}
                yield f"{part}.{name}", dataclasses.replace(config, **inner)


def names_of(config):
    """The id of a dataset and the hash of a run, on models that are the same."""
    world = {"_target_": "pasta_gym.full.FullWorldConfig", **plain(config)}
    run = config_hash({**HASHED, "env": {"_target_": "pasta_gym.trajectories.EnvironmentConfig", "world": world}})
    return digest(dataset_identity(CollectionConfig(EnvironmentConfig(world=config)), {})), run


def test_the_batch_counts_where_conversations_meet():
    """Whose past is whose depends on the batch; every other agent acts in any batch alike."""
    bare = {**HASHED, "env": {}}
    hashes = {
        (name, size): config_hash({**bare, "agent": {"_target_": name}, "evaluation": {"seed": 0, "batch_size": size}})
        for name in ("agents.foreign_past.ForeignPast", "agents.iql.IQLAgent")
        for size in (250, 100)
    }
    assert hashes["agents.iql.IQLAgent", 250] == hashes["agents.iql.IQLAgent", 100]
    assert hashes["agents.foreign_past.ForeignPast", 250] != hashes["agents.foreign_past.ForeignPast", 100]
    assert hashes["agents.foreign_past.ForeignPast", 250] == config_hash(
        {**bare, "agent": {"_target_": "agents.foreign_past.ForeignPast"}, "evaluation": {"seed": 0}}
    )  # the default's, as it was


def plain(config):
    """What a configuration file holds of a dataclass."""
    return {
        field.name: {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **plain(value)}
        if dataclasses.is_dataclass(value := getattr(config, field.name))
        else value
        for field in dataclasses.fields(config)
    }


def test_what_moves_no_conversation_is_in_no_name(config):
    own = names_of(config)
    named = {name: names_of(changed) for name, changed in changes_of(config, OF_THE_MACHINE)}
    assert len(named) == 18
    assert {name for name, names in named.items() if names != own} == set()
    offloaded = DiffusionModelConfig("acme/m", 1, 0.0, 32, 32, offload="model")
    assert offloaded.identity() == dataclasses.replace(offloaded, offload="none").identity()


def test_what_moves_conversations_is_in_both_names(config):
    seen = [names_of(config), *(names_of(changed) for _, changed in changes_of(config, OF_THE_CONTENT))]
    assert len(seen) == 24
    for kind in zip(*seen, strict=True):
        assert len(set(kind)) == len(seen)


def test_a_field_is_either_of_the_machine_or_of_the_content(config):
    for part in ("image_model", "chat", "clip", None):
        owner = config if part is None else getattr(config, part)
        parts = {"image_model", "chat", "clip", "width", "offload"}  # told one by one, or above
        told = set(OF_THE_MACHINE[part]) | set(OF_THE_CONTENT[part])
        assert told - parts == {field.name for field in dataclasses.fields(owner)} - parts


def test_a_cache_that_grows_makes_no_other_run_or_data(config, tmp_path):
    """The cache's entries are safetensors files, as weights are."""
    kept = dataclasses.replace(config, image_cache=str(tmp_path / "images"), reply_cache=str(tmp_path / "replies"))
    before = names_of(kept)
    for folder in (tmp_path / "images", tmp_path / "replies"):
        (folder / "ab").mkdir(parents=True)
        (folder / "ab" / "picture.safetensors").write_bytes(b"painted meanwhile")
    assert names_of(kept) == before == names_of(config)
    # A recipe that says nothing of itself is taken as it is written.
    for world in ("mini", MiniWorld(number=1)):
        environment = EnvironmentConfig(world=world)
        assert environment.identity() == dataclasses.asdict(environment)
    other = {"_target_": "pasta_gym.worlds.MiniWorld", "number": 1}
    env = {"_target_": "pasta_gym.trajectories.EnvironmentConfig"}
    assert config_hash({**HASHED, "env": {**env, "world": other}}) == digest({**HASHED, "env": {**env, "world": other}})


def test_folders_of_models_count_by_their_weights_and_prompts_by_their_words(config, tmp_path):
    for name, source in (("clip", config.clip.model), ("flux", config.image_model.model), ("users", config.user_model)):
        shutil.copytree(source, tmp_path / name)
    shutil.copy(config.initial_prompts, tmp_path / "prompts.txt")
    moved = dataclasses.replace(
        config,
        clip=dataclasses.replace(config.clip, model=str(tmp_path / "clip")),
        image_model=dataclasses.replace(config.image_model, model=str(tmp_path / "flux")),
        user_model=str(tmp_path / "users"),
        initial_prompts=str(tmp_path / "prompts.txt"),
    )
    seen = [names_of(moved)]
    assert seen == [names_of(config)]
    for changed in ("clip/open_clip_model.safetensors", "users/user_model.safetensors", "prompts.txt",
                    "flux/vae/diffusion_pytorch_model.safetensors"):  # fmt: skip
        (tmp_path / changed).write_bytes((tmp_path / changed).read_bytes() + b" ")
        seen.append(names_of(moved))
    assert len(set(seen)) == 5


def test_another_version_of_a_local_language_model_makes_other_data(config, tmp_path, monkeypatch):
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")

    def candidates_by(model, **changes):
        chat = ChatConfig("transformers", model=str(model), **changes)
        make_world.cache_clear()
        return make_world(dataclasses.replace(config, chat=chat)).fingerprint()["candidates"]

    first = candidates_by(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert candidates_by(tmp_path / "elsewhere") == first == candidates_by(folder, device="cpu")
    (folder / "model.safetensors").write_bytes(b"2")
    assert candidates_by(folder) != first
    (tmp_path / "elsewhere" / "chat_template.jinja").write_text("another")
    assert candidates_by(tmp_path / "elsewhere") not in {first, candidates_by(folder)}
    # In the hub's cache a branch is the commit that it is at.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--acme--chat"
    (repository / "refs").mkdir(parents=True)
    seen = [candidates_by("acme/chat")]
    for commit in ("a" * 40, "b" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs" / "main").write_text(commit)
        seen.append(candidates_by("acme/chat"))
        assert candidates_by("acme/chat", revision=commit) == seen[-1]
    assert len(set(seen)) == 3
    make_world.cache_clear()
