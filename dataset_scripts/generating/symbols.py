"""Procedural drawing of the small symbols that the generated picture-text set is made of.

A symbol is drawn in its own unit square, (0, 0) top left and (1, 1) bottom right, and is stretched over a box of the
picture; it reaches about the edges of that box, whatever it shows, so that boxes say nothing about the kind.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels of the picture, half-open, origin top left
Point = tuple[float, float]

# Draw this many times larger, then average: Pillow's own lines and ellipses have hard edges.
OVERSAMPLING = 4

DARK: Colour = (40, 38, 44)
WHITE: Colour = (250, 250, 246)
BROWN: Colour = (112, 72, 40)
GREEN: Colour = (58, 138, 62)


class Canvas:
    """A picture that symbols are drawn on, larger than what comes out.

    Args:
        size: Width and height of the finished picture in pixels.
        background: The colours of its upper and of its lower part.
        horizon: Where the lower part begins, as a share of the height.
    """

    def __init__(self, size: int, *, background: tuple[Colour, Colour], horizon: float) -> None:
        large = size * OVERSAMPLING
        self._image = Image.new("RGB", (large, large), background[0])
        self._draw = ImageDraw.Draw(self._image)
        self._draw.rectangle((0, round(horizon * large), large, large), fill=background[1])

    def stamp(self, symbol: str, box: Box, *, colour: Colour) -> None:
        """Draw a symbol, a key of `SYMBOLS`, over a box; `colour` is that of its main part."""
        SYMBOLS[symbol](Pen(self._draw, box), colour)

    def finish(self) -> Image.Image:
        """Return the picture in its final size."""
        return self._image.reduce(OVERSAMPLING)


class Pen:
    """Draws on the large picture in the unit square of one box, which is in pixels of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, box: Box) -> None:
        x0, y0, x1, y1 = (side * OVERSAMPLING for side in box)
        self._draw, self._origin, self._scale = draw, (x0, y0), (x1 - x0 - 1, y1 - y0 - 1)

    def _points(self, points: Sequence[Point]) -> list[Point]:
        (x0, y0), (width, height) = self._origin, self._scale
        return [(x0 + x * width, y0 + y * height) for x, y in points]

    def polygon(self, *points: Point, fill: Colour) -> None:
        """Fill the polygon through `points`."""
        self._draw.polygon(self._points(points), fill=fill)

    def rectangle(self, corner: Point, opposite: Point, fill: Colour) -> None:
        """Fill the rectangle between the top left and the bottom right corner."""
        self._draw.rectangle([*self._points([corner, opposite])], fill=fill)

    def ellipse(self, corner: Point, opposite: Point, fill: Colour) -> None:
        """Fill the ellipse between the top left and the bottom right corner of its frame."""
        self._draw.ellipse([*self._points([corner, opposite])], fill=fill)

    def line(self, *points: Point, fill: Colour, width: float = 0.08) -> None:
        """Draw a line through `points`; its width is a share of the box's mean side."""
        pixels = max(1, round(width * sum(self._scale) / 2))
        self._draw.line(self._points(points), fill=fill, width=pixels, joint="curve")


def shade(colour: Colour, rng: Random, *, hue: float = 0.02, lightness: float = 0.07) -> Colour:
    """Vary a colour a little.

    Args:
        colour: The colour to start from, 0 to 255.
        rng: Source of randomness.
        hue: Largest change of hue, as a share of the colour circle.
        lightness: Largest change of lightness, of 1.
    """
    h, l, s = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))  # noqa: E741 (the colour model's own letters)
    h, l = (h + rng.uniform(-hue, hue)) % 1, min(0.97, max(0.03, l + rng.uniform(-lightness, lightness)))  # noqa: E741
    red, green, blue = colorsys.hls_to_rgb(h, l, s)
    return round(red * 255), round(green * 255), round(blue * 255)


def darker(colour: Colour, factor: float = 0.62) -> Colour:
    """Return the same colour with less light, for a symbol's inner lines."""
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue


def _figure(pen: Pen, colour: Colour) -> None:
    pen.line((0.36, 0.70), (0.22, 1.0), fill=DARK, width=0.12)
    pen.line((0.64, 0.70), (0.78, 1.0), fill=DARK, width=0.12)
    pen.line((0.34, 0.40), (0.04, 0.62), fill=DARK, width=0.10)
    pen.line((0.66, 0.40), (0.96, 0.62), fill=DARK, width=0.10)
    pen.polygon((0.26, 0.34), (0.74, 0.34), (0.72, 0.74), (0.28, 0.74), fill=colour)
    pen.ellipse((0.26, 0.0), (0.74, 0.33), fill=DARK)


