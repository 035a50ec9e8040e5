"""Turn run directories into a table with intervals, the headline checks, figures and a page.

Run ``python -m benchmarks.report RUNS_DIR``. It writes ``table.md``, ``scores.csv``, ``figure.png``,
``summary.json`` and ``report.html`` into ``RUNS_DIR/report``, with ``statistics.json`` and ``profiles.png`` where
there is something to compare, and prints the table.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks import (
    comparison_pages,
    held_out,
    html_report,
    personalisation,
    runs,
    shards,
    transfer,
)
from benchmarks.cells import Cell, cells_of, improvement_over_random
from benchmarks.checks import Check, headline_checks, of_other_settings, of_other_weights
from benchmarks.comparisons import CLAIRVOYANT, HOME, REFERENCES
from benchmarks.pages import fill_block, has_block, printed, printed_by
from benchmarks.regimes import section as regime_tables
from benchmarks.score_table import seeds_note, table_rows
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import write_json, write_text

MARK = " \\*"
BLOCKS = ("table", "transfer")
STATISTICS_BLOCK = "statistics"
Name = tuple[str, str, str, str]
"""Experiment, data, world and split of a report."""
Entry = TypeVar("Entry")


@dataclass
class Report:
    """What a folder of runs says.

    Attributes:
        name: Experiment, data, world and split.
        title: The same in words.
        agents: Row order of the table.
        privileged: Agents that use insides of the environment.
        cells: By reward and painter.
        checks: The headline claims.
        failed: What failed runs said.
        open_runs: Runs that neither finished nor failed.
    """

    name: Name
    title: str
    agents: list[str]
    privileged: set[str]
    cells: dict[tuple[str, str], Cell]
    checks: list[Check] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    open_runs: list[pathlib.Path] = field(default_factory=list)

    @property
    def home(self) -> str:
        """The image model that the agents learned with: the surrogate where there is one, else that of most episodes.

        Worlds of full size have no surrogate.
        """
        models = {images: cell.episodes for (_, images), cell in self.cells.items()}
        return HOME if HOME in models or not models else max(models, key=lambda images: models[images])

    def label(self, agent: str) -> str:
        """Write an agent's name for a table, marked if it uses insides of the environment."""
        return agent + (MARK if agent in self.privileged else "")


def make_reports(
    root: pathlib.Path, *, n_replicates: int = 2000, shards_folder: pathlib.Path | None = None
) -> list[Report]:
    """Read every run under a folder: one report an experiment, dataset and world.

    Args:
        root: Folder of run directories.
        n_replicates: Bootstrap replicates of each interval.
        shards_folder: Folder of score shards (see ``benchmarks.shards``), for the runs that are not under ``root``.

    Raises:
        ValueError: If there is no finished run, one lies there twice, or conversations of one number are not the same.
    """
    return _reports_of(root, shards.find_all(root, shards_folder), n_replicates)


def _reports_of(root: pathlib.Path, found: shards.Found, n_replicates: int) -> list[Report]:
    finished, failed, open_runs = found
    if not finished:
        said = "; ".join(f"{f['folder']}: {f.get('error')}" for f in failed) or "none began"
        raise ValueError(f"{root} holds no finished run ({said}); run python -m benchmarks.run first")
    groups: dict[Name, list[runs.Run]] = {}
    for run in finished:
        key = run.key
        groups.setdefault((key.experiment, key.data, key.world, key.split), []).append(run)
    reports: list[Report] = []
    failures = _of_reports(failed, [f["folder"] for f in failed], list(groups))
    unfinished = _of_reports(open_runs, open_runs, list(groups))
    for name, own in groups.items():
        report = Report(
            name=name,
            title=f"{name[0]}: {name[1]} data, {name[2]} world, {name[3]} prompts",
            agents=_row_order({run.key.agent for run in own}),
            privileged={run.key.agent for run in own if run.metadata.get("privileged")},
            cells=cells_of(own, n_replicates),
            failed=failures[name],
            open_runs=unfinished[name],
        )
        report.checks = headline_checks(report) + of_other_weights(own) + of_other_settings(own)
        reports.append(report)
    return reports


