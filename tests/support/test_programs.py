"""All command-line programs behave alike: `--help` answers at once, and what goes wrong is one line."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging as transformers_logging

import roc.support.programs
from roc.dataset_scripts.loading import BUILDERS
from roc.support.programs import run_program, shows_progress
from roc.support.resources import PACKAGE_ROOT

# Other programs of ours start them; their errors are for the process that asked.
STRANGERS = {"publishing/stranger.py", "dataset_scripts/exporting/row_digests.py", "studies/watch.py"}
NOT_PROGRAMS = {"tests", "benchmarks", "outputs", "build", "build_space"}

# What each needs to be told before it begins its work.
DATA = ["--data_dir", "somewhere", "--output_dir", "elsewhere"]
ARGUMENTS: dict[str, list[str]] = {
    "train.py": ["configs/demo.yaml"],
    "score.py": ["--model", "a", "--dataset", "mnre", "--data_dir", "b"],
    "predict.py": ["--model", "a", "--text", "Ann met Bob"],
    "publish.py": ["--model", "a", "--repo_id", "user/roc"],
    "space/app.py": [],
    "studies/__main__.py": ["studies/mnre_ablations.yaml"],
    "studies/transfer.py": ["--model", "a", "--data_dir", "b"],
    **{f"{part}/zero_shot.py": ["--recipe", "a.yaml", "--splits", "b.json"] for part in ("evaluation", "studies")},
    "support/encoder_packages.py": ["--packages", "a"],
    "training/averaging.py": ["--models", "a", "b", "--output_dir", "c"],
    "relations/describe.py": ["--output", "a.yaml", "--model", "m"],
    "evaluation/rejection.py": ["--model", "a", "--dataset", "jsonl", "--data_dir", "b", "--relations", "c.yaml"],
    "publishing/small_checkpoints.py": ["--model", "a", "--output_dir", "b"],
    "publishing/space_folder.py": ["--output_dir", "a", "--model", "user/roc"],
    **{f"dataset_scripts/{name}.py": DATA for name in BUILDERS},
    **{f"dataset_scripts/{name}.py": ["--output_dir", "a"] for name in ("synthetic", "scenes")},
    "dataset_scripts/leak_audit.py": ["--dataset", "mnre", "--data_dir", "a"],
    "dataset_scripts/wikidata.py": ["--data_dir", "a", "--output", "b"],
    "dataset_scripts/upload.py": ["--dataset", "mnre", "--data_dir", "a", "--repo_id", "user/posts"],
}


def code() -> Iterator[tuple[str, str]]:
    """Path and text of each Python file, but for tests and measurements."""
    for path in sorted(PACKAGE_ROOT.rglob("*.py")):
        name = path.relative_to(PACKAGE_ROOT)
        if name.parts[0] not in NOT_PROGRAMS and not name.parts[0].startswith("."):
            yield name.as_posix(), path.read_text(encoding="utf-8")


PROGRAMS = [name for name, text in code() if '\nif __name__ == "__main__":' in text and name not in STRANGERS]


def test_all_programs_are_known_here() -> None:
    assert set(PROGRAMS) == set(ARGUMENTS)
    with_main = {name for name, text in code() if re.search(r"^def main\(", text, re.M)} - STRANGERS
    assert with_main - {"dataset_scripts/building/command_line.py"} <= set(PROGRAMS)


def command_of(program: str) -> list[str]:
    """How a user starts it."""
    if "/" not in program or program.startswith("space/"):
        return [program]
    return ["-m", "roc." + program.removesuffix(".py").removesuffix("/__main__").replace("/", ".")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_answers_without_what_takes_seconds_to_import(program: str) -> None:
    command = [sys.executable, "-X", "importtime", *command_of(program), "--help"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_ROOT.parent)} if PACKAGE_ROOT.name == "roc" else os.environ
    done = subprocess.run(command, cwd=PACKAGE_ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage: " in done.stdout
    imported = set(re.findall(r"\| +(\S+)$", done.stderr, re.M))
    assert "argparse" in imported, "the imports were not listed"
    assert not imported & {"torch", "transformers", "datasets", "accelerate", "gradio", "pandas"}


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError])
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_goes_wrong_is_one_line(
    program: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error("it is not there:\n  look elsewhere")

    monkeypatch.setattr(roc.support.programs, "_set_up_logging", fail)  # the first that every program does
    monkeypatch.setattr(sys, "argv", [program, *ARGUMENTS[program]])
    monkeypatch.syspath_prepend(PACKAGE_ROOT / "space")
    monkeypatch.chdir(PACKAGE_ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PACKAGE_ROOT / program), run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: it is not there: look elsewhere\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_usage_is_exit_code_2(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if program == "train.py" or program.endswith("zero_shot.py"):
        pytest.skip("its options are the fields of the settings, which its own tests misspell")
    monkeypatch.setattr(sys, "argv", [program, *ARGUMENTS[program], "--no_such_option"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PACKAGE_ROOT / program), run_name="__main__")
    assert ended.value.code == 2
    assert "--no_such_option" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, text in code() if "subprocess.run(" in text])
def test_no_process_is_waited_for_without_a_limit(name: str) -> None:
    if name == "relations/review.py":
        pytest.skip("it waits for the user's own editor")
    calls = [node for node in ast.walk(ast.parse((PACKAGE_ROOT / name).read_text())) if isinstance(node, ast.Call)]
    started = [call for call in calls if ast.unparse(call.func) == "subprocess.run"]
    assert started
    assert all("timeout" in {keyword.arg for keyword in call.keywords} for call in started)


# ---------------------------------------------------------------------------------------------------------------------
# What `run_program` does


def fail(error: BaseException) -> Any:
    raise error


def test_a_result_is_one_json_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> dict[str, Any]:
        logging.getLogger("roc.test").info("a message")
        return {"text": "é\n", "score": 0.5}

    assert run_program(program) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"text": "é\n", "score": 0.5}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp932", "koi8-r", "utf-8", "utf-16"])
@pytest.mark.parametrize("errors", ["strict", "replace", "ignore"])
def test_a_stdout_of_any_encoding_gets_the_whole_result(
    encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors=errors))
    result = {"text": "é 在巴黎 กรุงเทพ दिल्ली 🙂", "picture": "outputs/\udcff.png"}  # a path of bytes that are no UTF-8
    for own in (result, {"text": result["text"]}, {"text": "é"}):
        assert run_program(lambda: own) == 0  # noqa: B023
        sys.stdout.flush()
        assert json.loads(written.getvalue().decode(encoding).splitlines()[-1]) == own


@pytest.mark.parametrize("failed", [0, 2])
def test_an_incomplete_result_is_printed_all_the_same(failed: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_program(lambda: {"failed": failed}, incomplete=lambda result: result["failed"] > 0)
    assert code == (1 if failed else 0)
    assert json.loads(capsys.readouterr().out) == {"failed": failed}


def test_an_empty_result_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(dict) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong\n  value"),
        TypeError("wrong value"),
        FileNotFoundError("wrong value"),
        ImportError("wrong value"),
        FloatingPointError("wrong value"),
        StrictDataclassError("wrong value"),
    ],
)
def test_an_expected_error_is_one_line_on_stderr(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(lambda: fail(error)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "error: wrong value"


def test_an_error_on_one_of_several_processes_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(transformers_logging, "set_verbosity_error", lambda: None)  # for all tests to come
    assert run_program(lambda: fail(ValueError("wrong value"))) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error on process 3: wrong value"


@pytest.mark.parametrize(
    ("rank", "watched", "shown"), [("0", True, True), ("1", True, False), ("0", False, False), (None, True, True)]
)
def test_progress_is_shown_to_somebody_who_watches_once(
    rank: str | None, watched: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched, raising=False)
    assert shows_progress() == shown


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        run_program(lambda: fail(KeyError("a bug")))


def test_a_number_that_json_does_not_have_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(lambda: {"loss": float("nan")}) == 1
    assert capsys.readouterr().out == ""
