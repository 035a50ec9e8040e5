import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import regimes, report, runs, shards, sweep
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, read_settings

RANDOM = {"agent": "agents.random_slate.RandomAgent", "name": "random"}
SHIPPED = CONFIG_FOLDER.parent / "benchmarks" / "results" / "smoke"


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def table(root, **more):
    made = report.make_reports(root, n_replicates=50, **more)
    return "\n".join(report.markdown(one) for one in made)


def test_shards_hold_the_table_of_the_runs_and_collecting_again_changes_nothing(configure, tmp_path):
    for seed in (0, 1):
        run(read_settings(configure(f"seed={seed}")))
        run(read_settings(configure(f"seed={seed}", **RANDOM)))
    root, folder = tmp_path / "runs" / "default", tmp_path / "shards"
    changed = shards.collect(root, folder)
    assert [p.name for p in changed] == [f"{a}-sparse-simulated-tiny-surrogate.csv.gz" for a in ("own", "random")]
    before = bytes_of(folder)
    assert shards.collect(root, folder) == []
    (folder / "default/own-sparse-simulated-tiny-surrogate.json").unlink()  # killed between the two files
    assert shards.collect(root, folder) == changed[:1]
    assert bytes_of(folder) == before
    (tmp_path / "nothing").mkdir()
    assert table(tmp_path / "nothing", shards_folder=folder) == table(root)
    lines = set(runs.joined_scores(root).splitlines())
    assert set(shards.joined_scores(tmp_path / "nothing", folder).splitlines()) == lines
    assert len(lines) == 1 + 4 * 10


def test_seeds_of_two_machines_make_one_table(configure, tmp_path):
    here, there, folder = tmp_path / "here", tmp_path / "there", tmp_path / "shards"
    run(read_settings(configure(f"runs={here}", "seed=0")))
    run(read_settings(configure(f"runs={there}", "seed=1")))
    shards.collect(here, folder)
    shards.collect(there, folder)
    assert sorted(run.key.seed for run in shards.read(folder)) == [0, 1]
    # A run of this machine goes before the same one in a shard.
    assert [run.key.seed for run in shards.beside(runs.find_runs(here)[0], folder)] == [1]
    text, written = report.write_report(here / "default", n_replicates=50, shards_folder=folder)
    assert "| own   | 2 " in text
    scores = next(path for path in written if path.name == "scores.csv")
    assert sorted(key.seed for key, _ in runs.read_scores(scores)) == [0, 1]
    both = tmp_path / "both"
    for seed in (0, 1):
        run(read_settings(configure(f"runs={both}", f"seed={seed}")))
    assert table(here, shards_folder=folder) == table(both)


def test_runs_come_in_one_order_wherever_they_are(configure, tmp_path):
    rows = [("own", 0), ("own", 10), ("own", 2), ("random", 0)]
    more = {"own": {}, "random": RANDOM}
    folders = [run(read_settings(configure(f"seed={seed}", **more[agent]))) for agent, seed in rows]
    shards.collect(tmp_path / "runs", tmp_path / "shards")
    shutil.rmtree(folders[0])
    found, _, _ = shards.find_all(tmp_path / "runs", tmp_path / "shards")
    from_shards, _, _ = shards.find_all(tmp_path / "nowhere", tmp_path / "shards")
    assert [(r.key.agent, r.key.seed) for r in found] == sorted(rows)
    assert [r.key for r in from_shards] == [r.key for r in found]


def test_a_column_that_older_shards_lack_is_blank_in_their_rows(configure, tmp_path):
    here, there, folder = tmp_path / "here", tmp_path / "there", tmp_path / "shards"
    newer = run(read_settings(configure(f"runs={here}")))
    run(read_settings(configure(f"runs={there}", "seed=1")))
    shards.collect(there, folder)
    (key, scores), expected = runs.read_scores(newer / "scores.csv")[0], shards.joined_scores(here, folder)
    runs.write_scores(newer / "scores.csv", key, replace(scores, unseen=np.arange(10) % 2 == 0))
    text = shards.joined_scores(here, folder)
    rows = list(csv.DictReader(text.splitlines()))
    assert [row.pop("unseen") for row in rows] == ["1", "0"] * 5 + [""] * 10
    assert rows == list(csv.DictReader(expected.splitlines()))
    assert text.splitlines()[0] == (newer / "scores.csv").read_text().splitlines()[0]
    (tmp_path / "joined.csv").write_text(text)
    (_, first), (_, second) = runs.read_scores(tmp_path / "joined.csv")
    assert first.unseen.tolist() == [True, False] * 5
    assert second.unseen is None
    np.testing.assert_array_equal(second.chosen_utilities, shards.read(folder)[0].scores.chosen_utilities)


