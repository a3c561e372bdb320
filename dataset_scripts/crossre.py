"""CrossRE: 17 relations between the entities of sentences from six domains; text only.

Reads the published files `{domain}-{train,dev,test}.json`. A line is one sentence:
`{"doc_key": ..., "sentence": [token, ...], "ner": [[first, last, type], ...], "relations": [[first, last, first, last,
relation, explanation, uncertain, syntax ambiguity], ...]}`; the last token of an entity belongs to it, and a relation
lists the tokens of its head before those of its tail. Explanations and the two flags are not read; relations that the
annotators were not certain of are relations. The domains that exist are read, or those that `parts` names.

Source: Bassignana and Plank, "CrossRE: A Cross-Domain Dataset for Relation Extraction", Findings of EMNLP 2022,
https://github.com/mainlp/CrossRE.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.annotated_texts import AnnotatedText, AnnotatedTextsBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.raw_files import check_tokens, parse_object, read_lines, token_offsets
from roc.dataset_scripts.schema import check_keys
from roc.messages_roc import quote
from roc.processing_entities_roc import check_span, is_int
from roc.processing_typing_roc import Span

logger = logging.getLogger("roc.dataset_scripts.crossre")

DOMAINS = ("ai", "literature", "music", "news", "politics", "science")
RAW_SPLITS = {"train": "train", "val": "dev", "test": "test"}
KEYS = ("doc_key", "sentence", "ner", "relations")
RELATION_LENGTH = 8  # four positions, relation, explanation, uncertain, syntax ambiguity


class CrossreBuilder(AnnotatedTextsBuilder):
    """Builds CrossRE from its raw files."""

    NAME = "crossre"
    TITLE = "CrossRE"
    LICENSE = "gpl-3.0"
    DESCRIPTION = """Relations between the entities of English sentences from six domains (artificial intelligence,
literature, music, news, politics, natural science), without pictures, from the raw files of
[CrossRE](https://github.com/mainlp/CrossRE) (Bassignana and Plank, Findings of EMNLP 2022). Two entities that the
annotators did not relate are a row with the relation `none`; the types of entities are left out."""
    LICENSE_NOTE = "As the repository of CrossRE states it; news come from Reuters, the other domains from Wikipedia."
    PARTS = DOMAINS

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the files of each split: of the domains that are asked for, those that exist."""
        found = {split: [path for _, path in self._files(split) if path.is_file()] for split in RAW_SPLITS}
        return {split: paths for split, paths in found.items() if paths}

    def read_texts(self, split: str) -> Iterator[AnnotatedText]:
        """Read the sentences of one split, domain by domain.

        Raises:
            FileNotFoundError: If a domain that was asked for by name lacks the split.
        """
        missing = [path.name for _, path in self._files(split) if not path.is_file()]
        if missing and self.parts is not None:
            raise FileNotFoundError(
                f"{self.raw_dir} has no {missing[0]}, which parts={self.parts} and the split {split!r} ask for. Put it "
                "there, or name other parts or splits."
            )
        if missing:
            logger.warning(
                "%s has no %s: the split %r is of the other domains.", self.raw_dir, ", ".join(missing), split
            )
        for domain, path in self._files(split):
            for number, where, line in read_lines(path) if path.is_file() else ():
                yield parse_sentence(line, f"{split}-{domain}-{number:04d}", where=where)

    def _files(self, split: str) -> list[tuple[str, Path]]:
        return [(domain, self.raw_dir / f"{domain}-{RAW_SPLITS[split]}.json") for domain in self.parts or DOMAINS]


def parse_sentence(line: str, text_id: str, *, where: str) -> AnnotatedText:
    """Parse one line of a raw file.

    Args:
        line: The JSON text.
        text_id: What the ids of its rows begin with.
        where: `file:line`, put in front of every error.

    Raises:
        ValueError: If the line is not JSON, has unknown or missing keys, a span outside its tokens, or a relation of
            what is no entity.
        TypeError: If a value has the wrong type.
    """
    data = parse_object(line, where)
    check_keys(data, KEYS, where=where)
    tokens = data["sentence"]
    check_tokens(tokens, where)
    for key in ("ner", "relations"):
        if not isinstance(data[key], list):
            raise TypeError(f"{where}: {key!r} must be a list, got {quote(data[key])}.")
    spans = [_span(entity, 3, len(tokens), f"{where}: entity {i}") for i, entity in enumerate(data["ner"])]
    relations = [
        _relation(relation, spans, len(tokens), f"{where}: relation {i}")
        for i, relation in enumerate(data["relations"])
    ]
    offsets = token_offsets(tokens)
    places = [(offsets[first][0], offsets[end - 1][1]) for first, end in spans]
    return AnnotatedText(text_id, " ".join(tokens), places, relations, where)


def _span(raw: Any, length: int, num_tokens: int, where: str, *, at: int = 0) -> Span:
    """Return the half-open token span whose first and last token are at `at` in a list."""
    if not isinstance(raw, list) or len(raw) != length:
        raise ValueError(f"{where} must be a list of {length} values, got {quote(raw)}.")
    first, last = raw[at : at + 2]
    return check_span(first, last + 1 if is_int(last) else last, num_tokens, where, unit="token")


def _relation(raw: Any, spans: Sequence[Span], num_tokens: int, where: str) -> tuple[int, int, str]:
    head, tail = (_span(raw, RELATION_LENGTH, num_tokens, where, at=at) for at in (0, 2))
    if missing := [span for span in (head, tail) if span not in spans]:
        first, end = missing[0]
        raise ValueError(f"{where}: the tokens {first} to {end - 1} are no entity of 'ner', where all entities are.")
    return spans.index(head), spans.index(tail), raw[4]


if __name__ == "__main__":
    sys.exit(main(CrossreBuilder))
