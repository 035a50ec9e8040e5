"""What users had at the end, apart for combinations of values that were trained on and those that were held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks import stats

if TYPE_CHECKING:
    from benchmarks.report import Report

TOO_FEW = "too few"
_SEED = 20_260_105  # of the resamples


def rows(report: Report, *, n_replicates: int = 2000) -> list[list[str]]:
    """Make the table.

    Args:
        report: Of one experiment and world.
        n_replicates: Bootstrap replicates of each interval.

    Returns:
        One row an agent and reward: agent, reward, share of conversations that end on a held-out combination, mean
        final utility x 10 there, and elsewhere, each with its 95% interval. A mean of so few conversations that some
        resample holds none of them is ``"too few"``.
    """
    made = []
    for (reward, images), cell in report.cells.items():
        for agent in report.agents:
            if images != report.home or agent not in cell.unseen or not cell.unseen[agent].any():
                continue
            flags, final = cell.unseen[agent], 10 * cell.final[agent]
            share = stats.mean_intervals({agent: flags.astype(np.float64)}, _rng(), n_replicates)[agent]
            means = [stats.mean_interval_where(final, kind, _rng(), n_replicates) for kind in (flags, ~flags)]
            texts = [TOO_FEW if mean is None else mean.text() for mean in means]
            made.append([agent, reward, share.text(1, percent=True), texts[0], "" if flags.all() else texts[1]])
    return made


def _rng() -> np.random.Generator:
    """Make the generator of one cell: every cell is of the same resampled conversations."""
    return np.random.default_rng(_SEED)


def section(report: Report, *, n_replicates: int = 2000) -> list[str]:
    """Write the table as lines of Markdown; none where nothing was held out."""
    table = rows(report, n_replicates=n_replicates)
    if not table:
        return []
    return [
        "### Held-out combinations",
        "",
        "Conversations that end on a combination which neither the models nor the agents were trained on, and the mean "
        "utility x 10 of what was chosen last, there and elsewhere: means of training seeds, which count alike [95% "
        "interval over seeds and conversations]. Agents and users steer, so the two groups differ in more than the "
        "combination.",
        "",
        "| agent | reward | share | held out | elsewhere |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in table),
        "",
    ]
