"""Say which relations hold in one post: `python predict.py --text TEXT [--model DIR] [--image FILE] ...`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.processing_images_roc import open_image
from roc.relations.files import read_relation_file
from roc.support.programs import ENTITY_TYPER_HELP, run_program
from roc.support.resources import find_default_model

if TYPE_CHECKING:
    from roc.processing_roc import RocProcessor

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_program(lambda: _predict(options), incomplete=lambda result: result.get("picture", "") is None)


def _predict(options: argparse.Namespace) -> dict[str, Any]:
    from roc.inference.posts import explain_post, load_model, predict  # here: PyTorch takes seconds to import
    from roc.support.figures import check_png

    if (options.head is None) != (options.tail is None):
        raise ValueError("Give both --head and --tail, or neither for all pairs.")
    if options.head is not None and options.entity:
        raise ValueError("Give --head and --tail for one pair, or --entity for all pairs, but not both.")
    if options.explain and options.head is None:
        raise ValueError("--explain explains one pair: name it with --head and --tail.")
    check_png(options.picture)
    name = options.model or find_default_model()
    model, processor = load_model(name, entity_typer=options.entity_typer)
    if options.image is not None and not processor.reads_images:
        raise ValueError(f"The model {name!r} reads text only: leave --image out, or name another model.")
    if options.relations is not None:
        inventory = read_relation_file(options.relations)
        model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    image = _read_image(options.image)
    entities, pairs = _entities(options, processor)
    result = predict(model, processor, options.text, entities, image=image, pairs=pairs, top_k=options.top_k)
    if options.explain:
        result["explanation"] = explain_post(model, processor, options.text, entities, image=image)
    if options.picture is not None:
        result["picture"] = _draw(options.picture, result, image)
    return result


def _draw(path: str, result: dict[str, Any], image: Any) -> str | None:
    """Draw an answer, which is printed all the same where that fails: the error is logged then, and None returned."""
    from roc.inference.drawing import draw_prediction

    explanation = result.get("explanation")
    given = {"entities": result["entities"], "predictions": result["predictions"], "explanation": explanation}
    try:
        draw_prediction(path, text=result["text"], image=image, **given)
    except (ImportError, OSError) as error:
        logger.error("No picture was drawn: %s", error)
        return None
    return path


def _entities(options: argparse.Namespace, processor: RocProcessor) -> tuple[list[dict[str, Any]], Any]:
    """Return the entities that were asked for, and their pairs: head and tail, or None for all."""
    from roc.inference.posts import find_entities, parse_entities

    if options.head is not None:
        return parse_entities([options.head, options.tail], options.text), [(0, 1)]
    if options.entity:
        return parse_entities(options.entity, options.text), None
    return find_entities(options.text, processor), None


def _read_image(path: str | None) -> Any:
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no picture {path!r}.")
    return open_image(file.read_bytes(), path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="predict.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", help="folder that train.py wrote, or Hub id (default: the open model in released/)")
    parser.add_argument("--text", required=True, help="the post")
    parser.add_argument("--image", help="its picture, a file")
    entity = (
        "a name in the text ('NAME #2': its second place), START:END in characters, or box:X0,Y0,X1,Y1 in the picture"
    )
    parser.add_argument("--head", help=entity)
    parser.add_argument("--tail", help=entity)
    parser.add_argument("--entity_typer", help=ENTITY_TYPER_HELP)
    several = "several entities in place of head and tail, for all of their pairs"
    parser.add_argument("--entity", nargs="+", action="extend", metavar="ENTITY", help=several)
    parser.add_argument("--relations", help="relation file to use instead of the model's own relations")
    parser.add_argument("--top_k", type=int, default=3, help="relations per pair")
    parser.add_argument("--explain", action="store_true", help="say which tokens and patches decided for the pair")
    parser.add_argument("--picture", help="draw the prediction into this PNG file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
