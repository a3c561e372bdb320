"""The describing program as it is run, against `transformers serve` with real, tiny language models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from language_server import ANSWER, save_trained_model, save_untrained_model, transformers_serve

from roc.relations import describe
from roc.relations.files import load_drafts, read_relation_file

KEY = "sk-not-to-be-shown"
GIVEN = """
version: 1
language: en
none_relation: none
relations:
- name: none
  descriptions: [Nothing relates the two.]
- name: employer
- name: owner
  tail_types: [object]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running server: its base URL, and the names of its models, one that answers well and one that babbles."""
    pytest.importorskip("uvicorn")
    folder = tmp_path_factory.mktemp("served")
    save_trained_model(folder / "trained")
    save_untrained_model(folder / "untrained")
    with transformers_serve(folder / "log.txt") as url:
        yield {"url": url, "trained": str(folder / "trained"), "untrained": str(folder / "untrained")}


@pytest.fixture
def run(
    served: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Runs the program; gives (exit code, the JSON line or None, what it showed and logged)."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("OPENAI_BASE_URL", served["url"])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run_main(*arguments: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        caplog.clear()
        code = describe.main(arguments)
        printed = capsys.readouterr()
        shown = caplog.text + printed.err
        assert KEY not in printed.out + shown
        return code, json.loads(printed.out or "null"), shown

    return run_main


def test_labels_become_a_relation_file_that_is_reviewed_and_loaded(
    run: Any, served: dict[str, str], tmp_path: Path
) -> None:
    given, output = tmp_path / "in.yaml", tmp_path / "out.yaml"
    given.write_text(GIVEN)
    write = [
        "--relations",
        str(given),
        "--output",
        str(output),
        "--model",
        served["trained"],
        "--num_descriptions",
        "2",
    ]
    code, result, _ = run(*write)
    assert code == 0
    assert (result["written"], result["kept"], result["failed"], result["failures"]) == (2, 1, 0, {})

    none, employer, owner = load_drafts(output)["relations"]
    assert none == {"name": "none", "descriptions": ["Nothing relates the two."], "head_types": [], "tail_types": []}
    assert employer["descriptions"] == owner["descriptions"] == ANSWER["descriptions"]
    assert (employer["head_types"], employer["tail_types"]) == (["person"], ["organization"])
    assert (owner["head_types"], owner["tail_types"]) == (["person"], ["object"])
    assert employer["reviewed"] is owner["reviewed"] is False
    assert employer["provenance"]["model"] == served["trained"]
    assert employer["provenance"]["notes"]["examples"] == ANSWER["examples"]
    assert KEY not in output.read_text()

    # a person reads the file, rewords and accepts the one, and does without the other
    edited = yaml.safe_load(output.read_text())
    _, employer, owner = edited["relations"]
    employer["descriptions"][1] = "A person has a job there."
    employer["reviewed"] = True
    owner["descriptions"] = []
    output.write_text(yaml.safe_dump(edited))
    with pytest.raises(ValueError, match="'owner' needs at least one description"):
        read_relation_file(output)

    code, result, _ = run(*write)
    assert (code, result["written"], result["kept"], result["unreviewed"]) == (0, 1, 2, 1)
    inventory = read_relation_file(output)
    assert inventory.none_relation == "none"
    assert inventory.relations[1]["descriptions"] == [ANSWER["descriptions"][0], "A person has a job there."]
    assert inventory.relations[2] == {
        "name": "owner",
        "descriptions": ANSWER["descriptions"],
        "head_types": ["person"],
        "tail_types": ["object"],
    }

    before = output.read_bytes()
    code, result, _ = run(*write)
    assert (code, result["written"], result["kept"]) == (0, 0, 3)
    assert output.read_bytes() == before


def test_a_model_that_babbles_is_asked_again_and_reported_and_nothing_is_written(
    run: Any, served: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out.yaml"
    write = ["--names", "employer", "--output", str(output), "--model", served["untrained"]]
    code, result, log = run(*write, "--max_retries", "1")
    assert code == 1
    assert (result["written"], result["kept"], result["failed"]) == (0, 0, 1)
    assert "no JSON object with the keys descriptions, head_types, tail_types" in result["failures"]["employer"]
    assert "employer: no usable answer" in log
    assert not output.exists()

    code, result, _ = run(*write, "--num_descriptions", "2", "--max_retries", "0", "--model", served["trained"])
    assert (code, result["written"]) == (0, 1)


def test_an_answer_of_another_size_than_asked_for_is_refused(run: Any, served: dict[str, str], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("employer\n\n  owner of \n")
    output = tmp_path / "out.yaml"
    write = ["--relations", str(names), "--output", str(output), "--model", served["trained"], "--max_retries", "0"]
    code, result, _ = run(*write, "--num_descriptions", "4")
    assert code == 1
    assert result["failures"].keys() == {"employer", "owner of"}
    assert "`descriptions` holds 2 texts; write 4 different ones" in result["failures"]["employer"]


def test_a_model_that_the_server_does_not_have_is_an_error(run: Any, tmp_path: Path) -> None:
    write = [
        "--names",
        "employer",
        "--output",
        str(tmp_path / "out.yaml"),
        "--model",
        "/no/model",
        "--max_retries",
        "0",
    ]
    code, result, log = run(*write)
    assert (code, result) == (1, None)
    assert "error: The server 127.0.0.1:" in log
    assert "fails (status 500: Internal Server Error). (0 of 1 relations are written, and kept.)" in log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "a", "--max_retries", "-1"], "max_retries=-1 is out of range"),
        (["--names", "a", "--num_descriptions", "0"], "num_descriptions=0 is out of range"),
        (["--names", "a", "--prompt", "no.txt"], "There is no file 'no.txt'"),
        ([], "give --relations FILE or --names NAME"),
    ],
)
def test_wrong_values_are_one_line_and_leave_no_file(
    run: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, result, log = run("--output", str(tmp_path / "out.yaml"), "--model", "m", *arguments)
    assert (code, result) == (1, None)
    assert message in log.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "a"], "the following arguments are required: --model"),
        (["--model", "m", "--names", "a", "--relations", "b.yaml"], "not allowed with argument"),
    ],
)
def test_wrong_usage_has_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        describe.main(["--output", str(tmp_path / "out.yaml"), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_answers_without_the_libraries_that_take_seconds_to_import() -> None:
    slow = {"torch", "transformers", "datasets", "huggingface_hub"}
    program = "import sys; from roc.relations.describe import main\ntry: main(['--help'])\nexcept SystemExit: "
    command = [sys.executable, "-c", f"{program}print(sorted({slow} & sys.modules.keys()), file=sys.stderr)"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.strip()) == (0, "[]")
    assert "--num_descriptions" in ran.stdout
