"""What a training step costs beside its encoders: `python benchmarks/train_step.py [--batch_size 32] [--repeats 9]`.

Compared are, on the same padded batch and in one run, taking turns:
- `step`: collation (decoding pictures, tokenising, marking), forward with relation bank and loss, backward, clipping;
- `bare`: forward and backward of the same text encoder, vision encoder and fusion layers, called one after another.
The optimizer is in neither.
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

import torch

from roc.benchmarks.common import alternate, build, collate, machine, make_post, run_benchmark
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the ratio, and the seconds that it comes from."""
    torch.manual_seed(0)
    model, processor = build()
    model.train()
    generator = random.Random(0)
    posts = [make_post(generator) for _ in range(options.batch_size)]
    batch = collate(processor, posts)
    runs = {"step": lambda: step(model, processor, posts), "bare": lambda: bare(model, batch)}
    seconds = alternate(runs, repeats=options.repeats)
    seconds |= alternate({"collation": lambda: collate(processor, posts)}, repeats=options.repeats)
    return {
        "benchmark": "train_step",
        "ratio": round(seconds["step"] / seconds["bare"], 3),
        **{f"{name}_seconds": round(value, 4) for name, value in seconds.items()},
        "batch_size": options.batch_size,
        "tokens": batch["input_ids"].shape[1],
        **machine(),
    }


def step(model: RocModel, processor: RocProcessor, posts: list[dict]) -> None:
    """Do a training step without the optimizer."""
    model(**collate(processor, posts)).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    model.zero_grad(set_to_none=True)


def bare(model: RocModel, batch: dict[str, torch.Tensor]) -> None:
    """Call the same encoders and fusion layers alone."""
    assert model.vision_model is not None
    text = model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    patches = model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state[:, 1:]
    states = torch.cat([text, patches], dim=1)  # both are 384 wide here
    mask = torch.cat([batch["attention_mask"].bool(), torch.ones(patches.shape[:2], dtype=torch.bool)], dim=1)
    mask = mask[:, None, None]
    text_positions = torch.arange(text.shape[1]).expand(len(text), -1)
    for layer in model.fusion_layers[:-1]:
        states = torch.cat([layer(states, mask, text_positions), patches], dim=1)
    model.fusion_layers[-1](states, mask, batch["entity_positions"]).sum().backward()
    model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, {"--batch_size": 32, "--repeats": 9}))
