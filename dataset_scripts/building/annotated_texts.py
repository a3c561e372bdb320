"""Texts whose entities are all annotated: each two of them make rows, also where nobody related them."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

from roc.dataset_scripts.building.builder import RawRow, RocDatasetBuilder
from roc.dataset_scripts.schema import text_entity
from roc.messages_roc import quote
from roc.processing_typing_roc import Span

logger = logging.getLogger("roc.dataset_scripts")

NO_RELATION = "none"

# What is not in the rows although the source has it: the counts, and how they are said aloud where there is any.
LEFT_OUT = {
    "repeated_entities": "entities at the place of another one",
    "repeated_relations": "relations stated twice for one pair",
    "relations_to_itself": "relations of an entity to itself",
    "contradicted_pairs": "unrelated pairs that another copy of their text relates",
}


@dataclass(frozen=True)
class AnnotatedText:
    """A text with its entities and the relations between them.

    Args:
        text_id: What the ids of its rows begin with.
        text: The text.
        spans: Half-open character spans of its entities.
        relations: Head, tail and name of each relation; head and tail are positions in `spans`.
        where: Its place, such as `ai-train.json:12`.
    """

    text_id: str
    text: str
    spans: Sequence[Span]
    relations: Sequence[tuple[int, int, str]]
    where: str


class AnnotatedTextsBuilder(RocDatasetBuilder):
    """The base of builders whose source annotates whole texts.

    Two entities without a relation in either direction make one row with the relation `none`. Which of them is its head
    is drawn by a hash of the row's id, and rows come in the order of their entities in the text, so neither tells a
    relation from none. Overlapping entities are two like any others.

    A source may state the types of its entities. They are not taken over: the texts of users come without, and a model
    that learnt from annotated types would miss them there. `--entity_typer` predicts types as for every text.
    """

    LEFT_OUT: ClassVar[Mapping[str, str]] = LEFT_OUT

    @abstractmethod
    def read_texts(self, split: str) -> Iterator[AnnotatedText]:
        """Read the texts of one split from `self.split_files[split]`."""

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Yield the rows of each text of one split, and count and report what makes none."""
        counts = self.split_counts[split]
        texts = list(self.read_texts(split))
        related = {
            (text.text, *sorted((text.spans[head], text.spans[tail])))
            for text in texts
            for head, tail, _ in text.relations
        }
        for text in texts:
            rows = list(pair_rows(text, counts, related))
            counts.update(texts=1, texts_without_rows=not rows)
            yield from rows
        if left_out := [f"{counts[key]} {words}" for key, words in self.LEFT_OUT.items() if counts[key]]:
            logger.warning("%s, split %s: left out %s.", self.NAME, split, ", ".join(left_out))


def pair_rows(
    text: AnnotatedText, counts: Counter[str], related_anywhere: Collection[tuple[Any, ...]] = ()
) -> Iterator[RawRow]:
    """Yield a row for each relation of a text, and one for each two entities without one.

    Args:
        text: The text.
        counts: Gets the numbers of what is left out, under the keys of `LEFT_OUT`.
        related_anywhere: Text and places of the pairs that some text relates: a text may be there twice, and be
            annotated in two ways.

    Raises:
        TypeError: If the name of a relation is no string.
    """
    places = sorted(set(text.spans))
    counts["repeated_entities"] += len(text.spans) - len(places)
    entities = [text_entity(text.text, *place) for place in places]
    related = _by_pair(text, places, counts)
    number = 0
    for pair in combinations(range(len(places)), 2):
        if pair not in related and (text.text, *(places[position] for position in pair)) in related_anywhere:
            counts["contradicted_pairs"] += 1
            continue
        for triple in sorted(related.get(pair, ())) or [(*pair, NO_RELATION)]:
            row_id = f"{text.text_id}-{number:04d}"
            head, tail = triple[:2] if pair in related or _is_even(row_id) else reversed(pair)
            row = {"id": row_id, "text": text.text, "image": None, "head": entities[head], "tail": entities[tail]}
            yield RawRow({**row, "relation": triple[2]}, text.where)
            number += 1


def _by_pair(
    text: AnnotatedText, places: Sequence[Span], counts: Counter[str]
) -> dict[tuple[int, int], set[tuple[int, int, str]]]:
    """Return the relations by the two positions in `places` that they are between, the smaller one first."""
    related: dict[tuple[int, int], set[tuple[int, int, str]]] = {}
    for first, second, relation in text.relations:
        if not isinstance(relation, str):
            raise TypeError(f"{text.where}: a relation's name must be a string, got {quote(relation)}.")
        head, tail = places.index(text.spans[first]), places.index(text.spans[second])
        if head == tail:
            counts["relations_to_itself"] += 1
            continue
        triples = related.setdefault((min(head, tail), max(head, tail)), set())
        counts["repeated_relations"] += (head, tail, relation) in triples
        triples.add((head, tail, relation))
    return related


def _is_even(row_id: str) -> bool:
    return hashlib.sha256(row_id.encode()).digest()[0] % 2 == 0
