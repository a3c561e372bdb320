"""The joint entity and relation JSON in which SciERC, CoNLL04 and NYT are published; text only.

Reads `train.json`, `dev.json` or `val.json`, and `test.json`, also with a name in front, such as `conll04_train.json`.
Each is a list of texts: `{"tokens": [...], "entities": [{"type", "start", "end"}, ...], "relations": [{"type", "head",
"tail"}, ...], "orig_id": ...}` with half-open token offsets; heads and tails are positions in `entities`. Instead of
`entities` a text may have `tags`, one a token (`B-Peop`, `I-Peop`, `L-Peop`, `U-Peop`, `O`), whose entities are counted
from left to right. Other keys are not read.

Source of the format: Eberts and Ulges, "Span-based Joint Entity and Relation Extraction with Transformer Pre-training",
ECAI 2020, https://github.com/lavis-nlp/spert.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.annotated_texts import AnnotatedText, AnnotatedTextsBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.raw_files import check_tokens, read_list, token_offsets
from roc.dataset_scripts.exporting.marker import NO_LICENSE
from roc.messages_roc import quote
from roc.processing_entities_roc import check_span, is_int
from roc.processing_typing_roc import Span

FILE_NAMES = {"train": "train", "val": "dev|val", "test": "test"}
TAG = re.compile(r"O|([BILU])-(.+)")


class JointBuilder(AnnotatedTextsBuilder):
    """Builds a data set in the joint format from its raw files."""

    NAME = "joint"
    TITLE = "Entities and relations of texts"
    LICENSE = NO_LICENSE
    DESCRIPTION = """Relations between the entities of texts, without pictures, from raw files in the JSON format in
which [SpERT](https://github.com/lavis-nlp/spert) (Eberts and Ulges, ECAI 2020) publishes SciERC, CoNLL04 and ADE. Two
entities that the annotators did not relate are a row with the relation `none`; the types of entities are left out."""
    LICENSE_NOTE = "The licence is that of the raw data set: the files do not say which one it is."

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the file of each split; `ValueError` if there are several for one."""
        found = {split: find_file(self.raw_dir, names) for split, names in FILE_NAMES.items()}
        return {split: [path] for split, path in found.items() if path is not None}

    def read_texts(self, split: str) -> Iterator[AnnotatedText]:
        """Read the texts of one split, in the order of the file; `ValueError` if the file holds no list."""
        [path] = self.split_files[split]
        for number, data in enumerate(read_list(path, "texts with entities and relations")):
            yield parse_text(data, f"{split}-{number:05d}", where=f"{path.name}: text {number}")


def find_file(folder: Path, names: str) -> Path | None:
    """Find the file of a split by the end of its name; a file of two splits (`conll04_train_dev.json`) is none.

    Raises:
        ValueError: If there are several.
    """
    pattern = re.compile(rf"(?:.*_)?(?<!train_)(?:{names})\.json")
    found = [path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)]
    if len(found) > 1:
        named = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} has several files for one split: {named}. Give a folder with one data set.")
    return found[0] if found else None


def parse_text(data: Any, text_id: str, *, where: str) -> AnnotatedText:
    """Convert one text.

    Args:
        data: What the raw file has.
        text_id: What the ids of its rows begin with.
        where: Its place, put in front of every error.

    Raises:
        ValueError: If a key is missing, a span lies outside the tokens, tags do not follow each other, or a relation is
            of an entity that there is not.
        TypeError: If a value has the wrong type.
    """
    if not isinstance(data, dict) or "tokens" not in data or ("entities" in data) == ("tags" in data):
        keys = list(data) if isinstance(data, dict) else data
        raise ValueError(
            f"{where}: a text must be an object with 'tokens', 'relations' and either 'entities' or 'tags', got "
            f"{quote(keys)}."
        )
    if isinstance(data.get("orig_id"), (int, str)):
        where = f"{where} (orig_id {quote(data['orig_id'])})"
    tokens, relations = data["tokens"], data.get("relations")
    check_tokens(tokens, where)
    if not isinstance(relations, list):
        raise TypeError(f"{where}: 'relations' must be a list, got {quote(relations)}.")
    spans = _tagged(data["tags"], len(tokens), where) if "tags" in data else _listed(data["entities"], tokens, where)
    offsets = token_offsets(tokens)
    places = [(offsets[first][0], offsets[end - 1][1]) for first, end in spans]
    triples = [_relation(raw, len(spans), f"{where}: relation {number}") for number, raw in enumerate(relations)]
    return AnnotatedText(text_id, " ".join(tokens), places, triples, where)


def _listed(entities: Any, tokens: Sequence[str], where: str) -> list[Span]:
    if not isinstance(entities, list):
        raise TypeError(f"{where}: 'entities' must be a list, got {quote(entities)}.")
    spans = []
    for number, raw in enumerate(entities):
        here = f"{where}: entity {number}"
        if not isinstance(raw, dict) or not {"start", "end"} <= set(raw):
            raise ValueError(f"{here} must be an object with 'start' and 'end', got {quote(raw)}.")
        spans.append(check_span(raw["start"], raw["end"], len(tokens), here, unit="token"))
    return spans


def _tagged(tags: Any, num_tokens: int, where: str) -> list[Span]:
    """Return the token spans of tagged entities: of one token (U), or with a first (B), inner (I) and last (L) one."""
    if not isinstance(tags, list) or len(tags) != num_tokens:
        raise ValueError(f"{where}: 'tags' must be a list of {num_tokens} tags, one a token, got {quote(tags)}.")
    spans: list[Span] = []
    begun: tuple[int, str | None] | None = None  # first token and type of the entity that has not ended
    for number, tag in enumerate(tags):
        match = TAG.fullmatch(tag) if isinstance(tag, str) else None
        kind, entity_type = match.groups() if match else ("?", None)
        fits = begun is not None and begun[1] == entity_type if kind in ("I", "L") else begun is None
        if match is None or not fits:
            raise ValueError(
                f"{where}: the tag {quote(tag)} of token {number} cannot stand there. An entity is one U-TYPE, or "
                "B-TYPE, any I-TYPE and L-TYPE; other tokens are O."
            )
        if kind in ("U", "B"):
            begun = (number, entity_type)
        if begun is not None and kind in ("U", "L"):
            spans.append((begun[0], number + 1))
            begun = None
    if begun is not None:
        raise ValueError(f"{where}: the entity that begins with token {begun[0]} has no last token (L-{begun[1]}).")
    return spans


def _relation(raw: Any, num_entities: int, where: str) -> tuple[int, int, str]:
    if not isinstance(raw, dict) or not {"type", "head", "tail"} <= set(raw):
        raise ValueError(f"{where} must be an object with 'type', 'head' and 'tail', got {quote(raw)}.")
    for role in ("head", "tail"):
        if not is_int(raw[role]) or not 0 <= raw[role] < num_entities:
            raise ValueError(
                f"{where}: {role!r} must be the position of one of the {num_entities} entities, from 0, got "
                f"{quote(raw[role])}."
            )
    return raw["head"], raw["tail"], raw["type"]


if __name__ == "__main__":
    sys.exit(main(JointBuilder))
