"""Train a run as `train.py` does, and score relations that it holds out after every epoch, for the record alone.

`python -m roc.studies.watch SETTINGS.yaml RELATION ...` is how published systems choose: by the relations that they
are tested on. Here nothing is chosen by these scores. They stand in the history of `metrics.json`, as `test_macro_f1`
and so on, so that a report can say what that habit would have given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from roc.evaluation.predictions import load_split, predict_relations, score_predictions
from roc.evaluation.scoring import macro_scores
from roc.evaluation.zero_shot import restrict_inventory
from roc.modeling_roc import RocModel
from roc.relations.files import read_relation_file
from roc.samples.grouping import GroupedSamples
from roc.studies.zero_shot_report import WATCHED
from roc.support.programs import run_program
from roc.training.loop import Parts, train
from roc.training.settings import RunConfig, load_run_config
from roc.training.validation import Validator


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with the given command line, a run's settings and the relations to watch; return the exit code."""
    path, *relations = sys.argv[1:] if arguments is None else arguments
    return run_program(lambda: watch(load_run_config(path), relations))


def watch(config: RunConfig, relations: Sequence[str]) -> dict[str, Any]:
    """Train a run that holds out these relations, and score them after every epoch; see `roc.training.loop.train`.

    Raises:
        ValueError: If the run does not hold a relation out.
    """
    if seen := set(relations) - set(config.held_out_relations or ()):
        raise ValueError(f"{sorted(seen)} are not held out: training sees them. Name them in held_out_relations too.")
    return train(config, Parts(validate=Watcher(relations).score))


@dataclass
class Watcher:
    """Adds scores on held-out relations to those that a validation gives."""

    relations: Sequence[str]
    samples: GroupedSamples | None = field(default=None, init=False)  # loaded when first needed

    def score(self, validator: Validator, model: RocModel) -> dict[str, Any]:
        """Return the scores of the validation, and beside them those on the watched relations, with `WATCHED`."""
        scores = validator.score(model)
        config, processor = validator.config, validator.processor
        inventory = restrict_inventory(
            read_relation_file(str(config.relations), entity_types=config.model.entity_types), self.relations
        )
        among = model.with_relations(inventory.relations, processor, none_relation=None)
        among.config.none_threshold = None  # every pair has one of them
        if self.samples is None:
            self.samples = load_split(
                among,
                processor,
                config.dataset,
                config.data_dir,
                config.val_split,
                missing_images=config.missing_images,
                unreadable_rows=config.unreadable_rows,
                use_image=config.use_image,
                only=self.relations,
            )
        with torch.random.fork_rng():  # training goes on as if nothing had been watched
            predictions = predict_relations(among, processor, self.samples, batch_size=config.eval_batch_size)
        watched = score_predictions(predictions, None)
        told = {"accuracy": watched["accuracy"], **macro_scores(watched["per_relation"], self.relations)}
        return scores | {WATCHED + name: value for name, value in told.items()}


if __name__ == "__main__":
    sys.exit(main())
