"""The schema of the rows as `datasets` types it; beside `schema.py`, as the import of `datasets` takes seconds."""

from __future__ import annotations

from datasets import Features, Image, List, Value

_ENTITY = {
    "name": Value("string"),
    "start": Value("int32"),
    "end": Value("int32"),
    "type": Value("string"),
    "bbox": List(Value("float32"), length=4),
}

FEATURES = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "image": Image(),
        "head": dict(_ENTITY),
        "tail": dict(_ENTITY),
        "relation": Value("string"),
    }
)
