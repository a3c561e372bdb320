"""Publishes a dataset on the Hub: Parquet with the pictures inside, in several configurations, with its card.

The folder is built first, under `--output_dir`, and goes up in one commit. Then it is loaded back at that commit into
empty caches, map-style and streaming, and compared row by row and picture by picture with what was built.

Data without a known licence (MNRE, MORE, and JSON lines unless `--license` says otherwise) goes to a private
repository, and only with `--i_have_the_rights`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, get_args

from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.exporting.options import PublishOptions
from roc.dataset_scripts.exporting.variants import VARIANTS
from roc.dataset_scripts.loading import DATASETS
from roc.dataset_scripts.schema import SPLITS
from roc.support.programs import run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: publish a dataset and print what went, or would go, as one JSON line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit code, as `run_program`.
    """
    options = PublishOptions(**vars(_parser().parse_args(argv)))
    return run_program(lambda: _publish(options))


def _publish(options: PublishOptions) -> dict[str, Any]:
    from roc.dataset_scripts.exporting.upload import publish

    return publish(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m roc.dataset_scripts.publish",
        description="Publish a dataset on the Hub: Parquet with the pictures inside, and its card.",
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS, help="what is in data_dir")
    add("--data_dir", required=True, help="folder of the raw files, or one that a builder or a generator wrote")
    add("--repo_id", required=True, metavar="USER/NAME", help="the dataset's repository, made where there is none")
    add("--output_dir", help="folder to build first (default: outputs/publish/NAME); an older one is replaced")
    about = "; ".join(f"{name}: {variant.about}" for name, variant in VARIANTS.items())
    add("--configs", nargs="*", metavar="NAME", help=f"besides all rows (default: those that differ). {about}")
    add("--splits", nargs="+", choices=SPLITS, help="splits to publish (default: those that exist)")
    add("--missing_images", choices=get_args(MissingImages), default="error", help="if a row's picture is not there")
    add("--entity_typer", help="'spacy' or a token-classification model; default: leave types null")
    yes_no = argparse.BooleanOptionalAction
    add("--private", action=yes_no, help="who sees it (default: private where no licence is known)")
    add("--i_have_the_rights", action="store_true", help="the authors of texts and pictures allow this upload")
    add("--license", metavar="ID", help="jsonl: licence of your data, as the Hub names it, such as cc-by-4.0")
    add("--title", help="jsonl: heading of the card")
    add("--description", metavar="FILE", help="jsonl: Markdown for the card: what it is, where it comes from")
    add("--tag", help="name of this version (default: v and the version of the builder)")
    add("--dry_run", action="store_true", help="build the folder and say what would go; the Hub is not asked")
    return parser


if __name__ == "__main__":
    sys.exit(main())
