import sys

import pytest
from omegaconf import OmegaConf

from benchmarks import grid
from benchmarks.run import CONFIG_FOLDER


def job(name, code, *needs):
    return grid.Job(name, (code,), needs)


def run_code(jobs, logs, *, processes):
    """Run jobs whose argument is Python code."""
    return grid.run_jobs(jobs, logs, processes=processes, threads=1, work=exec)


def test_one_failing_job_leaves_the_rest_standing_and_is_named(tmp_path):
    jobs = [
        job("good", f"open({str(tmp_path / 'good')!r}, 'w').close()"),
        job("bad", "raise SystemExit('no such agent')"),
        job("after bad", f"open({str(tmp_path / 'after')!r}, 'w').close()", "bad"),
    ]
    failed = run_code(jobs, tmp_path / "logs", processes=2)
    assert failed == ["bad"]
    assert (tmp_path / "good").exists()
    assert (tmp_path / "after").exists()
    assert "no such agent" in (tmp_path / "logs" / "bad.log").read_text()


def test_jobs_wait_for_what_they_need_and_share_the_machine(tmp_path):
    # A job that needs none says that it has begun and waits until another has, for a minute at most.
    meet = (
        "import pathlib, time; d = pathlib.Path({folder!r}); t = time.time(); (d / '{name}.began').touch()\n"
        "while len(list(d.glob('*.began'))) < 2 and time.time() < t + 60: time.sleep(0.02)\n"
        "(d / '{name}').write_text(f'{{t}} {{time.time()}}')"
    )
    needs = {"second": ["first"], "first": [], "beside": []}
    jobs = [job(name, meet.format(folder=str(tmp_path), name=name), *needed) for name, needed in needs.items()]
    assert run_code(jobs, tmp_path / "logs", processes=2) == []
    spans = {n: [float(t) for t in (tmp_path / n).read_text().split()] for n in needs}
    assert spans["second"][0] >= spans["first"][1]
    assert max(spans[n][0] for n in ("first", "beside")) <= min(spans[n][1] for n in ("first", "beside"))


def test_the_small_grid_is_three_agents_two_rewards_three_seeds_and_references(tmp_path):
    jobs = grid.small_grid(tmp_path)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for reward in ("sparse", "dense"):
        for agent in ("random", "iql", "slateq"):
            assert [f"{agent} {reward} seed {seed}" in names for seed in range(3)] == [True] * 3
        for agent in ("clairvoyant", "blind_slate_aware"):
            assert f"{agent} {reward} seed 0" in names
    for agent in ("random", "iql", "slateq", "clairvoyant", "blind_slate_aware"):
        assert f"{agent} sparse on diffusion" in names
    moved = next(job for job in jobs if job.name == "iql sparse on diffusion")
    assert "images=diffusion" in moved.arguments
    assert "evaluation.n_episodes=32" in moved.arguments
    assert f"checkpoint='{tmp_path}/small/iql/sparse/simulated/mini/surrogate/seed_0'" in moved.arguments
    assert moved.needs == ("iql sparse seed 0",)
    assert not [job for job in grid.small_grid(tmp_path, diffusion_episodes=0) if "diffusion" in job.name]
    assert {need for job in jobs for need in job.needs} <= set(names)


def test_every_run_of_the_grid_composes(tmp_path):
    from hydra import compose, initialize_config_dir

    from benchmarks.run import read_settings

    for job in grid.small_grid(tmp_path, seeds=1):
        overrides = [part for part in job.arguments if not part.startswith("checkpoint=")]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("run", overrides)
        settings = read_settings(config)
        if "on diffusion" not in job.name:
            assert settings.folder == tmp_path / "small" / job.name.split()[0] / job.name.split()[1] / (
                "simulated/mini/surrogate/seed_0"
            )


def test_the_sweeps_in_conf_name_the_command_on_top():
    for path in (CONFIG_FOLDER / "experiment").glob("*.yaml"):
        assert path.read_text().startswith("# @package _global_\n"), path
        assert OmegaConf.load(path).experiment_name == path.stem


def test_a_sweep_with_a_failing_job_finishes_the_others(tmp_path):
    import subprocess

    script = tmp_path / "sweep.py"
    script.write_text(
        "import hydra, pathlib, sys\n"
        "from benchmarks import run as module\n"
        "def run(settings):\n"
        "    if settings.key.seed == 1:\n"
        "        raise RuntimeError('seed 1 fails')\n"
        "    settings.folder.mkdir(parents=True)\n"
        "    return settings.folder\n"
        "module.run = run\n"
        "module.main()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "--multirun", "agent=random", "seed=0,1,2", f"runs={tmp_path / 'runs'}"],
        cwd=CONFIG_FOLDER.parent,
        env={"PYTHONPATH": str(CONFIG_FOLDER.parent), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "seed 1 fails" in done.stderr
    made = sorted(p.name for p in (tmp_path / "runs").rglob("seed_*"))
    assert made == ["seed_0", "seed_2"]


@pytest.mark.parametrize("processes", [1, 3])
def test_no_more_processes_than_asked_for(tmp_path, processes):
    code = (
        f"import pathlib, time, uuid; d = pathlib.Path({str(tmp_path / 'running')!r}); me = d / uuid.uuid4().hex; "
        "me.touch(); time.sleep(0.2); n = len(list(d.iterdir())); me.unlink(); "
        f"raise SystemExit(n > {processes})"
    )
    (tmp_path / "running").mkdir()
    assert run_code([job(f"j{i}", code) for i in range(4)], tmp_path / "logs", processes=processes) == []


def test_a_job_is_a_run_of_its_own_with_its_own_log(tmp_path):
    shared = ("agent=random", "evaluation.n_episodes=4", f"runs={tmp_path}")
    jobs = [grid.Job("good", shared), grid.Job("bad", (*shared, "reward=none"))]
    assert grid.run_jobs(jobs, tmp_path / "logs", processes=2, threads=1) == ["bad"]
    assert "4 of 4 episodes" in (tmp_path / "logs" / "good.log").read_text()
    assert "reward must be one of" in (tmp_path / "logs" / "bad.log").read_text()
