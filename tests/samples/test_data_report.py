"""What a dry run tells about the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tiny import RELATIONS, picture_bytes, tiny_picture, tiny_processor
from tiny_samples import grouped

from roc.dataset_scripts.schema import object_entity, text_entity
from roc.samples.batching import SampleCollator
from roc.samples.reading import count_tokens, leave_out_unreadable, settle_unreadable
from roc.samples.report import format_batch, format_report, report_data, report_on_split

NAMES = [relation["name"] for relation in RELATIONS]
RED, BLUE = (picture_bytes(tiny_picture(colour, size=size)) for colour, size in (("red", (40, 24)), ("blue", (8, 8))))
BALL = object_entity("ball", [0.1, 0.2, 0.5, 0.9])
TREE = object_entity("tree", [0.6, 0.0, 1.0, 0.5])
LONG = "ann met bob " + "in paris " * 30 + "and eve"


def row(row_id: str, text: str, head: Any, tail: Any, relation: int, picture: bytes | None = None) -> dict[str, Any]:
    def entity(given: Any) -> Any:
        return text_entity(text, text.index(given), text.index(given) + len(given)) if isinstance(given, str) else given

    image = None if picture is None else {"bytes": picture, "path": None}
    both = {"head": entity(head), "tail": entity(tail)}
    return {"id": row_id, "text": text, "image": image, **both, "relation": NAMES[relation]}


TRAIN = [
    row("a1", "ann kissed bob", "ann", "bob", 1, RED),
    row("a2", "ann kissed bob", "ann", BALL, 3, RED),
    row("a3", "ann kissed bob", BALL, TREE, 0, RED),
    row("b", "eve visits berlin", "eve", "berlin", 0, RED),
    row("c", "bob met eve", "bob", "eve", 0, BLUE),
    row("d", LONG, "ann", "bob", 0),
]
VAL = [row("e", "Ann  kissed BOB", "Ann", "BOB", 1), row("f", "eve met ann", "eve", "ann", 0, BLUE)]


def report(train: Sequence[Any] = TRAIN, val: Sequence[Any] = VAL, **options: Any) -> list[str]:
    processor = tiny_processor(max_length=32)
    splits = [report_on_split(grouped(rows, **options), processor) for rows in (train, val)]
    return format_report(*splits, relations=RELATIONS, max_length=32).splitlines()


def entries(lines: Sequence[str], label: str) -> list[str]:
    """What the table has behind a label."""
    [found] = [line for line in lines if line.startswith(label)]
    return found.removeprefix(label).replace(" x ", "x").split()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("texts  ", ["4", "2"]),
        ("pairs ", ["6", "2"]),
        ("  text-text", ["4", "2"]),
        ("  text-object", ["1", "0"]),
        ("  object-object", ["1", "0"]),
        ("  texts cut off at 32", ["1", "0"]),
        ("texts without a picture", ["1", "1"]),
        ("pictures ", ["2", "1"]),
        ("  shown with several texts", ["1", "0"]),
        ("  pixels, smallest", ["8x8", "8x8"]),
        ("  pixels, median", ["8x8", "8x8"]),
        ("  pixels, largest", ["40x24", "8x8"]),
        ("None", ["4", "1"]),
        ("/per/per/couple", ["1", "1"]),
        ("/per/loc/place_of_birth", ["0", "0"]),
        ("/per/misc/holds", ["1", "0"]),
    ],
)
def test_the_tables_count_both_splits(label: str, expected: list[str]) -> None:
    lines = [line for line in report() if not line.startswith("pairs of")]
    assert entries(lines, label) == expected


def test_the_longest_texts_come_first_with_the_length_that_they_would_have_uncut() -> None:
    lines = report()
    first = lines[lines.index("the longest texts of training:") + 1]
    assert first.startswith("    71 tokens, d: ann met bob in paris")


def test_what_should_be_looked_at_is_listed_with_its_rows() -> None:
    text = "\n".join(report())
    assert "check: 1 training texts are longer than max_length=32 and are cut off\n    d\n" in text
    assert "check: 1 relations have no pair in training" in text
    assert "    /per/loc/place_of_birth\n" in text
    assert "check: 1 validation texts are in training too" in text  # but for spaces and capital letters
    assert "    e\ncheck: 1 validation texts show a picture that training texts show\n    f" in text


def test_a_long_list_is_shortened() -> None:
    rows = [row(f"r{number}", f"ann met bob {number}", "ann", "bob", 1) for number in range(8)]
    text = "\n".join(report(rows, rows))
    assert "check: 8 validation texts are in training too" in text
    assert "    r4\n    and 3 more" in text
    assert "    r5" not in text


def test_nothing_to_look_at_is_not_mentioned() -> None:
    rows = [row(str(number), f"ann met bob {number}", "ann", "bob", number) for number in range(4)]
    assert "check" not in "\n".join(report(rows, [row("v", "eve met ann", "eve", "ann", 0)]))


def test_pictures_that_the_run_does_not_read_are_counted_but_not_opened() -> None:
    broken = [row("a", "ann met bob", "ann", "bob", 0, b"no picture")]
    lines = report(broken, VAL, use_image=False)
    assert entries(lines, "pictures ") == ["1", "1"]
    assert entries(lines, "  pixels") == ["not", "read", "not", "read"]


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_tokens_are_counted_as_the_processor_gives_them(markers: str) -> None:
    samples = grouped(TRAIN)
    processor = tiny_processor(markers, max_length=128)
    counted = count_tokens(samples, processor)
    for sample, count in zip(samples.samples, counted, strict=True):
        batch = processor([sample.text], entities=[sample.entities], pairs=[sample.pairs], pictures_left_out=True)
        assert count == batch["attention_mask"].sum(dim=-1).max()
    assert processor.max_length == 128


def test_rows_that_cannot_be_read_stop_the_run_after_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    far = [row(name, f"{name} {LONG}", "ann", "eve", 0) for name in ("far", "farther")]
    train, val, processor = grouped([*TRAIN, *far]), grouped(VAL), tiny_processor(max_length=32)
    leave_out_unreadable(train, processor)
    message = (
        r"2 of 8 rows of training \(2 entities too far apart .*row 'far': .* row 'farther': .*--unreadable_rows skip"
    )
    report_data(train, val, processor, RELATIONS)
    with pytest.raises(ValueError, match=message):
        settle_unreadable({"training": train, "validation": val}, "stop")
    printed = capsys.readouterr().err
    assert "the longest texts of training" in printed
    assert "check: 2 training rows cannot be read by this model" in printed
    assert "    far: entities too far apart for max_length\n" in printed


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_a_batch_is_shown_as_the_model_reads_it(markers: str) -> None:
    samples = grouped(TRAIN[:4])
    processor = tiny_processor(markers)
    row_ids, batch = SampleCollator(processor, NAMES)([samples[0], samples[1]])
    shown = format_batch(row_ids, batch, samples=samples.samples, processor=processor, relations=NAMES).splitlines()
    opening, closing = ("[ENT]", "[/ENT]") if markers == "entities" else ("[HEAD]", "[/HEAD]")
    assert shown[1].split()[:4] == ["[CLS]", opening, "ann", closing]
    assert shown[1].endswith("[picture]")
    pairs = [line.strip() for line in shown if line.startswith("        ")]
    assert pairs == [
        "a1: 'ann', 'bob': /per/per/couple",
        "a2: 'ann', 'ball' at [0.1, 0.2, 0.5, 0.9]: /per/misc/holds",
        "a3: 'ball' at [0.1, 0.2, 0.5, 0.9], 'tree' at [0.6, 0.0, 1.0, 0.5]: None",
        "b: 'eve', 'berlin': None",
    ]


def test_of_a_large_batch_the_first_texts_are_shown() -> None:
    samples = grouped([row(str(number), f"ann met bob {number}", "ann", "bob", 0) for number in range(7)])
    processor = tiny_processor()
    row_ids, batch = SampleCollator(processor, NAMES)([samples[number] for number in range(7)])
    shown = format_batch(row_ids, batch, samples=samples.samples, processor=processor, relations=NAMES)
    assert shown.count("[CLS]") == 5
    assert shown.endswith("    and 2 more")
