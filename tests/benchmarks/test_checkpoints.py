"""Trained agents scored elsewhere: what comes along from their runs, what may be said, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import diffusion_scores, grid, runs, sweep
from benchmarks.checkpoints import keys_of
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, read_settings, usual_settings
from pasta_gym import worlds
from pasta_gym.mini.weights import weights_directory


@pytest.fixture
def trained(configure):
    """The run of an agent that learned with dense rewards in the tiny world."""
    return run(read_settings(configure("seed=1", "reward=dense")))


@pytest.fixture
def other_world(tiny, monkeypatch):
    monkeypatch.setitem(worlds.WORLDS, "other", lambda: replace(tiny, name="other"))
    return "other"


@pytest.fixture
def said(trained, tmp_path):
    """Read what a command line gives: ``said("images=diffusion")``, with ``checkpoint=`` before it."""

    def read(*overrides, known=True):
        line = [f"checkpoint={trained}", f"runs={tmp_path / 'runs'}", "evaluation.n_episodes=3", *overrides]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return read_settings(compose("run", line), line if known else None)

    return read


def test_the_environment_comes_along_from_the_run_that_trained_the_agent(said, trained, tmp_path):
    settings = said("images=diffusion")
    assert settings.environment.world == "tiny"
    assert settings.environment.slate_size == 3
    assert settings.environment.images_per_prompt == 2
    assert settings.environment.horizon == 4
    assert settings.environment.images == "diffusion"
    folder = run(settings)
    assert folder == tmp_path / "runs/default/own/dense/simulated/tiny/diffusion/seed_1"
    assert "moved" not in runs.saved_config(folder)
    assert runs.saved_config(folder)["env"] == runs.saved_config(trained)["env"]


@pytest.mark.parametrize("known", [True, False])
def test_what_is_said_of_the_environment_goes_before_what_comes_along(said, known):
    settings = said("+env.slate_size=2", "experiment_name=smaller", known=known)
    assert settings.environment.slate_size == 2
    assert settings.environment.horizon == 4
    assert settings.environment.world == "tiny"
    assert settings.resolved["moved"] == ["slate_size"]
    assert settings.key.data == "simulated"
    # An experiment's file says it as well.
    assert said("experiment=slate_size", "env.images_per_prompt=1").environment.slate_size == 4


def test_an_agent_in_another_world_has_run_directories_of_its_own(said, other_world, configure, tmp_path):
    settings = said(f"env.world={other_world}")
    assert settings.environment.world == "other"
    assert settings.environment.slate_size == 3
    folder = run(settings)
    assert folder == tmp_path / "runs/default/own/dense/simulated_tiny/other/surrogate/seed_1"
    own = read_settings(configure("seed=1", "reward=dense", "env.world=other"))
    assert own.folder == tmp_path / "runs/default/own/dense/simulated/other/surrogate/seed_1"


def test_a_world_that_is_the_usual_one_is_meant_where_it_is_said(said):
    assert said().environment.world == said(known=False).environment.world == "tiny"
    settings = said("world=mini")
    assert settings.environment.world == "mini"
    assert settings.key.world == "mini"
    assert settings.key.data == "simulated_tiny"


def test_users_of_one_world_do_not_come_along_to_another(said, trained, other_world, tmp_path):
    saved = OmegaConf.load(trained / "config.yaml")
    saved.env.user_model = str(tmp_path / "users")
    OmegaConf.save(saved, trained / "config.yaml")
    assert said().environment.user_model == str(tmp_path / "users")
    assert said().key.world == "tiny-users"
    assert said("env.world=tiny").environment.user_model == str(tmp_path / "users")
    moved = said(f"env.world={other_world}")
    assert moved.environment.user_model is None
    assert (moved.key.world, moved.key.data) == ("other", "simulated_tiny-users")
    assert moved.resolved["moved"] == ["user_model", "world"]


class Recipe:
    """A world's recipe with a setting that moves no conversation."""

    def __init__(self, name="tiny", batch_size=4):
        self.name, self.batch_size = name, batch_size

    def identity(self):
        return {"name": self.name}

    def make(self):
        return worlds.make_world(self.name)


