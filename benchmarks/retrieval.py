"""What searching 100,000 descriptions costs beside encoding the pairs, and what one reworded relation costs:
`python benchmarks/retrieval.py [--data_dir FEWREL] [--num_relations 100000] [--repeats 15]`.

Compared are, in one run and taking turns, for 64 posts with one pair each (text only, MiniLM):
- `encoding`: the pair vectors, from tokens;
- `search`: the ten nearest relations of these pairs, in the approximate index and exactly.

With `--data_dir`, descriptions join two names of Wikidata properties, and pairs are those of FewRel's sentences;
without it both are made of the words of the descriptions of MNRE. Pairs live in the description encoder's space
(`alignment="residual"`), so that they have something to find before any training.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from roc.benchmarks.common import alternate, build, collate, counting, machine, run_benchmark, timed
from roc.dataset_scripts.loading import load_dataset_splits
from roc.modeling_roc import RocModel
from roc.relations.files import load_relations
from roc.relations_bank_roc import descriptions_of
from roc.relations_index_roc import RelationIndex

BATCH_SIZE = 64


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios, and the seconds that they come from."""
    torch.manual_seed(0)
    model, processor = build(vision=False, alignment="residual")
    model.eval()
    generator = random.Random(0)
    relations = made_relations(options.data_dir, options.num_relations, generator)
    reworded = [{**relations[0], "descriptions": ["an entirely different relation"]}]
    with torch.autocast("cpu", torch.bfloat16):  # half the time
        all_seconds, _ = timed(lambda: model.set_relations(relations, processor))
        with counting(model.relation_model, "input_ids") as encoded:
            one_seconds, _ = timed(lambda: model.update_relations(reworded, processor))
    index_seconds, index = timed(lambda: model.index_relations(exact=False))
    exact_index = model.index_relations(exact=True)
    given = posts(options.data_dir, 16 * BATCH_SIZE, generator)
    starts = range(0, len(given), BATCH_SIZE)
    batches = [collate(processor, given[start : start + BATCH_SIZE], use_image=False) for start in starts]
    pairs = [pair_vectors(model, batch) for batch in batches]
    parts = {
        "encoding": lambda: pair_vectors(model, batches[0]),
        "search": lambda: index.search(pairs[0]),
        "exact_search": lambda: exact_index.search(pairs[0]),
    }
    seconds = alternate(parts, repeats=options.repeats)
    return {
        "benchmark": "retrieval",
        "ratio": round(1 + seconds["search"] / seconds["encoding"], 3),
        "ratio_exact": round(1 + seconds["exact_search"] / seconds["encoding"], 3),
        "recall_at_10": round(recall(index, exact_index, pairs), 4),
        **{f"{name}_seconds": round(value, 5) for name, value in seconds.items()},
        "index_seconds": round(index_seconds, 1),
        "all_encoded_seconds": round(all_seconds, 1),
        "one_reworded_seconds": round(one_seconds, 2),
        "one_reworded_encoded": sum(encoded),
        "num_relations": options.num_relations,
        "tokens": batches[0]["input_ids"].shape[1],
        **machine(),
    }


def made_relations(data_dir: Path | None, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """Make so many relations with different descriptions."""
    if data_dir is None:
        parts, size, between = shipped_words(), 5, " "
    else:
        properties = json.loads((data_dir / "pid2name.json").read_text(encoding="utf-8"))
        parts, size, between = sorted({name for name, _ in properties.values()}), 2, " of "
    texts: dict[str, None] = {}  # a set would have no order
    while len(texts) < count:
        texts[between.join(generator.sample(parts, size))] = None
    return [{"name": str(number), "descriptions": [text]} for number, text in enumerate(texts)]


def shipped_words() -> list[str]:
    """Return the words of MNRE's descriptions."""
    return sorted({*" ".join(descriptions_of(load_relations("relations/mnre.yaml").relations)).split()})


def posts(data_dir: Path | None, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """Return `text` and two `entities` of each post; the first and the last word of a post that is made up."""
    if data_dir is None:
        made = [generator.sample(shipped_words(), 17) for _ in range(count)]
        starts = [len(" ".join(words[:-1])) + 1 for words in made]
        return [
            {"text": " ".join(own), "entities": [(0, len(own[0])), (start, start + len(own[-1]))]}
            for own, start in zip(made, starts)
        ]
    with tempfile.TemporaryDirectory() as cache_dir:
        rows = load_dataset_splits("fewrel", data_dir, splits=["val"], cache_dir=cache_dir)["val"].to_list()
    return [{"text": row["text"], "entities": [row["head"], row["tail"]]} for row in generator.sample(rows, count)]


@torch.no_grad()
def pair_vectors(model: RocModel, batch: dict[str, Tensor]) -> Tensor:
    """Return the vector of each post's pair: `(posts, embed_dim)`."""
    names = ("input_ids", "attention_mask", "entity_positions", "entity_is_region", "pair_index")
    return model.get_pair_features(**{name: batch[name] for name in names})[:, 0]


def recall(index: RelationIndex, exact_index: RelationIndex, pairs: list[Tensor]) -> float:
    """Return which share of the ten nearest relations the approximate index finds."""
    own, exact = ([names for batch in pairs for names in i.search(batch).names] for i in (index, exact_index))
    return mean(len({*found} & {*nearest}) for found, nearest in zip(own, exact)) / 10


if __name__ == "__main__":
    options = {"--data_dir": {"type": Path}, "--num_relations": 100_000, "--repeats": 15}
    sys.exit(run_benchmark(measure, options))