def test_columns_are_joined_by_name_in_the_order_of_both():
    made = runs.joined(["a,b,utility_1\n1,2,3\n", "", "a,unseen,b,utility_1,utility_2\n4,5,6,7,8\n"])
    assert made == "a,unseen,b,utility_1,utility_2\n1,,2,3,\n4,5,6,7,8\n"
    assert runs.joined(["a,b\n1,2\n", 'a,b\n"3, 4",5\n']) == 'a,b\n1,2\n"3, 4",5\n'


def test_scores_made_otherwise_are_not_replaced_unasked(configure, tmp_path):
    folder = tmp_path / "shards"
    run(read_settings(configure(f"runs={tmp_path / 'a'}")))
    run(read_settings(configure(f"runs={tmp_path / 'b'}", "evaluation.seed=7")))
    shards.collect(tmp_path / "a", folder)
    before = bytes_of(folder)
    with pytest.raises(ValueError, match=r"holds seed 0 made with \w+ on weights \w+, now .* pass --overwrite"):
        shards.collect(tmp_path / "b", folder)
    assert bytes_of(folder) == before
    assert len(shards.collect(tmp_path / "b", folder, overwrite=True)) == 1
    (found,) = shards.read(folder)
    assert found.scores.prompts == runs.find_runs(tmp_path / "b")[0][0].scores.prompts


def test_a_sweep_takes_runs_in_shards_for_finished(configure, tmp_path):
    settings = read_settings(configure())
    folder = tmp_path / "shards"
    run(settings)
    shards.collect(tmp_path / "runs", folder)
    (planned,) = sweep.plan([("seed=0",)], lambda job: configure(f"runs={tmp_path / 'new'}"))
    assert not planned.is_finished
    (planned,) = sweep.plan([("seed=0",)], lambda job: configure(f"runs={tmp_path / 'new'}", f"shards={folder}"))
    assert planned.is_finished
    other = f"runs={tmp_path / 'new'}", f"shards={folder}", "evaluation.seed=7"
    (planned,) = sweep.plan([("seed=0",)], lambda job: configure(*other))
    assert not planned.is_finished


def test_a_misspelt_folder_of_shards_repeats_no_sweep(configure, tmp_path):
    finished = run(read_settings(configure()))
    began = []
    for root in (finished.parents[6], tmp_path / "new"):  # also where there is nothing left to do
        named = {"compose": lambda job, root=root: configure(f"runs={root}", f"shards={tmp_path / 'main_tabel'}")}
        named |= {"launcher_of": lambda task: began.append(task), "launcher_name": "basic", "task": run}
        with pytest.raises(SystemExit, match=r"^error: shards=.*main_tabel must be a folder .* leave shards= out"):
            sweep.run_sweep(jobs=[("seed=0",)], runs_folder=root, sweep_folder=tmp_path / "sweep", **named)
    assert began == []


def test_a_report_of_misspelt_folders_leaves_none_behind(configure, tmp_path, caplog):
    run(read_settings(configure()))
    shards.collect(tmp_path / "runs", tmp_path / "shards")
    (tmp_path / "empty").mkdir()
    for folder, said in (("no_shards", "is no folder"), ("empty", "holds no finished run")):
        with pytest.raises(SystemExit, match=f"^error: .*{said}"):
            report.main([str(tmp_path / "new"), "--shards", str(tmp_path / folder)])
        assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit, match=r"^error: .*new is no folder; pass the folder that benchmarks\.run wrote to"):
        report.main([str(tmp_path / "new")])
    caplog.clear()
    report.write_report(tmp_path / "new", n_replicates=50, shards_folder=tmp_path / "shards")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "benchmarks.shards"]
    assert said == f"{tmp_path / 'new'} does not exist, so all runs are those in the shards under {tmp_path / 'shards'}"


