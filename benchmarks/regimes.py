"""The paper's table F.1: agents trained on human, simulated and mixed data, or on less of it, and the learned users.

python -m benchmarks.regimes runs/regimes                           prints it
python -m benchmarks.regimes runs/regimes --page docs/regimes.md    and puts it into the page
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import stats
from benchmarks.comparisons import HOME, RANDOM, REFERENCES
from benchmarks.pages import fill_block, printed
from benchmarks.stats import Interval, Scores
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.types import IntArray

if TYPE_CHECKING:
    from benchmarks.report import Report

REGIMES = ("human", "human_untrained", "simulated_3k", "simulated_10k", "simulated", "mixed")
"""Data that a table puts side by side, in this order: who chose, or how many conversations there are."""

_SEED = 20_260_104  # of the resamples


def section(reports: Sequence[Report], *, n_replicates: int = 2000) -> list[str]:
    """Write table F.1 as lines of Markdown, for each world and experiment with two regimes of data or more.

    Args:
        reports: One an experiment, dataset and world.
        n_replicates: Bootstrap replicates of each interval.
    """
    groups: dict[tuple[str, str, str], dict[str, Report]] = {}
    for report in reports:
        experiment, data, world, split = report.name
        if data in REGIMES:
            groups.setdefault((experiment, world, split), {})[data] = report
    lines: list[str] = []
    for (experiment, world, split), by_data in groups.items():
        if len(by_data) > 1:
            lines += _tables(f"{experiment}: {world} world, {split} prompts", by_data, n_replicates)
    return lines


def _tables(title: str, by_data: dict[str, Report], n_replicates: int) -> list[str]:
    present = [data for data in REGIMES if data in by_data]
    known = {agent for report in by_data.values() for agent in report.agents}
    learners = sorted(
        agent for agent in known - set(REFERENCES) if not any(agent in report.privileged for report in by_data.values())
    )
    rewards = list(
        dict.fromkeys(reward for data in present for reward, images in by_data[data].cells if images == HOME)
    )
    lines = [
        f"### Data regimes, {title}",
        "",
        "Mean return [95% interval] with the learned users, 10 x utility, over training seeds and held-out "
        "conversations, which all cells of a row share. Below it, the difference to simulated data in the same "
        "conversations.",
        "",
        f"| agent | reward | {RANDOM} | {' | '.join(present)} |",
        "|---" * (len(present) + 3) + "|",
    ]
    for agent in learners:
        for reward in rewards:
            scores, n_episodes = columns(by_data, agent, reward)
            if not scores:
                continue
            made = stats.mean_intervals(scores, np.random.default_rng(_SEED), n_replicates)
            lines.append(_row([agent, f"{reward}, {n_episodes} episodes"], (RANDOM, *present), made))
            if "simulated" in scores:
                rng = np.random.default_rng(_SEED)
                gaps = {
                    name: stats.difference_interval(scores, name, "simulated", rng, n_replicates)
                    for name in scores
                    if name != "simulated"
                }
                lines.append(_row([agent, f"{reward}, minus simulated"], (RANDOM, *present), gaps))
    return [*lines, ""]


def columns(by_data: dict[str, Report], agent: str, reward: str) -> tuple[dict[str, Scores], int]:
    """Collect the returns of one agent from each regime, and random's, over the conversations that all of them share.

    Args:
        by_data: A report of each regime.
        agent: A learner.
        reward: ``"sparse"`` or ``"dense"``.

    Returns:
        ``(seeds, episodes)`` by regime and under ``"random"``, and the number of conversations. Random has learned
        from no data, so it is taken from the first report that has it.
    """
    found: dict[str, tuple[IntArray, Scores]] = {}
    for data, report in by_data.items():
        cell = report.cells.get((reward, HOME))
        if cell is None:
            continue
        for name, column in ((RANDOM, RANDOM), (agent, data)):
            if name in cell.returns:
                found.setdefault(column, (cell.numbers, cell.returns[name]))
    if not found:
        return {}, 0
    shared = sorted(set.intersection(*(set(numbers.tolist()) for numbers, _ in found.values())))
    taken = {name: scores[:, np.isin(numbers, shared)] for name, (numbers, scores) in found.items()}
    return (taken, len(shared)) if shared else ({}, 0)


def _row(cells: list[str], names: Sequence[str], made: dict[str, Interval]) -> str:
    texts = [i.text() if (i := made.get(name)) else "" for name in names]
    return f"| {' | '.join([*cells, *texts])} |"


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Print the table of a folder of runs and put it into a page."""
    from benchmarks.report import make_reports

    parser = argparse.ArgumentParser(prog="python -m benchmarks.regimes", description=__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="folder that the sweep wrote to")
    parser.add_argument("--page", type=pathlib.Path, help="also put the table into this page's block `regimes`")
    given = parser.parse_args(arguments)
    lines = section(make_reports(given.runs))
    if not lines:
        raise ValueError(
            f"{given.runs} must hold finished runs of two regimes of {REGIMES}; run: "
            "python -m benchmarks.run --multirun experiment=regimes"
        )
    text = "\n".join(lines)
    if given.page:
        fill_block(given.page, "regimes", f"{printed(f'python -m benchmarks.regimes {given.runs}')}\n\n{text}")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
