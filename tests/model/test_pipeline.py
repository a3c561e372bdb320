"""The pipeline: posts in, relations out, as a stranger would use it."""

from __future__ import annotations

import base64
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from posts import halves
from tiny import RELATIONS, louder, picture_bytes, save_tiny, tiny_model, tiny_processor
from transformers import pipeline

import roc.register  # noqa: F401  (Transformers knows ROC)
from roc import handler
from roc.dataset_scripts.features import FEATURES
from roc.modeling_decisions_roc import relation_probabilities
from roc.modeling_roc import RocModel
from roc.pipeline_posts_roc import read_image, read_post
from roc.processing_roc import RocProcessor
from roc.training.adapters import add_lora, save_model

ROOT = Path(__file__).resolve().parents[2]
TASK = "multimodal-relation-extraction"
PICTURE, OTHER_PICTURE = halves("red", "blue"), halves("green", "yellow")
BYTES = picture_bytes(PICTURE)
BASE64 = base64.b64encode(BYTES).decode()
THING = {"bbox": [0.1, 0.2, 0.6, 0.9], "name": "thing"}
COUPLE = {"text": "eve met ann", "head": "eve", "tail": "ann"}
VISITS = [{"name": "visits", "descriptions": ["the head visits the tail"]}, RELATIONS[2]]

# 0 to 12 pairs, of texts and objects; with a picture, with another one, with the first once more, and without
POSTS: list[dict[str, Any]] = [
    {"text": "ann kissed bob in paris today", "image": PICTURE, "entities": ["ann", "bob", "paris", THING]},
    COUPLE,
    {"text": "eve", "entities": ["eve"]},
    {"text": "bob holds a", "image": BYTES, "entities": [{"start": 0, "end": 3, "type": "person"}, THING]},
    {"text": "eve visits berlin with the two of the post", "head": "berlin", "tail": {"start": 0, "end": 3}},
    {"text": "eve met ann", "image": OTHER_PICTURE, "entities": ["ann", "eve", THING]},
]
NUM_PAIRS = [12, 1, 0, 2, 1, 6]


def pipe_of(markers: str = "entities", **settings: Any) -> Any:
    processor = tiny_processor(markers)
    return pipeline(TASK, model=louder(tiny_model(processor, **settings)), processor=processor)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return pipe_of()


@pytest.fixture
def open_pipe() -> Any:
    """With a model of its own, whose inventory has no relation that means "none of these"."""
    return pipe_of(relations=RELATIONS[1:], none_relation=None)


def close(found: Any, expected: Any) -> bool:
    """Whether results are the same but for rounding."""
    return found == pytest.approx(expected, abs=1e-5) if isinstance(found, float) else _same(found, expected)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return list(found) == list(expected) and all(close(found[key], expected[key]) for key in found)
    return bool(found == expected)


# --- what comes out ----------------------------------------------------------------------------------------------


def test_a_result_is_plain_json(pipe: Any) -> None:
    [found] = pipe({"text": "bob holds a", "image": PICTURE, "head": "bob", "tail": THING})
    assert list(found) == [
        *("head", "tail", "relation", "score", "description", "head_span", "tail_span", "head_box", "tail_box")
    ]
    assert (found["head"], found["head_span"], found["head_box"]) == ("bob", [0, 3], None)
    assert (found["tail"], found["tail_span"], found["tail_box"]) == ("thing", None, THING["bbox"])
    described = {relation["name"]: relation["descriptions"] for relation in RELATIONS}
    assert found["description"] in described[found["relation"]]
    assert json.loads(json.dumps(found)) == found


def test_the_scores_are_those_of_the_model(pipe: Any) -> None:
    batch = pipe.processor("eve met ann", images=PICTURE, entities=[(8, 11), (0, 3)], pairs=[(1, 0)])
    with torch.no_grad():
        logits = pipe.model(**batch).logits[0, 0]
    probabilities = relation_probabilities(logits, pipe.model.config).tolist()
    found = pipe({**COUPLE, "image": PICTURE}, top_k=9)
    names = [relation["name"] for relation in RELATIONS]
    assert {entry["relation"]: entry["score"] for entry in found} == pytest.approx(dict(zip(names, probabilities)))
    assert [entry["score"] for entry in found] == sorted(probabilities, reverse=True)


