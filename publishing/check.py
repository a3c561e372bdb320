"""Check that a published model works where `roc` is not installed, and computes there what it computes here."""

from __future__ import annotations

import base64
import io
import math
import os
from pathlib import Path
from typing import Any

from PIL import Image

from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline
from roc.processing_roc import RocProcessor
from roc.publishing.stranger import answers
from roc.support.strangers import ask_stranger

# Merging an adapter rounds anew; logits are cosines of unit length, divided by a temperature of 0.01 or more.
TOLERANCE = 1e-3
STRANGER = Path(__file__).with_name("stranger.py")
CHECK_SECONDS = 1800.0  # a large model is loaded three times, perhaps from a slow disk; a minute is usual


def _check_posts(model: RocModel, processor: RocProcessor) -> list[dict[str, Any]]:
    """Return posts with two and with three entities, typed, so that no tagger need be installed; one has a picture."""
    pair = [{"start": 0, "end": 3, "type": "person"}, {"start": 11, "end": 14, "type": "person"}]
    three = [*pair, {"start": 18, "end": 23, "type": "location"}]
    posts: list[dict[str, Any]] = [
        {"text": "Ann kissed Bob.", "entities": pair},
        {"text": "Ann kissed Bob in Paris today!", "entities": three},
    ]
    if model.config.vision_config is not None:
        things = [{"bbox": [0.1, 0.2, 0.6, 0.9], "type": "object"}][: processor.max_regions]
        picture = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(picture, "PNG")  # no two patches of it are the same
        image = base64.b64encode(picture.getvalue()).decode()
        posts.append({"text": "Ann kissed Bob.", "image": image, "entities": [*pair, *things]})
    return posts


def expected_answers(model: RocModel, processor: RocProcessor) -> dict[str, Any]:
    """Return what a published model has to answer: `stranger.answers` of the trained one, and the `posts`."""
    posts = _check_posts(model, processor)
    pipe = RocPipeline(model=model, processor=processor, device="cpu")
    return {"posts": posts, **answers(posts, model, processor, pipe, lambda data: pipe(data["inputs"]))}


def check_in_clean_process(
    source: str | Path, expected: dict[str, Any], *, revision: str | None = None, cache: Path | None = None
) -> None:
    """Load a model as a stranger does, where `roc` is not installed, offline, and compare its answers.

    Args:
        source: The model's folder, or its Hub id where `revision` is given.
        expected: The answers that `expected_answers` gave.
        revision: The commit on the Hub.
        cache: The folder into which that commit was downloaded.

    Raises:
        ValueError: If the model does not load, or answers otherwise.
    """
    where = str(source) if revision is None else f"{source} at {revision}"
    place = str(Path(source).resolve() if revision is None else source)
    request = {"source": place, "revision": revision, "posts": expected["posts"]}
    try:
        given = ask_stranger(
            STRANGER, request, environment=lambda empty: _environment(empty, cache or empty), timeout=CHECK_SECONDS
        )
    except RuntimeError as error:
        raise ValueError(f"{where} does not work where roc is not installed: {error}") from error
    for part in ("logits", "pipeline", "handler"):
        if not _agree(given[part], expected[part]):
            raise ValueError(f"{where} answers otherwise than the trained model: see {part}. Do not publish it.")


def _environment(empty: str, cache: str | Path) -> dict[str, str]:
    """Return environment variables under which a process is offline, not logged in, and sees only this cache."""
    settings = {"HF_HOME": empty, "HF_HUB_CACHE": str(cache), "HF_MODULES_CACHE": f"{empty}/modules"}
    settings |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {name: value for name, value in os.environ.items() if not name.endswith("TOKEN")} | settings


def _agree(given: Any, expected: Any) -> bool:
    """Tell whether two answers are the same, but for rounding."""
    if isinstance(expected, float):
        return isinstance(given, float) and math.isclose(given, expected, abs_tol=TOLERANCE)
    if isinstance(expected, (list, tuple)):
        return isinstance(given, (list, tuple)) and len(given) == len(expected) and all(map(_agree, given, expected))
    if isinstance(expected, dict):
        has_same_keys = isinstance(given, dict) and given.keys() == expected.keys()
        return has_same_keys and all(_agree(given[key], expected[key]) for key in expected)
    return given == expected
