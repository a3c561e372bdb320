"""Rows for the leak audit: clean ones, and means to plant leaks in them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from typing import Any

from roc.dataset_scripts.auditing.audit import Audit, Finding
from roc.dataset_scripts.auditing.rows import AuditedRow
from roc.dataset_scripts.schema import object_entity, text_entity

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
