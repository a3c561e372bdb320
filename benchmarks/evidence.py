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
import itertools
import random
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from roc.benchmarks.common import MODEL, run_benchmark
from roc.dataset_scripts.generating.evidence import load_evidence
from roc.evaluation.predictions import load_split
from roc.inference.posts import load_model
from roc.modeling_explaining_roc import Explanation
from roc.modeling_roc import RocModel
from roc.samples.batching import SampleCollator

NUM_DELETED = 4  # patches: about what one object covers


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with the given command line; returns the exit code."""
    options = {
        "--model": MODEL,
        "--data_dir": {"required": True, "help": "folder that roc.dataset_scripts.scenes wrote"},
        "--split": "val",
        "--max_samples": {"type": int, "default": 300, "help": "use only the first so many posts"},
        "--num_steps": {"type": int, "default": 16, "help": "see RocModel.explain"},
    }
    return run_benchmark(measure, options, arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the mean figures of all right predictions that an object decides, and of each kind of pair."""
    model, processor = load_model(options.model)
    evidence = load_evidence(options.data_dir)
    samples = load_split(model, processor, "scenes", options.data_dir, options.split)
    generator, names = random.Random(0), model.config.relation_names
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in tqdm(range(min(len(samples), options.max_samples)), desc="explaining", disable=None):
        sample = samples.samples[number]
        _, batch = SampleCollator(processor, None)([samples[number]])
        batch = batch.to(model.device)
        with torch.no_grad():
            predicted = model(**batch).logits[0].argmax(dim=-1).tolist()
        for pair, (row_id, relation) in enumerate(zip(sample.row_ids, sample.relations)):
            if names[predicted[pair]] == relation and evidence[row_id].boxes:
                explanation = model.explain(batch, pair=pair, num_steps=options.num_steps)
                figures = judge(model, batch, pair, explanation, evidence[row_id].boxes, generator)
                found[evidence[row_id].kind].append(figures)
    means = {"all": _means([*itertools.chain(*found.values())])} | {kind: _means(own) for kind, own in found.items()}
    return {"benchmark": "evidence", "split": options.split, **means}


def judge(
    model: RocModel,
    batch: Mapping[str, Tensor],
    pair: int,
    explanation: Explanation,
    boxes: Sequence[Sequence[float]],
    generator: random.Random,
) -> dict[str, float]:
    """Compare one explanation with the boxes of the objects that decide, and with patches at random."""
    relevance = explanation.patch_relevance
    assert relevance is not None, "the scenes have pictures"
    grid = (relevance.shape[0], relevance.shape[1])
    inside = patches_inside(boxes, grid)
    ranked = relevance.flatten().argsort(descending=True).tolist()
    relation = model.config.relation_names.index(explanation.relation)

    @torch.no_grad()
    def fall_without(patches: Sequence[int]) -> float:
        pixels = delete_patches(batch["pixel_values"], patches, grid)
        logits = model(**{**batch, "pixel_values": pixels}).logits
        return explanation.score - logits[0, pair, relation].item() * model.temperature

    return {
        "hits": float(ranked[0] in inside),
        "hits_at_random": len(inside) / relevance.numel(),
        "score": explanation.score,
        "fall_most_relevant": fall_without(ranked[:NUM_DELETED]),
        "fall_at_random": fall_without(generator.sample(range(relevance.numel()), NUM_DELETED)),
    }


def patches_inside(boxes: Sequence[Sequence[float]], grid: tuple[int, int]) -> set[int]:
    """Return the numbers of the patches whose centre lies in one of the boxes.

    Args:
        boxes: `xyxy` in [0, 1].
        grid: Rows and columns of patches, which are numbered row by row.
    """
    rows, columns = grid
    centres = (((column + 0.5) / columns, (row + 0.5) / rows) for row, column in itertools.product(*map(range, grid)))
    return {
        number
        for number, (x, y) in enumerate(centres)
        if any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)
    }


def delete_patches(pixel_values: Tensor, patches: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Put patches to their picture's mean colour.

    Args:
        pixel_values: `(1, channels, height, width)`.
        patches: Numbers of patches, as `patches_inside` gives them.
        grid: Rows and columns of patches.
    """
    deleted, mean_colour = pixel_values.clone(), pixel_values.mean(dim=(2, 3), keepdim=True)
    height, width = pixel_values.shape[2] // grid[0], pixel_values.shape[3] // grid[1]
    for patch in patches:
        row, column = divmod(patch, grid[1])
        deleted[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width] = mean_colour
    return deleted


def _means(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    names = figures[0] if figures else ()
    return {"n": len(figures), **{name: round(mean(own[name] for own in figures), 4) for name in names}}


if __name__ == "__main__":
    sys.exit(main())
