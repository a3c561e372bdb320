"""Texts of your own with all entities marked in them, as they are quickly typed; text only.

Reads `{train,val,test}.txt`. A line is a text, a tab, and the relations between its entities:

    [Maria Keller|1] opened the bakery [Kornblume|2] with her sister [Ida|3].	1 founded 2; 3 founded 2; 1 sibling_of 3

An entity is marked once, by a number that no other of the text has; a relation is `HEAD NAME TAIL`, by these numbers.
Entities that no relation joins have none, from which a model learns to say so. `examples/everyday` is such a set.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from roc.dataset_scripts.building.annotated_texts import AnnotatedText, AnnotatedTextsBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.raw_files import find_files, read_lines
from roc.dataset_scripts.exporting.marker import NO_LICENSE
from roc.dataset_scripts.schema import SPLITS
from roc.messages_roc import quote

ENTITY = re.compile(r"\[([^\[\]|]*)\|(\d+)\]")
RELATION = re.compile(r"(\d+)\s+(\S.*\S|\S)\s+(\d+)")


class MarkedBuilder(AnnotatedTextsBuilder):
    """Builds a data set from texts with marked entities."""

    NAME = "marked"
    TITLE = "Texts with marked entities"
    LICENSE = NO_LICENSE
    DESCRIPTION = """Relations between the entities of texts, without pictures. Two entities that the annotators did not
relate are a row with the relation `none`."""
    LICENSE_NOTE = "The files do not say under which licence they are."

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the file of each split."""
        return find_files(self.raw_dir, {split: f"{split}.txt" for split in SPLITS})

    def read_texts(self, split: str) -> Iterator[AnnotatedText]:
        """Read the texts of one split, in the order of the file."""
        [path] = self.split_files[split]
        for number, where, line in read_lines(path):
            yield parse_line(line, f"{split}-{number:05d}", where=where)


def parse_line(line: str, text_id: str, *, where: str) -> AnnotatedText:
    """Parse a line: a text with marked entities, a tab, and relations.

    Args:
        line: The line.
        text_id: What the ids of its rows begin with.
        where: `file:line`, put in front of every error.

    Raises:
        ValueError: If an entity is empty or has the number of another one, there is more than one tab, or a relation is
            not `HEAD NAME TAIL` with the numbers of two entities.
    """
    marked, _, listed = line.partition("\t")
    if "\t" in listed:
        raise ValueError(f"{where}: there are several tabs. Give the text, one tab, and all relations, parted by ';'.")
    text, end, places = "", 0, {}
    for entity in ENTITY.finditer(marked):
        name, number = entity.groups()
        if not name.strip() or number in places:
            what = "is empty" if not name.strip() else "has the number of another entity"
            raise ValueError(f"{where}: {quote(entity[0])} {what}. Mark each entity once, such as [Ann|1].")
        text += marked[end : entity.start()]
        places[number] = (len(text), len(text) + len(name))
        text, end = text + name, entity.end()
    text += marked[end:]
    numbers = list(places)
    relations = []
    for given in filter(str.strip, listed.split(";")):
        relation = RELATION.fullmatch(given.strip())
        if relation is None or not {relation[1], relation[3]} <= set(numbers):
            raise ValueError(
                f"{where}: {quote(given.strip())} is no relation. Give HEAD NAME TAIL, such as '1 founded 2', with "
                f"numbers of entities of the text: {numbers}."
            )
        relations.append((numbers.index(relation[1]), numbers.index(relation[3]), relation[2]))
    return AnnotatedText(text_id, text, list(places.values()), relations, where)


if __name__ == "__main__":
    sys.exit(main(MarkedBuilder))
