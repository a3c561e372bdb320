"""The handler of Inference Endpoints, loaded as the service loads it, and what it refuses."""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from posts import halves
from tiny import RELATIONS, picture_bytes, png_that_claims, save_tiny, tiny_picture, white_png
from transformers import pipeline

import roc.register  # noqa: F401  (Transformers knows ROC)
from roc.processing_roc import RocProcessor

ROOT = Path(__file__).resolve().parents[2]
PICTURE = halves("red", "blue")
COUPLE = {"text": "eve met ann", "head": "eve", "tail": "ann"}
AS_THE_SERVICE = """
import importlib, json, sys
sys.modules["roc"] = None
sys.path.insert(0, sys.argv[1])
handler = importlib.import_module("handler").EndpointHandler(sys.argv[1])
print(json.dumps(handler(json.loads(sys.argv[2]))))
"""


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    save_tiny(folder)
    shutil.copy(ROOT / "handler.py", folder)
    return folder


@pytest.fixture(scope="module")
def handler(folder: Path) -> Iterator[Any]:
    """As the service does it: the folder first on the path, the module called `handler`, the folder by position."""
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("handler")
        assert Path(str(module.__file__)).parent == folder
        yield module.EndpointHandler(str(folder))
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("handler", None)


@pytest.fixture(scope="module")
def limits(handler: Any) -> Any:
    return sys.modules["handler"]


def test_it_answers_what_the_pipeline_does(handler: Any, folder: Path) -> None:
    posts = [
        {**COUPLE, "image": base64_of(picture_bytes(PICTURE))},
        {"text": "ann holds bob", "entities": ["ann", "bob"]},
    ]
    pipe = pipeline("multimodal-relation-extraction", model=str(folder))
    answer = handler({"inputs": posts, "parameters": {"top_k": 2}})
    assert json.loads(json.dumps(answer)) == answer
    assert [len(found) for found in answer] == [2, 4]
    for found, post in zip(answer, [{**COUPLE, "image": PICTURE}, posts[1]]):
        expected = pipe(post, top_k=2)
        assert [entry.pop("score") for entry in found] == pytest.approx([entry.pop("score") for entry in expected])
        assert found == expected


def test_it_answers_where_roc_is_not_installed(handler: Any, folder: Path, tmp_path: Path) -> None:
    request = {"inputs": [{**COUPLE, "image": base64_of(picture_bytes(PICTURE))}]}
    program = [sys.executable, "-c", AS_THE_SERVICE, str(folder), json.dumps(request)]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    [[found]], [[expected]] = json.loads(done.stdout.splitlines()[-1]), handler(request)
    assert found.pop("score") == pytest.approx(expected.pop("score"))
    assert found == expected


def test_one_post_has_one_result(handler: Any) -> None:
    uri = f"data:image/png;base64,{base64_of(picture_bytes(PICTURE))}"
    [found] = handler({"inputs": {**COUPLE, "image": uri}})
    assert (found["head"], found["tail"]) == ("eve", "ann")
    assert handler({"inputs": []}) == []


def test_parameters_hold_for_their_request_only(handler: Any) -> None:
    relations = [{"name": "visits", "descriptions": ["the head visits the tail"]}]
    [found] = handler({"inputs": COUPLE, "parameters": {"relations": relations, "threshold": 0.5}})
    assert (found["relation"], found["score"]) == ("visits", 1.0)
    assert len(handler({"inputs": COUPLE, "parameters": {"top_k": 9}})) == len(RELATIONS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], 'A request is {"inputs": a post or a list of posts'),
        ({"parameters": {}}, 'A request is {"inputs": a post or a list of posts'),
        ({"inputs": COUPLE, "parameter": {}}, 'A request is {"inputs": a post or a list of posts'),
        ({"inputs": "eve met ann"}, "inputs is a post or a list of posts; given a str"),
        ({"inputs": PICTURE}, "inputs is a post or a list of posts; given a Image"),
        ({"inputs": ["eve met ann"]}, "post 0: a post is a mapping with the keys .* given a str"),
        ({"inputs": COUPLE, "parameters": []}, "parameters is a mapping with the keys"),
        ({"inputs": COUPLE, "parameters": {"allow_paths": True}}, r"parameters is a mapping .* given {'allow_paths'"),
        ({"inputs": COUPLE, "parameters": {"max_pairs": 10**9}}, "parameters is a mapping"),
        ({"inputs": COUPLE, "parameters": {"batch_size": 10**9}}, "parameters is a mapping"),
        ({"inputs": COUPLE, "parameters": {"top_k": "many"}}, "top_k='many' is out of range"),
        ({"inputs": COUPLE, "parameters": {"relations": "visits"}}, "relations is a list of mappings; given a str"),
        ({"inputs": COUPLE, "parameters": {"relations": [5]}}, "A relation is a mapping with the keys"),
        ({"inputs": {"text": 5}}, "the post: text must be a string"),
        ({"inputs": {**COUPLE, "tail": 5}}, "the post, entity 1: give a mapping with start and end"),
        ({"inputs": [COUPLE, {**COUPLE, "tail": "bob"}]}, "post 1, tail: 'bob' does not occur in the text"),
        ({"inputs": {"text": "eve"}}, "needs the package"),
    ],
)
def test_a_wrong_request_is_a_value_error(
    handler: Any, data: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: Any, texts: Any) -> Any:
        raise ImportError("needs the package")

    monkeypatch.setattr(RocProcessor, "find_entities", missing)
    with pytest.raises(ValueError, match=message):
        handler(data)


