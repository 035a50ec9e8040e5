import json

import numpy as np
import pytest

from benchmarks import runs, tracking, workspace
from benchmarks.evaluate import EpisodeScores
from pasta_gym.files import write_json


@pytest.fixture
def folder(tmp_path):
    scores = EpisodeScores(np.arange(2), ["a", "b"], np.zeros(2, int), np.ones(2), np.full((2, 2), 0.5))
    for experiment in ("small", "other"):
        key = runs.RunKey(experiment, "abc", "iql", "sparse", "simulated", "mini", "surrogate", "test", 0)
        own = key.folder(tmp_path)
        runs.prepare(own, {"config_hash": "abc", "models": "m"})
        runs.write_scores(own / runs.SCORES, key, scores)
        write_json(own / runs.METADATA, {})
        lines = [{"training/fit": 1.0}, {"step": 10, "training/loss/q": 1.0}, {"evaluation/episode_return": 1.0}]
        (own / runs.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (own / "pictures").mkdir()
    for turn in (10, 9):
        (own / "pictures" / f"slates-turn_{turn}.png").write_bytes(b"")
    return tmp_path


def test_a_workspace_is_described_from_what_was_logged(folder):
    logged = workspace.logged_in(folder)
    assert logged.experiments == ("other", "small")
    assert logged.training == ("training/loss/q",)  # with a gradient step, so a line can be drawn
    assert logged.pictures == ("slates/turn_9", "slates/turn_10")
    made = workspace.sections(logged.training, logged.pictures)
    assert [section.name for section in made] == ["Scores", "Training", "Episodes", "Slates"]
    scores, training, episodes, slates = (section.panels for section in made)
    assert [panel.keys for panel in scores] == [(name,) for name in tracking.METRICS]
    assert scores[0].title == "episode return (10 x utility, higher is better)"
    assert training == (workspace.Panel("lines", "loss/q", ("training/loss/q",)),)
    assert [panel.keys for panel in episodes] == [("episodes",)]
    assert [panel.keys for panel in slates] == [("slates/turn_9", "slates/turn_10")]


def test_sections_without_panels_are_left_out():
    assert [section.name for section in workspace.sections([], [])] == ["Scores", "Episodes"]


@pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # of the package itself
def test_the_package_makes_a_workspace_of_the_description():
    description = workspace.sections(["training/loss/q"], ["slates/turn_1"])
    made = workspace.build(description, ["small"], entity="team", project="pasta-gym", name="view")
    assert [section.name for section in made.sections] == [section.name for section in description]
    sent = made._to_model().model_dump_json(by_alias=True, exclude_none=True)
    for section in description:
        for panel in section.panels:
            assert all(json.dumps(key) in sent.replace('\\"', '"') for key in panel.keys)
            assert panel.kind == "table" or panel.title in sent
    settings = made.runset_settings
    assert [(metric.section, metric.name) for metric in settings.groupby] == [("run", "Group"), ("run", "JobType")]
    [order] = settings.order
    assert (order.item.name, order.ascending) == ("evaluation/episode_return", False)
    assert set(settings.pinned_columns) >= {f"summary:{name}" for name in tracking.METRICS}


@pytest.fixture
def account(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)


@pytest.mark.usefixtures("account")
def test_the_command_saves_and_says_where(folder, monkeypatch, capsys):
    saved = []

    class View:
        url = "https://somewhere"

        def save(self):
            saved.append(self)

    named = {}
    monkeypatch.setattr(workspace, "build", lambda *arguments, **options: named.update(options) or View())
    assert workspace.main([str(folder), "--entity", "team"]) == 0
    assert len(saved) == 1
    assert named == {"entity": "team", "project": "pasta-gym", "name": "PASTA Gym"}
    assert capsys.readouterr().out == "saved https://somewhere\n"


@pytest.mark.usefixtures("account")
def test_a_server_that_does_not_answer_is_said_in_one_line(folder, monkeypatch, capsys):
    class View:
        def save(self):
            raise ConnectionError("no\nroute")

    monkeypatch.setattr(workspace, "build", lambda *arguments, **options: View())
    assert workspace.main([str(folder), "--entity", "team"]) == 1
    assert capsys.readouterr().out == "no workspace saved: ConnectionError: no route\n"


def test_without_an_account_or_the_package_one_line_says_so(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert workspace.main([str(folder), "--entity", "team"]) == 1
    assert capsys.readouterr().out.startswith("no workspace saved: no W&B account on this machine")
    monkeypatch.setattr(workspace.importlib.util, "find_spec", lambda name: None)
    assert workspace.main([str(folder), "--entity", "team"]) == 1
    assert capsys.readouterr().out.startswith("no workspace saved: wandb-workspaces is not installed")


def test_a_folder_without_finished_runs_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"holds no finished run; run python -m benchmarks\.run first"):
        workspace.logged_in(tmp_path)
