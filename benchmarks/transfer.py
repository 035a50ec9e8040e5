"""How agents that learned with one image model score with others: the report's transfer tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks import stats
from benchmarks.stats import Interval, Scores
from pasta_gym.types import IntArray

if TYPE_CHECKING:
    from benchmarks.cells import Cell
    from benchmarks.report import Report

ZERO, ONE = "random", "clairvoyant"
_SEED = 20_260_102  # of the resamples


def changes(home: Cell, away: Cell, *, n_replicates: int = 2000) -> dict[str, Interval]:
    """Compare normalised scores on two image models, over the agents, seeds and conversations that both have.

    Args:
        home: One reward on the image model that the agents learned with.
        away: The same reward on another.
        n_replicates: Bootstrap replicates of each interval.

    Returns:
        Normalised score on ``away`` minus that on ``home``, each on the scale of its own image model, with paired 95%
        intervals. Empty where the two share too little for a scale.
    """
    numbers = np.intersect1d(home.numbers, away.numbers)
    seeds = {agent: sorted(set(home.seeds[agent]) & set(away.seeds.get(agent, ()))) for agent in home.seeds}
    seeds = {agent: own for agent, own in seeds.items() if own}
    before, after = (
        {agent: _scores(cell, agent, own, numbers) for agent, own in seeds.items()} for cell in (home, away)
    )
    if not len(numbers) or not {ZERO, ONE} <= set(before):
        return {}
    rng = np.random.default_rng(_SEED)
    try:
        return stats.normalised_change_intervals(before, after, rng, zero=ZERO, one=ONE, n_replicates=n_replicates)
    except stats.NoScaleError:
        return {}


def _scores(cell: Cell, agent: str, seeds: list[int], numbers: IntArray) -> Scores:
    """Take ``(seeds, episodes)`` of some seeds and conversations, in the order given."""
    rows = np.array([cell.seeds[agent].index(seed) for seed in seeds])
    taken: Scores = cell.returns[agent][np.ix_(rows, np.searchsorted(cell.numbers, numbers))]
    return taken


def section(report: Report) -> list[str]:
    """Write the transfer tables as lines of Markdown, one pair a reward; none where there is but one image model."""
    lines: list[str] = []
    for reward in dict.fromkeys(reward for reward, _ in report.cells):
        cells = {images: cell for (own, images), cell in report.cells.items() if own == reward and cell.normalised}
        if report.home in cells and len(cells) > 1:
            lines += _tables(report, reward, cells)
    return lines


def _tables(report: Report, reward: str, cells: dict[str, Cell]) -> list[str]:
    home = report.home
    others = [images for images in cells if images != home]
    moved = {images: changes(cells[home], cells[images]) for images in others}
    titles = {images: f"{images} ({cells[images].episodes} episodes)" for images in (home, *others)}
    agents = [agent for agent in report.agents if any(agent in cells[images].normalised for images in others)]
    scores = [[report.label(agent), *(_cell(cells[images], agent) for images in titles)] for agent in agents]
    gaps = [
        [report.label(agent), *(_text(moved[images].get(agent)) for images in others)]
        for agent in agents
        if agent not in (ZERO, ONE)
    ]
    return [
        f"### Transfer to other image models, {reward}",
        "",
        f"Agents that learned with images={home}, scored with each image model and trained with none of the others. "
        "Normalised score [95% interval] on the scale of its own column: 0 is random and 1 the clairvoyant with the "
        "same pictures in the same conversations. Their returns stand beside the 0 and the 1.",
        "",
        *_table(["agent", *titles.values()], scores),
        "",
        f"Normalised score minus that with {home}, both over the conversations and training seeds that the two have in "
        "common, with 95% intervals from the pairs:",
        "",
        *_table(["agent", *(titles[images] for images in others)], gaps),
        "",
    ]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def _cell(cell: Cell, agent: str) -> str:
    if agent not in cell.normalised:
        return ""
    if agent in (ZERO, ONE):
        return f"{cell.normalised[agent].estimate:.0f} (return {cell.mean[agent].estimate:.2f})"
    return _text(cell.normalised[agent])


def _text(interval: Interval | None) -> str:
    return "" if interval is None else interval.text()
