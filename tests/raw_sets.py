"""Tiny sets in the published raw formats, written for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import torch

MNRE_TOKENS = ["RT", "@zoë", ":", "Bill", "Cosby", "in", "Bremen"]
MORE_TOKENS = ["Italy", "Storms", "Back", "Into", "the", "World", "Cup", "in", "Zürich"]

# Boxes (cx, cy, w, h) by object by picture.
MORE_OBJECTS: dict[str, dict[str, Any]] = {
    "a.jpg": {"[OBJ0]": (0.25, 0.5, 0.3, 0.6), "[OBJ1]": (0.75, 0.4, 0.4, 0.4)},
    "b.jpg": {"[OBJ0]": (0.5, 0.5, 1.0, 1.0)},
}

# The labels by the types of head and tail; the table in which the paper lists them.
MORE_RELATIONS = {
    "per/per": ["opponent", "partner", "relatives", "alternate_names"],
    "per/org": ["opposed_to", "leader_of", "member_of"],
    "per/loc": ["place_of_birth", "place_of_residence", "place_of_governance"],
    "per/misc": ["present_in", "awarded", "party", "nationality", "president"],
    "org/org": ["alternate_names", "subsidiary"],
    "org/loc": ["locate_at"],
    "org/misc": ["present_in"],
    "loc/loc": ["contain"],
}
MORE_LABELS = ["none", *(f"/{types}/{name}" for types, names in MORE_RELATIONS.items() for name in names)]

# One line, sentence or text of each set without pictures.
FEWREL_LINE: dict[str, Any] = {"relation": "P26", "text": "marie wed pierre .", "head": [0, 5], "tail": [10, 16]}

CROSSRE_SENTENCE: dict[str, Any] = {
    "doc_key": "ai-train-1",
    "sentence": ["Ada", "Byron", "used", "Lisp", "in", "Rome"],
    "ner": [[3, 3, "programlang"], [0, 1, "researcher"], [5, 5, "location"]],
    "relations": [[0, 1, 3, 3, "usage", "", False, False], [0, 1, 3, 3, "related-to", "x", True, False]],
}

SEMEVAL_SENTENCE: dict[str, Any] = {
    "token": ["the", "storm", "broke", "roof", "tiles", "."],
    "h": {"name": "storm", "pos": [1, 2]},
    "t": {"name": "roof tiles", "pos": [3, 5]},
    "relation": "Cause-Effect(e1,e2)",
}

JOINT_TOKENS = ["Ann", "Lee", "of", "Acme", "met", "Bob"]
JOINT_ENTITIES = [{"type": "Org", "start": 3, "end": 4}, {"type": "Peop", "start": 0, "end": 2}]
JOINT_TAGS = ["B-Peop", "L-Peop", "O", "U-Org", "O", "U-Peop"]
JOINT_LISTED: dict[str, Any] = {
    "tokens": JOINT_TOKENS,
    "entities": JOINT_ENTITIES,
    "relations": [{"type": "Work_For", "head": 1, "tail": 0}],
    "orig_id": 7,
}
JOINT_TAGGED: dict[str, Any] = {
    "tokens": JOINT_TOKENS,
    "tags": JOINT_TAGS,
    "relations": [{"type": "Work_For", "head": 0, "tail": 1}],
    "orig_id": "a",
}

WEBNLG_TEXT = "Turmania lies in Upper Asparia , near Zet . The capital of Asparia is Zet ."
WEBNLG_TRIPLES = [
    ["Turmania", "isPartOf", "Upper Asparia"],
    ["Asparia", "region", "Upper Asparia"],
    ["Asparia", "capital", "Zet"],
    ["Turmania", "near", "Zett"],
    ["Turmania", "is", "Turmania"],
    ["Turmania", "abbreviation", "."],
]


def mnre_instance(**changes: Any) -> dict[str, Any]:
    made = {
        "token": MNRE_TOKENS,
        "h": {"name": "Bremen", "pos": [6, 7]},
        "t": {"name": "Bill Cosby", "pos": [3, 5]},
        "img_id": "a.jpg",
        "relation": "/per/loc/place_of_residence",
    }
    return made | changes


def more_instance(name: str = "[OBJ0]", **changes: Any) -> dict[str, Any]:
    """An instance about an object; its box is that of the picture where there is one."""
    made: dict[str, Any] = {
        "token": MORE_TOKENS,
        "h": {"name": "World Cup", "pos": [5, 7]},
        "img_id": "a.jpg",
        "relation": "/per/misc/present_in",
    } | changes
    box = MORE_OBJECTS.get(made["img_id"], {}).get(name, (0.5, 0.5, 0.2, 0.2))
    return {"t": {"name": name, "box": box}} | made


def write_instances(path: Path, instances: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{made!r}\n" for made in instances), encoding="utf-8")


def write_picture(path: Path, *, width: int = 60, boxes: Sequence[Sequence[float]] = ()) -> None:
    """Noise, 40 pixels high, with a filled rectangle for each box (cx, cy, w, h)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.effect_noise((width, 40), 90).convert("RGB")
    draw = PIL.ImageDraw.Draw(picture)
    for (cx, cy, w, h), colour in zip(boxes, ("red", "blue", "green")):
        sides = ((cx - w / 2) * width, (cy - h / 2) * 40, (cx + w / 2) * width - 1, (cy + h / 2) * 40 - 1)
        draw.rectangle(sides, fill=colour)
    picture.save(path)


def write_more(folder: Path, *, objects: Mapping[str, Mapping[str, Any]] = MORE_OBJECTS) -> None:
    """Two splits of MORE: to train on two pairs of one title and picture and one of another, to validate one."""
    train = [more_instance(), more_instance("[OBJ1]", relation="none"), more_instance(img_id="b.jpg")]
    for split, instances in {"train": train, "valid": [more_instance("[OBJ1]")]}.items():
        write_instances(folder / "txt" / f"{split}.txt", instances)
        torch.save({image: dict(boxes) for image, boxes in objects.items()}, folder / f"ent_{split}_dict.pth")
        for image, boxes in objects.items():
            write_picture(folder / "img_org" / split / image, boxes=[*boxes.values()])
    labels = {label: number for number, label in enumerate(MORE_LABELS)}
    (folder / "rel2id.json").write_text(json.dumps(labels), encoding="utf-8")
