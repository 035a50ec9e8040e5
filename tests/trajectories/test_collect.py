import dataclasses
import importlib
import importlib.util
import pathlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pasta_gym import worlds, wrappers
from pasta_gym.trajectories import CollectionConfig, EnvironmentConfig, collect, export, load, provenance
from pasta_gym.trajectories.environment import first_environment_seed

SIZES = {"n_candidates": 9, "n_categories": 3, "slate_size": 2, "images_per_prompt": 2, "horizon": 4}
CONFIG = CollectionConfig(EnvironmentConfig(world="tiny", **SIZES), n_episodes=11, seed=3, shard_size=4)
collect_module = importlib.import_module("pasta_gym.trajectories.collection")


@pytest.fixture
def tiny(monkeypatch):
    path = pathlib.Path(__file__).parents[1] / "env" / "tiny_world.py"
    spec = importlib.util.spec_from_file_location("tiny_world_of_trajectories", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    world = module.tiny_world()
    monkeypatch.setitem(worlds.WORLDS, "tiny", lambda: world)
    worlds.make_world.cache_clear()
    yield world
    worlds.make_world.cache_clear()


def test_logged_observations_are_those_of_the_environment(tiny, tmp_path):
    dataset = load(collect(CONFIG, root=tmp_path))
    assert len(dataset) == 11
    envs = CONFIG.environment.make(11)
    obs, _ = envs.reset(seed=first_environment_seed(3, stream=0))
    for turn in range(4):
        logged = dataset.observations(np.arange(11), np.full(11, turn))
        assert set(logged) == set(obs)
        for name, values in obs.items():
            assert logged[name].shape == values.shape, name
            assert logged[name].dtype == values.dtype, name
            assert_allclose(logged[name], values, atol=5e-3, err_msg=name)  # images went through float16
        obs, reward, terminated, _, _ = envs.step(dataset.actions[:, turn])
        assert_array_equal(obs["choices"][:, turn], dataset.choices[:, turn])
        assert_allclose(reward, dataset.rewards[:, turn])
        assert terminated.all() == (turn == 3)


def test_the_behaviour_is_one_prompt_a_category_with_its_probability(tiny, tmp_path):
    dataset = load(collect(CONFIG, root=tmp_path))
    shown = np.take_along_axis(dataset.categories, dataset.actions, axis=2)
    assert (shown[..., 0] != shown[..., 1]).all()
    assert_allclose(dataset.behaviour_probabilities, 1 / (3 * 3 * 3))
    assert len(np.unique(dataset.actions.reshape(-1, 2), axis=0)) > 15


def test_the_content_does_not_depend_on_shards(tiny, tmp_path):
    one = load(collect(CONFIG, root=tmp_path / "a"))
    other = load(collect(dataclasses.replace(CONFIG, shard_size=11), root=tmp_path / "b"))
    for name in ("candidates", "actions", "choices", "rewards", "slate_images", "initial_prompts"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.metadata["dataset_id"] == other.metadata["dataset_id"]


def test_sparse_data_are_the_dense_ones_with_the_last_reward(tiny, tmp_path):
    dense = load(collect(CONFIG, root=tmp_path))
    environment = dataclasses.replace(CONFIG.environment, reward="sparse")
    sparse = load(collect(dataclasses.replace(CONFIG, environment=environment), root=tmp_path))
    assert sparse.metadata["dataset_id"] != dense.metadata["dataset_id"]
    assert_array_equal(sparse.rewards, dense.with_reward("sparse").rewards)
    assert_array_equal(sparse.actions, dense.actions)


def test_a_killed_collection_goes_on_and_the_second_call_reads_the_cache(tiny, tmp_path, monkeypatch):
    expected = load(collect(CONFIG, root=tmp_path / "whole"))
    real, firsts = collect_module.run_shard, []

    def dying(envs, config, first, n_wanted):
        firsts.append(first)
        if len(firsts) == 2:
            raise KeyboardInterrupt
        return real(envs, config, first, n_wanted)

    monkeypatch.setattr(collect_module, "run_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        collect(CONFIG, root=tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*/metadata.json"))
    folder = collect(CONFIG, root=tmp_path / "cut")
    assert firsts == [0, 4, 4, 8]
    assert_array_equal(load(folder).slate_images, expected.slate_images)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == [folder.name]
    collect(CONFIG, root=tmp_path / "cut")
    assert len(firsts) == 4


@pytest.mark.parametrize("n_played", [1, 3])  # the other is done between two of our shards, or before we join ours
def test_whoever_is_second_takes_the_dataset_of_the_first(tiny, tmp_path, monkeypatch, n_played):
    plain = collect_module.run_shard
    played = []

    def run_shard(envs, config, first, n_wanted):
        shard = plain(envs, config, first, n_wanted)
        played.append(first)
        if len(played) == n_played:
            monkeypatch.setattr(collect_module, "run_shard", plain)
            collect(CONFIG, root=tmp_path)  # as another process would, which removes the parts when it is done
            monkeypatch.setattr(collect_module, "run_shard", run_shard)
        return shard

    monkeypatch.setattr(collect_module, "run_shard", run_shard)
    folder = collect(CONFIG, root=tmp_path)
    assert len(played) == n_played
    assert load(folder).choices.shape == (11, 4)


def test_a_broken_shard_of_an_unfinished_dataset_is_an_error(tiny, tmp_path, monkeypatch):
    def load_shard(folder):
        raise ValueError(f"{folder} cannot be read")

    monkeypatch.setattr(collect_module.storage, "load_shard", load_shard)
    with pytest.raises(ValueError, match="cannot be read"):
        collect(CONFIG, root=tmp_path)


def test_the_id_follows_everything_that_moves_the_content(tiny, monkeypatch):
    def identity(config=CONFIG, hashes=None):
        made = collect_module.dataset_identity(config, {"a": "1"} if hashes is None else hashes)
        return collect_module.digest(made)

    others = [
        dataclasses.replace(CONFIG, seed=4),
        dataclasses.replace(CONFIG, n_episodes=12),
        dataclasses.replace(CONFIG, environment=dataclasses.replace(CONFIG.environment, split="test")),
        dataclasses.replace(CONFIG, environment=dataclasses.replace(CONFIG.environment, images_per_prompt=3)),
    ]
    ids = [identity(), *(identity(config) for config in others), identity(hashes={"a": "2"})]
    assert len(set(ids)) == len(ids)
    assert identity(dataclasses.replace(CONFIG, shard_size=7)) == identity()


def test_streams_of_seeds_share_no_episode():
    begins = [first_environment_seed(seed, stream=stream) for seed in range(3) for stream in (0, 1)]
    assert begins == sorted(begins)
    assert min(np.diff(begins)) >= 1 << 20
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        first_environment_seed(-1, stream=0)
    with pytest.raises(ValueError, match="stream must be"):
        first_environment_seed(0, stream=2)


def test_the_untrained_generator_can_be_logged_and_is_another_dataset(tiny, tmp_path):
    random, untrained = (
        load(collect(dataclasses.replace(CONFIG, policy=policy), root=tmp_path))
        for policy in ("random_one_per_category", "untrained_generator")
    )
    assert random.metadata["dataset_id"] != untrained.metadata["dataset_id"]
    assert untrained.metadata["policy"] == "untrained_generator"
    shown = np.take_along_axis(untrained.categories, untrained.actions, axis=2)
    first = (untrained.categories[:, :, None] == shown[..., None]).argmax(axis=-1)
    assert np.array_equal(untrained.actions, first)
    assert (random.actions != untrained.actions).any()
    assert np.unique(untrained.behaviour_probabilities) == pytest.approx([1 / 3])  # two of three categories


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_episodes": 0}, r"n_episodes must be a whole number in 1\.\.1048576, got 0"),
        ({"n_episodes": 10.5}, r"n_episodes must be a whole number in 1\.\.1048576, got 10\.5"),
        ({"n_episodes": (1 << 20) + 1}, r"in 1\.\.1048576, got 1048577"),
        ({"shard_size": 0}, "shard_size must be a whole number of 1 or more, got 0"),
        ({"seed": -1}, "seed must be a whole number of 0 or more, got -1"),
        ({"policy": "greedy"}, "policy must be one of .*'untrained_generator'.*got 'greedy'"),
        ({"environment": EnvironmentConfig(reward="medium")}, "reward"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CollectionConfig(**changes)


def test_d3rlpy_gets_whole_episodes_with_slates_as_scores(tiny, tmp_path):
    dataset = load(collect(CONFIG, root=tmp_path))
    made = export.to_d3rlpy(dataset, n_episodes=5)
    assert [len(e.actions) for e in made.episodes] == [4] * 5
    assert all(e.terminated for e in made.episodes)
    third = made.episodes[2]
    decoded = wrappers.decode_scores(third.actions, dataset.categories[2], 2)
    assert_array_equal(np.sort(decoded, axis=1), np.sort(dataset.actions[2], axis=1))
    flat = export.flatten_observations(dataset.observations(np.full(4, 2), np.arange(4)))
    assert_array_equal(third.observations, flat)
    assert_allclose(third.rewards[:, 0], dataset.rewards[2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"n_episodes must be in 1\.\.11, got 12"):
        export.to_d3rlpy(dataset, n_episodes=12)
    alike = dataclasses.replace(dataset, categories=np.zeros_like(dataset.categories))
    with pytest.raises(ValueError, match="two candidates of one category cannot be written as scores"):
        export.to_d3rlpy(alike)


def test_the_command_passes_on_what_it_is_told_and_prints_the_folder(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        collect_module, "collect", lambda config, **options: asked.append((config, options)) or tmp_path
    )
    collect_module.main([])
    words = (
        "--episodes 7 --seed 3 --world tiny --images blurred --split test --policy untrained_generator --shard-size 2"
    )
    collect_module.main([*words.split(), "--root", str(tmp_path)])
    assert capsys.readouterr().out.split() == [str(tmp_path)] * 2
    assert asked[0][0] == CollectionConfig()
    assert asked[1][0] == CollectionConfig(
        EnvironmentConfig(world="tiny", images="blurred", split="test"), 7, 3, "untrained_generator", 2
    )
    assert [options["root"] for _, options in asked] == [None, tmp_path]


def test_hashes_name_weights_and_see_a_changed_byte(tmp_path):
    (tmp_path / "part").mkdir()
    weights = tmp_path / "part" / "model.safetensors"
    weights.write_bytes(b"abc")
    before = provenance.folder_hashes(tmp_path)
    weights.write_bytes(b"abd")
    after = provenance.folder_hashes(tmp_path)
    assert list(before) == list(after) == ["part/model.safetensors"]
    assert before != after
    (tmp_path / "part" / "tokenizer.json").write_text("{}")  # other token numbers are another world, too
    assert set(provenance.folder_hashes(tmp_path)) - set(after) == {"part/tokenizer.json"}
    assert provenance.git_revision(tmp_path) == "unknown"
