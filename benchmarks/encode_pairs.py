"""What ten pairs cost beside one: `python benchmarks/encode_pairs.py [--repeats 21]`.

One post with a picture, from strings and bytes to logits: ten pairs over its five entities against one pair of two.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from typing import Any

import torch

from roc.benchmarks.common import alternate, build, machine, make_post, run_benchmark


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios, and the seconds that they come from."""
    torch.manual_seed(0)
    model, processor = build()
    model.eval()
    post = make_post(random.Random(0), num_entities=5)

    @torch.no_grad()
    def encode(num_entities: int, *, picture: bool) -> None:
        pairs = list(itertools.combinations(range(num_entities), 2))
        image, entities = post["image"] if picture else None, post["entities"][:num_entities]
        model(**processor(text=post["text"], images=image, entities=entities, pairs=pairs))

    seconds = alternate(
        {
            "ten": lambda: encode(5, picture=True),
            "one": lambda: encode(2, picture=True),
            "ten_text_only": lambda: encode(5, picture=False),
            "one_text_only": lambda: encode(2, picture=False),
        },
        repeats=options.repeats,
    )
    return {
        "benchmark": "encode_pairs",
        "ratio": round(seconds["ten"] / seconds["one"], 3),
        "ratio_text_only": round(seconds["ten_text_only"] / seconds["one_text_only"], 3),
        **{f"{name}_seconds": round(value, 5) for name, value in seconds.items()},
        **machine(),
    }


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, {"--repeats": 21}))
