"""Descriptions of arguments can be understood at first sight: none is a fragment that hangs on another one."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w+): (.*(?:\n        .*)*)", re.MULTILINE)
# "Of the draw." says nothing without the words before it, and "Likewise." nothing without the entry before it
FRAGMENT = re.compile(r"(?:Of|By|In|For|Instead|Likewise|It|There|Until)\b(?! is)|[a-z]")


def entries(source: str) -> list[tuple[str, str]]:
    """The names of arguments and attributes that docstrings describe, each with its description on one line."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    sections = [found for node in nodes for found in SECTION.findall((ast.get_docstring(node) or "") + "\n")]
    return [(name, " ".join(text.split())) for section in sections for name, text in ENTRY.findall(section)]


def fragments(source: str) -> list[str]:
    return [f"{name}: {text}" for name, text in entries(source) if FRAGMENT.match(text)]


def code() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "*.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return [ROOT / name for name in listed if not name.startswith("tests/") and (ROOT / name).is_file()]


def test_no_description_of_an_argument_is_a_fragment() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in code()}
    assert sum(len(entries(source)) for source in sources.values()) > 300
    assert {path.name: found for path, source in sources.items() if (found := fragments(source))} == {}


@pytest.mark.parametrize("text", ["Of the draw.", "Likewise.", "Instead, how many to draw.", "the folder"])
def test_a_fragment_is_found(text: str) -> None:
    source = f'def draw(seed):\n    """Draw.\n\n    Args:\n        seed: {text}\n    """\n'
    assert fragments(source) == [f"seed: {text}"]