def test_entities_give_all_ordered_pairs_and_top_k_relations_of_each(pipe: Any) -> None:
    found = pipe({"text": "ann met bob in paris", "entities": ["ann", "bob", (15, 20)]}, top_k=2)
    pairs = [("ann", "bob"), ("ann", "paris"), ("bob", "ann"), ("bob", "paris"), ("paris", "ann"), ("paris", "bob")]
    assert [(entry["head"], entry["tail"]) for entry in found] == [pair for pair in pairs for _ in range(2)]


def test_without_entities_they_are_found(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(find=lambda texts: [[(0, 3, "person"), (8, 11, "person")] for _ in texts])
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: {"spacy": found}[name])
    assert close(pipe({"text": "eve met ann"}), pipe({"text": "eve met ann", "entities": ["eve", "ann"]}))


def test_a_post_with_fewer_than_two_entities_has_no_relations(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = SimpleNamespace(find=lambda texts: [[] for _ in texts])
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: nobody)
    assert pipe({"text": "good morning"}) == []
    assert pipe([{"text": "good morning"}, {"text": "", "entities": []}]) == [[], []]


def test_a_threshold_leaves_out_what_is_less_likely_or_no_relation(open_pipe: Any) -> None:
    posts = POSTS[:1]
    [everything] = open_pipe(posts, top_k=9)
    [likely] = open_pipe(posts, top_k=9, threshold=0.3)
    assert likely == [entry for entry in everything if entry["score"] >= 0.3]
    assert 0 < len(likely) < len(everything)
    open_pipe.model.config.none_threshold = 1.0  # no pair is that near to a description
    assert open_pipe(posts, top_k=9, threshold=0) == [[]]
    assert close(open_pipe(posts, top_k=9), [everything])


def test_with_a_threshold_the_relation_that_means_none_is_left_out(pipe: Any) -> None:
    [everything] = pipe(POSTS[:1], top_k=9)
    [related] = pipe(POSTS[:1], top_k=9, threshold=0)
    best = {(entry["head"], entry["tail"]): entry["relation"] for entry in reversed(everything)}
    assert {"None"} < set(best.values())
    expected = [
        entry for entry in everything if entry["relation"] != "None" and best[entry["head"], entry["tail"]] != "None"
    ]
    assert close(related, expected)


def test_html_stays_plain_text(pipe: Any) -> None:
    evil = "<img src=x onerror=alert(1)>"
    relations = [{"name": evil, "descriptions": ["<b>the head</b> & the tail"]}]
    [found] = pipe({"text": f"{evil} met bob", "head": evil, "tail": "bob"}, relations=relations)
    assert (found["head"], found["relation"], found["description"]) == (evil, evil, "<b>the head</b> & the tail")


# --- many posts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_batched_equals_one_by_one(markers: str) -> None:
    pipe = pipe_of(markers)
    single = [pipe(post, top_k=9) for post in POSTS]
    assert [len(found) for found in single] == [len(RELATIONS) * pairs for pairs in NUM_PAIRS]
    assert not close(single[0], pipe({**POSTS[0], "image": OTHER_PICTURE}, top_k=9)), "pictures change nothing"
    for batch_size in (1, 2, 4, 100):
        assert close(pipe(POSTS, top_k=9, batch_size=batch_size), single), batch_size


@pytest.mark.parametrize(("batch_size", "passes"), [(1, 5), (2, 3), (100, 1)])  # one post has no pairs
def test_the_posts_of_a_batch_go_through_the_model_together(pipe: Any, batch_size: int, passes: int) -> None:
    seen: list[int] = []
    hook = pipe.model.register_forward_hook(lambda model, given, output: seen.append(len(output.logits)))
    try:
        pipe(POSTS, batch_size=batch_size)
    finally:
        hook.remove()
    assert (len(seen), sum(seen)) == (passes, 5)


