"""What gives the relation away: side inputs, the command and its report, generated sets and MNRE."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import pytest
import torch
from audited import Rows, clean_rows, finding, is_none, shuffled
from PIL import Image

from roc.dataset_scripts.auditing.audit import audit_rows
from roc.dataset_scripts.auditing.report import plot_audit, write_report
from roc.dataset_scripts.auditing.rows import AuditedRow, load_audited_rows
from roc.dataset_scripts.auditing.side_inputs import read_side_inputs
from roc.dataset_scripts.leak_audit import _parser, _side_input_files, main
from roc.dataset_scripts.scenes import build_scenes
from roc.dataset_scripts.synthetic import build_synthetic

ROOT = Path(__file__).resolve().parents[2]


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