def _strip(pen: Pen, colour: Colour) -> None:
    """Draw a figure dressed from neck to foot in one colour."""
    pen.line((0.36, 0.70), (0.22, 1.0), fill=colour, width=0.28)
    pen.line((0.64, 0.70), (0.78, 1.0), fill=colour, width=0.28)
    pen.line((0.30, 0.38), (0.08, 0.66), fill=colour, width=0.22)
    pen.line((0.70, 0.38), (0.92, 0.66), fill=colour, width=0.22)
    pen.polygon((0.16, 0.28), (0.84, 0.28), (0.78, 0.80), (0.22, 0.80), fill=colour)
    pen.ellipse((0.28, 0.0), (0.72, 0.32), fill=DARK)


def _heart(pen: Pen, colour: Colour) -> None:
    pen.ellipse((0.0, 0.04), (0.54, 0.58), fill=colour)
    pen.ellipse((0.46, 0.04), (1.0, 0.58), fill=colour)
    pen.polygon((0.04, 0.44), (0.5, 0.30), (0.96, 0.44), (0.5, 1.0), fill=colour)


def _ball(pen: Pen, colour: Colour) -> None:
    pen.ellipse((0.0, 0.0), (1.0, 1.0), fill=DARK)
    pen.ellipse((0.05, 0.05), (0.95, 0.95), fill=colour)
    pen.line((0.5, 0.04), (0.5, 0.96), fill=DARK, width=0.06)
    pen.line((0.04, 0.5), (0.96, 0.5), fill=DARK, width=0.06)
    pen.line((0.18, 0.16), (0.34, 0.5), (0.18, 0.84), fill=DARK, width=0.06)
    pen.line((0.82, 0.16), (0.66, 0.5), (0.82, 0.84), fill=DARK, width=0.06)


def _briefcase(pen: Pen, colour: Colour) -> None:
    pen.line((0.32, 0.26), (0.32, 0.05), (0.68, 0.05), (0.68, 0.26), fill=DARK, width=0.09)
    pen.rectangle((0.0, 0.22), (1.0, 1.0), fill=colour)
    pen.line((0.0, 0.56), (1.0, 0.56), fill=darker(colour), width=0.07)
    pen.rectangle((0.40, 0.47), (0.60, 0.68), fill=(236, 200, 72))


def _swords(pen: Pen, colour: Colour) -> None:
    for left, right in ((0.0, 1.0), (1.0, 0.0)):
        inwards = right - left
        tip, guard = (left + 0.10 * inwards, 0.10), (left + 0.72 * inwards, 0.74)
        pen.line(tip, guard, fill=DARK, width=0.26)
        pen.line(tip, guard, fill=colour, width=0.17)
        pen.line((left + 0.53 * inwards, 0.90), (left + 0.92 * inwards, 0.56), fill=(236, 176, 40), width=0.12)
        pen.line(guard, (left + 0.92 * inwards, 0.94), fill=BROWN, width=0.15)


def _car(pen: Pen, colour: Colour) -> None:
    pen.polygon((0.14, 0.44), (0.28, 0.08), (0.74, 0.08), (0.90, 0.44), fill=colour)
    pen.polygon((0.26, 0.42), (0.34, 0.18), (0.48, 0.18), (0.48, 0.42), fill=WHITE)
    pen.polygon((0.54, 0.42), (0.54, 0.18), (0.69, 0.18), (0.78, 0.42), fill=WHITE)
    pen.rectangle((0.0, 0.42), (1.0, 0.80), fill=colour)
    for left in (0.10, 0.60):
        pen.ellipse((left, 0.64), (left + 0.30, 1.0), fill=DARK)
        pen.ellipse((left + 0.10, 0.76), (left + 0.20, 0.88), fill=WHITE)


def _apple(pen: Pen, colour: Colour) -> None:
    pen.line((0.5, 0.30), (0.56, 0.02), fill=BROWN, width=0.09)
    pen.ellipse((0.56, 0.0), (0.94, 0.20), fill=GREEN)
    pen.ellipse((0.0, 0.20), (0.62, 0.96), fill=colour)
    pen.ellipse((0.38, 0.20), (1.0, 0.96), fill=colour)
    pen.ellipse((0.22, 0.50), (0.78, 1.0), fill=colour)
    pen.ellipse((0.14, 0.34), (0.28, 0.54), fill=WHITE)


