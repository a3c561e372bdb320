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
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, build, report

from roc.dataset_scripts.loading import load_dataset_splits
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import read_relation_file
from roc.relations_bank_roc import descriptions_of
from roc.relations_index_roc import RelationIndex

BATCH_SIZE = 64


def main() -> None:
    """Measure and print one JSON line."""
    options = _options()
    torch.manual_seed(0)
    model, processor = build(vision=False, alignment="residual")
    model.eval()
    encoded: list[int] = []
    model.relation_model.register_forward_hook(
        lambda module, args, kwargs, output: encoded.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    generator = random.Random(0)
    relations = made_relations(options.data_dir, options.num_relations, generator)
    with torch.autocast("cpu", torch.bfloat16):  # half the time
        all_seconds, _ = timed(lambda: model.set_relations(relations, processor))
        del encoded[:]
        reworded = [{**relations[0], "descriptions": ["an entirely different relation"]}]
        one_seconds, _ = timed(lambda: model.update_relations(reworded, processor))
    index_seconds, index = timed(lambda: model.index_relations(exact=False))
    exact_index = model.index_relations(exact=True)
    batches = encoded_posts(processor, posts(options.data_dir, 16 * BATCH_SIZE, generator))
    pairs = [pair_vectors(model, batch) for batch in batches]
    parts = {
        "encoding": lambda: pair_vectors(model, batches[0]),
        "search": lambda: index.search(pairs[0]),
        "exact_search": lambda: exact_index.search(pairs[0]),
    }
    seconds = alternate(parts, repeats=options.repeats)
    encoding, search = seconds["encoding"], seconds["search"]
    report(
        benchmark="retrieval",
        ratio=round((encoding + search) / encoding, 3),
        ratio_exact=round((encoding + seconds["exact_search"]) / encoding, 3),
        recall_at_10=round(recall(index, exact_index, pairs), 4),
        **{f"{name}_seconds": round(value, 5) for name, value in seconds.items()},
        index_seconds=round(index_seconds, 1),
        all_encoded_seconds=round(all_seconds, 1),
        one_reworded_seconds=round(one_seconds, 2),
        one_reworded_encoded=sum(encoded),
        num_relations=options.num_relations,
        tokens=batches[0]["input_ids"].shape[1],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--num_relations", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


def made_relations(data_dir: Path | None, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """So many relations with different descriptions."""
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
    """The words of MNRE's descriptions."""
    texts = descriptions_of(read_relation_file("relations/mnre.yaml").relations)
    return sorted({word for text in texts for word in text.split()})


def posts(data_dir: Path | None, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """`text` and two `entities` of each post."""
    if data_dir is None:
        return [post_of(generator.sample(shipped_words(), 17)) for _ in range(count)]
    with tempfile.TemporaryDirectory() as cache_dir:
        rows = load_dataset_splits("fewrel", data_dir, splits=["val"], cache_dir=cache_dir)["val"].to_list()
    return [{"text": row["text"], "entities": [row["head"], row["tail"]]} for row in generator.sample(rows, count)]


def post_of(words: list[str]) -> dict[str, Any]:
    """A post of these words, whose first and last are its entities."""
    text = " ".join(words)
    return {"text": text, "entities": [(0, len(words[0])), (len(text) - len(words[-1]), len(text))]}


def encoded_posts(processor: RocProcessor, posts: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """Batches of tensors, one pair a post."""
    batches = [posts[start : start + BATCH_SIZE] for start in range(0, len(posts), BATCH_SIZE)]
    return [
        processor(
            text=[post["text"] for post in batch],
            entities=[post["entities"] for post in batch],
            pairs=[[(0, 1)]] * len(batch),
        )
        for batch in batches
    ]


@torch.no_grad()
def pair_vectors(model: RocModel, batch: dict[str, Tensor]) -> Tensor:
    """`(posts, embed_dim)`: each post has one pair."""
    names = ("input_ids", "attention_mask", "entity_positions", "entity_is_region", "pair_index")
    return model.get_pair_features(**{name: batch[name] for name in names})[:, 0]


def recall(index: RelationIndex, exact_index: RelationIndex, pairs: list[Tensor]) -> float:
    """Which share of the ten nearest relations the approximate index finds."""
    found = [
        len(set(own) & set(exact))
        for batch in pairs
        for own, exact in zip(index.search(batch).names, exact_index.search(batch).names)
    ]
    return statistics.mean(found) / 10


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returned."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
