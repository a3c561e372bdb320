"""What trained models still get right where something is wrong with the posts:
`python benchmarks/robustness.py --model DIR [--model DIR ...] --dataset NAME --data_dir DIR --split val`.

Scores them on the split as it is and under every condition of `roc.evaluation.corruptions`, and checks that the
order of the relations does not matter. Prints one JSON line; writes a table, `robustness.md`, and a plot,
`robustness.png`. The exit code is 1 if the order did matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, get_args

from tqdm.auto import tqdm

from roc.benchmarks.common import MODEL, run_benchmark
from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.loading import DATASETS
from roc.evaluation.corruptions import (
    Condition,
    CorruptedSamples,
    input_conditions,
    share_changed,
    share_inside,
    shuffled_relations,
)
from roc.evaluation.plots import plot_scores_by_condition
from roc.evaluation.predictions import Predictions, load_split, predict_relations, score_predictions
from roc.inference.posts import load_model
from roc.samples.grouping import GroupedSamples
from roc.support.files import atomic_write
from roc.support.markdown import table

SCORES = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "accuracy": "accuracy"}
CLEAN, SHUFFLED = "clean", "shuffled relation order"
KINDS = ("text-text", "text-object", "object-object")  # of pairs, by how many of the two are objects
LEAST_SHARE = 0.1  # a condition that changes fewer of the pairs would look harmless whatever the model does


def main(arguments: Sequence[str] | None = None) -> int:
    """Score with the given command line; returns the exit code."""
    policies = {"choices": get_args(MissingImages), "default": "no_image", "help": "where a picture is missing"}
    options = {
        "--model": MODEL | {"action": "append", "help": "folder that train.py wrote; several times"},
        "--dataset": {"required": True, "choices": DATASETS, "help": "which builder"},
        "--data_dir": {"required": True, "help": "folder of the raw files, or of what a builder wrote"},
        "--split": {"default": "val", "help": "which split"},
        "--output_dir": {"default": "outputs/robustness", "help": "folder for the table and the plot"},
        "--seed": {"type": int, "default": 0, "help": "decides what is drawn at random"},
        "--missing_images": policies,
        "--batch_size": {"type": int, "default": 64, "help": "texts per forward pass"},
    }
    return run_benchmark(measure, options, arguments, incomplete=_order_matters)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every model; write the table and the plot."""
    results, descriptions = {}, {}
    for label, name in _labels(options.model).items():
        measurement = _Measurement(name, options)
        conditions = measurement.conditions()
        descriptions = {condition.name: condition.description for condition in conditions}
        results[label] = measurement.run(conditions, label)
    title = f"{options.dataset}, split {options.split}, {results[label]['n']:,} pairs"
    folder = Path(options.output_dir)
    with atomic_write(folder / "robustness.md") as file:
        file.write(_report(results, descriptions, title, options.seed))
    bars = {
        label: {name: own.get("micro_f1") for name, own in result["conditions"].items()}
        for label, result in results.items()
    }
    plot_scores_by_condition(bars, folder / "robustness.png", score="micro-F1", title=f"Robustness: {title}")
    what = {"dataset": options.dataset, "split": options.split, "seed": options.seed}
    return {"benchmark": "robustness", "output_dir": str(folder), **what, "models": results}


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Return what to call the models (the last part of their names, where that tells them apart), and their names."""
    if len(set(names)) < len(names):
        raise ValueError(f"A model is given twice: {list(names)}. Name each once.")
    short = {Path(name).name: name for name in names}
    return short if len(short) == len(names) else {name: name for name in names}


class _Measurement:
    """One model on one split, under every condition."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._options = options
        self._model, self._processor = load_model(name)
        split = (options.dataset, options.data_dir, options.split)
        self._samples = load_split(self._model, self._processor, *split, missing_images=options.missing_images)
        objects = [[e.is_object for e in sample.entities] for sample in self._samples.samples]
        pairs = [(own, pair) for own, sample in zip(objects, self._samples.samples) for pair in sample.pairs]
        self._kinds = [KINDS[own[head] + own[tail]] for own, (head, tail) in pairs]

    def conditions(self) -> list[Condition]:
        types = [entity_type for entity_type in self._processor.entity_types if entity_type != "object"]
        return input_conditions(self._samples, entity_types=types, seed=self._options.seed)

    def run(self, conditions: Sequence[Condition], label: str) -> dict[str, Any]:
        """Return the number of pairs, and per condition the scores and their difference to the clean ones."""
        clean = self._predict(self._samples)
        measured = {CLEAN: self._scores(clean)}
        for condition in tqdm(conditions, desc=label, disable=None):
            measured[condition.name] = self._under(condition)
        measured[SHUFFLED] = self._with_other_order(clean)
        for own in measured.values():
            own["difference"] = {score: own[score] - measured[CLEAN][score] for score in SCORES if score in own}
        result = {"n": len(self._kinds), "conditions": measured}
        boxes = [e.bbox for sample in self._samples.samples for e in sample.entities if e.bbox is not None]
        return result | ({"mean_share_of_box_left_when_cropped": mean(map(share_inside, boxes))} if boxes else {})

    def _predict(self, samples: GroupedSamples) -> Predictions:
        return predict_relations(self._model, self._processor, samples, batch_size=self._options.batch_size)

    def _under(self, condition: Condition) -> dict[str, Any]:
        if condition.is_of_pictures and self._model.config.vision_config is None:
            return {"skipped": "the model reads no pictures"}
        share = share_changed(self._samples, condition)
        if share < LEAST_SHARE:
            return {"skipped": f"it would change only {share:.1%} of the pairs"}
        predictions = self._predict(CorruptedSamples(self._samples, condition.corrupt))
        return {"share_changed": share, **self._scores(predictions)}

    def _with_other_order(self, clean: Predictions) -> dict[str, Any]:
        """Return the scores with the relations in another order, and what differs from the clean predictions."""
        if self._model.config.head == "classification":
            return {"skipped": "the model classifies: its outputs have the order of training"}
        names = self._model.config.relation_names
        with shuffled_relations(self._model, seed=self._options.seed):
            columns = [self._model.config.relation_names.index(name) for name in names]
            predictions = self._predict(self._samples)
        return {
            **self._scores(predictions),
            "predictions_changed": sum(a != b for a, b in zip(clean.predicted, predictions.predicted, strict=True)),
            "largest_logit_difference": (predictions.logits[:, columns] - clean.logits).abs().max().item(),
        }

    def _scores(self, predictions: Predictions) -> dict[str, Any]:
        """Return the scores, and where there are several kinds of pairs those of each kind."""
        by_kind = {kind: [i for i, own in enumerate(self._kinds) if own == kind] for kind in KINDS}
        kinds = {kind: {"n": len(rows), **self._scores_of(predictions, rows)} for kind, rows in by_kind.items() if rows}
        scores: dict[str, Any] = self._scores_of(predictions, range(len(self._kinds)))
        return scores | ({"pair_kinds": kinds} if len(kinds) > 1 else {})

    def _scores_of(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        expected, predicted = ([own[i] for i in rows] for own in (predictions.expected, predictions.predicted))
        selected = replace(predictions, expected=expected, predicted=predicted)
        scores = score_predictions(selected, self._model.config.none_relation)
        return {name: scores[name] for name in SCORES}


def _order_matters(result: dict[str, Any]) -> bool:
    return any(own["conditions"][SHUFFLED].get("predictions_changed") for own in result["models"].values())


def _report(results: dict[str, Any], descriptions: dict[str, str], title: str, seed: int) -> str:
    header = ["condition", "model", *(column for score in SCORES.values() for column in (score, "difference"))]
    conditions = next(iter(results.values()))["conditions"]
    rows = [
        [name, label, *_cells(result["conditions"][name])] for name in conditions for label, result in results.items()
    ]
    listed = "\n".join(f"- **{name}**: {description}" for name, description in descriptions.items())
    scale = f"Scores in percent, and the difference to `{CLEAN}` in points; seed {seed}."
    return f"# Robustness: {title}\n\n{scale}\n\n{table(header, rows)}\n\n{listed}\n"


def _cells(own: dict[str, Any]) -> list[str]:
    if "skipped" in own:
        return [f"not scored: {own['skipped']}", *[""] * (2 * len(SCORES) - 1)]
    return [cell for score in SCORES for cell in (f"{100 * own[score]:.1f}", f"{100 * own['difference'][score]:+.1f}")]


if __name__ == "__main__":
    sys.exit(main())