def test_requests_are_limited(handler: Any, limits: Any) -> None:
    names = [f"a{number}" for number in range(limits.LIMITS["max_entities"] + 1)]
    relation = {"name": "visits", "descriptions": ["visits"]}
    too_much: dict[str, Any] = {
        "at most 32 posts": [COUPLE] * 33,
        "at most 2,000 are read": {**COUPLE, "text": "eve met ann " * 200},
        "13 entities were given; at most 12 are read": {"text": " ".join(names), "entities": names},
        "without its picture: there are more than 10,000 characters": {
            **COUPLE,
            "tail": {"start": 8, "end": 11, "type": "x" * 20_000},
        },
    }
    for message, inputs in too_much.items():
        with pytest.raises(ValueError, match=message):
            handler({"inputs": inputs})
    too_many = {
        "501 relations were given; at most 500 are ranked": [relation] * 501,
        "have 1002 descriptions; at most 1000 are read": [{**relation, "descriptions": ["visits"] * 501}] * 2,
        "relations: there are more than 200,000 characters": [{**relation, "descriptions": ["x" * 200_001]}],
    }
    for message, relations in too_many.items():
        with pytest.raises(ValueError, match=message):
            handler({"inputs": COUPLE, "parameters": {"relations": relations}})
    assert handler({"inputs": {"text": " ".join(names[:-1]), "entities": names[:-1]}})


def test_entities_that_are_found_are_limited_as_well(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [{"start": number, "end": number + 1, "type": ""} for number in range(0, 26, 2)]
    monkeypatch.setattr(RocProcessor, "find_entities", lambda self, texts: [many])
    with pytest.raises(ValueError, match="the post: 13 entities make 156 pairs, but at most 132 are ranked"):
        handler({"inputs": {"text": "a " * 13}})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/etc/passwd", "are no picture.* Paths and addresses are never opened"),
        ("../handler.py", "this is not base64. Paths and addresses are never opened"),
        ("file:///etc/passwd", "this is not base64"),
        ("http://127.0.0.1:8000/picture.png", "this is not base64"),
        ("handler", "these 5 bytes are no picture.* Paths and addresses are never opened"),
        ("", "these 0 bytes are no picture"),
        (base64_of(b"/etc/passwd"), "these 11 bytes are no picture"),
        (base64_of(picture_bytes(tiny_picture(), "GIF")), "are no picture in one of"),
        (base64_of(png_that_claims(8, 8)), "the picture cannot be decoded"),
        (base64_of(picture_bytes(tiny_picture())[:20]), "are no picture"),
        ("A" * 7_000_000, "the picture has more than 5,000,000 bytes"),
        (base64_of(png_that_claims(6000, 6000)), "the picture has 6000 x 6000 pixels; between 1 and 25,000,000"),
        (base64_of(png_that_claims(60_000, 60_000)), "the picture has too many pixels"),
        (base64_of(white_png(8000)), "the picture has 8000 x 8000 pixels"),
        (b"bytes", "a picture is a base64 string; given a bytes"),
        (PICTURE, "a picture is a base64 string; given a Image"),
        ({"path": "/etc/passwd"}, "a picture is a base64 string; given a dict"),
    ],
)
def test_no_picture_but_a_small_one_in_base64_is_taken(handler: Any, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^post 1.*{message}"):
        handler({"inputs": [COUPLE, {**COUPLE, "image": image}]})


def test_a_handler_imports_nothing_of_the_package() -> None:
    lines = (ROOT / "handler.py").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.lstrip().startswith(("import roc", "from roc", "from ."))]
