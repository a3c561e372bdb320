"""What an untrained sentence encoder scores in the zero-shot protocol, without ROC:
`python benchmarks/zero_shot_baseline.py --data_dir FEWREL [--num_unseen 5] [--seeds 0 1 2 3 4]`.

A sentence with its pair, "SENTENCE The relation between HEAD and TAIL.", is compared with each unseen relation's
"LABEL: DESCRIPTION" by the cosine of their MiniLM embeddings.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from common import TEXT_MODEL

from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.wikidata import relations_of_split
from roc.evaluation.scoring import relation_scores
from roc.evaluation.zero_shot import unseen_relations
from roc.modeling_backbones_roc import load_backbone, resolve_model
from roc.modeling_fusion_roc import mean_of_tokens
from roc.relations.files import RelationInventory


def main() -> None:
    """Measure and print one JSON line: macro-F1 of each seed, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--num_unseen", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    relations = relations_of_split(Path(options.data_dir), "val")
    rows = load_dataset_splits("fewrel", options.data_dir, splits=["val"])["val"].to_list()
    embed = Embedder()
    queries = embed([query(row) for row in rows])
    keys = embed([relation["descriptions"][0] for relation in relations])
    scores = {}
    for seed in options.seeds:
        unseen = unseen_relations(RelationInventory(relations, None), num_unseen=options.num_unseen, seed=seed)
        numbers = [number for number, row in enumerate(rows) if row["relation"] in unseen]
        candidates = keys[[number for name in unseen for number, r in enumerate(relations) if r["name"] == name]]
        nearest = (queries[numbers] @ candidates.T).argmax(dim=-1).tolist()
        expected = [rows[number]["relation"] for number in numbers]
        macro = relation_scores([unseen[number] for number in nearest], expected, none_relation=None)["macro_f1"]
        scores[seed] = round(macro, 4)
    mean = round(sum(scores.values()) / len(scores), 4)
    print(json.dumps({"benchmark": "zero_shot_baseline", "macro_f1": scores, "mean": mean}))


def query(row: dict[str, Any]) -> str:
    """The sentence, and the question about its pair."""
    return f"{row['text']} The relation between {row['head']['name']} and {row['tail']['name']}."


class Embedder:
    """MiniLM as a sentence encoder: the mean of the tokens' states, normalised."""

    def __init__(self) -> None:
        folder = resolve_model(TEXT_MODEL)
        self.tokenizer, self.encoder = AutoTokenizer.from_pretrained(folder), load_backbone(folder).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """`(len(texts), dim)`, L2-normalised."""
        embeds: list[Tensor] = [torch.empty(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for start in tqdm(range(0, len(order), 64), desc="encoding", disable=None):
            numbers = order[start : start + 64]
            batch = self.tokenizer([texts[n] for n in numbers], padding=True, truncation=True, return_tensors="pt")
            states = self.encoder(**batch).last_hidden_state
            mean = mean_of_tokens(states, batch["attention_mask"])
            for number, embed in zip(numbers, functional.normalize(mean, dim=-1)):
                embeds[number] = embed
        return torch.stack(embeds)


if __name__ == "__main__":
    main()
