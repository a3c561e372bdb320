"""From one post to ranked relations: what `predict.py` shows, as functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

import roc.register  # noqa: F401  (AutoModel and AutoProcessor know ROC)
from roc.entity_typing_roc import load_entity_typer
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

SPAN = re.compile(r"(\d+):(\d+)")
BOX = re.compile(r"box:([\d.]+),([\d.]+),([\d.]+),([\d.]+)")


def load_model(name: str) -> tuple[RocModel, RocProcessor]:
    """A model in evaluation mode, on the GPU where there is one, and its processor.

    Args:
        name: A folder that `train.py` wrote, or a Hub id.

    Raises:
        OSError: If there is no such model.
    """
    if not Path(name).is_dir() and name.count("/") != 1:
        raise FileNotFoundError(f"There is no model folder {name!r} (and a Hub id has the form USER/NAME).")
    model = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    processor = AutoProcessor.from_pretrained(name)
    if not isinstance(model, RocModel) or not isinstance(processor, RocProcessor):
        raise ValueError(f"{name!r} is a {type(model).__name__}, not a ROC model.")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def parse_entity(given: str, text: str) -> dict[str, Any]:
    """An entity out of what a person types.

    Args:
        given: A name that occurs in the text (its first occurrence as a whole word counts), a half-open character
            span `START:END`, or an object in the picture `box:X0,Y0,X1,Y1` (shares of width and height).
        text: The text.

    Returns:
        `start` and `end`, or `bbox`.

    Raises:
        ValueError: If the name does not occur in the text.
    """
    if match := SPAN.fullmatch(given):
        return {"start": int(match[1]), "end": int(match[2])}
    if match := BOX.fullmatch(given):
        return {"bbox": tuple(map(float, match.groups()))}
    found = re.search(rf"(?<!\w){re.escape(given)}(?!\w)", text) if given else None
    if found is None:
        raise ValueError(
            f"The entity {given!r} does not occur in the text {text!r}. Give a name as it is written there, "
            "START:END in characters, or box:X0,Y0,X1,Y1 for an object in the picture."
        )
    return {"start": found.start(), "end": found.end()}


def find_entities(text: str, typer_name: str | None) -> list[dict[str, Any]]:
    """The entities of a text, with types, by named-entity recognition.

    Raises:
        ValueError: If fewer than two are found.
    """
    found = load_entity_typer(typer_name or "spacy").find([text])[0]
    if len(found) < 2:
        names = [text[start:end] for start, end, _ in found]
        raise ValueError(
            f"Named-entity recognition found {names} in the text: a relation needs two entities. Name them with "
            "--head and --tail, or with --entity for each."
        )
    return [{"start": start, "end": end, "type": entity_type} for start, end, entity_type in found]


@torch.no_grad()
def predict(
    model: RocModel,
    processor: RocProcessor,
    text: str,
    entities: Sequence[dict[str, Any]],
    *,
    image: Any = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    top_k: int = 3,
) -> dict[str, Any]:
    """Rank the relations of one post.

    Args:
        model: The model.
        processor: Its processor.
        text: The text.
        entities: As `RocProcessor` takes them.
        image: A picture (PIL image or encoded bytes), or None.
        pairs: (head, tail) numbers into `entities`; None for every ordered pair.
        top_k: Relations per pair.

    Returns:
        `text`, `truncated`, `entities` (name, start, end, type, bbox) and `predictions`: per pair `head` and `tail`
        (numbers into `entities`) and `relations` as `RocModel.rank_relations` gives them.

    Raises:
        ValueError: As `RocProcessor`.
    """
    typed = processor.type_entities([text], [entities])[0]
    if pairs is None:
        pairs = [(head, tail) for head in range(len(typed)) for tail in range(len(typed)) if head != tail]
    batch = processor(text=text, images=image, entities=typed, pairs=pairs).to(model.device)
    ranked = model.rank_relations(model(**batch), batch["pair_mask"], top_k=top_k)
    return {
        "text": text,
        "truncated": bool(batch["truncated"].any()),
        "entities": [_described(entity, text, number) for number, entity in enumerate(typed)],
        "predictions": [
            {"head": head, "tail": tail, "relations": relations} for (head, tail), relations in zip(pairs, ranked)
        ],
    }


def _described(entity: Any, text: str, number: int) -> dict[str, Any]:
    name = f"object {number}" if entity.is_object else text[entity.start : entity.end]
    bbox = None if entity.bbox is None else list(entity.bbox)
    return {"name": name, "start": entity.start, "end": entity.end, "type": entity.type or None, "bbox": bbox}
