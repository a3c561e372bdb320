"""What an untrained sentence encoder scores in the zero-shot protocol, without ROC:
`python benchmarks/zero_shot_baseline.py --data_dir FEWREL [--num_unseen 5] [--seeds 0 1 2 3 4]`.

A sentence with its pair, "SENTENCE The relation between HEAD and TAIL.", is compared with each unseen relation's
"LABEL: DESCRIPTION" by the cosine of their MiniLM embeddings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from roc.benchmarks.common import TEXT_MODEL, run_benchmark
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.wikidata import relations_of_split
from roc.evaluation.scoring import relation_scores
from roc.evaluation.zero_shot import unseen_relations
from roc.modeling_backbones_roc import load_backbone, resolve_model
from roc.modeling_fusion_roc import mean_of_tokens
from roc.relations.files import RelationInventory


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the macro-F1 of each seed, and the mean."""
    relations = relations_of_split(options.data_dir, "val")
    rows = load_dataset_splits("fewrel", options.data_dir, splits=["val"])["val"].to_list()
    embeds = embed([*map(query, rows), *(relation["descriptions"][0] for relation in relations)])
    queries, keys = embeds[: len(rows)], dict(zip((relation["name"] for relation in relations), embeds[len(rows) :]))
    scores = {}
    for seed in options.seeds:
        unseen = unseen_relations(RelationInventory(relations, None), num_unseen=options.num_unseen, seed=seed)
        numbers = [number for number, row in enumerate(rows) if row["relation"] in unseen]
        nearest = (queries[numbers] @ torch.stack([keys[name] for name in unseen]).T).argmax(dim=-1).tolist()
        expected = [rows[number]["relation"] for number in numbers]
        found = relation_scores([unseen[number] for number in nearest], expected, none_relation=None)
        scores[seed] = round(found["macro_f1"], 4)
    return {"benchmark": "zero_shot_baseline", "macro_f1": scores, "mean": round(mean(scores.values()), 4)}


def query(row: dict[str, Any]) -> str:
    """Return the sentence, and the question about its pair."""
    return f"{row['text']} The relation between {row['head']['name']} and {row['tail']['name']}."


@torch.no_grad()
def embed(texts: Sequence[str]) -> Tensor:
    """Embed texts with MiniLM: the mean of the tokens' states, L2-normalised; `(len(texts), dim)`."""
    folder = resolve_model(TEXT_MODEL)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), load_backbone(folder).eval()
    by_length = sorted(set(texts), key=len)
    embeds: dict[str, Tensor] = {}
    for start in tqdm(range(0, len(by_length), 64), desc="encoding", disable=None):
        own = by_length[start : start + 64]
        batch = tokenizer(own, padding=True, truncation=True, return_tensors="pt")
        states = encoder(**batch).last_hidden_state
        embeds.update(zip(own, functional.normalize(mean_of_tokens(states, batch["attention_mask"]), dim=-1)))
    return torch.stack([embeds[text] for text in texts])


if __name__ == "__main__":
    seeds = {"type": int, "nargs": "+", "default": [0, 1, 2, 3, 4]}
    options = {"--data_dir": {"type": Path, "required": True}, "--num_unseen": 5, "--seeds": seeds}
    sys.exit(run_benchmark(measure, options))
