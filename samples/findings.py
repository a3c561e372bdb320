"""What a person should look at before a run: faults of the data and of the relations that no check can be sure of."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from roc.messages_roc import shorten
from roc.processing_entities_roc import Entity
from roc.samples.grouping import Sample

Finding = tuple[str, list[str]]  # what was found, behind the number of entries; and these
# scripts that put no space between words, and Hangul, where particles follow a name without one
WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def list_findings(
    train: Sequence[Sample], val: Sequence[Sample], relations: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Give what a person should look at; a finding may have no entry."""
    both = {"training": train, "validation": val}
    pairs = {relation for sample in train for relation in sample.relations}
    yield "relations have no pair in training", [own["name"] for own in relations if own["name"] not in pairs]
    only = [*pairs] if len(pairs) == 1 else []
    yield (
        "relation is that of all training pairs: a model learns nothing from it. Add pairs of another, or of none",
        only,
    )
    for name, samples in both.items():
        what = f"spans of {name} begin or end within a word: are the offsets right?"
        yield what, [line for sample in samples for line in _split_words(sample)]
    what = "pairs have several relations, of which the model can give one: choose one, or merge the relations"
    yield what, [*_contradictions([*train, *val])]
    yield "descriptions are those of several relations, which cannot be told apart", [*_equal_descriptions(relations)]
    what = "relation names are no plain text for YAML: put them in quotes in every YAML file"
    yield what, [own["name"] for own in relations if _is_no_text(own["name"])]
    known = {_normalised(sample.text) for sample in train}
    leaked = [sample.row_ids[0] for sample in val if _normalised(sample.text) in known]
    yield "validation texts are in training too: scores on them say little about new ones", leaked
    pictures = {sample.image_digest for sample in train} - {None}
    shared = [sample.row_ids[0] for sample in val if sample.image_digest in pictures]
    yield "validation texts show a picture that training texts show", shared


def name_of(entity: Entity, sample: Sample) -> str:
    """Return the words of a text entity, or the name and the box of an object."""
    if entity.bbox is None:
        return repr(sample.text[entity.start : entity.end])
    return f"{entity.name or 'object'!r} at {[round(side, 2) for side in entity.bbox]}"


def _split_words(sample: Sample) -> Iterator[str]:
    for entity in sample.entities:
        if entity.start is None or entity.end is None:
            continue
        if _is_within_word(sample.text, entity.start) or _is_within_word(sample.text, entity.end):
            around = sample.text[max(0, entity.start - 12) : entity.end + 12]
            yield f"{sample.row_ids[0]}: {shorten(name_of(entity, sample))} in {shorten(around, 90)!r}"


def _is_within_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and all(map(_is_of_word, text[place - 1 : place + 1]))


def _is_of_word(character: str) -> bool:
    is_of_word = character.isalnum() or unicodedata.category(character).startswith("M")
    return is_of_word and not unicodedata.name(character, "").startswith(WITHOUT_SPACES)


def _contradictions(samples: Sequence[Sample]) -> Iterator[str]:
    """Find pairs of one text and picture that are stated with several relations, be it in several splits."""
    stated: dict[tuple[Any, ...], dict[str, str]] = {}
    for sample in samples:
        for pair, relation, row_id in zip(sample.pairs, sample.relations, sample.row_ids):
            head, tail = (sample.entities[number] for number in pair)
            places = ((own.start, own.end, own.bbox) for own in (head, tail))
            names = f"{shorten(name_of(head, sample))}, {shorten(name_of(tail, sample))}"
            stated.setdefault((sample.text, sample.image_digest, names, *places), {}).setdefault(relation, row_id)
    for (_, _, names, *_), relations in stated.items():
        if len(relations) > 1:
            yield f"{names}: " + ", ".join(f"{relation!r} in {row_id}" for relation, row_id in relations.items())


def _equal_descriptions(relations: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    by_text: dict[str, dict[str, None]] = {}
    for relation in relations:
        for description in relation["descriptions"]:
            by_text.setdefault(_normalised(description), {})[relation["name"]] = None
    for text, names in by_text.items():
        if len(names) > 1:
            yield f"{', '.join(names)}: {shorten(text)}"


def _is_no_text(name: str) -> bool:
    """Whether YAML reads a name without quotes as something else, such as `no`, `null`, `1`, `2024-01-01`, `#tag`."""
    try:
        return yaml.safe_load(f"name: {name}") != {"name": name}
    except (yaml.YAMLError, ValueError, RecursionError):
        return True


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()
