"""Several processes: launched for real, against one process with the same global batch."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from recorded_processes import record
from tiny import RELATIONS, tiny_processor
from tiny_runs import NAMES, VISION, arguments, line, weights, write_inputs, write_lines

import roc.train
import roc.training.processes
from roc.samples.batching import LengthBucketBatchSampler, ProcessShares, SampleCollator
from roc.samples.vision_cache import read_features
from roc.support.resources import PACKAGE_ROOT
from roc.training.processes import start_accelerator

CONFIGS = PACKAGE_ROOT / "configs" / "accelerate"
TESTS = Path(__file__).parents[1]
NUM_TRAIN, NUM_VAL, NUM_EPOCHS = 13, 5, 3
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # dropout would differ between processes

# --- shares of a batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize("num_samples", [1, 7, 24, 25, 403])
def test_the_shares_of_all_processes_are_the_batches_of_one(num_samples: int, num_processes: int) -> None:
    sampler = LengthBucketBatchSampler(range(num_samples), 4 * num_processes, seed=3)
    shares = [
        ProcessShares(sampler, process_index=index, num_processes=num_processes) for index in range(num_processes)
    ]
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        own = [list(share) for share in shares]
        assert {len(batches) for batches in own} == {len(share) for share in shares} == {len(sampler)}
        for batch, parts in zip(sampler, zip(*own, strict=True), strict=True):
            assert sorted(batch) == sorted(itertools.chain(*parts))
            sizes = [len(part) for part in parts]
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) == len(parts[0]) <= 4


@pytest.mark.parametrize("settings", [{}, {"vision": False}, {"markers": "pair"}], ids=str)
def test_an_empty_share_is_a_batch_without_a_label(settings: dict[str, Any]) -> None:
    row_ids, batch = SampleCollator(tiny_processor(**settings), NAMES)([])
    assert row_ids == []
    assert batch["labels"].tolist() == [[-100]]


# --- two processes against one -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A run of `train.py` and `score.py`.

    Args:
        records: Of each process, see `recorded_processes`.
        printed: The JSON lines of stdout.
        errors: What stderr had.
        folder: What the run wrote.
    """

    records: list[dict[str, Any]]
    printed: list[dict[str, Any]]
    errors: str
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "model" / "metrics.json").read_text(encoding="utf-8"))


def program_arguments(inputs: Path, folder: Path, **settings: Any) -> tuple[list[str], list[str]]:
    options = {"dropout": 0, "text_overrides": json.dumps(STILL), "eval_batch_size": 2, "num_epochs": NUM_EPOCHS}
    options |= {"gradient_accumulation_steps": 2, "batch_size": 2}
    score = ["--model", str(folder / "model"), "--dataset", "jsonl", "--data_dir", str(inputs / "data")]
    score += ["--predictions", str(folder / "predictions.jsonl")]
    return arguments(inputs, folder / "model", **options | settings), score


def launch(config: Path, script: str, options: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(config), "--num_processes", "2", "--mixed_precision", "no", script, *options]
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


def on_two_processes(config: Path, inputs: Path, folder: Path, **settings: Any) -> Finished:
    folder.mkdir()
    train, score = program_arguments(inputs, folder, **settings)
    options = [str(folder), *train, "--and--", *score]
    done = launch(config, str(TESTS / "recorded_processes.py"), options, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads((folder / f"{index}.json").read_text(encoding="utf-8")) for index in range(2)]
    return Finished(records, [json.loads(printed) for printed in done.stdout.splitlines()], done.stderr, folder)


def on_one_process(inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> Finished:
    folder.mkdir()
    AcceleratorState._reset_state(True)
    record(folder, *program_arguments(inputs, folder, batch_size=4, **settings))
    printed = capsys.readouterr()
    records = [json.loads((folder / "0.json").read_text(encoding="utf-8"))]
    return Finished(records, [json.loads(line) for line in printed.out.splitlines()], printed.err, folder)


def check_equal(two: Finished, one: Finished) -> None:
    """The same losses, validation scores and weights, with every sample seen and scored exactly once."""
    rows = {split: row_ids(split, number) for split, number in (("train", NUM_TRAIN), ("val", NUM_VAL))}
    [alone], together = one.records, two.records
    steps = [list(own) for own in zip(*(process["steps"] for process in together), strict=True)]
    steps_per_epoch = len(steps) // NUM_EPOCHS
    assert len(alone["steps"]) == len(steps) == steps_per_epoch * NUM_EPOCHS
    for expected, own in zip(alone["steps"], steps, strict=True):
        for batch, *shares in zip(expected["batches"], *(process["batches"] for process in own), strict=True):
            assert sorted(batch) == sorted(itertools.chain(*shares))
        assert [process["loss"] for process in own] == pytest.approx([expected["loss"]] * 2, abs=1e-5)
    for start in range(0, len(steps), steps_per_epoch):
        epoch = itertools.chain(*steps[start : start + steps_per_epoch])
        assert sorted(row for process in epoch for batch in process["batches"] for row in batch) == rows["train"]
    assert [] in [batch for step in together[1]["steps"] for batch in step["batches"]], "no share was empty"
    scored = Counter(row for process in together for row in process["scored"])
    passes = NUM_EPOCHS + 2  # the saved model, and score.py
    assert scored == Counter(alone["scored"]) == dict.fromkeys(rows["val"], passes)
    assert two.metrics["best_epoch"] == one.metrics["best_epoch"]
    assert two.metrics["val"] == one.metrics["val"]
    for own, expected in zip(two.metrics["history"], one.metrics["history"], strict=True):
        assert own["val"] == expected["val"]
        assert own["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    temperatures = [run.metrics["calibration"]["probability_temperature"] for run in (two, one)]
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-3)
    models = [weights(run.folder / "model") for run in (two, one)]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=0, atol=1e-3, msg=name)
    trained, scores = two.printed
    assert [trained["val"], scores] == [one.printed[0]["val"], one.printed[1]]
    predictions = [(run.folder / "predictions.jsonl").read_text(encoding="utf-8") for run in (two, one)]
    assert predictions[0] == predictions[1]