def test_users_come_along_to_the_same_world_in_larger_batches(said, trained, other_world, tmp_path):
    saved = OmegaConf.load(trained / "config.yaml")
    saved.env.user_model = str(tmp_path / "users")
    saved.env.world = {"_target_": f"{__name__}.Recipe", "batch_size": 4}
    OmegaConf.save(saved, trained / "config.yaml")
    same = said(f"env.world={{_target_:{__name__}.Recipe,batch_size:16}}")
    assert same.resolved["env"]["world"] == {"_target_": f"{__name__}.Recipe", "batch_size": 16}
    assert same.environment.user_model == str(tmp_path / "users")
    assert "moved" not in same.resolved
    other = said(f"env.world={{_target_:{__name__}.Recipe,name:{other_world}}}")
    assert other.environment.user_model is None
    assert other.resolved["moved"] == ["user_model", "world"]


@pytest.mark.parametrize("world", ["env.world=other", "world=mini"])
def test_the_configuration_in_a_run_directory_makes_the_same_run(said, other_world, world):
    settings = said(world, "+env.slate_size=2")
    for overrides in (None, [], ["hydra.run.dir=."]):
        again = read_settings(OmegaConf.create(settings.resolved), overrides)
        assert again.key == settings.key
        assert again.resolved == settings.resolved


def test_a_whole_environment_that_is_said_is_taken_whole(said):
    settings = said("env=mini", "+env.horizon=2")
    assert settings.environment.world == "mini"
    assert (settings.environment.slate_size, settings.environment.horizon) == (4, 2)  # the tiny world's were 3 and 4


def test_what_moved_back_is_not_listed(said):
    moved = said("+env.slate_size=2").resolved
    back = OmegaConf.create({**moved, "env": {**moved["env"], "slate_size": 3}})
    assert "moved" not in read_settings(back).resolved


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "reward=sparse",
            r"reward is 'sparse', but the agent of checkpoint=.*seed_1 was trained with 'dense'; leave out",
        ),
        ("seed=0", r"seed is 0, but .* trained with 1; leave out seed=\.\.\., .* or checkpoint="),
        ("data_name=s3", "data_name is 's3', but .* trained with 'simulated'"),
        ("data=human", "data_name is 'human', but .* trained with 'simulated'; leave out data="),
        ("agent=slateq", "agent.name is 'slateq', but .* trained with 'own'"),
        ("agent.name=own_2", "agent.name is 'own_2', but .* trained with 'own'"),
        ("+agent.fails=true", "agent.fails is True, but .* trained with its default"),
        ("++data.n_episodes=13", "data.n_episodes is 13, but .* trained with 12"),
    ],
)
def test_what_a_trained_agent_was_made_with_cannot_be_changed(said, override, message):
    with pytest.raises(ValueError, match=message):
        said(override)


@pytest.mark.parametrize("override", ["reward=sparse", "seed=0", "data_name=simulated"])
def test_unknown_overrides_are_what_is_not_as_usual(said, override):
    assert said(override, known=False).key.reward == "dense"
    for unusual, message in (
        ("seed=7", "seed is 7"),
        ("data_name=s3", "data_name is 's3'"),
        ("agent=slateq", "agent.name is 'slateq'"),
    ):
        with pytest.raises(ValueError, match=message):
            said(unusual, known=False)


def test_what_agrees_with_the_training_may_be_said(said, other_world):
    agreed = ("reward=dense", "seed=1", "data=simulated", "++data.n_episodes=12", "agent=random", "agent.name=own")
    settings = said(*agreed, "agent._target_=own_agent.OwnAgent", "experiment_name=default")
    assert settings.key == said().key
    # The name that the data have elsewhere is theirs too.
    assert said("env.world=other", "data_name=simulated_tiny").key == said("env.world=other").key
    with pytest.raises(ValueError, match="data_name is 'simulated_tiny'"):
        said("data_name=simulated_tiny")


def test_an_experiments_name_comes_along_unless_one_is_said(configure, said, trained):
    saved = OmegaConf.load(trained / "config.yaml")
    saved.experiment_name = "first"
    OmegaConf.save(saved, trained / "config.yaml")
    assert said().key.experiment == "first"
    assert said("experiment_name=default").key.experiment == "default"
    assert said("experiment=small").key.experiment == "small"


