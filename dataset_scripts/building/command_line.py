"""The command line of the builders."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from roc.dataset_scripts.building.builder import MissingImages, RocDatasetBuilder
from roc.dataset_scripts.schema import SPLITS
from roc.support.programs import run_program


def main(builder_class: type[RocDatasetBuilder], argv: Sequence[str] | None = None) -> int:
    """Command line of a builder: raw files to a folder of Parquet files, a card and a marker.

    Args:
        builder_class: The builder.
        argv: The arguments; None for those of the process.

    Returns:
        The exit code, as `run_program`.
    """
    args = _parser(builder_class).parse_args(argv)
    return run_program(lambda: _build_and_export(builder_class, args))


def _build_and_export(builder_class: type[RocDatasetBuilder], args: argparse.Namespace) -> dict[str, Any]:
    # The Parquet folder is what stays; the intermediate Arrow files go with the temporary folder.
    with tempfile.TemporaryDirectory() as cache_dir:
        builder = builder_class(
            args.data_dir,
            splits=args.splits,
            missing_images=args.missing_images,
            entity_typer=args.entity_typer,
            cache_dir=cache_dir,
            **{flag: getattr(args, flag) for flag in builder_class.FLAGS},
        )
        marker = builder.export(args.output_dir, command=_command(builder_class, args))
    return {"output_dir": args.output_dir, "builder": builder_class.NAME, "splits": marker["splits"]}


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
    for flag, about in builder_class.FLAGS.items():
        parser.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, default=False, help=about)
    return parser


def _command(builder_class: type[RocDatasetBuilder], args: argparse.Namespace) -> str:
    """The command for the card, with folder names instead of this machine's paths."""
    words = ["--data_dir", Path(args.data_dir).resolve().name, "--output_dir", Path(args.output_dir).resolve().name]
    words += ["--splits", *args.splits] if args.splits else []
    words += ["--missing_images", args.missing_images]
    words += ["--entity_typer", args.entity_typer] if args.entity_typer else []
    words += [f"--{flag}" for flag in builder_class.FLAGS if getattr(args, flag)]
    return " ".join([f"python -m roc.dataset_scripts.{builder_class.NAME}", *words])
