"""Copies an agent's rows of the README's table to the agent's page: ``python -m benchmarks.agent_scores``.

Run it after the README's table was printed anew. The table stays the one place that is made from runs.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys

from benchmarks.pages import REPOSITORY, fill_block
from benchmarks.score_table import SEEDS_NOTE
from pasta_gym.command_line import errors_in_one_line

PAGES: dict[str, tuple[str, ...]] = {
    "random": ("random",),
    "iql": ("random", "iql", "clairvoyant"),
    "slateq": ("random", "blind_slate_aware", "slateq", "clairvoyant"),
}
"""Rows by page in ``docs/agents``; the agent's own between those that it is read against."""
BLOCK = "scores"


def table_of(readme: str) -> str:
    """Cut the generated table out of the README.

    Raises:
        ValueError: If the README has no such block.
    """
    begin, end = "<!-- table:begin -->", "<!-- table:end -->"
    if begin not in readme or end not in readme:
        raise ValueError(f"the README must hold {begin} and {end}; print its table with make benchmark")
    return readme.split(begin)[1].split(end)[0].strip()


def rows_of(table: str, agents: tuple[str, ...]) -> str:
    """Keep some agents' rows of the first table of a block.

    Args:
        table: What ``table_of`` returned.
        agents: Names of rows, in the order that they shall have.

    Returns:
        A line that says where the numbers are from, a Markdown table, and which columns its numbers of seeds are of
        where the block says so.

    Raises:
        ValueError: If a row is missing.
    """
    lines = table.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("| agent")), None)
    if first is None:
        raise ValueError("the block must hold a table whose first column is agent; print it with make benchmark")
    head, body = lines[first : first + 2], {}
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        body[line.strip("|").split("|")[0].replace("\\*", "").strip()] = line
    missing = [agent for agent in agents if agent not in body]
    if missing:
        raise ValueError(f"the table has no row of {', '.join(missing)}; its rows are {', '.join(body)}")
    under = itertools.takewhile(lambda line: not line.startswith(("|", "#")), lines[first + 2 + len(body) :])
    notes = [part for line in under if line.startswith(SEEDS_NOTE) for part in ("", line)]
    rows = [body[agent] for agent in agents]
    return "\n".join([f"{lines[0]} Rows of the table in the README.", "", *head, *rows, *notes])


@errors_in_one_line()
def main(given: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agent_scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--readme", type=pathlib.Path, default=REPOSITORY / "README.md")
    parser.add_argument("--pages", type=pathlib.Path, default=REPOSITORY / "docs" / "agents")
    options = parser.parse_args(given)
    table = table_of(options.readme.read_text())
    for page, agents in PAGES.items():
        fill_block(options.pages / f"{page}.md", BLOCK, rows_of(table, agents))
    sys.stdout.write(f"wrote the scores of {', '.join(PAGES)}\n")


if __name__ == "__main__":
    main()