def test_a_generator_is_read_as_results_are_taken(pipe: Any) -> None:
    read = []

    def posts() -> Iterator[dict[str, Any]]:
        for post in POSTS:
            read.append(post)
            yield post

    results = iter(pipe(posts(), batch_size=2))
    first = next(results)
    assert len(read) < len(POSTS)
    assert close([first, *results], pipe(POSTS))


def test_a_text_that_is_cut_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("roc.pipeline_roc.logger", SimpleNamespace(warning_once=told.append))
    processor = tiny_processor(max_length=32)
    pipe = pipeline(TASK, model=tiny_model(processor), processor=processor)
    pipe(COUPLE)
    assert told == []
    pipe({**COUPLE, "text": COUPLE["text"] + " today" * 50})
    assert told == ["Some texts are longer than the model reads (max_length) and were cut off."]


def test_rows_of_a_data_set_are_posts(pipe: Any) -> None:
    ann = {"name": "ann", "start": 0, "end": 3, "type": "person", "bbox": None}
    thing = {"name": "thing", "start": None, "end": None, "type": "object", "bbox": [0.1, 0.2, 0.5, 0.75]}
    row = {"id": "1", "text": "ann holds", "image": PICTURE, "head": ann, "tail": thing, "relation": "None"}
    without = {**row, "image": None, "tail": {**ann, "name": "holds", "start": 4, "end": 9}}
    rows = datasets.Dataset.from_list([row, without], features=FEATURES)
    own = [{key: given[key] for key in ("text", "head", "tail", "image")} for given in (row, without)]
    assert close([*pipe(rows, batch_size=2)], pipe(own))


def test_nothing_in_is_nothing_out(pipe: Any) -> None:
    assert pipe([]) == []
    assert [*pipe(post for post in POSTS[:0])] == []


def test_a_post_may_be_given_by_keywords(pipe: Any) -> None:
    assert pipe(**COUPLE, image=PICTURE, top_k=2) == pipe({**COUPLE, "image": PICTURE}, top_k=2)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_a_picture_is_the_same_in_every_form(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "post.png").write_bytes(BYTES)
    forms = [PICTURE, BYTES, BASE64, f"data:image/png;base64,{BASE64}", tmp_path / "post.png"]
    results = pipe([{**COUPLE, "image": form} for form in [*forms, str(tmp_path / "post.png")]], allow_paths=True)
    assert close(results, [results[0]] * len(results))
    assert not close(results[0], pipe(COUPLE)), "the picture changes nothing"


@pytest.mark.parametrize("allow_paths", [False, True])
@pytest.mark.parametrize(
    "address", ["https://example.org/a.png", "file:///etc/passwd", "HTTP://127.0.0.1/", "s3://a/b"]
)
def test_an_address_is_never_fetched(pipe: Any, address: str, allow_paths: bool) -> None:
    with pytest.raises(ValueError, match=r"the post: .* is an address: none is fetched"):
        pipe({**COUPLE, "image": address}, allow_paths=allow_paths)


