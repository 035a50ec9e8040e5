"""A process with the benchmark imported and a tiny world. It forks sweeps, which then take seconds, not their imports.

python sweep_process.py kill FOLDER          kills sweeps at 20 moments, then in training, in writing a checkpoint and
                                             after it, and goes on; prints what came of it as JSON
python sweep_process.py run FOLDER ARGS...   runs one sweep on the tiny world
"""

import copy
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import sys
import time

import numpy as np
from hydra._internal.config_loader_impl import ConfigLoaderImpl

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
KILLS, KILLS_OF_ONE = 20, 4
LONGEST = 120  # seconds that a sweep may take on a busy machine
SWEEP = ("experiment=kills", "agent=random,own,blind_marginal", "seed=0,1")
MOMENTS = ("training", "saving", "trained")
TRIES = 20  # to kill at one of them: a busy machine may let it pass
SIZES = (
    "env.world=tiny",
    "+env.n_candidates=9",
    "+env.n_categories=3",
    "+env.slate_size=3",
    "+env.images_per_prompt=2",
    "+env.horizon=4",
    "+data.n_episodes=12",
    "+data.shard_size=5",
    "evaluation.n_episodes=24",
    "evaluation.batch_size=4",
)


def module_at(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def remember_configurations():
    """Let Hydra compose each configuration once: it takes half a second, writes nothing, and forks then have it."""
    compose, made = ConfigLoaderImpl._load_configuration_impl, {}

    def composed(self, config_name, overrides, run_mode, **more):
        key = config_name, tuple(overrides), run_mode
        if key not in made:
            made[key] = compose(self, config_name=config_name, overrides=overrides, run_mode=run_mode, **more)
        return copy.deepcopy(made[key])

    ConfigLoaderImpl._load_configuration_impl = composed


def with_tiny_world():
    """Import what a sweep needs and put the tiny world among the named ones."""
    from hydra.core.plugins import Plugins

    from benchmarks import evaluate, report, run, sweep  # noqa: F401
    from benchmarks.settings import PACKAGE
    from pasta_gym import worlds
    from pasta_gym.trajectories import provenance

    world = module_at(HERE.parent / "env" / "tiny_world.py", "tiny_world_of_sweeps").tiny_world()
    module_at(HERE / "own_agent.py", "own_agent")
    worlds.WORLDS["tiny"] = lambda: world
    # Hashing the package's weights would be most of the time of so small a sweep.
    provenance.folder_hashes = functools.cache(provenance.folder_hashes)
    provenance.folder_hashes(PACKAGE)
    Plugins.instance()


def sweep_once(folder, *arguments):
    """Run a sweep in this process, as the command would."""
    from benchmarks import run

    overrides = [a for a in arguments if not a.startswith("experiment=")]
    name = next((a.partition("=")[2] for a in arguments if a.startswith("experiment=")), "default")
    sys.argv = ["benchmarks.run", "--multirun", f"experiment_name={name}", f"runs={folder}", *SIZES, *overrides]
    sys.argv.append(f"hydra.searchpath=[file://{HERE / 'sweep_conf'}]")
    run.main()


def forked(folder, *arguments):
    """Run a sweep in a fork and return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with folder.with_suffix(".log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sweep_once(folder, *arguments)
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        os._exit(status)


def ended_before(child, seconds):
    """Wait for a process; its exit status if it ended in time, else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill(child):
    """Send SIGKILL and wait until the process is gone."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def moment_of(folder):
    """What the learner that is under way is at, by its run directory; None if there is none."""
    for started in folder.rglob("own/**/started.json"):
        if (started.parent / "metadata.json").exists():
            continue
        if (started.parent / "checkpoint").exists():
            return "trained"
        return "saving" if list(started.parent.glob(".checkpoint.*")) else "training"
    return None


def killed_at(moment, folder):
    """Kill a sweep that begins anew at a moment of its learner; False if the moment passed."""
    shutil.rmtree(folder)
    child = forked(folder, *SWEEP)
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        if not folder.exists() or moment_of(folder) != moment:
            if ended_before(child, 0.002) is not None:
                return False
            continue
        break
    kill(child)
    return moment_of(folder) == moment


def to_the_end(folder, *arguments):
    """Run a sweep that must succeed."""
    child = forked(folder, *arguments)
    status = ended_before(child, LONGEST)
    if status is None:
        kill(child)
    if status != 0:
        raise RuntimeError(f"a sweep ended with {status}: {folder.with_suffix('.log').read_text()[-3000:]}")


def table_of(folder):
    """The report's table and all scores, as text."""
    from benchmarks import report, runs

    made = report.make_reports(folder / "kills", n_replicates=20)
    return "\n".join(report.markdown(one) for one in made).replace(str(folder), "") + runs.joined_scores(folder)


def kill_sweeps(root):
    """Kill sweeps with SIGKILL at random moments, each time the same command again, until 20 kills have landed."""
    with_tiny_world()
    remember_configurations()
    folder = root / "runs"
    sweep_once(folder, *SWEEP)
    shutil.rmtree(folder)
    began = time.monotonic()
    to_the_end(folder, *SWEEP)
    usual, expected = time.monotonic() - began, table_of(folder)
    rng = np.random.default_rng(2026)
    found = {"finished_jobs_at_kill": [], "parts_at_kill": [], "sweeps": 0, "different": 0, "seconds": usual}
    found |= {"moments": [], "checkpoints_at_kill": []}
    while len(found["finished_jobs_at_kill"]) < KILLS:
        shutil.rmtree(folder)
        found["sweeps"] += 1
        for _ in range(KILLS_OF_ONE):
            child = forked(folder, *SWEEP)
            if ended_before(child, rng.uniform(0, usual)) is not None:
                break
            kill(child)
            found["finished_jobs_at_kill"].append(len(list(folder.rglob("metadata.json"))))
            found["parts_at_kill"].append(len(list(folder.rglob("parts/*.csv"))))
            found["checkpoints_at_kill"].append(len(list(folder.rglob("checkpoint/own.json"))))
        to_the_end(folder, *SWEEP)
        found["different"] += table_of(folder) != expected
    for moment in MOMENTS:
        if any(killed_at(moment, folder) for _ in range(TRIES)):
            found["moments"].append(moment)
            to_the_end(folder, *SWEEP)
            found["different"] += table_of(folder) != expected
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill_sweeps(pathlib.Path(sys.argv[2]))
    else:
        with_tiny_world()
        sweep_once(pathlib.Path(sys.argv[2]), *sys.argv[3:])
