"""Where in a picture something was drawn."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor


def where(picture: Image.Image, color: str) -> np.ndarray:
    """(height, width) truth values: the pixels that have exactly this colour, such as `#2563eb`."""
    return (np.asarray(picture) == ImageColor.getrgb(color)).all(axis=-1)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """`xyxy` of the true pixels, the last row and column included."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1], rows[-1]


def longest_run(mask: np.ndarray) -> int:
    """Length of the longest horizontal run of true pixels."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded, axis=1).ravel())
    return int((edges[1::2] - edges[::2]).max(initial=0))
