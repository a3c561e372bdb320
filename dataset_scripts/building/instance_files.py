"""What the raw files of MNRE and MORE share: a line is one pair, with tokens, entities, the picture's name and a label.

Only the values of the known keys are read. How a line is written (the order of its keys, lists or tuples, quotes) and
other keys never reach a row: they may differ between lines that were annotated and lines that were added as negatives.
"""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.raw_files import read_lines, sha256_of_file, token_offsets
from roc.dataset_scripts.schema import Entity, Row, text_entity
from roc.processing_entities_roc import check_span

logger = logging.getLogger("roc.dataset_scripts")

Instance = dict[str, Any]

KEYS = ("token", "h", "t", "img_id", "relation")

NAMES_DIFFER = "entity names are not the tokens at their position"


def read_instance_lines(path: Path) -> Iterator[tuple[int, str, Instance]]:
    """Read the instances of a raw file; their entities are left to the caller, but for the head's span.

    Args:
        path: The file; a line is a Python literal or JSON.

    Yields:
        Line number from 1, `file name:line number`, and the instance with the keys of `KEYS`.

    Raises:
        ValueError: If a line is malformed; the message names file and line.
        TypeError: If an offset is not an integer.
    """
    for number, where, line in read_lines(path):
        instance = _parse(line, where)
        _check_instance(instance, where)
        check_text_entity(instance, "h", where)
        yield number, where, instance


def check_text_entity(instance: Instance, key: str, where: str) -> None:
    """Check an entity that is given by its tokens.

    Args:
        instance: An instance whose tokens are checked.
        key: `"h"` or `"t"`.
        where: Put in front of every error.

    Raises:
        ValueError: If it lacks `name` or `pos`, or `pos` is not a half-open span of the tokens.
        TypeError: If an offset is not an integer.
    """
    raw, where = instance[key], f"{where}: {key!r}"
    if not isinstance(raw, dict) or not {"name", "pos"} <= set(raw):
        raise ValueError(f"{where} must be a dict with the keys 'name' and 'pos', got {raw!r}.")
    if not isinstance(raw["pos"], (list, tuple)) or len(raw["pos"]) != 2:
        raise ValueError(f"{where}: 'pos' must be [first token, one past the last token], got {raw['pos']!r}.")
    check_span(*raw["pos"], len(instance["token"]), where, unit="token")


def row_of_text_and_head(instance: Instance, row_id: str) -> Row:
    """Convert all but the tail of a checked instance.

    Args:
        instance: The instance.
        row_id: Id for the row.

    Returns:
        A row of the schema without its tail; `image` is the file name of the picture.
    """
    return {
        "id": row_id,
        "text": " ".join(instance["token"]),
        "image": instance["img_id"],
        "head": entity_of_tokens(instance, "h"),
        "relation": instance["relation"],
    }


def entity_of_tokens(instance: Instance, key: str) -> Entity:
    """The text entity that half-open token offsets give, in characters of the tokens joined by single spaces."""
    offsets = token_offsets(instance["token"])
    first, end = instance[key]["pos"]
    return text_entity(" ".join(instance["token"]), offsets[first][0], offsets[end - 1][1])


def other_names(instances: Iterable[tuple[int, str, Instance]], keys: Sequence[str]) -> list[str]:
    """The text entities whose stated name is not their span's tokens; the span is what the schema keeps.

    Args:
        instances: As `read_instance_lines` yields them.
        keys: Which entities are in the text: of `"h"` and `"t"`.

    Returns:
        For each of them, where it is and what differs.
    """
    others = []
    for _, where, instance in instances:
        for key in keys:
            tokens = instance["token"][slice(*instance[key]["pos"])]
            if instance[key]["name"] not in (" ".join(tokens), tokens):
                others.append(f"{where}: {instance[key]['name']!r} for the tokens {' '.join(tokens)!r}")
    return others


def warn_of_others(others: Sequence[str], split: str, *, what: str, kept: str) -> None:
    """Say how many stated values differ from those that are kept, and which is the first.

    Args:
        others: Where they are and what differs.
        split: Their split.
        what: What is wrong with them.
        kept: What is kept instead.
    """
    if others:
        logger.warning("Split %s: %d %s (%s); %s.", split, len(others), what, others[0], kept)


def picture_folders(data_dir: Path, folders: Sequence[str], split: str) -> list[Path]:
    """The folders to look for pictures in: those that exist, or all, for the error message, if none does."""
    named = [data_dir / folder.format(split=split) for folder in folders]
    return [folder for folder in named if folder.is_dir()] or named


def warn_unless_official(
    path: Path,
    split: str,
    *,
    title: str,
    num_rows: int,
    official_rows: Mapping[str, int],
    official_sha256: Mapping[str, str] | None = None,
) -> None:
    """Warn where a raw file is not the published one.

    Args:
        path: The file.
        split: Its split.
        title: What the published data is called.
        num_rows: How many instances the file has.
        official_rows: How many the published files have, by split.
        official_sha256: Their checksums, as far as they are known.
    """
    official = (official_sha256 or {}).get(split)
    is_changed = official is not None and sha256_of_file(path) != official
    if num_rows != official_rows[split] or is_changed:
        logger.warning(
            "%s is not the official %s file of %s: %d instances (official: %d)%s. Figures on it do not compare with "
            "published ones.",
            *(path, split, title, num_rows, official_rows[split], ", other sha256" if is_changed else ""),
        )


def _parse(line: str, where: str) -> Any:
    # JSON first: Python reads a JSON string too, but its "\/" and "\ud83d\ude00" as other characters.
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: the line is not a Python literal ({error}): {line[:80]!r}...") from error


def _check_instance(instance: Any, where: str) -> None:
    if not isinstance(instance, dict) or not set(KEYS) <= set(instance):
        keys = list(instance) if isinstance(instance, dict) else type(instance).__name__
        raise ValueError(f"{where}: a line must be a dict with the keys {list(KEYS)}, got {keys}.")
    tokens = instance["token"]
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise ValueError(f"{where}: 'token' must be a list of strings that are not empty, got {tokens!r}.")
    if not isinstance(instance["relation"], str) or not instance["relation"].strip():
        raise ValueError(f"{where}: 'relation' must be a string that is not empty, got {instance['relation']!r}.")
    image = instance["img_id"]
    if not isinstance(image, str) or not image or Path(image).name != image:
        raise ValueError(f"{where}: 'img_id' must be the plain file name of a picture, got {image!r}.")
