"""Mutations of valid input for the fuzzer: posts, requests, rows, texts of files, and the bytes of pictures."""

from __future__ import annotations

import copy
import datetime
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# What texts have in them that breaks readers: markers, special tokens, controls, scripts, and the syntax of files.
FRAGMENTS = (
    *("[ENT]", "[/ENT]", "[HEAD]", "[SEP]", "[PAD]", "</s>", "<|endoftext|>", "\0", "\x1b[31m", "\x7f"),
    *("\n", "\r\n", "\t", "\ud800", "\udfff", "\ufeff", "\u200b", "\u200d", "\u00ad", "\u00a0", "\u202e", "\u2028"),
    *(
        "e\u0301",
        "\u0301" * 40,
        "東京",
        "서울은",
        "กรุงเทพ",
        "मुंबई",
        "İ",
        "ß",
        "ﬁ",
        "👩‍👩‍👧",
        "🇫🇷",
        "\U0001d56c",
        "\uff11",
        "٣",
    ),
    *("{", "}", "[" * 3000, "{" * 40, '"', "'", "\\", "\\ud800", ": ", "- ", "&a ", "*a", "<<: *a", "!x ", "? "),
    *("!!python/name:os.system ", "| ", "> ", "%YAML 9", "---\n", "...", "#", "@", "`", "~", "null", "true"),
    *("NaN", "1e999", "-", "9" * 400, "0x1F", "<script>alert(1)</script>", "%s%n", "{0.__class__}"),
    *("../../etc/passwd", "C:\\x", "data:image/png;base64,", "http://x.invalid/y"),
)
NAMES = ("text", "image", "head", "tail", "entities", "start", "end", "bbox", "type", "name", "relations", "id")


def _self_containing() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


PLAIN_VALUES = (
    *(None, True, False, 0, -1, 1, 3, 10**9, -(10**30), 10**400, 0.5, -0.0, 1.0000005, 1e308, 1j),
    *(math.nan, math.inf, -math.inf, "", " ", "x", "x" * 20_000, b"", b"\xff\xfe", ("a",), (0, 3, "LOC"), {1, 2}),
    *(range(3), object, Path("/"), datetime.date(2026, 1, 1), np.int64(3), np.float32(0.5), np.bool_(True)),
)
# What stands in the place of a valid value. Each call makes a fresh one.
VALUES: tuple[Callable[[], Any], ...] = (
    *(partial(copy.copy, value) for value in PLAIN_VALUES),
    *(list, dict, lambda: [[]], lambda: [None], lambda: {"": {}}, lambda: {1: 2}, lambda: {None: 1}),
    *(lambda: [1] * 5_000, lambda: {str(n): n for n in range(2_000)}, lambda: [[[[["deep"]]]]], _self_containing),
    *(
        lambda: iter([1, 2]),
        lambda: (n for n in ()),
        lambda: np.zeros((2, 2, 3), "uint8"),
        lambda: np.array([0.1, 0.2]),
    ),
    *(lambda: torch.zeros(3, 4, 4), lambda: torch.tensor(2), lambda: Image.new("L", (3, 2))),
    *(lambda: {"start": 0, "end": 3}, lambda: {"bbox": [0, 0, 1, 1]}, lambda: [0.2, 0.2, 0.1, 0.1]),
)


def mutated(chance: random.Random, base: Any) -> Any:
    """Change a copy of nested lists and mappings in one place, or in two or three."""
    value = copy.deepcopy(base)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        value = _mutated_once(chance, value)
    return value


def _mutated_once(chance: random.Random, value: Any) -> Any:
    places = [*_places(value)]
    if not places or chance.random() < 0.03:
        return chance.choice(VALUES)()
    parent, key = chance.choice(places + [place for place in places if place[1] == "text"] * 3)
    kind = chance.choice(("other", "other", "edit", "edit", "edit", "remove", "add", "double"))
    if kind == "remove":
        del parent[key]
    elif kind == "add" and isinstance(parent, dict):
        parent[chance.choice((*NAMES, *FRAGMENTS, 1, None, "Text"))] = chance.choice(VALUES)()
    elif kind == "double" and isinstance(parent, list):
        parent.extend([parent[key]] * chance.choice((1, 2, 40)))
    elif kind == "edit" and isinstance(parent[key], str):
        parent[key] = edited(chance, parent[key], times=1)
    elif kind == "edit" and isinstance(parent[key], (int, float)) and abs(parent[key]) < 1e300:
        parent[key] = chance.choice(
            (parent[key] + 1, -parent[key], parent[key] * 1e9, str(parent[key]), parent[key] - 1e-9)
        )
    else:
        parent[key] = chance.choice(VALUES)()
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield `(container, key)` of all that nested lists and mappings hold; not below what a mutation put there."""
    keys: Sequence[Any] = ()
    if isinstance(value, dict) and len(value) < 50:
        keys = [*value]
    elif isinstance(value, list) and len(value) < 50:
        keys = range(len(value))
    for key in keys:
        yield value, key
        if value[key] is not value:
            yield from _places(value[key])


def edited(chance: random.Random, text: str, *, times: int = 2) -> str:
    """Insert fragments into a text, cut pieces out, double or swap them, in one to `times` places."""
    for _ in range(chance.randint(1, times)):
        start, end = sorted(chance.choices(range(len(text) + 1), k=2))
        piece = text[start:end]
        other = chance.choice((chance.choice(FRAGMENTS), "", piece * 2, piece[::-1], piece.upper(), piece * 200))
        text = text[:start] + other + (text[start:] if chance.random() < 0.5 else text[end:])
        text = text[:200_000]
    return text


def edited_lines(chance: random.Random, text: str, *, times: int = 3) -> str:
    """Change lines of a file: leave out, double, move, indent, or edit them."""
    lines = text.splitlines(keepends=True)
    for _ in range(chance.randint(1, times)):
        number = chance.randrange(len(lines)) if lines else 0
        line = lines[number : number + 1]
        other = chance.choice(([], line * 2, [f"  {own}" for own in line], [edited(chance, own) for own in line]))
        lines[number : number + 1] = other
        if chance.random() < 0.2:
            lines.insert(chance.randint(0, len(lines)), chance.choice(FRAGMENTS) + "\n")
    return "".join(lines)


def edited_bytes(chance: random.Random, data: bytes, *, times: int = 8) -> bytes:
    """Change bytes of a file, cut a piece out, or cut off its end."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, times)):
        place = chance.randrange(len(changed) or 1)
        kind = chance.random()
        if kind < 0.7 and changed:
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind < 0.8:
            del changed[place : place + chance.choice((1, 4, 100))]
        elif kind < 0.9:
            changed[place:place] = chance.randbytes(chance.choice((1, 4, 100)))
        else:
            del changed[place:]
    return bytes(changed)


def as_json(value: Any) -> str:
    """Write a mutated value as JSON as a careless program would: what JSON has no word for becomes a string."""
    try:
        return json.dumps(value, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        return "null"
