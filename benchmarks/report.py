"""Turn run directories into a table with intervals, the headline checks, figures and a page.

Run ``python -m benchmarks.report RUNS_DIR``. It writes ``table.md``, ``scores.csv``, ``figure.png``,
``summary.json`` and ``report.html`` into ``RUNS_DIR/report``, with ``statistics.json`` and ``profiles.png`` where
there is something to compare, and prints the table.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import comparison_pages, held_out, html_report, personalisation, runs, shards, stats, transfer
from benchmarks.comparisons import BLIND, CLAIRVOYANT, HOME, RANDOM, REFERENCES
from benchmarks.pages import fill_block, printed
from benchmarks.regimes import section as regime_tables
from benchmarks.score_table import seeds_note, table_rows
from benchmarks.stats import Interval, Scores
from pasta_gym.trajectories.files import write_json, write_text
from pasta_gym.types import IntArray

BOOTSTRAP_SEED = 20_260_101
MIN_HEADROOM = 0.20
MARK = " \\*"
BLOCKS = ("table", "transfer")


@dataclass(frozen=True)
class Cell:
    """One reward and one painter of pictures: the scores of every agent on the same conversations.

    Attributes:
        returns: ``(seeds, episodes)`` episode returns of each agent.
        utilities: ``(H,)`` mean utility of the chosen column at each turn.
        episodes: How many conversations all agents share.
        numbers: ``(episodes,)`` their numbers, ascending.
        seeds: Training seed of each row of ``returns``, of each agent.
        mean: Mean return with its interval.
        normalised: On the scale from random to the clairvoyant; empty if either is missing.
        final: ``(seeds, episodes)`` utility of the column chosen last, of each agent.
        unseen: ``(seeds, episodes)`` whether that column shows a combination that nothing was trained on; without the
            agents of which it is not known.
    """

    returns: dict[str, Scores]
    utilities: dict[str, Scores]
    episodes: int
    numbers: IntArray
    seeds: dict[str, list[int]]
    mean: dict[str, Interval]
    normalised: dict[str, Interval]
    final: dict[str, Scores]
    unseen: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Check:
    """One claim and whether the runs bear it out; ``passed`` is None where runs for it are missing."""

    claim: str
    passed: bool | None
    found: str


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

    name: tuple[str, str, str, str]
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
        ValueError: If there is no finished run.
    """
    return _reports_of(root, shards.find_all(root, shards_folder), n_replicates)


def _reports_of(root: pathlib.Path, found: shards.Found, n_replicates: int) -> list[Report]:
    finished, failed, open_runs = found
    if not finished:
        said = "; ".join(f"{f['folder']}: {f.get('error')}" for f in failed) or "none began"
        raise ValueError(f"{root} holds no finished run ({said}); run python -m benchmarks.run first")
    groups: dict[tuple[str, str, str, str], list[runs.Run]] = {}
    for run in finished:
        key = run.key
        groups.setdefault((key.experiment, key.data, key.world, key.split), []).append(run)
    reports = []
    for name, own in groups.items():
        report = Report(
            name=name,
            title=f"{name[0]}: {name[1]} data, {name[2]} world, {name[3]} prompts",
            agents=_row_order({run.key.agent for run in own}),
            privileged={run.key.agent for run in own if run.metadata.get("privileged")},
            cells=_cells(own, n_replicates),
            failed=failed,
            open_runs=open_runs,
        )
        report.checks = headline_checks(report) + _of_other_weights(own)
        reports.append(report)
    return reports


def _of_other_weights(finished: list[runs.Run]) -> list[Check]:
    """A failed check if rows were scored with different weights of the world, which makes them no rows of one table."""
    sets = {run.metadata.get("models") for run in finished}
    found = f"{len(sets)} sets of weights; the same command again replaces what is stale"
    return [Check("all rows were scored with the same weights of the world", False, found)] if len(sets) > 1 else []


def _row_order(agents: set[str]) -> list[str]:
    learned = sorted(agents - set(REFERENCES))
    return [a for a in (*REFERENCES[:-1], *learned, CLAIRVOYANT) if a in agents]


def _cells(finished: list[runs.Run], n_replicates: int) -> dict[tuple[str, str], Cell]:
    grouped: dict[tuple[str, str], dict[str, list[runs.Run]]] = {}
    for run in finished:
        grouped.setdefault((run.key.reward, run.key.images), {}).setdefault(run.key.agent, []).append(run)
    return {key: _cell(own, n_replicates) for key, own in sorted(grouped.items(), reverse=True)}


