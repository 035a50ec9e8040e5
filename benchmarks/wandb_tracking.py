"""Weights & Biases beside a run's files: the same names, online or in an offline run folder.

What goes wrong with W&B is said in one line of the log, and the run goes on: its own files have everything.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import netrc
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.runs import KEY_COLUMNS
from pasta_gym.types import ImageArray

if TYPE_CHECKING:
    from benchmarks.tracking import Artifact, Metric, TrackingConfig

logger = logging.getLogger(__name__)
STEP = "step"
"""Name of the gradient step, the x-axis of every training metric."""
EPISODES = "episodes"
"""Name of the table of episodes."""
NO_WEAVE = ("WANDB_DISABLE_WEAVE", "true")
"""W&B takes this repository's `agents` for a language model's and advertises a package to trace it."""


class WandbTracker:
    """Sends numbers, pictures, the table of episodes and artifacts to one W&B run.

    Args:
        wandb: The package, or one with its interface.
        run: What its ``init`` returned.
        config: Settings of tracking.
        folder: The run directory.
        metrics: What each number of an evaluation means.
        is_online: Whether the run has a server.
    """

    def __init__(
        self,
        wandb: Any,
        run: Any,
        config: TrackingConfig,
        folder: pathlib.Path,
        *,
        metrics: Mapping[str, Metric],
        is_online: bool,
    ) -> None:
        self._wandb = wandb
        self._run = run
        self._config = config
        self._folder = folder
        self._metrics = metrics
        self._is_online = is_online
        self._has_failed = False
        self._last: dict[str, float] = {}
        self._send(self._define_metrics)

    def _define_metrics(self) -> None:
        self._run.define_metric("training/*", step_metric=STEP)
        for name, metric in self._metrics.items():
            best = {"higher": "max", "lower": "min"}.get(metric.better, "last")
            self._run.define_metric(name, summary=best)

    def _send(self, call: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            call()
        except Exception as error:  # whatever W&B raises, the run it watches goes on
            self._has_failed = True
            logger.warning("W&B: stopped after %s; the numbers are in %s", _in_words(error), self._folder)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Send numbers; the gradient step is one of them, so that resumed runs stay in order."""
        values = {name: float(value) for name, value in metrics.items()}
        self._last |= {name: value for name, value in values.items() if name in self._metrics}
        self._send(lambda: self._run.log(values))

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Send a picture."""
        self._send(lambda: self._run.log({name: self._wandb.Image(pixels)}))

    def artifact(self, artifact: Artifact) -> None:
        """Send a folder's files; offline they are named, not copied, until ``wandb sync`` reads them."""
        if self._config.artifacts:
            self._send(lambda: self._send_artifact(artifact))

    def _send_artifact(self, artifact: Artifact) -> None:
        made = self._wandb.Artifact(artifact.name, artifact.kind, metadata=artifact.facts)
        for path in sorted(path for path in artifact.folder.rglob("*") if path.is_file()):
            made.add_file(str(path), name=path.relative_to(artifact.folder).as_posix(), policy="immutable")
        if artifact.kind == "dataset" and self._is_online:
            self._run.use_artifact(made)  # an input of the run; W&B allows it online alone
        else:
            self._run.log_artifact(made)

    def outcome(self, scores: pathlib.Path, facts: Mapping[str, Any]) -> None:
        """Send the table of episodes, and the values that the table of runs can be sorted by."""
        self._send(lambda: self._send_outcome(scores, facts))

    def _send_outcome(self, scores: pathlib.Path, facts: Mapping[str, Any]) -> None:
        columns, rows = episode_table(scores)
        staged = self._folder.resolve() / "wandb" / "staged"
        staged.mkdir(parents=True, exist_ok=True)
        # What is not sent yet is kept with the run, not in the user's data directory: `wandb sync` reads it there.
        with _environment("WANDB_DATA_DIR", str(staged)):
            self._run.log({EPISODES: self._wandb.Table(columns=columns, data=rows)})
        # Plain numbers take the place of {"max": ...}, so that a column of the table has the metric's own name.
        self._run.summary.update(self._last | {EPISODES + "_played": len(rows)} | dict(facts))

    def finish(self, *, failed: bool = False) -> None:
        """Close the run as finished or failed, so that the next job of a sweep in this process opens its own."""
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:  # as in _send: a lost connection must not lose a finished run
            logger.warning(
                "W&B: not all was sent (%s); `wandb sync --include-online` in %s sends the rest",
                _in_words(error),
                self._folder,
            )


