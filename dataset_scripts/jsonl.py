"""A user's own data as JSON lines: `train.jsonl`, `val.jsonl`, `test.jsonl` in one folder, pictures beside them.

A line has one of two forms. A row is one pair:

    {"text": "Ann leads Acme", "image": "pictures/1.jpg", "relation": "leads",
     "head": {"start": 0, "end": 3, "type": "person"}, "tail": {"start": 10, "end": 14}}

A group is one text with its entities and any number of relations between them, by position in the list from 0:

    {"text": "Ann leads Acme", "image": "pictures/1.jpg",
     "entities": [{"start": 0, "end": 3}, {"start": 10, "end": 14}, {"bbox": [0.1, 0.2, 0.5, 0.9], "name": "a sign"}],
     "relations": [{"head": 0, "tail": 1, "relation": "leads"}]}

Spans are half-open character offsets into `text` (Unicode code points, as Python counts). Instead of `text`, a line may
give `tokens`, a list of words; then they are half-open token offsets. Boxes are (x0, y0, x1, y1) in [0, 1], origin top
left, of the picture as it is shown (EXIF orientation applied). `image` is relative to the folder of the JSONL file.
`id`, `image`, `type` (one of `ENTITY_TYPES`, or a tag such as PER or GPE) and `name` are optional. Pairs that a group
does not relate make no row: state them if your inventory has a "no relation".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from roc.dataset_scripts.building.builder import RawRow, RocDatasetBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.raw_files import check_tokens, parse_object, read_lines, token_offsets
from roc.dataset_scripts.exporting.marker import NO_LICENSE
from roc.dataset_scripts.schema import ENTITY_KEYS, SPLITS, Entity, Row, check_keys, object_entity, text_entity
from roc.messages_roc import quote, shorten
from roc.processing_entities_roc import check_box, check_span, check_type
from roc.processing_typing_roc import ENTITY_TYPES, Span

FILE_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}

SHARED_KEYS = ("id", "text", "tokens", "image")
ROW_KEYS = (*SHARED_KEYS, "head", "tail", "relation")
GROUP_KEYS = (*SHARED_KEYS, "entities", "relations")
RELATION_KEYS = ("head", "tail", "relation")


class JsonlBuilder(RocDatasetBuilder):
    """Builds a dataset from a user's JSON lines."""

    NAME = "jsonl"
    TITLE = "Relations between entities of texts and pictures"
    LICENSE = NO_LICENSE
    DESCRIPTION = "Built from a user's own JSON lines."
    LICENSE_NOTE = """State the licence before you publish this folder, with where the texts and pictures come from:
`python -m roc.dataset_scripts.upload --dataset jsonl --license ID --description FILE`."""
    PICTURES_HINT = "`image` is relative to the folder of the JSONL file, with '/' between folders."

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the file of each split; `ValueError` if there are several for one."""
        found = {split: _find_file(self.raw_dir, split) for split in SPLITS}
        if not any(found.values()):
            names = sorted(path.name for path in self.raw_dir.iterdir())
            raise FileNotFoundError(
                f"No split found in {self.raw_dir}: expected train.jsonl, val.jsonl or test.jsonl, found "
                f"{shorten(', '.join(names)) or 'nothing'}. Turn other formats into JSON lines; "
                "docs/your_data.md has a script for tables."
            )
        return {split: [path] for split, path in found.items() if path is not None}

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Read the rows of one split, in the order of the file."""
        [path] = self.split_files[split]
        for number, where, line in read_lines(path):
            for row in parse_line(line, f"{split}-{number:06d}", where=where):
                paths = () if row["image"] is None else (self.raw_dir / row["image"],)
                yield RawRow(row, where, paths)


def parse_line(line: str, line_id: str, *, where: str) -> list[Row]:
    """Parse one line of either form.

    Args:
        line: The JSON text.
        line_id: Id for a line that states none.
        where: `file:line`, put in front of every error.

    Returns:
        Rows of the schema: one for a row, one per relation for a group. `image` is a relative path or None.

    Raises:
        ValueError: If the line is not JSON, has unknown or missing keys, an index or span out of range, or an image
            path that leaves the folder.
        TypeError: If a value has the wrong type.
    """
    data = parse_object(line, where)
    is_group = "entities" in data or "relations" in data
    check_keys(data, GROUP_KEYS if is_group else ROW_KEYS, where=where, optional=SHARED_KEYS)
    text, offsets = _text_and_offsets(data, where)
    shared = {"id": data.get("id", line_id), "text": text, "image": _relative_path(data.get("image"), where)}
    parse = _parse_group if is_group else _parse_row
    return parse(data, shared, offsets=offsets, where=where)


