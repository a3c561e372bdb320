"""What gives the relation away is found, and nothing else is."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roc.dataset_scripts.auditing.audit import Audit, Finding, audit_rows, types_in_label
from roc.dataset_scripts.auditing.duplicates import near_text
from roc.dataset_scripts.auditing.lookup import Score, bin_numbers, encode, score_answers, score_lookup, wilson
from roc.dataset_scripts.auditing.report import plot_audit, sentence, to_markdown, write_report
from roc.dataset_scripts.auditing.rows import AuditedRow, group_rows, load_audited_rows
from roc.dataset_scripts.auditing.side_inputs import read_side_inputs
from roc.dataset_scripts.leak_audit import _parser, _side_input_files, main
from roc.dataset_scripts.scenes import build_scenes
from roc.dataset_scripts.schema import object_entity, text_entity
from roc.dataset_scripts.synthetic import build_synthetic

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 600
RELATIONS = ["None"] * 60 + ["/per/per/peer"] * 25 + ["/per/org/member_of"] * 15
SIZES = [(640, 480), (480, 640), (500, 500)]
Rows = list[AuditedRow]
SideInputs = list[list[str]]
Planted = tuple[Rows, Sequence[Sized] | None]


def letters(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("bcdfghklmnprstvz", k=length))


def clean_rows(seed: int = 0, number: int = NUM_ROWS) -> Rows:
    """Rows whose relation is drawn by itself: two thirds to train on, each with a text and a picture of its own."""
    rng = random.Random(seed)
    rows = []
    for place in range(number):
        names = [letters(rng, rng.randint(3, 12)) for _ in range(2)]
        text = f"{names[0]} {letters(rng, rng.randint(1, 60))} {names[1]}"
        spans = [(0, len(names[0])), (len(text) - len(names[1]), len(text))]
        rng.shuffle(spans)
        types = [rng.choice(["person", "organization", None]) for _ in range(2)]
        head, tail = (text_entity(text, *span, entity_type=own) for span, own in zip(spans, types))
        split, index = ("train", place) if place < number * 2 // 3 else ("val", place - number * 2 // 3)
        picture = f"{rng.choice(['web', 'phone'])}_{rng.randrange(10**6)}_{place}.jpg"
        rows.append(
            AuditedRow(
                split,
                index,
                f"row-{rng.randrange(10**6)}-{place}",
                text,
                head,
                tail,
                rng.choice(RELATIONS),
                picture,
                picture,
                rng.choice(SIZES),
            )
        )
    return rows


def clean_crops(rows: Rows, seed: int = 0) -> SideInputs:
    rng = random.Random(seed)
    return [[f"crop_{rng.randrange(10**4)}_{n}.png" for n in range(rng.randint(1, 4))] for _ in rows]


def finding(audit: Audit, probe: str, tells: str) -> Finding:
    [found] = [own for own in audit.findings if (own.probe, own.tells) == (probe, tells)]
    return found


def shuffled(rows: Rows, seed: int = 0) -> Rows:
    relations = [row.relation for row in rows]
    random.Random(seed).shuffle(relations)
    return [replace(row, relation=relation) for row, relation in zip(rows, relations)]


def is_none(row: AuditedRow) -> bool:
    return row.relation == "None"


def crops(make: Callable[[AuditedRow, int], list[str]]) -> Callable[[Rows], Planted]:
    return lambda rows: (rows, [make(row, number) for number, row in enumerate(rows)])


def changed(make: Callable[[AuditedRow, int], dict[str, Any]]) -> Callable[[Rows], Planted]:
    return lambda rows: ([replace(row, **make(row, number)) for number, row in enumerate(rows)], None)


def with_types(row: AuditedRow, head: str | None, tail: str | None) -> dict[str, Any]:
    return {"head": row.head | {"type": head}, "tail": row.tail | {"type": tail}}


def in_order(row: AuditedRow, *, head_first: bool) -> dict[str, Any]:
    first, second = sorted([row.head, row.tail], key=lambda own: own["start"])
    return {"head": first, "tail": second} if head_first else {"head": second, "tail": first}


def stretched(row: AuditedRow, role: str) -> dict[str, Any]:
    """One name is long where there is a relation."""
    text = ("short" if is_none(row) else "very long name of one") + " " + row.text
    moved = {own: text_entity(text, len(text) - 3, len(text)) for own in ("head", "tail")}
    moved[role] = text_entity(text, 0, 5 if is_none(row) else 21)
    return {"text": text, **moved}


def boxed(row: AuditedRow, role: str, side: float) -> dict[str, Any]:
    return {role: object_entity("thing", (0.0, 0.0, side, side))}


def sorted_rows(rows: Rows) -> Planted:
    found: Rows = []
    for split in ("train", "val"):
        own = sorted((row for row in rows if row.split == split), key=lambda row: row.relation)
        found += [replace(row, index=number) for number, row in enumerate(own)]
    return found, None


def many_pairs(rows: Rows) -> Planted:
    """A text with a relation has one pair, one without has three."""
    found = [row for row in rows if not is_none(row)]
    for row in rows:
        if is_none(row):
            found += [replace(row, row_id=f"{row.row_id}-{n}", tail=text_entity(row.text, n, n + 2)) for n in range(3)]
    return found, None


def many_boxes(rows: Rows) -> Planted:
    found = []
    for row in rows:
        for n in range(2):
            box = (0.0, 0.0, 0.5 if is_none(row) else 0.3 + 0.2 * n, 0.5)
            found.append(replace(row, row_id=f"{row.row_id}-{n}", tail=object_entity("thing", box)))
    return found, None


def copied(**kept: bool) -> Callable[[Rows], Planted]:
    """Rows to validate repeat a row to train on: its relation, and with it what is kept."""

    def plant(rows: Rows) -> Planted:
        train = [row for row in rows if row.split == "train"]
        found = list(train)
        for number, row in enumerate(row for row in rows if row.split == "val"):
            source, text = train[number], train[number].text
            if not kept.get("text"):
                names = source.head["name"], source.tail["name"]
                text = row.text + " " + " ".join(names)
                places = len(row.text) + 1, len(text) - len(names[1])
                head, tail = (text_entity(text, at, at + len(name)) for at, name in zip(places, names))
            else:
                text = f"RT @someone : {source.text} !" if kept.get("near") else source.text
                shift = text.index(source.text)
                head, tail = (
                    text_entity(text, own["start"] + shift, own["end"] + shift) for own in (source.head, source.tail)
                )
                if not kept.get("pair"):
                    head = text_entity(text, head["start"], head["start"] + 1)
            found.append(replace(row, text=text, head=head, tail=tail, relation=source.relation))
        return found, None

    return plant


def a_label_word(row: AuditedRow, number: int) -> str:
    return f"{number}_{'peer' if row.relation.endswith('peer') else 'thing'}.png"


LEAKS: list[tuple[str, str, str, Callable[[Rows], Planted]]] = [
    ("number of side inputs", "none or not", "LEAKS", crops(lambda row, _: ["a"] * (2 + 2 * (not is_none(row))))),
    (
        "number of side inputs",
        "relation",
        "LEAKS",
        crops(lambda row, _: ["a"] * (1 + row.relation.endswith("peer"))),
    ),
    ("side inputs given", "none or not", "LEAKS", crops(lambda row, _: ["a"] * (not is_none(row)))),
    ("slot 3 of side inputs", "none or not", "LEAKS", crops(lambda row, _: ["a"] * (2 + (not is_none(row))))),
    (
        "words in side input names",
        "none or not",
        "LEAKS",
        crops(lambda row, n: [f"{n}_{'full' if is_none(row) else 'face'}.png"]),
    ),
    ("label words in side input names", "relation", "LEAKS", crops(lambda row, n: [a_label_word(row, n)])),
    (
        "prefix of side input names",
        "none or not",
        "LEAKS",
        crops(lambda row, n: [f"{'neg' if is_none(row) else 'pos'}{n}"]),
    ),
    (
        "first number in side input names",
        "none or not",
        "LEAKS",
        crops(lambda row, n: [f"crop_{n + 10**6 * is_none(row)}_{n * 7919 % 101}"]),
    ),
    (
        "last number in side input names",
        "none or not",
        "LEAKS",
        crops(lambda row, n: [f"crop_{n * 7919 % 101}_{n + 10**6 * is_none(row)}"]),
    ),
    (
        "picture given",
        "none or not",
        "LEAKS",
        changed(lambda row, n: dict.fromkeys(("picture", "picture_name", "picture_size")) if is_none(row) else {}),
    ),
    ("picture size", "none or not", "LEAKS", changed(lambda row, n: {"picture_size": SIZES[is_none(row)]})),
    (
        "words in picture names",
        "none or not",
        "LEAKS",
        changed(lambda row, n: {"picture_name": f"{n}_{'stock' if is_none(row) else 'news'}.jpg"}),
    ),
    (
        "label words in picture names",
        "relation",
        "LEAKS",
        changed(lambda row, n: {"picture_name": a_label_word(row, n)}),
    ),
    (
        "first number in picture names",
        "none or not",
        "LEAKS",
        changed(lambda row, n: {"picture_name": f"{n + 1000 * is_none(row)}.jpg"}),
    ),
    (
        "types given",
        "none or not",
        "LEAKS",
        changed(lambda row, n: with_types(row, None if is_none(row) else "person", "person")),
    ),
    ("row number", "relation", "LEAKS", sorted_rows),
    ("row number", "none or not", "LEAKS", sorted_rows),
    (
        "form of the id",
        "none or not",
        "LEAKS",
        changed(lambda row, n: {"row_id": f"{'neg' if is_none(row) else 'pos'}-{n}"}),
    ),
    (
        "number in the id",
        "none or not",
        "LEAKS",
        changed(lambda row, n: {"row_id": f"row-{n + 10**5 * is_none(row)}"}),
    ),
    (
        "order of head and tail",
        "none or not",
        "LEAKS",
        changed(lambda row, n: in_order(row, head_first=is_none(row) or n % 4 == 0)),
    ),
    (
        "order of head and tail",
        "relation",
        "cue",
        changed(lambda row, n: in_order(row, head_first=not row.relation.endswith("peer"))),
    ),
    ("kind of pair", "none or not", "cue", changed(lambda row, n: boxed(row, "tail", 0.5) if is_none(row) else {})),
    ("text length", "none or not", "cue", changed(lambda row, n: {"text": row.text + " and more" * 20 * is_none(row)})),
    ("head length", "none or not", "cue", changed(lambda row, n: stretched(row, "head"))),
    ("tail length", "none or not", "cue", changed(lambda row, n: stretched(row, "tail"))),
    (
        "size of the head's box",
        "none or not",
        "cue",
        changed(lambda row, n: boxed(row, "head", 0.2 + 0.6 * is_none(row) + n * 1e-4)),
    ),
    (
        "size of the tail's box",
        "relation",
        "cue",
        changed(lambda row, n: boxed(row, "tail", 0.2 + 0.6 * row.relation.endswith("peer") + n * 1e-4)),
    ),
    ("number of boxes", "none or not", "cue", many_boxes),
    ("pairs of a text", "none or not", "cue", many_pairs),
    ("text in train", "relation", "LEAKS", copied(text=True)),
    ("near text in train", "relation", "LEAKS", copied(text=True, near=True)),
    ("text and pair in train", "relation", "LEAKS", copied(text=True, pair=True)),
    ("pair in train", "relation", "cue", copied()),
]


@pytest.mark.parametrize(("probe", "tells", "verdict", "plant"), LEAKS, ids=[f"{own[0]}, {own[1]}" for own in LEAKS])
def test_a_probe_finds_its_planted_leak_and_is_quiet_without_it(
    probe: str, tells: str, verdict: str, plant: Callable[[Rows], Planted]
) -> None:
    rows, side_inputs = plant(clean_rows())
    audit = audit_rows(rows, side_inputs=side_inputs)
    found = finding(audit, probe, tells)
    assert found.verdict == verdict
    assert found in audit.found(found.verdict)
    assert found.score.low > found.score.baseline
    asked = "the relation" if tells == "relation" else "whether there is a relation"
    assert sentence(found).startswith(f"{found.what[0].upper()}{found.what[1:]} tells {asked} in ")

    without = audit_rows(shuffled(rows), side_inputs=side_inputs)
    quiet = finding(without, probe, tells)
    assert quiet.verdict == "clean"
    assert quiet.score.gain < 0.02


def test_types_that_agree_with_the_label_more_often_than_a_tagger_could_leak() -> None:
    def typed(rows: Rows, wrong: float) -> Rows:
        rng = random.Random(0)
        found = []
        for row in rows:
            stated = [own if rng.random() >= wrong else "location" for own in types_in_label(row.relation)]
            found.append(replace(row, **with_types(row, *(own or "person" for own in stated))))
        return found

    rows = clean_rows()
    found = finding(audit_rows(typed(rows, 0.0)), "types of the label", "type in the label")
    assert (found.verdict, found.score.accuracy) == ("LEAKS", 1.0)
    assert found.score.num_rows == 2 * sum(not is_none(row) for row in rows)
    tagged = finding(audit_rows(typed(rows, 0.1)), "types of the label", "type in the label")
    assert tagged.verdict == "clean"
    assert 0.85 < tagged.score.accuracy < 0.95


def test_few_types_that_agree_are_no_proof() -> None:
    rows = clean_rows(number=60)
    rows = [replace(row, **with_types(row, *(own or "person" for own in types_in_label(row.relation)))) for row in rows]
    found = finding(audit_rows(rows), "types of the label", "type in the label")
    assert (found.verdict, found.score.accuracy) == ("clean", 1.0)


@pytest.mark.parametrize(
    ("label", "types"),
    [
        ("/per/org/member_of", ("person", "organization")),
        ("org:members", ("organization", None)),
        ("/misc/misc/part_of", ("miscellaneous", "miscellaneous")),
        ("place of birth", (None, None)),
        ("None", (None, None)),
        ("other", (None, None)),
    ],
)
def test_the_types_of_a_label_are_those_before_its_own_name(label: str, types: tuple[Any, Any]) -> None:
    assert types_in_label(label) == types


@pytest.mark.parametrize("seed", range(3))
def test_clean_rows_alarm_no_probe_and_are_told_as_well_as_by_the_most_frequent_answer(seed: int) -> None:
    rows = clean_rows(seed)
    audit = audit_rows(rows, side_inputs=clean_crops(rows, seed))
    assert [own.probe for own in audit.findings if own.verdict != "clean"] == []
    assert len(audit.findings) > 35
    gains = {own.probe: own.score.gain for own in audit.findings if own.tells != "type in the label"}
    assert {probe: gain for probe, gain in gains.items() if abs(gain) > 0.02} == {}
    assert all(own.score.low <= own.score.accuracy <= own.score.high for own in audit.findings)
    assert "**No leak was found.**" in to_markdown(audit, title="clean", command="audit")


def test_a_rare_leak_that_never_changes_the_most_frequent_answer_is_found() -> None:
    """Nine rows of ten are "none", and a crop more makes a relation likelier, but never likelier than not."""
    rng = random.Random(0)
    rows = [replace(row, relation=rng.choices(["None", "peer"], [9, 1])[0]) for row in clean_rows(number=3000)]
    found = finding(
        audit_rows(rows, side_inputs=[["a"] * (3 if not is_none(row) else rng.choice([2, 2, 3])) for row in rows]),
        "number of side inputs",
        "none or not",
    )
    assert found.score.gain == 0
    assert found.score.balanced_accuracy is not None
    assert 0.75 < found.score.balanced_accuracy < 0.9
    assert found.verdict == "LEAKS"


def test_rows_of_one_text_or_picture_stay_together_even_by_way_of_others() -> None:
    rows = clean_rows(number=60)
    rows[1] = replace(rows[1], text=rows[0].text)
    rows[2] = replace(rows[2], picture=rows[1].picture)
    what, groups = group_rows(rows)
    assert what == "text or picture"
    assert groups[:3] == [0, 0, 0]
    assert sorted(set(groups)) == list(range(58))
    same_picture = [replace(row, picture="a.jpg") for row in rows]
    assert group_rows(same_picture)[0] == "text"
    assert group_rows([replace(row, text="a picture") for row in rows])[0] == "picture"


def test_a_text_that_is_learnt_by_heart_gains_nothing() -> None:
    """Each text has one relation and three crops of its own: a lookup that saw other rows of it would be right."""
    rng = random.Random(0)
    rows, values = [], []
    for number in range(60):
        relation = rng.choice(["None", "peer"])
        rows += [replace(row, text=f"text {number}", relation=relation) for row in clean_rows(number=10)]
        values += [number] * 10
    answers, groups = encode(row.relation for row in rows), np.array(values)
    score = score_lookup(groups, answers, groups)
    assert abs(score.gain) < 0.02
    by_row = score_lookup(groups, answers, np.arange(len(rows)))
    assert by_row.accuracy > 0.6
    assert by_row.p_value < 1e-3


def test_scores_in_closed_form() -> None:
    answers, given = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    score = score_answers(given, answers, np.arange(4), weighed=given, asked=1)
    assert (score.accuracy, score.baseline, score.gain, score.errors_removed) == (0.75, 0.75, 0, 0)
    assert (score.precision, score.recall) == (0.5, 1.0)
    assert score.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert score.p_value == 0.5  # one group gains, one loses
    assert (score.low, score.high) == pytest.approx(wilson(0.75, 4))
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson's table
    assert Score(4, 1.0, 1.0, 1.0, baseline=0.6, p_value=0.0).errors_removed == pytest.approx(1.0)


def test_rows_of_one_group_count_as_one_row_for_the_confidence() -> None:
    given, answers = encode([0, 0, 1, 1] * 10), encode([0, 1, 1, 0] * 10)
    alone = score_answers(given, answers, np.arange(40))
    together = score_answers(np.repeat(given, 5), np.repeat(answers, 5), np.repeat(np.arange(40), 5))
    assert (alone.low, alone.high, alone.p_value) == pytest.approx((together.low, together.high, together.p_value))


def test_numbers_are_put_into_bins_of_like_size_or_left_as_they_are() -> None:
    assert bin_numbers([1, 2, None, 2]) == [1, 2, None, 2]
    bins = bin_numbers([*range(1000), None])
    assert bins[-1] is None
    assert np.bincount(np.array(bins[:-1], dtype=int)).tolist() == [50] * 20


def test_copies_of_a_post_have_one_near_text() -> None:
    posts = ["RT @Ann : Bob, 3 cats https://t.co/a1", "Bob 4 Cats !", "@ Ann bob : cats https : / / t.co/xyz"]
    assert {near_text(post) for post in posts} == {"bob cats"}
    assert near_text("!!!") == "!!!"


def test_repeated_and_contradictory_rows_are_counted() -> None:
    rows = clean_rows()
    rows.append(replace(rows[0], row_id="again"))
    rows.append(replace(rows[1], row_id="other", relation="/per/org/leads"))
    rows.append(replace(rows[2], row_id="turned", head=rows[2].tail, tail=rows[2].head, relation="/per/org/leads"))
    repeats = audit_rows(rows).repeats
    assert repeats == {
        "repeated_rows": 2,
        "contradictory_pairs": 1,
        "contradictory_rows": 2,
        "first_contradiction": [rows[1].row_id, "other"],
    }


def test_what_other_splits_share_with_train_is_told_even_where_it_leaks_nothing() -> None:
    rows = clean_rows()
    rows[-1] = replace(rows[-1], text=rows[0].text, head=rows[0].head, tail=rows[0].tail)
    audit = audit_rows(rows)
    own = finding(audit, "text and pair in train", "relation")
    assert (own.verdict, own.extra) == ("clean", "1 of the 200 rows of the other splits have such a training row.")
    assert "1 of the 200 rows" in to_markdown(audit, title="one", command="audit")


@pytest.mark.parametrize("none_relation", ["peer", "Nothing"])
def test_a_none_relation_that_no_row_has_is_refused(none_relation: str) -> None:
    with pytest.raises(ValueError, match="must be the relation of some, not all"):
        audit_rows(clean_rows(), none_relation=none_relation)


def test_data_with_one_relation_or_few_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two relations"):
        audit_rows([replace(row, relation="peer") for row in clean_rows()])
    with pytest.raises(ValueError, match="share too few texts and pictures"):
        audit_rows(clean_rows(number=9))
    with pytest.raises(ValueError, match="share too few texts and pictures"):
        audit_rows([replace(row, text="a picture", picture="a.jpg") for row in clean_rows()])


def test_without_a_none_relation_the_relation_alone_is_probed() -> None:
    rows = [replace(row, relation=row.relation.replace("None", "/per/loc/born_in")) for row in clean_rows()]
    audit = audit_rows(rows)
    assert audit.none_relation is None
    assert {own.tells for own in audit.findings} == {"relation", "type in the label"}
    assert audit_rows(rows, none_relation="/per/per/peer").none_relation == "/per/per/peer"


# ---------------------------------------------------------------------------------------------------------------------
# Side inputs


class TouchesAFile:
    """A pickle that runs code when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", [lambda row: row.index, lambda row: row.row_id, lambda row: row.picture_name])
