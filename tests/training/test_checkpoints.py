"""Runs that are killed, told to stop, or out of memory or disk space: nothing is lost, and they go on as they were."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_processor
from tiny_runs import arguments, error_of, everything_under, history, line, main, write_lines
from tiny_samples import training_run
from torch import Tensor

import roc.train
import roc.training.checkpoints
import roc.training.loop
from roc.modeling_roc import RocModel
from roc.samples.batching import SampleCollator
from roc.training.checkpoints import Checkpoint, checkpoint_folder, find_checkpoint, list_checkpoints
from roc.training.learner import Learner
from roc.training.processes import memory_errors_explained
from roc.training.run_folder import own_output_dir
from roc.training.settings import RunConfig
from roc.training.state import MAY_CHANGE
from roc.training.validation import Validator

pytestmark = pytest.mark.usefixtures("fresh_state")

# everything that is random in training, and all that a checkpoint holds
RICH = {"average_decay": 0.9, "picture_dropout": 0.3, "wrong_pictures": 0.3, "token_dropout": 0.2, "type_noise": 0.5}
NUM_STEPS = 9  # 12 samples, 4 a batch, 3 epochs


class Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.fixture(scope="module")
def typed(inputs: Path) -> Path:
    """The inputs, with entity types."""
    for split, number in (("train", 12), ("val", 5)):
        lines = [line(entry, split) for entry in range(number)]
        for entity in itertools.chain.from_iterable(entry["entities"] for entry in lines):
            entity["type"] = "person" if "start" in entity else None
        write_lines(inputs / "data" / f"{split}.jsonl", lines)
    return inputs


def run_until(given: list[str], at_step: int | None, *, what: str = "step") -> tuple[list[list[str]], int]:
    """Run `main`, killed at the start of a step (or of the validation after it).

    Returns:
        The rows of each step that was done, and the number of batches that were made.
    """
    steps: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        collate, batches = SampleCollator.__call__, Counter[str]()
        learners: list[Learner] = []

        def watched(learner: Learner, given: list[Any]) -> float:
            learners.append(learner)
            if what == "step" and learner.progress.step + 1 == at_step:
                raise Killed
            loss = learner.step(given)
            steps.append([row_id for row_ids, _ in given for row_id in row_ids])
            return loss

        def validated(validator: Validator, model: RocModel) -> Any:
            if what == "validate" and learners[-1].progress.step == at_step:
                raise Killed
            return validator.score(model)

        def counted(self: SampleCollator, items: Any) -> Any:
            batches["with labels"] += self._index is not None
            return collate(self, items)

        patch.setattr(SampleCollator, "__call__", counted)
        AcceleratorState._reset_state(True)
        if at_step is None:
            assert main(given, step=watched, validate=validated) == 0
        else:
            with pytest.raises(Killed):
                main(given, step=watched, validate=validated)
    return steps, batches["with labels"]


def result(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for its time and memory, and the commit, which may change meanwhile."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    del metrics["seconds"], metrics["peak_memory_mib"]
    for record in metrics["history"]:
        del record["samples_per_second"]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    del files["metrics.json"], files["environment.json"]
    return files | {"metrics": metrics}


# --- a killed run goes on as if nothing had happened -------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "num_workers": 1}], ids=["plain", "more"])
def test_a_run_killed_anywhere_gives_what_the_uninterrupted_one_gives(
    changes: dict[str, Any], typed: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = RICH | {"num_epochs": 3, "checkpoint_steps": 1} | changes
    steps_per_epoch = 3 if not changes else 2
    whole, _ = run_until(arguments(typed, tmp_path / "whole", **options), None)
    assert len(whole) == 3 * steps_per_epoch
    given = arguments(typed, tmp_path / "parts" / "model", "--resume", "auto", **options)
    parts, sizes = [], []
    kills = [(2, "step"), (steps_per_epoch, "validate"), (2 * steps_per_epoch, "step"), (None, "")]
    for at_step, what in kills:
        steps, num_batches = run_until(given, at_step, what=what)
        parts += steps
        sizes.append(num_batches)
    assert parts == whole, "a step was left out, repeated, or saw other rows"
    if not changes:
        assert sizes[-1] == 9 - 5, "batches of steps that were done have been made again"
    before, after = result(tmp_path / "whole"), result(tmp_path / "parts" / "model")
    assert before.pop("run_config.yaml") == after.pop("run_config.yaml").replace(b"parts/model", b"whole")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["model"]


def test_each_epoch_has_its_own_noise() -> None:
    processor = tiny_processor()
    run = training_run(tiny_model(processor), processor, type_noise=0.5)
    for epoch in (2, 5):
        next(run.steps(epoch))
        assert run.collator._epoch == epoch


def test_a_run_killed_before_its_first_checkpoint_was_whole_starts_again(typed: Path, tmp_path: Path) -> None:
    given = arguments(typed, tmp_path / "model", "--resume", "auto", num_epochs=1)

    def die(self: Path, target: Path) -> Path:
        if self.parent.name == "model.checkpoints":
            raise Killed
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        rename = Path.replace
        patch.setattr(Path, "replace", die)
        patch.setattr(
            "roc.support.files.shutil", SimpleNamespace(rmtree=lambda *given, **options: None)
        )  # it removes nothing
        main(given)
    assert (tmp_path / "model").is_dir()
    assert len(list((tmp_path / "model.checkpoints").iterdir())) == 1
    AcceleratorState._reset_state(True)
    assert main(given) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    AcceleratorState._reset_state(True)
    assert main(given) == 1, "a run that has ended was replaced"


def test_early_stopping_and_the_best_epoch_go_on(typed: Path, tmp_path: Path) -> None:
    """Killed when training is over and the model not yet calibrated: no epoch is added, the best one is there."""
    scores = iter([0.5, 0.4, 0.3])

    def validate(*given: Any) -> dict[str, Any]:
        return {"micro_f1": next(scores), "per_relation": {}, "n": 1}

    def calibrate(*given: Any) -> Any:
        raise Killed

    given = arguments(typed, tmp_path / "model", "--resume", "auto", num_epochs=9, early_stopping_patience=2)
    with pytest.raises(Killed):
        main(given, validate=validate, calibrate=calibrate)
    best = load_file(tmp_path / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "model")  # the checkpoint has it
    AcceleratorState._reset_state(True)
    assert main(given, validate=validate) == 0
    assert [record["val"]["micro_f1"] for record in history(tmp_path / "model")] == [0.5, 0.4, 0.3]
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(best[name], kept[name]) for name in best)


# --- what lies on the disk ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(typed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in its second epoch; two checkpoints are there."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "datasets"))
        run_until(arguments(typed, folder / "model", checkpoint_steps=1), 6)
    shutil.rmtree(folder / "datasets", ignore_errors=True)
    return folder


@pytest.fixture
def copied(killed: Path, tmp_path: Path) -> RunConfig:
    """The settings of a copy of that run, to go on with."""
    shutil.copytree(killed, tmp_path / "run")
    return RunConfig(output_dir=str(tmp_path / "run" / "model"), resume="auto")


def newest(config: RunConfig) -> Path:
    return list_checkpoints(checkpoint_folder(config))[-1]


def test_the_last_checkpoints_are_kept_and_nothing_else(killed: Path) -> None:
    folder = killed / "model.checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch-000001-step-000000004",
        "epoch-000001-step-000000005",
    ]
    assert {path.name for path in killed.iterdir()} == {"model", "model.checkpoints"}
    files = {path.name for path in (folder / "epoch-000001-step-000000005").iterdir()}
    assert files == {"best", "checksums.json", "model.safetensors", "run.json", "state.pt"}


def test_the_best_model_takes_no_space_in_a_checkpoint(killed: Path) -> None:
    [model, *links] = killed.glob("**/best/model.safetensors"), *killed.glob("model/model.safetensors")
    assert all(path.samefile(links[0]) for path in model)


def test_frozen_weights_are_left_out(killed: Path) -> None:
    saved = load_file(killed / "model.checkpoints" / "epoch-000001-step-000000005" / "model.safetensors")
    assert any(name.startswith("text_model.") for name in saved)
    assert "relation_bank.features" in saved
    assert not any(name.startswith("relation_model.") for name in saved)


def truncate(path: Path) -> None:
    (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (path / "model.safetensors").write_bytes(content)


def lose_a_file(path: Path) -> None:
    (path / "best" / "config.json").unlink()


def write_half(path: Path) -> None:
    (path / "checksums.json").unlink()


def write_nothing_into_the_list(path: Path) -> None:
    (path / "checksums.json").write_bytes(b"")


def put_a_pipe(path: Path) -> None:
    (path / "checksums.json").unlink()
    os.mkfifo(path / "checksums.json")  # reading it would not end


DAMAGES = [put_a_pipe, truncate, flip_a_bit, lose_a_file, write_half, write_nothing_into_the_list]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_for_the_one_before(
    damage: Callable[[Path], None], copied: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    whole = find_checkpoint(copied)
    assert whole is not None
    assert (whole.path, whole.progress.step, whole.progress.best_epoch) == (newest(copied), 5, 1)
    damage(newest(copied))
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(copied)
    assert found is not None
    assert found.progress.step == 4
    assert newest(copied).name in caplog.text
    assert "skipped for the one before" in caplog.text
    with pytest.raises(ValueError, match=newest(copied).name):
        Checkpoint.read(newest(copied))


def test_where_all_checkpoints_are_damaged_the_run_does_not_silently_start_afresh(copied: RunConfig) -> None:
    for path in list_checkpoints(checkpoint_folder(copied)):
        truncate(path)
    with pytest.raises(ValueError, match=r"none is whole\. Remove the folder to start afresh"):
        find_checkpoint(copied)


def test_a_checkpoint_of_another_format_is_refused(copied: RunConfig) -> None:
    path = newest(copied)
    content = json.loads((path / "run.json").read_text(encoding="utf-8"))
    rewrite(path, "run.json", json.dumps(content | {"format": 99}).encode())
    with pytest.raises(ValueError, match="has format 99"):
        Checkpoint.read(path)


def rewrite(path: Path, name: str, content: bytes) -> None:
    """Change a file of a checkpoint and its checksum."""
    (path / name).write_bytes(content)
    checksums = json.loads((path / "checksums.json").read_text(encoding="utf-8"))
    checksums[name] = roc.training.checkpoints._checksum(path / name)
    (path / "checksums.json").write_text(json.dumps(checksums), encoding="utf-8")


DEEP = b'{"a":' * 100_000
ODD_CONTENTS = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "no keys": b"{}",
    "not UTF-8": b"\xff\xfe{}",
    "binary": bytes(range(256)),
    "cut short": b'{"format": 3, "run": {',
    "a huge number": b'{"format": ' + b"9" * 5_000 + b"}",
    "deep": DEEP,
    "a deep list": b"[" * 100_000,
    "not a number": b'{"format": NaN}',
    "wrong types": b'{"format": 3, "run": [1], "progress": "far"}',
    "a path elsewhere": b'{"../../model/config.json": 1, "/dev/zero": 2}',
    "numbers for names": b'{"run.json": "7", "state.pt": null, "model.safetensors": [1]}',
}


def progress_with(copied: RunConfig, **changes: Any) -> bytes:
    content = json.loads((newest(copied) / "run.json").read_text(encoding="utf-8"))
    return json.dumps(content | {"progress": content["progress"] | changes}).encode()


@pytest.mark.parametrize("name", ["run.json", "checksums.json"])
def test_odd_json_in_a_checkpoint_is_a_damaged_one(name: str, copied: RunConfig, caplog: Any) -> None:
    original = (newest(copied) / name).read_bytes()
    for what, content in ODD_CONTENTS.items():
        for with_its_checksum in (False, True)[: 2 if name == "run.json" else 1]:
            if with_its_checksum:
                rewrite(newest(copied), name, content)
            else:
                (newest(copied) / name).write_bytes(content)
            caplog.clear()
            found = find_checkpoint(copied)
            assert found is not None, what
            assert found.progress.step == 4, what
            [warning] = caplog.messages
            assert newest(copied).name in warning, what
            assert len(warning) < 1_000, what
        if name == "run.json":
            rewrite(newest(copied), name, original)
        (newest(copied) / name).write_bytes(original)
    whole = find_checkpoint(copied)
    assert whole is not None
    assert whole.progress.step == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": 1.5},
        {"step": True},
        {"step": 10**30},
        {"step": "5"},
        {"seconds": None},
        {"history": {}},
        {"history": [1]},
        {"history": [{}]},
        {"best_epoch": 9},
        {"best_val": {}},
        {"best_val": {"micro_f1": "high"}},
        {"losses": [None]},
        {"losses": [0.5] * 99},
        {"unknown": 1},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_a_progress_that_cannot_be_is_a_damaged_checkpoint(changes: dict[str, Any], copied: RunConfig) -> None:
    rewrite(newest(copied), "run.json", progress_with(copied, **changes))
    with pytest.raises(ValueError, match=f"{newest(copied).name} is no whole checkpoint"):
        Checkpoint.read(newest(copied))


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    "content", [{"optimizer": Evil()}, [1, 2], {"optimizer": {}}, None], ids=["code", "list", "half", "null"]
)
def test_a_state_of_anything_else_is_a_damaged_checkpoint_and_runs_no_code(
    content: Any, copied: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(content, newest(copied).parent / "state")
    rewrite(newest(copied), "state.pt", (newest(copied).parent / "state").read_bytes())
    found = find_checkpoint(copied)
    assert found is not None
    assert found.progress.step == 4
    assert "state.pt" in caplog.text
    assert not [advice for advice in ("weights_only", "trust") if advice in caplog.text]


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
def test_other_weights_and_states_than_the_runs_are_refused(
    name: str, typed: Path, copied: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "state.pt":
        state = torch.load(newest(copied) / name, weights_only=True)
        torch.save(state | {"optimizer": {"state": [], "param_groups": 3}}, newest(copied).parent / name)
    else:
        save_file({"a": torch.zeros(2)}, newest(copied).parent / name)
    rewrite(newest(copied), name, (newest(copied).parent / name).read_bytes())
    assert main(arguments(typed, Path(copied.output_dir), "--resume", "auto", checkpoint_steps=1)) == 1
    assert f"{newest(copied)} holds other weights or states than this run's" in error_of(capsys)


def test_without_checkpoints_there_is_nothing_to_go_on_from(copied: RunConfig, tmp_path: Path) -> None:
    assert find_checkpoint(RunConfig(output_dir=str(tmp_path / "new"), resume="auto")) is None
    assert find_checkpoint(RunConfig(output_dir=copied.output_dir)) is None


@pytest.mark.parametrize("more", [[], ["--dry_run"]], ids=["run", "dry run"])
@pytest.mark.parametrize("name", ["nowhere", "run/model", "run/model.checkpoints", "run/model.checkpoints/newest"])
def test_a_checkpoint_that_is_not_there_is_told_before_anything_else(
    name: str, more: list[str], copied: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = str(tmp_path / name)
    assert main(["--resume", given, "--output_dir", str(tmp_path / "new"), *more]) == 1
    error = error_of(capsys)
    assert f"resume={given!r} is" in error
    assert "'auto'" in error
    assert ("--start_from" in error) == (name == "run/model")
    assert (str(newest(copied)) in error) == (name == "run/model.checkpoints")


# --- which run goes on -------------------------------------------------------------------------------------------


def test_other_settings_or_data_are_refused_by_name(
    typed: Path, copied: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(typed / "data", tmp_path / "data")
    changed = (typed / "data" / "val.jsonl").read_text(encoding="utf-8").replace("val-3", "val-33")
    (tmp_path / "data" / "val.jsonl").write_text(changed, encoding="utf-8")
    options: dict[str, Any] = {"batch_size": 6, "token_dropout": 0.1, "data_dir": tmp_path / "data"}
    before = sorted(Path(copied.output_dir).parent.rglob("*"))
    assert main(arguments(typed, Path(copied.output_dir), "--resume", "auto", **options)) == 1
    error = error_of(capsys)
    differ = "batch_size was 4 and is 6; token_dropout was 0.0 and is 0.1; the validation samples are other ones. Go on"
    assert f"is of another run: {differ}" in error
    assert sorted(Path(copied.output_dir).parent.rglob("*")) == before


def test_a_run_may_move_and_change_what_does_not_change_its_result(
    typed: Path, copied: RunConfig, tmp_path: Path
) -> None:
    shutil.copytree(typed / "data", tmp_path / "data")
    shutil.rmtree(copied.output_dir)
    options = {"data_dir": tmp_path / "data", "num_workers": 1, "eval_batch_size": 2, "keep_checkpoints": 3}
    moved = tmp_path / "elsewhere" / "model"
    given = arguments(typed, moved, "--resume", str(newest(copied)), "--activation_checkpointing", **options)
    assert main(given) == 0
    assert [record["step"] for record in history(moved)] == [3, 6]
    assert len(list_checkpoints(checkpoint_folder(copied))) == 2, "another run's checkpoints were touched"
    assert [path.name for path in moved.parent.iterdir()] == ["model"]


def test_what_may_change_are_settings() -> None:
    assert set(RunConfig.__dataclass_fields__) >= MAY_CHANGE


def test_a_run_that_has_not_ended_is_not_lost_by_starting_it_again(
    typed: Path, copied: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(copied.output_dir)
    for _ in range(2):  # with and without a best epoch so far
        assert main(arguments(typed, folder)) == 1
        assert "Add --resume auto to go on with it, or --overwrite to start afresh" in error_of(capsys)
        shutil.rmtree(folder, ignore_errors=True)
    old = list_checkpoints(checkpoint_folder(copied))
    run_until(arguments(typed, folder, "--overwrite", checkpoint_steps=1), 2)
    [only] = list_checkpoints(checkpoint_folder(copied))
    assert only.name == "epoch-000000-step-000000001"
    assert len(old) == 2


def test_what_a_killed_process_left_half_written_is_removed(typed: Path, copied: RunConfig) -> None:
    folder = checkpoint_folder(copied)
    leftovers = [folder / f".epoch-000001-step-000000006.{'a' * 32}.tmp", folder.parent / f".model.{'b' * 32}.tmp"]
    for path in leftovers:
        path.mkdir()
        (path / "half.safetensors").write_bytes(b"half")
    neighbours = [folder.parent / f".model.v2.{'c' * 32}.tmp", folder.parent / ".model.notes"]
    for path in neighbours:
        path.mkdir()
    run_until(arguments(typed, Path(copied.output_dir), "--resume", "auto", checkpoint_steps=1), 6)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in neighbours)


# --- two runs in one folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume", "auto"]], ids=str)
def test_a_second_run_in_the_folder_is_told_at_once(
    more: list[str], typed: Path, copied: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tried = Path(copied.output_dir), []

    def try_another(learner: Learner, batches: list[Any]) -> float:
        if not tried:
            before = everything_under(folder.parent)
            tried.append(main(arguments(typed, folder, *more), step=lambda *given: pytest.fail("a step was made")))
            tried.append(roc.train.main(["--output_dir", f"{folder}/../model", "--resume", "nowhere"]))
            assert everything_under(folder.parent) == before
        return learner.step(batches)

    given = arguments(typed, folder, "--resume", "auto", checkpoint_steps=1)
    assert main(given, step=try_another) == 0
    assert tried == [1, 1]
    error = capsys.readouterr().err
    assert error.count(f"a run is going on there. {folder} is being written by another process") == 2
    assert f"process {os.getpid()} on " in error
    assert {path.name for path in folder.parent.iterdir()} == {"model"}, "the lock was left behind"


def test_other_processes_of_a_run_and_dry_runs_take_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(output_dir=str(tmp_path / "model"))
    with own_output_dir(config):
        with own_output_dir(dataclasses.replace(config, dry_run=True)):
            pass
        monkeypatch.setenv("RANK", "1")
        with own_output_dir(config):
            pass


# --- SIGTERM -----------------------------------------------------------------------------------------------------


def test_sigterm_to_the_whole_process_group_writes_a_checkpoint_and_ends_with_143(typed: Path, tmp_path: Path) -> None:
    given = arguments(typed, tmp_path / "model", num_epochs=10_000, num_workers=1)
    process = launch([sys.executable, roc.train.__file__, *given], tmp_path)
    try:
        wait_for(lambda: list_checkpoints(tmp_path / "model.checkpoints"), process)
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
    finally:
        kill(process)
    assert process.returncode == 143
    assert "Traceback" not in stderr
    assert "SIGTERM: stopped after step" in stderr
    found = find_checkpoint(RunConfig(output_dir=str(tmp_path / "model"), resume="auto"))
    assert found is not None
    assert f"after step {found.progress.step}." in stderr
    assert not [path for path in tmp_path.rglob(".*.tmp") if "cache" not in path.parts]


def test_sigterm_stops_after_the_step_and_then_means_what_it_did_before(typed: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopped: list[int] = []

    def interrupted(learner: Learner, batches: list[Any]) -> float:
        stopped.append(learner.progress.step + 1)
        os.kill(os.getpid(), signal.SIGTERM)
        return learner.step(batches)

    with pytest.raises(SystemExit) as code:
        main(arguments(typed, tmp_path / "model"), step=interrupted)
    assert (code.value.code, stopped) == (143, [1]), "it did not stop after the step"
    assert signal.getsignal(signal.SIGTERM) is before
    assert newest(RunConfig(output_dir=str(tmp_path / "model"))).name == "epoch-000000-step-000000001"


# --- too little disk space or memory -----------------------------------------------------------------------------


def test_a_disk_that_is_too_full_is_found_before_the_first_step(
    typed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(arguments(typed, tmp_path / "model"), step=lambda *given: pytest.fail("a step was made")) == 1
    assert "and there are 200kB in" in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_checkpoints_before_and_nothing_half_written(
    typed: Path, copied: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list_checkpoints(checkpoint_folder(copied))

    def fill(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    given = arguments(typed, Path(copied.output_dir), "--resume", "auto", checkpoint_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roc.training.checkpoints, "save_file", fill)
        assert main(given) == 1
    message = error_of(capsys)
    assert "The checkpoint epoch-000002-step-000000006 could not be written" in message
    assert "No space left on device" in message
    assert "go on from the last checkpoint with --resume auto" in message
    assert list_checkpoints(checkpoint_folder(copied)) == before
    assert all(Checkpoint.read(path) for path in before)
    assert not list(Path(copied.output_dir).parent.rglob(".*"))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_is_exhausted_is_explained(error: Exception) -> None:
    with (
        pytest.raises(MemoryError, match=r"Out of memory at step 7\. Checkpoints are as they were\. Lower it\."),
        memory_errors_explained("at step 7", "Lower it."),
    ):
        raise error


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors_explained("at step 7", "Lower it."):
        raise RuntimeError("shapes do not fit")


def test_a_run_out_of_memory_says_where_and_what_to_lower_and_can_go_on(
    typed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy(learner: Learner, batches: list[Any]) -> float:
        if learner.progress.step == 4:
            raise OUT_OF_MEMORY[1]
        return learner.step(batches)

    assert main(arguments(typed, tmp_path / "model", checkpoint_steps=1), step=greedy) == 1
    error = error_of(capsys)
    assert "Out of memory at step 5, on samples x tokens [(4, " in error
    assert "Add --activation_checkpointing" in error
    assert "lower --batch_size (4)" in error
    assert newest(RunConfig(output_dir=str(tmp_path / "model"))).name == "epoch-000001-step-000000004"


# --- the real thing ----------------------------------------------------------------------------------------------


def launch(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for(ready: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.001)


def kill(process: subprocess.Popen[str]) -> None:
    """The launcher, the training process and those that prepare batches."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_run_killed_five_times_also_while_a_checkpoint_is_written_ends_as_the_uninterrupted_one(
    typed: Path, tmp_path: Path
) -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    accelerate += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu", roc.train.__file__]
    options: dict[str, Any] = RICH | {"num_epochs": 25, "checkpoint_steps": 1}
    done = launch([*accelerate, *arguments(typed, tmp_path / "whole", **options)], tmp_path)
    assert done.communicate()[0].startswith("{")
    folder, generator, half_written = tmp_path / "model.checkpoints", random.Random(5), 0
    command = [*accelerate, *arguments(typed, tmp_path / "model", "--resume", "auto", **options)]
    for number in range(5):
        before = list_checkpoints(folder)
        process = launch(command, tmp_path)
        wait_for(lambda before=before: set(list_checkpoints(folder)) - set(before), process)
        time.sleep(generator.uniform(0, 0.7))
        if number % 2:
            wait_for(lambda: list(folder.glob(".epoch-*.tmp/model.safetensors")), process)
        assert process.poll() is None
        kill(process)
        half_written += bool(list(folder.glob(".epoch-*.tmp")))
        assert all(Checkpoint.read(path) for path in list_checkpoints(folder))
    assert half_written, "no kill hit the writing of a checkpoint"
    process = launch(command, tmp_path)
    stdout, stderr = process.communicate()
    assert stdout.startswith("{"), stderr[-3000:]
    assert "going on from" in stderr
    before, after = result(tmp_path / "whole"), result(tmp_path / "model")
    assert before["metrics"] == after["metrics"]
    assert before["model.safetensors"] == after["model.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "model", "cache"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_real_disk_that_fills_up_loses_nothing(
    typed: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(typed, small_disk / "model", keep_checkpoints=9)) == 1
    assert "Free some, choose another output_dir, or lower --keep_checkpoints (9)" in error_of(capsys)
    monkeypatch.setattr(roc.training.checkpoints.Checkpoints, "_check_space", lambda self: None)
    AcceleratorState._reset_state(True)
    options = {"keep_checkpoints": 99, "checkpoint_steps": 1, "num_epochs": 30}
    assert main(arguments(typed, small_disk / "model", **options)) == 1
    assert "No space left on device" in error_of(capsys)
    config = RunConfig(output_dir=str(small_disk / "model"), resume="auto")
    assert all(Checkpoint.read(path) for path in list_checkpoints(checkpoint_folder(config)))
    assert not list(small_disk.rglob(".*"))
