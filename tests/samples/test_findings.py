"""What a dry run asks a person to look at."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import RELATIONS, picture_bytes, tiny_picture
from tiny_samples import NAMES, grouped

from roc.dataset_scripts.schema import object_entity, text_entity
from roc.samples.findings import list_findings

BALL = object_entity("ball", [0.1, 0.2, 0.5, 0.9])


def row(row_id: str, text: str, head: Any, tail: Any, relation: int, picture: bytes | None = None) -> dict[str, Any]:
    def entity(given: Any) -> Any:
        return text_entity(text, text.index(given), text.index(given) + len(given)) if isinstance(given, str) else given

    image = None if picture is None else {"bytes": picture, "path": None}
    both = {"head": entity(head), "tail": entity(tail)}
    return {"id": row_id, "text": text, "image": image, **both, "relation": NAMES[relation]}


SOUND = [row(f"s{number}", f"ann met bob {number}", "ann", "bob", number) for number in range(len(NAMES))]


def found(about: str, train: Any = SOUND, val: Any = (), relations: Any = RELATIONS) -> list[str]:
    """The entries of the one finding that is about this; all others have none."""
    samples = (grouped(rows).samples if rows else [] for rows in (train, val))
    entries = {what: own for what, own in list_findings(*samples, relations) if own}
    assert all(about in what for what in entries), entries
    return [entry for own in entries.values() for entry in own]


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("the postman met bob", "man", "'man' in 'the postman met bob'"),
        ("annabel met bob", "ann", "'ann' in 'annabel met bob'"),
        ("born in 1990 bob", "199", "'199' in 'born in 1990 bob'"),
        ("Zoë met bob", "Zo", "'Zo' in 'Zoë met bob'"),
        ("Анна met bob", "Анн", "'Анн' in 'Анна met bob'"),
        ("रमेश met bob", "रम", "'रम' in 'रमेश met bob'"),
        ("see ann_lee bob", "ann", None),
        ("#ann met bob", "ann", None),
        ("ann's bob", "ann", None),
        ("U.S. met bob", "U.S.", None),
        ("安娜在柏林 bob", "柏林", None),
        ("철수는 bob", "철수", None),
        ("アンナさん bob", "アンナ", None),
    ],
)
def test_a_span_that_begins_or_ends_within_a_word_is_listed(text: str, name: str, shown: str | None) -> None:
    expected = [] if shown is None else [f"x: {shown}"]
    assert found("within a word", [*SOUND, row("x", text, name, "bob", 0)]) == expected


def test_a_pair_with_two_relations_is_listed_whichever_split_states_it() -> None:
    red, blue = (picture_bytes(tiny_picture(colour)) for colour in ("red", "blue"))
    rows = [row("a", "bob met eve", "bob", "eve", 1), row("b", "bob met eve", "bob", "eve", 2)]
    assert found("several relations", [*SOUND, *rows]) == [f"'bob', 'eve': {NAMES[1]!r} in a, {NAMES[2]!r} in b"]
    objects = [row(name, "bob met eve", "bob", BALL, number, red) for number, name in enumerate("abc")]
    assert len(found("several relations", [*SOUND, *objects])) == 1
    other_way = [row("a", "bob met eve", "bob", "eve", 1), row("b", "bob met eve", "eve", "bob", 2)]
    assert found("several relations", [*SOUND, *other_way]) == []
    other_picture = [row("a", "bob met eve", "bob", "eve", 1, red), row("b", "bob met eve", "bob", "eve", 2, blue)]
    assert found("several relations", [*SOUND, *other_picture]) == []
    samples = [grouped([*SOUND, rows[0]]).samples, grouped([rows[1]]).samples]
    findings = dict(list_findings(*samples, RELATIONS))
    assert sum(len(own) for what, own in findings.items() if "several relations, of" in what) == 1


def test_equal_descriptions_of_several_relations_are_listed() -> None:
    twin = {"name": "twin", "descriptions": [" The  head LOVES the tail "]}
    own = {"name": "own", "descriptions": ["the same twice", "the same twice"]}
    rows = [
        *SOUND,
        *({**row(name, f"bob met eve {name}", "bob", "eve", 0), "relation": name} for name in ("twin", "own")),
    ]
    assert found("descriptions", rows, relations=[*RELATIONS, twin, own]) == [
        "/per/per/couple, twin: the head loves the tail"
    ]


def test_a_single_relation_is_told_whether_described_or_only_shown() -> None:
    one = [row("a", "ann met bob", "ann", "bob", 1), row("b", "ann met bob today", "ann", "bob", 1)]
    assert found("all training pairs", one, relations=RELATIONS[1:2]) == [NAMES[1]]


@pytest.mark.parametrize("name", ["no", "null", "1", "2024-01-01", "On", "~", "1.5", "#x", "a: b", "[a", "*a", "x "])
def test_names_that_yaml_reads_as_something_else_are_listed(name: str) -> None:
    relations = [{**RELATIONS[1], "name": name}, *RELATIONS[2:]]
    rows = [{**own, "relation": name if own["relation"] in NAMES[:2] else own["relation"]} for own in SOUND]
    assert found("quotes", rows, relations=relations) == [name]


@pytest.mark.parametrize("name", ["None", "leads", "/per/per/couple", "born in", "a:b", "no relation", "é"])
def test_names_that_yaml_reads_as_they_are_are_not_listed(name: str) -> None:
    relations = [{**RELATIONS[1], "name": name}, *RELATIONS[2:]]
    rows = [{**own, "relation": name if own["relation"] in NAMES[:2] else own["relation"]} for own in SOUND]
    assert found("quotes", rows, relations=relations) == []
