"""Table F.1 from runs with known returns."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks import regimes, runs
from benchmarks.evaluate import EpisodeScores
from benchmarks.report import make_reports, write_report
from benchmarks.runs import RunKey
from pasta_gym.files import write_json


def store(root, agent, data, seed, returns, first=0):
    """A finished run with given sparse returns."""
    key = RunKey("regimes", f"{agent}{data}{seed}", agent, "sparse", data, "mini", "surrogate", "test", seed)
    folder = key.folder(root)
    folder.mkdir(parents=True)
    n = len(returns)
    utilities = np.tile(np.asarray(returns, dtype=float)[:, None] / 10, (1, 5))
    scores = EpisodeScores(
        first + np.arange(n), ["a cat"] * n, np.zeros(n, np.int64), np.asarray(returns, float), utilities
    )
    write_json(folder / "started.json", {})
    runs.write_scores(folder / runs.SCORES, key, scores)
    write_json(folder / runs.METADATA, {"privileged": False})


@pytest.fixture
def root(tmp_path):
    for data in ("simulated", "human"):
        store(tmp_path, "random", data, 0, [4, 5, 6, 5])
    for seed in (0, 1):
        store(tmp_path, "iql", "human", seed, [6, 6, 7, 7])
        store(tmp_path, "iql", "simulated", seed, [8, 8, 9, 9])
        store(tmp_path, "iql", "mixed", seed, [7, 7 + seed, 8, 8 + seed, 1])
    return tmp_path


def test_the_table_has_the_papers_shape(root):
    lines = regimes.section(make_reports(root, n_replicates=50), n_replicates=200)
    (header,) = [line for line in lines if line.startswith("| agent")]
    assert header == "| agent | reward | random | human | simulated | mixed |"
    (row,) = [line for line in lines if line.startswith("| iql | sparse, 4 episodes")]
    # The fifth conversation of the mixed runs is nobody else's, so it does not count.
    assert [cell.split(" [")[0] for cell in row.split(" | ")[2:]] == ["5.00", "6.50", "8.50", "7.75"]
    (gaps,) = [line for line in lines if "minus simulated" in line]
    assert gaps.split(" | ")[3] == "-2.00 [-2.00, -2.00]"  # human loses 2 in every conversation
    assert gaps.split(" | ")[4] == ""
    low, high = gaps.split(" | ")[5].split("[")[1].split("]")[0].split(", ")
    assert float(low) < -0.5 < float(high)


def test_fewer_data_stand_beside_all(tmp_path):
    for data, value in (("simulated", 8), ("simulated_10k", 7), ("simulated_3k", 6), ("own", 9)):
        store(tmp_path, "iql", data, 0, [value, value])
    store(tmp_path, "random", "simulated", 0, [4, 4])
    lines = regimes.section(make_reports(tmp_path, n_replicates=50), n_replicates=50)
    assert [line for line in lines if line.startswith("| agent")] == [
        "| agent | reward | random | simulated_3k | simulated_10k | simulated |"
    ]
    (gaps,) = [line for line in lines if "minus simulated" in line]
    assert [cell.split(" [")[0] for cell in gaps.split(" | ")[3:5]] == ["-2.00", "-1.00"]


def test_the_report_prints_it(root):
    assert "### Data regimes, regimes: mini world, test prompts" in write_report(root, n_replicates=50)[0]


def test_one_regime_makes_no_table(tmp_path):
    store(tmp_path, "iql", "simulated", 0, [1, 2])
    assert regimes.section(make_reports(tmp_path, n_replicates=20)) == []
    with pytest.raises(SystemExit, match=r"^error: .* two regimes of"):
        regimes.main([str(tmp_path)])


def test_cells_of_a_row_share_their_conversations(tmp_path):
    store(tmp_path, "iql", "human", 0, [1, 2, 3])
    store(tmp_path, "iql", "simulated", 0, [5, 6, 7], first=1)
    by_data = {report.name[1]: report for report in make_reports(tmp_path, n_replicates=20)}
    scores, n = regimes.columns(by_data, "iql", "sparse")
    assert n == 2
    assert_array_equal(scores["human"], [[2, 3]])
    assert_array_equal(scores["simulated"], [[5, 6]])


def test_the_page_is_filled(root, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- regimes:begin -->\n<!-- regimes:end -->\n")
    regimes.main([str(root), "--page", str(page)])
    assert "Printed by `python -m benchmarks.regimes" in page.read_text()
    assert "| random | human | simulated | mixed |" in page.read_text()
