"""Relations saved and loaded by themselves: what is taken, what is encoded anew, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import RELATIONS, scores, tiny_model
from torch import Tensor
from transformers import BertConfig

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations_file_roc import METADATA_KEY, encoder_fingerprint

NAMES = [relation["name"] for relation in RELATIONS]
VISITS = {"name": "visits", "descriptions": ["the head visits the tail"]}


@pytest.fixture
def saver(processor: RocProcessor) -> RocModel:
    return tiny_model(processor, vision=False)


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    """The same model, with another relation."""
    model = tiny_model(processor, vision=False)
    model.set_relations([VISITS], processor)
    return model


@pytest.fixture
def path(saver: RocModel, tmp_path: Path) -> Path:
    """What `saver` saved, in a folder that was not there."""
    path = tmp_path / "new" / "relations.safetensors"
    saver.save_relations(path)
    return path


def never(self: RocModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    raise AssertionError("a description was encoded")


def test_saved_relations_are_taken_without_encoding_anything(
    model: RocModel, saver: RocModel, processor: RocProcessor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RocModel, "encode_descriptions", never)
    model.load_relations(path, processor)
    assert scores(model, processor) == pytest.approx(scores(saver, processor), abs=1e-6)
    assert model.config.relations == saver.config.relations
    assert model.config.none_relation == "None"
    assert model.config.label2id[NAMES[3]] == 3


def test_a_model_loaded_from_its_folder_takes_them_too(
    model: RocModel, processor: RocProcessor, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = RocModel.from_pretrained(tmp_path / "model")
    monkeypatch.setattr(RocModel, "encode_descriptions", never)
    loaded.load_relations(path, processor)
    assert loaded.config.relation_names == NAMES


def test_a_model_with_another_encoder_encodes_the_descriptions_anew_and_says_so(
    processor: RocProcessor, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_model(processor, vision=False, seed=1)
    expected = scores(other, processor)
    other.set_relations([VISITS], processor)
    other.load_relations(path, processor)
    assert "encoded anew" in caplog.text
    assert scores(other, processor) == pytest.approx(expected, abs=1e-5)


def test_a_shared_encoder_may_have_learnt_since_and_encodes_all_anew(
    processor: RocProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(processor, vision=False, relation_config=None)
    model.save_relations(tmp_path / "relations.safetensors")
    with torch.no_grad():
        model.text_model.encoder.layer[0].output.dense.weight.mul_(3)
    model.load_relations(tmp_path / "relations.safetensors", processor)
    assert "encoded anew" in caplog.text
    loaded = model.relation_bank.features.clone()
    model.set_relations(RELATIONS, processor, none_relation="None")
    torch.testing.assert_close(loaded, model.relation_bank.features)


def test_the_fingerprint_is_that_of_weights_and_settings(processor: RocProcessor, tmp_path: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        encoder = BertConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=32, vocab_size=200, **settings)
        model = tiny_model(processor, vision=False, relation_config=encoder)
        return encoder_fingerprint(model.relation_model)

    model = tiny_model(processor, vision=False)
    own = encoder_fingerprint(model.relation_model)
    model.save_pretrained(tmp_path)
    assert encoder_fingerprint(RocModel.from_pretrained(tmp_path).relation_model) == own
    with torch.no_grad():
        model.relation_model.embeddings.LayerNorm.bias[-1] += 1e-3
    assert encoder_fingerprint(model.relation_model) != own
    four_heads = fingerprint(num_attention_heads=4)
    assert four_heads == fingerprint(num_attention_heads=4)
    assert four_heads != fingerprint(num_attention_heads=2)


def test_saving_replaces_an_older_file_and_leaves_nothing_else(path: Path, model: RocModel) -> None:
    model.save_relations(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    model.load_relations(path, processor=None)
    assert model.config.relation_names == ["visits"]


def test_a_save_that_fails_leaves_the_older_file(path: Path, model: RocModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(tensors: dict[str, Tensor], target: Path, metadata: dict[str, str]) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("roc.relations_file_roc.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        model.save_relations(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def rewrite(path: Path, *, tensors: dict[str, Tensor] | None = None, **content: Any) -> None:
    """Change a file: its tensors, or what its metadata say."""
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
    save_file({**load_file(path), **(tensors or {})}, path, {METADATA_KEY: json.dumps({**metadata, **content})})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("relations:\n- name: visits\n"), "not a safetensors file"),
        (lambda path: path.write_bytes(b""), "not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not all of it"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not all of it"),
        (lambda path: save_file(load_file(path), path), "holds no relations"),
        (lambda path: save_file(load_file(path), path, {METADATA_KEY: "{"}), "Expecting property name"),
        (lambda path: save_file(load_file(path), path, {METADATA_KEY: "[]"}), "version None is not known"),
        (lambda path: save_file(load_file(path), path, {METADATA_KEY: '{"version": 2}'}), "'relations'.* missing"),
        (lambda path: rewrite(path, version=1), "version 1 is not known; this ROC reads version 2"),
        (lambda path: rewrite(path, relations=[]), "relation_index does not number the 0 descriptions"),
        (lambda path: rewrite(path, relations=RELATIONS[:2]), "relation_index does not number the 3 descriptions"),
        (lambda path: rewrite(path, relations=[*RELATIONS, RELATIONS[0]]), "Relation names must differ"),
        (lambda path: rewrite(path, none_relation="Nonee"), "Did you mean 'None'"),
        (lambda path: rewrite(path, tensors={"more": torch.zeros(1)}), "the tensors are"),
        (lambda path: rewrite(path, tensors={"features": torch.ones(5, 31)}), "31 wide, but .* gives 32"),
        (
            lambda path: rewrite(path, tensors={"features": torch.ones(4, 32)}),
            "not one row of floats for each",
        ),
        (
            lambda path: rewrite(path, tensors={"features": torch.ones(5, 32).char()}),
            "not one row of floats",
        ),
        (lambda path: rewrite(path, tensors={"features": torch.full((5, 32), torch.nan)}), "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_the_model_stays(
    damage: Callable[[Path], Any], message: str, path: Path, model: RocModel, processor: RocProcessor
) -> None:
    bank, relations = copy.deepcopy(model.relation_bank.state_dict()), copy.deepcopy(model.config.relations)
    damage(path)
    with pytest.raises(ValueError, match=f"relations.safetensors: .*{message}"):
        model.load_relations(path, processor)
    assert all(torch.equal(tensor, bank[name]) for name, tensor in model.relation_bank.state_dict().items())
    assert model.config.relations == relations


def test_a_file_that_is_missing_or_a_folder_is_an_error(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        model.load_relations(tmp_path / "missing", processor)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        model.load_relations(tmp_path, processor)


def test_descriptions_too_long_for_the_model_leave_it_as_it_was(
    path: Path, model: RocModel, processor: RocProcessor
) -> None:
    long = {"name": "long", "descriptions": ["a " * 200]}
    index = torch.tensor([0])
    rewrite(
        path, tensors={"features": torch.ones(1, 32), "relation_index": index}, relations=[long], none_relation=None
    )
    with pytest.raises(ValueError, match="Shorten"):
        model.load_relations(path, processor)
    assert model.config.relation_names == ["visits"]


def test_a_bank_without_content_is_not_saved(model: RocModel, tmp_path: Path) -> None:
    for empty in (RocModel(model.config), tiny_model_without_relations(model)):
        with pytest.raises(ValueError, match=r"no encoded descriptions yet|has no relations yet"):
            empty.save_relations(tmp_path / "relations.safetensors")
    assert not list(tmp_path.iterdir())


def tiny_model_without_relations(like: RocModel) -> RocModel:
    config = copy.deepcopy(like.config)
    config.replace_relations([], None)
    return RocModel(config)


def test_a_classifier_has_no_bank_to_save_or_load(processor: RocProcessor, path: Path) -> None:
    classifier = tiny_model(processor, vision=False, head="classification")
    with pytest.raises(ValueError, match="save_relations needs head='retrieval'"):
        classifier.save_relations(path)
    with pytest.raises(ValueError, match="load_relations needs head='retrieval'"):
        classifier.load_relations(path, processor)
