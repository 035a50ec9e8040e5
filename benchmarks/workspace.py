"""Save a W&B workspace for the runs of a folder: runs grouped by experiment and agent, a panel for each metric.

Run ``python -m benchmarks.workspace RUNS_DIR --entity TEAM``. It needs the runs on W&B's server (``tracking=wandb``, or
``wandb sync``), the package wandb-workspaces and an account; where one is missing, a line says which.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import runs
from benchmarks.tracking import METRICS, TrackingConfig, read_metrics
from benchmarks.wandb_tracking import EPISODES, STEP, has_account
from pasta_gym.command_line import errors_in_one_line

MAIN = "evaluation/episode_return"
"""The metric that runs are sorted by."""


@dataclass(frozen=True)
class Panel:
    """One panel, as a person would describe it.

    Attributes:
        kind: ``"bars"`` (means of groups of runs), ``"lines"`` (over gradient steps), ``"table"`` or ``"pictures"``.
        title: With the unit and which way is better, where they are known.
        keys: Names under which runs logged what it shows.
    """

    kind: str
    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Panels that stand together."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Logged:
    """What the runs of a folder logged.

    Attributes:
        experiments: Their names, sorted.
        training: Names of metrics with a gradient step, sorted.
        pictures: Names of pictures, in the order of turns.
    """

    experiments: tuple[str, ...]
    training: tuple[str, ...]
    pictures: tuple[str, ...]


def sections(training: Sequence[str], pictures: Sequence[str]) -> list[Section]:
    """Describe the workspace.

    Args:
        training: Names of training metrics, such as ``training/loss/q``; one panel each.
        pictures: Names of slates, such as ``slates/turn_1``; one panel for all of them.

    Returns:
        Scores, training, episodes and slates, without sections that would be empty.
    """
    scores = tuple(
        Panel("bars", f"{name.partition('/')[2].replace('_', ' ')} ({metric.unit}, {metric.better} is better)", (name,))
        for name, metric in METRICS.items()
    )
    lines = tuple(Panel("lines", name.partition("/")[2], (name,)) for name in training)
    slates = (Panel("pictures", "slates of one conversation", tuple(pictures)),) if pictures else ()
    made = (
        Section("Scores", scores),
        Section("Training", lines),
        Section("Episodes", (Panel("table", "episodes of every run", (EPISODES,)),)),
        Section("Slates", slates),
    )
    return [section for section in made if section.panels]


def logged_in(root: pathlib.Path) -> Logged:
    """Look up what the finished runs of a folder logged.

    Raises:
        ValueError: If the folder does not exist or holds no finished run.
    """
    finished, _, _ = runs.find_runs(root)
    if not finished:
        raise ValueError(f"{root} holds no finished run; run python -m benchmarks.run first")
    training: set[str] = set()
    pictures: set[str] = set()
    for run in finished:
        if (run.folder / runs.METRICS).exists():
            lines = [line for line in read_metrics(run.folder) if STEP in line]
            training |= {name for line in lines for name in line if name.startswith("training/")}
        pictures |= {path.stem.replace("-", "/", 1) for path in (run.folder / "pictures").glob("*.png")}
    experiments = {run.key.experiment for run in finished}
    return Logged(tuple(sorted(experiments)), tuple(sorted(training)), tuple(sorted(pictures, key=_by_length)))


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name  # turn_10 after turn_9


def build(description: Sequence[Section], experiments: Sequence[str], *, entity: str, project: str, name: str) -> Any:
    """Turn a description into a ``wandb_workspaces`` workspace, which is not saved yet.

    Args:
        description: Of :func:`sections`.
        experiments: Whose runs are shown.
        entity: W&B team or user.
        project: W&B project.
        name: Of the saved view.
    """
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    group = expr.Metric("Group")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name=section.name, panels=[_panel(panel) for panel in section.panels], is_open=True)
            for section in description
        ],
        runset_settings=ws.RunsetSettings(
            filters=expr.And(group.isin(list(experiments))),
            groupby=[group, expr.Metric("JobType")],
            order=[expr.Ordering(expr.Summary(MAIN), ascending=METRICS[MAIN].better == "lower")],
            pinned_columns=[f"summary:{metric}" for metric in METRICS],
        ),
    )


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    if panel.kind == "bars":
        return wr.BarPlot(title=panel.title, metrics=list(panel.keys), groupby="JobType", groupby_rangefunc="stddev")
    if panel.kind == "lines":
        return wr.LinePlot(title=panel.title, x=STEP, y=list(panel.keys), title_x="gradient step")
    if panel.kind == "pictures":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys))
    return wr.WeavePanelSummaryTable(table_name=panel.keys[0])


def missing() -> str | None:
    """Say in one line what is missing to save a workspace, or None."""
    if importlib.util.find_spec("wandb") is None or importlib.util.find_spec("wandb_workspaces") is None:
        return "wandb-workspaces is not installed; python -m pip install -c constraints.txt wandb-workspaces"
    import wandb

    if not has_account(wandb.Settings().base_url):
        return "no W&B account on this machine; `wandb login` adds one"
    return None


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> int:
    """Save a workspace; the exit status is 1 if that was not possible."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workspace", description=__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="folder that benchmarks.run wrote to")
    parser.add_argument("--entity", required=True, help="W&B team or user")
    parser.add_argument("--project", default=TrackingConfig.project)
    parser.add_argument("--name", default="PASTA Gym", help="of the saved view")
    given = parser.parse_args(arguments)
    logged = logged_in(given.runs)
    lack = missing()
    if lack is not None:
        sys.stdout.write(f"no workspace saved: {lack}\n")
        return 1
    description = sections(logged.training, logged.pictures)
    workspace = build(description, logged.experiments, entity=given.entity, project=given.project, name=given.name)
    try:
        workspace.save()
    except Exception as error:  # the server's answer or its absence, in the package's many classes of error
        sys.stdout.write(f"no workspace saved: {type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write(f"saved {workspace.url}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
