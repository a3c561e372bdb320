"""Side inputs: what else is handed out with the rows of a split, such as crops, captions or objects of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from roc.dataset_scripts.auditing.rows import AuditedRow
from roc.messages_roc import quote
from roc.support.files import load_plain_pickle
from roc.support.reading import read_json


def read_side_inputs(path: str | Path, rows: Sequence[AuditedRow]) -> list[Sized]:
    """Read the side inputs of the rows of one split.

    Args:
        path: A mapping as JSON (`.json`), or as `torch.save` writes it (any other ending). A key is the number of a
            row, from 0 as in the split's file, or a row's id, or the file name of its picture. A value is a list, or
            anything else with a length.
        rows: All rows of the split, in their order.

    Returns:
        The side inputs of each row; an empty list for a row that has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything else, or a key that belongs to no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give side inputs as `--side_inputs SPLIT=FILE`.")
    content = read_json(path) if path.suffix.lower() == ".json" else load_plain_pickle(path)
    _check_mapping(content, path)
    numbers = [str(row.index) for row in rows]
    keys_of_rows = {
        "numbers": numbers,
        "ids": [row.row_id for row in rows],
        "pictures": [row.picture_name or "" for row in rows],
    }
    by_key = {str(key): value for key, value in content.items()}
    for keys in keys_of_rows.values():
        if by_key.keys() <= set(keys):
            found = [by_key.get(key) for key in keys]
            return [[] if value is None else value for value in found]
    unknown = next(key for key in by_key if key not in numbers)
    raise ValueError(
        f"{path} has the key {quote(unknown)}, but the {len(rows)} rows of the split have the numbers 0 to "
        f"{len(rows) - 1}, ids such as {quote(rows[0].row_id)} and pictures such as {quote(rows[0].picture_name)}. "
        "Give the file of the same split."
    )


def names_of(side_inputs: Sized) -> list[str]:
    """Return the file names among the side inputs of a row: the texts of a list, or the keys of a mapping."""
    return [name for name in side_inputs if isinstance(name, str)] if isinstance(side_inputs, list | dict) else []


def _check_mapping(content: Any, path: Path) -> None:
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} must hold a mapping of rows to their side inputs, got {quote(content)}.")
    for key, value in content.items():
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise ValueError(f"{path}: a key must be the number of a row, its id or its picture, got {quote(key)}.")
        if value is not None and not _has_length(value):
            raise ValueError(
                f"{path}: the side inputs of {quote(key)} must be a list, or something else with a length, got "
                f"{quote(value)}."
            )


def _has_length(value: Any) -> bool:
    try:
        return len(value) >= 0
    except TypeError:  # a number; a tensor without dimensions
        return False
