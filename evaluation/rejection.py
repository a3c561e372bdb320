"""How well a model says "none of these", over many inventories drawn at random:
`python -m roc.evaluation.rejection --model DIR_OR_REPO --dataset NAME --data_dir DIR --relations FILE`.

Each inventory has `--inventory_size` of the relations of the file. Pairs whose relation was left out should get none of
them, and no more should pairs that have no relation at all, where the data has some. For relations as users write them,
name some that training has not seen (`--only`).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from roc.dataset_scripts.loading import DATASETS
from roc.support.programs import run_program

if TYPE_CHECKING:
    from torch import Tensor

    from roc.configuration_roc import RocConfig
    from roc.evaluation.drawn import DrawnInventory

RECALL = 0.8  # of related pairs, at which the share of unrelated ones that get a relation is told


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_program(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from roc.evaluation.drawn import draw_inventories  # here: PyTorch takes seconds
    from roc.evaluation.predictions import load_split, predict_relations
    from roc.evaluation.zero_shot import restrict_inventory
    from roc.inference.posts import load_model
    from roc.messages_roc import did_you_mean
    from roc.relations.files import read_relation_file

    if min(options.inventory_size, options.num_draws) < 1:
        raise ValueError("--inventory_size and --num_draws are at least 1.")
    model, processor = load_model(options.model)
    if model.config.head == "classification":
        raise ValueError(f"--model {options.model}: it classifies, and knows no other relations than its own.")
    inventory = read_relation_file(options.relations, entity_types=model.config.entity_types)
    for name in options.only:
        if name not in inventory.names:
            hint = did_you_mean(name, inventory.names)
            raise ValueError(f"--only {name!r} is not a relation of {options.relations}.{hint}")
    if options.only:
        inventory = restrict_inventory(inventory, {*options.only, inventory.none_relation or ""})
    model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    only = inventory.names if options.only else ()
    samples = load_split(
        model, processor, options.dataset, options.data_dir, options.split, missing_images="no_image", only=only
    )
    predictions = predict_relations(model, processor, samples, batch_size=options.batch_size)
    size, num_draws, seed = options.inventory_size, options.num_draws, options.seed
    draws = draw_inventories(model, predictions, size=size, num_draws=num_draws, seed=seed)
    if options.output is not None:
        _plot(draws, options.output)
    return {"inventory_size": size, "num_draws": num_draws, **measure_rejection(draws, model.config)}


def measure_rejection(draws: Sequence[DrawnInventory], config: RocConfig) -> dict[str, Any]:
    """Measure what a model accepts of pairs inside, outside and without a relation.

    A pair's score is the cosine of the nearest relation, less that of "none of these" where it is described. With this
    the model decides too (`decide_relations`).

    Args:
        draws: The inventories.
        config: The configuration of the model.

    Returns:
        `n`, the number of pairs, and as `mean` and `stdev` over the draws: `auc` (see `area_under_curve`) of pairs
        inside against those outside of the inventory; `micro_f1` (see `even_f1`) of what the model decides, with half
        of the pairs outside; `unrelated_accepted`, the share of pairs without any relation that get one where 80 % of
        those inside do. Each is None where the data, or the model's threshold, does not tell it.
    """
    from roc.evaluation.drawn import area_under_curve, even_f1

    areas, f1, shares = [], [], []
    threshold = config.none_threshold if config.none_relation is None else 0.0
    for own in draws:
        scores = scores_of(own)
        inside, outside, unrelated = (scores[kind] for kind in (own.is_inside, own.is_outside, own.is_unrelated))
        if len(outside):
            areas.append(area_under_curve(inside, outside))
            if threshold is not None:
                f1.append(even_f1(own, scores >= threshold, ~own.is_unrelated))
        if len(unrelated):
            shares.append(share_accepted(inside, unrelated))
    summaries = {"auc": _summary(areas), "micro_f1": _summary(f1), "unrelated_accepted": _summary(shares)}
    return {"n": len(draws[0].best), "none_threshold": threshold, **summaries}


def scores_of(drawn: DrawnInventory) -> Tensor:
    """Return what decides whether a pair has a relation, `(pairs,)`: see `measure_rejection`."""
    return drawn.best if drawn.none is None else drawn.best - drawn.none


def share_accepted(inside: Tensor, others: Tensor, recall: float = RECALL) -> float:
    """Return the share of other pairs whose score reaches what at least `recall` of those inside reach."""
    num_accepted = math.ceil(round(recall * len(inside), 6))
    lowest = inside.sort(descending=True).values[num_accepted - 1]
    return (others >= lowest).double().mean().item()


def roc_curve(inside: Tensor, outside: Tensor) -> tuple[list[float], list[float]]:
    """Return the shares that are accepted of pairs outside, and of those inside, with every threshold there is.

    Both start at 0 and end at 1; the first do not decrease.
    """
    import torch

    thresholds = torch.cat([inside, outside]).unique().flip(0)
    shares = [1 - torch.searchsorted(own.sort().values, thresholds).double() / len(own) for own in (outside, inside)]
    return [0.0, *shares[0].tolist()], [0.0, *shares[1].tolist()]


def _plot(draws: Sequence[DrawnInventory], path: str) -> None:
    from roc.evaluation.plots import plot_roc_curves

    curves = []
    for own in draws:
        scores, others = scores_of(own), own.is_outside if own.is_outside.any() else own.is_unrelated
        if others.any():
            curves.append(roc_curve(scores[own.is_inside], scores[others]))
    plot_roc_curves(curves, path, title=f"{len(curves)} drawn inventories")


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": mean(values), "stdev": stdev(values) if len(values) > 1 else 0.0} if values else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m roc.evaluation.rejection", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="folder that train.py wrote, or Hub id; it must retrieve")
    add("--dataset", required=True, choices=DATASETS, help="which builder")
    add("--data_dir", required=True, help="folder of the raw files, or of what a builder wrote")
    add("--split", default="val", help="which split")
    add("--relations", required=True, help="relation file with the relations of the split, or of `--only`")
    add("--only", nargs="+", default=[], metavar="RELATION", help="take these of the relations, and their rows, alone")
    add("--inventory_size", type=int, default=10, help="relations in an inventory, besides the one that means none")
    add("--num_draws", type=int, default=20, help="how many inventories are drawn")
    add("--seed", type=int, default=0, help="decides which")
    add("--batch_size", type=int, default=64, help="texts per forward pass")
    add("--output", help="write a plot of the ROC curves into this PNG file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
