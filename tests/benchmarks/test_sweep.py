import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import sweep, sweep_progress
from benchmarks.run import run
from benchmarks.settings import CONFIG_FOLDER, models_digest, read_settings
from benchmarks.sweep_progress import Planned, Projection, Recorded, Watch, announcement
from pasta_gym.files import write_json
from pasta_gym.mini.weights import weights_directory
from pasta_gym.user_model import fit_world
from pasta_gym.user_model.fit_world import model_folder
from pasta_gym.worlds import make_world

HERE = pathlib.Path(__file__).parent


def jobs_in(experiment, *arguments):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("run", [f"experiment={experiment}", "agent=random"], return_hydra_config=True)
    sweeper = config.hydra.sweeper
    grids = [*sweeper.grids, *([sweeper.params] if sweeper.params else [])]
    return [dict(o.split("=", 1) for o in job) for job in sweep.jobs_of(grids, arguments)]


def test_grids_of_unequal_size_give_every_job_once():
    grids = [{"seed": "range(3)", "agent": "a,b"}, {"seed": "0", "agent": "b,c"}]
    jobs = sweep.jobs_of(grids, ["reward=dense"])
    assert jobs[0] == ("seed=0", "agent=a", "reward=dense")
    assert Counter(o for job in jobs for o in job if o.startswith("agent")) == {
        "agent=a": 3,
        "agent=b": 3,
        "agent=c": 1,
    }
    assert sweep.jobs_of([], ["seed=0,1"]) == [("seed=0",), ("seed=1",)]


def test_the_command_line_picks_from_the_grids_and_adds_what_none_lists():
    grids = [{"seed": "range(3)", "agent": "a,b"}, {"seed": "0", "agent": "c"}]
    assert sweep.jobs_of(grids, ["agent=c"]) == [("seed=0", "agent=c")]
    assert sweep.jobs_of(grids, ["agent=a", "seed=1,7"]) == [("seed=1", "agent=a"), ("seed=7", "agent=a")]
    assert set(sweep.jobs_of(grids, ["agent=c", "seed=0,7"])) == {("seed=0", "agent=c"), ("seed=7", "agent=c")}
    with pytest.raises(ValueError, match=r"lists and ranges .* 'seed=interval\(0,1\)'"):
        sweep.jobs_of(grids, ["seed=interval(0,1)"])


def test_the_main_table_has_twenty_seeds_and_three_worlds():
    jobs = jobs_in("main_table")
    seeds = {}
    for job in jobs:
        seeds.setdefault((job["agent"], job["world"], job["reward"]), set()).add(job["seed"])
    for agent in ("random", "iql", "iql_history", "slateq", "slateq_softmax", "slateq_history"):
        for world in ("mini", "mini_1", "mini_2"):
            assert len(seeds[agent, world, "sparse"]) == len(seeds[agent, world, "dense"]) == 20
    learners = {agent for agent, _, _ in seeds if agent.startswith(("iql_", "slateq_"))}
    learners -= {"iql_history", "slateq_history", "slateq_softmax"}
    assert len(learners) == 7
    for agent in ("belief_marginal", "belief_slate_aware", "blind_marginal", "blind_slate_aware", "clairvoyant"):
        assert seeds[agent, "mini_2", "sparse"] == seeds[agent, "mini", "dense"] == {"0"}
    assert {len(seeds[agent, "mini", "sparse"]) for agent in learners} == {5}
    known = {p.stem for p in (CONFIG_FOLDER / "agent").glob("*.yaml")}
    assert {job["agent"] for job in jobs} <= known
    assert len(jobs_in("main_table", "agent=iql", "seed=0")) == 6
    assert len(jobs_in("main_table", "seed=19")) == 6 * 3 * 2


def test_the_page_says_how_many_jobs_each_sweep_has():
    page = (CONFIG_FOLDER.parent / "docs" / "benchmarks.md").read_text()
    page = page.partition("## Sweeps")[2].partition("\n## ")[0]
    said = {}
    for names, numbers in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| .* \| (\d+(?:, \d+)*) \|$", page, re.MULTILINE):
        said |= zip(re.findall(r"\w+", names), map(int, numbers.split(", ")), strict=True)
    sweeps = {path.stem for path in (CONFIG_FOLDER / "experiment").glob("*.yaml")} - {"default"}
    assert said == {name: len(jobs_in(name)) for name in sweeps}
    assert (
        f"`experiment=main_table` is {said['main_table']} jobs"
        in (CONFIG_FOLDER.parent / "docs" / "main_table.md").read_text()
    )


