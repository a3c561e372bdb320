"""Does the model look where it should? `python benchmarks/grounding.py --model DIR --data_dir SCENES [--split test]`.

Scored per kind of pair on the generated scenes (`roc.dataset_scripts.scenes`), or with `--dataset synthetic` on the
easier generated set, with one model and four inputs:
- `as_it_is`;
- `boxes_shuffled`: each boxed figure has the box of another figure of its picture;
- `pictures_swapped`: each text has the picture of another text of the same kind;
- `no_picture`.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from roc.benchmarks.common import MODEL, run_benchmark
from roc.dataset_scripts.generating.evidence import load_evidence
from roc.evaluation.corruptions import CorruptedSamples, without_picture
from roc.evaluation.predictions import Predictions, load_split, predict_relations
from roc.inference.posts import load_model
from roc.samples.grouping import GroupedSamples, Sample


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each input by kind of pair."""
    model, processor = load_model(options.model)
    samples = load_split(model, processor, options.dataset, options.data_dir, options.split)
    if options.dataset == "scenes":
        kinds = {row_id: found.kind for row_id, found in load_evidence(options.data_dir).items()}
    else:
        kinds = kinds_of_pairs(samples.samples)
    inputs = {
        "as_it_is": samples,
        "boxes_shuffled": with_samples(samples, shuffle_boxes(samples.samples, options.seed)),
        "pictures_swapped": with_samples(samples, swap_pictures(samples.samples, kinds, options.seed)),
        "no_picture": CorruptedSamples(samples, without_picture),
    }
    figures = {
        name: by_kind(predict_relations(model, processor, given), kinds, model.config.none_relation)
        for name, given in inputs.items()
    }
    what = {"benchmark": "grounding", "dataset": options.dataset, "split": options.split, "seed": options.seed}
    return {**what, **figures}


def kinds_of_pairs(samples: Sequence[Sample]) -> dict[str, str]:
    """Return by id of the row whether its pair has an object; for sets that do not tell what decides."""
    return {
        row_id: "text-object" if any(sample.entities[number].is_object for number in pair) else "text-text"
        for sample in samples
        for row_id, pair in zip(sample.row_ids, sample.pairs)
    }


def with_samples(samples: GroupedSamples, changed: Sequence[Sample]) -> GroupedSamples:
    """Return the same split with other samples; the given one stays as it is."""
    copied = copy.copy(samples)
    copied.samples = list(changed)
    return copied


def shuffle_boxes(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Give each object the box of another object of its picture; samples with fewer than two stay as they are."""
    generator, changed = random.Random(seed), []
    for sample in samples:
        objects = [number for number, entity in enumerate(sample.entities) if entity.bbox is not None]
        shift = generator.randrange(1, len(objects)) if len(objects) > 1 else 0
        entities = list(sample.entities)
        for number, other in zip(objects, objects[shift:] + objects[:shift]):
            entities[number] = replace(entities[number], bbox=sample.entities[other].bbox)
        changed.append(replace(sample, entities=entities))
    return changed


def swap_pictures(samples: Sequence[Sample], kinds: Mapping[str, str], seed: int) -> list[Sample]:
    """Give each text a picture of another text with the same kind of pairs.

    Raises:
        ValueError: If a kind has a single text.
    """
    generator, changed = random.Random(seed), []
    of_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        of_kind.setdefault(kinds[sample.row_ids[0]], []).append(sample)
    for sample in samples:
        kind = kinds[sample.row_ids[0]]
        others = [other.image_row for other in of_kind[kind] if other.text != sample.text]
        if not others:
            raise ValueError(f"There is one text only of the kind {kind!r}: generate more pictures.")
        changed.append(replace(sample, image_row=generator.choice(others)))
    return changed


def by_kind(predictions: Predictions, kinds: Mapping[str, str], none_relation: str | None) -> dict[str, dict]:
    """Return per kind of pair the number of `pairs`, the `accuracy`, and the `none_share` of the predictions."""
    decided: dict[str, list[tuple[bool, bool]]] = {}
    for row_id, expected, predicted in zip(predictions.row_ids, predictions.expected, predictions.predicted):
        decided.setdefault(kinds[row_id], []).append((predicted == expected, predicted == none_relation))
    return {
        kind: {
            "pairs": len(rows),
            "accuracy": round(sum(right for right, _ in rows) / len(rows), 4),
            "none_share": round(sum(none for _, none in rows) / len(rows), 4),
        }
        for kind, rows in sorted(decided.items())
    }


if __name__ == "__main__":
    options = {
        "--model": MODEL,
        "--data_dir": {"required": True, "help": "folder that the generator of the scenes wrote"},
        "--dataset": {"default": "scenes", "choices": ["scenes", "synthetic"]},
        "--split": "test",
        "--seed": {"type": int, "default": 0, "help": "decides how boxes are shuffled and pictures swapped"},
    }
    sys.exit(run_benchmark(measure, options))
