"""Inference Endpoints: the service has a model's folder on its path, imports this file and calls `EndpointHandler`.

Nothing of the package `roc` is needed: the pipeline is loaded from the folder. A request comes from anybody, so it is
measured before anything is decoded, and no path or address in it is ever opened.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers import pipeline

TASK = "multimodal-relation-extraction"
PARAMETERS = ("top_k", "threshold", "relations", "none_relation")

MAX_POSTS = 32
MAX_TEXT = 2_000  # characters
MAX_ENTITIES = 12
MAX_PAIRS = MAX_ENTITIES * (MAX_ENTITIES - 1)
MAX_POST = 10_000  # characters of a post as JSON, without its picture
MAX_IMAGE_BYTES = 5_000_000
MAX_PIXELS = 25_000_000  # a decoded picture of this size takes 75 MB
MAX_RELATIONS = 500
MAX_RELATION_CHARACTERS = 200_000  # of all of them together, as JSON
BATCH_SIZE = 4

FORMATS = ("PNG", "JPEG", "WEBP")
DATA_URI = re.compile(r"\Adata:image/[\w.+-]+;base64,", re.ASCII)


class EndpointHandler:
    """Answers requests with a model's pipeline.

    Args:
        path: The model's folder.
    """

    def __init__(self, path: str = "") -> None:
        self.pipeline = pipeline(
            TASK,
            model=str(path),
            trust_remote_code=True,
            model_kwargs={"use_safetensors": True},
            batch_size=BATCH_SIZE,
            max_pairs=MAX_PAIRS,
        )

    def __call__(self, data: Mapping[str, Any]) -> list[Any]:
        """Answer one request.

        Args:
            data: `{"inputs": a post or a list of posts, "parameters": {...}}`. A post is what the pipeline takes, with
                its picture in base64 (a data URI too); parameters are `PARAMETERS`.

        Returns:
            What the pipeline gives for the post or the posts, plain JSON.

        Raises:
            ValueError: If the request is malformed or too large. The service answers 400 with the message.
        """
        posts, parameters = _checked_request(data)
        try:
            return self.pipeline(posts, **parameters)
        except (TypeError, ImportError) as error:
            raise ValueError(str(error)) from error


def _checked_request(data: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(data, Mapping) or "inputs" not in data or set(data) - {"inputs", "parameters"}:
        raise ValueError('A request is {"inputs": a post or a list of posts, "parameters": {...}}.')
    inputs, parameters = data["inputs"], _checked_parameters(data.get("parameters"))
    if isinstance(inputs, Mapping):
        return _checked_post(inputs, "the post"), parameters
    if not isinstance(inputs, list):
        raise ValueError(f"inputs is a post or a list of posts; given a {type(inputs).__name__}.")
    if len(inputs) > MAX_POSTS:
        raise ValueError(f"A request has at most {MAX_POSTS} posts; given {len(inputs)}. Send several requests.")
    return [_checked_post(post, f"post {number}") for number, post in enumerate(inputs)], parameters


def _checked_parameters(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not set(given) <= set(PARAMETERS):
        raise ValueError(f"parameters is a mapping with the keys {PARAMETERS}; given {str(given)[:200]}.")
    relations = given.get("relations")
    if relations is not None and not isinstance(relations, list):
        raise ValueError(f"relations is a list of mappings; given a {type(relations).__name__}.")
    size = _size_as_json(relations)
    if relations is not None and (len(relations) > MAX_RELATIONS or size > MAX_RELATION_CHARACTERS):
        raise ValueError(
            f"At most {MAX_RELATIONS} relations of {MAX_RELATION_CHARACTERS:,} characters together are ranked; given "
            f"{len(relations)} of {size:,}."
        )
    return dict(given)


def _checked_post(post: Any, where: str) -> dict[str, Any]:
    """The post, with the bytes of its picture in place of base64."""
    if not isinstance(post, Mapping):
        raise ValueError(f"{where}: a post is a mapping with a text; given a {type(post).__name__}.")
    text, entities, image = map(post.get, ("text", "entities", "image"))
    if isinstance(text, str) and len(text) > MAX_TEXT:
        raise ValueError(f"{where}: its text has {len(text):,} characters; at most {MAX_TEXT:,} are read.")
    if isinstance(entities, list) and len(entities) > MAX_ENTITIES:
        raise ValueError(f"{where}: {len(entities)} entities were given; at most {MAX_ENTITIES} are read.")
    size = _size_as_json({key: value for key, value in post.items() if key != "image"})
    if size > MAX_POST:
        raise ValueError(f"{where}: it has {size:,} characters besides its picture; at most {MAX_POST:,} are read.")
    return {**post, "image": None if image is None else _checked_picture(image, f"{where}, image")}


def _size_as_json(value: Any) -> int:
    return len(json.dumps(value, default=repr))


def _checked_picture(given: Any, where: str) -> bytes:
    if not isinstance(given, str):
        raise ValueError(f"{where}: a picture is a base64 string; given a {type(given).__name__}.")
    if len(given) > MAX_IMAGE_BYTES * 4 // 3 + 100:
        raise ValueError(f"{where}: the picture has more than {MAX_IMAGE_BYTES:,} bytes. Scale it first.")
    try:
        data = base64.b64decode(DATA_URI.sub("", given), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: this is not base64. Paths and addresses are never opened.") from error
    width, height = _width_and_height(data, where)
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(
            f"{where}: the picture has {width} x {height} pixels; between 1 and {MAX_PIXELS:,} are decoded."
        )
    return data


def _width_and_height(data: bytes, where: str) -> tuple[int, int]:
    """What the head of a picture file says of its size; no pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the caller has a lower limit
            return Image.open(io.BytesIO(data), formats=FORMATS).size
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where}: the picture has too many pixels; at most {MAX_PIXELS:,} are decoded.") from error
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{where}: these {len(data)} bytes are no picture in one of {FORMATS}.") from error
