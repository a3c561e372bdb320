"""The page of the Space, without a browser: which model it serves, its examples, and what its buttons do."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

gr = pytest.importorskip("gradio", reason="needs `pip install 'roc[space]'`")
SPACE = Path(__file__).resolve().parents[2] / "space"
sys.path.insert(0, str(SPACE))  # the app's modules import each other as files of one folder

import app  # noqa: E402
import interface  # noqa: E402
from answers import SharedModel  # noqa: E402
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
    with pytest.raises(ValueError, match="--model FOLDER_OR_HUB_ID"):
        app.default_model()
    (tmp_path / "README.md").write_text("---\nsdk: gradio\nmodels: [user/roc]\n---\n# A page\n")
    monkeypatch.setattr(app, "HERE", tmp_path)
    assert app.default_model() == "user/roc"
    monkeypatch.setenv(app.MODEL_VARIABLE, "user/other")
    assert app.default_model() == "user/other"
    assert app.main(["--model", "not_there"]) == 1
    assert "There is no model folder 'not_there'" in capsys.readouterr().err


def test_every_example_is_answered_by_every_kind_of_model(shared: SharedModel) -> None:
    examples = interface.load_examples([], reads_images=shared.processor.reads_images)
    assert len(examples) == (6 if shared.processor.reads_images else 5)
    for example in examples:
        text, picture, entities, pair, *_ = interface._fill(example)
        asked = (text, picture, entities["value"], pair["value"], rows_of_relations(shared.relations))
        (ranks, nothing_yet), (same_ranks, explanation) = interface._answer(shared, *asked)
        assert ranks.count("<li") == min(5, len(shared.relations))
        assert (nothing_yet, same_ranks) == ("", ranks)
        assert "roc-words" in explanation


@pytest.mark.parametrize("name", ["synthetic", "mnre"])
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
