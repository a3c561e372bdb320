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

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from roc.dataset_scripts.building.builder import RawRow
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.instance_files import (
    Instance,
    InstancesBuilder,
    Line,
    check_text_entity,
    entity_of_tokens,
    read_instance_lines,
    row_of,
)
from roc.dataset_scripts.building.raw_files import find_only_file
from roc.dataset_scripts.exporting.marker import NO_LICENSE
from roc.dataset_scripts.schema import SPLITS, Row

logger = logging.getLogger("roc.dataset_scripts.mnre")

# Folders and names under which the text files are published; the official validation file has a space in its name.
TEXT_FOLDERS = ("", "mnre_txt", "txt")
TEXT_NAMES = ("mnre_{split}.txt", "mnre_{split} .txt", "ours_{split}.txt", "{split}.txt")

# The "visual objects" of the zjunlp package: lists of crops per instance, and the crops themselves.
LEAKY_PATTERNS = ("*_dict.pth", "*/*_dict.pth", "img_vg", "*/img_vg")


class MnreBuilder(InstancesBuilder):
    """Builds MNRE from its raw files."""

    NAME = "mnre"
    TITLE = "MNRE"
    LICENSE = NO_LICENSE
    DESCRIPTION = """Multimodal relation extraction on tweets: two entities of the text, and the picture of the tweet.
From the raw files of [MNRE](https://github.com/thecharm/MNRE) (Zheng et al., "MNRE: A Challenge Multimodal Dataset for
Neural Relation Extraction with Visual Evidence in Social Media Posts", ICME 2021), version 2. Labels are spelt as they
are there, `alumi` and `None` among them; the published score leaves `None` out."""
    LICENSE_NOTE = """**MNRE states none.** The tweets and pictures stay their authors'. Do not publish this folder
without their permission."""
    LEAK_NOTE = """- The labels read `/head type/tail type/relation`, so they hold the gold entity types; `type` was not
  read from them. Types that are taken from the label tell much of the answer.
- The "visual objects" (crops) that are in circulation with MNRE give the label away by their number per row: they were
  cut with a phrase that held the gold types, and with none where the relation is `None`. They are not used here.
  Scores of systems that read them (82 to 92 micro-F1) do not compare with scores on this dataset;
  `python -m roc.dataset_scripts.leak_audit` shows it.
- The annotators kept the order of the text for unrelated pairs and chose head and tail by the relation for the others:
  where the head comes after the tail, 98 % of the pairs of MNRE's `train` have a relation, else 29 %. All scores
  profit from it."""
    PICTURES_HINT = (
        "MNRE's pictures are a separate download (see https://github.com/thecharm/MNRE): unpack them to img_org/train, "
        "img_org/val and img_org/test in data_dir."
    )

    # As the README of https://github.com/thecharm/MNRE counts them.
    RELEASE = "MNRE version 2"
    OFFICIAL_ROWS = {"train": 12247, "val": 1624, "test": 1614}
    OFFICIAL_SHA256 = {
        "train": "1cc34438a00e2a2db73e4eba297820f926f62abd1fddc693caa13c58b62428b7",
        "val": "c76865179b5678167b164c21fd25ed31f9a1416da393ac93ce70f32b00352b75",
    }
    TEXT_ENTITIES = ("h", "t")
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

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the text file of each split under its published names."""
        _warn_of_leaky_files(self.raw_dir)
        found = {split: find_text_file(self.raw_dir, split) for split in SPLITS}
        return {split: [path] for split, path in found.items() if path is not None}

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Read the instances of one split, in the order of the file."""
        [path] = self.split_files[split]
        lines = list(read_instances(path))
        self.warn_of_differences(split, lines)
        rows = [(where, to_row(instance, f"{split}-{number:05d}")) for number, where, instance in lines]
        yield from self.raw_rows(split, rows)


def find_text_file(data_dir: Path, split: str) -> Path | None:
    """Find the text file of a split; None if there is none, `ValueError` if there are several that differ."""
    names = [Path(folder) / name.format(split=split) for folder in TEXT_FOLDERS for name in TEXT_NAMES]
    return find_only_file(data_dir, names, f"the split {split!r}")


def read_instances(path: Path) -> Iterator[Line]:
    """Read and check the instances of a raw file; a malformed line is an error that names file and line."""
    for number, where, instance in read_instance_lines(path):
        check_text_entity(instance, "t", where)
        yield number, where, instance


def to_row(instance: Instance, row_id: str) -> Row:
    """Convert a checked instance to a row of the schema; `image` is the file name of the picture."""
    return row_of(instance, row_id, tail=entity_of_tokens(instance, "t"))


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
