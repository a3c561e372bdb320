"""What comes from the Hub or from strangers runs nothing, opens nothing and fills no memory."""

from __future__ import annotations

import base64
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny import png_that_claims, save_tiny, tiny_model, tiny_processor, white_png
from tiny_runs import save_trained
from transformers import AutoModel, pipeline

import roc.register  # noqa: F401  (Transformers knows ROC)
from roc.handler import EndpointHandler
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.relations.files import read_relation_file

TASK = "multimodal-relation-extraction"
COUPLE = {"text": "eve met ann", "head": "eve", "tail": "ann"}
EVIL = '<script>alert("1")</script>'

LOADERS: dict[str, Callable[[str], Any]] = {
    "AutoModel": AutoModel.from_pretrained,
    "RocModel": RocModel.from_pretrained,
    "use_safetensors=False": lambda folder: AutoModel.from_pretrained(folder, use_safetensors=False),
    "predict.py": load_model,
    "pipeline": lambda folder: pipeline(TASK, model=folder, trust_remote_code=True),
    "handler": EndpointHandler,
}


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def pipe() -> Any:
    processor = tiny_processor()
    return pipeline(TASK, model=tiny_model(processor), processor=processor)


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> EndpointHandler:
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder)
    return EndpointHandler(str(folder))


# --- pickles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_pickle_in_place_of_safetensors_is_refused_and_not_opened(loader: str, name: str, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises((OSError, ValueError, SafetensorError), match=r"(?i)safetensors|header"):
        LOADERS[loader](str(folder))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_honest_weights_in_the_old_format_are_refused_as_well(loader: str, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    LOADERS[loader](str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises((OSError, ValueError), match=r"no file named model\.safetensors"):
        LOADERS[loader](str(folder))


@pytest.mark.parametrize("loader", LOADERS)
def test_an_adapter_in_the_old_format_is_refused(loader: str, tmp_path: Path) -> None:
    folder = save_trained(tmp_path / "model", adapter=True)
    LOADERS[loader](str(folder))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises((OSError, ValueError), match=r"adapter_model\.safetensors"):
        LOADERS[loader](str(folder))


def test_an_adapter_alone_is_refused_beside_another_base_model(tmp_path: Path) -> None:
    base, adapted = save_trained(tmp_path / "base"), save_trained(tmp_path / "adapted", adapter=True)
    settings = json.loads((adapted / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = str(base)
    (adapted / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (adapted / "config.json").unlink()
    with pytest.raises(ValueError, match="holds an adapter, which says that the rest of the model is in"):
        AutoModel.from_pretrained(adapted)


def test_a_file_of_relations_that_is_a_pickle_is_refused(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "relations.pt"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match=r"relations\.pt"):
        pipe.model.load_relations(file, pipe.processor)
    assert not (tmp_path / "sprung").exists()


def test_a_relation_file_makes_no_objects(tmp_path: Path) -> None:
    file = tmp_path / "relations.yaml"
    file.write_text(f"relations: !!python/object/apply:os.mkdir ['{tmp_path / 'sprung'}']", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the tag .* is not allowed"):
        read_relation_file(file)
    assert not (tmp_path / "sprung").exists()


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [9_000, 13_000, 20_000])  # at 20,000 Pillow itself refuses, at 13,000 it warns
@pytest.mark.filterwarnings("error")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    pipe: Any, handler: EndpointHandler, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = white_png(side)
    assert len(bomb) < 100_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"the post: the picture has .* pixels"):
        pipe({**COUPLE, "image": bomb})
    with pytest.raises(ValueError, match=r"the post, image: the picture has .* pixels"):
        handler({"inputs": {**COUPLE, "image": base64.b64encode(bomb).decode()}})


def test_a_head_that_lies_is_refused(pipe: Any, handler: EndpointHandler) -> None:
    for side in (64, 6_000, 1_000_000):
        with pytest.raises(ValueError, match="the post"):
            pipe({**COUPLE, "image": png_that_claims(side, side)})
        with pytest.raises(ValueError, match="the post"):
            handler({"inputs": {**COUPLE, "image": base64.b64encode(png_that_claims(side, side)).decode()}})


# --- paths and addresses -----------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what was asked of it."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/picture.png", asked
        running.shutdown()


def test_no_string_of_a_request_is_fetched(pipe: Any, handler: EndpointHandler, server: tuple[str, list[str]]) -> None:
    address, asked = server
    for image in (address, address.upper(), address.replace("http:", ""), address.encode()):
        for ask in (pipe, lambda post: pipe(post, allow_paths=True), lambda post: handler({"inputs": post})):
            with pytest.raises(ValueError, match="the post"):
                ask({**COUPLE, "image": image})
    everywhere = {"text": f"{address} met ann", "head": address, "tail": "ann"}
    relations = [{"name": address, "descriptions": [address]}]
    assert pipe(everywhere, relations=relations)[0]["relation"] == address
    assert handler({"inputs": everywhere, "parameters": {"relations": relations}})[0]["relation"] == address
    assert asked == []


@pytest.mark.parametrize("form", ["{}", "file://{}", "data:image/png;base64,{}", "data:{}", "~{}"])
def test_no_string_of_a_request_is_opened(pipe: Any, handler: EndpointHandler, form: str, tmp_path: Path) -> None:
    fifo = tmp_path / "a"  # whoever opens it waits for ever
    os.mkfifo(fifo)
    for ask in (pipe, lambda post: handler({"inputs": post})):
        with pytest.raises(ValueError, match="the post"):
            ask({**COUPLE, "image": form.format(fifo)})


# --- what is shown -----------------------------------------------------------------------------------------------


def test_markup_in_texts_names_and_relations_comes_back_as_it_was_given(pipe: Any, handler: EndpointHandler) -> None:
    """It is for whoever shows it to escape it: a result is data."""
    post = {"text": f"{EVIL} met ann", "head": EVIL, "tail": {"start": 28 + 4, "end": 28 + 7}}
    relations = [{"name": EVIL, "descriptions": [f"the head {EVIL} the tail"]}]
    answers = [pipe(post, relations=relations), handler({"inputs": post, "parameters": {"relations": relations}})]
    for [found] in answers:
        assert (found["head"], found["relation"], found["description"]) == (EVIL, EVIL, f"the head {EVIL} the tail")
        assert json.loads(json.dumps(found)) == found


def test_markers_in_a_text_are_words(pipe: Any) -> None:
    """Nobody moves an entity by typing the model's own special tokens."""
    marker = pipe.processor.tokenizer.convert_ids_to_tokens(pipe.processor.marker_ids[0])
    batch = pipe.processor(f"{marker} eve {marker} met ann", entities=[(len(marker) + 1, len(marker) + 4), (0, 1)])
    count = (batch["input_ids"] == pipe.processor.marker_ids[0]).sum().item()
    assert count == 2, "one in front of each entity"