def _guitar(pen: Pen, colour: Colour) -> None:
    pen.line((0.40, 0.60), (0.92, 0.08), fill=BROWN, width=0.13)
    pen.line((0.82, 0.02), (0.98, 0.18), fill=DARK, width=0.14)
    pen.ellipse((0.22, 0.34), (0.68, 0.80), fill=colour)
    pen.ellipse((0.0, 0.44), (0.56, 1.0), fill=colour)
    pen.ellipse((0.32, 0.46), (0.54, 0.68), fill=DARK)
    pen.line((0.14, 0.74), (0.26, 0.86), fill=DARK, width=0.08)


def _book(pen: Pen, colour: Colour) -> None:
    pen.polygon((0.0, 0.10), (0.5, 0.22), (1.0, 0.10), (1.0, 0.90), (0.5, 1.0), (0.0, 0.90), fill=colour)
    pen.polygon((0.10, 0.02), (0.47, 0.14), (0.47, 0.86), (0.10, 0.76), fill=WHITE)
    pen.polygon((0.90, 0.02), (0.53, 0.14), (0.53, 0.86), (0.90, 0.76), fill=WHITE)
    for y in (0.26, 0.42, 0.58):
        pen.line((0.18, y - 0.04), (0.40, y + 0.03), fill=darker(colour), width=0.05)
        pen.line((0.82, y - 0.04), (0.60, y + 0.03), fill=darker(colour), width=0.05)


def _cloud(pen: Pen, colour: Colour) -> None:
    # First a rim, then the cloud within it: white alone would vanish in a pale sky.
    for rim, fill in ((0.0, darker(colour, 0.55)), (0.06, colour)):
        pen.ellipse((rim, 0.38 + rim), (0.50, 1.0 - rim), fill=fill)
        pen.ellipse((0.50, 0.38 + rim), (1.0 - rim, 1.0 - rim), fill=fill)
        pen.ellipse((0.20 + rim, rim), (0.80 - rim, 0.84), fill=fill)
        pen.rectangle((0.24, 0.60), (0.76, 1.0 - rim), fill=fill)


def _rock(pen: Pen, colour: Colour) -> None:
    pen.polygon((0.0, 1.0), (0.06, 0.46), (0.36, 0.0), (0.74, 0.08), (1.0, 0.56), (0.96, 1.0), fill=colour)
    pen.polygon((0.06, 0.46), (0.36, 0.0), (0.46, 0.44), (0.26, 0.66), fill=darker(colour, 1.18))
    pen.line((0.46, 0.44), (0.74, 0.08), fill=darker(colour), width=0.06)
    pen.line((0.46, 0.44), (0.62, 1.0), fill=darker(colour), width=0.06)


def _tree(pen: Pen, colour: Colour) -> None:
    pen.rectangle((0.40, 0.66), (0.60, 1.0), fill=BROWN)
    pen.polygon((0.5, 0.0), (0.90, 0.46), (0.10, 0.46), fill=colour)
    pen.polygon((0.5, 0.22), (1.0, 0.78), (0.0, 0.78), fill=colour)


def _house(pen: Pen, colour: Colour) -> None:
    pen.rectangle((0.12, 0.42), (0.88, 1.0), fill=colour)
    pen.polygon((0.5, 0.0), (1.0, 0.46), (0.0, 0.46), fill=darker(colour, 0.5))
    pen.rectangle((0.24, 0.62), (0.44, 1.0), fill=BROWN)
    pen.rectangle((0.56, 0.58), (0.76, 0.78), fill=WHITE)


SYMBOLS: dict[str, Callable[[Pen, Colour], None]] = {
    "figure": _figure,
    "strip": _strip,
    "heart": _heart,
    "ball": _ball,
    "briefcase": _briefcase,
    "swords": _swords,
    "car": _car,
    "apple": _apple,
    "guitar": _guitar,
    "book": _book,
    "cloud": _cloud,
    "rock": _rock,
    "tree": _tree,
    "house": _house,
}

# The hue says as much as the shape at 64 x 64 pixels; hues of cues, of objects and of shirts keep apart.
COLOURS: dict[str, Colour] = {
    "heart": (235, 50, 120),
    "ball": (240, 130, 30),
    "briefcase": (120, 74, 44),
    "swords": (206, 216, 232),
    "car": (40, 90, 220),
    "apple": (205, 32, 32),
    "guitar": (224, 164, 70),
    "book": (130, 60, 180),
    "cloud": (240, 244, 250),
    "rock": (126, 124, 122),
    "tree": (52, 130, 60),
    "house": (214, 186, 160),
}
