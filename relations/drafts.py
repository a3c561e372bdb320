"""Relation files that are not finished: which descriptions stay, and which are still to be reviewed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from roc.relations.files import check_drafts, load_drafts

logger = logging.getLogger(__name__)


def start_drafts(
    output: str | os.PathLike[str],
    *,
    relations: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Gather what a file of descriptions starts from: what it holds already, and the relations that are given.

    Described relations of `output` stay as they are; the others are replaced by given relations of the same name.
    Given relations that `output` lacks come last.

    Args:
        output: The file that will be written; it may exist.
        relations: A relation file (`.yaml`, `.yml`), which may lack descriptions, or a text file with one name a line.
        names: Names of relations, an alternative to `relations`. With neither, the relations of `output`.
        language: Code of the descriptions' language; None takes that of the files, or `en`.

    Returns:
        The content of the file, as `roc.relations.files.load_drafts` returns it.

    Raises:
        FileNotFoundError: If there is no such file, or nothing is given and there is no `output`.
        ValueError: If `output` is the given file or has comments, a file or a name is malformed, or languages or the
            relations that mean "none of these" differ.
    """
    earlier = None
    if Path(output).exists():
        earlier = load_drafts(output)
        if _has_comments(Path(output).read_text(encoding="utf-8")):
            raise ValueError(f"{os.fspath(output)}: its comments would be lost. Take them out, or name another file.")
    if relations is not None:
        if Path(relations).resolve() == Path(output).resolve():
            raise ValueError(f"{os.fspath(output)!r} is read, so it is not written to: name another --output.")
        given = load_drafts(relations, only_names=Path(relations).suffix not in (".yaml", ".yml"))
    elif names:
        given = check_drafts({"relations": [{"name": name} for name in names]})
    elif earlier is not None:
        given = earlier
    else:
        raise FileNotFoundError(f"There is no {os.fspath(output)!r} yet: give --relations FILE or --names NAME ...")
    drafts = given if earlier is None else _merge(given, earlier)
    return {**drafts, "language": _agreed("language", language, drafts["language"]) or "en"}


def to_be_reviewed(relation: dict[str, Any]) -> bool:
    """Tell whether nobody has reviewed a relation's descriptions; those without provenance are a person's own."""
    marked = "provenance" in relation or "reviewed" in relation
    return bool(relation["descriptions"]) and marked and not relation.get("reviewed", False)


def without_model_text(relation: dict[str, Any]) -> dict[str, Any]:
    """Return a relation without what a language model wrote: descriptions, and types if it added them."""
    provenance = relation.get("provenance")
    written = provenance.get("written", ["descriptions"]) if isinstance(provenance, dict) else []
    return {
        key: [] if key in written else value for key, value in relation.items() if key not in ("provenance", "reviewed")
    }


def _has_comments(text: str) -> bool:
    """Tell whether a `#` stands between the tokens of a YAML text."""
    end = 0
    for token in yaml.scan(text):
        if "#" in text[end : token.start_mark.index]:
            return True
        end = token.end_mark.index
    return "#" in text[end:]


def _merge(given: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    new = {relation["name"]: relation for relation in given["relations"]}
    merged = []
    for relation in earlier["relations"]:
        own = new.pop(relation["name"], relation)
        if relation["descriptions"] and own["descriptions"] not in ([], relation["descriptions"]):
            logger.warning("%s: the output's descriptions stay, not those of --relations", relation["name"])
        merged.append(relation if relation["descriptions"] else own)
    header = {key: _agreed(key, given[key], earlier[key]) for key in ("language", "none_relation")}
    return {**earlier, **header, "relations": [*merged, *new.values()]}


def _agreed(key: str, given: str | None, own: str | None) -> str | None:
    if None not in (given, own) and given != own:
        raise ValueError(
            f"{key} is {own!r} in the file, but {given!r} is given. A file has one: name another --output."
        )
    return own if given is None else given
