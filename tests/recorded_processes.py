"""What launched processes run: `train.py`, then `score.py`, with a record of what each process saw."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from tiny_runs import main

import roc.score
from roc.samples.batching import SampleCollator
from roc.training.learner import Learner


def record(folder: Path, train_arguments: Sequence[str], score_arguments: Sequence[str]) -> None:
    """Train and score; write what this process saw into `folder`, as `RANK.json`.

    The record has `steps` (of each step the `loss`, and of each of its `batches` the ids of the rows that this process
    learnt from) and `scored` (the ids of the rows that it predicted, in training and by `score.py`).
    """
    steps: list[dict[str, Any]] = []
    scored: list[str] = []
    collate = SampleCollator.__call__

    def recorded_step(learner: Learner, batches: list[Any]) -> float:
        loss = learner.step(batches)
        steps.append({"loss": loss, "batches": [row_ids for row_ids, _ in batches]})
        return loss

    def recorded_collate(self: SampleCollator, items: Any) -> Any:
        row_ids, batch = collate(self, items)
        if "labels" not in batch:
            scored.extend(row_ids)
        return row_ids, batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleCollator, "__call__", recorded_collate)
        patch.setattr(Accelerator, "end_training", lambda self: None)  # the second program needs the processes too
        assert main(train_arguments, step=recorded_step) == 0
        assert roc.score.main(score_arguments) == 0
    content = json.dumps({"steps": steps, "scored": scored})
    (folder / f"{os.environ.get('RANK', '0')}.json").write_text(content, encoding="utf-8")


def pretend_to_have_gpus() -> None:
    """`accelerate` uses FSDP on accelerators only; PyTorch can do it on the CPU."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        pretend_to_have_gpus()
    split = sys.argv.index("--and--")
    record(Path(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :])
    Accelerator().end_training()  # as both programs do; PyTorch may abort a process that ends with its group
