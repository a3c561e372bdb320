"""Whether explanations point at what decides: `python benchmarks/evidence.py --model DIR --data_dir DIR [--split val]`.

On the generated scenes (`roc.dataset_scripts.scenes`), whose deciding objects are known. Of the right predictions that
an object decides:

* pointing game (Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016): how often the centre of
  the most relevant patch lies in the deciding object, against a patch at random;
* deletion: how much the score falls when the most relevant patches are put to the picture's mean colour, against as
  many at random.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from roc.dataset_scripts.generating.evidence import Evidence, load_evidence
from roc.dataset_scripts.loading import load_dataset_splits
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples
from roc.support.programs import run_program

NUM_DELETED = 4  # patches: about what one object covers


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that train.py wrote")
    parser.add_argument("--data_dir", required=True, help="folder that roc.dataset_scripts.scenes wrote")
    parser.add_argument("--split", default="val")
    parser.add_argument("--max_samples", type=int, default=300, help="use only the first so many posts")
    parser.add_argument("--num_steps", type=int, default=16, help="see RocModel.explain")
    options = parser.parse_args(arguments)
    return run_program(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    model, processor = load_model(options.model)
    evidence = load_evidence(options.data_dir)
    rows = load_dataset_splits("scenes", options.data_dir, splits=[options.split])[options.split]
    samples = GroupedSamples(rows)
    generator = random.Random(0)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in tqdm(range(min(len(samples), options.max_samples)), desc="explaining", disable=None):
        item = samples[number]
        _, batch = SampleCollator(processor, None)([item])
        right = _right_pairs(model, batch, item[0].relations)
        for pair, row_id in enumerate(item[0].row_ids):
            if pair in right and evidence[row_id].boxes:
                measured = _explain(model, dict(batch.to(model.device)), pair, evidence[row_id], options, generator)
                found[evidence[row_id].kind].append(measured)
    return {
        "benchmark": "evidence",
        "split": options.split,
        "all": _means([measured for own in found.values() for measured in own]),
        **{kind: _means(own) for kind, own in found.items()},
    }


@torch.no_grad()
def _right_pairs(model: RocModel, batch: Any, relations: Sequence[str]) -> set[int]:
    predicted = model(**batch.to(model.device)).logits[0].argmax(dim=-1).tolist()
    names = model.config.relation_names
    return {pair for pair, relation in enumerate(relations) if names[predicted[pair]] == relation}


def _explain(
    model: RocModel,
    batch: dict[str, Tensor],
    pair: int,
    evidence: Evidence,
    options: argparse.Namespace,
    generator: random.Random,
) -> dict[str, float]:
    explanation = model.explain(batch, pair=pair, num_steps=options.num_steps)
    relevance = explanation.patch_relevance
    assert relevance is not None, "the scenes have pictures"
    rows, columns = relevance.shape
    inside = patches_inside(evidence.boxes, (rows, columns))
    ranked = relevance.flatten().argsort(descending=True).tolist()
    at_random = generator.sample(range(rows * columns), NUM_DELETED)

    number = model.config.relation_names.index(explanation.relation)

    @torch.no_grad()
    def score_without(patches: Sequence[int]) -> float:
        pixels = delete_patches(batch["pixel_values"], patches, (rows, columns))
        logits = model(**{**batch, "pixel_values": pixels}).logits
        return logits[0, pair, number].item() * model.temperature

    return {
        "hits": float(ranked[0] in inside),
        "hits_at_random": len(inside) / (rows * columns),
        "score": explanation.score,
        "fall_most_relevant": explanation.score - score_without(ranked[:NUM_DELETED]),
        "fall_at_random": explanation.score - score_without(at_random),
    }


def patches_inside(boxes: Sequence[Sequence[float]], grid: tuple[int, int]) -> set[int]:
    """Numbers of the patches whose centre lies in one of the boxes.

    Args:
        boxes: `xyxy` in [0, 1].
        grid: Rows and columns.

    Returns:
        Numbers in row-major order.
    """
    rows, columns = grid
    centres = {
        row * columns + column: ((column + 0.5) / columns, (row + 0.5) / rows)
        for row in range(rows)
        for column in range(columns)
    }
    return {number for number, (x, y) in centres.items() if any(a <= x <= c and b <= y <= d for a, b, c, d in boxes)}


def delete_patches(pixel_values: Tensor, patches: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Put patches to their picture's mean colour.

    Args:
        pixel_values: `(1, channels, height, width)`.
        patches: Numbers in row-major order.
        grid: Rows and columns.

    Returns:
        The same shape.
    """
    deleted, mean_colour = pixel_values.clone(), pixel_values.mean(dim=(2, 3), keepdim=True)
    height, width = pixel_values.shape[2] // grid[0], pixel_values.shape[3] // grid[1]
    for patch in patches:
        row, column = divmod(patch, grid[1])
        deleted[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width] = mean_colour
    return deleted


def _means(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    if not measured:
        return {"n": 0}
    return {"n": len(measured), **{name: round(mean(own[name] for own in measured), 4) for name in measured[0]}}


if __name__ == "__main__":
    sys.exit(main())
