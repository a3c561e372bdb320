"""Where a name is in a text: one rule, whoever asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roc.inference.posts import parse_entity
from roc.pipeline_posts_roc import occurrences, read_post

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "space"))  # the app's modules are files of one folder

import visitor


def in_the_pipeline(name: str, text: str) -> Any:
    return read_post({"text": text, "entities": [name]}, None, where="the post").entities[0]


def in_the_space(name: str, text: str) -> Any:
    return visitor.find_entity(name, text, [])


CALLERS = [in_the_pipeline, parse_entity, in_the_space]

# A name, a text, and where the name begins in it
NAMES: list[tuple[str, str, list[int]]] = [
    ("Ann", "Annie met Ann", [10]),
    ("Ann", "Joann, Ann_1 and Ann2", []),
    ("Ann", "Ann's Ann-Ann (Ann)", [0, 6, 10, 15]),
    ("Ann", "#Ann @Ann", [1, 6]),
    ("#Ann", "see #Ann, not #Annie", [4]),
    ("@bob", "RT @bob: hi@bob", [3, 11]),
    ("C++", "in C++, not C", [3]),
    ("C", "in C++, not C", [3, 12]),
    ("C++", "C++11 and C++", [0, 10]),
    ("U.S.", "the U.S. and the U.S.A.", [4, 17]),
    ("S.", "the U.S. and S.", [6, 13]),
    ("20", "in 2020 or 20", [11]),
    ("2020", "2020年 in 12020", [0]),
    ("Ördög", "Ördögök, Ördög", [9]),
    ("鲍勃", "安娜在巴黎见鲍勃吗", [6]),
    ("Ann", "我爱Ann吗", [2]),
    ("🙂", "so🙂🙂", [2, 3]),
    ("aa", "aa aaa a-aa", [0, 9]),
    ("Ann Lee", "Ann Lee-Ann Lees", [0]),
    ("", "Ann", []),
]


@pytest.mark.parametrize(("name", "text", "places"), NAMES)
def test_a_name_is_found_outside_longer_words(name: str, text: str, places: list[int]) -> None:
    assert [*occurrences(name, text)] == places


@pytest.mark.parametrize("find", CALLERS)
@pytest.mark.parametrize(("name", "text", "places"), NAMES)
def test_everybody_finds_the_first_of_them_or_says_so(
    name: str, text: str, places: list[int], find: Callable[[str, str], Any]
) -> None:
    if places:
        assert find(name, text) == {"start": places[0], "end": places[0] + len(name)}
        return
    with pytest.raises(
        ValueError, match=r"does not occur in the text .*, or only inside a longer word\. Give a name as"
    ):
        find(name, text)


@pytest.mark.parametrize(("name", "text", "places"), NAMES)
def test_the_space_finds_each_of_them_by_its_number(name: str, text: str, places: list[int]) -> None:
    for number, start in enumerate(places, 1):
        assert in_the_space(f"{name} #{number}", text)["start"] == start
