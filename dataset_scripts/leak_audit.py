"""Measures what gives a relation away although no model should see it.

The "visual objects" that circulate with MNRE are lists of crops per *instance*: they were cut with a phrase that had
the gold entity types in it, and with none where the relation is `None`. Their number alone then tells the relation.
Systems that take the first three crops and fill up with zeros read it from the empty slots.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.generating.common import lookup_accuracy
from roc.dataset_scripts.mnre import find_text_file, read_instances
from roc.dataset_scripts.schema import SPLITS
from roc.support.files import load_plain_pickle
from roc.support.programs import run_program

# HVPNeT, MKGformer, IFAformer and HVFormer take this many crops and zero-pad.
CROPS_TAKEN = 3

# Our choice: a lookup that beats the majority by two points, or finds `None` much better than a coin (0.5), leaks,
# unless the same would happen by chance.
MIN_GAIN = 0.02
MIN_BALANCED_ACCURACY = 0.6
MAX_P_VALUE = 0.01
NUM_SHUFFLES = 199


def audit_visual_objects(
    path: str | Path, relations: Sequence[str], *, none_relation: str = "None", seed: int = 0
) -> dict[str, Any]:
    """Measure how far the number of crops per instance predicts the relation.

    Args:
        path: A `*_dict.pth`: crop names by instance, keyed by the line of the instance from 0.
        relations: The relation of each instance, in the order of the text file.
        none_relation: The relation that means "none".
        seed: Seed of the shuffles.

    Returns:
        The verdict in words, and whether it `leaks`. `majority_rate` and `lookup_accuracy` are the accuracies of always
        answering the most frequent relation, and of the best answer per number on the same instances; `p_value` is how
        often shuffled relations give such a lookup accuracy. `none_precision`, `none_recall` and
        `none_balanced_accuracy` (the mean of the recalls of "none" and of all others, 0.5 by chance) are those of
        `none_rule`; `none_rate_by_value` and `num_by_value` have the share of "none" and the instances of each number.
        All rates are in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, has another number of instances, or `none_relation` does not occur.
    """
    crops = _load_crops(Path(path))
    if set(crops) - set(range(len(relations))):
        raise ValueError(
            f"{path} has entries for the lines {min(crops)} to {max(crops)}, but there are {len(relations)} instances. "
            "Give the file of the same split."
        )
    gold = [relation == none_relation for relation in relations]
    if not any(gold) or all(gold):
        raise ValueError(f"none_relation={none_relation!r} must be the relation of some, not all, of the instances.")
    counts = [len(crops.get(index, ())) for index in range(len(relations))]
    majority = max(Counter(relations).values()) / len(relations)
    accuracy = lookup_accuracy(counts, relations)
    p_value = _p_value(counts, relations, accuracy=accuracy, seed=seed)
    precision, recall, balanced = _scores([count < CROPS_TAKEN for count in counts], gold)
    leaks = p_value <= MAX_P_VALUE and (accuracy - majority >= MIN_GAIN or balanced >= MIN_BALANCED_ACCURACY)
    by_value = sorted(Counter(counts).items())
    none_by_value = Counter(count for count, none in zip(counts, gold) if none)
    return {
        "num_instances": len(relations),
        "majority_rate": majority,
        "lookup_accuracy": accuracy,
        "p_value": p_value,
        "none_rule": f"fewer than {CROPS_TAKEN} crops",
        "none_precision": precision,
        "none_recall": recall,
        "none_balanced_accuracy": balanced,
        "none_rate_by_value": {str(value): none_by_value[value] / number for value, number in by_value},
        "num_by_value": {str(value): number for value, number in by_value},
        "leaks": leaks,
        "verdict": "LEAKS" if leaks else "no leak found",
    }


def _p_value(counts: Sequence[int], relations: Sequence[str], *, accuracy: float, seed: int) -> float:
    """Return the share of shuffles, the real order among them, whose lookup is as accurate (a permutation test)."""
    rng, shuffled = random.Random(seed), list(relations)
    as_good = 1
    for _ in range(NUM_SHUFFLES):
        rng.shuffle(shuffled)
        as_good += lookup_accuracy(counts, shuffled) >= accuracy
    return as_good / (NUM_SHUFFLES + 1)


def _scores(predicted: Sequence[bool], gold: Sequence[bool]) -> tuple[float, float, float]:
    """Return precision and recall of a yes, and the mean of the recalls of yes and no."""
    cells = Counter(zip(predicted, gold))
    precision = cells[True, True] / max(1, sum(predicted))
    recall = cells[True, True] / sum(gold)
    return precision, recall, (recall + cells[False, False] / (len(gold) - sum(gold))) / 2


def _load_crops(path: Path) -> Mapping[int, Sequence[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give a `*_dict.pth` with --objects.")
    crops = load_plain_pickle(path)
    is_mapping = isinstance(crops, dict) and bool(crops)
    if not is_mapping or not all(isinstance(k, int) and isinstance(names, list) for k, names in crops.items()):
        raise ValueError(f"{path} is not a list of crops per line number: expected a dict of int to list.")
    return crops


def main(argv: Sequence[str] | None = None) -> int:
    """Audit the visual objects of an MNRE split; the exit code is 0 if the audit ran, whatever it found."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.dataset_scripts.leak_audit",
        description="Measure how far the number of MNRE's 'visual objects' per instance gives the relation away.",
    )
    parser.add_argument("--data_dir", required=True, help="folder of the raw MNRE files")
    parser.add_argument("--objects", required=True, help="the *_dict.pth file of the same split")
    parser.add_argument("--split", required=True, choices=SPLITS)
    args = parser.parse_args(argv)
    return run_program(lambda: _audit(args))


def _audit(args: argparse.Namespace) -> dict[str, Any]:
    path = find_text_file(Path(args.data_dir), args.split)
    if path is None:
        raise FileNotFoundError(f"{args.data_dir} has no text file of the split {args.split!r}.")
    relations = [instance["relation"] for _, _, instance in read_instances(path)]
    return {"objects": args.objects, "split": args.split, **audit_visual_objects(args.objects, relations)}


if __name__ == "__main__":
    sys.exit(main())
