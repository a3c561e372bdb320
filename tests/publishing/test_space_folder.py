"""The folder of a Space: what is in it, and that it runs by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import tiny_model, tiny_processor

from roc.publishing.space_folder import build_space, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "build_space"
    build_space(folder, model="user/roc-tiny")
    return folder


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def pins(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_folder_holds_the_app_the_package_and_the_examples(built: Path) -> None:
    for name in ("app.py", "style.css", "roc/modeling_roc.py", "roc/relations/mnre.yaml", "examples/couple.png"):
        assert (built / name).is_file(), name
    examples = json.loads((built / "examples.json").read_text(encoding="utf-8"))
    assert {example["image"] for example in examples if example["image"]} == {
        path.name for path in (built / "examples").iterdir()
    }
    assert not [path for path in built.rglob("*") if "test" in path.name or path.suffix in (".pyc", ".bin", ".pt")]


def test_the_page_names_the_model_and_what_the_hub_needs(built: Path) -> None:
    fields = front_matter(built)
    assert fields["models"] == ["user/roc-tiny"]
    assert (fields["sdk"], fields["app_file"], fields["license"]) == ("gradio", "app.py", "apache-2.0")
    assert len(fields["short_description"]) <= 60, "the Hub's limit"
    assert "models" not in front_matter(ROOT / "space"), "the source names no model of anybody's"


def test_the_space_is_pinned_to_the_versions_that_the_tests_run_with(built: Path) -> None:
    wanted, tested = pins(built / "requirements.txt"), pins(ROOT / "constraints.txt")
    assert wanted.items() <= tested.items()
    assert front_matter(built)["sdk_version"] == tested["gradio"] == wanted["gradio"]


PROGRAM = """
import sys
sys.modules |= dict.fromkeys(sys.argv[2:])  # imports of them fail, as where they are not installed
import answers, serving, visitor
from roc.inference.posts import load_model
shared = answers.SharedModel(*load_model(sys.argv[1]))
post = visitor.read_visitors_post("Ann met Bob", None, ["Ann", "Bob"], None)
print(shared.rank(post)["predictions"][0]["relations"][0]["relation"])
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "roc"), sep="\\n")
"""
NOT_REQUIRED = (
    "datasets",
    "accelerate",
    "peft",
    "evaluate",
    "usearch",
    "matplotlib",
    "bitsandbytes",
    "gradio",
)


def test_the_folder_answers_with_its_own_copy_of_the_package_and_what_it_requires(built: Path, tmp_path: Path) -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *NOT_REQUIRED]
    ran = subprocess.run(command, cwd=built, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    relation, *files = ran.stdout.split()
    assert relation in model.config.relation_names
    assert len(files) > 10
    assert all(Path(file).is_relative_to(built) for file in files), files


@pytest.mark.parametrize("model", ["roc", "../outputs/demo/model", "https://example.org/a/b", ""])
def test_a_space_shows_a_model_of_the_hub(tmp_path: Path, model: str) -> None:
    with pytest.raises(ValueError, match="is no Hub id"):
        build_space(tmp_path / "space", model=model)


def test_a_folder_that_holds_anything_is_left_alone(built: Path) -> None:
    with pytest.raises(FileExistsError, match="is not empty"):
        build_space(built, model="user/roc")


def test_an_installed_package_builds_no_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("roc.publishing.space_folder.PACKAGE_ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="from a checkout"):
        build_space(tmp_path / "space_folder", model="user/roc")


def test_the_program_prints_what_it_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output_dir", str(tmp_path / "space"), "--model", "user/roc"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "roc/inference/posts.py" in printed["files"]
    assert main(["--output_dir", str(tmp_path / "space"), "--model", "user/roc"]) == 1
    assert "is not empty" in capsys.readouterr().err
