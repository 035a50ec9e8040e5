"""Draws what an agent comes to with users of several types (figures 6, F.2): ``python -m benchmarks.type_rollouts``.

One row a type. All begin with the same abstract prompt, the same pictures and the same luck; the agent is the same and
is not told the type. A column is a turn: the pictures of the prompt that the user chose, its words, and how much this
user likes it. What differs from row to row comes from what the users chose.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from benchmarks.pages import REPOSITORY
from benchmarks.storyboard import Story, agent_of, commonest_types, play
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.files import whole_file
from pasta_gym.types import ImageArray

MARGIN, GAP, LABEL, HEADER, CAPTION = 14, 14, 96, 34, 82
"""Pixels: around the picture, between tiles, of the rows' names, of the columns' names, under each tile."""
_PICTURE, _SEAM = 64, 2
_WHITE, _INK, _FAINT = "#ffffff", "#1c1c1c", "#6b6b6b"


def tile_side(n_pictures: int) -> int:
    """Pixels of a square tile of ``n_pictures`` pictures."""
    across = int(np.ceil(np.sqrt(n_pictures)))
    return across * _PICTURE + (across - 1) * _SEAM


def corner(row: int, column: int, side: int) -> tuple[int, int]:
    """Left and top of a tile; column 0 is the initial prompt, column t turn t."""
    return MARGIN + LABEL + column * (side + GAP), MARGIN + HEADER + row * (side + CAPTION)


def size(n_rows: int, n_columns: int, side: int) -> tuple[int, int]:
    """Width and height of the picture."""
    left, top = corner(n_rows, n_columns, side)
    return left - GAP + MARGIN, top + MARGIN


def tile(pictures: ImageArray) -> Image.Image:
    """Lay pictures ``(M, h, w, 3)`` out in a square, row by row."""
    side, across = tile_side(len(pictures)), int(np.ceil(np.sqrt(len(pictures))))
    canvas = Image.new("RGB", (side, side), _WHITE)
    for m, pixels in enumerate(pictures):
        method = Image.Resampling.NEAREST if pixels.shape[0] < _PICTURE else Image.Resampling.LANCZOS
        left, top = (m % across) * (_PICTURE + _SEAM), (m // across) * (_PICTURE + _SEAM)
        canvas.paste(Image.fromarray(pixels).resize((_PICTURE, _PICTURE), method), (left, top))
    return canvas


def draw(stories: Sequence[Story]) -> Image.Image:
    """Draw conversations side by side.

    Args:
        stories: Of the same agent and initial prompt, one a user type.

    Raises:
        ValueError: If there is none, or they differ in agent, initial prompt or number of turns.
    """
    alike = {(story.agent, story.initial_prompt, len(story.scenes)) for story in stories}
    if len(alike) != 1:
        raise ValueError(
            f"stories must be of one agent, initial prompt and number of turns, got {sorted(alike)}; "
            "play them with one call of benchmarks.storyboard.play"
        )
    ((_, prompt, n_turns),) = alike
    side = tile_side(len(stories[0].initial_pixels))
    canvas = Image.new("RGB", size(len(stories), n_turns + 1, side), _WHITE)
    pen = ImageDraw.Draw(canvas)
    for column in range(n_turns + 1):
        left, top = corner(0, column, side)
        title = f"turn {column}, chosen" if column else "“" + textwrap.shorten(prompt, 18, placeholder="…") + "”"
        pen.text((left, top - 24), title, fill=_INK, font=_font(14))
    for row, story in enumerate(stories):
        left, top = corner(row, 0, side)
        pen.text((MARGIN, top), f"type {story.user_type}", fill=_INK, font=_font(16))
        pen.text((MARGIN, top + 22), f"{story.share:.0%} of users", fill=_FAINT, font=_font(12))
        canvas.paste(tile(story.initial_pixels), (left, top))
        for turn, scene in enumerate(story.scenes, start=1):
            left, top = corner(row, turn, side)
            canvas.paste(tile(scene.pixels[scene.choice]), (left, top))
            pen.text((left, top + side + 4), f"{10 * scene.chosen_utility:.1f} of 10", fill=_INK, font=_font(12))
            words = textwrap.wrap(scene.chosen_prompt, width=22)
            words = words if len(words) <= 4 else [*words[:3], words[3] + " …"]
            pen.multiline_text((left, top + side + 20), "\n".join(words), fill=_FAINT, font=_font(11), spacing=2)
    return canvas


def described(stories: Sequence[Story], command: str) -> PngInfo:
    """Facts that travel inside the file, so that a caption can be compared with them."""
    facts = PngInfo()
    facts.add_text("command", command)
    facts.add_text("agent", stories[0].agent)
    facts.add_text("prompt", stories[0].initial_prompt)
    facts.add_text("types", " ".join(str(story.user_type) for story in stories))
    facts.add_text("last", " ".join(f"{10 * story.scenes[-1].chosen_utility:.1f}" for story in stories))
    return facts


@functools.cache
def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)


@errors_in_one_line()
def main(given: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.type_rollouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=pathlib.Path, nargs="?", help="run directory of a trained agent; random without")
    parser.add_argument("--prompt", default="an image of love")
    parser.add_argument("--types", type=int, nargs="+", help="user types, one row each; the four commonest without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "docs" / "images" / "type_rollouts.png")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    agent, world = agent_of(options.run)
    types = options.types or commonest_types(4, world)
    if len(set(types)) < 3:
        parser.error(f"--types takes three or more different types, to be compared; got {types}")
    stories = play(agent, prompt=options.prompt, user_types=types, seed=options.seed, world=world)
    words = shlex.join(sys.argv[1:] if given is None else given)
    facts = described(stories, f"python -m benchmarks.type_rollouts {words}".strip())
    picture = draw(stories)
    with whole_file(options.out) as partial:
        picture.save(partial, format="PNG", pnginfo=facts, optimize=True)
    sys.stdout.write(f"wrote {options.out}: {stories[0].agent} with types {', '.join(map(str, types))}\n")


if __name__ == "__main__":
    main()
