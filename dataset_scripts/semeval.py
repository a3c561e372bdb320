"""SemEval-2010 task 8: nine directed relations between two nominals of a sentence, or `Other`; text only.

Two forms are read. The official files (`TRAIN_FILE.TXT`, `TEST_FILE_FULL.TXT`) have a numbered sentence in quotes with
`<e1>...</e1>` and `<e2>...</e2>`, then its label and a comment. In the JSON lines `train.txt`, `dev.txt` and `test.txt`
a sentence is `{"token": [...], "h": {"name", "pos"}, "t": {"name", "pos"}, "relation": label}`, where `pos` is
half-open token offsets.

Labels are kept as they are, such as `Cause-Effect(e2,e1)`: e1 is the first of the two in the text, whatever the label
says, and is the head of the row. Its head is thus not always the first argument of the relation's name, and a relation
file describes both directions.

Source: Hendrickx et al., "SemEval-2010 Task 8: Multi-Way Classification of Semantic Relations between Pairs of
Nominals", SemEval 2010.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from roc.dataset_scripts.building.builder import RawRow, RocDatasetBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.instance_files import check_text_entity, entity_of_tokens
from roc.dataset_scripts.building.raw_files import check_tokens, find_only_file, parse_object, read_lines
from roc.dataset_scripts.schema import Row, check_keys, text_entity
from roc.messages_roc import did_you_mean, quote

OFFICIAL_NAMES = {
    "train": ("TRAIN_FILE.TXT", "SemEval2010_task8_training/TRAIN_FILE.TXT"),
    "val": (),
    "test": ("TEST_FILE_FULL.TXT", "SemEval2010_task8_testing_keys/TEST_FILE_FULL.TXT"),
}
LINE_NAMES = {"train": "train.txt", "val": "dev.txt", "test": "test.txt"}
KEYS = ("token", "h", "t", "relation")
RELATIONS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
LABELS = ("Other", *(f"{relation}({order})" for relation in RELATIONS for order in ("e1,e2", "e2,e1")))

SENTENCE = re.compile(r'\d+\s+"(.*)"')
MARKED = re.compile(r"(.*)<e1>(.+)</e1>(.*)<e2>(.+)</e2>(.*)")


class SemevalBuilder(RocDatasetBuilder):
    """Builds SemEval-2010 task 8 from its raw files."""

    NAME = "semeval"
    TITLE = "SemEval-2010 task 8"
    LICENSE = "cc-by-3.0"
    DESCRIPTION = """Nine directed relations between two nominals of an English sentence, or `Other`, without pictures,
from the raw files of SemEval-2010 task 8 (Hendrickx et al., "SemEval-2010 Task 8: Multi-Way Classification of Semantic
Relations between Pairs of Nominals", SemEval 2010). The head of a row is e1, the nominal that comes first in the
text."""
    LICENSE_NOTE = "By the authors of the task: Hendrickx et al. (2010)."

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the file of each split; `ValueError` if there are several that differ."""
        names = {split: (LINE_NAMES[split], *OFFICIAL_NAMES[split]) for split in LINE_NAMES}
        found = {split: find_only_file(self.raw_dir, names[split], f"the split {split!r}") for split in names}
        return {split: [path] for split, path in found.items() if path is not None}

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Read the sentences of one split, in the order of the file."""
        [path] = self.split_files[split]
        read = read_sentences if path.name == LINE_NAMES[split] else read_official
        for number, (where, row) in enumerate(read(path), start=1):
            if row["relation"] not in LABELS:
                hint = did_you_mean(str(row["relation"]), LABELS)
                raise ValueError(f"{where}: there is no relation {quote(row['relation'])} in the task.{hint}")
            yield RawRow({"id": f"{split}-{number:05d}", "image": None, **row}, where)


def read_sentences(path: Path) -> Iterator[tuple[str, Row]]:
    """Read the JSON lines: the place of each sentence and its row without id and picture.

    Raises:
        ValueError: If a line is not JSON, has other keys, a span outside its tokens, or its tail first.
        TypeError: If a value has the wrong type.
    """
    for _, where, line in read_lines(path):
        data = parse_object(line, where)
        check_keys(data, KEYS, where=where)
        check_tokens(data["token"], where)
        for key in ("h", "t"):
            check_text_entity(data, key, where)
        if data["h"]["pos"][0] > data["t"]["pos"][0]:
            raise ValueError(
                f"{where}: 't' comes before 'h' in the text, but labels such as {quote(data['relation'])} call the "
                "first of the two e1. Let 'h' be the first."
            )
        head, tail = (entity_of_tokens(data, key) for key in ("h", "t"))
        yield where, {"text": " ".join(data["token"]), "head": head, "tail": tail, "relation": data["relation"]}


def read_official(path: Path) -> Iterator[tuple[str, Row]]:
    """Read an official file: the place of each sentence and its row without id and picture.

    Raises:
        ValueError: If a sentence is not marked, or has no label.
    """
    lines = ((where, line) for _, where, line in read_lines(path) if not line.startswith("Comment:"))
    for where, line in lines:
        quoted = SENTENCE.fullmatch(line)
        marked = MARKED.fullmatch(quoted[1]) if quoted else None
        if marked is None:
            raise ValueError(
                f"{where}: expected a numbered sentence in quotes with <e1>...</e1> before <e2>...</e2>, got "
                f"{quote(line, 80)}."
            )
        _, label = next(lines, ("", None))
        if label is None:
            raise ValueError(f"{where}: the file ends before the label of this sentence. Get the file anew.")
        before, head, between, tail, _ = marked.groups()
        text, first = "".join(marked.groups()), len(before)
        second = first + len(head) + len(between)
        entities = text_entity(text, first, first + len(head)), text_entity(text, second, second + len(tail))
        yield where, {"text": text, "head": entities[0], "tail": entities[1], "relation": label}


if __name__ == "__main__":
    sys.exit(main(SemevalBuilder))
