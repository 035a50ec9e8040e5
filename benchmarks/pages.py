"""Puts what commands print into the pages, between markers, so that no number is copied by hand."""

from __future__ import annotations

import pathlib

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
