"""Publish a trained model: `python publish.py --model DIR --repo_id USER/NAME`.

Builds the folder for the Hub, checks it in a process that cannot import `roc`, uploads it in one commit, downloads that
into an empty cache, checks it again, and tags it. The token is that of `hf auth login`, or in HF_TOKEN.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from roc.support.programs import ENTITY_TYPER_HELP, run_program, shows_progress
from roc.support.reading import read_json

ASSETS = "assets"  # pictures of the card

logger = logging.getLogger("roc.publish")


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_program(lambda: _publish(options))


def _publish(options: argparse.Namespace) -> dict[str, Any]:
    from huggingface_hub import HfApi  # here, as all below: they take seconds to import
    from huggingface_hub.utils import disable_progress_bars

    from roc.publishing.check import check_in_clean_process
    from roc.support.hub_upload import check_login, check_names, publish_folder

    options.tag = options.tag or f"v{version('roc')}"
    check_names(options.repo_id, options.tag)
    if not shows_progress():
        disable_progress_bars()
    api = HfApi()
    if not options.dry_run:
        check_login(api)
    files, expected = _build(options)
    check_in_clean_process(options.build_dir, expected)
    logger.info("it answers as the trained model where roc is not installed")
    result = {"repo_id": options.repo_id, "tag": options.tag, "build_dir": options.build_dir}
    if options.dry_run:
        return result | {"files": files, "bytes": sum(files.values())}
    commit = publish_folder(
        api,
        options.build_dir,
        repo_id=options.repo_id,
        tag=options.tag,
        private=options.private,
        check=lambda commit, cache: check_in_clean_process(options.repo_id, expected, revision=commit, cache=cache),
    )
    return result | {"commit": commit, "url": f"{api.endpoint}/{options.repo_id}/tree/{options.tag}"}


def _build(options: argparse.Namespace) -> tuple[dict[str, int], dict[str, Any]]:
    """Build the folder; returns its files with their sizes, and the answers that the model has to give."""
    from roc.inference.posts import load_model
    from roc.publishing.check import expected_answers
    from roc.publishing.folder import build_hub_folder

    model, processor = load_model(options.model, entity_typer=options.entity_typer)
    model.to("cpu")
    files = build_hub_folder(
        options.build_dir,
        model,
        processor,
        add=lambda folder: _add_card(folder, options),
        language=options.language,
    )
    logger.info("%s is built: %d files, %.1f MB", options.build_dir, len(files), sum(files.values()) / 1e6)
    return files, expected_answers(model, processor)


def _add_card(folder: Path, options: argparse.Namespace) -> None:
    from roc.publishing.card import write_model_card

    examples = None if options.examples is None else _add_examples(folder, Path(options.examples))
    write_model_card(
        folder,
        [options.model, *options.other_seeds],
        repo_id=options.repo_id,
        revision=options.tag,
        test_scores=options.test_scores,
        robustness=options.robustness,
        zero_shot=options.zero_shot,
        everyday=options.everyday,
        examples=examples,
        data_note=None if options.data_note is None else Path(options.data_note).read_text(encoding="utf-8"),
        dataset_id=options.dataset_id,
        language=options.language,
    )


def _add_examples(folder: Path, file: Path) -> list[dict[str, Any]]:
    """Copy the pictures of the examples in a file into the folder; returns the examples, which name them there."""
    examples = read_json(file)
    (folder / ASSETS).mkdir()
    for number, post in enumerate(examples):
        if "image" in post:
            picture = file.parent / post["image"]
            post["image"] = f"{ASSETS}/{number}{picture.suffix.lower()}"
            shutil.copyfile(picture, folder / post["image"])
    return examples


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="publish.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder that train.py wrote")
    parser.add_argument("--repo_id", required=True, help="where to: USER/NAME on the Hub")
    parser.add_argument("--tag", help="name of this version; v and the version of ROC if not given")
    parser.add_argument("--private", action="store_true", help="for nobody else to see")
    parser.add_argument("--dry_run", action="store_true", help="build and check; tell what would be uploaded")
    parser.add_argument("--build_dir", default="build_hub", help="folder to build, replaced as a whole")
    parser.add_argument("--entity_typer", help=ENTITY_TYPER_HELP)
    card = parser.add_argument_group("the model card")
    card.add_argument("--other_seeds", nargs="+", default=[], help="folders of runs that differ in the seed")
    card.add_argument("--test_scores", nargs="+", default=[], help="what score.py printed, a file for each run")
    card.add_argument("--robustness", help="file with what benchmarks/robustness.py printed")
    card.add_argument("--zero_shot", help="results.json of python -m roc.evaluation.zero_shot about the recipe")
    card.add_argument("--everyday", help="what score.py printed about the sentences in tests/everyday")
    card.add_argument("--examples", help="JSON file with posts to show: text, head, tail, image (path from there)")
    card.add_argument("--data_note", help="Markdown file that says where the data come from, and their licence")
    card.add_argument("--dataset_id", help="the data set on the Hub")
    card.add_argument("--language", help="code of the language of texts and descriptions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