@pytest.mark.parametrize("name", ["main_table", "transfer", "regimes", "data_size", "language_model"])
def test_every_table_has_the_best_slate_that_ignores_the_person(name):
    def tables(agent):
        parts = ("data", "world", "images", "reward")
        return {tuple(job.get(part) for part in parts) for job in jobs_in(name) if job["agent"] == agent}

    assert tables("blind_slate_aware") == tables("random")


def grids_of(path):
    sweeper = OmegaConf.to_container(OmegaConf.load(path)).get("hydra", {}).get("sweeper", {})
    return sweeper.get("grids", [])


@pytest.mark.parametrize("path", sorted((CONFIG_FOLDER / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_grids_of_a_sweep_name_the_same_keys_or_an_argument_drops_jobs_that_have_its_value_by_default(path):
    assert len({frozenset(grid) for grid in grids_of(path)}) <= 1


def test_one_seed_of_the_small_table_has_both_ends_of_the_scale():
    jobs = jobs_in("smoke")
    assert len(jobs) == 9
    assert Counter(job["seed"] for job in jobs) == {"0": 6, "1": 3}
    references = {"clairvoyant", "blind_slate_aware", "blind_marginal"}
    assert {job["agent"] for job in jobs_in("smoke", "seed=0")} == references | {"random", "iql", "slateq"}
    assert {job["agent"] for job in jobs_in("smoke", "seed=1")} == {"random", "iql", "slateq"}


def test_every_size_of_the_slate_has_run_directories_of_its_own():
    folders = {}
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        for size, pictures in ((4, 4), (2, 4), (5, 4), (4, 8)):
            sizes = [f"env.slate_size={size}", f"env.images_per_prompt={pictures}"]
            settings = read_settings(compose("run", ["experiment=slate_size", "agent=random", *sizes]))
            assert settings.environment.slate_size == settings.data.environment.slate_size == size
            assert settings.environment.images_per_prompt == settings.data.environment.images_per_prompt == pictures
            folders[settings.folder] = settings.key.config_hash
    assert len(folders) == len(set(folders.values())) == 4
    jobs = jobs_in("slate_size")
    sizes = {(int(job["env.slate_size"]), int(job["env.images_per_prompt"])) for job in jobs}
    assert sizes == {(2, 4), (3, 4), (4, 4), (5, 4), (4, 1), (4, 2), (4, 8)}
    assert len(jobs) == 84
    chosen = jobs_in("slate_size", "env.slate_size=4", "seed=0", "agent=random")
    assert {job["env.images_per_prompt"] for job in chosen} == set("1248")
    assert {job["env.world.n_types"] for job in jobs_in("k_types")} == {"1", "2", "4", "8", "16", "32"}


def plan_of(tmp_path, *swept, overrides):
    jobs = sweep.jobs_of([], [*overrides, f"runs={tmp_path / 'runs'}", *swept])
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return sweep.plan(jobs, lambda job: compose("run", list(job)))


TINY = ("env.world=tiny", "+env.n_candidates=9", "+env.n_categories=3", "+env.slate_size=3", "+env.horizon=4")
FEW = ("+env.images_per_prompt=2", "evaluation.n_episodes=10", "evaluation.batch_size=4")


def test_a_plan_reads_every_job_as_hydra_would_and_sees_what_is_finished(tiny, tmp_path, monkeypatch):
    swept = ("agent=random,blind_marginal", "seed=0,1", "reward=sparse,dense")
    planned = plan_of(tmp_path, *swept, overrides=(*TINY, *FEW))
    assert len({job.name for job in planned}) == 8
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        for job in planned:
            assert job.settings.key == read_settings(compose("run", list(job.overrides))).key
            assert job.settings.resolved == read_settings(compose("run", list(job.overrides))).resolved
    run(planned[3].settings)
    again = plan_of(tmp_path, *swept, overrides=(*TINY, *FEW))
    assert [job.is_finished for job in again] == [job is planned[3] for job in planned]
    monkeypatch.setattr(sweep, "models_digest", lambda environment: "other weights")
    assert not any(job.is_finished for job in plan_of(tmp_path, *swept, overrides=(*TINY, *FEW)))


def test_a_world_that_was_not_fitted_is_named_with_its_command_and_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path))
    monkeypatch.setattr(fit_world, "CHECKOUT", tmp_path)
    make_world.cache_clear()
    planned = plan_of(tmp_path, "world=mini,mini_1,mini_2", overrides=("agent=random",))
    assert [bool(job.problem) for job in planned] == [False, True, True]
    said = announcement(planned, Projection({("random", "surrogate", 1000): [60.0]}), 1)
    assert "3 jobs: 0 finished, 1 to do, 2 that cannot begin" in said
    assert "python -m pasta_gym.user_model.fit_world 2 --types 8" in said


def planned_job(name, agent="iql", images="surrogate", overrides=(), **more):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        settings = read_settings(compose("run", [f"agent={agent}", f"images={images}", *overrides]))
    return Planned((), name, settings, **more)


def test_hours_are_projected_from_finished_runs_of_the_same_agent_and_image_model(configure, tmp_path):
    run(read_settings(configure("seed=1")))
    found = sweep_progress.seconds_of_runs(tmp_path / "runs")
    assert list(found) == [("own", "surrogate", 10)]
    projection = Projection({("iql", "surrogate", 1000): [3600.0, 7200.0, 9000.0], ("iql", "surrogate", 20): [1.0]})
    jobs = [planned_job("a"), planned_job("b"), planned_job("c", is_finished=True), planned_job("d", images="painter")]
    said = announcement(jobs, projection, 2)
    assert "4 jobs: 1 finished, 3 to do" in said
    assert "projected: 4.0 hours of one process, 2.0 hours with 2 side by side" in said
    assert "no finished run to project from: iql on painter (1 jobs); not in the hours above" in said
    assert "projected" not in announcement(jobs, Projection({}), 1)
    assert "no finished run to project from: iql on surrogate (2 jobs), iql on painter" in announcement(
        jobs, Projection({}), 1
    )


def shelve(folder, agent, walls, n_episodes):
    """A shard whose runs took some seconds each, or nobody knows how many."""
    records, lines = {}, ["experiment,agent,images,seed,episode"]
    for seed, wall in enumerate(walls):
        records[str(seed)] = {"config_hash": "of another", "models": "m", "wall_seconds": wall}
        lines += [f"main_table,{agent},surrogate,{seed},{episode}" for episode in range(n_episodes)]
    path = folder / "main_table" / f"{agent}-sparse-simulated-mini-surrogate.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    write_json(path.with_name(path.name.replace(".csv.gz", ".json")), records)
    return path


def test_hours_are_projected_from_shards_where_nothing_ran_here(tmp_path, caplog):
    shelf = tmp_path / "shards"
    shelve(shelf, "iql", [3600.0, 7200.0, 9000.0, None], 1000)
    shelve(shelf, "slateq", [60.0], 20)  # of fewer conversations, which says nothing of more
    shelve(shelf, "random", [1.0], 1000).write_bytes(b"no shard")
    jobs = [planned_job(agent, agent, overrides=[f"shards={shelf}"]) for agent in ("iql", "slateq", "random")]
    said = announcement(jobs, Projection({}), 1)
    took = "from what finished runs of the same agents took"
    assert f"projected: 2.0 hours of one process, {took} (1 jobs: from shards made elsewhere)\n" in said
    assert "no finished run to project from: slateq on surrogate (1 jobs), random on surrogate" in said
    assert [record.getMessage().split(" cannot be read")[0] for record in caplog.records] == [
        str(shelf / "main_table" / "random-sparse-simulated-mini-surrogate.csv.gz")
    ]
    # What runs here took is believed first.
    said = announcement(jobs, Projection({("iql", "surrogate", 1000): [3600.0, 3600.0]}), 1)
    assert f"projected: 60 min of one process, {took}\n" in said
    assert "projected" not in announcement([planned_job("a")], Projection({}), 1)
    assert "projected" not in announcement([planned_job("a", overrides=["shards=no_such"])], Projection({}), 1)
    assert announcement([], Projection({}), 1) == "sweep: 0 jobs: 0 finished, 0 to do\n"


def test_the_shards_of_the_repository_say_what_their_runs_took():
    found = sweep_progress.seconds_of_shards(CONFIG_FOLDER.parent / "benchmarks" / "results" / "smoke")
    assert len(found["iql", "surrogate", 20]) == 2
    assert all(wall > 0 for walls in found.values() for wall in walls)


def test_a_line_after_each_job_has_the_time_that_is_left(tmp_path):
    jobs = [planned_job(str(i)) for i in range(4)]
    lines = []
    watch = Watch(jobs, tmp_path, Projection({("iql", "surrogate", 1000): [600.0]}), 1, lines.append)
    stale = Recorded.outcome_file(tmp_path, jobs[0])
    stale.write_text(json.dumps({"error": None, "seconds": 5.0}))
    with watch:
        assert not stale.exists()
        Recorded.outcome_file(tmp_path, jobs[1]).write_text(json.dumps({"error": None, "seconds": 1200.0}))
        watch.look()
        Recorded.outcome_file(tmp_path, jobs[0]).write_text(json.dumps({"error": "ValueError: no", "seconds": 1200.0}))
    assert lines[0].startswith("[######..................] 1/4, 60 min left: 1: done in 20 min")
    assert lines[1].startswith("[############............] 2/4, 1 failed, 40 min left: 0: failed in 20 min")
    assert watch.failed == {"0": "ValueError: no"}


def test_names_of_jobs_are_fit_for_files():
    assert sweep_progress.job_name(("seed=1", "agent=iql", "reward=dense"), ["seed", "agent"]) == "seed=1,agent=iql"
    assert re.fullmatch(
        "checkpoint=__a_b_-[0-9a-f]{8}", sweep_progress.job_name(("checkpoint='/a/b'",), ["checkpoint"])
    )
    assert sweep_progress.job_name(("reward=dense",), []) == "job"
    names = {sweep_progress.job_name((f"checkpoint={'x' * 300}{i}",), ["checkpoint"]) for i in range(2)}
    assert len(names) == 2
    assert max(map(len, names)) < 200


def test_jobs_that_differ_in_a_sign_no_file_name_has_keep_logs_of_their_own():
    values = ("a/b", "a_b", "a:b", "[a,b]", "a b")
    names = [sweep_progress.job_name((f"checkpoint={value}",), ["checkpoint"]) for value in values]
    assert len(set(names)) == len(values)
    assert names[1] == "checkpoint=a_b"


class DyingLauncher:
    """Stops at the first job that is to die, as joblib does when the system kills one of its workers."""

    def __init__(self, task, dying, *, starts_none_after=99):
        self.task, self.dying, self.starts_none_after, self.rounds = task, dying, starts_none_after, []

    def launch(self, jobs, initial_job_idx):
        self.rounds.append([job[-1] for job in jobs])
        for overrides in jobs:
            if len(self.rounds) > self.starts_none_after:
                raise RuntimeError("no worker could be started")
            if overrides[-1] in self.dying:
                self.task(overrides, dies=True)
                raise RuntimeError("a worker was killed")
            self.task(overrides)
        return list(jobs)


def sweep_with(tmp_path, monkeypatch, dying, name="several", **more):
    jobs = [("agent=random", f"seed={seed}") for seed in range(5)]
    planned = [Planned(job, job[-1], planned_job("any").settings) for job in jobs]
    monkeypatch.setattr(sweep, "plan", lambda jobs, compose: planned)
    made = []

    def launcher_of(recorded):
        def task(overrides, *, dies=False):
            log = Recorded.log_file(pathlib.Path(recorded.logs), overrides[-1])
            log.write_text("begun")
            if not dies:
                write_json(log.with_suffix(".log.json"), {"error": None, "seconds": 1.0})

        made.append(DyingLauncher(task, dying, **more))
        made[0].joblib = {"n_jobs": 2} if name == "several" else None
        return made[0]

    given = {"compose": None, "task": None, "runs_folder": tmp_path, "sweep_folder": tmp_path / "sweep"}
    try:
        sweep.run_sweep(jobs=jobs, launcher_of=launcher_of, launcher_name=name, **given)
        status = 0
    except SystemExit as error:
        status = error.code
    return status, made[0].rounds


def test_jobs_that_a_killed_worker_kept_from_beginning_are_launched_again(tmp_path, monkeypatch, capsys):
    status, rounds = sweep_with(tmp_path, monkeypatch, {"seed=1", "seed=3"})
    assert rounds == [[f"seed={i}" for i in range(5)], ["seed=2", "seed=3", "seed=4"], ["seed=4"]]
    said = capsys.readouterr().err
    assert status == 1
    assert [line.split(";")[0] for line in said.splitlines() if line.startswith("FAILED")] == [
        f"FAILED seed={seed}: ended without a word" for seed in (1, 3)
    ]
    assert "sweep: the launcher stopped, RuntimeError: a worker was killed" in said
    assert "sweep: 3 jobs have not begun and are launched again" in said
    assert "sweep: 2 of 5 jobs failed; the same command does them again" in said
    assert "not begun:" not in said


def test_what_never_begins_is_tried_until_a_round_begins_nothing_and_listed_by_itself(tmp_path, monkeypatch, capsys):
    logs = tmp_path / "sweep" / "logs"
    logs.mkdir(parents=True)
    (logs / "seed=4.log").write_text("of an earlier sweep")
    status, rounds = sweep_with(tmp_path, monkeypatch, {"seed=1"}, starts_none_after=1)
    assert (status, len(rounds)) == (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("not begun")] == [f"not begun: seed={seed}" for seed in (2, 3, 4)]
    assert [line.split(":")[0] for line in lines if line.startswith("FAILED")] == ["FAILED seed=1"]
    assert lines[-1] == "sweep: 1 of 5 jobs failed, 3 not begun; the same command does them again"


def test_jobs_in_a_clusters_queue_are_not_launched_twice(tmp_path, monkeypatch, capsys):
    status, rounds = sweep_with(tmp_path, monkeypatch, {"seed=1"}, name="slurm")
    assert (status, len(rounds)) == (1, 1)
    assert capsys.readouterr().err.count("not begun: ") == 3


def process(mode, folder, *arguments, timeout=280):
    return subprocess.run(
        [sys.executable, str(HERE / "sweep_process.py"), mode, str(folder), *arguments],
        cwd=HERE.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PASTA_GYM_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def test_a_sweep_killed_at_twenty_moments_ends_with_the_table_of_one_left_alone(tmp_path):
    done = process("kill", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["finished_jobs_at_kill"]) >= 20
    assert found["different"] == 0
    assert found["sweeps"] >= 1
    # The moments are spread: before the first job, between jobs, within one.
    assert len(set(found["finished_jobs_at_kill"])) >= 2
    assert any(found["parts_at_kill"])
    # And of a learner: before it has a checkpoint, while it writes one, and after.
    assert found["moments"] == ["training", "saving", "trained"]
    assert min(found["checkpoints_at_kill"]) == 0
    assert max(found["checkpoints_at_kill"]) >= 1


def test_jobs_side_by_side_and_one_that_fails_leaves_the_rest_and_is_listed_with_its_log(tmp_path):
    # A directory that holds a run of another configuration makes a job fail while it runs.
    other = tmp_path / "runs/default/random/sparse/simulated/mini/surrogate/seed_1"
    write_json(other / "started.json", {"config_hash": "of another", "models": ""})
    command = [
        *("-m", "benchmarks.run", "--multirun", "hydra/launcher=several", "hydra.launcher.n_jobs=2"),
        *("agent=random", "seed=0,1,2", "evaluation.n_episodes=8", f"runs={tmp_path / 'runs'}"),
    ]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=HERE.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert sorted(path.parent.name for path in other.parent.rglob("scores.csv")) == ["seed_0", "seed_2"]
    log = tmp_path / "runs/default/logs/seed=1.log"
    listed = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
    assert len(listed) == 1
    assert listed[0].startswith(f"FAILED seed=1: ValueError: {other} holds a run of another configuration")
    assert listed[0].endswith(f"; see {log}")
    assert "Traceback" in log.read_text()
    assert "] 3/3, 1 failed, 0 s left:" in done.stderr


def test_a_world_of_other_users_has_runs_and_weights_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PASTA_GYM_CACHE", str(tmp_path))
    for name in ("here", "there"):
        shutil.copytree(weights_directory() / "user_model", tmp_path / name / "users")
    shutil.copytree(weights_directory() / "user_model", model_folder(1, 8))
    make_world.cache_clear()

    def settings_of(*overrides):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return read_settings(compose("run", ["agent=iql_privileged", *overrides]))

    shipped, other = settings_of(), settings_of("world=mini_1")
    given = [settings_of(f"+env.user_model={tmp_path / name / 'users'}") for name in ("here", "there")]
    assert [s.key.world for s in (shipped, other, *given)] == ["mini", "mini_1", "mini-users", "mini-users"]
    assert other.data.environment.world_name == "mini_1"
    assert given[0].key.config_hash == given[1].key.config_hash != shipped.key.config_hash
    assert given[0].resolved["agent"]["config"]["posterior_from"] == str(tmp_path / "here" / "users")
    assert other.resolved["agent"]["config"]["posterior_from"] == str(model_folder(1, 8))
    before = models_digest(other.environment)
    assert before != models_digest(shipped.environment)
    weights = next(model_folder(1, 8).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert models_digest(other.environment) != before
    make_world.cache_clear()
