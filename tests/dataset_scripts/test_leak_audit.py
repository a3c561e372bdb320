"""What gives the relation away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from roc.dataset_scripts.leak_audit import audit_visual_objects, main
from roc.dataset_scripts.mnre import find_text_file, read_instances

TEXT = "Ann met Bob"
RELATIONS = ["None"] * 60 + ["peer"] * 40


def write_objects(path: Path, counts: list[int]) -> Path:
    torch.save({index: [f"{index}_{crop}.png" for crop in range(count)] for index, count in enumerate(counts)}, path)
    return path


class TouchesAFile:
    """A pickle that runs code when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_crops_whose_number_tells_none_leak(tmp_path: Path) -> None:
    objects = write_objects(tmp_path / "a.pth", [2] * 60 + [4] * 30 + [2] * 10)
    report = audit_visual_objects(objects, RELATIONS)
    assert (report.leaks, report.verdict) == (True, "LEAKS")
    assert report.majority_rate == 0.6
    assert report.lookup_accuracy == 0.9  # 2 -> None: 60 right; 4 -> peer: 30 right
    assert (report.none_precision, report.none_recall) == (60 / 70, 1.0)
    assert report.none_balanced_accuracy == (1 + 30 / 40) / 2
    assert report.none_rate_by_value == {"2": 60 / 70, "4": 0.0}
    assert report.num_by_value == {"2": 70, "4": 30}


def test_crops_whose_number_is_random_do_not_leak(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 5, (100,), generator=generator).tolist()
    report = audit_visual_objects(write_objects(tmp_path / "a.pth", counts), RELATIONS)
    assert (report.leaks, report.verdict) == (False, "no leak found")
    # The lookup is fitted to the same instances, so it gains a little by chance: the shuffles know.
    assert report.lookup_accuracy >= report.majority_rate
    assert report.p_value > 0.01


def test_an_instance_that_is_not_in_the_file_has_no_crops(tmp_path: Path) -> None:
    torch.save({index: ["a.png"] * 4 for index in range(60, 100)}, tmp_path / "a.pth")
    report = audit_visual_objects(tmp_path / "a.pth", RELATIONS)
    assert report.num_by_value == {"0": 60, "4": 40}
    assert report.leaks


def test_the_file_of_another_split_is_refused(tmp_path: Path) -> None:
    objects = write_objects(tmp_path / "a.pth", [2] * 101)
    with pytest.raises(ValueError, match="lines 0 to 100, but there are 100 instances"):
        audit_visual_objects(objects, RELATIONS)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({0: TouchesAFile(tmp_path / "touched")}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="cannot be read as plain data"):
        audit_visual_objects(tmp_path / "a.pth", RELATIONS)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": []}, {0: 3}])
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not a list of crops per line number"):
        audit_visual_objects(tmp_path / "a.pth", RELATIONS)


def test_a_file_that_is_missing_or_no_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--objects"):
        audit_visual_objects(tmp_path / "a.pth", RELATIONS)
    for content in (b"", b"not a pickle"):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            audit_visual_objects(tmp_path / "a.pth", RELATIONS)


@pytest.mark.parametrize("relations", [["peer"] * 100, ["None"] * 100])
def test_data_without_none_or_with_nothing_else_is_refused(tmp_path: Path, relations: list[str]) -> None:
    with pytest.raises(ValueError, match="must be the relation of some, not all"):
        audit_visual_objects(write_objects(tmp_path / "a.pth", [2] * 100), relations)


def test_the_command_line_prints_one_json_line_or_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entity = {"name": "a", "pos": [0, 1]}
    lines = [
        {"token": ["a"], "h": entity, "t": entity, "img_id": "a.jpg", "relation": relation} for relation in RELATIONS
    ]
    (tmp_path / "train.txt").write_text("".join(f"{line!r}\n" for line in lines))
    objects = write_objects(tmp_path / "a.pth", [2] * 60 + [4] * 40)
    arguments = ["--data_dir", str(tmp_path), "--objects", str(objects)]
    assert main([*arguments, "--split", "train"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["split"], result["num_instances"], result["verdict"]) == ("train", 100, "LEAKS")
    assert main([*arguments, "--split", "val"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--split", "dev"])
    assert caught.value.code == 2


@pytest.mark.parametrize(("split", "name"), [("train", "mre_train_dict.pth"), ("val", "mre_dev_dict.pth")])
def test_the_crops_in_circulation_leak(roc_data: Path, split: str, name: str) -> None:
    path = find_text_file(roc_data / "mnre", split)
    assert path is not None
    relations = [made["relation"] for _, _, made in read_instances(path)]
    report = audit_visual_objects(roc_data / "mnre" / "leaky_objects" / name, relations)
    assert report.verdict == "LEAKS"
    assert report.none_recall == 1.0
    assert report.none_precision > 0.98
    assert report.lookup_accuracy > report.majority_rate + 0.1