@pytest.mark.parametrize("ending", ["pth", "json"])
def test_side_inputs_are_found_by_number_id_or_picture(
    tmp_path: Path, key: Callable[[AuditedRow], Any], ending: str
) -> None:
    rows = [row for row in clean_rows(number=30) if row.split == "train"]
    content = {key(row): ["a.png"] * (row.index % 3) for row in rows if row.index}
    path = tmp_path / f"crops.{ending}"
    if ending == "pth":
        torch.save(content, path)
    else:
        path.write_text(json.dumps(content))
    assert [len(own) for own in read_side_inputs(path, rows)] == [0, *(row.index % 3 for row in rows[1:])]


def test_side_inputs_are_anything_with_a_length(tmp_path: Path) -> None:
    rows = clean_rows(number=6)[:4]
    torch.save({0: torch.zeros(3, 2), 1: {"a": 1}, 2: None, 3: "ab"}, tmp_path / "a.pth")
    assert [len(own) for own in read_side_inputs(tmp_path / "a.pth", rows)] == [3, 1, 0, 2]


def test_side_inputs_of_another_split_are_refused(tmp_path: Path) -> None:
    torch.save({number: ["a.png"] for number in range(101)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"has the key '60', but the 60 rows of the split have the numbers 0 to 59"):
        read_side_inputs(tmp_path / "a.pth", clean_rows(number=90)[:60])


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({0: TouchesAFile(tmp_path / "touched")}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="cannot be read as plain data"):
        read_side_inputs(tmp_path / "a.pth", clean_rows())
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a mapping"),
        ({}, "must hold a mapping"),
        ({0: 3}, "a list, or something else with a length, got 3"),
        ({0: torch.tensor(1.0)}, "with a length"),
        ({0.5: []}, "a key must be the number of a row"),
        ({True: []}, "a key must be the number of a row"),
    ],
)
def test_other_side_inputs_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        read_side_inputs(tmp_path / "a.pth", clean_rows())


