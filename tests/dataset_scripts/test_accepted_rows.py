"""What a builder accepts, training accepts: each odd row is refused with its line, read, or counted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import RELATIONS, picture_bytes, tiny_picture, tiny_processor
from tiny_samples import grouped

from roc.dataset_scripts.jsonl import JsonlBuilder
from roc.samples.batching import SampleCollator
from roc.samples.reading import leave_out_unreadable

NAMES = [relation["name"] for relation in RELATIONS]
ANN, BOB = {"start": 0, "end": 3}, {"start": 8, "end": 11}
BOX = {"bbox": [0.1, 0.2, 0.5, 0.9]}
SOUND = {"text": "ann met bob", "head": ANN, "tail": BOB, "relation": NAMES[0]}
PROCESSOR = tiny_processor(max_length=32, max_regions=2, object_names=True)


def box(*sides: Any, **more: Any) -> dict[str, Any]:
    return {"image": "picture.png", "head": {"bbox": [*sides], **more}}


def of_text(text: str) -> dict[str, Any]:
    return {"text": text, "head": {"start": 0, "end": 1}, "tail": {"start": len(text) - 1, "end": len(text)}}


def jpeg_with(exif: bytes) -> bytes:
    return picture_bytes(tiny_picture(), "JPEG", exif=b"Exif\x00\x00" + exif)


REFUSED: dict[str, dict[str, Any]] = {
    # spans
    "empty": {"head": {"start": 0, "end": 0}},
    "reversed": {"head": {"start": 3, "end": 0}},
    "outside": {"head": {"start": 0, "end": 99}},
    "negative": {"head": {"start": -3, "end": 3}},
    "white space": {"head": {"start": 3, "end": 4}},
    "texts": {"head": {"start": "0", "end": "3"}},
    "fractions": {"head": {"start": 0.0, "end": 3.0}},
    "truths": {"head": {"start": False, "end": True}},
    "no end": {"head": {"start": 0}},
    "beyond 64 bits": {"head": {"start": 0, "end": 10**30}},
    "no entity": {"head": {}},
    "a span and a box": {"image": "picture.png", "head": ANN | BOX},
    # boxes
    "no picture": {"head": BOX},
    "inverted": box(0.5, 0.2, 0.1, 0.9),
    "empty box": box(0.1, 0.2, 0.1, 0.9),
    "empty in float32": box(0.1, 0.2, 0.1 + 1e-9, 0.9),
    "empty at the edge in float32": box(1 - 1e-9, 0, 1, 1),
    "empty below float32": box(0, 0, 1e-46, 1),
    "empty where it is moved to the edge": box(1, 0, 1.0000005, 1),
    "beyond the picture": box(0, 0, 1.1, 1),
    "pixels": box(0, 0, 640, 480),
    "not a number": box(float("nan"), 0, 1, 1),
    "infinite": box(0, 0, float("inf"), 1),
    "beyond a float": box(0, 0, 10**400, 1),
    "texts as sides": box("0", "0", "1", "1"),
    "truths as sides": box(False, False, True, True),
    "nulls as sides": box(None, 0, 1, 1),
    "nested": box([0, 0, 1, 1]),
    "three sides": box(0, 0, 1),
    "a box as a mapping": {"image": "picture.png", "head": {"bbox": {"0": 1}}},
    # head and tail
    "one span twice": {"tail": ANN},
    "one span twice in two types": {"head": ANN | {"type": "person"}, "tail": ANN | {"type": "location"}},
    "one box twice": {"image": "picture.png", "head": BOX, "tail": BOX | {"name": "another"}},
    "boxes that are one in float32": box(0.1, 0.2, 0.5, 0.9) | {"tail": {"bbox": [0.1 + 1e-9, 0.2, 0.5, 0.9]}},
    "one entity of a group": {"entities": [ANN, BOB], "relations": [{"head": 1, "tail": 1, "relation": NAMES[0]}]},
    "one entity that a group lists twice": {
        "entities": [ANN, BOB, ANN],
        "relations": [{"head": 0, "tail": 2, "relation": NAMES[0]}],
    },
    # words
    "no text": {"text": ""},
    "blank text": {"text": " \n\t"},
    "a number as text": {"text": 5},
    "a blank relation": {"relation": " "},
    "a truth as relation": {"relation": False},
    "another name": {"head": ANN | {"name": "eve"}},
    "an empty name": box(0, 0, 1, 1, name=""),
    "a number as name": box(0, 0, 1, 1, name=5),
    "an unknown type": {"head": ANN | {"type": "dragon"}},
    "a number as type": {"head": ANN | {"type": 5}},
    "a blank token": {"tokens": ["ann", " ", "bob"], "head": {"start": 1, "end": 2}, "tail": {"start": 2, "end": 3}},
}
READ: dict[str, dict[str, Any]] = {
    "with a space behind it": {"head": {"start": 0, "end": 4}},
    "nested spans": {"head": {"start": 0, "end": 11}},
    "crossing spans": {"head": {"start": 0, "end": 9}, "tail": {"start": 4, "end": 11}},
    "the whole picture": box(0, 0, 1, 1),
    "whole numbers and minus zero": box(-0.0, 0, 1, 1),
    "a little over the edge": box(0, 0, 1.0000005, 1),
    "a little under the edge": box(-5e-7, 0, 0.5, 1),
    "as small as float32 can tell": box(0.5, 0.5, 0.5 + 6e-8, 1),
    "two boxes": box(0.1, 0.2, 0.5, 0.9) | {"tail": {"bbox": [0.1, 0.2, 0.5, 0.8]}},
    "a long name": box(0, 0, 1, 1, name="ann met bob " * 400),
    "a marker as name": box(0, 0, 1, 1, name="[ENT] [/ENT] [SEP]"),
    "a tag as type": {"head": ANN | {"type": "PER"}},
    "an empty type": {"head": ANN | {"type": None}},
    "markers": of_text("[ENT] [SEP] [/ENT]"),
    "without a token": of_text("\u200b\u200b"),
    "control characters": of_text("\x00\x01 ann \x7f\x1b"),
    "combining marks": of_text("e\u0301 met o\u0308"),
    "beyond the basic plane": of_text("\U0001d518 met \U0001f469\u200d\U0001f680"),
    "right to left": of_text("\u05d0 met \u202e\u05d1"),
    "other line ends": of_text("ann\r\nmet\u2028bob\u0085"[:-1]),
    "a line end within a span": {
        "text": "ann\nlee met bob",
        "head": {"start": 0, "end": 7},
        "tail": {"start": 12, "end": 15},
    },
}
COUNTED: dict[str, dict[str, Any]] = {
    "too far apart": of_text("ann " + "met " * 60 + "bob"),
    "too many objects": {
        "image": "picture.png",
        "entities": [ANN, *({"bbox": [0.1 * number, 0, 1, 1]} for number in range(3))],
        "relations": [{"head": 0, "tail": number, "relation": NAMES[0]} for number in (1, 2, 3)],
    },
}
TIFF = io.BytesIO()
Image.new("F", (4, 4), 0.5).save(TIFF, "TIFF")
PICTURES: dict[str, bytes] = {
    **{mode: picture_bytes(Image.new(mode, (5, 3))) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")},
    "CMYK": picture_bytes(Image.new("CMYK", (5, 3)), "JPEG"),
    "one pixel": picture_bytes(Image.new("RGB", (1, 1))),
    "a line": picture_bytes(Image.new("RGB", (1, 3000))),
    "floats": TIFF.getvalue(),
    "empty": b"",
    "text": b"no picture",
    "cut off": picture_bytes(tiny_picture(size=(300, 300)), "JPEG")[:400],
    "frames": picture_bytes(tiny_picture(), "GIF", save_all=True, append_images=[tiny_picture("blue")]),
    "broken orientation": jpeg_with(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc" + bytes(5)),
    "turned, with a broken entry": jpeg_with(
        b"MM\x00*\x00\x00\x00\x08\x00\x02\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
        b"\x82\x98\x00\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"
    ),
    "no orientation at all": jpeg_with(b"MM\x00*\xff\xff\xff\xff"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    tiny_picture().save(folder / "picture.png")
    return folder


def fate(changes: dict[str, Any], folder: Path) -> str:
    """Have a builder read a line, and the processor what it has accepted."""
    line = SOUND | changes
    if "entities" in line:
        line = {key: value for key, value in line.items() if key not in ("head", "tail", "relation")}
    if "tokens" in line:
        del line["text"]
    (folder / "train.jsonl").write_text(f"{json.dumps(SOUND)}\n{json.dumps(line)}\n", encoding="utf-8")
    refusal = None
    try:
        rows = [*JsonlBuilder(folder).rows("train")]
    except (ValueError, TypeError) as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.startswith("train.jsonl:2"), refusal
        return "refused"
    for row in rows:
        row["image"] = row["image"] and {"bytes": None, "path": row["image"]}
    samples = grouped(rows)
    leave_out_unreadable(samples, PROCESSOR)
    row_ids, batch = SampleCollator(PROCESSOR, NAMES)([samples[number] for number in range(len(samples))])
    assert sorted([*row_ids, *(row.row_id for row in samples.unreadable)]) == sorted(row["id"] for row in rows)
    for boxes in batch.get("region_boxes", []):
        assert bool(((boxes[:, 2:] > boxes[:, :2]) | (boxes.sum(-1, keepdim=True) == 0)).all()), "an empty box"
        assert boxes.min() >= 0
        assert boxes.max() <= 1
    return "counted" if samples.unreadable else "read"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(changes, expected, id=f"{expected}: {name}")
        for expected, cases in {"refused": REFUSED, "read": READ, "counted": COUNTED}.items()
        for name, changes in cases.items()
    ],
)
def test_a_row_is_refused_with_its_line_or_read_or_counted(
    changes: dict[str, Any], expected: str, folder: Path
) -> None:
    assert fate(changes, folder) == expected


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_a_builder_accepts_is_opened_in_training(name: str, folder: Path) -> None:
    (folder / "odd").write_bytes(PICTURES[name])
    assert fate({"image": "odd"}, folder) in ("refused", "read")


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_what_is_read_alone_is_read_together(markers: str, folder: Path) -> None:
    """All rows that are read, in one batch, and with them those that are counted."""
    lines = [SOUND | changes for changes in (READ | COUNTED).values() if "entities" not in changes]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rows = [*JsonlBuilder(folder).rows("train")]
    samples = grouped([row | {"image": row["image"] and {"bytes": None, "path": row["image"]}} for row in rows])
    processor = tiny_processor(markers, max_length=32, max_regions=20, object_names=True)
    leave_out_unreadable(samples, processor)
    row_ids, _ = SampleCollator(processor, NAMES)([samples[number] for number in range(len(samples))])
    assert len(row_ids) + len(samples.unreadable) == len(rows)
    assert len(samples.unreadable) == 1
