"""Two parts of the page that Gradio has no component for: a picture with boxes, and a list of relations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).resolve().parent

PICTURE = """
<div class="roc-picture">
  <span class="roc-label">Picture</span>
  <div data-part="stage">
    <img data-part="picture" alt="the post's picture" draggable="false">
    <div data-part="layer"></div>
  </div>
  <div class="roc-tools">
    <button type="button" class="roc-small" data-part="draw">Draw a box</button>
    <button type="button" class="roc-small" data-part="undo">Remove last box</button>
    <button type="button" class="roc-small" data-part="remove">Remove picture</button>
    <label class="roc-small">
      <input type="file" data-part="file" accept="image/png,image/jpeg,image/webp">Choose a picture
    </label>
  </div>
  <p class="roc-problem" data-part="problem" role="alert"></p>
</div>
"""

RELATIONS = """
<div class="roc-relations">
  <div class="roc-bar-line">
    <button type="button" class="roc-small" data-part="add">Add a relation</button>
    <span class="roc-note" data-part="count"></span>
  </div>
  <div data-part="rows"></div>
</div>
"""


def picture_with_boxes(**options: Any) -> gr.HTML:
    """A picture from the visitor's device on which boxes can be drawn, with a finger too.

    The picture is part of the value and comes with each question: no file is ever written. The value is a mapping
    `image` (a data URI, or None) and `boxes` (`xyxy`, shares of the picture). The event `boxes` tells their `count`.
    """
    return gr.HTML(
        {"image": None, "boxes": []},
        html_template=PICTURE,
        js_on_load=(HERE / "picture.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )


def relation_list(rows: list[dict[str, str]], **options: Any) -> gr.HTML:
    """Relations with their descriptions to edit, add and remove; the value is `visitor.rows_of_relations`."""
    return gr.HTML(
        rows,
        html_template=RELATIONS,
        js_on_load=(HERE / "relations.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )
