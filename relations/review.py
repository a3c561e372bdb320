"""A person's review of descriptions, in the terminal: the file says of each relation whether somebody has read it."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import yaml

from roc.relations.drafts import load_own_drafts, to_be_reviewed, without_model_text
from roc.relations.files import write_relation_file
from roc.relations_roc import normalise_relations

COMMANDS = "[a]ccept, [e]dit (or: e NUMBER NEW TEXT), [r]eject, [s]kip, [q]uit"
EDITABLE = ("descriptions", "head_types", "tail_types")


def review_descriptions(path: str | os.PathLike[str], *, answers: TextIO, screen: TextIO) -> dict[str, Any]:
    """Go through the descriptions that nobody has reviewed; the file is written anew after every decision.

    Accepted relations are marked `reviewed: true`. Rejected ones lose their descriptions, the types that a language
    model added, and their provenance: they are asked for again by the next run. Edited ones are shown again.

    Args:
        path: The relation file.
        answers: Where the person's decisions are read, one a line; its end means quit.
        screen: Where relations and questions are written.

    Returns:
        `output`, how many relations were `accepted`, `edited` and `rejected`, and how many are left `unreviewed` and
        `unwritten`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed or has comments, which would be lost.
    """
    drafts = load_own_drafts(path)
    relations: list[dict[str, Any]] = drafts["relations"]
    counts = Counter(accepted=0, edited=0, rejected=0)

    def keep(index: int, relation: dict[str, Any], decision: str) -> None:
        counts[decision] += 1
        relations[index] = relation
        write_relation_file(path, drafts)

    pending = [index for index, relation in enumerate(relations) if to_be_reviewed(relation)]
    for number, index in enumerate(pending, start=1):
        print(f"\n{number} of {len(pending)}", file=screen)
        if not _decide(relations[index], lambda *kept, index=index: keep(index, *kept), answers, screen):
            break
    left = {
        "unreviewed": sum(map(to_be_reviewed, relations)),
        "unwritten": sum(not r["descriptions"] for r in relations),
    }
    return {"output": os.fspath(path), **counts, **left}


def _decide(
    relation: dict[str, Any], keep: Callable[[dict[str, Any], str], None], answers: TextIO, screen: TextIO
) -> bool:
    """Show one relation until it is decided on; returns False to quit."""
    _show(relation, screen)
    for command, rest in _commands(answers, screen):
        if command in ("q", "quit"):
            return False
        if command in ("s", "skip"):
            return True
        if command in ("a", "accept"):
            keep({**relation, "reviewed": True}, "accepted")
            return True
        if command in ("r", "reject"):
            keep({**without_model_text(relation), "descriptions": []}, "rejected")
            return True
        if command not in ("e", "edit"):
            print(f"{command!r} is not known.", file=screen)
            continue
        try:
            relation = _edited(relation, rest)
        except (ValueError, OSError, subprocess.CalledProcessError) as error:
            print(f"Nothing is changed: {error}", file=screen)
            continue
        keep(relation, "edited")
        _show(relation, screen)
    return False


def _commands(answers: TextIO, screen: TextIO) -> Iterator[tuple[str, str]]:
    """What the person types, as command and the rest of the line; empty lines are asked for again."""
    while True:
        print(f"{COMMANDS}: ", end="", file=screen, flush=True)
        line = answers.readline()
        if not line:
            print(file=screen)
            return
        if line.strip():
            command, _, rest = line.strip().partition(" ")
            yield command.lower(), rest.strip()


def _show(relation: dict[str, Any], screen: TextIO) -> None:
    types = (", ".join(relation[key]) or "any type" for key in ("head_types", "tail_types"))
    print(f"{relation['name']} ({' -> '.join(types)})", file=screen)
    for number, description in enumerate(relation["descriptions"], start=1):
        print(f"  {number}. {description}", file=screen)
    provenance = relation.get("provenance")
    for key, note in (provenance.get("notes") or {}).items() if isinstance(provenance, dict) else ():
        print(f"  {key}: {'; '.join(map(str, note)) if isinstance(note, list) else note}", file=screen)


def _edited(relation: dict[str, Any], typed: str) -> dict[str, Any]:
    """The relation with one description replaced or added (`NUMBER NEW TEXT`), or as the person's editor leaves it."""
    own = {key: list(relation[key]) for key in EDITABLE}
    changed = _replaced(own, typed) if typed else _from_editor(own)
    if not isinstance(changed, dict) or set(changed) - set(EDITABLE):
        raise ValueError(f"Keep the keys {EDITABLE}.")
    [checked] = normalise_relations([{"name": relation["name"], **changed}], None)
    provenance = relation.get("provenance")
    edited = {"provenance": {**provenance, "edited": True}} if isinstance(provenance, dict) else {}
    return {**relation, **checked, **edited}


def _replaced(own: dict[str, list[str]], typed: str) -> dict[str, list[str]]:
    number, _, text = typed.partition(" ")
    texts = own["descriptions"]
    if not number.isdecimal() or not 1 <= int(number) <= len(texts) + 1 or not text.strip():
        raise ValueError(f"Type e, a number from 1 to {len(texts) + 1}, and the new text.")
    position = int(number) - 1
    return {**own, "descriptions": [*texts[:position], text.strip(), *texts[position + 1 :]]}


def _from_editor(own: dict[str, list[str]]) -> Any:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise ValueError("Set EDITOR to your editor, or type e NUMBER NEW TEXT.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "relation.yaml"
        write_relation_file(file, own)
        subprocess.run([*shlex.split(editor), str(file)], check=True)
        try:
            return yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"That is no YAML: {error}") from error