@pytest.mark.parametrize("command", [report, shards, regimes])
def test_commands_name_a_missing_folder_in_one_line(command, tmp_path):
    with pytest.raises(
        SystemExit, match=r"^error: .*nowhere is no folder; pass the folder that benchmarks\.run wrote to"
    ):
        command.main([str(tmp_path / "nowhere")])
    assert not (tmp_path / "nowhere").exists()


def test_broken_and_missing_shards_are_named(configure, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished run"):
        shards.collect(tmp_path / "empty", tmp_path / "shards")
    with pytest.raises(ValueError, match=r"nowhere is no folder; pass the folder that benchmarks.shards wrote to"):
        shards.read(tmp_path / "nowhere")
    run(read_settings(configure()))
    (path,) = shards.collect(tmp_path / "runs", tmp_path / "shards")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"csv.gz cannot be read"):
        shards.read(tmp_path / "shards")


def test_the_command_says_what_it_wrote(configure, tmp_path, capsys):
    run(read_settings(configure()))
    arguments = [str(tmp_path / "runs"), "--out", str(tmp_path / "shards")]
    shards.main(arguments)
    assert "own-sparse-simulated-tiny-surrogate.csv.gz, 1 kB" in capsys.readouterr().out
    shards.main(arguments)
    assert "holds all of" in capsys.readouterr().out


@pytest.mark.parametrize("experiment", ["smoke", "regimes", "references", "ablation", "main_table", "tuned"])
def test_shipped_shards_spare_a_sweep_their_runs(experiment, monkeypatch, tmp_path):
    """Those of ``transfer`` are left out: which agent they are of is known by its run directory alone."""
    from hydra import compose, initialize_config_dir

    monkeypatch.chdir(CONFIG_FOLDER.parent)  # labels of raters are named from there
    folder = SHIPPED.parent / experiment
    jobs = []
    for path in shards.shards_under(folder):
        names = zip(("agent", "reward", "data", "world", "images"), path.name.split(".")[0].split("-"), strict=True)
        shared = [f"experiment={experiment}", f"shards={folder}", *(f"{key}={value}" for key, value in names)]
        records = runs.read_json(shards.sidecar(path))
        jobs += [(*shared, f"seed={seed}") for seed in records]
        if experiment == "regimes":  # their identities were written anew when labels became a part of it
            hashes = {str(key.seed): key.config_hash for key, _ in runs.read_scores(path)}
            assert hashes == {seed: record["config_hash"] for seed, record in records.items()}
    assert len(jobs) == len(shards.finished_in(folder)) > 0
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        planned = sweep.plan(jobs, lambda job: compose("run", [*job, f"runs={tmp_path}"]))
    assert [job.problem or job.name for job in planned if not job.is_finished] == []


def test_the_small_table_in_the_repository_comes_out_again(tmp_path):
    from hydra import compose, initialize_config_dir

    shipped = {run.key.agent: run for run in shards.read(SHIPPED) if run.key.seed == 0}
    assert {"random", "clairvoyant", "blind_marginal"} <= set(shipped)
    for agent in ("random", "clairvoyant", "blind_marginal"):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("run", ["experiment=smoke", f"agent={agent}", f"runs={tmp_path}"])
        settings = read_settings(config)
        run(settings)
    (ours,) = report.make_reports(tmp_path, n_replicates=200)
    (tmp_path / "none").mkdir()
    (theirs,) = report.make_reports(tmp_path / "none", n_replicates=200, shards_folder=SHIPPED)
    for name, cell in theirs.cells.items():
        for agent, made in ours.cells[name].mean.items():
            published = cell.mean[agent]
            assert published.low <= made.estimate <= published.high, (agent, made, published)
    # On the machine of the reference, and on most others, they are the same conversations to the last digits.
    for run_here in runs.find_runs(tmp_path)[0]:
        other = shipped[run_here.key.agent].scores
        assert run_here.scores.prompts == other.prompts
        close = abs(run_here.scores.chosen_utilities - other.chosen_utilities).max(axis=1) < 1e-3
        assert close.mean() >= 0.8