def open_wandb(
    config: TrackingConfig,
    folder: pathlib.Path,
    *,
    run_id: str,
    name: str,
    settings: Mapping[str, Any],
    key: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    logged: Sequence[Mapping[str, float]] = (),
) -> WandbTracker | None:
    """Open a W&B run: online if that is wanted and works, else offline; one line of the log says which.

    Args:
        config: What is wanted.
        folder: The run directory.
        run_id: W&B's id of the run.
        name: What a person reads.
        settings: The resolved configuration.
        key: What the run is of, as in ``scores.csv``. Runs are grouped by ``experiment``, then by ``agent``.
        metrics: What each number of an evaluation means.
        logged: What the run logged before it was killed. An offline run is told again, having no server to know it.

    Returns:
        None where the package is missing.
    """
    try:
        import wandb
    except ImportError:
        logger.warning(
            "W&B: not installed, so numbers go to %s alone; python -m pip install -c constraints.txt wandb", folder
        )
        return None

    units = {metric: asdict(meaning) for metric, meaning in metrics.items()}
    named = {
        "project": config.project,
        "entity": config.entity,
        "id": run_id,
        "name": name,
        "group": key.get("experiment"),
        "job_type": key.get("agent"),
        "tags": [f"{part}: {key[part]}" for part in ("reward", "data", "world", "images") if part in key],
        "dir": str(folder),
        # W&B has no field for a metric's unit and direction; beside the configuration they are found with the run.
        "config": {**settings, "key": dict(key), "metrics": units},
    }
    quiet = {"silent": True, "console": "off", "x_disable_stats": True, "disable_git": True}
    mode, reason = wandb_mode(config.wandb), ""
    if mode == "online" and not has_account(wandb.Settings().base_url):
        mode, reason = "offline", "no account on this machine; `wandb login` adds one"
    if mode == "online":
        before = set(folder.glob("wandb/*"))
        limits = {"init_timeout": config.connect_seconds, "login_timeout": config.connect_seconds}
        limits |= {"finish_timeout": config.finish_seconds, "finish_timeout_raises": True}
        try:
            with _environment(*NO_WEAVE):
                run = wandb.init(**named, mode=mode, resume="allow", settings=wandb.Settings(**quiet, **limits))
        except Exception as error:  # a broken key, no network, no server, no right to the project
            mode, reason = "offline", _in_words(error)
            wandb.teardown()  # W&B's own process takes the id to be in use until it ends
            for attempt in set(folder.glob("wandb/*run-*")) - before:
                _remove(attempt)
        else:
            logger.info("W&B: online, %s", run.url)
            return WandbTracker(wandb, run, config, folder, metrics=metrics, is_online=True)
    if mode == "offline":
        # The folder of a killed run is replaced by one that holds all it logged.
        for attempt in folder.glob(f"wandb/offline-run-*-{run_id}"):
            _remove(attempt)
    (folder / "wandb").mkdir(parents=True, exist_ok=True)  # else W&B writes to the system's temporary folder
    try:
        with _environment(*NO_WEAVE):
            run = wandb.init(**named, mode=mode, settings=wandb.Settings(**quiet))
    except Exception as error:
        logger.warning("W&B: off (%s), so numbers go to %s alone", _in_words(error), folder)
        return None
    if reason:
        logger.warning("W&B: offline (%s); `wandb sync` in %s uploads the run", reason, folder)
    else:
        logger.info("W&B: %s; `wandb sync` in %s uploads an offline run", mode, folder)
    tracker = WandbTracker(wandb, run, config, folder, metrics=metrics, is_online=False)
    for line in logged:
        tracker.log(line)
    return tracker


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _in_words(error: Exception) -> str:
    """Write an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a while, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def episode_table(scores: pathlib.Path) -> tuple[list[str], list[list[Any]]]:
    """Lay ``scores.csv`` out for W&B, without the columns that are equal in all rows.

    Returns:
        Names of columns, and one row an episode: the prompt as text, all else as numbers.
    """
    with scores.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or () if name not in KEY_COLUMNS]
        return columns, [[row[c] if c == "prompt" else _number(row[c]) for c in columns] for row in reader]


def _number(text: str) -> float | int:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def wandb_mode(wanted: str) -> str:
    """Choose W&B's mode: ``"auto"`` is what ``WANDB_MODE`` says, else online, which needs an account."""
    if wanted != "auto":
        return wanted
    from_user = os.environ.get("WANDB_MODE", "online")
    return from_user if from_user in ("online", "offline", "disabled") else "online"


def has_account(server: str) -> bool:
    """Whether a key for a W&B server is in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = pathlib.Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
