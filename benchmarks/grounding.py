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
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from roc.dataset_scripts.generating.evidence import Evidence, load_evidence
from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.corruptions import CorruptedSamples, without_picture
from roc.evaluation.predictions import Predictions, predict_relations
from roc.inference.posts import load_model
from roc.samples.grouping import GroupedSamples, Sample
from roc.support.programs import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that train.py wrote")
    parser.add_argument("--data_dir", required=True, help="folder that the generator of the scenes wrote")
    parser.add_argument("--dataset", default="scenes", choices=["scenes", "synthetic"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0, help="of shuffling and swapping")
    options = parser.parse_args(arguments)
    return run_program(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    model, processor = load_model(options.model)
    rows = load_dataset_splits(options.dataset, options.data_dir, splits=[options.split])[options.split]
    samples = GroupedSamples(rows)
    evidence = load_evidence(options.data_dir) if options.dataset == "scenes" else kinds_of_pairs(samples.samples)
    inputs = {
        "as_it_is": samples,
        "boxes_shuffled": with_samples(samples, shuffle_boxes(samples.samples, options.seed)),
        "pictures_swapped": with_samples(samples, swap_pictures(samples.samples, evidence, options.seed)),
        "no_picture": CorruptedSamples(samples, without_picture),
    }
    figures = {
        name: by_kind(predict_relations(model, processor, given), evidence, model.config.none_relation)
        for name, given in inputs.items()
    }
    what = {"benchmark": "grounding", "dataset": options.dataset, "split": options.split, "seed": options.seed}
    return {**what, **figures}


def kinds_of_pairs(samples: Sequence[Sample]) -> dict[str, Evidence]:
    """By id of the row, whether its pair has an object; for sets that do not tell what decides."""
    return {
        row_id: Evidence("text-object" if any(sample.entities[i].is_object for i in pair) else "text-text")
        for sample in samples
        for row_id, pair in zip(sample.row_ids, sample.pairs)
    }


def with_samples(samples: GroupedSamples, changed: Sequence[Sample]) -> GroupedSamples:
    """The same split with other samples; the given one stays as it is."""
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
        for place, number in enumerate(objects):
            other = sample.entities[objects[(place + shift) % len(objects)]]
            entities[number] = replace(entities[number], bbox=other.bbox)
        changed.append(replace(sample, entities=entities))
    return changed


def swap_pictures(samples: Sequence[Sample], evidence: dict[str, Evidence], seed: int) -> list[Sample]:
    """Give each text a picture of another text with the same kind of pairs.

    Raises:
        ValueError: If a kind has a single text.
    """
    generator, changed = random.Random(seed), []
    kinds = [evidence[sample.row_ids[0]].kind for sample in samples]
    of_kind = {kind: [sample for sample, own in zip(samples, kinds) if own == kind] for kind in set(kinds)}
    for sample, kind in zip(samples, kinds):
        others = [other.image_row for other in of_kind[kind] if other.text != sample.text]
        if not others:
            raise ValueError(f"There is one text only of the kind {kind!r}: generate more pictures.")
        changed.append(replace(sample, image_row=generator.choice(others)))
    return changed


def by_kind(predictions: Predictions, evidence: dict[str, Evidence], none_relation: str | None) -> dict[str, dict]:
    """Per kind of pair the number of `pairs`, the `accuracy`, and the `none_share` of the predictions."""
    decided: dict[str, list[tuple[bool, bool]]] = {}
    for row_id, expected, predicted in zip(predictions.row_ids, predictions.expected, predictions.predicted):
        decided.setdefault(evidence[row_id].kind, []).append((predicted == expected, predicted == none_relation))
    return {
        kind: {
            "pairs": len(rows),
            "accuracy": round(sum(right for right, _ in rows) / len(rows), 4),
            "none_share": round(sum(none for _, none in rows) / len(rows), 4),
        }
        for kind, rows in sorted(decided.items())
    }


if __name__ == "__main__":
    sys.exit(main())
