"""YAML and JSON that other people wrote: plain data, in which nothing is lost or hidden.

A file that would cost more than its size, or mean something else than it shows, is refused in one short line: aliases
(a few hundred bytes of them stand for gigabytes), tags, a key that is there twice, of which the last would win.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from roc.messages_roc import MAX_DEPTH, MAX_DIGITS, TOO_DEEP, on_one_line, parse_json, quote

STRING_TAG = "tag:yaml.org,2002:str"
# Of files that are read as a whole: YAML takes seconds a megabyte, and the largest raw file of a data set has 40 MB.
MAX_YAML_BYTES, MAX_JSON_BYTES = 2_000_000, 500_000_000


# libyaml is some ten times as fast, where PyYAML was built with it
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _PlainLoader(_SafeLoader):
    """Reads mappings with texts as keys, lists, texts, numbers, true, false, null and dates."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are no text, or are there twice."""
        seen = set()
        for key, _ in node.value:
            if key.tag != STRING_TAG:
                shown = quote(key.value) if isinstance(key, yaml.ScalarNode) else "with several parts"
                raise _at(key, f"the key {shown} is no text for YAML but {key.tag.rpartition(':')[2]}. Quote it.")
            if key.value in seen:
                raise _at(key, f"the key {quote(key.value)} is there twice.")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Refuse numbers of hundreds of digits."""
        if len(node.value) > MAX_DIGITS + 2:
            raise _at(node, f"a number has {len(node.value)} digits; at most {MAX_DIGITS} are read.")
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _check_events(text: str) -> None:
    """Refuse what stands for something else, or lies too deep, before anything is built of it."""
    depth = 0
    event: Any
    for event in yaml.parse(text, _SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _at(event, f"{quote(event.anchor)} is an anchor or alias (& or *). Write out what it stands for.")
        if getattr(event, "tag", None) not in (None, STRING_TAG):
            raise _at(event, f"the tag {quote(event.tag)} is not allowed. Leave it out.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _at(event, TOO_DEEP)


def _at(place: Any, problem: str) -> ValueError:
    return ValueError(f"line {place.start_mark.line + 1}: {problem}")


class _PlainDumper(yaml.SafeDumper):
    """Writes a value that is in several places in each of them: an alias would be refused when it is read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def format_yaml(content: Any, **options: Any) -> str:
    """Return plain data as YAML that `parse_yaml` reads, in their order; further options as for `yaml.dump`."""
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, **options)


def parse_yaml(text: str) -> Any:
    """Read YAML that a stranger wrote.

    Raises:
        ValueError: If it is no YAML, is nested too deeply, or has an alias, an anchor, a tag, a key twice in one
            mapping, a key that is no text, or a whole number of many digits. The message is one short line.
    """
    try:
        _check_events(text)
        return yaml.load(text, _PlainLoader)  # a safe one
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(on_one_line(str(error).replace('in "<unicode string>", ', "at "))) from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file as `parse_yaml` does; the message of its `ValueError` names the file."""
    return _read(path, parse_yaml, MAX_YAML_BYTES)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file as `parse_json` does; the message of its `ValueError` names the file."""
    return _read(path, parse_json, MAX_JSON_BYTES)


def read_text(path: str | os.PathLike[str], max_bytes: int = MAX_YAML_BYTES) -> str:
    """Read a text file; one that is not UTF-8 or has more than `max_bytes` is a `ValueError`."""
    if (size := Path(path).stat().st_size) > max_bytes:
        raise ValueError(f"it has {size:,} bytes; at most {max_bytes:,} are read.")
    return Path(path).read_text(encoding="utf-8")


def _read(path: str | os.PathLike[str], parse: Callable[[str], Any], max_bytes: int) -> Any:
    try:
        return parse(read_text(path, max_bytes))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {on_one_line(error)}") from error
