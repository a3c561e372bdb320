"""Entity types come from the text alone: spaCy, or any token-classification model."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_processor, tiny_tokenizer
from transformers import BertConfig, BertForTokenClassification

from roc.dataset_scripts.jsonl import parse_line
from roc.pipeline_posts_roc import read_post
from roc.processing_entities_roc import check_entity
from roc.processing_typing_roc import (
    ENTITY_TYPES,
    SPACY_MODEL,
    TYPE_OF_TAG,
    EntityTyper,
    load_entity_typer,
    type_id,
    word_of_type,
)
from roc.relations_roc import normalise_relations

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


# Of tag sets: those that are a type of ROC's, in the order person, organization, location, miscellaneous.
TAG_SETS = {
    "CoNLL-2003": ("B-PER I-PER", "B-ORG", "I-LOC", "B-MISC"),
    "OntoNotes, spaCy": ("PERSON", "ORG", "GPE LOC FAC", "NORP PRODUCT EVENT WORK_OF_ART LAW LANGUAGE"),
    "WNUT-17": ("person", "corporation group", "location", "creative-work product"),
    "ACE": ("PER PER:Individual", "ORG", "GPE GPE:Nation LOC FAC", "VEH WEA"),
    "Twitter": ("PER", "company sportsteam ORG", "geo-loc facility LOC", "movie tvshow product other OTHER"),
    "MNRE": ("per", "org", "loc", "misc"),
    "Stanza, Flair": ("PERS S-PER", "E-ORG", "LOC", "MISC"),
    "GMB": ("per", "org", "geo gpe", "art eve nat"),
    "Few-NERD": ("person-actor", "organization-company", "location-GPE building-airport", "art-film product-car"),
    "MultiCoNER": ("B-PER", "B-CORP B-GRP", "B-LOC", "B-CW B-PROD"),
    "TAC, CoreNLP": ("PERSON", "ORGANIZATION", "CITY COUNTRY STATE_OR_PROVINCE", "NATIONALITY RELIGION IDEOLOGY"),
    "Polish, Swedish, Norwegian": ("persName PRS", "orgName GPE_ORG", "placeName geogName GPE_LOC", "WRK EVN EVT"),
    "Korean, Weibo": ("PS PER.NAM", "OG ORG.NOM", "LC GPE.NAM", ""),
    "services, Wikidata": ("Person human", "Organisation business", "Place city", "CreativeWork COMMERCIAL_ITEM film"),
    "in other languages": ("PERSONA Persoon", "Organización Firma", "Ort lieu lugar", "Sonstige"),
}


@pytest.mark.parametrize("tag_set", TAG_SETS)
def test_the_tags_of_usual_sets_mean_what_they_say(tag_set: str) -> None:
    for word, tags in zip(ENTITY_TYPES, TAG_SETS[tag_set]):
        found = {tag: word_of_type(tag, ENTITY_TYPES) for tag in tags.split()}
        assert found == dict.fromkeys(found, word)
        relation = {"name": "r", "descriptions": ["d"], "head_types": [*found], "tail_types": [*found][:1]}
        [normalised] = normalise_relations([relation], None)
        assert {*normalised["head_types"], *normalised["tail_types"]} == {*found.values()}
        for tag in found:
            place: dict[str, Any] = {"start": 0, "end": 3, "type": tag}
            assert check_entity(place, TEXT, "here").type == word
            [row] = parse_line(
                json.dumps({"text": TEXT, "head": place, "tail": place, "relation": "r"}), "1", where="x:1"
            )
            assert row["head"]["type"] == word
            named = {"name": "Bob", "type": tag}
            [entity] = read_post({"text": TEXT, "entities": [named]}, None, where="the post").entities
            assert check_entity(entity, TEXT, "here").type == word


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("locatoin", "location"),
        ("Organiztion", "organization"),
        ("corporaton", "corporation"),
        ("B-DATE", None),
        ("O", None),
    ],
)
def test_a_type_that_nobody_knows_is_refused_everywhere_with_what_may_be_meant(given: str, meant: str | None) -> None:
    hint = f"{given!r}.*Did you mean {meant!r}" if meant else f"{given!r}.*Give one of .*'person'"
    with pytest.raises(ValueError, match=f"here: the entity type {hint}"):
        check_entity((0, 3, given), TEXT, "here")
    with pytest.raises(ValueError, match=f"Relation 'r': head_types holds {hint}"):
        normalise_relations([{"name": "r", "descriptions": ["d"], "head_types": given}], None)
    line = {
        "text": TEXT,
        "head": {"start": 0, "end": 3, "type": given},
        "tail": {"start": 8, "end": 11},
        "relation": "r",
    }
    with pytest.raises(ValueError, match=f"x:1: 'head': the entity type {hint}"):
        parse_line(json.dumps(line), "1", where="x:1")


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
    own = ["LOC", "animal", "city"]
    given = ("loc", "Animal", "GPE", "Location", "B-city", "building", "ORG")
    assert [word_of_type(word, own) for word in given] == ["LOC", "animal", "LOC", "LOC", "city", "LOC", None]
    assert word_of_type("location", ["city", "country"]) is None  # neither is as general
    assert word_of_type("Location", ["loc", "place"]) is None  # nobody can tell which
    assert tiny_processor(entity_types=own).type_entities([TEXT], [[(0, 3, "GPE")]])[0][0].type == "LOC"


def test_numbers_of_types_differ_and_depend_on_the_word_alone() -> None:
    words = [*{*ENTITY_TYPES, *TYPE_OF_TAG}, ""]
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
