"""Score a model: `python score.py --model DIR_OR_REPO --dataset mnre --data_dir DIR --split val`.

`accelerate launch score.py` shares the work among processes. Rows that the model cannot read stop it, or count as not
found (`--unreadable_rows skip`); `num_skipped` then says how many they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.loading import DATASETS
from roc.support.files import atomic_write
from roc.support.programs import ENTITY_TYPER_HELP, run_program
from roc.support.reading import read_yaml

if TYPE_CHECKING:
    from roc.evaluation.predictions import Predictions
    from roc.modeling_roc import RocModel
    from roc.processing_roc import RocProcessor


def main(arguments: Sequence[str] | None = None) -> int:
    """Score with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_program(lambda: _score(options))


def _score(options: argparse.Namespace) -> dict[str, Any]:
    from roc.evaluation.predictions import (
        load_split,
        predict_relations,
        score_predictions,
    )  # here: PyTorch takes seconds
    from roc.inference.posts import load_model
    from roc.support.machine import set_num_threads
    from roc.training.processes import start_accelerator

    accelerator = start_accelerator()
    set_num_threads()
    model, processor = load_model(options.model, entity_typer=options.entity_typer)
    model.to(accelerator.device)
    for name in ("type_constraints", "type_penalty"):
        if getattr(options, name) is not None:
            setattr(model.config, name, getattr(options, name))
    unseen = _take_relations(model, processor, options)
    run = _settings_of_run(options.model)
    policies = {
        "missing_images": options.missing_images or run.get("missing_images", "error"),
        "unreadable_rows": options.unreadable_rows or run.get("unreadable_rows", "stop"),
    }
    with accelerator.local_main_process_first():  # the others find its work in the cache
        split = (options.dataset, options.data_dir, options.split)
        samples = load_split(
            model, processor, *split, **policies, use_image=options.use_image, only=unseen, parts=options.parts
        )
    predictions = predict_relations(model, processor, samples, batch_size=options.batch_size, accelerator=accelerator)
    accelerator.end_training()
    if not accelerator.is_main_process:
        return {}
    if options.predictions is not None:
        _write_predictions(options.predictions, predictions)
    return score_predictions(predictions, model.config.none_relation)


def _take_relations(model: RocModel, processor: RocProcessor, options: argparse.Namespace) -> list[str]:
    """Give the model the relations that were asked for; return those to which scoring is restricted, if any."""
    from roc.evaluation.zero_shot import restrict_inventory, unseen_relations
    from roc.relations.files import read_relation_file

    if options.relations is None:
        if options.held_out_relations or options.num_unseen:
            raise ValueError("--held_out_relations and --num_unseen need --relations FILE, which describes them.")
        return []
    inventory = read_relation_file(options.relations)
    unseen = unseen_relations(
        inventory, held_out_relations=options.held_out_relations, num_unseen=options.num_unseen, seed=options.seed
    )
    if unseen:
        inventory = restrict_inventory(inventory, unseen)
        model.config.none_threshold = None  # in the zero-shot protocol every pair has one of the relations
    model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    return unseen


def _settings_of_run(model: str) -> dict[str, Any]:
    """Return the settings of the training run; none where they are not known."""
    from roc.training.settings import RUN_FILE

    file = Path(model) / RUN_FILE
    # not `load_run_config`: a run of another version may have settings that this one does not know
    settings = read_yaml(file) if file.is_file() else None
    return settings if isinstance(settings, dict) else {}


def _write_predictions(path: str, predictions: Predictions) -> None:
    with atomic_write(path) as file:
        for row_id, expected, predicted in zip(predictions.row_ids, predictions.expected, predictions.predicted):
            row: dict[str, Any] = {"id": row_id, "relation": expected, "predicted": predicted}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for own in predictions.unreadable:
            skipped = {"id": own.row_id, "relation": own.relation, "predicted": None, "skipped": own.reason}
            file.write(json.dumps(skipped, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="score.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="folder that train.py wrote, or Hub id")
    add("--dataset", required=True, choices=DATASETS, help="which builder")
    add("--data_dir", required=True, help="folder of the raw files, or of what a builder wrote")
    add("--split", default="val", help="which split")
    add("--parts", nargs="+", metavar="PART", help="parts of it, such as CrossRE's domains (default: all)")
    policy = "where a picture is missing: stop, drop the row, or go on without (default: as the training run did)"
    add("--missing_images", choices=get_args(MissingImages), help=policy)
    unreadable = "where the model cannot read a row: stop, or count it as answered with no relation (default: likewise)"
    add("--unreadable_rows", choices=("stop", "skip"), help=unreadable)
    constraints = "how entity types restrict relations (default: as the model does)"
    add("--type_constraints", choices=("off", "soft", "hard"), help=constraints)
    add("--type_penalty", type=float, help="penalty of soft constraints (default: the model's)")
    add("--relations", help="relation file to use instead of the model's own relations")
    add("--held_out_relations", nargs="+", help="score these of the relations, and their rows, alone")
    add("--num_unseen", type=int, default=0, help="score as many relations as train.py drew and held out")
    add("--seed", type=int, default=0, help="the seed with which it drew them")
    add("--entity_typer", help=ENTITY_TYPER_HELP)
    add("--use_image", action=argparse.BooleanOptionalAction, default=True, help="show the pictures")
    add("--batch_size", type=int, default=64, help="texts per forward pass")
    add("--predictions", help="write one JSON line per row into this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
