import numpy as np
import pytest

from benchmarks import phase_ablation as command
from benchmarks.rater_scores import Scored
from pasta_gym.user_model.user_model import UserModel
from tests.benchmarks.mini_labels import label_small_world


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return label_small_world(tmp_path_factory.mktemp("world"))


def arguments(labels, out, *more):
    return ["--data", str(labels), "--out", str(out), "--steps", "4", "--session-steps", "2", *more]


def test_three_fits_a_seed_are_made_once_and_share_phase_1(labels, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- phases:begin -->\n<!-- phases:end -->\n")
    made = []
    real = command.fit_in_phases
    monkeypatch.setattr(command, "fit_in_phases", lambda *a, **k: made.append(a[1]) or real(*a, **k))
    out = tmp_path / "out"
    command.main(arguments(labels, out, "--seeds", "0", "1", "--page", str(page)))
    printed = capsys.readouterr().out
    assert [(c.phase1, c.phase2, c.em.seed, c.sequential.steps) for c in made[1:4]] == [
        (True, True, 0, 2),
        (False, True, 0, 2),
        (True, False, 1, command.SequentialConfig.steps),
    ]
    assert made[2].sequential.learning_rate == 2e-3 != made[1].sequential.learning_rate
    rows = [line for line in printed.splitlines() if line.startswith("| phase")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "phase 1, choice numbers on sessions",
        "phases 1 and 2",
        "phase 2 alone",
        "phases 1 and 2, minus phase 1",
        "phase 2 alone, minus phase 1",
    ]
    assert "2 fits of each, 4 held-out raters." in printed
    assert page.read_text().startswith("<!-- phases:begin -->\nPrinted by `python -m benchmarks.phase_ablation --data ")
    first, both = (UserModel.load(out / "seed-0" / name) for name in FOLDERS[:2])
    assert both.metadata["phases"]["1"] == first.metadata["phases"]["1"]
    assert "2" not in first.metadata["phases"]
    assert "1" not in UserModel.load(out / "seed-0" / FOLDERS[2]).metadata["phases"]
    command.main(arguments(labels, out, "--seeds", "0", "1"))
    assert len(made) == 6
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| phase")]
    assert again == rows
    command.main([*arguments(labels, out)[:-1], "3", "--seeds", "0"])  # other steps of phase 2
    assert len(made) == 8  # phase 1 alone is as it was


FOLDERS = ("phase-1-choice-numbers-on-sessions", "phases-1-and-2", "phase-2-alone")


def test_differences_are_paired_by_rater():
    spread = np.array([-0.2, 0.1, 0.3, 0.0])

    def scored(shift):
        return [Scored(dict.fromkeys(command.METRICS, 0.5 + spread + shift), {}) for _ in range(2)]

    table = command.as_table(
        {command.FIRST: scored(0.0), command.BOTH: scored(0.01), command.SECOND: scored(-0.02)}
    ).splitlines()
    assert "| 0.550 [" in table[2]
    assert table[5].split(" | ")[1] == "0.0100 [0.0100, 0.0100]"
    assert table[6].split(" | ")[1] == "-0.0200 [-0.0200, -0.0200]"
