"""Reading raw files: lines with their numbers, pictures that must decode, checksums, token positions."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roc.messages_roc import on_one_line, parse_json, quote
from roc.processing_images_roc import DECODING_ERRORS, identify_image, open_image
from roc.processing_typing_roc import Span
from roc.support.reading import read_json


def check_picture(path: Path, where: str) -> None:
    """Check that a picture can be decoded to its end, and opened as the processor does: one frame, not too many pixels.

    Raises:
        ValueError: If it is no such picture; the message begins with `where` and names the file. A picture that states
            more pixels than `roc.processing_images_roc.MAX_PIXELS` is not decoded.
    """
    try:
        with identify_image(path.read_bytes(), path.name) as image:
            # Lets the JPEG decoder work at a fraction of the size; it still reads the whole file.
            image.draft("RGB", (64, 64))
            open_image(image, path.name)
    except DECODING_ERRORS as error:
        raise ValueError(
            f"{where}: the picture {path} cannot be decoded ({error}). Replace the file, or remove the row."
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number from 1, `file name:number` and text of each line of a UTF-8 file that is not blank.

    A file whose name ends in `.gz` is unpacked.

    Raises:
        ValueError: If a line is not UTF-8, or the file cannot be unpacked.
    """
    # Opened as bytes: text mode would also end lines at a lone carriage return, and could not name the broken line.
    number = 0
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                where = f"{path.name}:{number}"
                if text := _decode(line, where, is_first=number == 1):
                    yield number, where, text
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path.name}: cannot be unpacked after line {number} ({on_one_line(error, 100)}). Get the file anew."
            ) from error


def _decode(line: bytes, where: str, *, is_first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if is_first else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: the line is not UTF-8 ({error}). Save the file as UTF-8.") from error


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Parse a line that holds one JSON object.

    Raises:
        ValueError: If the line is not JSON.
        TypeError: If it is no object.
    """
    try:
        data = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where}: {error} The line is {quote(line, 80)}. Write one JSON object a line.") from error
    if not isinstance(data, dict):
        raise TypeError(f"{where}: a line must be a JSON object, got {quote(line, 80)}.")
    return data


def check_tokens(tokens: Any, where: str) -> None:
    """Raise a `TypeError` unless the tokens of a text are a list of strings that are not empty."""
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise TypeError(f"{where}: 'tokens' must be a list of strings that are not empty, got {quote(tokens)}.")


def find_files(folder: Path, names: Mapping[str, str]) -> dict[str, list[Path]]:
    """Find the file of each split by its name; splits whose file is not there are left out."""
    return {split: [folder / name] for split, name in names.items() if (folder / name).is_file()}


def read_list(path: Path, what: str) -> list[Any]:
    """Read a JSON file that holds a list; `ValueError` if it is none, which says `what` it lists."""
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of {what}, got {quote(content)}.")
    return content


def find_only_file(folder: Path, names: Sequence[str | Path], what: str) -> Path | None:
    """Find a file under one of several names relative to a folder; None if there is none.

    Raises:
        ValueError: If there are several that differ; the message says `what` the file is.
    """
    found = [folder / name for name in names if (folder / name).is_file()]
    if len({sha256_of_file(path) for path in found}) > 1:
        raise ValueError(f"Several files that differ could be {what}: {', '.join(map(str, found))}. Keep one of them.")
    return found[0] if found else None


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def token_offsets(tokens: Sequence[str]) -> list[Span]:
    """Return the half-open character span of each token in `" ".join(tokens)`."""
    spans, start = [], 0
    for token in tokens:
        spans.append((start, start + len(token)))
        start += len(token) + 1
    return spans
