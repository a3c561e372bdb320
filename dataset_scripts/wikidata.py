"""A relation file for Wikidata properties, out of FewRel's `pid2name.json`.

`python -m roc.dataset_scripts.wikidata --data_dir DIR --split val --output FILE.yaml` writes the relations of one split
of FewRel, or with `--split all` every property that the file lists. Each is named by its property (`P26`), and
described by `LABEL: DESCRIPTION` and by `LABEL`, as Wikidata has them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.fewrel import FILE_NAMES, read_relations
from roc.messages_roc import did_you_mean, quote
from roc.relations.files import write_relation_file
from roc.support.programs import run_program
from roc.support.reading import read_json

PROPERTIES_FILE = "pid2name.json"
ALL = "all"
MAX_CHARACTERS = 250  # longer descriptions are editors' rules, too long for a description encoder
PROVENANCE = "label and description of the property in Wikidata (CC0), as listed by FewRel's pid2name.json"


def relations_of_properties(properties: Any, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Describe properties as a relation file does.

    Args:
        properties: `{property id: [label, description]}`.
        ids: The properties to describe.

    Raises:
        ValueError: If a property is not listed, or not by a label and a description.
    """
    relations = []
    for name in ids:
        entry = properties.get(name) if isinstance(properties, dict) else None
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
            hint = did_you_mean(name, properties) if isinstance(properties, dict) else ""
            raise ValueError(f"The property {quote(name)} is not listed with a label and a description.{hint}")
        descriptions = [f"{entry[0]}: {entry[1]}", entry[0]]
        relations.append({"name": name, "descriptions": descriptions, "provenance": PROVENANCE, "reviewed": False})
    return relations


def relations_of_split(data_dir: Path, split: str) -> list[dict[str, Any]]:
    """Describe the relations of one FewRel split, sorted by property.

    `"all"` takes every property with a description of at most `MAX_CHARACTERS`.
    """
    properties = read_json(data_dir / PROPERTIES_FILE)
    if split == ALL:
        relations = relations_of_properties(properties, sorted(properties))
        return [relation for relation in relations if len(relation["descriptions"][0]) <= MAX_CHARACTERS]
    return relations_of_properties(properties, sorted(read_relations(data_dir / FILE_NAMES[split])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a relation file with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.dataset_scripts.wikidata", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--data_dir", required=True, help=f"FewRel's folder, with {PROPERTIES_FILE}")
    parser.add_argument("--split", choices=[*FILE_NAMES, ALL], default="val", help="whose relations to describe")
    parser.add_argument("--part", default="1/1", help="K/N: every N-th of them, from the K-th on, to keep some apart")
    parser.add_argument("--output", required=True, help="relation file to write (YAML)")
    options = parser.parse_args(arguments)
    return run_program(lambda: _write(Path(options.data_dir), options.split, options.part, Path(options.output)))


def _write(data_dir: Path, split: str, part: str, output: Path) -> dict[str, Any]:
    relations = _part_of(relations_of_split(data_dir, split), part)
    content = {"version": 1, "language": "en", "none_relation": None, "relations": relations}
    write_relation_file(output, content)
    return {"output": str(output), "num_relations": len(relations)}


def _part_of(relations: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= len(relations):
        raise ValueError(
            f"--part {part!r} is out of range: give K/N with 1 <= K <= N <= {len(relations)}, such as 1/2."
        )
    return relations[int(match[1]) - 1 :: int(match[2])]


if __name__ == "__main__":
    sys.exit(main())
