"""Where a name is in a text: one rule, whoever asks."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from roc.inference.posts import parse_entities
from roc.pipeline_posts_roc import read_post
from roc.processing_names_roc import SearchedText

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "space"))  # the app's modules are files of one folder

import visitor


def in_the_pipeline(names: Sequence[Any], text: str) -> Any:
    return read_post({"text": text, "entities": names}, None, where="the post").entities


def as_head_and_tail(names: Sequence[Any], text: str) -> Any:
    return read_post({"text": text, "head": names[0], "tail": names[-1]}, None, where="the post").entities[: len(names)]


def in_the_space(names: Sequence[str], text: str) -> Any:
    return visitor.find_entities(names, text, [])


CALLERS = [in_the_pipeline, parse_entities, in_the_space]
Find = Callable[[Sequence[Any], str], Any]

# A name, a text, and the places of the name in it
NAMES: list[tuple[str, str, list[tuple[int, int]]]] = [
    ("Ann", "Annie met Ann", [(10, 13)]),
    ("Ann", "Joann, Annie and Ann2", []),
    ("Ann", "Ann's Ann-Ann (Ann)", [(0, 3), (6, 9), (10, 13), (15, 18)]),
    ("art", "a party, state of the art", [(22, 25)]),
    # in tags and handles
    ("Ann", "#Ann @Ann ann_Ann_2", [(1, 4), (6, 9), (14, 17)]),
    ("#Ann", "see #Ann, not #Annie", [(4, 8)]),
    ("@bob", "RT @bob: hi@bob", [(3, 7), (11, 15)]),
    ("Obama", "@BarackObama", []),
    # with signs of their own
    ("C++", "C++11 and C++", [(0, 3), (10, 13)]),
    ("U.S.", "the U.S. and the U.S.A.", [(4, 8)]),
    ("S.", "the U.S. and S.", [(13, 15)]),
    ("Rowling", "by J.K.Rowling.", [(7, 14)]),
    ("AT&T", "AT&T's (AT&T)", [(0, 4), (8, 12)]),
    ("O'Neil", "O'Neil's", [(0, 6)]),
    ("Artagnan", "d’Artagnan", [(2, 10)]),  # noqa: RUF001
    ("Yahoo!", "on Yahoo!", [(3, 9)]),
    (".NET", "the .NET", [(4, 8)]),
    ("$AAPL", "$AAPL,$AAPL2", [(0, 5)]),
    ("Paris", "Paris\u202f!", [(0, 5)]),
    ("Paris", "Paris.London", [(0, 5)]),
    # numbers
    ("20", "in 2020 or 20", [(11, 13)]),
    ("2020", "2020年, ב2020 2020년에 in 12020", [(0, 4), (8, 12), (13, 17)]),
    ("3.5", "13.5 3.55 3.5.1 1,3.5 3.5", [(22, 25)]),
    ("5", "3,5 .5 $.5 x5 5\ufe0f\u20e3 5%", [(18, 19)]),
    ("000", "1\u00a0000 1'000 1_000", []),
    ("2", "1/2 2:30 2-1", [(9, 10)]),
    ("５", "１５ 1５ ５", [(6, 7)]),  # noqa: RUF001
    ("٥", "١٥ ٣٫٥ ٥", [(7, 8)]),  # noqa: RUF001
    ("½", "1½ ½", [(3, 4)]),
    ("三", "三十 三", [(3, 4)]),
    # scripts
    ("Ördög", "Ördögök, Ördög", [(9, 14)]),
    ("鲍勃", "安娜在巴黎见鲍勃吗", [(6, 8)]),
    ("Ann", "我爱Ann吗", [(2, 5)]),
    ("Paris", "Paris에서 ParisのParisへ", [(0, 5), (8, 13), (14, 19)]),
    ("삼성", "삼성의 새 폰, 북삼성", [(0, 2)]),
    ("성", "삼성", []),
    ("ベル", "ノーベル賞のベル", [(6, 8)]),
    ("กรุงเทพ", "ในกรุงเทพมหานคร", [(2, 9)]),
    ("राम", "राम रामायण रामParis", [(0, 3), (11, 14)]),
    ("Paris", "בParis", [(1, 6)]),
    ("🙂", "so🙂🙂", [(2, 3), (3, 4)]),
    ("👩", "👩\u200d👩\u200d👧 👩", [(6, 7)]),
    ("🇧🇦", "🇦🇧🇦🇧 🇧🇦", [(5, 7)]),
    # the same in other characters
    ("Café", "in Cafe\u0301s Cafe\u0301!", [(10, 15)]),
    ("Cafe\u0301", "the Café", [(4, 8)]),
    ("Cafe", "Cafe\u0301", []),
    ("Vi\u1ec7t", "Vi\u00ea\u0323t Nam", [(0, 5)]),
    ("삼성", unicodedata.normalize("NFD", "삼성의"), [(0, 6)]),
    ("Ann Lee", "Ann\u00a0Lee, Ann \n\tLee, Ann\u2009Lee, AnnLee", [(0, 7), (9, 18), (20, 27)]),
    ("Ann\u00a0Lee ", "Ann Lee", [(0, 7)]),
    ("Annabel", "Anna\u00adbel, \u2068Annabel\u2069", [(0, 8), (11, 18)]),
    ("Anna", "Anna\u00adbel", []),
    ("❤", "I ❤\ufe0f you", [(2, 4)]),
    ("Ann", "ANN ann", []),
    ("Ann Lee", "Ann Lee-Ann Lees", [(0, 7)]),
    ("", "Ann", []),
]


@pytest.mark.parametrize(("name", "text", "places"), NAMES)
def test_a_name_is_found_outside_longer_words(name: str, text: str, places: list[tuple[int, int]]) -> None:
    assert [*SearchedText(text).places(name)] == places


@pytest.mark.parametrize("find", [*CALLERS, as_head_and_tail])
@pytest.mark.parametrize(("name", "text", "places"), NAMES)
def test_everybody_finds_the_only_place_or_says_which_there_are(
    name: str, text: str, places: list[tuple[int, int]], find: Find
) -> None:
    wanted = len(places) if find is in_the_pipeline else 2 if find is as_head_and_tail else 1
    if len(places) == wanted:
        assert find([name] * wanted, text) == [{"start": start, "end": end} for start, end in places]
        return
    listed = (rf"{number} at characters {start}-{end} \(.+\)" for number, (start, end) in enumerate(places, 1))
    message = ", ".join(listed) if places else r"in the text .*, or only inside a longer word\."
    with pytest.raises(ValueError, match=message):
        find([name] * max(1, wanted), text)


@pytest.mark.parametrize(("name", "text", "places"), [row for row in NAMES if len(row[2]) > 1])
def test_each_of_several_places_can_be_asked_for(name: str, text: str, places: list[tuple[int, int]]) -> None:
    for number, (start, end) in enumerate(places, 1):
        found = {"start": start, "end": end}
        assert in_the_pipeline([{"name": name, "occurrence": number}], text) == [found]
        assert in_the_pipeline([{"name": name, "occurrence": number, "type": "PER"}], text) == [found | {"type": "PER"}]
        assert parse_entities([f"{name} #{number}"], text) == in_the_space([f"{name} #{number}"], text) == [found]
        assert visitor.name_of_selection(text, start, end) == f"{text[start:end]} #{number}"


def test_a_name_beside_a_numbered_one_has_what_is_left() -> None:
    text, second = "Paris, Paris", {"name": "Paris", "occurrence": 2}
    assert [own["start"] for own in in_the_pipeline([second, "Paris"], text)] == [7, 0]
    assert [own["start"] for own in parse_entities(["Paris #2", "Paris"], text)] == [7, 0]
    composed, decomposed = "Café Cafe\u0301", ["Cafe\u0301", "Café"]
    assert [own["start"] for own in as_head_and_tail(decomposed, composed)] == [0, 5]


@pytest.mark.parametrize(
    ("entities", "error", "message"),
    [
        (["Ann", "Ann"], ValueError, r"entity 0: 'Ann' was given 2 time\(s\), but occurs 1 time"),
        (
            [{"name": "Bob"}],
            ValueError,
            r"such as \{\"name\": 'Bob', \"occurrence\": 7\}, or give a mapping with start",
        ),
        (
            ["Bob"] * 6,
            ValueError,
            r"'Bob' was given 6 time\(s\), but occurs 7 time\(s\): 1 at .* and 2 more\. Say which",
        ),
        ([{"name": "Bob", "occurrence": 8}], ValueError, r"'Bob' has no occurrence 8, but occurs 7"),
        ([{"name": "Ann", "occurrence": 0}], ValueError, "'Ann' has no occurrence 0"),
        ([{"name": "Ann", "occurrence": "1"}], TypeError, "occurrence must be a whole number; given '1'"),
        ([{"name": "Ann", "start": 0, "end": 3, "occurrence": 1}], ValueError, "occurrence=1 goes with a name"),
        ([{"bbox": [0, 0, 1, 1], "occurrence": 1}], ValueError, "occurrence=1 goes with a name"),
        (["a" * 301], ValueError, "a name has at most 300 characters; given 301"),
    ],
)
def test_a_name_that_is_not_clear_is_refused(entities: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        in_the_pipeline(entities, "Ann" + ", Bob" * 7)


def test_a_text_may_have_what_reads_like_a_number_of_a_place() -> None:
    text = "Area #2 is no Area"
    assert parse_entities(["Area #2", "Area #1"], text) == [{"start": 14, "end": 18}, {"start": 0, "end": 4}]
    assert parse_entities(["Area #2 #1"], text) == [{"start": 0, "end": 7}]
    assert parse_entities(["Ward #2"], "in Ward #2") == [{"start": 3, "end": 10}]


def test_selected_characters_that_nobody_sees_are_no_name() -> None:
    with pytest.raises(ValueError, match="Select a name in the text first"):
        visitor.name_of_selection("Ann \u200b\u2060 Bob", 4, 6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "a" * 20_000),
        ("a" * 300, "a" * 20_000),
        ("e", "e" + "\u0301" * 20_000),
        ("a", "a" + "\u0301\u0323" * 20_000),
        ("🇦", "🇦" * 20_000),
        ("a b", "a" + " " * 20_000 + "\u200b" * 20_000),
        ("가", "\u1100" * 20_000),
    ],
)
def test_a_hostile_text_takes_no_longer_than_its_length(name: str, text: str) -> None:
    start = time.perf_counter()
    assert not [*SearchedText(text).places(name)]
    assert time.perf_counter() - start < 2
