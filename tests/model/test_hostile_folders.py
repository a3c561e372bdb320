"""A model's folder chooses no code to run and no place to connect to, whichever of its files it tries it with."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from tiny import tiny_processor
from tiny_runs import save_trained
from transformers import AutoModel, AutoProcessor, BertConfig, BertForTokenClassification, BertModel

import roc.register  # noqa: F401  (Transformers knows ROC)
from roc.inference.posts import load_model
from roc.modeling_backbones_roc import load_backbone, source_folder

SHA = "0" * 64
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BESIDE = "evil_beside"  # a module in the model's folder, which is on the path as in an Inference Endpoint
CODE = "open(__file__ + '.ran', 'w').close()\nclass Evil: pass\ndef load(**options): return Evil()\n"

LOADERS: dict[str, Callable[[str], Any]] = {
    "programs": load_model,
    "AutoModel": lambda folder: (AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("saved")
    return {adapter: save_trained(folder / str(adapter), adapter=adapter) for adapter in (False, True)}


class Watch:
    """What a process must not do while it loads a stranger's folder."""

    def __init__(self) -> None:
        self.connected: list[Any] = []
        self.asked: list[str] = []

    def connect(self, *address: Any, **options: Any) -> Any:
        self.connected.append(address)
        raise OSError("no network in tests")

    def ask(self, words: str = "") -> str:
        self.asked.append(words)
        return "y"


