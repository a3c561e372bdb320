"""Words that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest allowed name, or an empty string where none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.8)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def shorten(text: str, length: int = 60) -> str:
    """Cut a text to `length` characters for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def check_unicode(text: str, where: str) -> None:
    """Refuse a string that no file can hold: one with half of a pair of surrogates. `where` begins the message.

    Raises:
        ValueError: If it is such a string.
    """
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        where = where.encode(errors="backslashreplace").decode()  # it may quote what is refused
        raise ValueError(
            f"{where} is not valid Unicode: character {error.start}, {text[error.start]!r}, is half of a pair, in "
            f"{shorten(text[max(0, error.start - 20) :])!r}. Remove it, or read the source in its encoding."
        ) from error
