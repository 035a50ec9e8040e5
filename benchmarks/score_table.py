"""The report's table of scores: a row an agent, a column a reward and image model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Report

SEEDS_NOTE = "Seeds, where columns differ: "


def table_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Lay the report out: header, and one row an agent with ``estimate [low, high]`` in each column."""
    header, columns = ["agent", "seeds"], []
    for (reward, images), cell in report.cells.items():
        if images == report.home:
            header += [f"{reward} return", f"{reward} normalised"]
            columns += [cell.mean, cell.normalised]
        else:
            header.append(f"{reward} return on {images} ({cell.episodes} episodes)")
            columns.append(cell.mean)
    rows = []
    for agent in report.agents:
        values = [column[agent].text() if agent in column else "" for column in columns]
        rows.append([report.label(agent), _seeds(report, agent), *values])
    return header, rows


def seeds_note(report: Report) -> list[str]:
    """Say which columns the numbers of seeds are of, if an agent has other numbers in other columns."""
    if not any(_differ(_counts(report, agent)) for agent in report.agents):
        return []
    names = [reward + (f" on {images}" if images != report.home else "") for reward, images in report.cells]
    return [f"{SEEDS_NOTE}{' / '.join(names)}."]


def _seeds(report: Report, agent: str) -> str:
    counts = _counts(report, agent)
    return " / ".join(map(str, counts)) if _differ(counts) else str(max(counts, default=0))


def _counts(report: Report, agent: str) -> list[int]:
    return [len(cell.returns.get(agent, ())) for cell in report.cells.values()]


def _differ(counts: list[int]) -> bool:
    """Whether columns that have the agent have other numbers of seeds; an empty column speaks for itself."""
    return len({count for count in counts if count}) > 1
