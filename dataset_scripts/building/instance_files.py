"""What the raw files of MNRE and MORE share: a line is one pair, with tokens, entities, the picture's name and a label.

Only the values of the known keys are read. How a line is written (the order of its keys, lists or tuples, quotes) and
other keys never reach a row: they may differ between lines that were annotated and lines that were added as negatives.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from roc.dataset_scripts.building.builder import RawRow, RocDatasetBuilder
from roc.dataset_scripts.building.raw_files import read_lines, sha256_of_file, token_offsets
from roc.dataset_scripts.schema import Entity, Row, text_entity
from roc.messages_roc import on_one_line, parse_json, quote
from roc.processing_entities_roc import check_span

logger = logging.getLogger("roc.dataset_scripts")

Instance = dict[str, Any]
Line = tuple[int, str, Instance]  # its number from 1, `file name:number`, and what it holds

KEYS = ("token", "h", "t", "img_id", "relation")


class InstancesBuilder(RocDatasetBuilder):
    """The base of builders whose raw files have a pair on each line."""

    RELEASE: ClassVar[str]  # what the published files are called
    OFFICIAL_ROWS: ClassVar[Mapping[str, int]]  # the number of their instances, by split
    OFFICIAL_SHA256: ClassVar[Mapping[str, str]] = {}  # their checksums, as far as they are known
    PICTURE_FOLDERS: ClassVar[Sequence[str]]
    TEXT_ENTITIES: ClassVar[Sequence[str]]  # which of `"h"` and `"t"` are spans of the text
    RAW_SPLITS: ClassVar[Mapping[str, str]] = {}  # names of splits in the raw files, where they differ

    def raw_rows(self, split: str, rows: Sequence[tuple[str, Row]]) -> Iterator[RawRow]:
        """Yield rows, each given with its place, with the paths where their pictures may lie."""
        names = [folder.format(split=self.RAW_SPLITS.get(split, split)) for folder in self.PICTURE_FOLDERS]
        # Where no folder exists, all are tried, for the error message.
        folders = [name for name in names if (self.raw_dir / name).is_dir()] or names
        for where, row in rows:
            yield RawRow(row, where, tuple(self.raw_dir / folder / row["image"] for folder in folders))

    def warn_of_differences(self, split: str, lines: Sequence[Line]) -> None:
        """Warn if a raw file is not the published one, or an entity's stated name is not the tokens of its span."""
        path, official = self.split_files[split][0], self.OFFICIAL_ROWS[split]
        is_changed = split in self.OFFICIAL_SHA256 and sha256_of_file(path) != self.OFFICIAL_SHA256[split]
        if len(lines) != official or is_changed:
            logger.warning(
                "%s is not the official %s file of %s: %d instances (official: %d)%s. Figures on it do not compare "
                "with published ones.",
                *(path, split, self.RELEASE, len(lines), official, ", other sha256" if is_changed else ""),
            )
        others = []
        for _, where, instance in lines:
            for entity in (instance[key] for key in self.TEXT_ENTITIES):
                tokens = instance["token"][slice(*entity["pos"])]
                if entity["name"] not in (" ".join(tokens), tokens):
                    others.append(f"{where}: {quote(entity['name'])} for the tokens {quote(' '.join(tokens))}")
        what = "entity names are not the tokens at their position"
        self.warn_of_others(split, others, count="other_names", what=what, kept="the tokens are used")

    def warn_of_others(self, split: str, others: Sequence[str], *, count: str, what: str, kept: str) -> None:
        """Count stated values that differ from those that are kept, and name the first."""
        self.split_counts[split][count] = len(others)
        if others:
            logger.warning("Split %s: %d %s (%s); %s.", split, len(others), what, others[0], kept)


def read_instance_lines(path: Path) -> Iterator[Line]:
    """Read the instances of a raw file, whose lines are Python literals or JSON; tails are left to the caller.

    Raises:
        ValueError: If a line is malformed; the message names file and line.
        TypeError: If an offset is not an integer.
    """
    for number, where, line in read_lines(path):
        instance = _parse(line, where)
        _check_instance(instance, where)
        check_text_entity(instance, "h", where)
        yield number, where, instance


def check_text_entity(instance: Instance, key: str, where: str) -> None:
    """Check that an entity, `"h"` or `"t"`, has a `name` and in `pos` a half-open span of the tokens."""
    raw, where = instance[key], f"{where}: {key!r}"
    if not isinstance(raw, dict) or not {"name", "pos"} <= set(raw):
        raise ValueError(f"{where} must be a dict with the keys 'name' and 'pos', got {quote(raw)}.")
    if not isinstance(raw["pos"], (list, tuple)) or len(raw["pos"]) != 2:
        raise ValueError(f"{where}: 'pos' must be [first token, one past the last token], got {quote(raw['pos'])}.")
    start, end = raw["pos"]
    check_span(start, end, len(instance["token"]), where, unit="token")


def row_of(instance: Instance, row_id: str, *, tail: Entity) -> Row:
    """Convert a checked instance to a row of the schema; `image` is the file name of the picture."""
    return {
        "id": row_id,
        "text": " ".join(instance["token"]),
        "image": instance["img_id"],
        "head": entity_of_tokens(instance, "h"),
        "tail": tail,
        "relation": instance["relation"],
    }


def entity_of_tokens(instance: Instance, key: str) -> Entity:
    """Return an entity with its span in characters of the tokens joined by single spaces."""
    offsets = token_offsets(instance["token"])
    first, end = instance[key]["pos"]
    return text_entity(" ".join(instance["token"]), offsets[first][0], offsets[end - 1][1])


def _parse(line: str, where: str) -> Any:
    # JSON first: Python reads a JSON string too, but its "\/" and "\ud83d\ude00" as other characters.
    with suppress(ValueError):
        return parse_json(line)
    try:
        tree = ast.parse(line, mode="eval")
        literal = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = on_one_line(error, 100)
        raise ValueError(f"{where}: the line is not a Python literal ({reason}): {quote(line, 80)}") from error
    for node in ast.walk(tree):
        keys = [ast.literal_eval(key) for key in node.keys if key] if isinstance(node, ast.Dict) else []
        if len(set(keys)) < len(keys):
            raise ValueError(f"{where}: a key is there twice among {quote(keys)}.")
    return literal


def _check_instance(instance: Any, where: str) -> None:
    if not isinstance(instance, dict) or not set(KEYS) <= set(instance):
        keys = list(instance) if isinstance(instance, dict) else type(instance).__name__
        raise ValueError(f"{where}: a line must be a dict with the keys {list(KEYS)}, got {quote(keys)}.")
    tokens = instance["token"]
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise ValueError(f"{where}: 'token' must be a list of strings that are not empty, got {quote(tokens)}.")
    if not isinstance(instance["relation"], str) or not instance["relation"].strip():
        raise ValueError(f"{where}: 'relation' must be a string that is not empty, got {quote(instance['relation'])}.")
    image = instance["img_id"]
    if not isinstance(image, str) or not image or Path(image).name != image:
        raise ValueError(f"{where}: 'img_id' must be the plain file name of a picture, got {quote(image)}.")
