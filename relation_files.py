"""Relation inventories as YAML files: names, descriptions, and the types of head and tail."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import yaml

from roc.configuration_roc import RELATION_KEYS, did_you_mean, normalise_relations
from roc.resources import find_file

FILE_KEYS = ("version", "language", "none_relation", "relations")
PROVENANCE_KEYS = ("provenance", "reviewed")  # where a description came from; kept in the file, not in the model


@dataclass(frozen=True)
class RelationInventory:
    """The relations of one file.

    Args:
        relations: As `RocConfig.relations`.
        none_relation: Name of the relation that means "none of these", or None.
    """

    relations: list[dict[str, Any]]
    none_relation: str | None

    @property
    def names(self) -> list[str]:
        """Names in the order of the file."""
        return [relation["name"] for relation in self.relations]


def load_relations(path: str | os.PathLike[str]) -> RelationInventory:
    """Read and check a relation file.

    Args:
        path: A YAML file with `version`, `language`, `none_relation` and `relations`; a relative path is looked for
            in the working folder, then among the files that ROC brings (`relations/mnre.yaml`).

    Returns:
        The inventory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, has an unknown key, or its relations are malformed; the message names the file.
    """
    file = find_file(path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return _inventory(content)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error


def _inventory(content: Any) -> RelationInventory:
    if not isinstance(content, dict) or not content.get("relations"):
        raise ValueError(f"a relation file is a mapping with the keys {FILE_KEYS}, and `relations` is not empty")
    for key in content:
        if key not in FILE_KEYS:
            raise ValueError(f"unknown key {key!r}; allowed are {FILE_KEYS}.{did_you_mean(str(key), FILE_KEYS)}")
    if content.get("version", 1) != 1:
        raise ValueError(f"version {content['version']!r} is not known; this ROC reads version 1")
    if not isinstance(content["relations"], list):
        raise ValueError(f"`relations` is a list of relations; given a {type(content['relations']).__name__}")
    relations = [_without_provenance(relation) for relation in content["relations"]]
    none_relation = content.get("none_relation")
    return RelationInventory(normalise_relations(relations, none_relation), none_relation)


def _without_provenance(relation: Any) -> Any:
    if not isinstance(relation, dict):
        raise ValueError(f"a relation is a mapping with the keys {RELATION_KEYS}; given {relation!r}")
    return {key: value for key, value in relation.items() if key not in PROVENANCE_KEYS}
