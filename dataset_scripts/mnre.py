"""MNRE: multimodal relation extraction on tweets; both entities are spans of the text.

Reads the published raw files. A line is a Python literal:
`{'token': [...], 'h': {'name', 'pos'}, 't': {'name', 'pos'}, 'img_id': file name, 'relation': label}`, where `pos` is
half-open token offsets; they become half-open character offsets into the tokens joined by single spaces.

A label such as `/per/per/parent` holds the gold entity types. Types are never read from it: they stay null unless an
entity typer predicts them from the text.

Source: Zheng et al., "MNRE: A Challenge Multimodal Dataset for Neural Relation Extraction with Visual Evidence in
Social Media Posts", ICME 2021, https://github.com/thecharm/MNRE.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.base import RawRow, RocDatasetBuilder
from roc.dataset_scripts.command_line import main
from roc.dataset_scripts.raw_files import read_lines, sha256_of_file, token_offsets
from roc.dataset_scripts.schema import SPLITS, Entity, Row, check_span, text_entity

logger = logging.getLogger("roc.dataset_scripts.mnre")

Instance = dict[str, Any]

KEYS = ("token", "h", "t", "img_id", "relation")

# Folders and names under which the text files are published; the official validation file has a space in its name.
TEXT_FOLDERS = ("", "mnre_txt", "txt")
TEXT_NAMES = ("mnre_{split}.txt", "mnre_{split} .txt", "ours_{split}.txt", "{split}.txt")

# Folders under which the pictures are published or commonly unpacked.
PICTURE_FOLDERS = (
    "img_org/{split}",
    "mnre_image/img_org/{split}",
    "mnre_image/{split}",
    "images/{split}",
    "sample_images/{split}",
    "img_org",
    "mnre_image",
    "images",
)

# Instances of version 2 (README of https://github.com/thecharm/MNRE); sha256 of its train and validation files.
OFFICIAL_ROWS = {"train": 12247, "val": 1624, "test": 1614}
OFFICIAL_SHA256 = {
    "train": "1cc34438a00e2a2db73e4eba297820f926f62abd1fddc693caa13c58b62428b7",
    "val": "c76865179b5678167b164c21fd25ed31f9a1416da393ac93ce70f32b00352b75",
}

# The "visual objects" of the zjunlp package: lists of crops per instance, and the crops themselves.
LEAKY_PATTERNS = ("*_dict.pth", "*/*_dict.pth", "img_vg", "*/img_vg")


class MnreBuilder(RocDatasetBuilder):
    """Builds MNRE from its raw files."""

    NAME = "mnre"
    TITLE = "MNRE"
    LICENSE = "unknown"
    DESCRIPTION = """Multimodal relation extraction on tweets: two entities of the text, and the picture of the tweet.
From the raw files of [MNRE](https://github.com/thecharm/MNRE) (Zheng et al., "MNRE: A Challenge Multimodal Dataset for
Neural Relation Extraction with Visual Evidence in Social Media Posts", ICME 2021).

**Licence: MNRE states none.** The tweets and pictures stay their authors'. Do not publish this folder without
their permission.

The labels read `/head type/tail type/relation`, so they hold the gold entity types; `type` was not read from them. The
"visual objects" (crops) that are in circulation with MNRE give the label away by their number and are not used."""
    PICTURES_HINT = (
        "MNRE's pictures are a separate download (see https://github.com/thecharm/MNRE): unpack them to img_org/train, "
        "img_org/val and img_org/test in data_dir."
    )

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the text file of each split under its published names."""
        _warn_of_leaky_files(self.raw_dir)
        found = {split: find_text_file(self.raw_dir, split) for split in SPLITS}
        return {split: [path] for split, path in found.items() if path is not None}

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Read the instances of one split, in the order of the file."""
        [path] = self.split_files[split]
        folders = _picture_folders(self.raw_dir, split)
        instances = list(read_instances(path))
        _warn_unless_official(path, split, number_of_rows=len(instances))
        self._count_other_names(instances, split)
        for number, where, instance in instances:
            row = to_row(instance, f"{split}-{number:05d}")
            yield RawRow(row, where, tuple(folder / instance["img_id"] for folder in folders))

    def _count_other_names(self, instances: Sequence[tuple[int, str, Instance]], split: str) -> None:
        """Count entities whose stated name is not their span's tokens; the span is what the schema keeps."""
        others = [
            f"{where}: {instance[key]['name']!r} for the tokens {covered!r}"
            for _, where, instance in instances
            for key in ("h", "t")
            if instance[key]["name"] != (covered := " ".join(instance["token"][slice(*instance[key]["pos"])]))
        ]
        self.split_counts[split]["other_names"] = len(others)
        if others:
            logger.warning(
                "Split %s: %d entity names are not the tokens at their position (%s); the tokens are used.",
                *(split, len(others), others[0]),
            )


def find_text_file(data_dir: Path, split: str) -> Path | None:
    """Find the text file of a split.

    Args:
        data_dir: Folder of the raw files.
        split: Name of the split.

    Returns:
        The file, or None if there is none.

    Raises:
        ValueError: If there are several that differ.
    """
    names = [Path(folder) / name.format(split=split) for folder in TEXT_FOLDERS for name in TEXT_NAMES]
    found = [data_dir / name for name in names if (data_dir / name).is_file()]
    if len({sha256_of_file(path) for path in found}) > 1:
        raise ValueError(
            f"Several files that differ could be the split {split!r}: {', '.join(map(str, found))}. Keep one of them."
        )
    return found[0] if found else None


def read_instances(path: Path) -> Iterator[tuple[int, str, Instance]]:
    """Read and check the instances of a raw file.

    Args:
        path: The text file of a split.

    Yields:
        Line number from 1, `file name:line number`, and the instance with the keys of `KEYS`.

    Raises:
        ValueError: If a line is malformed; the message names file and line.
        TypeError: If a value of a line has the wrong type.
    """
    for number, where, line in read_lines(path):
        try:
            instance = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"{where}: the line is not a Python literal ({error}): {line[:80]!r}...") from error
        _check_instance(instance, where)
        yield number, where, instance


