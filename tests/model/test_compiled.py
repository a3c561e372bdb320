"""`torch.compile`, as accelerate has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import arguments, history

import roc.train
from roc.modeling_roc import RocModel


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_and_its_folder_is_as_ever(inputs: Path, tmp_path: Path) -> None:
    """The backend traces and splits the model as every backend's does, and runs the pieces as they are."""
    folders = {}
    for backend in ("no", "eager"):
        folders[backend] = tmp_path / backend
        launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1"]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", backend, roc.train.__file__]
        options = arguments(inputs, folders[backend], checkpoint_steps=2)
        environment = os.environ | {"TORCH_LOGS": "dynamo", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([*launch, *options], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("torchdynamo start tracing" in done.stderr) == (backend == "eager")
    losses = {backend: [epoch["loss"] for epoch in history(folder)] for backend, folder in folders.items()}
    assert losses["eager"] == pytest.approx(losses["no"], abs=1e-5)
    plain = RocModel.from_pretrained(folders["no"]).state_dict()
    for name, tensor in RocModel.from_pretrained(folders["eager"]).state_dict().items():
        torch.testing.assert_close(tensor, plain[name], rtol=0, atol=1e-4, msg=name)
