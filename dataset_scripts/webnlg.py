"""WebNLG: texts that people wrote for triples of DBpedia, 211 relations; text only, for evaluation.

Reads `train.json`, `val.json` and `test.json` in the form that is usual for extraction: a list of
`{"text": ..., "triple_list": [[head, relation, tail], ...]}`, whose heads and tails are names without a place. A name
is looked for as whole words; a place within that of a longer name of the same text does not count (`Adams County` in
`Adams County , Pennsylvania`). A triple is left out, and counted, where a name has no place or several, or where head
and tail are one. The files have cut some names (`Peter` for `Peter Stoger`); spans cover what they have.

Two entities with one place each and no triple are a row with the relation `none`: each text was written to say its
triples and nothing else, so most such pairs are related by nothing but a third entity. Some do hold by what the others
say (a city lies in the country of its region), so that a little of what counts as wrongly found is right.

Source: Gardent et al., "Creating Training Corpora for NLG Micro-Planners", ACL 2017, https://webnlg-challenge.loria.fr;
the form with triples is that of Zeng et al., "Extracting Relational Facts by an End-to-End Neural Model with Copy
Mechanism", ACL 2018.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.annotated_texts import LEFT_OUT, AnnotatedText, AnnotatedTextsBuilder
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.raw_files import find_files, read_list
from roc.dataset_scripts.schema import SPLITS, check_keys
from roc.messages_roc import quote
from roc.processing_names_roc import MAX_NAME_CHARACTERS, SearchedText
from roc.processing_typing_roc import Span

KEYS = ("text", "triple_list")


class WebnlgBuilder(AnnotatedTextsBuilder):
    """Builds WebNLG from its raw files."""

    NAME = "webnlg"
    TITLE = "WebNLG"
    LICENSE = "cc-by-nc-sa-4.0"
    DESCRIPTION = """English texts that people wrote for triples of DBpedia, without pictures, from the files of
[WebNLG](https://webnlg-challenge.loria.fr) (Gardent et al., "Creating Training Corpora for NLG Micro-Planners", ACL
2017) in the form that is usual for extraction. Triples whose entities have no place in the text, or several, are left
out. Two entities without a triple are a row with the relation `none`; some of them are related by what follows from the
other triples."""
    LICENSE_NOTE = "By the authors of WebNLG: Gardent et al. (2017). Not for commercial use."
    LEFT_OUT = LEFT_OUT | {
        "triples_not_found": "triples with a name that has no place of its own in the text",
        "triples_ambiguous": "triples with a name that has several places",
    }

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the file of each split."""
        return find_files(self.raw_dir, {split: f"{split}.json" for split in SPLITS})

    def read_texts(self, split: str) -> Iterator[AnnotatedText]:
        """Read the texts of one split, in the order of the file; `ValueError` if the file holds no list."""
        [path] = self.split_files[split]
        for number, data in enumerate(read_list(path, "texts with triples")):
            where = f"{path.name}: text {number}"
            text, triples = check_text(data, where)
            places = find_places(text, [name for head, _, tail in triples for name in (head, tail)])
            found = [name for name, own in places.items() if len(own) == 1]
            relations = []
            for head, relation, tail in triples:
                if head in found and tail in found:
                    relations.append((found.index(head), found.index(tail), relation))
                else:
                    is_missing = not places[head] or not places[tail]
                    self.split_counts[split]["triples_not_found" if is_missing else "triples_ambiguous"] += 1
            yield AnnotatedText(f"{split}-{number:05d}", text, [places[name][0] for name in found], relations, where)


def check_text(data: Any, where: str) -> tuple[str, list[list[str]]]:
    """Check a text of a raw file, and return it with its triples.

    Raises:
        ValueError: If a key is missing or unknown, a triple has not three parts, or a name is too long to look for.
        TypeError: If a value has the wrong type.
    """
    check_keys(data, KEYS, where=where)
    text, triples = data["text"], data["triple_list"]
    if not isinstance(text, str) or not isinstance(triples, list):
        raise TypeError(
            f"{where}: 'text' must be a string and 'triple_list' a list, got {quote(text)}, {quote(triples)}."
        )
    for number, triple in enumerate(triples):
        if not isinstance(triple, list) or len(triple) != 3 or not all(isinstance(part, str) for part in triple):
            raise ValueError(
                f"{where}: triple {number} must be [head, relation, tail], three strings, got {quote(triple)}."
            )
        if len(longest := max(triple, key=len)) > MAX_NAME_CHARACTERS:
            raise ValueError(
                f"{where}: triple {number} has a part of {len(longest):,} characters, {quote(longest)}; at most "
                f"{MAX_NAME_CHARACTERS} are read."
            )
    return text, triples


def find_places(text: str, names: Sequence[str]) -> dict[str, list[Span]]:
    """Find the places of names that are not within a place of a longer one; a name of signs alone has none.

    Returns:
        Half-open character spans by name, in the order of the names.
    """
    searched = SearchedText(text)
    places = {
        name: list(searched.places(name)) if any(sign.isalnum() for sign in name) else []
        for name in dict.fromkeys(names)
    }
    every = [place for own in places.values() for place in own]
    return {name: [place for place in own if not _is_within_another(place, every)] for name, own in places.items()}


def _is_within_another(place: Span, places: Sequence[Span]) -> bool:
    return any(start <= place[0] and place[1] <= end and (start, end) != place for start, end in places)


if __name__ == "__main__":
    sys.exit(main(WebnlgBuilder))
