"""The page of the Space, without a browser: which model it serves, its examples, and what its buttons do."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model, tiny_processor

gr = pytest.importorskip("gradio", reason="needs `pip install 'roc[space]'`")
SPACE = Path(__file__).resolve().parents[2] / "space"
sys.path.insert(0, str(SPACE))  # the app's modules import each other as files of one folder

import app  # noqa: E402
import interface  # noqa: E402
from answers import SharedModel  # noqa: E402
from serving import QUEUE  # noqa: E402
from visitor import rows_of_relations  # noqa: E402

from roc.relations.files import read_relation_file  # noqa: E402

FILE = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module", params=["text and picture", "text alone", "classification"])
def shared(request: pytest.FixtureRequest) -> SharedModel:
    vision = request.param != "text alone"
    processor = tiny_processor(vision=vision)
    head = "classification" if request.param == "classification" else "retrieval"
    return SharedModel(tiny_model(processor, vision=vision, head=head), processor)


def test_the_model_is_named_on_the_command_line_by_the_environment_or_by_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(app.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr("roc.support.resources.DEFAULT_MODEL", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="the one that would answer then is not in"):
        app.default_model()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "config.json").touch()
    assert app.default_model() == str(tmp_path / "nothing")
    (tmp_path / "README.md").write_text("---\nsdk: gradio\nmodels: [user/roc]\n---\n# A page\n")
    monkeypatch.setattr(app, "HERE", tmp_path)
    assert app.default_model() == "user/roc"
    monkeypatch.setenv(app.MODEL_VARIABLE, "user/other")
    assert app.default_model() == "user/other"
    assert app.main(["--model", "not_there"]) == 1
    assert "There is no model folder 'not_there'" in capsys.readouterr().err


def test_every_example_is_answered_by_every_kind_of_model(shared: SharedModel) -> None:
    examples = interface.load_examples([], reads_images=shared.processor.reads_images)
    assert len(examples) == (9 if shared.processor.reads_images else 8)
    for example in examples:
        text, picture, entities, pair, *_ = interface._fill(example)
        asked = (text, picture, entities["value"], pair["value"], rows_of_relations(shared.relations))
        (ranks, nothing_yet), (same_ranks, explanation) = interface._answer(shared, *asked)
        assert ranks.count("<li") == min(5, len(shared.relations))
        assert (nothing_yet, same_ranks) == ("", ranks)
        assert "roc-words" in explanation


@pytest.mark.parametrize("name", ["synthetic", "mnre", "everyday"])
def test_each_released_inventory_has_its_own_examples(name: str) -> None:
    relations = read_relation_file(f"relations/{name}.yaml").names
    examples = interface.load_examples(relations, reads_images=True)
    assert len(examples) == 3
    assert {example["relation"] for example in examples} <= set(relations)
    assert all(bool(example["image"]) == (name == "synthetic") for example in examples)


def test_of_all_pairs_none_is_explained(shared: SharedModel) -> None:
    asked = ("Ann met Bob", None, ["Ann", "Bob"], "all pairs", rows_of_relations(shared.relations))
    *_, (ranks, explanation) = interface._answer(shared, *asked)
    assert ranks.count("<section") == 2
    assert "Choose one pair" in explanation


def test_a_new_box_or_name_keeps_the_chosen_pair() -> None:
    entities, pair = interface._entities_and_pairs(["Ann", "Bob", "Ann", "box 1"], "Bob → Ann")
    assert entities["value"] == ["Ann", "Bob", "box 1"]
    assert pair["value"] == "Bob → Ann"
    assert interface._entities_and_pairs(["Ann"], "Bob → Ann")[1]["value"] is None


def test_an_error_is_shown_as_escaped_text_and_the_unexpected_is_not_told() -> None:
    with pytest.raises(gr.Error) as shown, interface._errors_shown():
        raise ValueError("no relation '<b>x</b>'")
    assert shown.value.message == "no relation &#x27;&lt;b&gt;x&lt;/b&gt;&#x27;"
    with pytest.raises(RuntimeError), interface._errors_shown():
        raise RuntimeError("something of ours")


@pytest.mark.parametrize("path", ["https://example.org/a.png", "http://169.254.169.254/latest"])
def test_no_component_fetches_an_address(path: str) -> None:
    """Gradio looks for files in the value of every component, the texts' too, before the app sees it."""
    processor = tiny_processor(vision=False)
    page = interface.build_app(SharedModel(tiny_model(processor, vision=False), processor))
    blocks = [*page.blocks.values(), gr.Dropdown(render=False)]  # a session makes new ones of those that it updates
    for value in ({"path": path, "meta": FILE}, {"image": {"path": path, "meta": FILE}}):
        for block in blocks:
            with pytest.raises(gr.Error, match="opens no addresses"):
                asyncio.run(gr.processing_utils.async_move_files_to_cache(value, block, check_in_upload_folder=True))