def test_a_path_is_opened_only_when_that_is_allowed(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "post.png"
    file.write_bytes(BYTES)
    with pytest.raises(ValueError, match=r"the post: .* is not base64 \(a path needs allow_paths=True\)"):
        pipe({**COUPLE, "image": str(file)})
    with pytest.raises(TypeError, match="the post: paths are opened with allow_paths=True only"):
        pipe({**COUPLE, "image": file})
    with pytest.raises(ValueError, match="is no file and not base64"):
        pipe({**COUPLE, "image": str(tmp_path / "no.png")}, allow_paths=True)
    with pytest.raises(ValueError, match="the post: there is no file"):
        pipe({**COUPLE, "image": tmp_path / "no.png"}, allow_paths=True)
    with pytest.raises(ValueError, match="is no file and not base64"):
        read_image("\0" + "a-" * 5000, "the post", allow_paths=True)


# --- relations on the spot ---------------------------------------------------------------------------------------


def test_relations_of_a_call_are_ranked_and_the_model_is_as_before(pipe: Any) -> None:
    before = pipe(POSTS, top_k=9)
    found = pipe(POSTS, top_k=9, relations=VISITS, batch_size=3)
    processor = tiny_processor()
    own = louder(tiny_model(processor))
    own.set_relations(VISITS, processor)
    assert close(found, pipeline(TASK, model=own, processor=processor)(POSTS, top_k=9))
    assert close(pipe(POSTS, top_k=9), before)
    assert pipe.model.config.relation_names == [relation["name"] for relation in RELATIONS]


def test_calls_with_other_relations_may_be_interleaved(pipe: Any) -> None:
    lists = [VISITS, VISITS[:1], None]
    streams = [iter(pipe((post for post in POSTS), relations=relations)) for relations in lists]
    rounds = [*zip(*streams)]
    assert close([list(results) for results in zip(*rounds)], [pipe(POSTS, relations=own) for own in lists])


def test_given_relations_are_encoded_once_however_many_posts_and_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, encoded = pipe_of(), []
    encode = RocModel.encode_descriptions
    monkeypatch.setattr(
        RocModel, "encode_descriptions", lambda self, *given: encoded.append(len(given[0])) or encode(self, *given)
    )
    for _ in range(3):
        pipe(POSTS, relations=VISITS)
    assert encoded == [1], "one of the two descriptions is in the model's own bank"
    monkeypatch.setattr("roc.pipeline_roc.MOST_REMEMBERED", 3)
    for number in range(3):
        pipe(COUPLE, relations=[{"name": "visits", "descriptions": [f"the head visits {number}"]}])
    pipe(COUPLE, relations=VISITS)
    assert encoded == [1] * (1 + 3 + 1), "what was remembered is forgotten"


def test_a_second_model_shares_the_weights_but_not_the_relations() -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    add_hook_to_module(model, ModelHook())  # as `device_map` does
    bank = model.relation_bank.features.clone()
    other = model.with_relations(VISITS, processor, none_relation=VISITS[1]["name"])
    assert (other.config.relation_names, other.config.none_relation) == (
        ["visits", VISITS[1]["name"]],
        VISITS[1]["name"],
    )
    assert (model.config.none_relation, model.config.num_relations) == ("None", len(RELATIONS))
    assert torch.equal(model.relation_bank.features, bank)
    batch = processor("eve met ann", entities=[(8, 11), (0, 3)])
    assert [own(**batch).logits.shape[-1] for own in (model, other)] == [len(RELATIONS), 2]
    shared = dict(model.named_parameters())
    assert all(parameter is shared[name] for name, parameter in other.named_parameters())
    with pytest.raises(ValueError, match="relations is empty"):
        other.with_relations([], processor)


def test_given_relations_may_be_those_of_all_calls() -> None:
    processor = tiny_processor()
    pipe = pipeline(TASK, model=tiny_model(processor), processor=processor, relations=VISITS, top_k=9, batch_size=2)
    assert {entry["relation"] for entry in pipe(COUPLE)} == {relation["name"] for relation in VISITS}


def test_the_relation_called_as_the_model_s_none_means_none_here_too(pipe: Any) -> None:
    nothing = {"name": "None", "descriptions": ["nothing"]}
    other = {"name": "other", "descriptions": ["nothing"]}
    assert pipe(COUPLE, relations=[nothing], threshold=0) == []
    assert len(pipe(COUPLE, relations=[other], threshold=0)) == 1
    assert pipe(COUPLE, relations=[other], none_relation="other", threshold=0) == []


def test_an_adapted_model_ranks_relations_of_a_call() -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    add_lora(model, encoders="both", rank=2, alpha=4, marker_ids=processor.marker_ids)
    pipe = pipeline(TASK, model=model.eval(), processor=processor)
    assert close(pipe(POSTS), pipeline(TASK, model=tiny_model(processor), processor=processor)(POSTS))
    assert [entry["relation"] for entry in pipe(COUPLE, relations=VISITS[:1])] == ["visits"]


def test_a_classifier_ranks_its_labels_and_takes_no_others() -> None:
    pipe = pipe_of(head="classification")
    assert len(pipe(COUPLE, top_k=9)) == len(RELATIONS)
    with pytest.raises(ValueError, match="needs head='retrieval'"):
        pipe(COUPLE, relations=VISITS)
    with pytest.raises(ValueError, match="needs head='retrieval'"):
        pipe.model.with_relations(VISITS, pipe.processor)


def test_a_model_without_relations_asks_for_some() -> None:
    pipe = pipe_of()
    pipe.model.config.replace_relations([], None)
    with pytest.raises(ValueError, match=r"The model has no relations: give some, pipe\(\.\.\., relations="):
        pipe(COUPLE)
    assert pipe(COUPLE, relations=VISITS)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("post", "message"),
    [
        ({"image": PICTURE}, "post 1: a post needs a text; given the keys"),
        ({**COUPLE, "hed": "eve"}, r"post 1: unknown keys \['hed'\]"),
        ({"text": "eve met ann", "head": "eve"}, "post 1: give both head and tail, or neither"),
        ({**COUPLE, "entities": ["eve"]}, "post 1: give head and tail for one pair, or entities for all pairs"),
        ({**COUPLE, "tail": "bob"}, "post 1, tail: 'bob' does not occur in the text 'eve met ann'"),
        ({"text": "eve", "entities": ["ev"]}, "post 1, entity 0: 'ev' does not occur"),
        ({**COUPLE, "tail": {"start": 8, "end": 99}}, r"post 1, entity 1: the span \(8, 99\) lies outside"),
        ({**COUPLE, "tail": {"bbox": [0, 0, 2, 1]}}, "post 1, entity 1: bbox .* is not a box in the picture"),
        (
            {**COUPLE, "tail": {"start": 8, "end": 11, "type": "persn"}},
            "post 1, entity 1: the entity type 'persn' is not known. Did you mean 'person'",
        ),
        ({**COUPLE, "image": b"no picture"}, "post 1: these 10 bytes are no picture"),
        ({**COUPLE, "image": f"AAAAdata:image/png;base64,{BASE64}"}, "post 1: as a picture a string holds its bytes"),
        ({**COUPLE, "image": "no picture"}, "post 1: as a picture a string holds its bytes"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_wrong_post_is_named(pipe: Any, post: dict[str, Any], message: str, batch_size: int) -> None:
    with pytest.raises(ValueError, match=message):
        pipe([COUPLE, post], batch_size=batch_size)


@pytest.mark.parametrize(
    ("post", "message"),
    [
        ("eve met ann", "post 1: a post is a mapping with the keys"),
        ({"text": 5}, "post 1: text must be a string"),
        ({"text": "eve", "entities": "eve"}, "post 1: entities must be a list"),
        ({**COUPLE, "tail": 5}, "post 1, entity 1: give a mapping with start and end"),
        ({**COUPLE, "image": 5}, "post 1: a picture must be a PIL image or the bytes"),
    ],
)
def test_a_post_of_a_wrong_type_is_named(pipe: Any, post: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pipe([COUPLE, post])
    with pytest.raises(TypeError, match=message):
        [*pipe(given for given in [COUPLE, post])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0 is out of range: give a number >= 1"),
        ({"top_k": "3"}, "top_k='3' is out of range"),
        ({"threshold": 1.5}, r"threshold=1.5 is out of range: give a number in \[0, 1\]"),
        ({"threshold": float("nan")}, "threshold=nan is out of range"),
        ({"threshold": True}, "threshold=True is out of range"),
        ({"max_pairs": -1}, "max_pairs=-1 is out of range"),
        ({"relations": []}, "relations is empty"),
        ({"relations": "visits"}, "relations is a list of mappings"),
        ({"relations": [{"name": "visits"}]}, "needs at least one description"),
        ({"none_relation": "None"}, "none_relation names one of the `relations`"),
        (
            {"relations": VISITS, "none_relation": "visit"},
            "'visit' is not among the relations",
        ),
        ({"text": "eve"}, "Give one post or several, or the keys of one"),
    ],
)
def test_a_wrong_option_is_refused_before_the_first_post(pipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe((COUPLE for _ in range(2)), **options)


def test_no_post_or_no_mapping_is_refused(pipe: Any) -> None:
    with pytest.raises(ValueError, match="Give one post or several"):
        pipe()
    with pytest.raises(TypeError, match=r"A post is a mapping with the keys .* given a str"):
        pipe("eve met ann")
    with pytest.raises(TypeError, match="topk"):
        pipe(COUPLE, topk=3)


def test_a_text_only_model_refuses_a_picture() -> None:
    processor = tiny_processor(vision=False)
    pipe = pipeline(TASK, model=tiny_model(processor, vision=False), processor=processor)
    assert len(pipe([COUPLE, COUPLE], batch_size=2)) == 2
    with pytest.raises(ValueError, match="post 1: a picture was given, but this processor's model reads text only"):
        pipe([COUPLE, {**COUPLE, "image": PICTURE}], batch_size=2)


def test_more_pairs_than_allowed_are_refused(pipe: Any) -> None:
    assert len(pipe(POSTS[0], max_pairs=12)) == 12
    with pytest.raises(ValueError, match=r"the post: 4 entities make 12 pairs, but at most 11 are ranked"):
        pipe(POSTS[0], max_pairs=11)


@pytest.mark.parametrize("half", ["\ud800", "\udfff x"])
@pytest.mark.parametrize(
    "place",
    [
        lambda half: {"text": COUPLE["text"] + half},
        lambda half: {"text": COUPLE["text"] + half, "head": None, "tail": None},
        lambda half: {"head": "eve" + half},
        lambda half: {"head": {"start": 0, "end": 3, "type": "person" + half}},
        lambda half: {"head": {"name": "eve", "type": half}},
        lambda half: {"image": PICTURE, "tail": {**THING, "name": f"a {half}"}},
        lambda half: {"image": f"{half}{BASE64}"},
        lambda half: {half: None},
        lambda half: {"relations": [{"name": f"r{half}", "descriptions": ["d"]}]},
        lambda half: {"relations": [{"name": "r", "descriptions": ["d", f"e{half}"]}]},
        lambda half: {"relations": [{"name": "r", "descriptions": ["d"], "head_types": [f"person{half}"]}]},
        lambda half: {"relations": VISITS, "none_relation": half},
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(pipe: Any, place: Any, half: str) -> None:
    post = COUPLE | place(half)
    options = {key: post.pop(key) for key in ("relations", "none_relation") if key in post}
    with pytest.raises(
        ValueError, match=r"Unicode|does not occur|unknown keys|not base64|entity_types|none_relation"
    ) as caught:
        pipe(post, **options)
    str(caught.value).encode()  # can be sent


@pytest.mark.parametrize("odd", ["\x00", "\x1b", "\x7f", "\x85", "\u2028", "\ufffe", "\U0010ffff"])
def test_odd_characters_are_text_like_others(pipe: Any, odd: str) -> None:
    [found] = pipe({"text": f"eve {odd} met {odd}ann", "head": "eve", "tail": "ann"})
    assert json.loads(json.dumps(found, ensure_ascii=False).encode()) == found


def test_a_missing_entity_finder_is_told(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError("needs the package")

    monkeypatch.setattr("roc.processing_roc.load_entity_typer", missing)
    with pytest.raises(ImportError, match="needs the package"):
        read_post({"text": "eve met ann"}, pipe.processor, where="the post")


# --- from a folder -----------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from transformers import pipeline

posts, folders = json.loads(sys.argv[1]), sys.argv[2:]
load = lambda folder: pipeline("multimodal-relation-extraction", model=folder, **options)
pipes = [load(folder) for folder in folders]
pipes[0].model.save_pretrained(folders[0] + "-again")
pipes[0].processor.save_pretrained(folders[0] + "-again")
results = [pipe(posts, top_k=2, batch_size=2) for pipe in [*pipes, load(folders[0] + "-again")]]
print(json.dumps({"modules": [type(pipe).__module__ for pipe in pipes], "results": results}))
"""
WITHOUT_ROC = 'import sys\nsys.modules["roc"] = None\noptions = {"trust_remote_code": True}\n'
WITH_ROC = "import roc.register\noptions = {}\n"
SENT = [COUPLE, {**POSTS[0], "image": BASE64}, {"text": "eve", "entities": ["eve"]}]


def adapted(processor: RocProcessor) -> RocModel:
    model = tiny_model(processor)
    add_lora(model, encoders="text", rank=2, alpha=4, marker_ids=processor.marker_ids)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model.eval()


@pytest.mark.parametrize("start", [WITHOUT_ROC, WITH_ROC], ids=["without roc", "with roc.register"])
def test_a_folder_that_train_py_wrote_is_a_pipeline_elsewhere(start: str, tmp_path: Path) -> None:
    processor = tiny_processor()
    models = {"a-model.v1": tiny_model(processor), "adapted": adapted(processor)}
    for name, model in models.items():
        save_model(model, tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    program = [sys.executable, "-c", start + PROGRAM, json.dumps(SENT), *(str(tmp_path / name) for name in models)]
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    home = "roc." if start == WITH_ROC else "transformers_modules."
    assert all(module.startswith(home) for module in told["modules"])
    plain, with_adapter = (pipeline(TASK, model=own, processor=processor)(SENT, top_k=2) for own in models.values())
    assert not close(plain, with_adapter)
    assert close(told["results"], [plain, with_adapter, plain])


def test_the_configuration_of_a_folder_names_the_pipeline(tmp_path: Path) -> None:
    processor = tiny_processor(vision=False)
    save_model(tiny_model(processor, vision=False), tmp_path)
    named = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["custom_pipelines"]
    assert named == {TASK: {"impl": "pipeline_roc.RocPipeline", "pt": ["AutoModel"], "type": "multimodal"}}
    assert {"pipeline_roc.py", "pipeline_posts_roc.py"} <= {path.name for path in tmp_path.iterdir()}


# --- docs/pipeline.md --------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(4))
def test_the_page_s_python_runs(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a small untrained model in place of the demo's."""
    save_tiny(tmp_path)
    shutil.copy(ROOT / "handler.py", tmp_path)
    block = [own for kind, own in BLOCKS if kind == "python"][number]
    before = [*sys.path]
    try:
        exec(re.sub('"(outputs/demo/model|build_hub)"', repr(str(tmp_path)), block), {})
    finally:
        sys.path[:] = before
        sys.modules.pop("handler", None)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == [2, 2, 2, 1][number]


def test_the_page_shows_a_result_as_it_is(pipe: Any) -> None:
    [shown] = [json.loads(own) for kind, own in BLOCKS if kind == "json"]
    assert list(shown) == list(pipe(COUPLE)[0])


def test_the_page_names_the_pipeline_s_options_and_the_handler_s_limits(pipe: Any) -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    options = inspect.signature(pipe._sanitize_parameters).parameters
    assert named == set(options) - {"local_files_only", "unknown"} | {"batch_size"}
    limits = (handler.LIMITS[key] for key in ("max_characters", "max_entities", "max_relations", "max_descriptions"))
    for limit in (handler.MAX_POSTS, *limits):
        assert re.search(rf"\b{limit:,}\b", PAGE)
    assert all(f"`{parameter}`" in PAGE for parameter in handler.PARAMETERS)
