"""Sweeps: which jobs there are, which of them are left, and doing those.

``python -m benchmarks.run --multirun experiment=NAME`` comes here through the sweeper in
``benchmarks/plugins/hydra_plugins``. Hydra's launchers do the jobs: one after the other, several on one machine
(joblib), or on a cluster (submitit).
"""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmarks import runs, shards
from benchmarks.settings import CONFIG_FOLDER, models_digest, read_settings, run_identity
from benchmarks.sweep_progress import (
    Overrides,
    Planned,
    Projection,
    Recorded,
    Watch,
    announcement,
    job_name,
    seconds_of_runs,
)
from pasta_gym.command_line import errors_in_one_line

Axes = dict[str, list[str]]


def axes_of(overrides: Iterable[str]) -> Axes:
    """Read overrides as Hydra writes them, ``seed=range(3)`` or ``agent=iql,slateq``: the values of each key, as text.

    Raises:
        ValueError: If a key is to be swept over an interval, which has no end of values.
    """
    axes: Axes = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            axes[key] = list(override.sweep_string_iterator())
        else:
            raise ValueError(f"a sweep takes lists and ranges of values, got {override.input_line!r}")
    return axes


def jobs_of(grids: Sequence[Mapping[str, Any]], arguments: Sequence[str]) -> list[Overrides]:
    """List a sweep's jobs: every combination of every grid, each once.

    Args:
        grids: Each names keys and their values, ``{"agent": "iql,slateq", "seed": "range(20)"}``.
        arguments: The command line's. A value that some grids list picks those; any other goes to all grids.

    Returns:
        The overrides of each job, the first grid's first, its last key fastest.
    """
    read = [axes_of(f"{key}={value}" for key, value in grid.items()) for grid in grids] or [{}]
    given = axes_of(arguments)
    listed = {key: {value for axes in read for value in axes.get(key, ())} for key in given}
    found: dict[frozenset[str], Overrides] = {}
    for axes in read:
        picked = dict(axes)
        for key, values in given.items():
            picked[key] = [v for v in values if v in axes.get(key, ()) or v not in listed[key]]
        choices = [[f"{key}={value}" for value in values] for key, values in picked.items()]
        for combination in itertools.product(*choices):
            found.setdefault(frozenset(combination), combination)
    return list(found.values())


def swept_keys(jobs: Sequence[Overrides]) -> list[str]:
    """List the keys that take more than one value among the jobs, in their order."""
    values: dict[str, set[str]] = defaultdict(set)
    for job in jobs:
        for override in job:
            values[override.partition("=")[0]].add(override)
    return [key for key, found in values.items() if len(found) > 1]


Compose = Callable[[Sequence[str]], DictConfig]
"""Makes the configuration of a job from its overrides."""


class Composer:
    """Composes the jobs of a sweep: once for each choice of files, as Hydra takes half a second for it.

    Args:
        compose: Composes one job.
        keys: The swept keys.
    """

    def __init__(self, compose: Compose, keys: Sequence[str]) -> None:
        self._compose = functools.cache(compose)
        # A key of a group chooses a file. Plain values can be put into what is composed.
        self._plain = {k for k in keys if re.fullmatch(r"[\w.]+", k) and not (CONFIG_FOLDER / k).is_dir()}
        self._firsts: dict[tuple[Overrides, Overrides], Overrides] = {}

    def __call__(self, overrides: Overrides) -> DictConfig:
        """Return a job's configuration, to be read before the next call."""
        plain = {key: o for o in overrides if (key := o.partition("=")[0]) in self._plain}
        # The first values of plain keys are composed along and then replaced: jobs that lack a key keep its default.
        files = tuple(o for o in overrides if o.partition("=")[0] not in plain)
        base = self._compose((*files, *self._firsts.setdefault((files, tuple(plain)), tuple(plain.values()))))
        for key, override in plain.items():
            (parsed,) = OverridesParser.create().parse_overrides([override])
            OmegaConf.update(base, key, parsed.value(), merge=False)
        return base


def plan(jobs: Sequence[Overrides], compose: Compose) -> list[Planned]:
    """Read every job's configuration and see which are finished.

    Args:
        jobs: What ``jobs_of`` lists.
        compose: Composes one.

    Raises:
        ValueError: If a job names a folder of shards that does not exist: what it was to spare would be done again.
    """
    keys = swept_keys(jobs)
    composer = Composer(compose, keys)
    models_of = functools.cache(models_digest)
    shelves: dict[str, set[tuple[Any, ...]]] = {}
    planned = []
    for overrides in jobs:
        name = job_name(overrides, keys)
        try:
            settings = read_settings(composer(overrides), overrides)
            identity = run_identity(settings, models_of)
        except Exception as error:  # whatever it is, the other jobs can go on
            planned.append(Planned(overrides, name, None, f"{type(error).__name__}: {str(error).splitlines()[0]}"))
            continue
        is_finished = runs.is_finished(settings.folder, identity)
        folder = settings.resolved.get("shards")
        if folder and folder not in shelves:
            shelves[folder] = _shelf(folder)
        if folder and not is_finished:
            is_finished = (*identity.values(), settings.key.seed) in shelves[folder]
        planned.append(Planned(overrides, name, settings, is_finished=is_finished))
    return planned


