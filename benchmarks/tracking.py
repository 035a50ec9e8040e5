"""Where the numbers of a run go while it runs: files always, Weights & Biases if wanted."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.wandb_tracking import open_wandb
from pasta_gym.types import ImageArray


@dataclass(frozen=True)
class Metric:
    """What one number of an evaluation means.

    Attributes:
        unit: What it is counted in.
        better: ``"higher"``, ``"lower"`` or ``"neither"``.
        meaning: One sentence.
    """

    unit: str
    better: str
    meaning: str


METRICS: dict[str, Metric] = {
    "evaluation/episode_return": Metric("10 x utility", "higher", "Sum of an episode's rewards, mean over episodes."),
    "evaluation/final_utility": Metric("utility, 0 to 1", "higher", "Utility of the column chosen at the last turn."),
    "evaluation/mean_utility": Metric("utility, 0 to 1", "higher", "Utility of the chosen column, mean over turns."),
    "evaluation/seconds": Metric("seconds", "lower", "Wall time of the evaluation."),
    "training/seconds": Metric("seconds", "lower", "Wall time of the training, without collecting data."),
}
"""Evaluation metrics have one name here, in ``metrics.jsonl``, in W&B and in the report.

What an agent logs while it trains has the prefix ``training/`` and is explained on the agent's page.
"""

WANDB_MODES = ("off", "auto", "online", "offline")


@dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go beside ``metrics.jsonl``, which is part of every run.

    Attributes:
        csv: Also write ``metrics.csv``, one row a number.
        wandb: ``"off"``; ``"online"``; ``"offline"``; or ``"auto"``: online with an account, else offline.
        project: The W&B project.
        entity: The W&B team or user, or None for the account's default.
        pictures: Send the slates of one evaluation episode as pictures.
        artifacts: Send the dataset and the checkpoint to W&B as artifacts.
        connect_seconds: How long W&B's server may take to answer before the run goes on offline.
        finish_seconds: How long the end of a run waits for the upload; ``wandb sync`` sends what is left.
    """

    csv: bool = True
    wandb: str = "off"
    project: str = "pasta-gym"
    entity: str | None = None
    pictures: bool = False
    artifacts: bool = True
    connect_seconds: float = 30.0
    finish_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in ("connect_seconds", "finish_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"tracking.{name} must be above 0 seconds, got {getattr(self, name)}")
        if self.wandb not in WANDB_MODES:
            raise ValueError(f"tracking.wandb must be one of {WANDB_MODES}, got {self.wandb!r}")


@dataclass(frozen=True)
class Artifact:
    """A folder that a run learned from or made.

    Attributes:
        name: The same name and content are one version, whichever runs send it.
        kind: ``"dataset"`` or ``"model"``.
        folder: Its files.
        facts: What is known of it, as plain data.
    """

    name: str
    kind: str
    folder: pathlib.Path
    facts: dict[str, Any] = field(default_factory=dict)


class Tracker(Protocol):
    """Takes a run's numbers."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Record numbers by name; ``step`` among them is the gradient step they belong to."""
        ...

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Record a picture ``(height, width, 3)`` uint8."""
        ...

    def artifact(self, artifact: Artifact) -> None:
        """Record a dataset or a checkpoint."""
        ...

    def outcome(self, scores: pathlib.Path, facts: Mapping[str, Any]) -> None:
        """Record what came out.

        Args:
            scores: The run's ``scores.csv``.
            facts: Values of the run as a whole, by name.
        """
        ...

    def finish(self, *, failed: bool = False) -> None:
        """Close files and connections; nothing is logged afterwards.

        Args:
            failed: Whether the run ends with an error.
        """
        ...


class FileTracker:
    """Writes ``metrics.jsonl`` (one object a call) and, if wanted, ``metrics.csv`` (one row a number)."""

    def __init__(self, folder: pathlib.Path, *, with_csv: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._with_csv = with_csv
        path = folder / "metrics.jsonl"
        if path.exists():
            whole = path.read_bytes()
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])  # a line cut short by a kill would swallow the next one
        self._lines = path.open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, float]) -> None:
        """Append one line; what is no finite number, such as a loss that ran away, is ``null``.

        Raises:
            ValueError: If a metric is no number at all.
        """
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._lines.write(json.dumps(finite, allow_nan=False) + "\n")
        self._lines.flush()

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Write ``pictures/<name>.png``."""
        from PIL import Image

        path = self._folder / "pictures" / f"{name.replace('/', '-')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def artifact(self, artifact: Artifact) -> None:
        """Do nothing: the checkpoint is in the run directory, the dataset in the cache."""

    def outcome(self, scores: pathlib.Path, facts: Mapping[str, Any]) -> None:
        """Do nothing: ``scores.csv`` and ``metadata.json`` are in the run directory."""

    def finish(self, *, failed: bool = False) -> None:
        """Close the file and lay the lines out as a table."""
        self._lines.close()
        if not self._with_csv:
            return
        with (self._folder / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "name", "value"])
            for line in read_metrics(self._folder):
                step = line.get("step", "")
                writer.writerows([step, name, value] for name, value in line.items() if name != "step")


class AllOf:
    """Passes everything on to several trackers."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, metrics: Mapping[str, float]) -> None:
        """Pass numbers on."""
        for tracker in self._trackers:
            tracker.log(metrics)

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Pass a picture on."""
        for tracker in self._trackers:
            tracker.picture(name, pixels)

    def artifact(self, artifact: Artifact) -> None:
        """Pass a dataset or a checkpoint on."""
        for tracker in self._trackers:
            tracker.artifact(artifact)

    def outcome(self, scores: pathlib.Path, facts: Mapping[str, Any]) -> None:
        """Pass what came out on."""
        for tracker in self._trackers:
            tracker.outcome(scores, facts)

    def finish(self, *, failed: bool = False) -> None:
        """Finish every one."""
        for tracker in self._trackers:
            tracker.finish(failed=failed)


def make_tracker(
    config: TrackingConfig,
    folder: pathlib.Path,
    *,
    run_id: str,
    name: str,
    settings: Mapping[str, Any],
    key: Mapping[str, Any] | None = None,
) -> Tracker:
    """Open the trackers of a run.

    Args:
        config: Which ones.
        folder: The run directory.
        run_id: The configuration's hash; a run that is taken up again has the same.
        name: What a person reads.
        settings: The resolved configuration.
        key: What the run is of: ``experiment``, ``agent`` and so on, as in ``scores.csv``.
    """
    trackers: list[Tracker] = [FileTracker(folder, with_csv=config.csv)]
    if config.wandb != "off":
        opened = open_wandb(
            config,
            folder,
            run_id=run_id,
            name=name,
            settings=settings,
            key=key or {},
            metrics=METRICS,
            logged=read_metrics(folder),  # the file is there: its tracker was opened first
        )
        trackers += [opened] if opened is not None else []
    return AllOf(trackers)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name!r} must be a number, got {value!r}; an agent logs numbers alone") from error


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """Read ``metrics.jsonl``, ``null`` as NaN; a last line cut short by a kill is left out.

    Raises:
        ValueError: If another line is not JSON.
    """
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    read: list[dict[str, float]] = []
    for number, line in enumerate(lines):
        try:
            read.append({name: math.nan if value is None else value for name, value in json.loads(line).items()})
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise ValueError(f"{folder / 'metrics.jsonl'} line {number + 1} is not JSON; delete the run") from error
    return read