def test_the_page_collects_nothing(shared: SharedModel) -> None:
    page = interface.build_app(shared)
    assert page.analytics_enabled is False
    names = {block.get_block_name() for block in page.blocks.values()}
    assert not names & {"image", "file", "uploadbutton", "audio", "video", "gallery", "state", "browserstate"}
    assert {event.api_visibility for event in page.fns.values() if event.targets[0][1] != "unload"} == {"private"}
    limited = [event for event in page.fns.values() if event.concurrency_id == "model"]
    assert len(limited) >= 3
    assert {event.concurrency_limit for event in limited} == {1}


# --- served ------------------------------------------------------------------------------------------------------

SECRET = "a-visitors-secret"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, int]]]:
    """The page, served by this process: its address, and the numbers of its functions by their names."""
    processor = tiny_processor(vision=False)
    page = interface.build_app(SharedModel(tiny_model(processor, vision=False), processor))
    _, address, _ = interface.launch(page, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    names = {getattr(own.fn, "func", own.fn).__name__: number for number, own in page.fns.items()}
    yield address.rstrip("/"), names
    page.close()


def post(address: str, body: bytes | Iterator[bytes]) -> tuple[int, Any]:
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def asked(server: tuple[str, dict[str, int]], function: str, data: list[Any]) -> list[dict[str, Any]]:
    """What the queue says to a question, until it is done."""
    address, numbers = server
    question = {"fn_index": numbers[function], "data": data, "session_hash": "abc", "event_data": None}
    status, joined = post(f"{address}{QUEUE}", json.dumps(question).encode())
    assert status == 200, joined
    messages = []
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=abc", timeout=20) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                messages.append(json.loads(line.removeprefix(b"data: ")))
                if messages[-1]["msg"] in ("process_completed", "close_stream"):
                    break
    return messages


def test_a_question_is_answered_through_the_queue(server: tuple[str, dict[str, int]]) -> None:
    rows = [{"name": "met", "descriptions": "the head met the tail"}]
    done = asked(server, "_answer", ["ann met bob", None, ["ann", "bob"], "ann → bob", rows])[-1]
    assert done["success"], done
    assert "roc-note" in done["output"]["data"][0] + done["output"]["data"][1]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_too_large_is_answered_over_the_wire(server: tuple[str, dict[str, int]], streamed: bool) -> None:
    chunks = [b"a" * 1_000_000] * 20
    status, answer = post(f"{server[0]}{QUEUE}", iter(chunks) if streamed else b"".join(chunks))
    assert (status, answer) == (413, {"detail": "This Space takes at most 8,000,000 bytes at once."})


@pytest.mark.parametrize("route", ["run/predict", "api/predict", "call/predict", "call/v2/predict", "queue/join"])
def test_too_few_inputs_are_refused_and_nothing_of_them_is_logged(
    server: tuple[str, dict[str, int]], route: str, capfd: pytest.CaptureFixture[str]
) -> None:
    question = {"fn_index": server[1]["_answer"], "data": [SECRET], "session_hash": "abc"}
    status, answer = post(f"{server[0]}/gradio_api/{route}", json.dumps(question).encode())
    assert 400 <= status < 500
    assert SECRET not in json.dumps(answer)
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "data", [[SECRET, SECRET, SECRET], [{SECRET: 1}, {"a": SECRET}, [SECRET]], [[SECRET], 1, "0:9"]]
)
def test_inputs_of_odd_kinds_are_not_logged(
    server: tuple[str, dict[str, int]],
    data: list[Any],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked(server, "_mark", data)
    assert SECRET not in "".join(capfd.readouterr()) + caplog.text
