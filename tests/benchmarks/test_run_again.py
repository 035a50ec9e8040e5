"""A run directory that is used a second time: after a mistake, after a kill, after a change."""

import json
import logging
import re
import types

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import revision, runs, settings, stopwatch
from benchmarks import run as run_module
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, read_settings

MISSPELT = "+agent.typo=3"


def test_a_misspelt_run_gives_way_to_the_corrected_one(configure):
    wrong = read_settings(configure(MISSPELT))
    with pytest.raises(Exception, match="typo"):
        run(wrong)
    assert (wrong.folder / "failure.json").exists()  # the report lists it until then
    folder = run(read_settings(configure()))
    assert folder == wrong.folder
    assert (folder / "scores.csv").exists()
    assert not (folder / "failure.json").exists()


@pytest.mark.parametrize("left", ["checkpoint", "parts", "metrics.jsonl", "metadata.json", "scores.csv"])
def test_a_failed_run_that_made_something_keeps_its_directory(configure, left):
    wrong = read_settings(configure(MISSPELT))
    with pytest.raises(Exception, match="typo"):
        run(wrong)
    if "." in left:
        (wrong.folder / left).write_text("{}\n")
    else:
        (wrong.folder / left).mkdir()
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        run(read_settings(configure()))
    assert (wrong.folder / left).exists()


def test_a_run_that_has_not_failed_keeps_its_directory(configure):
    wrong = read_settings(configure(MISSPELT))
    with pytest.raises(Exception, match="typo"):
        run(wrong)
    (wrong.folder / "failure.json").unlink()  # as while it still runs
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        run(read_settings(configure()))


def test_a_finished_run_says_what_to_do_after_an_edit_of_the_agents_code(configure, caplog):
    folder = run(read_settings(configure()))
    with caplog.at_level(logging.INFO, "benchmarks.run"):
        run(read_settings(configure()))
    said = f"{folder} is finished, nothing to do; if the code changed, delete it or change agent.name"
    assert said in caplog.messages


class Killed(BaseException):
    """As the process ends on SIGKILL, so does a test's: nothing catches it."""


@pytest.mark.parametrize("nth", [1, 2])
def test_a_run_killed_while_older_weights_are_cleared_keeps_nothing_of_them(configure, monkeypatch, nth):
    settings = read_settings(configure())
    folder, removed = run(settings), []
    (folder / "parts").mkdir()
    (folder / "checkpoint" / "own.json").write_text('{"name": "own", "offset": 1000}')  # of the older weights
    before = (folder / "started.json").read_text()

    def dies(path, *more, **named):
        removed.append(path.name)
        if len(removed) == nth:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run_module.provenance, "folder_hashes", lambda path: {"new": "weights"})
        patched.setattr(runs.shutil, "rmtree", dies)
        with pytest.raises(Killed):
            run(settings)
    # The next run, of either weights, sees whose the rest is, and no half of a checkpoint.
    assert len(removed) == nth
    assert (folder / "started.json").read_text() == before
    assert not (folder / "metadata.json").exists()
    assert not (folder / "checkpoint").exists()
    monkeypatch.setattr(run_module.provenance, "folder_hashes", lambda path: {"new": "weights"})
    run(settings)
    assert json.loads((folder / "checkpoint" / "own.json").read_text())["offset"] < 10
    assert not list(folder.glob(".checkpoint*"))
    assert not list(folder.glob(".parts*"))


@pytest.mark.parametrize("left", ["checkpoint", "parts"])
def test_what_lies_in_a_directory_that_does_not_say_whose_it_is_is_cleared(configure, left):
    settings = read_settings(configure())
    (settings.folder / left).mkdir(parents=True)
    (settings.folder / left / "own.json").write_text('{"name": "own", "offset": 1000}')
    (settings.folder / "notes.txt").write_text("mine")
    runs.prepare(settings.folder, {"config_hash": settings.key.config_hash, "models": "m"})
    assert not (settings.folder / left).exists()
    assert (settings.folder / "notes.txt").read_text() == "mine"


def test_a_commit_made_during_a_run_is_not_the_one_that_it_names(configure, monkeypatch):
    monkeypatch.setattr(run_module.provenance, "git_revision", lambda folder: "made since")
    metadata = json.loads((run(read_settings(configure())) / "metadata.json").read_text())
    assert metadata["git_revision"] == revision.REVISION != "made since"


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(stopwatch, "time", types.SimpleNamespace(monotonic=made.monotonic))
    return made


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("killed_in", "played"), [(1, [0, 0, 4, 8]), (2, [0, 4, 4, 8])])
def test_a_run_that_was_killed_counts_the_seconds_of_all_that_was_kept(
    configure, clock, monkeypatch, killed_in, played
):
    """Training takes 1000 s and each of three batches 20 s; the process dies 7 s into the first or second batch."""
    batches, train, evaluate = [], run_module.training_data, run_module.evaluate

    def slow_data(settings):
        clock.now += 1000
        return train(settings)

    def slow(*arguments, **named):
        batches.append(named["first_episode"])
        if len(batches) == killed_in:
            clock.now += 7
            raise KeyboardInterrupt
        clock.now += 20
        return evaluate(*arguments, **named)

    monkeypatch.setattr(run_module, "training_data", slow_data)
    monkeypatch.setattr(run_module, "evaluate", slow)
    settings = read_settings(configure())
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    clock.now += 5000  # nobody worked on it
    folder = run(settings)
    assert batches == played
    assert json.loads((folder / "metadata.json").read_text())["wall_seconds"] == 1060
    assert metrics_of(folder)[-1]["evaluation/seconds"] == 60
    assert not (folder / "seconds.json").exists()