def _cell(by_agent: dict[str, list[runs.Run]], n_replicates: int) -> Cell:
    shared = set.intersection(*(set(run.scores.episodes.tolist()) for own in by_agent.values() for run in own))
    if not shared:
        raise ValueError(f"the agents {sorted(by_agent)} share no episode; evaluate them with the same evaluation.seed")
    returns, utilities, final, unseen = {}, {}, {}, {}
    for agent, own in by_agent.items():
        rows = [np.flatnonzero(np.isin(run.scores.episodes, sorted(shared))) for run in own]
        ordered = [r[np.argsort(run.scores.episodes[r])] for r, run in zip(rows, own, strict=True)]
        returns[agent] = np.stack([run.scores.returns[r] for run, r in zip(own, ordered, strict=True)])
        utilities[agent] = np.mean(
            [run.scores.chosen_utilities[r].mean(axis=0) for run, r in zip(own, ordered, strict=True)], axis=0
        )
        final[agent] = np.stack([run.scores.chosen_utilities[r, -1] for run, r in zip(own, ordered, strict=True)])
        flags = [run.scores.unseen[r] for run, r in zip(own, ordered, strict=True) if run.scores.unseen is not None]
        if len(flags) == len(own):
            unseen[agent] = np.stack(flags)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    mean = stats.mean_intervals(returns, rng, n_replicates)
    can_scale = RANDOM in mean and CLAIRVOYANT in mean and mean[CLAIRVOYANT].estimate > mean[RANDOM].estimate
    normalised = stats.normalised_intervals(returns, rng, n_replicates=n_replicates) if can_scale else {}
    seeds = {agent: [run.key.seed for run in own] for agent, own in by_agent.items()}
    return Cell(returns, utilities, len(shared), np.array(sorted(shared)), seeds, mean, normalised, final, unseen)


def headline_checks(report: Report) -> list[Check]:
    """Test the claims that the table is meant to carry (see ``docs/benchmarks.md``)."""
    checks: list[Check] = []
    for (reward, images), cell in report.cells.items():
        if images != report.home or RANDOM not in cell.returns:
            continue
        learned = [a for a in report.agents if a in cell.returns and a not in REFERENCES and a not in report.privileged]
        checks += [_above_random(cell, agent, reward) for agent in learned]
        if CLAIRVOYANT in cell.returns:
            checks.append(_not_saturated(cell, reward))
            if BLIND in cell.returns:
                checks.append(_headroom(cell, reward))
        others = [(name, other) for (own, name), other in report.cells.items() if own == reward and name != images]
        checks += [_same_order(cell, other, reward, images, name) for name, other in others]
    return checks


def _above_random(cell: Cell, agent: str, reward: str) -> Check:
    ours, floor = cell.mean[agent], cell.mean[RANDOM]
    of_seed = cell.returns[agent].mean(axis=1)
    every = bool((of_seed > cell.returns[RANDOM].mean()).all())
    apart = ours.low > floor.high
    seeds = "in every seed" if len(of_seed) > 1 else "in its one seed"
    return Check(
        f"{agent} above random, {reward}: intervals apart and {seeds}",
        apart and every,
        f"{_text(ours)} against {_text(floor)}; seeds {', '.join(f'{s:.2f}' for s in of_seed)}",
    )


def _not_saturated(cell: Cell, reward: str) -> Check:
    gap = cell.mean[CLAIRVOYANT].estimate - cell.mean[RANDOM].estimate
    spread = float(cell.returns[RANDOM].std(axis=1, ddof=1).mean()) if cell.episodes > 1 else float("nan")
    return Check(
        f"clairvoyant minus random is at least one standard deviation of random's return, {reward}",
        bool(gap >= spread),
        f"{gap:.2f} against {spread:.2f}",
    )


def _headroom(cell: Cell, reward: str) -> Check:
    blind = cell.mean[BLIND].estimate
    top, floor = cell.mean[CLAIRVOYANT].estimate, cell.mean[RANDOM].estimate
    share = (top - blind) / (top - floor) if top > floor else float("nan")
    return Check(
        f"personalisation is worth at least {MIN_HEADROOM:.0%} of the gap from random to clairvoyant, {reward}",
        bool(share >= MIN_HEADROOM),
        f"{share:.0%} above the best slate that ignores the user",
    )


