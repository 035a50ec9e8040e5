"""What users had at the end, apart for combinations of values that were trained on and those that were held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Report


def rows(report: Report) -> list[list[str]]:
    """Make the table.

    Returns:
        One row an agent and reward: agent, reward, share of conversations that end on a held-out combination, mean
        final utility x 10 there, and elsewhere.
    """
    made = []
    for (reward, images), cell in report.cells.items():
        for agent in report.agents:
            if images != report.home or agent not in cell.unseen or not cell.unseen[agent].any():
                continue
            flags, final = cell.unseen[agent], 10 * cell.final[agent]
            elsewhere = f"{final[~flags].mean():.2f}" if not flags.all() else ""
            made.append([agent, reward, f"{flags.mean():.1%}", f"{final[flags].mean():.2f}", elsewhere])
    return made


def section(report: Report) -> list[str]:
    """Write the table as lines of Markdown; none where nothing was held out."""
    table = rows(report)
    if not table:
        return []
    return [
        "### Held-out combinations",
        "",
        "Conversations that end on a combination which neither the models nor the agents were trained on, and the mean "
        "utility x 10 of what was chosen last, there and elsewhere. Agents and users steer, so the two groups differ "
        "in more than the combination.",
        "",
        "| agent | reward | share | held out | elsewhere |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in table),
        "",
    ]
