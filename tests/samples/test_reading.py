"""Rows that a model cannot read are found before the first step, one by one, and left out or refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import picture_bytes, tiny_picture, tiny_processor
from tiny_runs import NAMES, arguments, error_of, main, write_inputs, write_lines
from tiny_samples import ROWS, grouped, row

import roc.score
from roc.dataset_scripts.schema import object_entity
from roc.evaluation.predictions import Predictions, score_predictions
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples, UnreadableRow
from roc.samples.reading import count_unreadable, leave_out_unreadable, settle_unreadable

RED = picture_bytes(tiny_picture("red"))
GIF = picture_bytes(tiny_picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 24), "blue")])
FAR = "ann met bob " + "in paris " * 30 + "and eve"


def with_object(row_id: str, left: float, text: str = "bob met eve today") -> dict[str, Any]:
    made = row(row_id, text, "bob", "thing", NAMES[3], RED)
    return made | {"tail": object_entity("thing", [left, 0.1, 0.9, 0.9])}


def of_type(row_id: str, text: str, kind: str) -> dict[str, Any]:
    made = row(row_id, text, "bob", "eve", NAMES[0])
    return made | {"head": made["head"] | {"type": kind}}


# the rows that are to be left out, and others of the same text that are not
UNREADABLE: dict[str, tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "far": (
        "entities too far apart for max_length",
        [row("far", FAR, "ann", "eve", NAMES[0]), row("far2", FAR, "eve", "bob", NAMES[0])],
        [row("near", FAR, "ann", "bob", NAMES[1]), row("near2", FAR, "bob", "ann", NAMES[1])],
    ),
    "many objects": (
        "more objects than max_regions",
        [with_object(f"o{number}", number / 10) for number in range(4)],
        [with_object(f"p{number}", number / 10, "bob met ann today") for number in range(3)],
    ),
    "no picture": (
        "a picture that cannot be opened",
        [row(name, f"{name} met eve", name, "eve", NAMES[0], b"GIF89a") for name in ("bob", "ann")],
        [row("whole", "bob met eve", "bob", "eve", NAMES[0], RED)],
    ),
    "several frames": ("a picture that cannot be opened", [row("gif", "bob met eve", "bob", "eve", NAMES[0], GIF)], []),
    "a type of another model": (
        "refused by the processor",
        [of_type("dog", "bob saw eve and ann", "animal")],
        [row("typed", "bob saw eve and ann", "eve", "ann", NAMES[0])],
    ),
}


def content(samples: GroupedSamples) -> list[Any]:
    return [
        (own.text, own.entities, own.pairs, own.relations, own.row_ids, own.image_digest) for own in samples.samples
    ]


@pytest.mark.parametrize("markers", ["entities", "pair"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_left_is_as_if_the_unreadable_rows_had_never_been_there(kind: str, markers: str) -> None:
    reason, bad, good = UNREADABLE[kind]
    processor = tiny_processor(markers, max_length=32, max_regions=3)
    samples, expected = grouped([*ROWS, *bad[:1], *good, *bad[1:]]), grouped([*ROWS, *good])
    leave_out_unreadable(samples, processor)
    assert content(samples) == content(expected)
    assert sorted(own.row_id for own in samples.unreadable) == sorted(own["id"] for own in bad)
    assert count_unreadable(samples) == {reason: len(bad)}
    assert [own.relation for own in samples.unreadable] == [own["relation"] for own in bad]
    row_ids, _ = SampleCollator(processor, NAMES)([samples[number] for number in range(len(samples))])
    assert len(row_ids) == samples.num_pairs


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_error_counts_them_names_them_and_says_what_to_do(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    reason, bad, _ = UNREADABLE[kind]
    samples, sound = grouped([*ROWS, *bad]), grouped(ROWS)
    for own in (samples, sound):
        leave_out_unreadable(own, tiny_processor(max_length=32, max_regions=3))
    summary = f"{len(bad)} of {len(ROWS) + len(bad)} rows of validation ({len(bad)} {reason})"
    with pytest.raises(ValueError) as caught:
        settle_unreadable({"training": sound, "validation": samples}, "stop")
    for part in (summary, repr(bad[0]["id"]), "--unreadable_rows skip", "max_length"):
        assert part in str(caught.value)
    assert "training (" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        settle_unreadable({"training": sound, "validation": samples}, "skip")
    assert summary in caplog.text


def test_a_split_of_which_nothing_can_be_read_stops_the_run_in_any_case() -> None:
    samples = grouped(UNREADABLE["far"][1])
    leave_out_unreadable(samples, tiny_processor(max_length=32))
    with pytest.raises(ValueError, match="No row is left of training"):
        settle_unreadable({"training": samples}, "skip")
    with pytest.raises(ValueError, match="'stop' or 'skip'"):
        settle_unreadable({"training": grouped(ROWS)}, "no")  # type: ignore[arg-type]


def test_pictures_that_a_run_does_not_look_at_are_not_opened() -> None:
    samples = grouped([*ROWS, *UNREADABLE["no picture"][1]], use_image=False)
    leave_out_unreadable(samples, tiny_processor(max_length=32, vision=False))
    assert samples.unreadable == []


def test_an_unreadable_row_counts_as_not_found() -> None:
    unreadable = [UnreadableRow("3", "a", "far", ""), UnreadableRow("4", "none", "far", "")]
    predictions = Predictions(["1", "2"], ["a", "none"], ["a", "none"], None, unreadable)  # type: ignore[arg-type]
    scores = score_predictions(predictions, "none")
    assert (scores["n"], scores["num_skipped"], scores["precision"], scores["recall"]) == (4, 2, 1, 0.5)
    assert "num_skipped" not in score_predictions(Predictions(["1"], ["a"], ["a"], None), "none")  # type: ignore[arg-type]


# --- the programs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of which one training row and two validation rows are too long for 48 tokens."""
    folder = write_inputs(tmp_path_factory.mktemp("unreadable"))
    for split, names in {"train": ["far"], "val": ["far1", "far2"]}.items():
        path = folder / "data" / f"{split}.jsonl"
        pair = {"head": {"start": 0, "end": 3}, "tail": {"start": len(FAR) - 3, "end": len(FAR)}}
        lines = [{"id": name, "text": FAR, **pair, "relation": NAMES[1]} for name in names]
        write_lines(path, [*map(json.loads, path.read_text(encoding="utf-8").splitlines()), *lines])
    return folder


