"""The Space's answers as HTML: relations ranked and explained by one model that all visitors share.

No visitor changes that model: a visitor's relations go into a copy of its relation bank, which is dropped after the
answer. Whatever a visitor wrote is escaped here.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image, ImageDraw

from roc.inference.drawing import AWAY, TOWARDS, draw_prediction, largest_relevance, tint, with_heat
from roc.inference.posts import explain_post, predict
from roc.modeling_roc import RocModel
from roc.pipeline_posts_roc import Post
from roc.processing_roc import RocProcessor
from roc.support.figures import entity_color

TOP_K = 5  # relations that are shown of one pair
LARGEST_SIDE, SMALLEST_SIDE = 768, 384  # pixels of a picture in an answer


class SharedModel:
    """A model for many visitors, one request at a time. Those with the same weights share a lock."""

    def __init__(self, model: RocModel, processor: RocProcessor, lock: threading.Lock | None = None) -> None:
        self.model, self.processor = model, processor
        self._lock = lock or threading.Lock()  # two at once take twice the memory

    @property
    def relations(self) -> list[dict[str, Any]]:
        """The model's own relations."""
        return list(self.model.config.relations)

    def with_relations(self, relations: Sequence[Mapping[str, Any]]) -> SharedModel:
        """Give a copy of the model a visitor's relations, for one answer; the model may refuse them."""
        if list(relations) == self.relations:
            return self
        with self._lock:
            return SharedModel(self.model.with_relations(relations, self.processor), self.processor, self._lock)

    def rank(self, post: Post) -> dict[str, Any]:
        """Rank the relations for the pairs of a post: what `roc.inference.posts.predict` returns."""
        given = {"image": post.image, "pairs": post.pairs, "top_k": TOP_K}
        with self._lock:
            return predict(self.model, self.processor, post.text, post.entities, **given)

    def explain(self, post: Post) -> dict[str, Any]:
        """Explain the best relation of the post's first pair: what `roc.inference.posts.explain_post` returns."""
        given = {"image": post.image, "pair": post.pairs[0]}
        with self._lock:
            return explain_post(self.model, self.processor, post.text, post.entities, **given)


# ---------------------------------------------------------------------------------------------------------------------
# Ranked relations


def ranks_as_html(result: Mapping[str, Any]) -> str:
    """Show what `SharedModel.rank` returned: all relations of one pair, or the best of each of several pairs."""
    entities, predictions = result["entities"], result["predictions"]
    note = "<p class='roc-note'>The end of the text is beyond what the model reads.</p>" if result["truncated"] else ""
    by_score = sorted(predictions, key=lambda pair: pair["relations"][0]["score"], reverse=True)
    num_relations = TOP_K if len(predictions) == 1 else 1
    return note + "".join(_pair_card(entities, pair, num_relations) for pair in by_score)


def _pair_card(entities: Sequence[Mapping[str, Any]], pair: Mapping[str, Any], num_relations: int) -> str:
    chips = " → ".join(_chip(entities[pair[side]], pair[side]) for side in ("head", "tail"))
    undecided = "<p class='roc-note'>no relation</p>" if pair["relation"] is None else ""
    rows = "".join(_relation_row(relation, rank) for rank, relation in enumerate(pair["relations"][:num_relations]))
    return f"<section class='roc-card'><div class='roc-pair'>{chips}</div>{undecided}<ol>{rows}</ol></section>"


def _chip(entity: Mapping[str, Any], number: int) -> str:
    kind = f" <small>{escape(entity['type'])}</small>" if entity["type"] else ""
    colour = entity_color(number)
    return f"<span class='roc-chip' style='--entity: {colour}'>{escape(entity['name'])}{kind}</span>"


def _relation_row(relation: Mapping[str, Any], rank: int) -> str:
    share = max(0.0, min(1.0, relation["score"]))
    return (
        f"<li class='{'roc-best' if rank == 0 else ''}'>"
        f"<div class='roc-name'><b>{escape(relation['relation'])}</b><span>{relation['score']:.2f}</span></div>"
        f"<div class='roc-bar'><i style='width: {100 * share:.1f}%'></i></div>"
        f"<p>{escape(relation['description'] or '')}</p></li>"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Explanations


def explanation_as_html(post: Post, result: Mapping[str, Any], explanation: Mapping[str, Any]) -> str:
    """Colour the words and the parts of the picture that decided, and offer the whole as a picture to save.

    `result` and `explanation` are what `SharedModel.rank` and `SharedModel.explain` returned for the post's first pair.
    """
    largest = largest_relevance(explanation)
    legend = (
        f"<p class='roc-legend'>{_swatch(TOWARDS)} towards <b>{escape(explanation['relation'])}</b> "
        f"{_swatch(AWAY)} away from it</p>"
    )
    words = f"<p class='roc-words'>{_words(post.text, explanation['tokens'], largest)}</p>"
    picture = ""
    if post.image is not None and explanation["patches"] is not None:
        seen = _with_boxes(with_heat(_resized(post.image), explanation["patches"], largest), post.entities)
        seen.save(file := io.BytesIO(), "JPEG")
        picture = f"<img alt='The picture; what decided is coloured' src='{_data_uri(file, 'jpeg')}'>"
    drawing = draw_prediction(
        None,
        text=post.text,
        entities=result["entities"],
        predictions=result["predictions"],
        image=post.image,
        explanation=explanation,
    )
    drawing.savefig(file := io.BytesIO(), format="png")
    keep = f"<a download='relation.png' href='{_data_uri(file, 'png')}'>Save all of it as a picture</a>"
    return f"<section class='roc-card'>{legend}{words}{picture}<p class='roc-note'>{keep}</p></section>"


def _words(text: str, tokens: Sequence[Mapping[str, Any]], largest: float) -> str:
    """Write the text as HTML, each token on the colour of its relevance."""
    parts, at = [], 0
    for token in sorted(tokens, key=lambda token: token["start"]):
        start, end = max(at, token["start"]), token["end"]
        if end <= start:  # a byte-level tokenizer may split one character
            continue
        style = f"background: {tint(token['relevance'], largest)}"
        parts.append(f"{escape(text[at:start])}<span style='{style}'>{escape(text[start:end])}</span>")
        at = end
    return "".join(parts) + escape(text[at:])


def _swatch(colour: str) -> str:
    return f"<i style='background: {colour}'></i>"


def _resized(image: Image.Image) -> Image.Image:
    """Scale a picture so that its boxes are sharp, and that it is small enough for a phone's connection."""
    side = max(image.size)
    scale = min(max(side, SMALLEST_SIDE), LARGEST_SIDE) / side
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _with_boxes(image: Image.Image, entities: Sequence[Mapping[str, Any]]) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for number, entity in enumerate(entities):
        if "bbox" in entity:
            corners = [side * length for side, length in zip(entity["bbox"], image.size * 2)]
            draw.rectangle(corners, outline=entity_color(number), width=3)
    return image


def _data_uri(file: io.BytesIO, format: str) -> str:
    return f"data:image/{format};base64,{base64.b64encode(file.getvalue()).decode()}"
