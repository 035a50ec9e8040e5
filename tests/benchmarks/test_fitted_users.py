"""From rater labels to scores of agents in front of the users fitted to them, by two commands and no code."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir

from benchmarks import fit_user_model
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, read_settings
from pasta_gym.user_model.user_model import UserModel
from pasta_gym.worlds import make_world
from tests.benchmarks.mini_labels import label_small_world

FIT = [
    "data=preferences/mini",
    "user_model=mini",
    "one_type=false",
    "++user_model.em.n_types=3",
    "++user_model.em.steps=6",
    "++user_model.em.trial_steps=2",
    "++user_model.em.restarts=1",
    "++user_model.em.sorting=null",
    "++user_model.sequential.steps=2",
]
RUN = [
    "world=mini",
    "images=surrogate",
    "data=simulated_small",
    "tracking=none",
    "data.n_episodes=12",
    "data.shard_size=12",
    "evaluation.n_episodes=6",
    "evaluation.batch_size=6",
]
STEPS = ["++agent.config.steps=4", "++agent.config.mixture={steps: 4, n_components: 2}"]


def composed(name, *overrides):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(name, list(overrides))


def fit_settings(labels, folder):
    places = [f"data.0.folder={labels}", f"out={folder / 'users'}", f"cache={folder / 'embeddings'}"]
    return fit_user_model.read_settings(composed("fit_user_model", *FIT, *places))


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """A user model fitted by the one command on small labels about embeddings of the mini world's encoder."""
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path / "cache"))
    return fit_user_model.run(fit_settings(label_small_world(tmp_path / "raters", embedded=True), tmp_path))


def played(agent, runs, *overrides):
    """Run an agent; its settings and the rows of its scores."""
    settings = read_settings(composed("run", f"agent={agent}", f"runs={runs}", *RUN, *overrides))
    with (run(settings) / "scores.csv").open() as file:
        return settings, list(csv.DictReader(file))


def test_agents_run_in_front_of_fitted_users(fitted, tmp_path):
    users = f"+env.user_model={fitted}"
    rows = {}
    for agent, more in (("random", []), ("iql", STEPS)):
        settings, rows[agent] = played(agent, tmp_path / "runs", users, *more)
        assert settings.folder == tmp_path / f"runs/default/{agent}/sparse/simulated_small/mini-users/surrogate/seed_0"
        # Data are collected in front of the same users as agents are judged by.
        assert settings.data.environment.user_model == settings.environment.user_model == str(fitted)
        dataset = json.loads((settings.folder / "metadata.json").read_text())["dataset_id"]
        assert bool(dataset) == (agent == "iql")
    n_types = UserModel.load(fitted).n_types
    assert n_types == 3
    for row in (*rows["random"], *rows["iql"]):
        assert int(row["user_type"]) < n_types
        assert 0 <= float(row["final_utility"]) <= 1
    # Prompts and users are the same for both agents, what they show is not; and the shipped users are others.
    _, shipped = played("random", tmp_path / "runs")
    asked = {name: [row["prompt"] for row in found] for name, found in (*rows.items(), ("shipped", shipped))}
    assert asked["random"] == asked["iql"] == asked["shipped"]
    assert [row["user_type"] for row in rows["random"]] == [row["user_type"] for row in rows["iql"]]
    finals = [[float(row["final_utility"]) for row in found] for found in (rows["random"], rows["iql"], shipped)]
    assert len({tuple(final) for final in finals}) == 3
    assert all(len(final) == 6 for final in finals)


def test_labels_about_another_encoders_embeddings_are_not_fitted_as_this_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path / "cache"))
    labels = label_small_world(tmp_path / "raters", embedded=True)
    metadata = json.loads((labels / "metadata.json").read_text())
    assert metadata["encoder_sha256"] == make_world("mini").image_generator("surrogate").encoder_sha256
    (labels / "metadata.json").write_text(json.dumps(metadata | {"encoder_sha256": "f" * 16}))
    with pytest.raises(ValueError, match=r"mini_raters comes with embeddings of encoder f{16}, and the others are of"):
        fit_user_model.run(fit_settings(labels, tmp_path))
    assert not (tmp_path / "users").exists()