def test_side_inputs_that_are_missing_or_no_such_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--side_inputs SPLIT=FILE"):
        read_side_inputs(tmp_path / "a.pth", clean_rows())
    for name in ("a.pth", "a.json"):
        for content in (b"", b"not a pickle"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                read_side_inputs(tmp_path / name, clean_rows())


# ---------------------------------------------------------------------------------------------------------------------
# Data sets, and the command


def test_the_generated_sets_do_not_leak(tmp_path: Path) -> None:
    build_synthetic(tmp_path / "synthetic", num_train=100, num_val=20, num_test=20)
    build_scenes(tmp_path / "scenes", num_train=96, num_val=48, num_test=48)
    for name in ("synthetic", "scenes"):
        rows = load_audited_rows(name, tmp_path / name)
        assert {row.split for row in rows} == {"train", "val", "test"}
        assert all(row.picture_size is not None for row in rows)
        audit = audit_rows(rows)
        assert [own.probe for own in audit.findings if own.verdict != "clean"] == []
        assert {own.probe: own.score.gain for own in audit.findings if abs(own.score.gain) > 0.02} == {}


def write_lines(folder: Path, split: str, number: int, *, leak: bool) -> None:
    rng = random.Random(split)
    lines = []
    for place in range(number):
        relation = rng.choice(["None", "knows"])
        picture = f"{'neg' if leak and relation == 'None' else 'pos'}_{place}.png"
        if place < 3:
            Image.new("RGB", (30 + place, 20)).save(folder / picture)
        head, tail = ({"start": at, "end": at + 3} for at in (0, 8))
        line = {"text": f"Ann met Bob {split} {place}", "image": picture, "head": head, "tail": tail}
        lines.append(json.dumps(line | {"relation": relation}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines))


def test_the_command_audits_json_lines_and_writes_json_a_table_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        write_lines(tmp_path / "data", split, 100, leak=True)
    arguments = ["--dataset", "jsonl", "--data_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["verdict"], result["rows"], result["none_relation"]) == ("LEAKS", {"train": 100, "val": 100}, "None")
    assert any("picture file name" in own for own in result["leaks"])
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert written["probes"] == result["probes"]
    table = (tmp_path / "out" / "audit.md").read_text()
    assert "| prefix of picture names | none or not | **LEAKS** | 100.0 |" in table
    assert f"roc.dataset_scripts.leak_audit --dataset jsonl --data_dir {tmp_path / 'data'}" in table
    with Image.open(tmp_path / "out" / "audit.png") as plot:
        assert plot.format == "PNG"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.json", "audit.md", "audit.png"]


def test_the_command_reads_side_inputs_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path, "train", 100, leak=False)
    write_lines(tmp_path, "val", 100, leak=False)
    relations = [json.loads(line)["relation"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    crops = {number: ["a"] * (2 + (relation != "None")) for number, relation in enumerate(relations)}
    (tmp_path / "crops.json").write_text(json.dumps(crops))
    data = ["--dataset", "jsonl", "--data_dir", str(tmp_path)]
    assert main([*data, "--splits", "train", "--side_inputs", f"train={tmp_path / 'crops.json'}"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {own["probe"] for own in result["probes"] if own["verdict"] == "LEAKS"} == {
        "number of side inputs",
        "slot 3 of side inputs",
    }
    for given, message in {
        f"train={tmp_path / 'crops.json'}": "audited splits are ['train', 'val']",
        "dev=a.pth": "--side_inputs takes SPLIT=FILE",
        "a.pth": "--side_inputs takes SPLIT=FILE",
    }.items():
        assert main([*data, "--side_inputs", given]) == 1
        assert message in capsys.readouterr().err
    dropped = [*data, "--missing_images", "skip", "--side_inputs", "train=a", "val=b"]
    assert main(dropped) == 1
    assert "Rows without their picture were dropped" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"There is no dataset 'jsnl'.*Did you mean 'jsonl'"):
        load_audited_rows("jsnl", tmp_path)


def test_the_commands_of_the_documents_are_options_that_there_are() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("docs/honest_mnre.md", "RESULTS.md"))
    found = re.findall(r"^python -m roc\.dataset_scripts\.leak_audit (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    assert len(found) == 4
    for command in found:
        options = _parser().parse_args(shlex.split(command.replace("SPLITS", "train val")))
        assert set(_side_input_files(options.side_inputs)) <= {"train", "val"}


def test_the_plot_has_a_bar_and_a_baseline_for_each_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from roc.dataset_scripts.auditing import report

    drawn: list[Any] = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.append(figure))
    rows = clean_rows()
    audit = audit_rows(rows, side_inputs=[["a"] * (2 + is_none(row)) for row in rows])
    plot_audit(audit, tmp_path / "a.png", title="a $title$")
    [figure] = drawn
    bars = [patch for axes in figure.axes for patch in axes.patches if patch.get_gid() == "bar"]
    lines = [line for axes in figure.axes for line in axes.lines if line.get_gid() == "baseline"]
    assert len(bars) == len(lines) == len(audit.findings)
    by_color: dict[Any, list[float]] = {}
    for bar in bars:
        by_color.setdefault(bar.get_facecolor(), []).append(bar.get_width())
    assert sorted(map(len, by_color.values())) == [4, len(bars) - 4]  # number and slot, for both questions
    leaks = sorted(100 * own.score.accuracy for own in audit.found("LEAKS"))
    assert sorted(min(by_color.values(), key=len)) == pytest.approx(leaks)
    with pytest.raises(ValueError, match=r"ends in \.png"):
        plot_audit(audit, tmp_path / "a.pdf", title="a")


def test_nothing_is_left_behind_where_nothing_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roc.dataset_scripts.auditing import report

    def fail(*_: Any, **__: Any) -> None:
        raise ImportError("Drawings need matplotlib")

    monkeypatch.setattr(report, "new_figure", fail)
    with pytest.raises(ImportError):
        write_report(audit_rows(clean_rows()), tmp_path / "out", title="a", command="b")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# MNRE, where it is present


@pytest.fixture(scope="module")
def mnre(roc_data: Path) -> tuple[Rows, list[Sized]]:
    rows = load_audited_rows("mnre", roc_data / "mnre", splits=["train", "val"])
    objects = {"train": "mre_train_dict.pth", "val": "mre_dev_dict.pth"}
    side_inputs: list[Sized] = []
    for split, name in objects.items():
        own = [row for row in rows if row.split == split]
        side_inputs += read_side_inputs(roc_data / "mnre" / "leaky_objects" / name, own)
    return rows, side_inputs


@pytest.mark.slow
def test_the_crops_in_circulation_with_mnre_leak(mnre: tuple[Rows, list[Sized]]) -> None:
    rows, side_inputs = mnre
    audit = audit_rows(rows, side_inputs=side_inputs)
    slot = finding(audit, "slot 3 of side inputs", "none or not")
    assert slot.verdict == "LEAKS"
    assert slot.score.accuracy >= 0.99
    assert slot.score.precision is not None
    assert slot.score.precision > 0.985
    assert slot.score.recall == 1.0
    number = finding(audit, "number of side inputs", "relation")
    assert number.score.gain > 0.1
    leaks = {own.probe for own in audit.found("LEAKS")}
    assert leaks == {
        *("number of side inputs", "slot 3 of side inputs", "slot 4 of side inputs", "order of head and tail"),
    }


@pytest.mark.slow
def test_mnre_with_its_relations_shuffled_alarms_no_probe(mnre: tuple[Rows, list[Sized]]) -> None:
    rows, side_inputs = mnre
    audit = audit_rows(shuffled(rows), side_inputs=side_inputs)
    assert [own.probe for own in audit.findings if own.verdict != "clean"] == []
    assert {own.probe: own.score.gain for own in audit.findings if abs(own.score.gain) > 0.02} == {}