def _of_reports(
    entries: Sequence[Entry], folders: Sequence[str | pathlib.Path], names: Sequence[Name]
) -> dict[Name, list[Entry]]:
    """Sort runs without scores by the report that they would stand in, which their folders say.

    One of an experiment, dataset or world without a finished run is in the first report: somebody must tell of it.
    """
    found: dict[Name, list[Entry]] = {name: [] for name in names}
    for entry, folder in zip(entries, folders, strict=True):
        place = runs.place_of(pathlib.Path(folder))
        owner = next((name for name in names if name[:3] == place), names[0])
        found[owner].append(entry)
    return found


def _row_order(agents: set[str]) -> list[str]:
    learned = sorted(agents - set(REFERENCES))
    return [a for a in (*REFERENCES[:-1], *learned, CLAIRVOYANT) if a in agents]


def markdown(report: Report) -> str:
    """Write a report as Markdown: table, notes, checks, failed runs."""
    header, rows = table_rows(report)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    sizes = sorted({cell.episodes for (_, images), cell in report.cells.items() if images == report.home})
    under = f"the {HOME}" if report.home == HOME else report.home
    notes = [
        f"## {report.title}",
        "",
        line(header),
        "|" + "|".join("-" * (width + 2) for width in widths) + "|",
        *(line(row) for row in rows),
        "",
        f"Mean [95% interval] over training seeds and {', '.join(map(str, sizes)) or 'no'} held-out episodes under "
        f"{under}. Returns are 10 x utility: sparse in 0..10, dense in 0..50. Normalised: 0 = random, "
        "1 = clairvoyant (myopic, so it can be passed).",
        *seeds_note(report),
        *(
            f"{reward}, {images}: {cell.shortened}."
            for (reward, images), cell in report.cells.items()
            if cell.shortened
        ),
        "\\* uses insides of the environment.",
        "",
        *transfer.section(report),
        *held_out.section(report),
        *personalisation.section(report),
        "### Checks",
        "",
    ]
    words = {True: "yes", False: "NO", None: "not run"}
    notes += [f"- {words[check.passed]}: {check.claim}: {check.found}" for check in report.checks]
    if report.failed:
        notes += ["", "### Failed runs", ""]
        notes += [f"- {failure['folder']}: {failure.get('error', 'no message')}" for failure in report.failed]
    if report.open_runs:
        notes += ["", "### Unfinished runs", "", *(f"- {folder}" for folder in report.open_runs)]
    return "\n".join(notes) + "\n"


