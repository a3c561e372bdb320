"""Relation inventories as YAML files: names, descriptions, and the types of head and tail."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from roc.messages_roc import did_you_mean, on_one_line, quote
from roc.processing_typing_roc import ENTITY_TYPES
from roc.relations_roc import PHRASES, RELATION_KEYS, normalise_relations
from roc.support.files import atomic_write
from roc.support.reading import format_yaml, parse_yaml, read_text
from roc.support.resources import find_file

FILE_KEYS = ("version", "language", "none_relation", "relations")
PROVENANCE_KEYS = ("provenance", "reviewed")  # where a description came from; kept in the file, not in the model

Content = TypeVar("Content")


@dataclass(frozen=True)
class RelationInventory:
    """The relations of one file, as in `RocConfig`; `none_relation` names the one that means "none of these"."""

    relations: list[dict[str, Any]]
    none_relation: str | None

    @property
    def names(self) -> list[str]:
        """The relations' names in the order of the file."""
        return [relation["name"] for relation in self.relations]

    def described_by_labels(self) -> RelationInventory:
        """Describe each relation by its name alone: `/per/org/member_of` as "per org member of".

        The whole name is taken, so that no two relations read alike: MNRE has two kinds of `alternate_names`.
        """
        without = [{key: value for key, value in own.items() if key not in PHRASES} for own in self.relations]
        return replace(self, relations=[{**own, "descriptions": [_in_words(own["name"])]} for own in without])


def read_relation_file(
    path: str | os.PathLike[str], *, entity_types: Sequence[str] = ENTITY_TYPES
) -> RelationInventory:
    """Read and check a relation file.

    Args:
        path: A YAML file with `version`, `language`, `none_relation` and `relations`; a relative path is looked for
            in the working folder, then among the files that ROC brings (`relations/mnre.yaml`).
        entity_types: The words that relations may use for types.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, has an unknown key, or its relations are malformed; the message names the file.
    """
    return _read(path, partial(_inventory, entity_types=entity_types))


def load_drafts(path: str | os.PathLike[str], *, only_names: bool = False) -> dict[str, Any]:
    """Read a relation file that may be unfinished, with what it says about where its descriptions come from.

    Args:
        path: A relation file, in which relations may lack descriptions; it is looked for as by `read_relation_file`.
        only_names: Whether the file is a text file with one name a line.

    Returns:
        What `write_relation_file` takes: the keys `version`, `language` (None if not given), `none_relation` and
        `relations`. A relation has `name`, `descriptions` (empty where none is written yet), `head_types`,
        `tail_types`, and `head`, `tail`, `provenance` and `reviewed` where they are given.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed, `language` is no text, or `reviewed` is neither true nor false, or true
            where there are no descriptions.
    """
    return _read(path, check_drafts, _names if only_names else parse_yaml)


def write_relation_file(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a relation file, whole or not at all, with each description on one line."""
    with atomic_write(path) as file:
        file.write(format_yaml(content, width=math.inf))


def _read(
    path: str | os.PathLike[str], check: Callable[[Any], Content], parse: Callable[[str], Any] = parse_yaml
) -> Content:
    file = find_file(path)
    try:
        return check(parse(read_text(file)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {on_one_line(error)}") from error


def _inventory(content: Any, entity_types: Sequence[str]) -> RelationInventory:
    _check_header(content)
    relations = [_without_provenance(relation) for relation in content["relations"]]
    none_relation = content.get("none_relation")
    return RelationInventory(normalise_relations(relations, none_relation, entity_types), none_relation)


def check_drafts(content: Any) -> dict[str, Any]:
    """Check the content of a relation file that may be unfinished, and return it as `load_drafts` does."""
    _check_header(content)
    none_relation = content.get("none_relation")
    if not isinstance(content.get("language"), str | None):
        raise ValueError(f"language is a code such as 'en'; given {quote(content['language'])}. In YAML, quote it.")
    # any text passes for a description that is still to be written; it is taken out again below
    relations = [_without_provenance(given) for given in content["relations"]]
    checked = normalise_relations(
        [{**own, "descriptions": own.get("descriptions") or "-"} for own in relations], none_relation
    )
    for relation, given in zip(checked, content["relations"]):
        if not given.get("descriptions"):
            relation["descriptions"] = []
        if "reviewed" in given and not isinstance(given["reviewed"], bool):
            reviewed = quote(given["reviewed"])
            raise ValueError(f"Relation {quote(given['name'])}: reviewed is true or false; given {reviewed}.")
        if given.get("reviewed") and not given.get("descriptions"):
            raise ValueError(f"Relation {quote(given['name'])} is marked as reviewed, but has no description.")
        relation.update({key: given[key] for key in PROVENANCE_KEYS if key in given})
    return {"version": 1, "language": content.get("language"), "none_relation": none_relation, "relations": checked}


def _check_header(content: Any) -> None:
    if not isinstance(content, dict) or not content.get("relations"):
        raise ValueError(f"a relation file is a mapping with the keys {FILE_KEYS}, and `relations` is not empty")
    for key in content:
        if key not in FILE_KEYS:
            raise ValueError(f"unknown key {quote(key)}; allowed are {FILE_KEYS}.{did_you_mean(str(key), FILE_KEYS)}")
    if content.get("version", 1) != 1:
        raise ValueError(f"version {quote(content['version'])} is not known; this ROC reads version 1")
    if not isinstance(content["relations"], list):
        raise ValueError(f"`relations` is a list of relations; given a {type(content['relations']).__name__}")


def _without_provenance(relation: Any) -> Any:
    if not isinstance(relation, dict):
        raise ValueError(f"a relation is a mapping with the keys {RELATION_KEYS}; given {quote(relation)}")
    return {key: value for key, value in relation.items() if key not in PROVENANCE_KEYS}


def _names(text: str) -> dict[str, Any]:
    return {"relations": [{"name": line.strip()} for line in text.splitlines() if line.strip()]}


def _in_words(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name)) or name
