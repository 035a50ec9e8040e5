"""How a sweep goes: projected hours, a log and an outcome of every job, and a line with the time left after each."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
import pathlib
import re
import statistics
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from benchmarks import runs, shards
from benchmarks.settings import Settings
from pasta_gym.files import write_json

logger = logging.getLogger(__name__)
Overrides = tuple[str, ...]
BAR = 24
POLL_SECONDS = 0.5
LONGEST_NAME = 150


def job_name(overrides: Iterable[str], keys: Sequence[str]) -> str:
    """Name a job by its values of the swept keys, fit for a file; different values have different names."""
    own = ",".join(o for o in overrides if o.partition("=")[0] in keys) or "job"
    name = re.sub(r"[^\w.=,+-]", "_", own)
    # A name that had to be changed may be that of another job, as with a/b and a_b: the hash tells them apart.
    if name != own or len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(own.encode()).hexdigest()[:8]}"
    return name


@dataclass(frozen=True)
class Planned:
    """What is known of a job before it begins.

    Attributes:
        overrides: The job.
        name: For people, and of its log.
        settings: Its configuration, or None if that cannot be read.
        problem: Why it cannot be read.
        is_finished: Whether there is nothing left to do.
    """

    overrides: Overrides
    name: str
    settings: Settings | None
    problem: str = ""
    is_finished: bool = False


Kind = tuple[str, str, int]
"""What a job's time depends on: agent, image model and number of episodes."""


class Projection:
    """Guesses seconds of jobs from those that finished runs of the same kind took.

    Where none is finished here, the shards that the job is given (``shards=FOLDER``) tell what it took elsewhere.

    Args:
        seconds: Wall seconds of finished runs of each kind.
    """

    def __init__(self, seconds: Mapping[Kind, Sequence[float]]) -> None:
        self._usual = _medians(seconds)
        self._elsewhere: dict[str, dict[Kind, float]] = {}  # by folder of shards, read when they are needed

    def seconds(self, job: Planned) -> float | None:
        """Guess how long a job takes; None if no run of its kind is finished."""
        return self.guess(job)[0]

    def guess(self, job: Planned) -> tuple[float | None, bool]:
        """Guess how long a job takes, and say whether that is from shards."""
        if job.settings is None:
            return None, False
        key, folder = job.settings.key, job.settings.resolved.get("shards")
        kind = (key.agent, key.images, job.settings.evaluation.n_episodes)
        if kind in self._usual or not folder:
            return self._usual.get(kind), False
        if folder not in self._elsewhere:
            self._elsewhere[folder] = _medians(seconds_of_shards(pathlib.Path(folder)))
        found = self._elsewhere[folder].get(kind)
        return found, found is not None


def _medians(seconds: Mapping[Kind, Sequence[float]]) -> dict[Kind, float]:
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def seconds_of_runs(root: pathlib.Path) -> dict[Kind, list[float]]:
    """Collect wall seconds of the finished runs of every experiment, by kind."""
    found: dict[Kind, list[float]] = defaultdict(list)
    for path in sorted(root.glob("*/*/*/*/*/*/seed_*/" + runs.METADATA)):
        _, agent, _, _, _, images, _, _ = path.relative_to(root).parts
        wall, scores = (runs.read_json(path) or {}).get("wall_seconds"), path.with_name(runs.SCORES)
        if wall is not None and scores.exists():
            n_episodes = scores.read_bytes().count(b"\n") - 1
            found[agent, images, n_episodes].append(float(wall))
    return dict(found)


def seconds_of_shards(folder: pathlib.Path) -> dict[Kind, list[float]]:
    """Collect wall seconds of the runs in the shards under a folder, if there is one, by kind.

    A shard that cannot be read tells nothing here; whoever needs its scores names it.
    """
    found: dict[Kind, list[float]] = defaultdict(list)
    for path in shards.shards_under(folder) if folder.is_dir() else ():
        records = runs.read_json(shards.sidecar(path)) or {}
        try:
            with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                counts = Counter((row["agent"], row["images"], row["seed"]) for row in rows)
        except (OSError, EOFError, KeyError, ValueError, zlib.error, csv.Error) as error:
            logger.warning("%s cannot be read (%s), so no hours are projected from it", path, error)
            continue
        for (agent, images, seed), n_episodes in counts.items():
            wall = records.get(seed, {}).get("wall_seconds")
            if wall is not None:
                found[agent, images, n_episodes].append(float(wall))
    return dict(found)


