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
from pathlib import Path
from statistics import mean
from typing import Any, get_args

from tqdm.auto import tqdm

from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.loading import DATASETS, load_dataset_splits
from roc.evaluation.corruptions import (
    Condition,
    CorruptedSamples,
    input_conditions,
    share_changed,
    share_inside,
    shuffled_relations,
)
from roc.evaluation.plots import plot_scores_by_condition
from roc.evaluation.predictions import Predictions, predict_relations, score_predictions
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.samples.grouping import GroupedSamples, Sample
from roc.samples.splitting import check_relations_known
from roc.support.files import atomic_write
from roc.support.programs import run_program

SCORES = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "accuracy": "accuracy"}
CLEAN, SHUFFLED = "clean", "shuffled relation order"
LEAST_SHARE = 0.1  # a condition that changes fewer of the pairs would look harmless whatever the model does


def main(arguments: Sequence[str] | None = None) -> int:
    """Score with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_program(lambda: _measure(options), incomplete=_order_matters)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    results, descriptions = {}, {}
    for label, name in _labels(options.model).items():
        model, processor, samples = _load(name, options)
        types = [entity_type for entity_type in processor.entity_types if entity_type != "object"]
        conditions = input_conditions(samples, entity_types=types, seed=options.seed)
        descriptions = {condition.name: condition.description for condition in conditions}
        results[label] = _Measurement(model, processor, samples, options).run(conditions, label)
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
    """What to call the models (the last part of their names, where that tells them apart), and their names."""
    if len(set(names)) < len(names):
        raise ValueError(f"A model is given twice: {list(names)}. Name each once.")
    short = {Path(name).name: name for name in names}
    return short if len(short) == len(names) else {name: name for name in names}


def _load(name: str, options: argparse.Namespace) -> tuple[RocModel, RocProcessor, GroupedSamples]:
    model, processor = load_model(name)
    rows = load_dataset_splits(
        options.dataset,
        options.data_dir,
        splits=[options.split],
        missing_images=options.missing_images,
        entity_typer=processor.entity_typer,
    )[options.split]
    samples = GroupedSamples(rows, use_image=model.config.vision_config is not None)
    check_relations_known(samples, model.config.relation_names, f"{options.data_dir}, split {options.split}")
    return model, processor, samples


class _Measurement:
    """One model on one split, under every condition."""

    def __init__(
        self, model: RocModel, processor: RocProcessor, samples: GroupedSamples, options: argparse.Namespace
    ) -> None:
        self._model = model
        self._processor = processor
        self._samples = samples
        self._options = options
        self._kinds = [_pair_kind(sample, pair) for sample in samples.samples for pair in sample.pairs]

    def run(self, conditions: Sequence[Condition], label: str) -> dict[str, Any]:
        """The number of pairs, and per condition the scores and their difference to the clean ones, or why not."""
        with tqdm(total=len(conditions) + 2, desc=label, disable=None) as bar:
            clean = self._predict(self._samples)
            measured = {CLEAN: self._scores(clean)}
            for condition in conditions:
                bar.update()
                measured[condition.name] = self._under(condition)
            bar.update()
            measured[SHUFFLED] = self._with_other_order(clean)
            bar.update()
        for own in measured.values():
            own["difference"] = {score: own[score] - measured[CLEAN][score] for score in SCORES if score in own}
        return {"n": len(self._kinds), "conditions": measured, **self._boxes_when_cropped()}

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
        """The scores with the relations in another order, and what differs from the clean predictions."""
        if self._model.config.head == "classification":
            return {"skipped": "the model classifies: its outputs have the order of training"}
        names = self._model.config.relation_names
        with shuffled_relations(self._model, seed=self._options.seed):
            columns = [self._model.config.relation_names.index(name) for name in names]
            predictions = self._predict(self._samples)
        changed = sum(before != after for before, after in zip(clean.predicted, predictions.predicted, strict=True))
        difference = (predictions.logits[:, columns] - clean.logits).abs().max().item()
        return {
            **self._scores(predictions),
            "predictions_changed": changed,
            "largest_logit_difference": difference,
        }

    def _scores(self, predictions: Predictions) -> dict[str, Any]:
        """The scores, and where there are several kinds of pairs those of each kind."""
        scores: dict[str, Any] = self._scores_of(predictions, range(len(self._kinds)))
        kinds = sorted(set(self._kinds), reverse=True)
        if len(kinds) > 1:
            numbers = {kind: [i for i, own in enumerate(self._kinds) if own == kind] for kind in kinds}
            scores["pair_kinds"] = {
                kind: {"n": len(own), **self._scores_of(predictions, own)} for kind, own in numbers.items()
            }
        return scores

    def _scores_of(self, predictions: Predictions, numbers: Sequence[int]) -> dict[str, float]:
        lists = (predictions.row_ids, predictions.expected, predictions.predicted)
        selected = Predictions(*([own[i] for i in numbers] for own in lists), predictions.logits[list(numbers)])
        scores = score_predictions(selected, self._model.config.none_relation)
        return {name: scores[name] for name in SCORES}

    def _boxes_when_cropped(self) -> dict[str, float]:
        boxes = [e.bbox for sample in self._samples.samples for e in sample.entities if e.bbox is not None]
        return {"mean_share_of_box_left_when_cropped": mean(map(share_inside, boxes))} if boxes else {}


def _pair_kind(sample: Sample, pair: tuple[int, int]) -> str:
    objects = sum(sample.entities[number].is_object for number in pair)
    return ("text-text", "text-object", "object-object")[objects]


def _order_matters(result: dict[str, Any]) -> bool:
    return any(own["conditions"][SHUFFLED].get("predictions_changed") for own in result["models"].values())


def _report(results: dict[str, Any], descriptions: dict[str, str], title: str, seed: int) -> str:
    lines = [
        f"# Robustness: {title}",
        "",
        f"Scores in percent, and the difference to `{CLEAN}` in points; seed {seed}.",
    ]
    lines += ["", "| condition | model | " + " | ".join(f"{score} | difference" for score in SCORES.values()) + " |"]
    lines += ["|" + "---|" * (2 + 2 * len(SCORES))]
    conditions = next(iter(results.values()))["conditions"]
    lines += [
        _table_row(name, label, result["conditions"][name]) for name in conditions for label, result in results.items()
    ]
    lines += ["", *(f"- **{name}**: {description}" for name, description in descriptions.items())]
    return "\n".join([*lines, ""])


def _table_row(condition: str, label: str, own: dict[str, Any]) -> str:
    if "skipped" in own:
        cells = [f"not scored: {own['skipped']}", *[""] * (2 * len(SCORES) - 1)]
    else:
        cells = [
            cell for score in SCORES for cell in (f"{100 * own[score]:.1f}", f"{100 * own['difference'][score]:+.1f}")
        ]
    return "| " + " | ".join([condition, label, *cells]) + " |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/robustness.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, action="append", help="folder that train.py wrote; several times")
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="which builder")
    parser.add_argument("--data_dir", required=True, help="folder of the raw files, or of what a builder wrote")
    parser.add_argument("--split", default="val", help="which split")
    parser.add_argument("--output_dir", default="outputs/robustness", help="folder for the table and the plot")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument(
        "--missing_images", choices=get_args(MissingImages), default="no_image", help="where a picture is missing"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="texts per forward pass")
    return parser


if __name__ == "__main__":
    sys.exit(main())
