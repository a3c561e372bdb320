"""Words that error messages share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest allowed name, or an empty string where none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.8)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def shorten(text: str, length: int = 60) -> str:
    """Cut a text to `length` characters for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def quote(value: Any, length: int = 60) -> str:
    """Return the `repr` of a value, cut to `length` characters; of a large value no more than its beginning is read."""
    try:
        return shorten(reprlib.repr(value[:length] if isinstance(value, (str, bytes)) else value), length)
    except ValueError:  # a number with more digits than Python writes
        return f"a {type(value).__name__}"