@pytest.fixture
def hostile(
    tmp_path: Path, saved: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[dict[str, Any]], Path]]:
    """Makes a folder with files changed, and at the end nothing may have been run, asked or connected to."""
    watch = Watch()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", watch.connect)
    monkeypatch.setattr(socket.socket, "connect", watch.connect)
    monkeypatch.setattr("builtins.input", watch.ask)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))
    monkeypatch.syspath_prepend(tmp_path / "model")

    def make(changes: dict[str, Any]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(saved["adapter_config.json" in changes], folder)
        (folder / f"{BESIDE}.py").write_text(CODE, encoding="utf-8")
        (folder / "de_core_news_sm.py").write_text(CODE, encoding="utf-8")
        for name, change in changes.items():
            file = folder / name
            content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            file.write_text(json.dumps(merged(content, change)), encoding="utf-8")
        return folder

    yield make
    monkeypatch.undo()
    assert [file.name for file in tmp_path.rglob("*.ran")] == []
    assert BESIDE not in sys.modules
    assert (watch.connected, watch.asked) == ([], [])


def merged(content: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Put changes into settings, also deep ones."""
    deep = {key: merged(content.get(key) or {}, own) for key, own in change.items() if isinstance(own, dict)}
    return {**content, **change, **deep}


def typer(name: Any) -> dict[str, Any]:
    return {"processor_config.json": {"entity_typer": name}}


def sources(name: str) -> dict[str, Any]:
    return {"config.json": {"encoder_sources": {"text_model": {"name": name, "sha256": SHA}}}}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "typer_module": (typer(f"spacy:{BESIDE}"), "evil_beside.*name it yourself"),
    "typer_standard_library": (typer("spacy:antigravity"), "antigravity.*name it yourself"),
    "typer_repository": (typer("evil/tagger"), "evil/tagger.*name it yourself"),
    "typer_folder": (typer("../model"), "name it yourself"),
    "typer_odd": (typer(["spacy"]), "name it yourself"),
    "tokenizer_code": (
        {"tokenizer_config.json": {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": [None, f"{BESIDE}.Evil"]}}},
        "custom code",
    ),
    "tokenizer_code_elsewhere": (
        {"tokenizer_config.json": {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["evil/a--b.C", None]}}},
        "custom code",
    ),
    "audio_tokenizer": (
        {
            "processor_config.json": {
                "audio_tokenizer": {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "evil/dac"}
            }
        },
        "loaded from elsewhere",
    ),
    "image_processor_of_a_stranger": (
        {
            "processor_config.json": {
                "image_processor": {"image_processor_type": "OneFormerImageProcessor", "repo_path": "evil/x"}
            }
        },
        "loaded from elsewhere",
    ),
    "image_processor_in_a_file_of_its_own": (
        {"preprocessor_config.json": {"image_processor_type": "OneFormerImageProcessor", "repo_path": "evil/x"}},
        "loaded from elsewhere",
    ),
    "backbone_of_a_stranger": (
        {"config.json": {"vision_config": {"model_type": "detr", "backbone": "evil/backbone"}}},
        "loaded from elsewhere",
    ),
    "audio_tokenizer_file": (
        {
            "audio_tokenizer_config.json": {
                "audio_tokenizer_class": "DacModel",
                "audio_tokenizer_name_or_path": "evil/dac",
            }
        },
        "loaded from elsewhere",
    ),
    "encoder_of_a_stranger": (sources("evil/encoder"), "evil/encoder.*not fetched.*hf download"),
    "encoder_by_path": (sources("../../etc"), "Paths and addresses are never opened"),
    "encoder_by_absolute_path": (sources("/etc"), "Paths and addresses are never opened"),
    "encoder_by_home": (sources("~/encoder"), "Paths and addresses are never opened"),
    "encoder_by_address": (sources("https://evil.example/x"), "Paths and addresses are never opened"),
    "encoder_by_file_address": (sources("file:///etc"), "Paths and addresses are never opened"),
    "encoder_of_an_odd_part": (
        {"config.json": {"encoder_sources": {"fusion_layers(": {"name": "evil/x", "sha256": SHA}}}},
        "encoder_sources",
    ),
    "nested_code": (
        {
            "config.json": {
                "text_config": {"model_type": "encoder-decoder", "auto_map": {"AutoModel": BESIDE + ".Evil"}}
            }
        },
        "",
    ),
    "picture_code": (
        {
            "processor_config.json": {
                "image_processor": {"image_processor_type": "X", "auto_map": {"AutoImageProcessor": f"{BESIDE}.Evil"}}
            }
        },
        "custom code",
    ),
    "model_code": (
        {"config.json": {"model_type": "evil", "auto_map": {"AutoConfig": "evil/a--b.C", "AutoModel": "evil/a--b.D"}}},
        "type 'evil', not a ROC model",
    ),
    "kernels": ({"config.json": {"attn_implementation": "evil/kernels"}}, "would fetch code"),
    "nested_kernels": ({"config.json": {"attn_implementation": {"text_config": "evil/kernels"}}}, "would fetch code"),
    "adapter_imports": (
        {"adapter_config.json": {"megatron_config": {"a": 1}, "megatron_core": f"megatron.{BESIDE}"}},
        "megatron_",
    ),
    "adapter_of_another_kind": ({"adapter_config.json": {"peft_type": "XLORA"}}, "kind 'XLORA'"),
    "adapter_of_an_unknown_kind": ({"adapter_config.json": {"peft_type": "x" * 9_999}}, r"kind 'x+\.\.\."),
    "adapter_mapping": ({"adapter_config.json": {"auto_mapping": {"parent_library": BESIDE}}}, "auto_mapping"),
    "adapter_pattern": ({"adapter_config.json": {"target_modules": "(a+)+$"}}, "target_modules"),
}


# `AutoModel` and `AutoProcessor` look at these before they ask for a class of ROC.
OF_TRANSFORMERS = ("audio_tokenizer", "audio_tokenizer_file", "model_code", "image_processor_in_a_file_of_its_own")


@pytest.mark.parametrize(
    ("kind", "loader"),
    [(kind, loader) for kind in HOSTILE for loader in LOADERS if loader == "programs" or kind not in OF_TRANSFORMERS],
)
def test_a_folder_that_names_code_or_a_place_is_refused(
    kind: str, loader: str, hostile: Callable[[dict[str, Any]], Path]
) -> None:
    changes, message = HOSTILE[kind]
    with pytest.raises((ValueError, OSError, KeyError), match=f"(?s){message}") as refused:
        LOADERS[loader](str(hostile(changes)))
    assert len(str(refused.value)) < 1_000


def test_code_that_a_folder_names_beside_rocs_own_is_not_run(hostile: Callable[[dict[str, Any]], Path]) -> None:
    elsewhere = {"AutoConfig": "evil/repo--evil.Config", "AutoModel": f"{BESIDE}.Evil"}
    tokenizer = {"auto_map": {"AutoTokenizer": [f"{BESIDE}.Evil", "evil/repo--a.B"]}}
    processor = {"entity_typer": "spacy:de_core_news_sm", "auto_map": elsewhere | {"AutoProcessor": "evil/repo--a.B"}}
    changes = {"config.json": {"auto_map": elsewhere}, "tokenizer_config.json": tokenizer}
    _, loaded = load_model(str(hostile({**changes, "processor_config.json": processor})))
    with pytest.raises(ImportError, match="needs the package"):  # the installed one, not a file beside the model
        loaded.find_entities(["ann met bob"])


def test_an_adapter_alone_does_not_choose_its_model(hostile: Callable[[dict[str, Any]], Path]) -> None:
    folder = hostile({"adapter_config.json": {"base_model_name_or_path": "evil/base"}})
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="holds an adapter, which says that the rest of the model is in"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "config.json",
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil_beside.E", "AutoModel": "evil/a--b.C"}},
        ),
        ("config.json", {"model_type": "detr", "backbone": "evil/backbone"}),
        ("config.json", {"model_type": "bert", "attn_implementation": "evil/kernels"}),
        ("adapter_config.json", {"peft_type": "XLORA"}),
    ],
)
def test_an_encoder_brings_no_code(
    name: str, change: dict[str, Any], hostile: Callable[[dict[str, Any]], Path]
) -> None:
    """As `--text_model` or in a small checkpoint: nobody asked for trust."""
    folder = hostile({name: change})
    with pytest.raises((ValueError, OSError)):
        load_backbone(str(folder))


@pytest.mark.parametrize("kept", [0, 7, 100, 5_000])
def test_an_encoder_whose_weights_were_cut_short_is_named(kept: int, tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=9, **SIZE)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match="are no whole safetensors"):
        load_backbone(str(tmp_path))


def test_an_encoder_that_the_user_has_downloaded_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--ann--encoder"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert source_folder("ann/encoder") == str(repository / "snapshots" / "abc")


def test_the_user_may_name_any_typer(hostile: Callable[[dict[str, Any]], Path], tmp_path: Path) -> None:
    folder, tagger = hostile(typer("ann/tagger")), tmp_path / "tagger"
    tokenizer = tiny_processor().tokenizer
    BertForTokenClassification(BertConfig(vocab_size=len(tokenizer), **SIZE)).save_pretrained(tagger)
    tokenizer.save_pretrained(tagger)
    processor = load_model(str(folder), entity_typer=str(tagger))[1]
    assert processor.entity_typer == str(tagger)
    assert processor.find_entities(["ann met bob"]) == [[]]
    assert load_model(str(folder), entity_typer="null")[1].entity_typer is None
    assert AutoProcessor.from_pretrained(folder, entity_typer=None).entity_typer is None
    assert AutoProcessor.from_pretrained(folder, entity_typer="spacy").entity_typer == "spacy"
