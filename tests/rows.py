"""Rows of the schema about one text, for tests of samples."""

from __future__ import annotations

from typing import Any

from tiny import RELATIONS, picture_bytes, tiny_picture

from roc.dataset_scripts.schema import object_entity, text_entity

NAMES = [relation["name"] for relation in RELATIONS]
TEXT = "ann kissed bob in paris today"
ANN = text_entity(TEXT, 0, 3, entity_type="person")
BOB = text_entity(TEXT, 11, 14, entity_type="person")
PARIS = text_entity(TEXT, 18, 23)
BALL, TREE = object_entity("ball", [0.1, 0.2, 0.5, 0.9]), object_entity("tree", [0.6, 0.0, 1.0, 0.5])
RED, BLUE = picture_bytes(tiny_picture("red")), picture_bytes(tiny_picture("blue"))


def row(
    row_id: str, head: Any = ANN, tail: Any = BOB, *, relation: str = "None", image: Any = None, text: str = TEXT
) -> dict[str, Any]:
    return {"id": row_id, "text": text, "image": image, "head": head, "tail": tail, "relation": relation}


def picture(data: bytes, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}