@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize("dry", [False, True])
def test_no_step_is_done_on_data_of_which_a_row_cannot_be_read(
    dry: bool, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[Any] = []
    step: Callable[..., float] = lambda learner, batches: steps.append(batches) or 0.0  # noqa: E731
    more = ["--dry_run"] if dry else []
    given = arguments(inputs, tmp_path / "model", *more, max_length=48)
    assert main(given, step=step) == 1
    message = error_of(capsys)
    assert "1 of 25 rows of training" in message
    assert "2 of " in message
    assert "row 'far'" in message
    assert len(steps) == 0
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("fresh_state")
def test_a_run_that_leaves_rows_out_says_so_and_scores_them_as_not_found(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    assert main(arguments(inputs, folder, max_length=48, unreadable_rows="skip", num_epochs=1)) == 0
    printed = json.loads(capsys.readouterr().out)["val"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    reason = "entities too far apart for max_length"
    assert metrics["unreadable_rows"] == {"train": {reason: 1}, "val": {reason: 2}}
    assert printed["num_skipped"] == 2
    split = ["--model", str(folder), "--dataset", "jsonl", "--data_dir", str(inputs / "data"), "--split", "val"]
    file = tmp_path / "predictions.jsonl"
    assert roc.score.main([*split, "--predictions", str(file)]) == 0  # as the run did
    scored = json.loads(capsys.readouterr().out)
    assert {key: scored[key] for key in printed} == pytest.approx(printed)
    rows = [*map(json.loads, file.read_text(encoding="utf-8").splitlines())]
    assert len(rows) == scored["n"]
    assert [own["id"] for own in rows if own["predicted"] is None] == ["far1", "far2"]
    assert roc.score.main([*split, "--unreadable_rows", "stop"]) == 1
    assert "2 of " in error_of(capsys)
