"""How many pairs unrelated relations take away from a model's own ones, on MNRE validation:
`python benchmarks/larger_inventory.py --model DIR --data_dir MNRE [--relations FILE] [--num_relations 1000]`.

The relations are words out of the model's vocabulary, and those of a relation file (such as the half of Wikidata's
properties that training has not seen as negatives). Those whose description resembles one of the model's own are left
out, as in training with `negative_relations`.
"""

from __future__ import annotations

import argparse
import json
import random
from typing import Any

from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.predictions import predict_relations, score_predictions
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import read_relation_file
from roc.samples.grouping import GroupedSamples
from roc.training.building import unrelated_descriptions


def main() -> None:
    """Measure and print one JSON line: the scores with the model's own relations, and with more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--relations", help="relation file")
    parser.add_argument("--num_relations", type=int, default=1000, help="at most so many")
    options = parser.parse_args()
    model, processor = load_model(options.model)
    rows = load_dataset_splits(
        "mnre", options.data_dir, splits=["val"], missing_images="no_image", entity_typer=processor.entity_typer
    )["val"]
    samples = GroupedSamples(rows, use_image=model.config.vision_config is not None)
    sets = {"words": _of_words(processor)} | ({"file": _of_file(options.relations)} if options.relations else {})
    figures: dict[str, Any] = {"own": _scores(model, processor, samples)}
    own = model.config.relation_names
    for name, descriptions in sets.items():
        unrelated = [*unrelated_descriptions(descriptions, processor, model)][: options.num_relations]
        model.add_relations([{"name": f"unrelated: {text}", "descriptions": [text]} for text in unrelated], processor)
        figures[name] = {"num_unrelated": len(unrelated), **_scores(model, processor, samples)}
        model.subset_relations(own)
    print(json.dumps({"benchmark": "larger_inventory", **figures}))


def _of_file(path: str) -> list[str]:
    return list(dict.fromkeys(relation["descriptions"][0] for relation in read_relation_file(path).relations))


def _of_words(processor: RocProcessor) -> list[str]:
    words = sorted(word for word in processor.tokenizer.get_vocab() if word.isalpha() and word.islower())
    random.Random(0).shuffle(words)
    return [word for word in words if len(word) > 4][:2000]


def _scores(model: RocModel, processor: RocProcessor, samples: GroupedSamples) -> dict[str, float]:
    scores = score_predictions(predict_relations(model, processor, samples), model.config.none_relation)
    return {name: round(scores[name], 4) for name in ("accuracy", "micro_f1")}


if __name__ == "__main__":
    main()
