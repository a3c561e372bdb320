"""Words that error messages share, and the reading of JSON whose errors are such messages."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_DEPTH = 50  # of lists and mappings in a file; a row, a post or a relation has four levels
TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep."
MAX_DIGITS = 18  # of a whole number in a file; those with more fit into no tensor


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest allowed name, or an empty string where none is close."""
    matches = difflib.get_close_matches(str(name)[:200], list(allowed), n=1, cutoff=0.8)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def shorten(text: str, length: int = 60) -> str:
    """Cut a text to `length` characters for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def quote(value: Any, length: int = 60) -> str:
    """Return the `repr` of a value, cut to `length` characters; of a large value no more than that is written out."""
    return shorten(_beginning(value, length), length)


def few(names: Iterable[str]) -> str:
    """List the first three of some names, in order, and say how many more there are."""
    names = sorted(names)
    return ", ".join(map(shorten, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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


def on_one_line(error: BaseException | str, length: int = 400) -> str:
    """Return what an error says on one line, cut to `length` characters."""
    return shorten(" ".join(str(error)[: 4 * length].split()), length)


def describe_error(error: BaseException) -> str:
    """Return what an error of a library says on one line, with its kind unless that is a ValueError."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{on_one_line(error)}"


def parse_json(text: str) -> Any:
    """Read JSON that a stranger wrote.

    Raises:
        ValueError: If it is no JSON, is nested too deeply, has a key twice in one object, or a number that is not
            finite or has more than `MAX_DIGITS` digits before the point. The message is one short line.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise ValueError(TOO_DEEP)
    return value


def read_settings(file: str) -> dict[str, Any]:
    """Read a JSON file of settings as `parse_json` does; the message of its `ValueError` names the file."""
    try:
        settings = parse_json(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {on_one_line(error)}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: it holds a mapping of settings; given {quote(settings)}.")
    return settings


def _beginning(value: Any, room: int) -> str:
    if room <= 0:
        return "..."
    if isinstance(value, (str, bytes)):
        return repr(value[:room])
    if isinstance(value, int) and value.bit_length() > 4 * room:
        return f"a whole number of about {value.bit_length() * 0.30103:,.0f} digits"
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return _beginning_of_items(value, room)
    try:
        return repr(value)
    except Exception:  # of anybody's class: a message must not fail because what it quotes does
        return f"a {type(value).__name__}"


def _beginning_of_items(values: Any, room: int) -> str:
    opening, closing = "[]" if isinstance(values, list) else "()" if isinstance(values, tuple) else "{}"
    text = opening
    for item in values.items() if isinstance(values, dict) else values:
        if len(text) > room:
            break
        left = room - len(text)
        text += ", " if len(text) > 1 else ""
        text += ": ".join(_beginning(own, left) for own in item) if isinstance(values, dict) else _beginning(item, left)
    lone = "," if isinstance(values, tuple) and len(values) == 1 else ""
    return text + lone + closing


def _is_deeper(value: Any, most: int) -> bool:
    if not isinstance(value, (list, dict)):
        return False
    return most == 0 or any(_is_deeper(own, most - 1) for own in (value.values() if isinstance(value, dict) else value))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {quote(name)} is there twice in one JSON object.")
            seen.add(name)
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 1:  # and a sign
        raise ValueError(f"the number {shorten(digits, 30)} has {len(digits)} digits; at most {MAX_DIGITS} are read.")
    return int(digits)


def _finite_number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {shorten(text, 30)} is not finite.")
    return number


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_int=_whole_number,
    parse_float=_finite_number,
    parse_constant=_refuse,
)
