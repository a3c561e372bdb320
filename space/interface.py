"""The page that `app.py` serves: what is on it, and what its buttons do."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from answers import SharedModel, explanation_as_html, ranks_as_html
from serving import RefusingMiddleware
from starlette.middleware import Middleware
from visitor import (
    MAX_CHARACTERS,
    MAX_ENTITIES,
    check_text,
    name_of_selection,
    pair_labels,
    read_visitors_post,
    relations_of_rows,
    rows_of_relations,
    suggest_entities,
    with_boxes,
)

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
EXAMPLES = next((folder for folder in (HERE / "examples", HERE.parent / "examples") if folder.is_dir()), HERE)
MAX_WAITING = 30  # requests; further visitors are told to come back
MAX_SESSIONS = 200  # open pages whose last values Gradio remembers

EMPTY = "<p class='roc-note'>Ranked relations appear here.</p>"
SELECTION = """(text, entities, selection) => {
  const area = document.querySelector("#post textarea");
  const characters = (units) => [...area.value.slice(0, units)].length;  // as Python counts them
  return [area.value, entities, `${characters(area.selectionStart)}:${characters(area.selectionEnd)}`];
}"""


def launch(app: gr.Blocks, **options: Any) -> Any:
    """Start the web server, which stores nothing; further options and what comes back as `gradio.Blocks.launch`."""
    app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]  # none from elsewhere
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])
    settings: dict[str, Any] = {
        "theme": theme.set(block_info_text_color="*neutral_500", body_text_color_subdued="*neutral_500"),
        "css_paths": HERE / "style.css",
        "footer_links": ["gradio"],
        "run_history": False,
        "share": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "max_file_size": "1b",
        "state_session_capacity": MAX_SESSIONS,
        "app_kwargs": {"middleware": [Middleware(RefusingMiddleware, num_inputs=_num_inputs(app))]},
    }
    return app.launch(**settings | options)


def _num_inputs(app: gr.Blocks) -> dict[int, int]:
    """Count the inputs of each function that the page's script may ask for: all but what follows its closing."""
    asked = [function for function in app.fns.values() if all(event != "unload" for _, event in function.targets)]
    return {function._id: len(function.inputs) for function in asked}


# ---------------------------------------------------------------------------------------------------------------------
# The page


def build_app(shared: SharedModel) -> gr.Blocks:
    """Build the page for a model that answers all visitors, and connect its buttons with what they do."""
    reads_images = shared.processor.reads_images
    examples = load_examples(shared.model.config.relation_names, reads_images=reads_images)
    own_rows = rows_of_relations(shared.relations)
    with gr.Blocks(title="ROC: relations in text and picture", analytics_enabled=False) as app:
        page = Page([example["title"] for example in examples], own_rows, reads_images=reads_images)
        page.connect(shared, examples, own_rows)
        forget_visitors(app)
    refuse_files()
    log_no_values()
    return app


class Page:
    """The page: question and answer side by side, or one above the other on a phone; the relations below."""

    def __init__(self, titles: Sequence[str], own_rows: list[dict[str, str]], *, reads_images: bool) -> None:
        gr.HTML(_read("head.html"))
        with gr.Row():
            with gr.Column(min_width=300):
                gr.HTML("<span class='roc-label'>Try an example</span>", elem_id="try", apply_default_css=False)
                with gr.Row(elem_id="examples"):
                    self.examples = [gr.Button(title, size="sm", min_width=150) for title in titles]
                hint = "Select a name in it, then mark it"
                self.text = gr.Textbox(label="Text", info=hint, lines=3, max_length=MAX_CHARACTERS, elem_id="post")
                with gr.Row(elem_id="marking"):
                    self.mark = gr.Button("Mark the selected words", size="sm", min_width=140, elem_id="mark")
                    self.suggest = gr.Button("Suggest names", size="sm", min_width=140, elem_id="suggest")
                nothing: dict[str, Any] = {"image": None, "boxes": []}
                self.picture = _scripted("picture", nothing, visible=reads_images)
                several: dict[str, Any] = {"multiselect": True, "max_choices": MAX_ENTITIES, "elem_id": "entities"}
                hint = "Names as the text has them, and boxes"
                self.entities = gr.Dropdown([], label="Entities", info=hint, allow_custom_value=True, **several)
                self.pair = gr.Dropdown([], label="Relation from … to …", allow_custom_value=True, elem_id="pair")
                self.ask = gr.Button("Rank the relations", variant="primary", elem_id="ask")
            with gr.Column(min_width=300):
                self.ranks = gr.HTML(EMPTY, elem_id="ranks", apply_default_css=False)
                self.explanation = gr.HTML("", elem_id="explanation", apply_default_css=False)
        with gr.Accordion("The relations to choose from; your changes are yours alone", elem_id="inventory"):
            self.relations = _scripted("relations", own_rows)
            self.restore = gr.Button("Restore the model's own relations", size="sm", elem_id="restore")
        self.selection = gr.Textbox(visible=False)  # what the browser says is selected in the text

    def connect(self, shared: SharedModel, examples: Sequence[dict[str, Any]], own_rows: list[dict[str, str]]) -> None:
        """Connect the buttons with what they do. Calls of the model wait in one queue and run one at a time."""
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        slow: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        answer: dict[str, Any] = {
            "fn": functools.partial(_answer, shared),
            "inputs": [self.text, self.picture, self.entities, self.pair, self.relations],
            "outputs": [self.ranks, self.explanation],
            "trigger_mode": "always_last",
            **slow,
        }
        marked = [self.entities, self.pair]
        fields = [self.text, self.picture, *marked, self.ranks, self.explanation]
        for button, example in zip(self.examples, examples):
            button.click(functools.partial(_fill, example), None, fields, **quick).then(**answer)
        self.mark.click(_mark, [self.text, self.entities, self.selection], marked, js=SELECTION, **quick)
        self.suggest.click(functools.partial(_suggest, shared), [self.text, self.entities], marked, **slow)
        self.picture.boxes(_change_boxes, self.entities, marked, **quick)
        self.entities.input(_pairs, marked, self.pair, **quick)
        self.ask.click(**answer)
        self.restore.click(lambda: own_rows, None, self.relations, **quick)


