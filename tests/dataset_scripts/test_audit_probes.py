"""Each probe of the leak audit finds what was planted for it, and nothing else; its scores in closed form."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from audited import (
    SIZES,
    Planted,
    Rows,
    boxed,
    changed,
    clean_crops,
    clean_rows,
    copied,
    crops,
    finding,
    in_order,
    is_none,
    many_boxes,
    many_pairs,
    shuffled,
    sorted_rows,
    stretched,
    with_types,
)

from roc.dataset_scripts.auditing.audit import audit_rows, types_in_label
from roc.dataset_scripts.auditing.duplicates import near_text
from roc.dataset_scripts.auditing.lookup import Score, bin_numbers, encode, score_answers, score_lookup, wilson
from roc.dataset_scripts.auditing.report import sentence, to_markdown
from roc.dataset_scripts.auditing.rows import AuditedRow, group_rows


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
