"""Writes a whole conversation as one page: ``python -m benchmarks.episode_page RUN_DIR``.

Every turn shows the candidates by category with those of the slate marked, the slate with all of its pictures, how much
the user liked each column, how likely each was to be chosen, and the choice. The page is one HTML file that needs no
network, no server and no script.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import pathlib
import shlex
import sys

import numpy as np
import torch
from PIL import Image

from benchmarks.pages import REPOSITORY
from benchmarks.storyboard import Scene, Story, agent_of, commonest_types, play
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import write_text
from pasta_gym.types import ImageArray

_STYLE = """
body {font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; max-width: 68rem; margin: 2rem auto; padding: 0 1rem}
h2 {margin: 2.2rem 0 .4rem; border-top: 1px solid #ddd; padding-top: 1rem}
.row {display: flex; flex-wrap: wrap; gap: 1rem}
.category {flex: 1 1 11rem} .category h3 {font-size: .85rem; color: #6b6b6b; margin: .4rem 0}
ul {margin: 0; padding-left: 1.1rem} li {font-size: .85rem} li.shown {font-weight: 700}
figure {margin: .6rem 0; padding: .4rem; border: 3px solid transparent; width: 13rem}
figure.chosen {border-color: #d1495b} figcaption {font-size: .85rem}
img {image-rendering: pixelated; width: 48%; margin: 0 1% 1% 0; vertical-align: top}
.numbers {color: #6b6b6b; font-size: .85rem} code {background: #f3f3f3; padding: .1rem .3rem}
""".strip()
_SHOWN = '<li class="shown">'


def page(story: Story, command: str) -> str:
    """Write a conversation as HTML.

    Args:
        story: The conversation.
        command: What makes this page, for the reader who wants it again.

    Returns:
        A whole document without any reference to another file.
    """
    prompt = html.escape(story.initial_prompt)
    ends = f"{10 * story.scenes[-1].chosen_utility:.1f}"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>“{prompt}”: {html.escape(story.agent)} and a user</title>",
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>",
        f"<h1>“{prompt}”</h1>",
        f"<p>The agent is {html.escape(story.agent)}; the user is of type {story.user_type}, as {story.share:.0%} of "
        f"users are, which the agent is not told. After {len(story.scenes)} turns the user's satisfaction is {ends} of "
        f"10. Made by <code>{html.escape(command)}</code>.</p>",
        f'<div class="row">{_column(story.initial_pixels, "what the user began with", "", is_chosen=False)}</div>',
    ]
    for turn, scene in enumerate(story.scenes, start=1):
        parts += [f'<section id="turn-{turn}">\n<h2>Turn {turn}</h2>', *_candidates(scene, story.category_titles)]
        parts.append(f'<div class="row slate">{"".join(_slate(scene))}</div>\n</section>')
    return "\n".join([*parts, "</body>\n</html>\n"])


def _candidates(scene: Scene, titles: tuple[str, ...]) -> list[str]:
    """The candidates, a list a category, those of the slate in bold."""
    shown = set(scene.slate.tolist())
    columns = []
    for category, title in enumerate(titles):
        entries = "".join(
            f"{_SHOWN if i in shown else '<li>'}{html.escape(scene.candidates[i])}</li>"
            for i in np.flatnonzero(scene.categories == category).tolist()
        )
        columns.append(f'<div class="category"><h3>{html.escape(title)}</h3><ul>{entries}</ul></div>')
    n = len(scene.candidates)
    return [f"<p>{n} candidates; the slate is in bold.</p>", f'<div class="row">{"".join(columns)}</div>']


def _slate(scene: Scene) -> list[str]:
    return [
        _column(
            scene.pixels[column],
            prompt,
            f"satisfaction {10 * scene.utilities[column]:.1f} of 10, chosen with probability "
            f"{scene.choice_probabilities[column]:.2f}",
            is_chosen=column == scene.choice,
        )
        for column, prompt in enumerate(scene.prompts)
    ]


def _column(pictures: ImageArray, caption: str, numbers: str, *, is_chosen: bool) -> str:
    images = "".join(f'<img alt="" src="{embedded(pixels)}">' for pixels in pictures)
    mark = ' class="chosen"' if is_chosen else ""
    chosen = " <strong>chosen</strong>" if is_chosen else ""
    line = f'<div class="numbers">{numbers}</div>' if numbers else ""
    return f"<figure{mark}>{images}<figcaption>{html.escape(caption)}{chosen}{line}</figcaption></figure>"


def embedded(pixels: ImageArray) -> str:
    """Write one picture ``(h, w, 3)`` as a data URL, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@errors_in_one_line()
def main(given: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.episode_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=pathlib.Path, nargs="?", help="run directory of a trained agent; random without")
    parser.add_argument("--prompt", default="a castle")
    parser.add_argument("--user-type", type=int, help="the hidden type; the commonest without")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "docs" / "images" / "episode_page.html")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    agent, world = agent_of(options.run)
    types = commonest_types(1, world) if options.user_type is None else [options.user_type]
    (story,) = play(agent, prompt=options.prompt, user_types=types, seed=options.seed, world=world)
    words = shlex.join(sys.argv[1:] if given is None else given)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, page(story, f"python -m benchmarks.episode_page {words}".strip()))
    sys.stdout.write(f"wrote {options.out}: {story.agent}, {len(story.scenes)} turns\n")


if __name__ == "__main__":
    main()