def row_ids(split: str, number: int) -> list[str]:
    """The ids of the rows that the data set makes of `number` lines, sorted."""
    return sorted(
        f"{split}-{entry}-{pair}" for entry in range(number) for pair in range(len(line(entry, split)["relations"]))
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose last global batch of four has one sample: the second process's share of it is empty."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), num_train=NUM_TRAIN, num_val=NUM_VAL)


def compare(config: str, inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> Finished:
    """Check that both give the same; returns the run of two processes."""
    two = on_two_processes(CONFIGS / config, inputs, folder / "two", **settings)
    check_equal(two, on_one_process(inputs, folder / "one", capsys, **settings))
    return two


@pytest.mark.usefixtures("fresh_state")
def test_two_processes_train_and_score_as_one_with_the_same_global_batch(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = compare("cpu_two_processes.yaml", inputs, tmp_path, capsys)
    assert two.errors.count("INFO epoch 1:") == 1, "only the main process logs"
    written = {path.name for path in two.folder.iterdir()}
    assert written == {"model", "predictions.jsonl", "cache", "0.json", "1.json"}, "temporary files were left behind"


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_state")
def test_sharded_weights_train_as_whole_ones(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FSDP on the CPU. Batches without a picture meet batches with one, and parameters are unused on one process."""
    compare("fsdp.yaml", inputs, tmp_path, capsys, average_decay=0.9, early_stopping_patience=2)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_state")
def test_two_processes_train_on_several_sources_as_one(inputs: Path, tmp_path: Path) -> None:
    reworded = [{**own, "descriptions": [f"{text} today" for text in own["descriptions"]]} for own in RELATIONS]
    content = {"version": 1, "language": "en", "none_relation": "None", "relations": reworded}
    (tmp_path / "reworded.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    sources = [
        {
            "name": name,
            "dataset": "jsonl",
            "data_dir": str(inputs / "data"),
            "relations": str(file),
            "train_share": share,
        }
        for name, file, share in (("a", inputs / "relations.yaml", 1.0), ("b", tmp_path / "reworded.yaml", 0.5))
    ]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"sources": sources}), encoding="utf-8")

    def options(name: str, **settings: Any) -> list[str]:
        given, _ = program_arguments(inputs, tmp_path / name, source_temperature=3, max_resemblance=0.9, **settings)
        place = given.index("--relations")
        return [str(tmp_path / "run.yaml"), *given[:place], *given[place + 2 :]]

    done = launch(CONFIGS / "cpu_two_processes.yaml", roc.train.__file__, options("two"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    AcceleratorState._reset_state(True)
    assert roc.train.main(options("one", batch_size=4)) == 0
    two, one = (Finished([], [], "", tmp_path / name).metrics for name in ("two", "one"))
    assert two["val"] == one["val"]
    assert two["val"]["sources"].keys() == {"a", "b"}
    for own, expected in zip(two["history"], one["history"], strict=True):
        assert own["val"] == expected["val"]
        assert own["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    models = [weights(tmp_path / name / "model") for name in ("two", "one")]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=0, atol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("config", ["cpu_two_processes.yaml", "fsdp.yaml"])
def test_an_adapter_trains_on_two_processes_as_on_one(
    config: str, merge: bool, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(config, inputs, tmp_path, capsys, lora_rank=4, merge_adapter=merge)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize("config", ["cpu_two_processes.yaml", "fsdp.yaml"])
def test_adversarial_noise_and_types_train_on_two_processes_as_on_one(
    config: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(config, inputs, tmp_path, capsys, adversarial_noise=0.5, type_loss=0.5)


# --- two processes that end before their time --------------------------------------------------------------------

BROKEN = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import roc.train
from recorded_processes import pretend_to_have_gpus
from roc.training.loop import Parts
if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    pretend_to_have_gpus()
def broken_step(learner, batches):
    {fault}
    return learner.step(batches)
sys.exit(roc.train.main(sys.argv[1:], Parts(step=broken_step)))
"""


def launch_broken(
    fault: str, options: Sequence[str], folder: Path, config: str = "cpu_two_processes.yaml"
) -> subprocess.CompletedProcess[str]:
    """A run of `train.py` on two processes with a line of Python before each step."""
    script = folder / "broken.py"
    script.write_text(BROKEN.format(fault=fault, tests=str(TESTS)), encoding="utf-8")
    return launch(CONFIGS / config, str(script), options, folder)


@pytest.mark.slow
def test_an_error_on_one_process_ends_the_others_that_wait_for_it(inputs: Path, tmp_path: Path) -> None:
    fault = "if os.environ['RANK'] == '1' and learner.progress.step == 1: raise ValueError('a broken row')"
    done = launch_broken(fault, arguments(inputs, tmp_path / "model", batch_size=2), tmp_path)  # would time out
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error on process 1: a broken row" in done.stderr.splitlines()
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu_two_processes.yaml", "fsdp.yaml"])
@pytest.mark.parametrize("trained", [{}, {"lora_rank": 4}, {"freeze_text_layers": 0}], ids=["all", "adapter", "some"])
def test_two_killed_processes_go_on_as_if_nothing_had_happened(
    config: str, trained: dict[str, Any], inputs: Path, tmp_path: Path
) -> None:
    random: dict[str, Any] = {"batch_size": 2, "average_decay": 0.9, "token_dropout": 0.2, "picture_dropout": 0.3}
    random |= trained
    whole = arguments(inputs, tmp_path / "whole", **random)
    parts = arguments(inputs, tmp_path / "parts", "--resume", "auto", checkpoint_steps=1, **random)
    fault = "if learner.progress.step == 4: os.kill(os.getpid(), signal.SIGKILL)"
    assert launch_broken(fault, parts, tmp_path, config).returncode != 0
    assert [path.name for path in sorted((tmp_path / "parts.checkpoints").iterdir())][-1].endswith("-step-000000004")
    results = [launch_broken("pass", options, tmp_path, config) for options in (whole, parts)]
    assert [done.returncode for done in results] == [0, 0], results[1].stderr[-3000:]
    assert "going on from" in results[1].stderr
    before, after = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not (tmp_path / "parts.checkpoints").exists()


# --- two processes with few pictures, or with features of them ---------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("vision_model", [json.dumps(VISION), None], ids=["pictures in some batches", "no objects"])
def test_two_processes_train_one_model_and_print_one_result(
    vision_model: str | None, inputs: Path, tmp_path: Path
) -> None:
    """Batches without a picture, and data without an object, leave parameters without a gradient."""
    options = arguments(inputs, tmp_path / "model", batch_size=2)
    if vision_model is None:
        (tmp_path / "data").mkdir()
        for split, number in (("train", 12), ("val", 5)):
            lines = [{**line(entry, split), "image": None} for entry in range(number)]
            for entry in lines:
                entry.update(entities=entry["entities"][:3], relations=entry["relations"][:2])
            write_lines(tmp_path / "data" / f"{split}.jsonl", lines)
        options = arguments(inputs, tmp_path / "model", batch_size=2, vision_model="null", data_dir=tmp_path / "data")
    train_on_two_processes(options, tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "model").values())


@pytest.mark.slow
def test_two_processes_fill_one_vision_cache_and_read_all_of_it(inputs: Path, tmp_path: Path) -> None:
    options = arguments(inputs, tmp_path / "model", "--freeze_vision", vision_cache=tmp_path / "features", batch_size=2)
    train_on_two_processes(options, tmp_path)
    [folder] = (tmp_path / "features").iterdir()
    assert len(list(folder.iterdir())) == 2, "one file for the picture of each process"
    assert len(read_features(folder)) == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "model").values())


def train_on_two_processes(options: Sequence[str], tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        [*launch, roc.train.__file__, *options], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["output_dir"] == str(tmp_path / "model")


# --- files for `accelerate launch` -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_every_shipped_file(path: Path) -> None:
    parser = launch_command_parser()
    arguments = parser.parse_args(["--config_file", str(path), "train.py", "configs/demo.yaml"])
    arguments, _, _ = _validate_launch_command(arguments)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (arguments.num_processes, arguments.num_machines) == (written["num_processes"], written["num_machines"])
    if arguments.num_processes > 1:
        fixed = arguments.num_machines > 1
        assert (arguments.main_process_port != 0) == fixed, "two runs on one machine would meet"
        arguments.main_process_port = 0  # 29500 may be taken
        environment = prepare_multi_gpu_env(arguments)
        assert int(arguments.nproc_per_node) * arguments.num_machines == arguments.num_processes
        assert environment.get("ACCELERATE_USE_FSDP") == ("true" if path.stem == "fsdp" else None)


def test_the_first_version_of_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started = SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=False)
    monkeypatch.setattr(roc.training.processes, "Accelerator", lambda **options: started)
    with pytest.raises(ValueError, match=r"FSDP works in version 2 only\. Give fsdp_version: 2"):
        start_accelerator("no")
