"""Thousands of mutated inputs: each is answered or refused, in time, with a message that names what was given.

The fast suite tries a few of each kind, always the same ones. `pytest tests/test_fuzzing.py --fuzz 10000` tries so many
of each kind, other ones every time.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hostile import as_json, edited_bytes, edited_lines, mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from posts import POSTS, halves
from raw_sets import (
    CROSSRE_SENTENCE,
    FEWREL_LINE,
    JOINT_LISTED,
    JOINT_TAGGED,
    SEMEVAL_SENTENCE,
    WEBNLG_TEXT,
    WEBNLG_TRIPLES,
    mnre_instance,
    more_instance,
    write_more,
)
from tiny import RELATIONS, picture_bytes, save_tiny, tiny_model, tiny_processor
from tiny_runs import line

import roc.register  # noqa: F401  (Transformers knows ROC)
from roc.dataset_scripts.crossre import CrossreBuilder
from roc.dataset_scripts.fewrel import FewrelBuilder
from roc.dataset_scripts.joint import JointBuilder
from roc.dataset_scripts.jsonl import JsonlBuilder
from roc.dataset_scripts.mnre import MnreBuilder
from roc.dataset_scripts.more import MoreBuilder
from roc.dataset_scripts.semeval import SemevalBuilder
from roc.dataset_scripts.webnlg import WebnlgBuilder
from roc.handler import EndpointHandler
from roc.pipeline_roc import RocPipeline
from roc.processing_images_roc import open_image
from roc.relations.files import read_relation_file
from roc.training.settings import MODEL_FIELDS, RUN_FIELDS, load_run_config

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 5
LONGEST_MESSAGE = 1_000
TALLY: Counter[str] = Counter()

PICTURE = picture_bytes(halves("red", "blue"))
BASE64 = base64.b64encode(PICTURE).decode()
ENTITY_KEYS = ("start", "end", "bbox", "type", "name")
BOX = {"bbox": [0.1, 0.2, 0.6, 0.9], "name": "thing", "type": "object"}
QUESTIONS: list[dict[str, Any]] = [
    {"text": "ann kissed bob in paris today", "head": "ann", "tail": "paris"},
    {"text": "ann kissed bob", "head": {"start": 0, "end": 3, "type": "PER"}, "tail": {"start": 11, "end": 14}},
    {"text": "bob holds a", "image": BASE64, "head": "bob", "tail": BOX},
    {"text": "eve met ann", "entities": ["eve", {"start": 8, "end": 11, "type": "person"}], "image": BASE64},
    {
        "text": "ann and ann met bob",
        "entities": ["bob", {"name": "ann", "occurrence": 2}],
        "id": "7",
        "relation": "None",
    },
]
ENCODED = [{("images" if key == "image" else key): value for key, value in post.items()} for post in POSTS]
FORMATS = [
    *(picture_bytes(halves("red", "blue"), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
    *(picture_bytes(halves("red", "blue").convert(mode)) for mode in ("1", "L", "LA", "P", "RGBA", "I")),
    *(picture_bytes(halves("red", "blue").convert(mode), "TIFF") for mode in ("CMYK", "F", "LAB")),
]


@pytest.fixture(scope="module")
def pipe() -> RocPipeline:
    processor = tiny_processor()
    return RocPipeline(model=tiny_model(processor), processor=processor, device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> EndpointHandler:
    folder = tmp_path_factory.mktemp("repository")
    save_tiny(folder)
    return EndpointHandler(str(folder))


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named entities are found without spaCy, which would take most of the time."""

    def find(self: Any, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        return [[{"start": 0, "end": min(3, len(text)), "type": "person"}] * (len(text) > 0) for text in texts]

    monkeypatch.setattr("roc.processing_roc.RocProcessor.find_entities", find)


def fuzzed(request: pytest.FixtureRequest, ask: Callable[[random.Random], None], *, few: int) -> None:
    """Call `ask` with many sources of chance: `few` fixed ones, or as many others as `--fuzz` says."""
    number = request.config.getoption("--fuzz")
    TALLY.clear()
    test = given(st.randoms(use_true_random=True))(ask)
    settings(
        max_examples=number or few,
        derandomize=not number,
        database=None,
        deadline=timedelta(seconds=SECONDS),
        suppress_health_check=[*HealthCheck],
    )(test)()
    assert min(TALLY["answered"], TALLY["refused"]) > few / 20  # else it would show nothing
    if number:
        with request.getfixturevalue("capsys").disabled():
            print(f"\n{request.node.name}: {TALLY['answered']} answered, {TALLY['refused']} refused")


def answered(ask: Callable[[], Any], *names: str, also: tuple[type[Exception], ...] = ()) -> Any:
    """Return an answer, or None for a refusal in words that name what was given."""
    try:
        answer = ask()
    except (ValueError, TypeError, *also) as error:
        kind, said = type(error), str(error)
    else:
        TALLY["answered"] += 1
        return answer
    assert kind.__module__ == "builtins", f"a library's error: {kind}"
    assert 10 < len(said) <= LONGEST_MESSAGE, f"{len(said)} characters: {said[:200]}"
    assert any(name in said for name in names), f"none of {names} is named: {said}"
    TALLY["refused"] += 1
    return None


def check_triples(triples: Any, text: Any) -> None:
    """Check that an answer is plain JSON in UTF-8, of finite scores, and about the text that was asked."""
    json.dumps(triples, allow_nan=False, ensure_ascii=False).encode()
    for triple in triples:
        assert triple["relation"] in [relation["name"] for relation in RELATIONS]
        assert 0 <= triple["score"] <= 1
        for role in ("head", "tail"):
            span = triple[f"{role}_span"]
            assert span is None or text[slice(*span)] == triple[role]
            assert (span is None) != (triple[f"{role}_box"] is None)


def test_posts(pipe: RocPipeline, request: pytest.FixtureRequest) -> None:
    def ask(chance: random.Random) -> None:
        post = mutated(chance, chance.choice(QUESTIONS))
        answer = answered(lambda: pipe(post), "post", "Post")
        if isinstance(post, dict) and answer:
            check_triples(answer, post["text"])

    fuzzed(request, ask, few=200)


def test_options_of_a_call(pipe: RocPipeline, request: pytest.FixtureRequest) -> None:
    options = {"top_k": 2, "threshold": 0.1, "relations": RELATIONS, "none_relation": "None", "max_pairs": 5}
    names = (*options, "elation", "escription", "option", "argument", "post")

    def ask(chance: random.Random) -> None:
        given = mutated(chance, options)
        if isinstance(given, dict) and all(isinstance(key, str) for key in given):
            json.dumps(answered(lambda: pipe(QUESTIONS[0], **given), *names), allow_nan=False)

    fuzzed(request, ask, few=100)


def test_requests(handler: EndpointHandler, request: pytest.FixtureRequest) -> None:
    names = ("post", "Post", "inputs", "parameters", "elation", "escription", "request", "top_k", "threshold")
    bases = [
        {"inputs": QUESTIONS[:3]},
        {"inputs": QUESTIONS[3], "parameters": {"top_k": 2, "threshold": 0.2}},
        {
            "inputs": QUESTIONS[0],
            "parameters": {"relations": RELATIONS[1:], "none_relation": "/per/loc/place_of_birth"},
        },
    ]

    def ask(chance: random.Random) -> None:
        data = json.loads(as_json(mutated(chance, chance.choice(bases))))
        answer = answered(lambda: handler(data), *names)
        json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()

    fuzzed(request, ask, few=100)


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_samples(markers: str, request: pytest.FixtureRequest) -> None:
    processor = tiny_processor(markers)

    def ask(chance: random.Random) -> None:
        sample = mutated(chance, chance.choice(ENCODED))
        if isinstance(sample, dict) and all(key in ENCODED[0] for key in sample):
            names = ("sample", "text", "entities", "images", "pairs", "labels", "post", "picture")
            batch = answered(lambda: processor(**sample), *names)
            assert batch is None or len(batch["input_ids"]) == len(batch["pair_mask"])

    fuzzed(request, ask, few=150)


def test_pictures(request: pytest.FixtureRequest) -> None:
    def ask(chance: random.Random) -> None:
        data = edited_bytes(chance, chance.choice(FORMATS))
        picture = answered(lambda: open_image(data, "a picture"), "a picture")
        assert picture is None or picture.mode == "RGB"

    fuzzed(request, ask, few=300)


def built(folder: Path, builder: Callable[..., Any]) -> Any:
    """Read a folder's raw files as a builder does, and encode what it accepts as training does."""
    rows = answered(lambda: builder(folder)._rows, "train", "val", "rel2id", "fewrel80", also=(FileNotFoundError,))
    for own in (rows or {}).values():
        for raw, picture in own:
            entities = [{key: raw.row[role].get(key) for key in ENTITY_KEYS} for role in ("head", "tail")]
            image = None if picture is None else picture.read_bytes()
            encode = partial(encoder(), raw.row["text"], image, entities, where=[raw.where])
            answered(encode, "closer together")  # all but too long a text is for the builder to refuse
    return rows


@cache
def encoder() -> Any:
    return tiny_processor()


def test_rows_of_one_s_own(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "pictures").mkdir()
    for number in (0, 1):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(PICTURE)
    rows = [line(number, "train") for number in range(3)]
    rows += [
        {"text": "ann met bob", "head": {"start": 0, "end": 3}, "tail": {"start": 8, "end": 11}, "relation": "None"}
    ]

    def ask(chance: random.Random) -> None:
        lines = [as_json(mutated(chance, row)) if chance.random() < 0.5 else as_json(row) for row in rows]
        text = "\n".join(lines)
        text = edited_lines(chance, text) if chance.random() < 0.3 else text
        (tmp_path / "train.jsonl").write_bytes(text.encode(errors="surrogatepass"))
        built(tmp_path, JsonlBuilder)

    fuzzed(request, ask, few=150)


@pytest.mark.parametrize("source", ["mnre", "more"])
def test_rows_of_published_sets(source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    write_more(tmp_path)
    for written in (tmp_path / "txt").iterdir():
        written.unlink()
    kinds = {"more": ("train", more_instance, MoreBuilder), "mnre": ("ours_train", mnre_instance, MnreBuilder)}
    name, make, builder = kinds[source]

    def ask(chance: random.Random) -> None:
        rows = [mutated(chance, make()) if chance.random() < 0.7 else make() for _ in range(2)]
        text = "\n".join(repr(row) if chance.random() < 0.5 else as_json(row) for row in rows)
        text = edited_lines(chance, text) if chance.random() < 0.3 else text
        (tmp_path / "txt" / f"{name}.txt").write_bytes(text.encode(errors="surrogatepass"))
        built(tmp_path, builder)

    fuzzed(request, ask, few=100)


TEXT_SETS: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "fewrel": (FewrelBuilder, "fewrel80.jsonl", FEWREL_LINE),
    "crossre": (CrossreBuilder, "ai-train.json", CROSSRE_SENTENCE),
    "semeval": (SemevalBuilder, "train.txt", SEMEVAL_SENTENCE),
    "joint": (JointBuilder, "train.json", JOINT_LISTED),
    "joint_tags": (JointBuilder, "train.json", JOINT_TAGGED),
    "webnlg": (WebnlgBuilder, "train.json", {"text": WEBNLG_TEXT, "triple_list": WEBNLG_TRIPLES}),
}


@pytest.mark.parametrize("source", TEXT_SETS)
def test_rows_of_text_sets(source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    builder, name, sample = TEXT_SETS[source]
    is_list = builder in (JointBuilder, WebnlgBuilder)

    def ask(chance: random.Random) -> None:
        texts = [as_json(mutated(chance, sample) if chance.random() < 0.7 else sample) for _ in range(2)]
        content = f"[{', '.join(texts)}]" if is_list else "\n".join(texts)
        content = edited_lines(chance, content) if chance.random() < 0.2 else content
        (tmp_path / name).write_bytes(content.encode(errors="surrogatepass"))
        built(tmp_path, builder)

    fuzzed(request, ask, few=60)


def test_relation_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bases = [(ROOT / "relations" / name).read_text(encoding="utf-8") for name in ("synthetic.yaml", "mnre.yaml")]
    path = tmp_path / "relations.yaml"

    def ask(chance: random.Random) -> None:
        text = edited_lines(chance, "".join(chance.choice(bases).splitlines(keepends=True)[:30]))
        path.write_bytes(text.encode(errors="surrogatepass"))
        inventory = answered(lambda: read_relation_file(path), "relations.yaml")
        assert inventory is None or all(isinstance(relation["name"], str) for relation in inventory.relations)

    fuzzed(request, ask, few=100)


def test_settings_of_a_run(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bases = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))]
    path = tmp_path / "run.yaml"

    def ask(chance: random.Random) -> None:
        path.write_bytes(edited_lines(chance, chance.choice(bases)).encode(errors="surrogatepass"))
        answered(lambda: load_run_config(str(path)), "run.yaml", *RUN_FIELDS, *MODEL_FIELDS)

    fuzzed(request, ask, few=100)


def test_saved_relations(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    processor = tiny_processor(vision=False)
    model = tiny_model(processor, vision=False)
    path = tmp_path / "relations.safetensors"
    model.save_relations(path)
    whole = path.read_bytes()

    def ask(chance: random.Random) -> None:
        path.write_bytes(edited_bytes(chance, whole, times=2))
        answered(lambda: model.load_relations(path, processor), "relations.safetensors", "escription")

    fuzzed(request, ask, few=30)