def _scripted(name: str, value: Any, **options: Any) -> Any:
    """Make a component that Gradio does not have; it keeps its value by a script in the browser, and writes no file.

    The value of `picture` is `image` (a data URI, or None) and `boxes` (`xyxy`, shares of the picture), and its event
    `boxes` tells their `count`. That of `relations` is `rows_of_relations`.
    """
    template, script = _read(f"{name}.html"), _read(f"{name}.js")
    return gr.HTML(value, html_template=template, js_on_load=script, elem_id=name, apply_default_css=False, **options)


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def refuse_files() -> None:
    """Keep every Gradio component of this process from fetching and storing a file or an address that it is sent."""

    async def refuse(self: Any, url_or_file_path: Any) -> str | None:
        raise gr.Error("This Space takes no files and opens no addresses.", print_exception=False)

    kinds: Any = gr.blocks.Block
    kinds.async_move_resource_to_block_cache = refuse


def log_no_values() -> None:
    """Have Gradio log of an unexpected error only its type and place: its message may hold what a visitor wrote."""

    def print_place() -> None:
        kind, _, trace = sys.exc_info()
        last = traceback.extract_tb(trace)[-1]
        logger.error("%s in %s, line %s", kind and kind.__name__, last.filename, last.lineno)

    for module in (gr.queueing, gr.routes, gr.route_utils):
        vars(module)["traceback"] = SimpleNamespace(**vars(traceback) | {"print_exc": print_place})


def forget_visitors(app: gr.Blocks) -> None:
    """Forget a session when its page is closed: Gradio keeps the last values of thousands in memory."""

    def forget(request: gr.Request) -> None:
        session = request.session_hash or ""
        app.state_holder.session_data.pop(session, None)
        app.state_holder.time_last_used.pop(session, None)

    app.unload(forget)


def load_examples(relation_names: Sequence[str], *, reads_images: bool) -> list[dict[str, Any]]:
    """Return the examples whose `relation` a model knows, all if it knows none, with their pictures as data URIs.

    A model that reads no pictures gets them without pictures, and none that has boxes.
    """
    examples = json.loads(_read("examples.json"))
    fitting = [example for example in examples if example["relation"] in relation_names] or examples
    if not reads_images:
        return [example | {"image": None} for example in fitting if not example["boxes"]]
    return [example | {"image": example["image"] and _data_uri(EXAMPLES / example["image"])} for example in fitting]


def _data_uri(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


# ---------------------------------------------------------------------------------------------------------------------
# What the buttons do


def _fill(example: dict[str, Any]) -> tuple[Any, ...]:
    picture = {"image": example["image"], "boxes": example["boxes"]}
    return example["text"], picture, *_entities_and_pairs(example["entities"], None), EMPTY, ""


def _mark(text: str, entities: list[str], selection: str) -> tuple[Any, Any]:
    with _errors_shown():
        check_text(text)
        start, end = map(int, selection.split(":"))
        return _entities_and_pairs([*entities, name_of_selection(text, start, end)], None)


def _suggest(shared: SharedModel, text: str, entities: list[str]) -> tuple[Any, Any]:
    with _errors_shown():
        return _entities_and_pairs([*suggest_entities(text, shared.processor), *entities], None)


def _change_boxes(entities: list[str], event: gr.EventData) -> tuple[Any, Any]:
    with _errors_shown():
        return _entities_and_pairs(with_boxes(entities, int(event.count)), None)


def _pairs(entities: list[str], pair: str | None) -> Any:
    return _entities_and_pairs(entities, pair)[1]


def _entities_and_pairs(entities: Sequence[str], pair: str | None) -> tuple[Any, Any]:
    """Update the lists of entities and of pairs after the entities have changed."""
    names = list(dict.fromkeys(entities))[:MAX_ENTITIES]
    labels = pair_labels(names)
    chosen = pair if pair in labels else next(iter(labels), None)
    return gr.update(choices=names, value=names), gr.update(choices=labels, value=chosen)


def _answer(
    shared: SharedModel, text: str, picture: Any, entities: Any, pair: Any, rows: Any
) -> Iterator[tuple[str, str]]:
    """Yield the ranks, then the ranks with their explanation."""
    with _errors_shown():
        post = read_visitors_post(text, picture, entities, pair)
        own = shared.with_relations(relations_of_rows(rows, shared.relations))
        result = own.rank(post)
        ranks = ranks_as_html(result)
        yield ranks, ""
        if len(post.pairs) > 1:
            yield ranks, "<p class='roc-note'>Choose one pair to see what decides.</p>"
        else:
            yield ranks, explanation_as_html(post, result, own.explain(post))


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    """Show an expected error to the visitor as text; of another error Gradio says only that there was one."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise gr.Error(escape(str(error)), duration=15, print_exception=False) from None