def _parse_row(data: Row, shared: Row, *, offsets: Sequence[Span] | None, where: str) -> list[Row]:
    entities = {
        role: _entity(data[role], shared["text"], offsets=offsets, where=f"{where}: {role!r}")
        for role in ("head", "tail")
    }
    return [{**shared, **entities, "relation": data["relation"]}]


def _parse_group(data: Row, shared: Row, *, offsets: Sequence[Span] | None, where: str) -> list[Row]:
    for key in ("entities", "relations"):
        if not isinstance(data[key], list):
            raise TypeError(f"{where}: {key!r} must be a list, got {quote(data[key])}.")
    entities = [
        _entity(entity, shared["text"], offsets=offsets, where=f"{where}: entity {index}")
        for index, entity in enumerate(data["entities"])
    ]
    rows = []
    for index, relation in enumerate(data["relations"]):
        here = f"{where}: relation {index}"
        check_keys(relation, RELATION_KEYS, where=here)
        pair = {role: _entity_at(relation[role], entities, where=f"{here}: {role!r}") for role in ("head", "tail")}
        rows.append({**shared, "id": f"{shared['id']}-{index}", **pair, "relation": relation["relation"]})
    return rows


def _text_and_offsets(data: Row, where: str) -> tuple[str, list[Span] | None]:
    """Return the text, and the character span of each token if the line gives tokens."""
    if ("text" in data) == ("tokens" in data):
        raise ValueError(
            f"{where}: give either 'text' (spans are character offsets) or 'tokens' (spans are token offsets)."
        )
    if "text" in data:
        if not isinstance(data["text"], str):
            raise TypeError(f"{where}: 'text' must be a string, got {quote(data['text'])}.")
        return data["text"], None
    tokens = data["tokens"]
    check_tokens(tokens, where)
    return " ".join(tokens), token_offsets(tokens)


def _entity(raw: Any, text: str, *, offsets: Sequence[Span] | None, where: str) -> Entity:
    check_keys(raw, ENTITY_KEYS, where=where, optional=ENTITY_KEYS)
    has_span = raw.get("start") is not None or raw.get("end") is not None
    if has_span == (raw.get("bbox") is not None):
        raise ValueError(
            f"{where}: give either 'start' and 'end' (an entity in the text) or 'bbox' (an object in the picture), "
            f"got {quote(raw)}."
        )
    if has_span:
        entity = _text_entity(raw, text, offsets=offsets, where=where)
    else:
        entity = object_entity("object", check_box(raw["bbox"], where))
    if raw.get("type") is not None:
        entity["type"] = check_type(raw["type"], ENTITY_TYPES, where)
    # A stated name that does not match its span is found by `check_row`.
    return entity if raw.get("name") is None else entity | {"name": raw["name"]}


def _text_entity(raw: Row, text: str, *, offsets: Sequence[Span] | None, where: str) -> Entity:
    start, end = raw.get("start"), raw.get("end")
    if offsets is None:
        return text_entity(text, *check_span(start, end, len(text), where))
    start, end = check_span(start, end, len(offsets), where, unit="token")
    return text_entity(text, offsets[start][0], offsets[end - 1][1])


def _entity_at(index: Any, entities: Sequence[Entity], *, where: str) -> Entity:
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{where} must be the position of an entity in 'entities', from 0, got {quote(index)}.")
    if not 0 <= index < len(entities):
        raise ValueError(f"{where} is {index}, but 'entities' has the positions 0 to {len(entities) - 1}.")
    return entities[index]


def _relative_path(image: Any, where: str) -> str | None:
    """Check that an image path stays in the data folder, whichever system wrote it."""
    if image is None:
        return None
    if not isinstance(image, str) or not image.strip():
        raise TypeError(
            f"{where}: 'image' must be a path relative to the JSONL file's folder, or null, got {quote(image)}."
        )
    windows = PureWindowsPath(image)
    if PurePosixPath(image).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(
            f"{where}: the image path {quote(image)} leaves the folder of the JSONL file. Put the pictures into that "
            "folder and give a relative path without '..', such as 'pictures/1.jpg'."
        )
    return image


def _find_file(data_dir: Path, split: str) -> Path | None:
    found = [path for name in FILE_NAMES[split] if (path := data_dir / f"{name}.jsonl").is_file()]
    if len(found) > 1:
        raise ValueError(f"Several files could be the split {split!r}: {', '.join(map(str, found))}. Keep one of them.")
    return found[0] if found else None


if __name__ == "__main__":
    sys.exit(main(JsonlBuilder))
