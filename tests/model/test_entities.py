"""Entities, boxes and pairs as callers give them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from roc.messages_roc import shorten
from roc.processing_entities_roc import (
    Entity,
    check_entity,
    check_number_of_regions,
    check_pairs,
    check_span,
    join_words,
)
from roc.processing_roc import _untyped_spans

TEXT = "Ann met Bob"
BOX = (0.0, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    "given",
    [
        {"start": 8, "end": 11, "type": "person", "name": "ignored"},
        (8, 11, "person"),
        [8, 11, "person"],
        (np.int64(8), np.int32(11), "person"),
        Entity(8, 11, "person"),
    ],
)
def test_every_form_of_a_text_entity_is_the_same(given: Any) -> None:
    entity = check_entity(given, TEXT, "here")
    assert entity == Entity(8, 11, "person")
    assert type(entity.start) is int
    assert not entity.is_object


@pytest.mark.parametrize("bbox", [BOX, list(BOX), np.array(BOX)])
def test_an_object_has_a_box_and_no_span(bbox: Any) -> None:
    entity = check_entity({"bbox": bbox, "type": "object"}, TEXT, "here")
    assert entity == Entity(type="object", bbox=BOX)
    assert entity.is_object


def test_a_span_may_end_with_the_text() -> None:
    assert check_entity((8, len(TEXT)), TEXT, "here").end == len(TEXT)


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        ((3, 3), "is empty"),
        ((0, 0), "is empty"),
        ((5, 3), "is reversed"),
        ((8, 12), "lies outside the text"),
        ((-3, 3), "lies outside the text"),
        ((90, 95), "lies outside the text"),
    ],
)
def test_a_span_that_is_none_is_refused(span: tuple[int, int], problem: str) -> None:
    message = f"here: the span {span} {problem}. Spans are half-open character offsets with 0 <= start < end <= 11"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_entity(span, TEXT, "here")


def test_a_span_of_white_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"here: the span \(3, 4\) holds only white space of the text 'Ann met Bob'"):
        check_entity((3, 4), TEXT, "here")


def test_a_span_error_names_its_unit() -> None:
    assert check_span(np.int64(3), 4, 4, "here") == (3, 4)
    with pytest.raises(ValueError, match=r"half-open token offsets with 0 <= start < end <= 4, the number of tokens"):
        check_span(3, 5, 4, "here", unit="token")


@pytest.mark.parametrize(
    ("given", "word"), [("Person", "person"), ("GPE", "location"), ("LOC", "location"), ("", ""), (None, None)]
)
@pytest.mark.parametrize("place", [{"start": 8, "end": 11}, {"bbox": BOX}])
def test_a_tag_is_the_type_that_it_means(place: dict[str, Any], given: str | None, word: str | None) -> None:
    assert check_entity({**place, "type": given}, TEXT, "here").type == word


@pytest.mark.parametrize("given", ["spaceship", "DATE", "persn"])
def test_an_unknown_type_is_refused_with_those_that_are_allowed(given: str) -> None:
    hint = " Did you mean 'person'?" if given == "persn" else ""
    message = f"here: the entity type {given!r} is not known.{hint} Give one of ['person', 'organization', 'location'"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_entity((8, 11, given), TEXT, "here")
    assert check_entity((8, 11, given), TEXT, "here", [given]).type == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Ann", "give a mapping with start and end, or bbox"),
        (7, "give a mapping with start and end, or bbox"),
        ((1,), "give a mapping with start and end, or bbox"),
        ((0, 3, "person", 1), "give a mapping with start and end, or bbox"),
        ({}, "start and end must be integers, or give a bbox; given start=None, end=None"),
        ({"start": 0}, "given start=0, end=None"),
        ((0.0, 3.0), "start and end must be integers"),
        ((False, True), "start and end must be integers"),
        (("0", "3"), "start and end must be integers"),
        ((0, 3, 5), "type must be a string or None; given 5"),
        ((0, 3, 0), "type must be a string or None; given 0"),
    ],
)
def test_what_is_no_entity_is_refused(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"here: .*{re.escape(message)}"):
        check_entity(given, TEXT, "here")


@pytest.mark.parametrize(
    "bbox",
    [
        (0.5, 0.0, 0.2, 1.0),
        (0.0, 0.9, 1.0, 0.1),
        (0.2, 0.2, 0.2, 0.8),
        (0.2, 0.8, 0.4, 0.8),
        (-0.1, 0.0, 0.5, 0.5),
        (0.0, 0.0, 1.01, 0.5),
        (0, 0, 64, 64),
        (math.nan, 0.0, 0.5, 0.5),
        (0.0, 0.0, math.inf, 0.5),
    ],
)
def test_a_box_outside_the_picture_or_without_area_is_refused(bbox: Any) -> None:
    with pytest.raises(ValueError, match=r"here: bbox .* is not a box in the picture.*origin top left"):
        check_entity({"bbox": bbox}, TEXT, "here")


@pytest.mark.parametrize("bbox", [(0, 0, 1), (0, 0, 1, 1, 1), "0011", 5, (None, 0, 1, 1), ("0", 0, 1, 1)])
def test_a_box_that_is_not_four_numbers_is_refused(bbox: Any) -> None:
    with pytest.raises(ValueError, match="here: bbox must be four numbers"):
        check_entity({"bbox": bbox}, TEXT, "here")


def test_an_entity_with_a_span_and_a_box_is_refused() -> None:
    with pytest.raises(ValueError, match="an entity is a span or a box; both were given"):
        check_entity({"start": 0, "end": 3, "bbox": BOX}, TEXT, "here")


def test_only_text_entities_without_a_type_need_one() -> None:
    assert _untyped_spans([Entity(0, 3), Entity(0, 3, ""), Entity(4, 7, "person"), Entity(bbox=BOX)]) == [(0, 3)]


def test_too_many_objects_are_refused() -> None:
    entities = [Entity(0, 3), Entity(bbox=BOX), Entity(bbox=BOX)]
    check_number_of_regions(entities, 2, "here")
    with pytest.raises(ValueError, match="here: 2 objects were given, but max_regions=1"):
        check_number_of_regions(entities, 1, "here")


def test_pairs_default_to_every_ordered_pair() -> None:
    assert check_pairs(None, 3, "here") == ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
    assert check_pairs(None, 1, "here") == ()


def test_pairs_keep_their_order() -> None:
    assert check_pairs([(2, 0), [np.int64(0), 1], (2, 0)], 3, "here") == ((2, 0), (0, 1), (2, 0))


@pytest.mark.parametrize("pair", [(0, 0), (0, 3), (-1, 1), (5, 0)])
def test_a_pair_must_name_two_different_entities(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"here: the pair {pair} must name two different entities out of 3")):
        check_pairs([pair], 3, "here")


@pytest.mark.parametrize("pairs", [[(0,)], [(0, 1, 2)], [("0", "1")], [(0, True)], [0, 1], [None], ["01"]])
def test_what_is_no_pair_is_refused(pairs: Any) -> None:
    with pytest.raises(TypeError, match="here: a pair is \\(head, tail\\)"):
        check_pairs(pairs, 3, "here")


@pytest.mark.parametrize("pairs", ["01", 5, {0: 1}])
def test_pairs_must_be_a_list(pairs: Any) -> None:
    with pytest.raises(TypeError, match="here: pairs must be a list"):
        check_pairs(pairs, 3, "here")


def test_words_are_joined_and_their_offsets_become_characters() -> None:
    text, entities = join_words(
        ["Ann", "met", "Bob", "Ray"], [(0, 1), {"start": 2, "end": 4, "type": "person"}], "here"
    )
    assert text == "Ann met Bob Ray"
    spans = [(entity["start"], entity["end"]) for entity in entities]
    assert [text[start:end] for start, end in spans] == ["Ann", "Bob Ray"]
    assert entities[1]["type"] == "person"


def test_boxes_pass_through_words_unchanged() -> None:
    assert join_words(["Ann"], [{"bbox": BOX}], "here")[1][0]["bbox"] == BOX


@pytest.mark.parametrize("span", [(0, 4), (2, 2), (2, 1), (-1, 2)])
def test_a_span_outside_the_words_is_refused(span: Any) -> None:
    with pytest.raises(ValueError, match=r"here, entity 0: the span .* the number of words"):
        join_words(["Ann", "met", "Bob"], [span], "here")


@pytest.mark.parametrize("span", [(None, 1), ("0", "1")])
def test_a_span_of_words_has_two_numbers(span: Any) -> None:
    with pytest.raises(TypeError, match=r"here, entity 0: start and end must be integers"):
        join_words(["Ann", "met", "Bob"], [span], "here")


@pytest.mark.parametrize("words", ["Ann met Bob", ["Ann", 3], 5])
def test_words_must_be_a_list_of_strings(words: Any) -> None:
    with pytest.raises(TypeError, match="a text is a list of words"):
        join_words(words, [], "here")


def test_long_texts_are_shortened_in_messages() -> None:
    assert shorten("x" * 60) == "x" * 60
    assert shorten("x" * 61) == "x" * 57 + "..."
