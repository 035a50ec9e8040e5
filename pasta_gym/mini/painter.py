"""Paints the training pictures of the mini world: a 64x64 image for a prompt with every slot filled.

The painter is what photographs are to SDXL: data. The environment's images come from the diffusion model
that was trained on these. Everything is large and high in contrast, and textures repeat every 4 or 8 pixels
at a fixed phase, because that is what a small autoencoder can keep.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pasta_gym.mini import grammar

IntArray = NDArray[np.int64]
ImageArray = NDArray[np.uint8]
Color = tuple[int, int, int]

IMAGE_SIZE = 64
_SCALE = 2  # drawn larger, then averaged down: smooth edges
_S = IMAGE_SIZE * _SCALE

# main, accent, ground
_PALETTES: dict[str, tuple[Color, Color, Color]] = {
    "warm": ((215, 45, 30), (255, 190, 50), (190, 95, 50)),
    "cool": ((30, 70, 200), (80, 220, 230), (50, 110, 160)),
    "pastel": ((250, 165, 190), (175, 235, 200), (225, 205, 240)),
    "neon": ((255, 10, 200), (70, 255, 40), (80, 0, 170)),
    "earthy": ((110, 70, 30), (175, 150, 70), (100, 110, 55)),
    "monochrome": ((95, 95, 95), (225, 225, 225), (60, 60, 60)),
}
# top of the sky, bottom of the sky, brightness of everything else
_SKIES: dict[str, tuple[Color, Color, float]] = {
    "morning": ((250, 190, 200), (255, 240, 190), 1.0),
    "noon": ((110, 190, 255), (215, 240, 255), 1.0),
    "sunset": ((120, 40, 130), (255, 130, 30), 0.88),
    "night": ((8, 8, 40), (30, 30, 85), 0.62),
}
_HORIZON = 42


def _scaled(color: Color, factor: float) -> Color:
    r, g, b = (min(255, int(c * factor)) for c in color)
    return (r, g, b)


def _sky(draw: ImageDraw.ImageDraw, light: str, rng: np.random.Generator) -> None:
    top, bottom, _ = _SKIES[light]
    end = _HORIZON * _SCALE
    for y in range(_S):
        w = min(1.0, y / end)
        draw.line([(0, y), (_S, y)], fill=tuple(int(a + (b - a) * w) for a, b in zip(top, bottom, strict=True)))
    jitter = int(rng.integers(-2, 3)) * _SCALE
    if light == "morning":
        _disc(draw, 12 * _SCALE + jitter, 30 * _SCALE, 8 * _SCALE, (255, 225, 90))
    elif light == "noon":
        _disc(draw, 54 * _SCALE + jitter, 9 * _SCALE, 7 * _SCALE, (255, 250, 210))
    elif light == "sunset":
        _disc(draw, 52 * _SCALE + jitter, 33 * _SCALE, 9 * _SCALE, (255, 70, 30))
    else:
        _disc(draw, 11 * _SCALE + jitter, 11 * _SCALE, 7 * _SCALE, (245, 245, 220))
        for x, y in ((26, 5), (40, 9), (57, 6), (50, 18), (5, 27), (60, 29)):
            _disc(draw, x * _SCALE + jitter, y * _SCALE, 2, (255, 255, 255))


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: Color) -> None:
    draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _setting(draw: ImageDraw.ImageDraw, setting: str, ground: Color, dim: float, rng: np.random.Generator) -> None:
    h, k = _HORIZON * _SCALE, _SCALE
    shift = int(rng.integers(-2, 3)) * k
    ground = _scaled(ground, dim)

    def poly(points: list[tuple[float, float]], fill: Color) -> None:
        draw.polygon([(x * k + shift, y * k) for x, y in points], fill=fill)

    if setting == "mountains":
        for x, top in ((8, 14), (56, 10)):
            poly([(x - 20, 44), (x, top), (x + 20, 44)], _scaled((110, 105, 125), dim))
            poly([(x - 6, top + 9), (x, top), (x + 6, top + 9)], _scaled((250, 250, 255), dim))
    elif setting == "forest":
        for x in (-2, 6, 14, 22, 42, 50, 58, 66):
            poly([(x - 6, 46), (x, 16), (x + 6, 46)], _scaled((15, 80, 45), dim))
    elif setting == "city":
        for x, top in ((0, 18), (10, 26), (20, 32), (38, 30), (46, 20), (56, 14)):
            draw.rectangle([x * k + shift, top * k, (x + 8) * k + shift, 46 * k], fill=_scaled((70, 70, 95), dim))
            for wy in range(top + 3, 40, 6):
                draw.rectangle([(x + 3) * k + shift, wy * k, (x + 5) * k + shift, (wy + 2) * k], fill=(255, 225, 110))
    elif setting == "desert":
        draw.ellipse([-30 * k + shift, 30 * k, 34 * k + shift, 70 * k], fill=_scaled((235, 195, 110), dim))
        draw.ellipse([30 * k + shift, 34 * k, 94 * k + shift, 74 * k], fill=_scaled((215, 170, 85), dim))
    draw.rectangle([0, h, _S, _S], fill=ground)
    if setting == "beach":
        draw.rectangle([0, 34 * k, _S, 46 * k], fill=_scaled((20, 130, 190), dim))
        draw.rectangle([0, 39 * k, _S, 41 * k], fill=_scaled((235, 250, 255), dim))
        draw.rectangle([0, 46 * k, _S, 49 * k], fill=_scaled((250, 235, 180), dim))
    elif setting == "desert":
        for x in (6, 57):
            green = _scaled((30, 140, 60), dim)
            draw.rectangle([x * k + shift, 22 * k, (x + 3) * k + shift, 48 * k], fill=green)
            draw.rectangle([(x - 4) * k + shift, 30 * k, (x + 7) * k + shift, 33 * k], fill=green)
            draw.rectangle([(x - 4) * k + shift, 25 * k, (x - 2) * k + shift, 33 * k], fill=green)
    elif setting == "meadow":
        draw.rectangle([0, 40 * k, _S, 52 * k], fill=_scaled((90, 190, 60), dim))
        for x in range(3, 64, 10):
            _disc(draw, x * k + shift, 46 * k, 2.4 * k, _scaled((255, 240, 90), dim))


Poly = Callable[[list[tuple[float, float]], Color], None]
Oval = Callable[[float, float, float, float, Color], None]


def _subject(poly: Poly, oval: Oval, name: str, main: Color, accent: Color, dark: Color) -> None:
    """Draw a subject in the box [-18, 18] x [-18, 18]; ``poly`` and ``oval`` place and scale it."""

    def box(x0: float, y0: float, x1: float, y1: float, fill: Color) -> None:
        poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    if name == "cat":
        poly([(-15, -2), (-13, -18), (-2, -10)], main)
        poly([(15, -2), (13, -18), (2, -10)], main)
        oval(-15, -12, 15, 17, main)
        oval(-10, -4, -3, 4, accent)
        oval(3, -4, 10, 4, accent)
        poly([(-3, 7), (3, 7), (0, 11)], dark)
    elif name == "fish":
        poly([(6, 0), (18, -12), (18, 12)], accent)
        oval(-18, -10, 11, 10, main)
        oval(-13, -5, -7, 1, dark)
    elif name == "butterfly":
        for s in (-1, 1):
            oval(min(2 * s, 18 * s), -17, max(2 * s, 18 * s), 1, main)
            oval(min(2 * s, 14 * s), 0, max(2 * s, 14 * s), 16, accent)
        box(-2, -15, 2, 15, dark)
    elif name == "tree":
        box(-4, 4, 4, 18, dark)
        oval(-16, -18, 16, 8, main)
        oval(-8, -12, 0, -4, accent)
    elif name == "flower":
        box(-2, 2, 2, 18, dark)
        for a in range(6):
            x, y = 9 * np.cos(a * np.pi / 3), -6 + 9 * np.sin(a * np.pi / 3)
            oval(x - 6, y - 6, x + 6, y + 6, main)
        oval(-5, -11, 5, -1, accent)
    elif name == "mushroom":
        box(-5, 0, 5, 18, accent)
        poly([(-18, 2), (-14, -10), (-6, -17), (6, -17), (14, -10), (18, 2)], main)
        oval(-11, -9, -5, -3, accent)
        oval(3, -11, 9, -5, accent)
    elif name == "house":
        box(-14, -3, 14, 18, main)
        poly([(-18, -3), (0, -18), (18, -3)], dark)
        box(-5, 6, 5, 18, accent)
    elif name == "castle":
        box(-17, -4, 17, 18, main)
        for x in (-18, -5, 8):
            box(x, -17, x + 10, 0, main)
            box(x + 3, -17, x + 7, -12, dark)
        box(-4, 7, 4, 18, accent)
    elif name == "boat":
        poly([(-18, 6), (18, 6), (11, 17), (-11, 17)], main)
        poly([(-1, -18), (-1, 3), (-15, 3)], accent)
        poly([(3, -15), (3, 3), (14, 3)], accent)
    elif name == "car":
        poly([(-10, -2), (-6, -11), (7, -11), (11, -2)], accent)
        box(-18, -2, 18, 9, main)
        oval(-14, 4, -4, 14, dark)
        oval(4, 4, 14, 14, dark)
    elif name == "rocket":
        poly([(-14, 17), (-6, 2), (6, 2), (14, 17)], dark)
        poly([(-7, 14), (-7, -8), (0, -19), (7, -8), (7, 14)], main)
        oval(-4, -7, 4, 1, accent)
        poly([(-5, 14), (5, 14), (0, 19)], (255, 150, 30))
    else:  # robot
        box(-1, -19, 1, -14, dark)
        box(-9, -15, 9, -2, accent)
        box(-6, -11, -2, -7, dark)
        box(2, -11, 6, -7, dark)
        box(-13, 0, 13, 13, main)
        box(-18, 0, -14, 10, dark)
        box(14, 0, 18, 10, dark)
        box(-9, 14, -3, 19, dark)
        box(3, 14, 9, 19, dark)


def _styled(image: Image.Image, style: str) -> NDArray[np.float32]:
    if style == "watercolor":
        image = image.filter(ImageFilter.GaussianBlur(1.4))
    x = np.asarray(image, dtype=np.float32)
    if style == "pixel":
        blocks = x.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
        x = np.repeat(np.repeat(blocks, 4, axis=0), 4, axis=1)
    elif style == "watercolor":
        x = 0.62 * x + 0.38 * 255
    elif style == "glass":
        x = x.copy()
        x[3::8], x[4::8] = x[3::8] * 0.12, x[4::8] * 0.12
        x[:, 3::8], x[:, 4::8] = x[:, 3::8] * 0.12, x[:, 4::8] * 0.12
    elif style == "engraving":
        x = x.copy()
        x[2::4] *= 0.35
        x[3::4] *= 0.35
    elif style == "halftone":
        x = x.copy()
        lattice = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
        lattice[1::4, 1::4] = lattice[2::4, 1::4] = lattice[1::4, 2::4] = lattice[2::4, 2::4] = True
        x[lattice] = 0.25 * x[lattice] + 0.75 * 255
    return x


def paint(values: IntArray, rng: np.random.Generator) -> ImageArray:
    """Paint one prompt.

    Args:
        values: ``(6,)`` slot values, none of them 0.
        rng: Source of the jitter in place, size, colour and brightness.

    Returns:
        ``(64, 64, 3)`` RGB.

    Raises:
        ValueError: If a slot is unset.
    """
    if (np.asarray(values) == 0).any():
        raise ValueError(f"every slot must be set to paint, got {list(values)}; see unsaid.fill_unset")
    subject, palette, light, style, setting, composition = (
        slot.values[v - 1] for slot, v in zip(grammar.SLOTS, values, strict=True)
    )
    dim = _SKIES[light][2]
    shade = float(rng.uniform(0.92, 1.08))
    main, accent, _ = (_scaled(color, shade * dim) for color in _PALETTES[palette])
    dark = _scaled((40, 30, 45), dim)
    image = Image.new("RGB", (_S, _S))
    draw = ImageDraw.Draw(image)
    _sky(draw, light, rng)
    _setting(draw, setting, _PALETTES[palette][2], dim * shade, rng)
    size = {"centered": 0.95, "closeup": 1.4, "offset": 0.85, "framed": 0.85}[composition]
    size *= float(rng.uniform(0.95, 1.05))
    cx = {"offset": 45}.get(composition, 32) + float(rng.uniform(-2, 2))
    cy = {"closeup": 35, "framed": 34}.get(composition, 38) + float(rng.uniform(-2, 2))
    flip = -1 if rng.random() < 0.5 else 1

    def place(x: float, y: float) -> tuple[float, float]:
        return ((cx + flip * x * size) * _SCALE, (cy + y * size) * _SCALE)

    def draw_subject(canvas: ImageDraw.ImageDraw, colors: tuple[Color, Color, Color]) -> None:
        def poly(points: list[tuple[float, float]], fill: Color) -> None:
            canvas.polygon([place(x, y) for x, y in points], fill=fill)

        def oval(x0: float, y0: float, x1: float, y1: float, fill: Color) -> None:
            (ax, ay), (bx, by) = place(x0, y0), place(x1, y1)
            canvas.ellipse([min(ax, bx), ay, max(ax, bx), by], fill=fill)

        _subject(poly, oval, subject, *colors)

    # A pale halo first: the subject must stand out on every background.
    silhouette = Image.new("RGB", (_S, _S))
    white: Color = (255, 255, 255)
    draw_subject(ImageDraw.Draw(silhouette), (white, white, white))
    halo = silhouette.getchannel("G").point(lambda level: 255 if level else 0).filter(ImageFilter.MaxFilter(5))
    image.paste((255, 255, 255), mask=halo)
    draw_subject(draw, (main, accent, dark))
    if composition == "framed":
        w = 5 * _SCALE
        for box in ([0, 0, _S, w], [0, _S - w, _S, _S], [0, 0, w, _S], [_S - w, 0, _S, _S]):
            draw.rectangle(box, fill=(250, 245, 235))
        draw.rectangle([w, w, _S - w, _S - w], outline=(50, 35, 25), width=_SCALE)
    small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    styled = _styled(small, style)
    return np.clip(styled, 0, 255).astype(np.uint8)


def paint_many(values: IntArray, rng: np.random.Generator) -> ImageArray:
    """Paint prompts ``(n, 6)`` without unset slots as ``(n, 64, 64, 3)`` RGB, each with its own jitter."""
    return np.stack([paint(v, rng) for v in values])
