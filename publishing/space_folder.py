"""Build the folder of a Space on the Hub: `python -m roc.publishing.space_folder --output_dir build_space ...`.

A Space is a repository of its own. Its folder holds the app, a copy of this package beside it as `roc/` (nothing but
`requirements.txt` is to be installed), and the example pictures. Uploading it is one line:
`hf upload USER/SPACE build_space . --repo-type space`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from roc.support.files import replace_folder
from roc.support.programs import run_program
from roc.support.resources import PACKAGE_ROOT

APP_FILES = ("*.py", "*.html", "*.js", "*.css", "examples.json", "requirements.txt")
PACKAGES = ("inference", "relations", "support")  # what the app imports of ROC, besides the model
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def build_space(folder: str | os.PathLike[str], *, model: str) -> list[str]:
    """Build a Space's folder: complete, or not at all.

    Args:
        folder: Where; a folder that is not there yet, or empty.
        model: Hub id of the model that the Space shows.

    Returns:
        The files' paths in the folder, sorted.

    Raises:
        ValueError: If `model` is no Hub id.
        FileExistsError: If the folder holds anything.
        FileNotFoundError: If this is not a checkout of ROC's repository: an installed package has no app.
    """
    source, folder = PACKAGE_ROOT / "space", Path(folder)
    if not REPO_ID.fullmatch(model):
        raise ValueError(f"{model!r} is no Hub id: a Space loads its model from the Hub. Type --model USER/NAME.")
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source}. Build the Space from a checkout of ROC's repository.")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"The folder {folder} is not empty. Remove it, or name another one.")
    with replace_folder(folder) as new:
        for pattern in APP_FILES:
            _copy(sorted(source.glob(pattern)), new)
        _copy(sorted(PACKAGE_ROOT.glob("*.py")), new / "roc")
        (new / "roc" / "__init__.py").touch()  # so that this copy, and no installed one, is the package
        for part in PACKAGES:
            for pattern in ("*.py", "*.yaml"):
                _copy(sorted((PACKAGE_ROOT / part).glob(pattern)), new / "roc" / part)
        _copy([PACKAGE_ROOT / "examples" / name for name in _example_pictures(source)], new / "examples")
        _copy([PACKAGE_ROOT / "LICENSE"], new)
        page = (source / "README.md").read_text(encoding="utf-8")
        (new / "README.md").write_text(name_model(page, model), encoding="utf-8")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def name_model(page: str, model: str) -> str:
    """The page of a Space with the model in its front matter, where `app.py` and the Hub read it.

    Args:
        page: `README.md`, front matter first.
        model: Hub id of the model.
    """
    _, front_matter, body = page.split("---\n", 2)
    fields = yaml.safe_load(front_matter) | {"models": [model]}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n{body}"


def _example_pictures(source: Path) -> list[str]:
    examples = json.loads((source / "examples.json").read_text(encoding="utf-8"))
    return sorted({example["image"] for example in examples if example["image"]})


def _copy(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_program(lambda: _build(options))


def _build(options: argparse.Namespace) -> dict[str, Any]:
    return {"output_dir": options.output_dir, "files": build_space(options.output_dir, model=options.model)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m roc.publishing.space_folder", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--output_dir", required=True, help="folder to build, new or empty")
    parser.add_argument("--model", required=True, help="Hub id of the model that the Space shows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