def draw(report: Report, path: pathlib.Path) -> None:
    """Draw normalised scores with intervals, and the chosen column's utility turn by turn."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = {reward: cell for (reward, images), cell in report.cells.items() if images == report.home}
    figure = Figure(figsize=(11, 0.8 + 0.42 * max(6, len(report.agents))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, 20))
    for shift, marker, (reward, cell) in zip((-0.14, 0.14), "os", cells.items(), strict=False):
        shown = cell.normalised or cell.mean
        for row, agent in enumerate(report.agents):
            if agent in shown:
                made = shown[agent]
                left.plot([made.low, made.high], [row + shift] * 2, color=colours[row % 20], linewidth=2)
                left.plot(
                    made.estimate, row + shift, marker, color=colours[row % 20], label=reward if row == 0 else None
                )
        for row, agent in enumerate(report.agents):
            if agent in cell.utilities and reward == next(iter(cells)):
                turns = np.arange(1, len(cell.utilities[agent]) + 1)
                line = "--" if row // 20 % 2 else "-"  # the colours are used up
                right.plot(turns, cell.utilities[agent], line, marker=".", color=colours[row % 20], label=agent)
    left.set_yticks(range(len(report.agents)), report.agents)
    left.invert_yaxis()
    left.set_xlabel("normalised score (0 = random, 1 = clairvoyant), 95% interval")
    left.legend(loc="upper left", title="reward", fontsize="small")
    right.set_xlabel("turn")
    right.set_ylabel(f"utility of the chosen column ({next(iter(cells))})")
    right.legend(loc="upper left", fontsize="x-small")
    figure.savefig(path, dpi=140)


def write_report(
    root: pathlib.Path, *, n_replicates: int = 2000, shards_folder: pathlib.Path | None = None
) -> tuple[str, list[pathlib.Path]]:
    """Write all files of the report.

    Args:
        root: Folder of run directories; the report goes to ``root/report``.
        n_replicates: Bootstrap replicates of each interval.
        shards_folder: As in ``make_reports``; ``root`` is made if nothing ran on this machine.

    Returns:
        The table as Markdown, and the files written.
    """
    made = _write(root, n_replicates, shards_folder)
    return made.text, made.files


class _Written(NamedTuple):
    """The reports, their tables and their statistics as Markdown, and the files that hold them."""

    reports: list[Report]
    text: str
    statistics: str
    files: list[pathlib.Path]


def _write(root: pathlib.Path, n_replicates: int, shards_folder: pathlib.Path | None) -> _Written:
    found = shards.find_all(root, shards_folder)
    reports = _reports_of(root, found, n_replicates)
    folder = root / "report"
    folder.mkdir(parents=True, exist_ok=True)  # not before: a misspelt folder leaves nothing behind
    texts = [markdown(report) for report in reports]
    text = "\n".join(texts)
    written = [folder / "table.md", folder / "scores.csv", folder / "summary.json", folder / "report.html"]
    statistics, comparisons, statistics_files = comparison_pages.write(reports, folder, n_replicates=n_replicates)
    text += "\n".join(regime_tables(reports, n_replicates=n_replicates))
    write_text(written[0], text + statistics)
    write_text(written[1], shards.joined_scores(root, shards_folder))
    write_json(written[2], [_summary(report, n_replicates) for report in reports])
    figures = []
    for number, report in enumerate(reports):
        path = folder / ("figure.png" if number == 0 else f"figure_{number + 1}.png")
        draw(report, path)
        figures.append(path)
    drawn = [*figures, *(path for path in statistics_files if path.suffix == ".png")]
    rest = text.removeprefix("\n".join(texts)) + statistics
    again = ["python", "-m", "benchmarks.report", str(root)]
    again += [] if shards_folder is None else ["--shards", str(shards_folder)]
    shown: dict[str, Any] = {"rest": rest, "comparisons": comparisons, "drawn": drawn, "command": again}
    html_report.write(written[3], reports, texts, found[0], **shown)
    written += figures
    return _Written(reports, text, statistics, written + statistics_files)


def _summary(report: Report, n_replicates: int) -> dict[str, Any]:
    cells = {
        f"{reward}/{images}": {
            "episodes": cell.episodes,
            "seeds": {agent: len(values) for agent, values in cell.returns.items()},
            "mean_return": {agent: asdict(made) for agent, made in cell.mean.items()},
            "normalised": {agent: asdict(made) for agent, made in cell.normalised.items()},
            "probability_of_improvement_over_random": improvement_over_random(cell, n_replicates),
        }
        for (reward, images), cell in report.cells.items()
    }
    return {
        "title": report.title,
        "privileged": sorted(report.privileged),
        "cells": cells,
        "checks": [asdict(check) for check in report.checks],
        "failed": report.failed,
        "unfinished": [str(folder) for folder in report.open_runs],
    }


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Write the report of a folder, print its table and name its files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="folder that benchmarks.run wrote to")
    parser.add_argument("--shards", type=pathlib.Path, help="folder of score shards to read beside the runs")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap replicates of each interval")
    parser.add_argument("--page", type=pathlib.Path, help="also put the table into this page's block, as in README.md")
    parser.add_argument("--block", choices=BLOCKS, default=BLOCKS[0], help="what goes there: all, or transfer alone")
    parser.add_argument("--command", help="what that page says it was printed by; this command if left out")
    given = parser.parse_args(arguments)
    made = _write(given.runs, given.replicates, given.shards)
    files = list(made.files)
    if given.page:
        _fill(
            given.page, given.block, made, printed(given.command) if given.command else printed_by("report", arguments)
        )
        files.append(given.page)
    text = _of_block(made, given.block) if given.page else made.text
    sys.stdout.write(text + "\nwrote\n" + "".join(f"  {path}\n" for path in files))


def _fill(page: pathlib.Path, block: str, made: _Written, by: str) -> None:
    """Put the table into its block, and the statistics, which are long, into theirs if the page has one."""
    fill_block(page, block, f"{by}\n\n{_of_block(made, block)}")
    if block == BLOCKS[0] and has_block(page, STATISTICS_BLOCK):
        nothing = "Nothing to compare: statistics need both ends of a scale and a learner of two training seeds."
        fill_block(page, STATISTICS_BLOCK, f"{by}\n\n{made.statistics.strip() or nothing}")


def _of_block(made: _Written, block: str) -> str:
    if block != "transfer":
        return made.text
    return "\n".join(line for report in made.reports for line in transfer.section(report))


if __name__ == "__main__":
    main()
