"""The command line of the builders."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from roc.dataset_scripts.building.builder import MissingImages, RocDatasetBuilder
from roc.dataset_scripts.schema import SPLITS
from roc.support.locks import scratch_folder
from roc.support.programs import run_program

PATHS = ("data_dir", "output_dir", "description")  # options that name a file or folder


def main(builder_class: type[RocDatasetBuilder], argv: Sequence[str] | None = None) -> int:
    """Turn raw files into a folder of Parquet files, a card and a marker; returns the exit code."""
    options = _parser(builder_class).parse_args(argv)
    return run_program(lambda: _build_and_export(builder_class, **vars(options)))


def command_of(module: str, options: Mapping[str, Any]) -> str:
    """Return what to type for the same again, with names instead of paths: a card is public, this machine is not."""
    words = ["python", "-m", f"roc.dataset_scripts.{module}"]
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            value = Path(value).resolve().name if name in PATHS else value
            words += value if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def _build_and_export(builder_class: type[RocDatasetBuilder], **options: Any) -> dict[str, Any]:
    command, output_dir = command_of(builder_class.NAME, options), options.pop("output_dir")
    # The Parquet folder is what stays; the intermediate Arrow files go with the temporary folder.
    with scratch_folder("build") as cache_dir:
        marker = builder_class(**options, cache_dir=cache_dir).export(output_dir, command=command)
    return {"output_dir": output_dir, "builder": builder_class.NAME, "splits": marker["splits"]}


def _parser(builder_class: type[RocDatasetBuilder]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m roc.dataset_scripts.{builder_class.NAME}",
        description=f"{builder_class.TITLE}: raw files to checked Parquet with the pictures inside.",
    )
    parser.add_argument("--data_dir", required=True, help="folder of the raw files")
    parser.add_argument("--output_dir", required=True, help="folder to write; an older dataset there is replaced")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="splits to build (default: those that exist)")
    parser.add_argument(
        "--missing_images", choices=get_args(MissingImages), default="error", help="if a row's picture is not there"
    )
    parser.add_argument("--entity_typer", help="'spacy' or a token-classification model; default: leave types null")
    if builder_class.PARTS:
        about = f"some of {', '.join(builder_class.PARTS)} (default: those that exist)"
        parser.add_argument("--parts", nargs="+", metavar="PART", help=about)
    for flag, about in builder_class.FLAGS.items():
        parser.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, default=False, help=about)
    return parser
