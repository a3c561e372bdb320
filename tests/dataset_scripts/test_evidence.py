"""`benchmarks/evidence.py`: which patches lie in a box, what deleting one does, and the program as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_processor

from roc.benchmarks import evidence
from roc.benchmarks.evidence import NUM_DELETED, delete_patches, patches_inside
from roc.dataset_scripts.scenes import build_scenes
from roc.relations.files import read_relation_file


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[0.0, 0.0, 0.5, 1.0]], {0, 1, 4, 5}),
        ([[0.2, 0.1, 0.3, 0.2]], set()),  # between the centres
        ([[0.1, 0.2, 0.15, 0.3], [0.8, 0.7, 0.9, 0.8]], {0, 7}),
        ([], set()),
    ],
)
def test_a_patch_lies_in_a_box_where_its_centre_does(boxes: list[list[float]], expected: set[int]) -> None:
    assert patches_inside(boxes, (2, 4)) == expected


def test_a_deleted_patch_has_the_mean_colour_and_the_others_stay() -> None:
    pixels = torch.randn(1, 3, 16, 32)
    deleted = delete_patches(pixels, [6], (2, 4))
    torch.testing.assert_close(deleted[0, :, 8:, 16:24], pixels.mean((2, 3))[0][:, None, None].expand(3, 8, 8))
    deleted[0, :, 8:, 16:24] = pixels[0, :, 8:, 16:24]
    assert torch.equal(deleted, pixels)


def test_the_program_measures_right_predictions_that_an_object_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_scenes(tmp_path / "data", num_train=24, num_val=48, num_test=24)
    inventory, processor = read_relation_file("relations/scenes.yaml"), tiny_processor()
    model = tiny_model(processor, relations=inventory.relations, none_relation=inventory.none_relation)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    arguments = ["--model", str(tmp_path / "model"), "--data_dir", str(tmp_path / "data"), "--num_steps", "2"]
    assert evidence.main(arguments) == 0
    [line] = capsys.readouterr().out.splitlines()
    result: dict[str, Any] = json.loads(line)
    kinds = [found for name, found in result.items() if name in ("text-object", "text-text")]
    assert result["all"]["n"] == sum(found["n"] for found in kinds) > 0
    assert "misleading" not in result, "no object decides there"
    for found in kinds:
        assert 0 <= found["hits"] <= 1
        assert 0 < found["hits_at_random"] < NUM_DELETED / 16


def test_a_folder_without_evidence_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    processor = tiny_processor()
    for part in (tiny_model(processor), processor):
        part.save_pretrained(tmp_path)
    assert evidence.main(["--model", str(tmp_path), "--data_dir", str(tmp_path)]) == 1
    assert "holds no evidence" in capsys.readouterr().err