def announcement(planned: Sequence[Planned], projection: Projection, side_by_side: int | None) -> str:
    """Say how many jobs there are, how many are left and how long they will take.

    Args:
        planned: All jobs.
        projection: How long each takes.
        side_by_side: How many run at once, or None if a cluster decides that.
    """
    left = [job for job in planned if not job.is_finished and not job.problem]
    stuck = [job for job in planned if job.problem]
    guesses, of_shards = zip(*(projection.guess(job) for job in left), strict=True) if left else ((), ())
    known = [g for g in guesses if g is not None]
    said = f"{len(planned)} jobs: {len(planned) - len(left) - len(stuck)} finished, {len(left)} to do"
    if stuck:
        said += f", {len(stuck)} that cannot begin"
    lines = [said]
    if known:
        hours = f"projected: {_duration(sum(known))} of one process"
        if side_by_side and side_by_side > 1:
            hours += f", {_duration(sum(known) / side_by_side)} with {side_by_side} side by side"
        hours += ", from what finished runs of the same agents took"
        lines.append(hours + (f" ({sum(of_shards)} jobs: from shards made elsewhere)" if any(of_shards) else ""))
    unknown = Counter(
        (job.settings.key.agent, job.settings.key.images)
        for job, guess in zip(left, guesses, strict=True)
        if guess is None and job.settings is not None
    )
    if unknown:
        names = ", ".join(f"{agent} on {images} ({n} jobs)" for (agent, images), n in unknown.items())
        lines.append(f"no finished run to project from: {names}" + ("; not in the hours above" if known else ""))
    lines += [f"{n} jobs cannot begin: {problem}" for problem, n in Counter(job.problem for job in stuck).items()]
    return "".join(f"sweep: {line}\n" for line in lines)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


@dataclass(frozen=True)
class Recorded:
    """A task that leaves a log and its outcome in files, whichever process or machine runs it.

    Attributes:
        task: What Hydra was given.
        keys: The swept keys, which name the job.
        logs: Folder of logs and outcomes.
    """

    task: Callable[[DictConfig], Any]
    keys: tuple[str, ...]
    logs: str

    def __call__(self, config: DictConfig) -> Any:
        """Do the task; what it raises is written down and raised on."""
        name = job_name(HydraConfig.get().overrides.task, self.keys)
        log = self.log_file(pathlib.Path(self.logs), name)
        handler = logging.FileHandler(log, mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        began = time.monotonic()

        def record(**what: Any) -> None:
            write_json(log.with_suffix(log.suffix + ".json"), {**what, "seconds": round(time.monotonic() - began, 1)})

        try:
            result = self.task(config)
        except Exception as error:
            logger.exception("%s failed", name)
            record(error=f"{type(error).__name__}: {error}")
            raise
        else:
            record(error=None)
            return result
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()

    @staticmethod
    def log_file(logs: pathlib.Path, name: str) -> pathlib.Path:
        """Name the file that is there from when a job begins."""
        return logs / f"{name}.log"

    @staticmethod
    def outcome_file(logs: pathlib.Path, job: Planned) -> pathlib.Path:
        """Name the file in which a job leaves its outcome."""
        return logs / f"{job.name}.log.json"


@dataclass
class Watch:
    """Follows the jobs that run, through the files they leave, and writes a line after each.

    Attributes:
        jobs: Those that were launched.
        logs: Folder of their outcomes.
        projection: How long each should take.
        side_by_side: How many run at once, or None if that is to be seen.
        write: Takes the lines.
        failed: What went wrong, by the name of the job.
        done: Names of those that ended, well or not.
    """

    jobs: Sequence[Planned]
    logs: pathlib.Path
    projection: Projection
    side_by_side: int | None
    write: Callable[[str], Any] = field(default=lambda line: sys.stderr.write(line))
    failed: dict[str, str] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> Watch:
        """Forget the logs and outcomes of an earlier sweep and begin."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for job in self.jobs:
            Recorded.log_file(self.logs, job.name).unlink(missing_ok=True)
            Recorded.outcome_file(self.logs, job).unlink(missing_ok=True)
        self._began, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End after a last look."""
        self._over.set()
        self._thread.join()
        self.look()

    def _follow(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Write a line for each job that ended since the last look."""
        for job in self.jobs:
            if job.name in self.done:
                continue
            outcome = runs.read_json(Recorded.outcome_file(self.logs, job))
            if outcome is None:
                continue
            self.done[job.name] = float(outcome["seconds"])
            if outcome["error"]:
                self.failed[job.name] = str(outcome["error"])
            how = "failed" if outcome["error"] else "done"
            self.write(f"{self.progress()} {job.name}: {how} in {_duration(outcome['seconds'])}\n")

    def progress(self) -> str:
        """Draw the bar: jobs that ended, failures, and the time left."""
        full = BAR * len(self.done) // len(self.jobs)
        said = f"[{'#' * full}{'.' * (BAR - full)}] {len(self.done)}/{len(self.jobs)}"
        if self.failed:
            said += f", {len(self.failed)} failed"
        return f"{said}, {_duration(self.seconds_left())} left:"

    def seconds_left(self) -> float:
        """Project the rest, corrected by how the guesses fared so far; unknown jobs take as long as the known ones."""
        took = list(self.done.values())
        guesses = {job.name: self.projection.seconds(job) for job in self.jobs}
        pairs = [(seconds, guess) for name, seconds in self.done.items() if (guess := guesses[name])]
        pace = sum(s for s, _ in pairs) / sum(g for _, g in pairs) if pairs else 1.0
        usual = statistics.fmean(took) if took else 0.0
        rest = sum(usual if guess is None else guess * pace for name, guess in guesses.items() if name not in self.done)
        elapsed = max(time.monotonic() - self._began, 1e-3)
        return rest / (self.side_by_side or max(1.0, sum(took) / elapsed))
