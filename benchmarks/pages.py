"""Puts what commands print into the pages, between markers, so that no number is copied by hand."""

from __future__ import annotations

import datetime
import pathlib
import shlex
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).parent.parent


def fill_block(page: pathlib.Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page.

    Args:
        page: A Markdown file.
        name: The block's name.
        text: What to put there.

    Raises:
        ValueError: If the page does not have both markers once, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = page.read_text()
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f"{page} must hold {begin} and {end} once each, in this order")
    head, rest = content.split(begin)
    tail = rest.split(end)[1]
    page.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}")


def has_block(page: pathlib.Path, name: str) -> bool:
    """Whether a page names a block; one with half of its markers is refused when it is filled."""
    content = page.read_text()
    return f"<!-- {name}:begin -->" in content or f"<!-- {name}:end -->" in content


def printed(command: str) -> str:
    """Say which command line printed a block, today."""
    return f"Printed by `{command}` on {datetime.datetime.now(tz=datetime.UTC).date()}."


def printed_by(command: str, arguments: Sequence[str] | None) -> str:
    """Say which command of ``benchmarks`` printed a block, and when.

    Args:
        command: Name of its module.
        arguments: Its command line, the process's own if None. Where results go and how many threads made them is left
            out: readers have other folders.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for option in ("--out", "--page", "--block", "--threads", "--workers"):
        if option in given:
            del given[given.index(option) : given.index(option) + 2]
    return printed(shlex.join(["python", "-m", f"benchmarks.{command}", *given]))
