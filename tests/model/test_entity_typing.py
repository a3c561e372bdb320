"""Entity types come from the text alone: spaCy, or any token-classification model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_processor, tiny_tokenizer
from transformers import BertConfig, BertForTokenClassification

from roc.processing_typing_roc import (
    ENTITY_TYPES,
    SPACY_MODEL,
    TYPE_OF_NER_LABEL,
    EntityTyper,
    load_entity_typer,
    type_id,
    word_of_type,
)

TEXT = "Ann met Bob"


@pytest.fixture(autouse=True)
def forget_loaded_typers() -> Iterator[None]:
    load_entity_typer.cache_clear()
    yield
    load_entity_typer.cache_clear()


def token_classifier(folder: Path, label: str) -> str:
    """A saved model that gives every token one label."""
    tokenizer = tiny_tokenizer()
    labels = ["O", label]
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 5.0]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class FakePipeline:
    """A spaCy pipeline that knows a few names as they are written, whatever is around them."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.read: list[str] = []

    def pipe(self, texts: list[str]) -> Iterator[Any]:
        for text in texts:
            self.read.append(text)
            ents = [
                SimpleNamespace(start_char=text.index(name), end_char=text.index(name) + len(name), label_=label)
                for name, label in self.labels.items()
                if name in text
            ]
            yield SimpleNamespace(ents=ents)


def spacy_typer(labels: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[EntityTyper, FakePipeline]:
    """The spaCy typer around a fake pipeline."""
    module, pipeline = ModuleType("fake_spacy_model"), FakePipeline(labels)
    module.load = lambda exclude: pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_spacy_model", module)
    return load_entity_typer("spacy:fake_spacy_model"), pipeline


def test_every_label_has_a_type_that_relations_may_use() -> None:
    assert set(TYPE_OF_NER_LABEL.values()) < set(ENTITY_TYPES)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        *((word, word) for word in ENTITY_TYPES),
        *(("PER", "person"), ("Person", "person"), ("org", "organization"), ("Organisation", "organization")),
        *(("LOC", "location"), ("GPE", "location"), ("Location", "location"), (" MISC ", "miscellaneous")),
        *(("OBJECT", "object"), ("work_of_art", "miscellaneous"), ("DATE", None), ("spaceship", None), ("", None)),
    ],
)
def test_a_type_is_one_of_the_words_in_any_case_or_a_tag_for_it(given: str, word: str | None) -> None:
    assert word_of_type(given, ENTITY_TYPES) == word


def test_the_types_of_a_model_come_before_the_tags() -> None:
    assert [word_of_type(given, ["LOC", "animal"]) for given in ("loc", "Animal", "GPE")] == ["LOC", "animal", None]


def test_numbers_of_types_differ_and_depend_on_the_word_alone() -> None:
    words = [*ENTITY_TYPES, *TYPE_OF_NER_LABEL, ""]
    assert len({type_id(word) for word in words}) == len(words)
    assert (type_id("person"), type_id(""), type_id(None)) == (886886774, -1, -1)


def test_a_span_has_the_type_of_the_entity_that_covers_most_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    typer, _ = spacy_typer({"New": "PERSON", "York Times": "ORG"}, monkeypatch)
    assert typer(["the New York Times"], [[(4, 18), (4, 7), (8, 12)]]) == [["organization", "person", "organization"]]


def test_a_name_that_the_sentence_hides_is_read_once_more_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    typer, pipeline = spacy_typer({"Ann": "PERSON"}, monkeypatch)
    texts = ["Bob met Ann", "nothing", "so Bob"]
    assert typer(texts, [[(0, 3), (8, 11)], [], [(3, 6)]]) == [[None, "person"], [], [None]]
    assert pipeline.read == [*texts, "Bob"]


def test_labels_without_a_word_are_no_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    typer, _ = spacy_typer({"today": "DATE", "Ann": "PERSON"}, monkeypatch)
    assert typer.find(["Ann today"]) == [[(0, 3, "person")]]


def test_spacy_types_persons_places_and_organizations() -> None:
    pytest.importorskip(SPACY_MODEL)
    typer = load_entity_typer("spacy")
    assert typer.name == f"spacy:{SPACY_MODEL}"
    text = "Barack Obama visited Paris with the mayor of Microsoft."
    names = ["Barack Obama", "Paris", "Microsoft", "mayor"]
    spans = [(text.index(name), text.index(name) + len(name)) for name in names]
    assert typer([text, ""], [spans, []]) == [["person", "location", "organization", None], []]
    assert (0, 12, "person") in typer.find([text])[0]
    assert load_entity_typer("spacy") is typer


@pytest.mark.parametrize(("label", "expected"), [("B-PER", "person"), ("LOC", "location"), ("Org", "organization")])
def test_a_token_classification_model_types_entities(tmp_path: Path, label: str, expected: str) -> None:
    name = token_classifier(tmp_path, label)
    typer = load_entity_typer(name)
    assert typer.name == name
    assert typer([TEXT, "Eve"], [[(0, 3), (8, 11)], []]) == [[expected, expected], []]
    assert {kind for _, _, kind in typer.find([TEXT])[0]} == {expected}
    assert typer([], []) == []


def test_a_model_that_sees_no_entity_leaves_types_open(tmp_path: Path) -> None:
    typer = load_entity_typer(token_classifier(tmp_path, "DATE"))
    assert typer([TEXT], [[(0, 3)]]) == [[None]]


def test_the_processor_asks_the_typer_by_its_name(tmp_path: Path) -> None:
    name = token_classifier(tmp_path, "B-PER")
    entities = [[(0, 3), (8, 11, "")]]
    assert [entity.type for entity in tiny_processor(entity_typer=name).type_entities([TEXT], entities)[0]] == [
        "person",
        "",
    ]


@pytest.mark.parametrize("name", ["spacy", "spacy:no_such_package"])
def test_a_typer_that_is_not_installed_names_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SPACY_MODEL, None)
    with pytest.raises(ImportError, match=r"needs the package .* Type `pip install 'roc\[ner\]'`.*entity_typer=None"):
        load_entity_typer(name)


def test_a_typer_never_sees_labels() -> None:
    assert list(inspect.signature(EntityTyper.__call__).parameters) == ["self", "texts", "spans"]
