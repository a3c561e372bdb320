"""What README.md and most pages of docs/ tell their readers to type works; the others have tests of their own."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in ("training", "relations", "publishing"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.replace("\\\n", "").splitlines()]


def python_blocks(page: Path) -> list[tuple[str, str]]:
    """The Python blocks of a page, each with the block of text that follows it: what it prints; else empty."""
    blocks = r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?"
    return re.findall(blocks, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


PYTHON_BLOCKS = [
    (page.relative_to(ROOT).as_posix(), number) for page in PAGES for number in range(len(python_blocks(page)))
]


@functools.cache
def help_of(*program: str) -> str:
    return subprocess.run([sys.executable, *program, "--help"], capture_output=True, text=True, cwd=ROOT).stdout


@pytest.fixture(scope="module")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model in place of the demo's."""
    folder, processor = tmp_path_factory.mktemp("demo"), tiny_processor()
    tiny_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("page", "number"), PYTHON_BLOCKS)
def test_a_python_block_runs_and_prints_what_it_promises(page: str, number: int, tiny_demo: Path) -> None:
    """The model is another one, so of the printed lines the number and the form are compared."""
    block, promised = python_blocks(ROOT / page)[number]
    assert "outputs/demo/model" in block
    code = block.replace("outputs/demo/model", str(tiny_demo))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    form = re.compile(r"-?0\.\d{3} \S+: .+|1\.000 \S+: .+")
    assert run.stdout.splitlines()
    if promised:
        assert len(run.stdout.splitlines()) == len(promised.splitlines())
    assert all(form.fullmatch(line) for line in [*promised.splitlines(), *run.stdout.splitlines()])


def test_every_python_block_is_run() -> None:
    """Also one that is indented, or has a word behind the language."""
    num_blocks = sum(len(re.findall(r"^\s*```+\s*(?:python|py|pycon)\b", page.read_text(), re.M)) for page in PAGES)
    assert len(PYTHON_BLOCKS) == num_blocks > 0
    assert python_blocks(ROOT / "README.md")[0][1], "README's first example shows what it prints"


def test_the_first_example_has_at_most_twelve_lines() -> None:
    assert len(python_blocks(ROOT / "README.md")[0][0].splitlines()) <= 12


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [match[1] for line in COMMANDS if (match := re.match(r"make (\w+)", line))]
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("command", [line for line in COMMANDS if re.search(r"\.py\b|-m roc\.", line)])
def test_a_command_names_a_program_and_flags_that_exist(command: str) -> None:
    program = re.search(r"(?P<file>[\w/]+\.py)|-m (?P<module>roc\.[\w.]+)", command)
    assert program is not None
    if "space/" in command:
        pytest.importorskip("gradio")
    text = help_of(program["file"]) if program["file"] else help_of("-m", program["module"])
    flags = re.findall(r"(--\w+)", command.split(program[0], 1)[1])
    assert text
    assert all(re.search(rf"{flag}\b", text) for flag in flags)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\(([^)#:]+)\)|`([\w/]+\.(?:md|yaml|py|png))`", TEXT))))
def test_a_file_that_is_named_exists(name: tuple[str, str]) -> None:
    path = name[0] or name[1]
    assert path.startswith(("outputs/", "build_hub/", "build_space/")) or (ROOT / path).exists()
