"""What stops a run of `train.py`, and what it never does to its output folder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import arguments, error_of, everything_under, line, main, weights, write_lines
from torch import Tensor, nn

import roc.modeling_roc
import roc.processing_roc
import roc.score
import roc.train
import roc.training.building
import roc.training.loop
from roc.modeling_roc import RocModel
from roc.samples.batching import SampleCollator
from roc.training.run_folder import check_output_dir
from roc.training.settings import RUN_FILE, RunConfig

pytestmark = pytest.mark.usefixtures("fresh_state")


# --- what stops a run --------------------------------------------------------------------------------------------


def break_the_loss(monkeypatch: pytest.MonkeyPatch, at_step: int, value: float) -> None:
    loss, calls = roc.modeling_roc.retrieval_loss, itertools.count(1)

    def broken(*given: Any, **options: Any) -> Tensor:
        return loss(*given, **options) * (value if next(calls) == at_step else 1.0)

    monkeypatch.setattr(roc.modeling_roc, "retrieval_loss", broken)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_step_and_its_rows(
    value: float,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[list[str]] = []
    collate = SampleCollator.__call__

    def spy(self: SampleCollator, items: Any) -> Any:
        row_ids, batch = collate(self, items)
        seen.append(row_ids)
        return row_ids, batch

    monkeypatch.setattr(SampleCollator, "__call__", spy)
    break_the_loss(monkeypatch, 2, value)
    assert main(arguments(inputs, tmp_path / "model")) == 1
    error = error_of(capsys)
    assert "step 2" in error
    named = [row_ids for row_ids in seen if str(row_ids) in error]
    assert len(named) == 1
    assert everything_under(tmp_path) == set(), "a half-written folder was left behind"


def test_a_weight_that_is_not_a_number_stops_at_the_first_step(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = roc.training.loop.build_model

    def broken(*given: Any) -> RocModel:
        model = build(*given)
        nn.init.constant_(model.pair_head.dense.bias, math.nan)
        return model

    monkeypatch.setattr(roc.training.loop, "build_model", broken)
    assert main(arguments(inputs, tmp_path / "model")) == 1
    assert "The loss is nan at step 1, on the rows ['train-" in error_of(capsys)
    assert everything_under(tmp_path) == set()


def test_a_gradient_that_is_not_finite_never_reaches_the_saved_weights(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the last step is finite, so only its gradient tells."""
    build = roc.training.loop.build_model

    def broken(*given: Any) -> RocModel:
        model = build(*given)
        model.pair_head.dense.bias.register_hook(lambda gradient: gradient * math.nan)
        return model

    monkeypatch.setattr(roc.training.loop, "build_model", broken)
    code = main(arguments(inputs, tmp_path / "model", max_steps=1))
    if (tmp_path / "model").exists():
        assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "model").values())
    assert code == 1


def test_a_run_that_fails_later_leaves_the_best_epoch_so_far_complete(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_the_loss(monkeypatch, 5, math.nan)  # in the second epoch
    assert main(arguments(inputs, tmp_path / "model")) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.checkpoints"}
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "model").values())
    assert (tmp_path / "model" / RUN_FILE).is_file()


def change_lines(inputs: Path, tmp_path: Path, split: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of the data with the third line of a split changed."""
    folder = tmp_path / "changed"
    (folder / "pictures").mkdir(parents=True)
    for picture in (inputs / "data" / "pictures").iterdir():
        (folder / "pictures" / picture.name).write_bytes(picture.read_bytes())
    for name, number in (("train", 12), ("val", 5)):
        lines = [line(entry, name) for entry in range(number)]
        if name == split:
            change(lines[2])
        write_lines(folder / f"{name}.jsonl", lines)
    return folder


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_unknown_relation_stops_before_the_first_step_and_names_its_row(
    split: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(entry: dict[str, Any]) -> None:
        entry["relations"][0]["relation"] = "/per/per/coupel"

    data = change_lines(inputs, tmp_path, split, change)
    given = arguments(inputs, tmp_path / "model", data_dir=data)
    assert main(given, step=lambda *given: pytest.fail("a step was made")) == 1
    error = error_of(capsys)
    assert f"{split}-2" in error
    assert "Did you mean '/per/per/couple'" in error
    assert not (tmp_path / "model").exists()


def test_a_missing_picture_stops_and_names_it(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = change_lines(inputs, tmp_path, "train", lambda entry: entry.update(image="pictures/gone.png"))
    assert main(arguments(inputs, tmp_path / "model", data_dir=data)) == 1
    assert "gone.png" in error_of(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relations": "no/such.yaml"}, "There is no file 'no/such.yaml'"),
        ({"data_dir": "no_such_folder"}, "no_such_folder"),
        ({"fusion_num_heads": 5}, "must divide the text encoder's hidden size 32"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"learning_rate": "fast"}, "learning_rate='fast' is not allowed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_work_ends_with_one_line_and_exit_code_1(
    changes: dict[str, Any], message: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(inputs, tmp_path / "model", **changes)) == 1
    error = error_of(capsys)
    assert error.startswith("error: ")
    assert message in error
    assert everything_under(tmp_path) == set()


def test_an_unknown_option_ends_with_exit_code_2(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments(inputs, tmp_path / "model", "--learning_rat", "1"))
    assert stopped.value.code == 2


# --- the output folder -------------------------------------------------------------------------------------------


def test_an_earlier_run_is_replaced_only_when_asked_to(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / RUN_FILE).write_text("seed: 1\n", encoding="utf-8")
    (folder / "old.txt").write_text("old", encoding="utf-8")
    assert main(arguments(inputs, folder)) == 1
    assert "holds an earlier run. Choose another folder, or add --overwrite" in error_of(capsys)
    with monkeypatch.context() as patch:
        break_the_loss(patch, 1, math.nan)
        assert main(arguments(inputs, folder, "--overwrite")) == 1
    assert {path.name for path in folder.iterdir()} == {RUN_FILE, "old.txt"}, "a failed run replaced the earlier one"
    assert main(arguments(inputs, folder, "--overwrite", max_steps=1)) == 0
    assert not (folder / "old.txt").exists()
    assert (folder / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_folder_is_never_replaced(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds something else than a run\. Choose another folder"):
        check_output_dir(RunConfig(output_dir=str(tmp_path), overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_output_folder(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious", encoding="utf-8")
    with pytest.raises(ValueError, match="holds something else than a run"):
        check_output_dir(RunConfig(output_dir=str(tmp_path / "model"), overwrite=overwrite))


@pytest.mark.parametrize("make", [True, False], ids=["empty folder", "no folder"])
def test_a_new_or_empty_folder_is_taken_and_left_as_it_was(make: bool, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    if make:
        folder.mkdir(parents=True)
    check_output_dir(RunConfig(output_dir=str(folder)))
    assert folder.exists() == make
    assert not list(tmp_path.rglob(".*")), "the probe was left behind"


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OSError, match=r"output_dir='.*file/model' cannot be written"):
        check_output_dir(RunConfig(output_dir=str(tmp_path / "file" / "model")))


def test_processes_that_start_together_can_all_check_the_folder(tmp_path: Path) -> None:
    """As under `accelerate launch`; a probe of one name would be removed by one process under another's hands."""
    configs = [RunConfig(output_dir=str(tmp_path / f"model{number}")) for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        for config in configs:
            for checked in [pool.submit(check_output_dir, config) for _ in range(4)]:
                checked.result()
