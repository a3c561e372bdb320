"""Reading raw files: lines with their numbers, plain pickles, pictures that must decode, checksums, token positions."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roc.processing_images_roc import DECODING_ERRORS, identify_image, is_animated, to_rgb
from roc.processing_typing_roc import Span


def check_picture(path: Path, where: str) -> None:
    """Check that a picture can be decoded to its end, has one frame and not too many pixels.

    Raises:
        ValueError: If it is no such picture; the message begins with `where` and names the file. A picture that states
            more pixels than `roc.processing_images_roc.MAX_PIXELS` is not decoded.
    """
    try:
        with identify_image(path.read_bytes(), path.name) as image:
            if is_animated(image):
                raise ValueError("it has several frames")
            # Lets the JPEG decoder work at a fraction of the size; it still reads the whole file.
            image.draft("RGB", (64, 64))
            image.load()
            to_rgb(image)
    except DECODING_ERRORS as error:
        raise ValueError(
            f"{where}: the picture {path} cannot be decoded ({error}). Replace the file, or remove the row."
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number from 1, `file name:number` and text of each line of a UTF-8 file that is not blank.

    Raises:
        ValueError: If a line is not UTF-8.
    """
    # Opened as bytes: text mode would also end lines at a lone carriage return, and could not name the broken line.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: the line is not UTF-8 ({error}). Save the file as UTF-8.") from error
            if text:
                yield number, where, text


def read_json(path: Path) -> Any:
    """Read a JSON file; a `ValueError` names the file if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{path}: not a JSON file ({error}).") from error


def check_tokens(tokens: Any, where: str) -> None:
    """Raise a `TypeError` unless the tokens of a text are a list of strings that are not empty."""
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise TypeError(f"{where}: 'tokens' must be a list of strings that are not empty, got {tokens!r}.")


def find_only_file(folder: Path, names: Sequence[str | Path], what: str) -> Path | None:
    """Find a file under one of several names relative to a folder; None if there is none.

    Raises:
        ValueError: If there are several that differ; the message says `what` the file is.
    """
    found = [folder / name for name in names if (folder / name).is_file()]
    if len({sha256_of_file(path) for path in found}) > 1:
        raise ValueError(f"Several files that differ could be {what}: {', '.join(map(str, found))}. Keep one of them.")
    return found[0] if found else None


def load_plain_pickle(path: Path) -> Any:
    """Read what `torch.save` wrote, as plain data: a pickle from elsewhere may hold numbers and text, never code.

    Raises:
        ValueError: If it holds anything else, is cut short or is no such file; the message names the file.
    """
    import torch  # here: it takes seconds to import, and most sources need none of it

    broken = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*broken, struct.error) as error:
        raise ValueError(f"{path} cannot be read as plain data: {repr(error)[:200]}") from error


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