def _same_order(at_home: Cell, painted: Cell, reward: str, home: str, images: str) -> Check:
    """No pair of agents may be apart one way where they learned and apart the other way under another image model."""
    shared = sorted(set(at_home.returns) & set(painted.returns))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    agreeing, reversed_pairs, n_pairs = 0, [], 0
    for i, first in enumerate(shared):
        for second in shared[i + 1 :]:
            here = stats.difference_interval(at_home.returns, first, second, rng, 1000)
            there = stats.difference_interval(painted.returns, first, second, rng, 1000)
            n_pairs += 1
            agreeing += here.estimate * there.estimate > 0
            if (here.low > 0 and there.high < 0) or (here.high < 0 and there.low > 0):
                reversed_pairs.append(f"{first} and {second}")
    found = f"{agreeing} of {n_pairs} pairs in the same order over {painted.episodes} episodes on {images}"
    if reversed_pairs:
        found += f"; reversed beyond noise: {', '.join(reversed_pairs)}"
    claim = f"no two agents change places beyond noise when moved from {home} to {images}, {reward}"
    return Check(claim, not reversed_pairs if n_pairs else None, found)


def _text(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


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
                right.plot(turns, cell.utilities[agent], marker=".", color=colours[row % 20], label=agent)
    left.set_yticks(range(len(report.agents)), report.agents)
    left.invert_yaxis()
    left.set_xlabel("normalised score (0 = random, 1 = clairvoyant), 95% interval")
    left.legend(title="reward", fontsize="small")
    right.set_xlabel("turn")
    right.set_ylabel(f"utility of the chosen column ({next(iter(cells))})")
    right.legend(fontsize="x-small")
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
    if shards_folder is not None:
        root.mkdir(parents=True, exist_ok=True)
    found = shards.find_all(root, shards_folder)
    reports = _reports_of(root, found, n_replicates)
    folder = root / "report"
    folder.mkdir(exist_ok=True)
    texts = [markdown(report) for report in reports]
    text = "\n".join(texts)
    written = [folder / "table.md", folder / "scores.csv", folder / "summary.json", folder / "report.html"]
    statistics, comparisons, statistics_files = comparison_pages.write(reports, folder, n_replicates=n_replicates)
    text += "\n".join(regime_tables(reports, n_replicates=n_replicates))
    write_text(written[0], text + statistics)
    write_text(written[1], shards.joined_scores(root, shards_folder))
    write_json(written[2], [_summary(report) for report in reports])
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
    return text, written + statistics_files


def _summary(report: Report) -> dict[str, Any]:
    cells = {
        f"{reward}/{images}": {
            "episodes": cell.episodes,
            "seeds": {agent: len(values) for agent, values in cell.returns.items()},
            "mean_return": {agent: asdict(made) for agent, made in cell.mean.items()},
            "normalised": {agent: asdict(made) for agent, made in cell.normalised.items()},
            "interquartile_mean_return": {
                agent: float(stats.interquartile_mean(values).mean()) for agent, values in cell.returns.items()
            },
            "probability_of_improvement_over_random": {
                agent: stats.probability_of_improvement(values, cell.returns[RANDOM])
                for agent, values in cell.returns.items()
                if RANDOM in cell.returns
            },
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


def main(arguments: list[str] | None = None) -> None:
    """Write the report of a folder, print its table and name its files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="folder that benchmarks.run wrote to")
    parser.add_argument("--shards", type=pathlib.Path, help="folder of score shards to read beside the runs")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap replicates of each interval")
    parser.add_argument("--page", type=pathlib.Path, help="also put the table into this page's block, as in README.md")
    parser.add_argument("--block", choices=BLOCKS, default=BLOCKS[0], help="what goes there: all, or transfer alone")
    parser.add_argument("--command", default="make benchmark", help="what that page says it was printed by")
    given = parser.parse_args(arguments)
    text, written = write_report(given.runs, n_replicates=given.replicates, shards_folder=given.shards)
    if given.page:
        made = f"{printed(given.command)}\n\n"
        if given.block == "transfer":
            reports = make_reports(given.runs, n_replicates=given.replicates, shards_folder=given.shards)
            text = "\n".join(line for report in reports for line in transfer.section(report))
        fill_block(given.page, given.block, made + text)
        written.append(given.page)
    sys.stdout.write(text + "\nwrote\n" + "".join(f"  {path}\n" for path in written))


if __name__ == "__main__":
    main()
