"""Other people's texts in Markdown: shown as they are, never as markup or HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

MARKUP = re.compile(r"([\\`*_\[\]|~$#!])")
BACKTICKS = re.compile(r"`+")


def prose(text: str) -> str:
    """Return a text on one line, in which nothing is markup: for paragraphs and table cells."""
    return MARKUP.sub(r"\\\1", html.escape(_on_one_line(text), quote=False))


def code(text: str) -> str:
    """Return a code span for paragraphs and table cells; HTML in it is shown, not read."""
    text = _on_one_line(text).replace("|", r"\|")
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if "`" in text else ""  # not shown; keeps a backtick at an end from the fence
    return f"{ticks}{space}{text}{space}{ticks}"


def fence(text: str, language: str) -> str:
    """Return a code block that no line of the text ends."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _longest_run(text: str) -> int:
    return max(map(len, BACKTICKS.findall(text)), default=0)
