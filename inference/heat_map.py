"""Relevance as colour: red moved a pair towards its relation, blue away from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageColor

TOWARDS, AWAY = "#dc2626", "#2563eb"
STRONGEST = 0.72  # opacity of the largest relevance: the picture stays visible under it


def largest_relevance(explanation: Mapping[str, Any]) -> float:
    """The largest magnitude among all tokens and patches of an explanation: one scale for text and picture."""
    patches = [value for row in explanation["patches"] or () for value in row]
    return max((abs(value) for value in [*patches, *(t["relevance"] for t in explanation["tokens"])]), default=0.0)


def opacity(relevance: float, largest: float) -> float:
    """How strongly a relevance is coloured.

    Args:
        relevance: Of one token or patch; its sign chooses the colour.
        largest: The largest magnitude among all tokens and patches: what hardly mattered must look so.

    Returns:
        0 to `STRONGEST`, proportional to the magnitude.
    """
    return STRONGEST * min(1.0, abs(relevance) / largest) if largest > 0 else 0.0


def color_of(relevance: float) -> str:
    """`TOWARDS` or `AWAY`."""
    return TOWARDS if relevance > 0 else AWAY


def with_heat(image: Image.Image, patches: Sequence[Sequence[float]], largest: float) -> Image.Image:
    """Lay the relevance of patches over a picture.

    Args:
        image: The picture, RGB.
        patches: Rows of numbers: the relevance of the patches of a grid over the whole picture.
        largest: See `opacity`.

    Returns:
        The picture in fainter colours, and on it each patch as a block, the stronger the more relevant.
    """
    colors = Image.new("RGB", (len(patches[0]), len(patches)))
    strengths = Image.new("L", colors.size)
    colors.putdata([ImageColor.getrgb(color_of(value)) for row in patches for value in row])
    strengths.putdata([round(255 * opacity(value, largest)) for row in patches for value in row])
    faint = Image.blend(image.convert("L").convert("RGB"), image, 0.45)
    heat, mask = (part.resize(image.size, Image.Resampling.NEAREST) for part in (colors, strengths))
    return Image.composite(heat, faint, mask)
