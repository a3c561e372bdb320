"""Posts of all kinds for tests of the model: lengths, entities, pairs, with and without a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from tiny import picture_bytes, tiny_picture
from torch import Tensor

from roc.processing_roc import RocProcessor

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LEFT, RIGHT = {"bbox": (0.0, 0.0, 0.55, 0.9)}, {"bbox": (0.6, 0.3, 1.0, 1.0)}


def halves(left: str, right: str) -> Image.Image:
    """A picture with two colours, so that its patches differ."""
    picture = tiny_picture(left, size=(32, 32))
    picture.paste(tiny_picture(right, size=(16, 32)), (16, 0))
    return picture


SHARED_PICTURE = picture_bytes(halves("red", "blue"))

# Different lengths, numbers of entities and pairs; with and without a picture, and one picture in two posts.
POSTS: list[dict[str, Any]] = [
    {
        "text": "ann kissed bob in paris today",
        "image": SHARED_PICTURE,
        "entities": [(0, 3, "person"), (11, 14, "person"), (18, 23, "location"), LEFT],
        "pairs": [(0, 1), (0, 2), (1, 3)],
        "labels": [1, 2, 3],
    },
    {
        "text": "eve visits berlin with the two of the post, and the two of the tail",
        "image": None,
        "entities": [(0, 3), (11, 17)],
        "pairs": [(0, 1)],
        "labels": [0],
    },
    {
        "text": "bob holds a",
        "image": SHARED_PICTURE,
        "entities": [(0, 3, "person"), LEFT, RIGHT],
        "pairs": [(0, 1), (0, 2), (1, 2), (2, 1)],
        "labels": [3, 0, 0, 1],
    },
    {
        "text": "eve met ann",
        "image": picture_bytes(halves("green", "yellow")),
        "entities": [(0, 3), (8, 11)],
        "pairs": [(1, 0)],
        "labels": [1],
    },
]
NUM_PAIRS = sum(len(post["pairs"]) for post in POSTS)


def encode(processor: RocProcessor, posts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    columns = {name: [post[name] for post in posts] for name in ("text", "image", "entities", "pairs", "labels")}
    return dict(processor(images=columns.pop("image"), pictures_left_out=True, **columns))