def test_the_command_and_sweeps_know_what_was_said(said, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    line = (f"checkpoint={trained}", f"runs={tmp_path / 'runs'}", "seed=0")
    with pytest.raises(ValueError, match="seed is 0, but"):
        grid.run_once(*line)
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        good, bad = sweep.plan([line[:2], line], lambda job: compose("run", list(job)))
    assert good.problem == ""
    assert "seed is 0, but" in bad.problem


def test_keys_are_read_as_hydra_writes_them():
    line = ["+env.slate_size=3", "++agent.config.expectile=0.8", "~agent.name", "agent=iql", "hydra/launcher=several"]
    assert keys_of(line) == {"env.slate_size", "agent.config.expectile", "agent.name", "agent", "hydra/launcher"}


def test_usual_settings_are_those_of_a_command_without_arguments():
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        composed = OmegaConf.to_container(compose("run"))
    assert usual_settings() == {name: composed[name] for name in ("agent", "env", "data_name", "reward", "seed")}


def test_scores_on_diffusion_have_the_environment_of_the_run(trained):
    (settings,) = diffusion_scores.diffusion_settings(
        trained.parents[5], agents=["own"], rewards=["dense"], seeds=[1], n_episodes=3
    )
    assert settings.resolved["env"] == runs.saved_config(trained)["env"]
    assert "moved" not in settings.resolved


def test_every_job_of_the_grid_on_diffusion_says_what_its_agent_was_trained_with(tmp_path):
    for job in grid.small_grid(tmp_path):
        if "on diffusion" in job.name:
            assert {f"agent={job.name.split()[0]}", "reward=sparse", "seed=0"} <= set(job.arguments)


PRIVILEGED = (
    *("agent=iql_privileged", "++agent.config.steps=2", "++agent.config.batch_size=4"),
    *("data=simulated_small", "data.n_episodes=6", "data.shard_size=6", "evaluation.n_episodes=2"),
)


def moved_card(folder, **changes):
    card = json.loads((folder / "agent.json").read_text())
    card["config"]["posterior_from"] = "/another/machine/user_model"
    (folder / "agent.json").write_text(json.dumps({**card, **changes}))


def test_a_privileged_agent_from_another_machine_finds_its_users_or_says_how_to_tell_where_they_are(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path / "cache"))

    def settings_of(*overrides):
        line = [*overrides, f"runs={tmp_path / 'runs'}"]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return read_settings(compose("run", line), line)

    first = settings_of(*PRIVILEGED)
    trained = run(first)
    users = weights_directory() / "user_model"
    elsewhere = (f"checkpoint={trained}", "evaluation.n_episodes=2", "experiment_name=elsewhere")
    before = settings_of(*elsewhere)
    # As if all of this had happened on a machine where the package lies in another folder.
    saved = OmegaConf.load(trained / "config.yaml")
    saved.agent.config.posterior_from = "/another/machine/user_model"
    OmegaConf.save(saved, trained / "config.yaml")
    moved_card(trained / "checkpoint")
    settings = settings_of(*elsewhere)
    assert settings.resolved["agent"]["config"]["posterior_from"] == str(users.resolve())
    assert settings.key == before.key
    columns = ("chosen_utilities", "episodes")
    ours, theirs = (runs.read_scores(folder / "scores.csv")[0][1] for folder in (run(settings), trained))
    for column in columns:
        assert (getattr(ours, column) == getattr(theirs, column)).all()
    # A run that is taken up again there reads its own checkpoint.
    (trained / "metadata.json").unlink()
    assert run(first) == trained
    # Users that were fitted again, or another world's, are not those.
    moved_card(trained / "checkpoint", notes={"user_model_sha256": "0123456789abcdef"})
    shutil.rmtree(settings.folder)
    with pytest.raises(
        ValueError, match=r"weights 0123456789abcdef, but .*user_model has \w{16}; pass .*posterior_from="
    ):
        run(settings)
    # A card of an older checkout says nothing of weights.
    moved_card(trained / "checkpoint", notes={})
    run(settings)
    # What is said goes first.
    shutil.copytree(users, tmp_path / "copied")
    said = settings_of(*elsewhere, f"++agent.config.posterior_from={tmp_path / 'copied'}")
    assert said.resolved["agent"]["config"]["posterior_from"] == str(tmp_path / "copied")
    assert said.key == settings.key
    lost = settings_of(*elsewhere, "++agent.config.posterior_from=/nowhere", "agent.name=iql_privileged")
    with pytest.raises(ValueError, match=r"needs its user model: .*/nowhere.*\+\+agent\.config\.posterior_from=FOLDER"):
        run(replace(lost, key=replace(lost.key, experiment="lost")))
