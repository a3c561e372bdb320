"""The Transformers pipeline "multimodal-relation-extraction", which finds the relations in posts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers import Pipeline
from transformers.utils import logging

from .messages_roc import did_you_mean, quote
from .pipeline_posts_roc import POST_KEYS, Post, PostLimits, rank_posts, read_post
from .relations_editing_roc import WeightsState

logger = logging.get_logger(__name__)

OPTIONS = ("batch_size", "top_k", "threshold", "relations", "none_relation", "allow_paths", "max_pairs", "limits")
LIMIT_NAMES = tuple(own.name for own in fields(PostLimits))
RELATION_OPTIONS: tuple[str, ...] = ("relations", "none_relation")
MOST_REMEMBERED = 10_000  # descriptions given with calls that are not encoded again


class RocPipeline(Pipeline):
    """Posts in, relations between their entities out.

    A post is a mapping of

    * `text`;
    * `image`, or none: a PIL image, the bytes of a picture file, or the same in base64 (a data URI too). A string is
      the path of a file only with `allow_paths=True`, and an address is never fetched;
    * `head` and `tail` (one pair) or `entities` (all ordered pairs): a name, a whole word or several as the text has
      them, or a mapping of `name` and `occurrence`, counted from 1, where the text has it several times; a mapping of
      `start` and `end`, half-open character offsets; or one of `bbox`, `(x0, y0, x1, y1)` as shares of the picture,
      and optionally the object's `name`. All mappings may have a `type`. Without any, named-entity recognition finds
      them. A name that is given as often as the text has it stands for all of its places, in their order.

    Its result is a list of plain dictionaries, pair by pair, the best relation first: `head`, `tail`, `relation`,
    `score` (its probability among all relations), `description`, `head_span`, `tail_span`, `head_box`, `tail_box`. A
    post with fewer than two entities has the result `[]`, so that one such post does not end a long job.

    Threads may share a pipeline, its processor and its model: no call changes what another one reads.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # the tokenizer and the encoder, and the features that they gave of descriptions of calls; replaced as a whole
        self._memory: tuple[Any, WeightsState, dict[str, Any]] | None = None
        model = options.get("model", arguments[0] if arguments else None)
        if next(iter((getattr(model, "hf_device_map", None) or {}).values()), None) == "disk":
            raise ValueError("The model's device_map begins with 'disk': begin it with a part that stays on a device.")
        super().__init__(*arguments, **options)
        # for all calls: which model has them is found out at each, because the model may change
        self._standing = {name: options[name] for name in RELATION_OPTIONS if name in options}
        self._forward_params.pop("model", None)

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """Find the relations of one post or of many.

        Args:
            inputs: A post; a list of posts, for a list of results; or any other iterable of posts (a generator, a data
                set), for an iterator of results. The keys of one post may be given as keywords in its place:
                `pipe(text=..., image=...)`.
            **options: `batch_size` (posts that go through the model together), and
                `top_k`: relations per pair, 1 by default;
                `threshold`: leave out relations with a lower score, the relation that means "none of these", and pairs
                that are decided to have no relation;
                `relations`: rank these instead of the model's, for this call only: mappings of `name`, `descriptions`,
                and optionally `head`, `tail` (what they are, in words), `head_types` and `tail_types`;
                `none_relation`: which of them means "none of these", if not the one that is called as the model's;
                `allow_paths`: see the class;
                `max_pairs`: refuse posts with more pairs, 1,000 by default;
                `limits`: what posts may hold that come from anybody, a mapping of the fields of `PostLimits`.
                They may be given to `pipeline(...)` as well, for all calls.

        Raises:
            ValueError: If a post is malformed, which the message names, an option is out of range, or the model has no
                relations.
            TypeError: If a post has the wrong type.
        """
        post = {key: options.pop(key) for key in POST_KEYS if key in options}
        if options.get("relations") is None and self._standing:
            options = {**options, **self._standing}
        if (inputs is None) == (not post):
            raise ValueError("Give one post or several, or the keys of one as keywords: pipe(text=..., image=...).")
        if inputs is None or isinstance(inputs, Mapping):
            return super().__call__(("the post", post or inputs), **options)
        if isinstance(inputs, (str, bytes, Tensor)) or not isinstance(inputs, Iterable):
            raise TypeError(f"A post is a mapping with the keys {POST_KEYS}; given a {type(inputs).__name__}.")
        numbered = ((f"post {number}", given) for number, given in enumerate(inputs))
        if isinstance(inputs, Sequence):
            return super().__call__([*numbered], **options) if inputs else []
        return super().__call__(numbered, **options)

    def _sanitize_parameters(
        self,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        relations: Sequence[Mapping[str, Any]] | None = None,
        none_relation: str | None = None,
        allow_paths: bool | None = None,
        max_pairs: int | None = None,
        limits: Mapping[str, Any] | None = None,
        local_files_only: Any = None,  # Transformers hands it on; loading has obeyed it
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        _check_number("top_k", top_k, int, 1, math.inf)
        _check_number("threshold", threshold, (int, float), 0, 1)
        _check_number("max_pairs", max_pairs, int, 0, math.inf)
        if none_relation is not None and relations is None:
            raise ValueError("none_relation names one of the `relations` that are given with it; none were given.")
        if unknown:
            near = did_you_mean(next(iter(unknown)), OPTIONS)
            raise TypeError(f"{quote([*unknown])} are no options of this pipeline.{near} It has {OPTIONS}.")
        if limits is not None and (not isinstance(limits, Mapping) or not set(limits) <= {*LIMIT_NAMES}):
            raise ValueError(f"limits={quote(limits)} is not allowed: give a mapping of {LIMIT_NAMES}.")
        checked_limits = None if limits is None else PostLimits(**limits)
        in_force = checked_limits or getattr(self, "_preprocess_params", {}).get("limits")
        if relations is not None and in_force is not None:
            in_force.check_relations(relations, none_relation)
        model = None if relations is None else self._model_with(relations, none_relation)
        preprocess = {"allow_paths": allow_paths, "max_pairs": max_pairs, "limits": checked_limits}
        return _given(preprocess), _given({"top_k": top_k, "threshold": threshold, "model": model}), {}

    def _model_with(self, relations: Sequence[Mapping[str, Any]], none_relation: str | None) -> Any:
        """Give the model other relations, in a second model that shares everything else with it as it is now.

        What the description encoder made of their descriptions is remembered while its weights stay as they are.
        """
        encoder, tokenizer = getattr(self.model, "relation_model", None), self.processor.tokenizer
        known: dict[str, Any] = {}
        if encoder is not None and (memory := self._memory) is not None:
            made_with, state, features = memory
            if made_with is tokenizer and state.is_that_of(encoder) and len(features) <= MOST_REMEMBERED:
                known = features
        model = self.model.with_relations(relations, self.processor, none_relation=none_relation, known=known)
        if encoder is not None:
            self._memory = (tokenizer, WeightsState(encoder), {**known, **model.features_of_texts()})
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Save the model, and the processor with its settings, as `pipeline(...)` loads them; options as for the model.

        What was given for all calls, such as `top_k` or `relations`, is not saved.

        Raises:
            NotADirectoryError: As `RocModel.save_pretrained`.
            ValueError: As `RocModel.save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **options)
        self.processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` saves."""
        self.model.name_repository(repo_id, **options)
        return super().push_to_hub(repo_id, **options)

    def preprocess(self, inputs: Any, **options: Any) -> dict[str, Post]:
        """Check one post. Posts become tensors in `_forward`, together: only the processor knows how to pad them."""
        where, given = inputs
        return {"post": read_post(given, self.processor, where=where, **options)}

    def _forward(
        self, inputs: dict[str, Any], model: Any = None, top_k: int = 1, threshold: float | None = None
    ) -> dict[str, Any]:
        """Rank one post, or the list of them that Transformers' own collation makes of a batch."""
        model = self.model if model is None else model
        if not model.config.num_relations:
            raise ValueError("The model has no relations: give some, pipe(..., relations=[{'name': ..., ...}]).")
        is_batch = isinstance(inputs["post"], list)
        posts = inputs["post"] if is_batch else [inputs["post"]]
        ranked, truncated = rank_posts(model, self.processor, posts, top_k=top_k)
        if truncated:
            logger.warning_once("Some texts are longer than the model reads (max_length) and were cut off.")
        found = [_triples(post, threshold, model.config.none_relation) for post in ranked]
        return {"found": found if is_batch else found[0]}

    def postprocess(self, outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the result of one post."""
        return outputs["found"]


def _triples(ranked: Mapping[str, Any], threshold: float | None, none_relation: str | None) -> list[dict[str, Any]]:
    """Turn one post that `rank_posts` has ranked into its result."""
    return [
        _triple(ranked["entities"][pair["head"]], ranked["entities"][pair["tail"]], entry)
        for pair in ranked["predictions"]
        for entry in pair["relations"]
        if threshold is None
        or (not {None, none_relation} & {pair["relation"], entry["relation"]} and entry["score"] >= threshold)
    ]


def _triple(head: Mapping[str, Any], tail: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    head_span, tail_span = (None if own["start"] is None else [own["start"], own["end"]] for own in (head, tail))
    return {
        "head": head["name"],
        "tail": tail["name"],
        **entry,  # relation, score, description
        "head_span": head_span,
        "tail_span": tail_span,
        "head_box": head["bbox"],
        "tail_box": tail["bbox"],
    }


def _check_number(name: str, value: Any, kind: Any, least: int, most: float) -> None:
    if value is None:
        return
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:  # false for NaN too
        allowed = f">= {least}" if most == math.inf else f"in [{least}, {most}]"
        raise ValueError(f"{name}={quote(value)} is out of range: give a number {allowed}.")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
