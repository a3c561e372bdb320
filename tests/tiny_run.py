"""What a training run on tiny text needs, written into a folder: data, relations and a random text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tiny import NONE_RELATION, RELATIONS, tiny_tokenizer
from transformers import BertConfig, BertModel

NAMES = [relation["name"] for relation in RELATIONS]
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def write_inputs(folder: Path) -> dict[str, Any]:
    """Write the files; returns settings of a run on them that takes seconds."""
    for split, num_posts in {"train": 12, "val": 6}.items():
        lines = "".join(json.dumps(_post(f"{split}-{number}", number)) + "\n" for number in range(num_posts))
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    content = {"version": 1, "language": "en", "none_relation": NONE_RELATION, "relations": RELATIONS}
    (folder / "relations.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "text")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SIZE)).save_pretrained(folder / "text")
    return {
        "data_dir": str(folder),
        "relations": str(folder / "relations.yaml"),
        "text_model": str(folder / "text"),
        "fusion_num_layers": 1,
        "fusion_num_heads": 2,
        "projection_dim": 16,
        "batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_threads": 1,
    }


def _post(name: str, number: int) -> dict[str, Any]:
    """Three entities in two pairs; the words say which relation."""
    words = [("ann", "bob")[number % 2], "kissed", ("eve", "tom")[number // 2 % 2], "in", "paris", str(number)]
    text, starts = " ".join(words), [sum(len(word) + 1 for word in words[:place]) for place in (0, 2, 4)]
    entities = [{"start": start, "end": start + length} for start, length in zip(starts, (3, 3, 5))]
    relations = [{"head": 0, "tail": 1, "relation": NAMES[1]}]
    relations.append({"head": 0, "tail": 2, "relation": NAMES[number % 2 * 2]})
    return {"id": name, "text": text, "entities": entities, "relations": relations}
