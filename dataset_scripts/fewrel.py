"""FewRel: relations of Wikidata in sentences of Wikipedia; text only.

Reads the published JSON files: `{relation: [{"tokens": [...], "h": [name, id, [[token, ...], ...]], "t": ...}]}`, where
`h` and `t` list the token positions of each mention of an entity; the first mention is taken. Relations are Wikidata
properties (`P26`); `python -m roc.dataset_scripts.wikidata` makes their relation file.

A folder may have the public sentences in one compact file instead, `fewrel80.jsonl.gz` or unpacked: a line is
`{"relation": "P26", "text": "...", "head": [0, 3], "tail": [10, 14]}` with half-open character offsets. All of it is
the split `train`; which relations are for training, for validation and unseen is said by the protocol that reads it.

Source: Han et al., "FewRel: A Large-Scale Supervised Few-Shot Relation Classification Dataset with State-of-the-Art
Evaluation", EMNLP 2018, https://github.com/thunlp/FewRel.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.builder import RawRow, RocDatasetBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.raw_files import (
    check_tokens,
    find_files,
    find_only_file,
    parse_object,
    read_lines,
    token_offsets,
)
from roc.dataset_scripts.schema import Entity, Row, check_keys, text_entity
from roc.messages_roc import quote
from roc.processing_entities_roc import check_span
from roc.support.reading import read_json

FILE_NAMES = {"train": "train_wiki.json", "val": "val_wiki.json"}  # the test file is not public
COMPACT_NAMES = ("fewrel80.jsonl.gz", "fewrel80.jsonl")
KEYS = ("tokens", "h", "t")
COMPACT_KEYS = ("relation", "text", "head", "tail")


class FewrelBuilder(RocDatasetBuilder):
    """Builds FewRel from its raw files."""

    NAME = "fewrel"
    TITLE = "FewRel"
    LICENSE = "mit"
    DESCRIPTION = """Relations of Wikidata in sentences of Wikipedia, without pictures, from the raw files of
[FewRel](https://github.com/thunlp/FewRel) (Han et al., EMNLP 2018)."""

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the file of each split; `ValueError` if the folder has both the published files and the compact one."""
        found = find_files(self.raw_dir, FILE_NAMES)
        compact = find_only_file(self.raw_dir, COMPACT_NAMES, "the compact file")
        if compact is not None and found:
            raise ValueError(
                f"{self.raw_dir}: {compact.name} and {', '.join(path.name for [path] in found.values())} have the same "
                "sentences. Keep the compact file in a folder of its own."
            )
        return found if compact is None else {"train": [compact]}

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Read the sentences of one split, relation by relation."""
        [path] = self.split_files[split]
        if path.name in COMPACT_NAMES:
            yield from read_compact(path, split)
            return
        for relation, instances in read_relations(path).items():
            for number, instance in enumerate(instances):
                where = f"{path.name}: {relation}, sentence {number}"
                yield RawRow(to_row(instance, relation, f"{split}-{relation}-{number:04d}", where=where), where)


def read_relations(path: Path) -> dict[str, list[Any]]:
    """Read the sentences of a raw file by relation; `ValueError` if it is none."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(sentences, list) for sentences in content.values()):
        raise ValueError(f"{path}: expected a mapping of relations to lists of sentences.")
    return content


def read_compact(path: Path, split: str) -> Iterator[RawRow]:
    """Read the sentences of the compact file, each numbered within its relation.

    Raises:
        ValueError: If a line is not JSON, has other keys, or a span lies outside its text.
        TypeError: If a value has the wrong type.
    """
    numbers: Counter[str] = Counter()
    for _, where, line in read_lines(path):
        data = parse_object(line, where)
        check_keys(data, COMPACT_KEYS, where=where)
        text, relation = data["text"], data["relation"]
        if not isinstance(text, str) or not isinstance(relation, str):
            raise TypeError(f"{where}: 'text' and 'relation' must be strings, got {quote(text)} and {quote(relation)}.")
        entities = {role: _compact_entity(data[role], text, f"{where}: {role!r}") for role in ("head", "tail")}
        row_id = f"{split}-{relation}-{numbers[relation]:04d}"
        numbers[relation] += 1
        yield RawRow({"id": row_id, "text": text, "image": None, **entities, "relation": relation}, where)


def _compact_entity(raw: Any, text: str, where: str) -> Entity:
    if not isinstance(raw, list) or len(raw) != 2:
        raise ValueError(f"{where} must be [start, end] in characters, got {quote(raw)}.")
    start, end = raw
    return text_entity(text, *check_span(start, end, len(text), where))


def to_row(instance: Any, relation: str, row_id: str, *, where: str) -> Row:
    """Convert a sentence to a row of the schema, without a picture.

    Args:
        instance: `tokens`, `h` and `t`, as the raw file has them.
        relation: The relation that it is listed under.
        row_id: Id for the row.
        where: The sentence's place, put in front of an error.

    Raises:
        ValueError: If a key is missing, or a position lies outside the sentence.
        TypeError: If tokens are not strings.
    """
    if not isinstance(instance, dict) or not set(KEYS) <= set(instance):
        raise ValueError(f"{where}: a sentence must be a mapping with the keys {list(KEYS)}, got {quote(instance)}.")
    tokens = instance["tokens"]
    check_tokens(tokens, where)
    text, offsets = " ".join(tokens), token_offsets(tokens)
    head, tail = (_entity(instance[key], text, offsets, f"{where}: {key!r}") for key in ("h", "t"))
    return {"id": row_id, "text": text, "image": None, "head": head, "tail": tail, "relation": relation}


def _entity(raw: Any, text: str, offsets: Sequence[tuple[int, int]], where: str) -> Entity:
    """Return the first mention, from its first token to its last."""
    mentions = raw[2] if isinstance(raw, list) and len(raw) == 3 else None
    positions = mentions[0] if isinstance(mentions, list) and mentions else None
    if not isinstance(positions, list) or not positions or not all(type(position) is int for position in positions):
        raise ValueError(f"{where} must be [name, id, [[token position, ...], ...]], got {raw!r:.80}.")
    first, last = min(positions), max(positions)
    if not 0 <= first <= last < len(offsets):
        raise ValueError(f"{where}: the token positions {positions} are outside the {len(offsets)} tokens.")
    return text_entity(text, offsets[first][0], offsets[last][1])


if __name__ == "__main__":
    sys.exit(main(FewrelBuilder))
