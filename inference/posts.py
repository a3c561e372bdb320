"""From one post to ranked relations: what `predict.py` shows, as functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from transformers.utils import CONFIG_NAME, cached_file

import roc.register  # noqa: F401  (AutoModel knows ROC)
from roc.messages_roc import quote, read_settings
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import check_adapter
from roc.pipeline_posts_roc import Post, rank_posts
from roc.processing_entities_roc import check_pairs
from roc.processing_names_roc import SearchedText, find_names
from roc.processing_roc import RocProcessor

SPAN = re.compile(r"(\d+):(\d+)")
BOX_PREFIX = "box:"
NUMBERED = re.compile(r"(.+) #([1-9]\d{0,2})", re.DOTALL)


def load_model(name: str, *, entity_typer: str | None = None) -> tuple[RocModel, RocProcessor]:
    """Load a model in evaluation mode, onto the accelerator where there is one, and its processor.

    Args:
        name: A folder that `train.py` wrote, or a Hub id. No code that comes with it is run.
        entity_typer: The typer to use in place of the model's own, `"null"` for none. One that is no model of spaCy's
            own is never taken from the folder.

    Returns:
        The model and its processor.

    Raises:
        OSError: If there is no such model.
        ValueError: If it is not a ROC model, or its folder names what only the user may choose.
    """
    if not Path(name).is_dir() and name.count("/") != 1:
        raise FileNotFoundError(f"There is no model folder {name!r} (and a Hub id has the form USER/NAME).")
    if file := cached_file(name, CONFIG_NAME, _raise_exceptions_for_missing_entries=False):
        kind = read_settings(file).get("model_type")
        if kind != "roc":
            raise ValueError(f"{name!r} is a model of the type {quote(kind)}, not a ROC model.")
    check_adapter(name, {})
    model = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    if not isinstance(model, RocModel):
        raise ValueError(f"{name!r} is a {type(model).__name__}, not a ROC model.")
    chosen: dict[str, Any] = (
        {} if entity_typer is None else {"entity_typer": None if entity_typer == "null" else entity_typer}
    )
    processor = RocProcessor.from_pretrained(name, **chosen)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.eval().to(accelerator or "cpu"), processor


def parse_entities(given: Sequence[str], text: str) -> list[dict[str, Any]]:
    """Read the entities that a person types.

    Args:
        given: Each is a name in the text (`NAME #2` for its second place), a half-open character span `START:END`, or
            an object in the picture `box:X0,Y0,X1,Y1` (shares of width and height). A name that occurs several times
            must be numbered, or be given as often as it occurs.
        text: The text.

    Returns:
        For each `start` and `end`, or `bbox`.

    Raises:
        ValueError: If a name does not occur in the text, or it is not clear where, or a box is not four numbers.
    """
    otherwise = "give START:END in characters, or box:X0,Y0,X1,Y1 for an object in the picture"
    entities = [_parse_entity(own, text) for own in given]
    return find_names(entities, text, ["The entity"] * len(given), otherwise=otherwise, numbered="'{name} #{number}'")


def _parse_entity(given: str, text: str) -> dict[str, Any] | str:
    if match := SPAN.fullmatch(given):
        return {"start": int(match[1]), "end": int(match[2])}
    if given.startswith(BOX_PREFIX):
        return {"bbox": _parse_box(given)}
    return parse_name(given, text)


def parse_name(given: str, text: str) -> dict[str, Any] | str:
    """Read `NAME #2`, the second place of a name in a text; the text may also have all of it as a name."""
    if not (numbered := NUMBERED.fullmatch(given)):
        return given
    name, number = numbered[1], int(numbered[2])
    count = len([*SearchedText(text).places(name)])
    return {"name": name, "occurrence": number} if count >= number or (count and given not in text) else given


def _parse_box(given: str) -> tuple[float, ...]:
    try:
        x0, y0, x1, y1 = map(float, given.removeprefix(BOX_PREFIX).split(","))
    except ValueError as error:
        raise ValueError(f"{given!r} is not a box. Type box:X0,Y0,X1,Y1, shares of width and height.") from error
    return x0, y0, x1, y1


def find_entities(text: str, processor: RocProcessor) -> list[dict[str, Any]]:
    """Find the entities of a text by named-entity recognition.

    Args:
        text: The text.
        processor: The model's processor.

    Returns:
        Mappings with `start`, `end` and `type`, as `RocProcessor.find_entities` gives them.

    Raises:
        ValueError: If fewer than two are found.
        ImportError: If what finds them is not installed.
    """
    [found] = processor.find_entities([text])
    if len(found) < 2:
        names = [text[entity["start"] : entity["end"]] for entity in found]
        raise ValueError(
            f"Named-entity recognition found {names} in the text: a relation needs two entities. Name them with "
            "--head and --tail, or with --entity for each."
        )
    return found


def predict(
    model: RocModel,
    processor: RocProcessor,
    text: str,
    entities: Sequence[Any],
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
        `text`, `entities` and `predictions` as `rank_posts` gives them, and `truncated`: whether text was cut off.

    Raises:
        ValueError: If there is no pair, `top_k` is below 1, the model has no relations, or as `RocProcessor`.
        TypeError: As `RocProcessor`.
    """
    asked = check_pairs(pairs, len(entities), "the post")
    if not asked:
        raise ValueError("The post has no pair: give it two entities.")
    post = Post(text, image, entities, asked, "the post")
    [ranked], truncated = rank_posts(model, processor, [post], top_k=top_k)
    return {"text": text, "truncated": truncated, **ranked}


def explain_post(
    model: RocModel,
    processor: RocProcessor,
    text: str,
    entities: Sequence[dict[str, Any]],
    *,
    image: Any = None,
    pair: tuple[int, int] = (0, 1),
    relation: str | None = None,
    num_steps: int = 16,
) -> dict[str, Any]:
    """Explain one pair of a post: see `RocModel.explain`.

    Args:
        model: The model.
        processor: Its processor.
        text: The text.
        entities: As `RocProcessor` takes them.
        image: A picture (PIL image or encoded bytes), or None.
        pair: (head, tail) numbers into `entities`.
        relation: Name of the relation to explain; None for the best one.
        num_steps: See `RocModel.explain`.

    Returns:
        `relation`, `description`, `score`; `tokens`, a list of `start`, `end` (half-open character offsets) and
        `relevance`; and `patches`, the relevance of each patch as rows of numbers, or None without a picture.

    Raises:
        ValueError: As `RocModel.explain` and `RocProcessor`.
        TypeError: As `RocProcessor`.
    """
    batch = processor(text=text, images=image, entities=entities, pairs=[pair], return_offsets_mapping=True)
    batch = batch.to(model.device)
    explanation = model.explain(batch, relation=relation, num_steps=num_steps)
    spans = batch["offset_mapping"][0].tolist()
    return {
        "relation": explanation.relation,
        "description": explanation.description,
        "score": explanation.score,
        "tokens": [
            {"start": start, "end": end, "relevance": relevance}
            for (start, end), relevance in zip(spans, explanation.token_relevance.tolist())
            if end
        ],
        "patches": None if explanation.patch_relevance is None else explanation.patch_relevance.tolist(),
    }
