"""Figures: the house's colours, and drawing without a display into a whole PNG file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.support.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue, orange, green, pink, violet, teal, red, olive: dark enough for small type on white (contrast at least 4.5 : 1).
ENTITY_COLORS = ("#2563eb", "#c2410c", "#047857", "#be185d", "#6d28d9", "#0e7490", "#b91c1c", "#4d7c0f")
INK, MUTED = "#18202f", "#5c6779"


def entity_color(index: int) -> str:
    """Return the colour of the entity at `index`: the same in the text, on the picture and in the pairs."""
    return ENTITY_COLORS[index % len(ENTITY_COLORS)]


def check_png(path: str | os.PathLike[str] | None) -> None:
    """Refuse a file name that does not end in .png."""
    if path is not None and Path(path).suffix.lower() != ".png":
        raise ValueError(f"{os.fspath(path)!r} is written as PNG; give a file name that ends in .png.")


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return a figure (in inches) without pyplot's global state, a display, or any other thread's."""
    try:
        import bidi  # noqa: F401  (drawings need it a little later)
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawings need matplotlib and python-bidi: type `pip install 'roc[plots]'`.") from error
    return Figure(figsize=(width, height), **options)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", metadata={"Software": None})