def to_row(instance: Instance, row_id: str) -> Row:
    """Convert an instance to a row of the schema.

    Args:
        instance: A checked instance.
        row_id: Id for the row.

    Returns:
        The row; `image` is the file name of the picture.
    """
    text = " ".join(instance["token"])
    offsets = token_offsets(instance["token"])
    return {
        "id": row_id,
        "text": text,
        "image": instance["img_id"],
        "head": _to_entity(instance["h"], text, offsets=offsets),
        "tail": _to_entity(instance["t"], text, offsets=offsets),
        "relation": instance["relation"],
    }


def _to_entity(raw: dict[str, Any], text: str, *, offsets: Sequence[tuple[int, int]]) -> Entity:
    first, last = raw["pos"][0], raw["pos"][1] - 1
    return text_entity(text, offsets[first][0], offsets[last][1])


def _check_instance(instance: Any, where: str) -> None:
    if not isinstance(instance, dict) or set(instance) != set(KEYS):
        keys = list(instance) if isinstance(instance, dict) else type(instance).__name__
        raise ValueError(f"{where}: a line must be a dict with the keys {list(KEYS)}, got {keys}.")
    tokens = instance["token"]
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise ValueError(f"{where}: 'token' must be a list of strings that are not empty, got {tokens!r}.")
    for key in ("h", "t"):
        _check_raw_entity(instance[key], len(tokens), where=f"{where}: {key!r}")
    if not isinstance(instance["relation"], str) or not instance["relation"].strip():
        raise ValueError(f"{where}: 'relation' must be a string that is not empty, got {instance['relation']!r}.")
    image = instance["img_id"]
    if not isinstance(image, str) or not image or Path(image).name != image:
        raise ValueError(f"{where}: 'img_id' must be the plain file name of a picture, got {image!r}.")


def _check_raw_entity(raw: Any, number_of_tokens: int, *, where: str) -> None:
    if not isinstance(raw, dict) or not {"name", "pos"} <= set(raw):
        raise ValueError(f"{where} must be a dict with the keys 'name' and 'pos', got {raw!r}.")
    if not isinstance(raw["pos"], (list, tuple)) or len(raw["pos"]) != 2:
        raise ValueError(f"{where}: 'pos' must be [first token, one past the last token], got {raw['pos']!r}.")
    check_span(*raw["pos"], number_of_tokens, where=where, unit="token")


def _picture_folders(data_dir: Path, split: str) -> list[Path]:
    """The folders to look for pictures in: those that exist, or all, for the error message, if none does."""
    folders = [data_dir / folder.format(split=split) for folder in PICTURE_FOLDERS]
    return [folder for folder in folders if folder.is_dir()] or folders


def _warn_unless_official(path: Path, split: str, *, number_of_rows: int) -> None:
    official = OFFICIAL_SHA256.get(split)
    if number_of_rows != OFFICIAL_ROWS[split] or (official is not None and sha256_of_file(path) != official):
        logger.warning(
            "%s is not the official %s file of MNRE version 2: %d instances (official: %d)%s. Figures on it do not "
            "compare with published ones.",
            *(path, split, number_of_rows, OFFICIAL_ROWS[split]),
            ", other sha256" if official else "",
        )


def _warn_of_leaky_files(data_dir: Path) -> None:
    leaky = [path for pattern in LEAKY_PATTERNS for path in sorted(data_dir.glob(pattern))]
    if leaky:
        logger.warning(
            "Ignoring %s: the number of these crops per instance gives the relation away "
            "(see `python -m roc.dataset_scripts.leak_audit --help`).",
            ", ".join(path.relative_to(data_dir).as_posix() for path in leaky),
        )


if __name__ == "__main__":
    sys.exit(main(MnreBuilder))
