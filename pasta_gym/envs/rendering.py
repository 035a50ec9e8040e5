"""Draws a slate so that a person can read it: the prompts, their pictures, and what was chosen."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pasta_gym.envs.assembly import PastaConfig
from pasta_gym.envs.core import Conversations
from pasta_gym.types import ImageArray, IntArray

TILE = 128
_GAP, _MARGIN, _COLUMN_GAP = 4, 16, 20
_HEADER, _CAPTION, _FOOTER = 78, 104, 44
_NOTE = 26  # below the top of the footer, where the chosen column says that it is
_BACKGROUND, _INK, _FAINT, _CHOSEN, _BLANK = "#ffffff", "#1c1c1c", "#6b6b6b", "#d1495b", (232, 232, 232)
_PAINTER = "diffusion"


def render_size(config: PastaConfig) -> tuple[int, int]:
    """Height and width of a frame; the same at every turn."""
    columns = config.slate_size + 1
    height = _HEADER + _CAPTION + config.images_per_prompt * (TILE + _GAP) + _FOOTER
    return height, 2 * _MARGIN + columns * TILE + (columns - 1) * _COLUMN_GAP


def draw_slate(
    *,
    initial_prompt: str,
    initial_images: ImageArray | None,
    prompts: Sequence[str],
    images: ImageArray | None,
    chosen: int | None,
    turn: int,
    config: PastaConfig,
    note: str = "",
) -> ImageArray:
    """Draw one turn.

    Args:
        initial_prompt: What the user asked for.
        initial_images: ``(M, h, w, 3)`` uint8 pictures of it, or None.
        prompts: The slate's prompts; none before the first turn.
        images: ``(L, M, h, w, 3)`` uint8 pictures of the slate, or None.
        chosen: The chosen column, or None before the first turn.
        turn: Slates seen so far.
        config: Sizes.
        note: A line under the pictures.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    height, width = render_size(config)
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    title = textwrap.shorten(f"“{initial_prompt}”", width=width // 11, placeholder=" …")
    draw.text((_MARGIN, 12), title, fill=_INK, font=_font(22))
    progress = f"turn {turn} of {config.horizon}" if turn else f"before the first of {config.horizon} turns"
    draw.text((_MARGIN, 44), progress, fill=_FAINT, font=_font(16))
    _draw_column(canvas, draw, 0, "What the user began with", initial_images, config, is_chosen=False)
    for column in range(config.slate_size):
        shown = column < len(prompts)
        caption = prompts[column] if shown else ""
        pictures = images[column] if images is not None and shown else None
        _draw_column(canvas, draw, column + 1, caption, pictures, config, is_chosen=shown and column == chosen)
    draw.text((_MARGIN, height - _FOOTER + _NOTE), note, fill=_FAINT, font=_fitting_font(note, width - 2 * _MARGIN))
    return np.asarray(canvas, dtype=np.uint8).copy()


def _draw_column(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    column: int,
    caption: str,
    pictures: ImageArray | None,
    config: PastaConfig,
    *,
    is_chosen: bool,
) -> None:
    left = _MARGIN + column * (TILE + _COLUMN_GAP)
    top = _HEADER + _CAPTION
    lines = textwrap.wrap(caption, width=18)
    if len(lines) > 5:
        lines = [*lines[:4], lines[4] + " …"]
    ink = _FAINT if column == 0 else _CHOSEN if is_chosen else _INK
    draw.multiline_text((left, _HEADER), "\n".join(lines), fill=ink, font=_font(13), spacing=3)
    for m in range(config.images_per_prompt):
        corner = (left, top + m * (TILE + _GAP))
        if pictures is None:
            canvas.paste(_BLANK, (*corner, corner[0] + TILE, corner[1] + TILE))
        else:
            smaller = pictures.shape[1] < TILE
            method = Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS
            canvas.paste(Image.fromarray(pictures[m]).resize((TILE, TILE), method), corner)
    if is_chosen:
        bottom = top + config.images_per_prompt * (TILE + _GAP) - _GAP
        draw.rectangle((left - 6, top - 6, left + TILE + 5, bottom + 5), outline=_CHOSEN, width=5)
        draw.text((left, bottom + 8), "chosen", fill=_CHOSEN, font=_font(16))


def frame(conversations: Conversations, row: int) -> ImageArray:
    """Draw the last slate of one conversation.

    Where the environment draws embeddings alone, the world's diffusion pipeline paints the prompts for the
    eye, and a note says that the user did not see these pictures.

    Args:
        conversations: All of them.
        row: Which one.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    parts, turn = conversations.parts, int(conversations.turns[row])
    initial = conversations.initial_prompts[row : row + 1]
    slate: IntArray = conversations.slates[row, turn - 1] if turn else initial[:0]
    note = ""
    initial_images, images = conversations.initial_pixels.get(row), conversations.slate_pixels.get(row)
    if initial_images is None:
        initial_images, images, note = _illustrations(conversations, row, initial, slate)
    texts = parts.world.prompt_book.texts(np.concatenate([initial, slate]))
    return draw_slate(
        initial_prompt=texts[0],
        initial_images=initial_images,
        prompts=texts[1:],
        images=images,
        chosen=int(conversations.choices[row, turn - 1]) if turn else None,
        turn=turn,
        config=parts.config,
        note=note,
    )


def _illustrations(
    conversations: Conversations, row: int, initial: IntArray, slate: IntArray
) -> tuple[ImageArray | None, ImageArray | None, str]:
    """Paint a conversation's initial prompt ``(1,)`` and slate ``(L,)`` for the eye, with what there is."""
    world = conversations.parts.world
    if _PAINTER not in world.image_generators:
        return None, None, "This world's images exist as embeddings only."
    rows = np.array([row])
    keys = [conversations.image_keys(rows, initial[None], np.zeros(1, dtype=np.int64))[0]]
    if len(slate):
        keys.append(conversations.image_keys(rows, slate[None], conversations.turns[rows])[0])
    painted = world.image_generator(_PAINTER).generate(np.concatenate([initial, slate]), np.concatenate(keys))
    if painted.pixels is None:
        return None, None, "This world's images exist as embeddings only."
    note = "Illustration: the user judged embeddings drawn by the surrogate, not these pictures."
    return painted.pixels[0], painted.pixels[1:] if len(slate) else None, note


def _fitting_font(text: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font of at most 13 in which one line fits: frames of two columns are narrow."""
    return next((_font(size) for size in range(13, 8, -1) if _font(size).getlength(text) <= width), _font(8))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
