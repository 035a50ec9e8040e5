"""Where the numbers of a run go while it runs: files always, Weights & Biases if wanted."""

from __future__ import annotations

import csv
import json
import netrc
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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
    """

    csv: bool = True
    wandb: str = "off"
    project: str = "pasta-gym"
    entity: str | None = None
    pictures: bool = False

    def __post_init__(self) -> None:
        if self.wandb not in WANDB_MODES:
            raise ValueError(f"tracking.wandb must be one of {WANDB_MODES}, got {self.wandb!r}")


class Tracker(Protocol):
    """Takes a run's numbers."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Record numbers by name; ``step`` among them is the gradient step they belong to."""
        ...

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Record a picture ``(height, width, 3)`` uint8."""
        ...

    def finish(self) -> None:
        """Close files and connections; nothing is logged afterwards."""
        ...


class FileTracker:
    """Writes ``metrics.jsonl`` (one object a call) and, if wanted, ``metrics.csv`` (one row a number)."""

    def __init__(self, folder: pathlib.Path, *, with_csv: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._with_csv = with_csv
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, float]) -> None:
        """Append one line."""
        self._lines.write(json.dumps({name: float(value) for name, value in metrics.items()}) + "\n")
        self._lines.flush()

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Write ``pictures/<name>.png``."""
        from PIL import Image

        path = self._folder / "pictures" / f"{name.replace('/', '-')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def finish(self) -> None:
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


class WandbTracker:
    """Sends the same names to Weights & Biases, or writes them to an offline run folder."""

    def __init__(self, config: TrackingConfig, folder: pathlib.Path, *, run_id: str, name: str, settings: Any) -> None:
        import wandb

        mode = wandb_mode(config.wandb)
        self._wandb = wandb
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            id=run_id,
            name=name,
            dir=str(folder),
            config=settings,
            mode=mode,
            # An offline run has no server to resume from; its folder carries the id and syncs into one run.
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    def log(self, metrics: Mapping[str, float]) -> None:
        """Send numbers; the gradient step is one of them, so that resumed runs stay in order."""
        self._run.log({name: float(value) for name, value in metrics.items()})

    def picture(self, name: str, pixels: ImageArray) -> None:
        """Send a picture."""
        self._run.log({name: self._wandb.Image(pixels)})

    def finish(self) -> None:
        """Close the run, so that the next job of a sweep in this process opens its own."""
        self._run.finish()


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

    def finish(self) -> None:
        """Finish every one."""
        for tracker in self._trackers:
            tracker.finish()


def make_tracker(
    config: TrackingConfig, folder: pathlib.Path, *, run_id: str, name: str, settings: dict[str, Any]
) -> Tracker:
    """Open the trackers of a run.

    Args:
        config: Which ones.
        folder: The run directory.
        run_id: The configuration's hash; a run that is taken up again has the same.
        name: What a person reads.
        settings: The resolved configuration.
    """
    trackers: list[Tracker] = [FileTracker(folder, with_csv=config.csv)]
    if config.wandb != "off":
        trackers.append(WandbTracker(config, folder, run_id=run_id, name=name, settings=settings))
    return AllOf(trackers)


def wandb_mode(wanted: str) -> str:
    """Choose online or offline: ``"auto"`` is online only if this user has an account on this machine."""
    if wanted != "auto":
        return wanted
    return "online" if _has_account() else "offline"


def _has_account() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """Read ``metrics.jsonl``; a last line cut short by a kill is left out.

    Raises:
        ValueError: If another line is not JSON.
    """
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    read: list[dict[str, float]] = []
    for number, line in enumerate(lines):
        try:
            read.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise ValueError(f"{folder / 'metrics.jsonl'} line {number + 1} is not JSON; delete the run") from error
    return read
