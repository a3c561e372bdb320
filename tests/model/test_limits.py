"""Limits: each is looked at from counts alone, before anything is built, decoded, searched or tokenised."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tiny import RELATIONS, picture_bytes, tiny_model, tiny_picture, tiny_processor

from roc import handler as handler_module
from roc import pipeline_posts_roc
from roc.handler import EndpointHandler
from roc.inference.posts import predict
from roc.pipeline_posts_roc import PostLimits, read_post
from roc.pipeline_roc import RocPipeline
from roc.processing_roc import RocProcessor

COUPLE = {"text": "eve met ann", "head": "eve", "tail": "ann"}
NAMES = [f"n{number}" for number in range(5_000)]
HUGE = " ".join(NAMES)
BIG = "x" * 30_000_000
VISITS = {"name": "visits", "descriptions": ["visits"]}


def nested(depth: int, kind: str = "list") -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


@pytest.fixture(scope="module")
def pipe() -> RocPipeline:
    processor = tiny_processor()
    return RocPipeline(model=tiny_model(processor), processor=processor)


@pytest.fixture(scope="module")
def handler(pipe: RocPipeline) -> Any:
    own = EndpointHandler.__new__(EndpointHandler)
    options = {"max_pairs": handler_module.MAX_ENTITIES * (handler_module.MAX_ENTITIES - 1)}
    own.pipeline = RocPipeline(model=pipe.model, processor=pipe.processor, limits=handler_module.LIMITS, **options)
    return own


@pytest.fixture
def no_work(pipe: RocPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that takes time fails, and so does a refusal that takes a second."""

    def work(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("work was done before the limit was looked at")

    for method in ("find_entities", "type_entities", "__call__", "tokenize_descriptions"):
        monkeypatch.setattr(RocProcessor, method, work)
    monkeypatch.setattr(type(pipe.model), "with_relations", work)
    for name in ("find_names", "identify_image"):
        monkeypatch.setattr(pipeline_posts_roc, name, work)
    monkeypatch.setattr(pipeline_posts_roc.base64, "b64decode", work)
    monkeypatch.setattr(itertools, "permutations", work)
    yield
    monkeypatch.undo()


def assert_refused_at_once(call: Any, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert time.perf_counter() - start < 1
    assert len(str(error.value)) < 500


POSTS: dict[str, tuple[Any, str]] = {
    "pairs": ({"text": HUGE, "entities": NAMES}, "5000 entities make 24995000 pairs, but at most 1000 are ranked"),
    "spans": ({"text": HUGE, "entities": [(0, 2)] * 5000}, "5000 entities make"),
    "characters": ({"text": "a" * 1_000_001}, "1,000,001 characters; at most 100,000 are read"),
    "characters with a pair": ({**COUPLE, "text": BIG}, "30,000,000 characters; at most 100,000 are read"),
    "keys": ({**COUPLE, **{f"key{n}": 1 for n in range(100_000)}}, "unknown keys"),
    "a key": ({**COUPLE, BIG: 1}, "unknown keys"),
    "text": ({"text": [BIG]}, "text must be a string"),
    "nested text": ({"text": nested(5_000)}, "text must be a string"),
    "entities": ({"text": "eve", "entities": {BIG: nested(5_000)}}, "entities must be a list"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("kind", POSTS)
def test_the_plain_pipeline_refuses_too_much_before_any_work(pipe: RocPipeline, kind: str) -> None:
    post, message = POSTS[kind]
    assert_refused_at_once(lambda: pipe(post), f"^the post: .*{message}")


@pytest.mark.usefixtures("no_work")
def test_max_pairs_is_looked_at_first(pipe: RocPipeline) -> None:
    three = {"text": "ann met bob", "entities": ["ann", "bob", "met"], "image": b"no picture"}
    for post, most in ((three, 5), ({**COUPLE, "image": b"no picture"}, 0)):
        assert_refused_at_once(
            lambda post=post, most=most: pipe(post, max_pairs=most), r"at most \d are ranked \(max_p"
        )


def test_max_pairs_is_looked_at_again_when_entities_were_found(
    pipe: RocPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"start": 2 * number, "end": 2 * number + 1, "type": ""} for number in range(5_000)]
    monkeypatch.setattr(RocProcessor, "find_entities", lambda self, texts: [found])
    monkeypatch.setattr(itertools, "permutations", None)
    assert_refused_at_once(lambda: pipe({"text": "a " * 5_000}), "5000 entities make 24995000 pairs")


def test_more_pairs_are_ranked_where_they_are_allowed(pipe: RocPipeline) -> None:
    names = [f"a{number}" for number in range(34)]
    post = {"text": "met", "entities": [{"start": 0, "end": 3, "type": "person"}] * len(names)}
    assert_refused_at_once(lambda: pipe(post), "34 entities make 1122 pairs, but at most 1000")
    assert len(read_post(post, pipe.processor, where="here", max_pairs=2_000).pairs) == 34 * 33


REQUESTS: dict[str, tuple[Any, str]] = {
    "posts": ([COUPLE] * 1_000_000, "at most 32 posts"),
    "characters": ({"text": BIG}, "30,000,000 characters; at most 100,000 are read"),
    "characters of NER": ({"text": "a" * 2_001}, "2,001 characters; at most 2,000 are read"),
    "entities": ({"text": "a", "entities": ["a"] * 13}, "13 entities"),
    "many entities": ({"text": "a", "entities": ["a"] * 5_000_000}, "5000000 entities"),
    "an entity": ({**COUPLE, "head": BIG}, "more than 10,000 characters"),
    "entries of an entity": ({**COUPLE, "head": {str(n): n for n in range(1_000_000)}}, "more than 10,000 characters"),
    "a list": ({**COUPLE, "tail": {"bbox": [1] * 10_000_000}}, "more than 10,000 characters"),
    "depth of lists": ({**COUPLE, "tail": nested(100_000)}, "more than 8 deep"),
    "depth of mappings": ({**COUPLE, "tail": nested(100_000, "mapping")}, "more than 8 deep"),
    "a number": ({**COUPLE, "tail": {"start": 10**100_000, "end": 1}}, "more than 10,000 characters"),
    "a picture": ({**COUPLE, "image": "A" * 30_000_000}, "more than 5,000,000 bytes"),
    "a little more picture": ({**COUPLE, "image": "A" * 6_666_680}, "more than 5,000,000 bytes"),
    "blanks in a picture": ({**COUPLE, "image": " " * 30_000_000}, "more than 5,000,000 bytes"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("kind", REQUESTS)
def test_the_handler_refuses_too_much_before_any_work(handler: Any, kind: str) -> None:
    inputs, message = REQUESTS[kind]
    assert_refused_at_once(lambda: handler({"inputs": inputs}), message)


PARAMETERS: dict[str, tuple[Mapping[Any, Any], str]] = {
    "relations": ({"relations": [VISITS] * 501}, "501 relations were given; at most 500"),
    "descriptions": ({"relations": [{**VISITS, "descriptions": ["x"] * 1_001}]}, "1001 descriptions; at most 1000"),
    "of several": ({"relations": [{**VISITS, "descriptions": ["x"] * 300}] * 4}, "1200 descriptions; at most 1000"),
    "tuples": ({"relations": [{**VISITS, "descriptions": ("x",) * 1_001}]}, "1001 descriptions; at most 1000"),
    "characters": ({"relations": [{**VISITS, "descriptions": [BIG]}]}, "more than 200,000 characters"),
    "a name": ({"relations": [{**VISITS, "name": BIG}]}, "more than 200,000 characters"),
    "types": ({"relations": [{**VISITS, "head_types": ["person"] * 1_000_000}]}, "more than 200,000 characters"),
    "none_relation": ({"relations": [VISITS], "none_relation": BIG}, "more than 200,000 characters"),
    "depth": ({"relations": nested(100_000)}, "more than 8 deep"),
    "depth of a description": ({"relations": [{**VISITS, "descriptions": nested(9)}]}, "more than 8 deep"),
    "a text": ({"relations": BIG}, "relations is a list of mappings; given a str"),
    "a mapping": ({"relations": {BIG: 1}}, "relations is a list of mappings; given a dict"),
    "keys": ({f"key{n}": 1 for n in range(100_000)}, "parameters is a mapping with the keys"),
    "a key": ({BIG: 1}, "parameters is a mapping with the keys"),
    "top_k": ({"top_k": BIG}, "top_k='xxx"),
    "threshold": ({"threshold": nested(100_000)}, "threshold="),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_handler_refuses_too_large_parameters_before_any_work(handler: Any, kind: str) -> None:
    parameters, message = PARAMETERS[kind]
    assert_refused_at_once(lambda: handler({"inputs": COUPLE, "parameters": parameters}), message)


def test_what_is_within_the_limits_is_answered(handler: Any) -> None:
    assert len(handler({"inputs": [COUPLE] * 2, "parameters": {"relations": [VISITS]}})) == 2


@pytest.mark.parametrize("asked", [{}, {"pairs": None}])
def test_the_processor_builds_no_pairs_of_hundreds_of_entities(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = tiny_processor(vision=False)
    monkeypatch.setattr(RocProcessor, "type_entities", None)
    call = lambda: processor("a met b", entities=[(0, 1)] * 5_000, **asked)  # noqa: E731
    assert_refused_at_once(call, "5000 entities make 24995000 pairs, but at most 10000")


def test_a_program_builds_no_pairs_of_hundreds_of_entities(pipe: RocPipeline) -> None:
    given = [{"start": 0, "end": 1}] * 5_000
    assert_refused_at_once(lambda: predict(pipe.model, pipe.processor, "a", given), "at most 10000 are ranked")


def test_a_text_that_recognition_cannot_read_is_refused_in_our_words(pipe: RocPipeline) -> None:
    for call in (pipe.processor.find_entities, lambda texts: pipe.processor(texts[0], entities=[(0, 1), (2, 3)])):
        assert_refused_at_once(lambda call=call: call(["a " * 600_000]), "1,200,000 characters; at most 1,000,000 are")


def test_limits_are_checked_by_sizes_however_relations_are_given() -> None:
    limits = PostLimits(max_characters=10, max_entities=2, max_image_bytes=100, max_pixels=100)
    limits.check_relations(RELATIONS, "None")
    limits.check_relations([5, None, {"descriptions": 5}], None)  # the model says what is wrong with them
    small = picture_bytes(tiny_picture(size=(2, 2)))
    assert len(small) <= 100
