"""How many pairs unrelated relations take away from a model's own ones, on MNRE validation:
`python benchmarks/larger_inventory.py --model DIR --data_dir MNRE [--relations FILE] [--num_relations 1000]`.

The relations are words out of the model's vocabulary, and those of a relation file (such as the half of Wikidata's
properties that training has not seen as negatives). Those whose description resembles one of the model's own are left
out, as in training with `negative_relations`.
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

from roc.benchmarks.common import MODEL, run_benchmark
from roc.evaluation.predictions import load_split, predict_relations, score_predictions
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import read_relation_file
from roc.samples.grouping import GroupedSamples
from roc.training.building import unrelated_descriptions
from roc.training.settings import DEFAULTS


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores with the model's own relations, and with more."""
    model, processor = load_model(options.model)
    samples = load_split(model, processor, "mnre", options.data_dir, "val")
    sets = {"words": _words(processor)}
    if options.relations:
        sets["file"] = list(
            dict.fromkeys(r["descriptions"][0] for r in read_relation_file(options.relations).relations)
        )
    figures: dict[str, Any] = {"benchmark": "larger_inventory", "own": _scores(model, processor, samples)}
    own, limit = model.config.relation_names, DEFAULTS["max_resemblance"]
    for name, descriptions in sets.items():
        unrelated = [*unrelated_descriptions(descriptions, processor, model, max_resemblance=limit)][
            : options.num_relations
        ]
        model.add_relations([{"name": f"unrelated: {text}", "descriptions": [text]} for text in unrelated], processor)
        figures[name] = {"num_unrelated": len(unrelated), **_scores(model, processor, samples)}
        model.subset_relations(own)
    return figures


def _words(processor: RocProcessor) -> list[str]:
    words = sorted(word for word in processor.tokenizer.get_vocab() if word.isalpha() and word.islower())
    random.Random(0).shuffle(words)
    return [word for word in words if len(word) > 4][:2000]


def _scores(model: RocModel, processor: RocProcessor, samples: GroupedSamples) -> dict[str, float]:
    scores = score_predictions(predict_relations(model, processor, samples), model.config.none_relation)
    return {name: round(scores[name], 4) for name in ("accuracy", "micro_f1")}


if __name__ == "__main__":
    relations, most = {"help": "relation file"}, {"type": int, "default": 1000, "help": "at most so many"}
    options = {"--model": MODEL, "--data_dir": {"required": True}, "--relations": relations, "--num_relations": most}
    sys.exit(run_benchmark(measure, options))
