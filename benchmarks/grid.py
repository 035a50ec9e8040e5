"""The small benchmark: every job in a process of its own, a few side by side, then the table.

Run ``python -m benchmarks.grid``, as ``make benchmark`` does. A job that fails is listed and the others go on;
a second call does only what is missing. Jobs are forked from one process that has imported what they share, where
the system can fork: importing takes longer than some of the jobs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.report import write_report
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.envs.rewards import REWARDS

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

REPOSITORY = pathlib.Path(__file__).parent.parent
LEARNERS = ("iql", "slateq")
REFERENCES = ("clairvoyant", "blind_slate_aware", "blind_marginal")
DIFFUSION_EPISODES = 32


@dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
        name: For the person who watches.
        arguments: Of ``benchmarks.run``.
        needs: Names of jobs that must end first, well or not.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()


def small_grid(
    runs_folder: pathlib.Path,
    *,
    experiment: str = "small",
    seeds: int = 3,
    diffusion_episodes: int = DIFFUSION_EPISODES,
    extra: Sequence[str] = (),
) -> list[Job]:
    """List the jobs: collect data, train and score, then score one seed on diffusion.

    References learn nothing, so they have one seed; so does the diffusion column.

    Args:
        runs_folder: Where run directories go.
        experiment: Name in ``conf/experiment``.
        seeds: Training seeds of random and the learners.
        diffusion_episodes: Episodes of the diffusion column; 0 leaves it out.
        extra: Overrides for every run.
    """
    shared = (f"experiment={experiment}", f"runs={runs_folder}", *extra)
    jobs: list[Job] = []
    for reward in REWARDS:
        for agent in (*LEARNERS, "random", *REFERENCES):
            for seed in range(1 if agent in REFERENCES else seeds):
                arguments = (*shared, f"agent={agent}", f"reward={reward}", f"seed={seed}")
                # The first learner collects the data that the others find in the cache.
                first = f"{LEARNERS[0]} {REWARDS[0]} seed 0"
                name = f"{agent} {reward} seed {seed}"
                jobs.append(Job(name, arguments, (first,) if agent in LEARNERS and name != first else ()))
    if diffusion_episodes:
        for agent in (*LEARNERS, "random", *REFERENCES[:2]):
            jobs.append(_on_diffusion(shared, runs_folder, experiment, agent, diffusion_episodes))
    return jobs


def _on_diffusion(
    shared: tuple[str, ...], runs_folder: pathlib.Path, experiment: str, agent: str, episodes: int
) -> Job:
    reward = REWARDS[0]
    arguments = (*shared, "images=diffusion", f"evaluation.n_episodes={episodes}", f"evaluation.batch_size={episodes}")
    arguments += (f"agent={agent}", f"reward={reward}", "seed=0")
    if agent in LEARNERS:
        trained = runs_folder / experiment / agent / reward / "simulated" / "mini" / "surrogate" / "seed_0"
        arguments += (f"checkpoint='{trained}'",)
    return Job(f"{agent} {reward} on diffusion", arguments, (f"{agent} {reward} seed 0",))


def run_once(*arguments: str) -> None:
    """Do what ``python -m benchmarks.run`` does with these arguments."""
    from benchmarks import run

    sys.argv = ["benchmarks.run", *arguments]
    run.main()


def run_jobs(
    jobs: Sequence[Job],
    logs: pathlib.Path,
    *,
    processes: int,
    threads: int,
    work: Callable[..., Any] = run_once,
) -> list[str]:
    """Run jobs, ``processes`` at a time, each once what it needs has ended.

    Args:
        jobs: In the order of preference.
        logs: Folder of one log a job.
        processes: Jobs side by side.
        threads: Threads of each.
        work: Called with a job's arguments in a process of its own; a function that pickles.

    Returns:
        Names of the jobs that failed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # Read when torch is imported, which the process that jobs are forked from does.
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    context = _warm_context()
    waiting, running, ended, failed = deque(jobs), dict[str, tuple[Any, float]](), set[str](), []
    names = {job.name for job in jobs}
    try:
        while waiting or running:
            ready = next((job for job in waiting if not (set(job.needs) & names) - ended), None)
            if ready is not None and len(running) < processes:
                waiting.remove(ready)
                log = logs / f"{ready.name.replace(' ', '-')}.log"
                process = context.Process(target=_logged, args=(work, ready.arguments, log), name=ready.name)  # type: ignore[attr-defined]
                process.start()
                running[ready.name] = (process, time.monotonic())
                continue
            time.sleep(0.1)
            for name, (process, began) in list(running.items()):
                if process.exitcode is None:
                    continue
                process.join()
                del running[name]
                ended.add(name)
                if process.exitcode:
                    failed.append(name)
                outcome = "failed" if process.exitcode else "done"
                sys.stderr.write(f"[{len(ended)}/{len(jobs)}] {name}: {outcome} in {time.monotonic() - began:.0f} s\n")
    finally:
        for process, _ in running.values():
            process.terminate()
    return failed


def _warm_context() -> BaseContext:
    """How processes start: forked from a server with the imports done, or from nothing where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.warm"])
    return context


def _logged(work: Callable[..., Any], arguments: tuple[str, ...], log: pathlib.Path) -> None:
    """Do a job in its own process, with all that it writes going to a file."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(REPOSITORY)
    work(*arguments)


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> int:
    """Run the grid, print the table, name the files; the exit status is 1 if a job failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--experiment", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--diffusion-episodes", type=int, default=DIFFUSION_EPISODES)
    parser.add_argument("--processes", type=int, default=max(1, min(4, os.cpu_count() or 1)))
    parser.add_argument("overrides", nargs="*", help="for every run, as in evaluation.n_episodes=100")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    folder = given.runs.resolve()
    jobs = small_grid(
        folder,
        experiment=given.experiment,
        seeds=given.seeds,
        diffusion_episodes=given.diffusion_episodes,
        extra=given.overrides,
    )
    threads = max(1, (os.cpu_count() or 1) // given.processes)
    logs = folder / given.experiment / "logs"
    failed = run_jobs(jobs, logs, processes=given.processes, threads=threads)
    text, written = write_report(folder / given.experiment)
    sys.stdout.write(text)
    sys.stdout.write(
        f"\n{len(jobs) - len(failed)} of {len(jobs)} jobs in {(time.monotonic() - began) / 60:.1f} minutes\n"
    )
    for name in failed:
        sys.stdout.write(f"FAILED {name}: see {logs / (name.replace(' ', '-') + '.log')}\n")
    sys.stdout.write("wrote\n" + "".join(f"  {path}\n" for path in written))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
