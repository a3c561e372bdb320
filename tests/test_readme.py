"""What README.md, docs/training.md and docs/relations.md tell their readers to type works."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "training.md", ROOT / "docs" / "relations.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.replace("\\\n", "").splitlines()]


def of_kind(kind: str) -> list[str]:
    return [block for own, block in BLOCKS if own == kind]


@functools.cache
def help_of(module: str) -> str:
    return subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize("block", of_kind("python"))
def test_a_python_block_runs_and_prints_what_it_promises(block: str, tmp_path: Path) -> None:
    """With a small untrained model in place of the demo's: the lines have the promised form."""
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert "outputs/demo/model" in block
    code = block.replace("outputs/demo/model", str(tmp_path / "model"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    promised = of_kind("text")[0].splitlines()
    form = re.compile(r"-?0\.\d{3} \S+: .+|1\.000 \S+: .+")
    assert len(run.stdout.splitlines()) == len(promised)
    assert all(form.fullmatch(line) for line in [*promised, *run.stdout.splitlines()])


def test_the_first_example_has_at_most_twelve_lines() -> None:
    assert len(of_kind("python")[0].splitlines()) <= 12


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [match[1] for line in COMMANDS if (match := re.match(r"make (\w+)", line))]
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("command", [line for line in COMMANDS if ".py" in line or "roc.dataset_scripts" in line])
def test_a_command_names_a_program_and_flags_that_exist(command: str) -> None:
    program = re.search(r"(\w+)\.py|-m roc\.(dataset_scripts\.\w+)", command)
    assert program is not None
    text = help_of(f"roc.{program[1] or program[2]}")
    flags = re.findall(r"(--\w+)", command.split(program[0], 1)[1])
    assert text
    assert all(re.search(rf"{flag}\b", text) for flag in flags)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\(([^)#:]+)\)|`([\w/]+\.(?:md|yaml|py|png))`", TEXT))))
def test_a_file_that_is_named_exists(name: tuple[str, str]) -> None:
    path = name[0] or name[1]
    assert path.startswith("outputs/") or (ROOT / path).exists()