def test_a_run_on_other_weights_starts_its_clock_anew(configure, clock, monkeypatch):
    real = run_module.evaluate

    def slow(*arguments, **named):
        clock.now += 20
        if named["first_episode"] == 8 and clock.now < 1000:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(run_module, "evaluate", slow)
    settings = read_settings(configure())
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert json.loads((settings.folder / "seconds.json").read_text()) == {"wall": 40, "evaluation": 40}
    clock.now += 5000
    monkeypatch.setattr(run_module.provenance, "folder_hashes", lambda path: {"new": "weights"})
    folder = run(settings)
    assert json.loads((folder / "metadata.json").read_text())["wall_seconds"] == 60


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.n_episodes=abc", "evaluation.n_episodes must be a whole number in 1..1048576, got 'abc'"),
        ("evaluation.n_episodes=0", "evaluation.n_episodes must be a whole number in 1..1048576, got 0"),
        ("evaluation.batch_size=1.5", "evaluation.batch_size must be a whole number of 1 or more, got 1.5"),
        ("evaluation.seed=-1", "evaluation.seed must be a whole number of 0 or more, got -1"),
        ("data.n_episodes=many", "data.n_episodes must be a whole number in 1..1048576, got 'many'"),
        ("data.n_episodes=0", "data.n_episodes must be a whole number in 1..1048576, got 0"),
        ("+data.seed=true", "data.seed must be a whole number of 0 or more, got True"),
        ("env.horizon=5.5", "env.horizon must be a whole number, as its default 5, got 5.5"),
        (
            "++tracking.connect_seconds=soon",
            "tracking.connect_seconds must be a number, as its default 30.0, got 'soon'",
        ),
        ("++tracking.connect_seconds=0", "tracking.connect_seconds must be above 0 seconds, got 0"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_key(configure, override, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        read_settings(configure(override))


def test_numbers_may_be_left_open_or_whole():
    optional = {"_target_": "pasta_gym.worlds.MiniWorld", "n_types": 8}
    tracked = {"_target_": "benchmarks.tracking.TrackingConfig", "connect_seconds": 3}
    settings.check_numbers(
        "all", {"world": optional, "tracking": tracked, "own": {"_target_": "pathlib.Path", "a": "b"}}
    )
    with pytest.raises(ValueError, match=r"^all\.world\.n_types must be a whole number, .* got 'few'"):
        settings.check_numbers("all", {"world": {**optional, "n_types": "few"}})


LABELLED = {"human": "data.labels", "human_untrained": "data.labels", "mixed": "data.human.labels"}


@pytest.mark.parametrize("data", LABELLED)
def test_raters_who_are_labelled_again_make_other_runs(tmp_path, data):
    names = ("pairs.parquet", "ratings.parquet", "rankings.parquet", "raters.parquet", "truth.npz")
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    key = LABELLED[data]

    def identity(*overrides):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return read_settings(compose("run", [f"data={data}", f"{key}={tmp_path}", *overrides])).key.config_hash

    (tmp_path / "metadata.json").write_text("{}")  # read by nothing
    found = [identity()]
    use_labels = f"+{key.replace('labels', 'use_labels')}=false"
    by_choices = identity(use_labels)
    for name in names:
        (tmp_path / name).write_bytes(b"labelled again")
        found.append(identity())
        if name == "rankings.parquet":
            assert identity(use_labels) == by_choices  # what they said does not count there; who they are does
    assert len({*found, by_choices, identity(use_labels)}) == 8
    (tmp_path / "metadata.json").write_text('{"another": 1}')
    assert identity() == found[-1]
    (tmp_path / "pairs.parquet").unlink()
    with pytest.raises(ValueError, match=r"lacks pairs\.parquet; make labels with: python -m pasta_gym"):
        identity()


def test_data_that_are_not_read_need_no_labels(configure, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no labels there
    trained = run(read_settings(configure()))
    saved = OmegaConf.load(trained / "config.yaml")
    environment = {"_target_": "pasta_gym.trajectories.EnvironmentConfig", "images": "painter"}
    made = "pasta_gym.trajectories.rater_sessions.RaterSessionsConfig"
    saved.data = {"_target_": made, "environment": environment}
    OmegaConf.save(saved, trained / "config.yaml")
    scored = read_settings(configure(f"checkpoint={trained}", "images=diffusion", agent=None))
    assert scored.data.labels == "data/labels_world_0"
