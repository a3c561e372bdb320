"""Relations as callers give them: names, descriptions, and what head and tail are; checked at the border."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .messages_roc import check_unicode, did_you_mean, quote
from .processing_typing_roc import ENTITY_TYPES, type_hint, word_of_type

PHRASES = ("head", "tail")  # what the head is, and what the tail is, in words
OF_ENTITIES = (*PHRASES, "head_types", "tail_types")  # all that a relation says of its entities
RELATION_KEYS = ("name", "descriptions", *OF_ENTITIES)


def normalise_relations(
    relations: Sequence[Mapping[str, Any]], none_relation: str | None, entity_types: Sequence[str] = ENTITY_TYPES
) -> list[dict[str, Any]]:
    """Check relations and bring them into one form: plain dictionaries, in the given order.

    They have all keys but `head` and `tail`, which stay away where they are not given.

    Args:
        relations: Mappings of `name`, `descriptions`, and optionally `head`, `tail`, `head_types`, `tail_types`.
        none_relation: Name of the relation that means "none of these", or None.
        entity_types: The types that `head_types` and `tail_types` may name, by their words or by a tag such as PER.

    Raises:
        ValueError: If a name is missing, empty or given twice; a relation has no description or an empty one; `head` or
            `tail` is no text; a key or type is unknown; or `none_relation` is not among the names.
    """
    if not isinstance(relations, Sequence) or isinstance(relations, str):
        raise ValueError(f"relations is a list of mappings with the keys {RELATION_KEYS}; given {quote(relations)}.")
    if none_relation is not None and not isinstance(none_relation, str):
        given = quote(none_relation)
        raise ValueError(f"none_relation must be a name or null; given {given}. In YAML, quote the name.")
    normalised = [_normalise_relation(relation, entity_types) for relation in relations]
    names = [relation["name"] for relation in normalised]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        given = quote(repeated)
        raise ValueError(f"Relation names must differ, but {given} appear more than once. Rename or merge them.")
    if normalised and none_relation is not None and none_relation not in names:
        raise ValueError(
            f"none_relation={quote(none_relation)} is not among the relations {quote(names)}."
            f"{did_you_mean(none_relation, names)} Name one of them, or set none_relation to null."
        )
    return normalised


def _normalise_relation(relation: Mapping[str, Any], entity_types: Sequence[str]) -> dict[str, Any]:
    if not isinstance(relation, Mapping):
        raise ValueError(f"A relation is a mapping with the keys {RELATION_KEYS}; given {quote(relation)}.")
    for key in relation:
        if key not in RELATION_KEYS:
            raise ValueError(
                f"Relation {quote(relation.get('name'))} has an unknown key {quote(key)}; allowed are {RELATION_KEYS}."
                + did_you_mean(key, RELATION_KEYS)
            )
    name = relation.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"A relation needs a non-empty name; given {quote(name)} in {quote(dict(relation))}. In YAML, a name that "
            "it takes for something else, such as no, null or 1, needs quotes."
        )
    check_unicode(name, "A relation's name")
    return {
        "name": name,
        "descriptions": _normalise_descriptions(name, relation.get("descriptions")),
        **{key: _normalise_entity(name, key, relation[key]) for key in PHRASES if relation.get(key) is not None},
        "head_types": _normalise_types(name, "head_types", relation.get("head_types"), entity_types),
        "tail_types": _normalise_types(name, "tail_types", relation.get("tail_types"), entity_types),
    }


def _normalise_descriptions(name: str, descriptions: Any) -> list[str]:
    if isinstance(descriptions, str):
        descriptions = [descriptions]
    texts = descriptions if isinstance(descriptions, (list, tuple)) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"Relation {quote(name)} needs at least one description and no empty one; given {quote(descriptions)}. "
            "Write one sentence that says what holds between the head and the tail entity. "
            "In YAML, put a number or a single word in quotes."
        )
    for text in texts:
        check_unicode(text, f"A description of the relation {quote(name)}")
    return [text.strip() for text in texts]


def _normalise_entity(name: str, key: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"Relation {quote(name)}: {key} says in a few words what the {key} is, such as 'a film or series'; given "
            f"{quote(text)}. Leave it out where nothing is to be said."
        )
    check_unicode(text, f"{key} of the relation {quote(name)}")
    return text.strip()


def _normalise_types(name: str, key: str, types: Any, entity_types: Sequence[str]) -> list[str]:
    types = [types] if isinstance(types, str) else [] if types is None else types
    if not isinstance(types, (list, tuple)):
        raise ValueError(f"Relation {quote(name)}: {key} is a list of entity types; given {quote(types)}.")
    words = [word_of_type(str(entity_type), entity_types) for entity_type in types]
    if None in words:
        unknown = str(types[words.index(None)])
        raise ValueError(
            f"Relation {quote(name)}: {key} holds {quote(unknown)}, which is none of the configuration's "
            f"`entity_types`.{type_hint(unknown, entity_types)}"
        )
    return [word for word in words if word]
