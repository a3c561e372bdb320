"""What ten pairs cost beside one: `python benchmarks/encode_pairs.py [--repeats 21]`.

One post with a picture, from strings and bytes to logits: ten pairs over its five entities against one pair of two.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, build, post, report


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    torch.manual_seed(0)
    model, processor = build()
    model.eval()
    one_post = post(random.Random(0), num_entities=5)
    ten_pairs = list(itertools.combinations(range(5), 2))

    @torch.no_grad()
    def encode(num_entities: int, pairs: list[tuple[int, int]], *, picture: bool) -> None:
        batch = processor(
            text=one_post["text"],
            images=one_post["image"] if picture else None,
            entities=one_post["entities"][:num_entities],
            pairs=pairs,
        )
        model(**batch)

    seconds = alternate(
        {
            "ten": lambda: encode(5, ten_pairs, picture=True),
            "one": lambda: encode(2, [(0, 1)], picture=True),
            "ten_text_only": lambda: encode(5, ten_pairs, picture=False),
            "one_text_only": lambda: encode(2, [(0, 1)], picture=False),
        },
        repeats=options.repeats,
    )
    report(
        benchmark="encode_pairs",
        ratio=round(seconds["ten"] / seconds["one"], 3),
        ratio_text_only=round(seconds["ten_text_only"] / seconds["one_text_only"], 3),
        **{f"{name}_seconds": round(value, 5) for name, value in seconds.items()},
    )


if __name__ == "__main__":
    main()