def _shelf(folder: str) -> set[tuple[Any, ...]]:
    if not pathlib.Path(folder).is_dir():
        raise ValueError(
            f"shards={folder} must be a folder that benchmarks.shards wrote to, and there is none of that name here; "
            "leave shards= out if nothing is packed yet"
        )
    return shards.finished_in(pathlib.Path(folder))


def side_by_side_of(launcher: Any, name: str) -> int | None:
    """Say how many jobs a launcher runs at once; None for a cluster, which decides itself."""
    options = getattr(launcher, "joblib", None)
    if options is not None:
        n_jobs = int(options.get("n_jobs", 1))
        return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)
    return 1 if name == "basic" else None


def run_sweep(
    *,
    jobs: Sequence[Overrides],
    compose: Compose,
    launcher_of: Callable[[Callable[[DictConfig], Any]], Any],
    launcher_name: str,
    task: Callable[[DictConfig], Any],
    runs_folder: pathlib.Path,
    sweep_folder: pathlib.Path,
) -> Any:
    """Do what is left of a sweep.

    Args:
        jobs: All of it.
        compose: Composes one.
        launcher_of: Makes Hydra's launcher around a task.
        launcher_name: Which one it is.
        task: One job.
        runs_folder: Root of all run directories; finished ones tell how long jobs take.
        sweep_folder: Where logs go.

    Returns:
        What the launcher returned.

    Raises:
        SystemExit: With status 1 if a job failed or did not begin; all others have run then. With one line, and nothing
            has run, if the jobs' folder of shards does not exist.
    """
    logs = sweep_folder.resolve() / "logs"
    with errors_in_one_line():
        planned = plan(jobs, compose)
    keys = tuple(swept_keys(jobs))
    left = [job for job in planned if not job.is_finished and not job.problem]
    launcher = launcher_of(Recorded(task, keys, str(logs)))
    side_by_side = side_by_side_of(launcher, launcher_name)
    projection = Projection(seconds_of_runs(runs_folder))
    sys.stderr.write(announcement(planned, projection, side_by_side))
    failed = {job.name: job.problem for job in planned if job.problem}
    results: list[Any] = []
    waiting: list[Planned] = []
    if left:
        watch = Watch(left, logs, projection, side_by_side)
        with watch:
            results, waiting = launched(launcher, left, logs, again=side_by_side is not None)
        ended = {job.name for job in waiting} | set(watch.done)
        failed |= {job.name: "ended without a word" for job in left if job.name not in ended} | watch.failed
    for name, what in failed.items():
        log = Recorded.log_file(logs, name)
        sys.stderr.write(f"FAILED {name}: {what}" + (f"; see {log}\n" if log.exists() else "\n"))
    sys.stderr.write("".join(f"not begun: {job.name}\n" for job in waiting))
    if failed or waiting:
        said = f"{len(failed)} of {len(jobs)} jobs failed" + (f", {len(waiting)} not begun" if waiting else "")
        sys.stderr.write(f"sweep: {said}; the same command does them again\n")
        raise SystemExit(1)
    sys.stderr.write(f"sweep: all {len(jobs)} jobs are finished\n")
    return results


def launched(
    launcher: Any, left: Sequence[Planned], logs: pathlib.Path, *, again: bool
) -> tuple[list[Any], list[Planned]]:
    """Launch jobs, and those that never began once more if the launcher stops before them.

    A worker that the system kills, as for its memory, takes joblib's launcher with it.

    Args:
        launcher: Hydra's.
        left: The jobs.
        logs: Where each leaves its log when it begins.
        again: Whether what never began may be launched again: not on a cluster, where it may still be in the queue.

    Returns:
        What the launcher returned, and the jobs that never began.
    """
    results: list[Any] = []
    waiting = list(left)
    while True:
        before = len(waiting)
        try:
            results += launcher.launch([list(job.overrides) for job in waiting], initial_job_idx=len(left) - before)
        except Exception as error:  # whatever it is: jobs write down what became of them
            sys.stderr.write(f"sweep: the launcher stopped, {type(error).__name__}: {error}\n")
        else:
            again = False
        waiting = [job for job in waiting if not Recorded.log_file(logs, job.name).exists()]
        if not again or not 0 < len(waiting) < before:
            return results, waiting
        sys.stderr.write(f"sweep: {len(waiting)} jobs have not begun and are launched again\n")


def without_hydra(config: DictConfig) -> DictConfig:
    """Drop Hydra's own part of a job's configuration, as Hydra does before it calls a task."""
    with open_dict(config):
        del config["hydra"]
    return config
