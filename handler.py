"""Inference Endpoints: the service has a model's folder on its path, imports this file and calls `EndpointHandler`.

Nothing of the package `roc` is needed: the pipeline is loaded from the folder. A request comes from anybody, so the
pipeline measures each post before it decodes anything (`LIMITS`), and never opens a path or an address.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from transformers import pipeline

TASK = "multimodal-relation-extraction"
PARAMETERS = ("top_k", "threshold", "relations", "none_relation")

MAX_POSTS = 32
MAX_ENTITIES = 12
LIMITS = {  # of each post and of a request's relations, as `PostLimits` in pipeline_posts_roc.py describes them
    "max_characters": 2_000,
    "max_entities": MAX_ENTITIES,
    "max_image_bytes": 5_000_000,
    "max_pixels": 25_000_000,  # a decoded picture of this size takes 75 MB
    "max_other_characters": 10_000,
    "max_relations": 500,
    "max_descriptions": 1_000,
    "max_relation_characters": 200_000,
}
BATCH_SIZE = 4


class EndpointHandler:
    """Answers requests with the pipeline of the model in the folder `path`."""

    def __init__(self, path: str = "") -> None:
        self.pipeline = pipeline(
            TASK,
            model=str(path),
            trust_remote_code=True,
            model_kwargs={"use_safetensors": True},
            batch_size=BATCH_SIZE,
            max_pairs=MAX_ENTITIES * (MAX_ENTITIES - 1),  # of entities that named-entity recognition finds, too
            limits=LIMITS,
        )

    def __call__(self, data: Mapping[str, Any]) -> list[Any]:
        """Answer one request with what the pipeline gives for the post or the posts, plain JSON.

        Args:
            data: `{"inputs": a post or a list of posts, "parameters": {...}}`. A post is what the pipeline takes, with
                its picture in base64 (a data URI too); parameters are `PARAMETERS`.

        Raises:
            ValueError: If the request is malformed or too large. The service answers 400 with the message.
        """
        posts, parameters = _checked_request(data)
        try:
            return self.pipeline(posts, **parameters)  # which checks each post
        except (TypeError, ImportError) as error:
            raise ValueError(str(error)) from error


def _checked_request(data: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(data, Mapping) or "inputs" not in data or set(data) - {"inputs", "parameters"}:
        raise ValueError('A request is {"inputs": a post or a list of posts, "parameters": {...}}.')
    inputs, parameters = data["inputs"], _checked_parameters(data.get("parameters"))
    if not isinstance(inputs, (Mapping, list)):
        raise ValueError(f"inputs is a post or a list of posts; given a {type(inputs).__name__}.")
    if isinstance(inputs, list) and len(inputs) > MAX_POSTS:
        raise ValueError(f"A request has at most {MAX_POSTS} posts; given {len(inputs)}. Send several requests.")
    return inputs, parameters


def _checked_parameters(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not set(given) <= set(PARAMETERS):
        raise ValueError(f"parameters is a mapping with the keys {PARAMETERS}; given {reprlib.repr(given)}.")
    return dict(given)
