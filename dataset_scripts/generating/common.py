"""What the generated picture-text sets have in common: words, places in the picture, checks, and how they are built."""

from __future__ import annotations

import argparse
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any

from roc.dataset_scripts.building.command_line import command_of
from roc.dataset_scripts.exporting.marker import Provenance
from roc.dataset_scripts.generating.symbols import Box, Canvas, Colour, shade
from roc.dataset_scripts.schema import Entity, Row
from roc.support.programs import run_program

GRID = 3  # each thing has its own cell of a 3 x 3 grid, so nothing overlaps

# How far above the majority share a rule that does not see the picture may be. By construction it is not above at all.
TEXT_ONLY_TOLERANCE = 0.005

SKIES: tuple[Colour, ...] = ((206, 226, 240), (240, 226, 206), (222, 216, 236), (214, 234, 220), (236, 222, 224))
GROUNDS: tuple[Colour, ...] = ((182, 208, 160), (212, 198, 164), (186, 196, 208), (204, 186, 190), (196, 206, 196))

_NAMES = """
    Ada Amir Anouk Arlo Beata Bela Bruno Carla Cem Chidi Clara Dana Darko Edda Elif Emil Esra Farah Felix Finn Gaia
    Goran Greta Hana Hugo Ida Ilan Ines Ivo Jana Jonas Jun Kaito Karim Kira Lale Lars Lena Linus Lubo Maja Malik Marta
    Milo Mira Nadia Nils Noor Olga Omar Orin Paula Pavel Petra Quinn Rafi Rosa Ruben Sami Selma Sina Tarek Thea Timo
    Ugo Ulla Vera Vito Wanda Wim Xenia Yara Yusuf Zelda Zoran Brixel Dovani Elowin Fenno Galtra Jorvik Kestra Lumo
    Marbin Nuvia Ostrel Pellan Quorra Sirvo Tavlin Vexley Wolmar Zintra"""
NAMES = tuple(_NAMES.split())
PLACES = ("fountain", "old bridge", "harbour", "town hall", "river", "north gate", "clock tower", "market square")
TIMES = ("today", "this morning", "yesterday", "last Sunday", "on Monday", "last week", "in spring", "on Friday")


def fill_template(template: str, words: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """Fill in the fields of a template, such as `{place}`, with words.

    Returns:
        The text, and the half-open character span of each field in it, in the order of the text.
    """
    text, spans = "", {}
    for literal, field, _, _ in Formatter().parse(template):
        text += literal
        if field is not None:
            spans[field] = (len(text), len(text) + len(words[field]))
            text += words[field]
    return text, spans


def box_in_cell(cell: int, rng: Random, *, side: int, width: tuple[int, int], height: tuple[int, int]) -> Box:
    """Choose a box of random size at a random place inside a cell of the grid, all in pixels.

    Args:
        cell: Number of the cell, row by row.
        rng: Source of randomness.
        side: Width and height of a cell.
        width: Smallest and largest width of the box.
        height: Smallest and largest height of the box.
    """
    row, column = divmod(cell, GRID)
    box_width, box_height = rng.randint(*width), rng.randint(*height)
    x0 = column * side + rng.randint(0, side - box_width)
    y0 = row * side + rng.randint(0, side - box_height)
    return x0, y0, x0 + box_width, y0 + box_height


def empty_scene(size: int, rng: Random) -> Canvas:
    """Draw a sky over a ground, `size` x `size` pixels."""
    background = shade(rng.choice(SKIES), rng), shade(rng.choice(GROUNDS), rng)
    return Canvas(size, background=background, horizon=rng.uniform(0.3, 0.8))


def to_png(canvas: Canvas) -> bytes:
    """Return the finished picture as the content of a PNG file."""
    file = io.BytesIO()
    canvas.finish().save(file, format="PNG")
    return file.getvalue()


def check_num_pictures(num_pictures: int, split: str, *, pictures_per_sentence: int) -> None:
    """Raise a `ValueError` unless each sentence of a split can have all of its pictures."""
    if num_pictures < 1 or num_pictures % pictures_per_sentence:
        nearest = pictures_per_sentence * max(1, round(num_pictures / pictures_per_sentence))
        raise ValueError(
            f"num_{split} must be a positive multiple of {pictures_per_sentence}, got {num_pictures}: each sentence "
            f"comes with {pictures_per_sentence} pictures, one for each relation. Give {nearest}."
        )


def write_set(
    rows: Mapping[str, Sequence[Row]],
    output_dir: str | Path,
    *,
    side_files: Mapping[str, str] | None = None,
    **about: Any,
) -> dict[str, Any]:
    """Write a generated set as a folder of Parquet files.

    Args:
        rows: Rows of the schema by split.
        output_dir: The folder to write. An existing one is replaced only if it is such a dataset.
        side_files: Content of further files by name.
        about: Fields of `Provenance`; the `options`, `seed` among them, are those of the command line.

    Returns:
        `output_dir`, `builder`, `seed`, and under `splits` per split the counts of the folder's marker.
    """
    from datasets import Dataset  # here, as the next two: it takes seconds to import

    from roc.dataset_scripts.exporting.folder import export_dataset
    from roc.dataset_scripts.features import FEATURES

    builder, options = about["builder"], about["options"]
    command = command_of(builder, {"output_dir": output_dir, **options})
    splits = {split: Dataset.from_list(list(own), features=FEATURES) for split, own in rows.items()}
    provenance = Provenance(license="apache-2.0", command=command, **about)
    marker = export_dataset(splits, output_dir, provenance=provenance, side_files=side_files)
    return {"output_dir": str(output_dir), "builder": builder, "seed": options["seed"], "splits": marker["splits"]}


def lookup_accuracy(contexts: Iterable[Hashable], relations: Sequence[str]) -> float:
    """Return the best accuracy, of 1, that a rule can have which sees only the context of each of these very rows."""
    relations_by_context: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for context, relation in zip(contexts, relations, strict=True):
        relations_by_context[context][relation] += 1
    return sum(max(counts.values()) for counts in relations_by_context.values()) / len(relations)


def check_text_only(rows: Sequence[Row], where: str) -> dict[str, float]:
    """Check that nothing but the pixels says anything about the relation.

    Compares the share of the most frequent relation with the best accuracy of a rule that looks up, knowing these very
    rows, everything else there is: text, spans, names, types, boxes, and a row's number among those of its picture.
    Any rule that sees less of it, such as the text or the pair kind alone, cannot be better.

    Args:
        rows: The rows of one split, in their order.
        where: What they are, put in front of the error.

    Returns:
        `majority_share` and `text_only_accuracy`, both of 1.

    Raises:
        ValueError: If the rule is better than the most frequent relation by more than `TEXT_ONLY_TOLERANCE`, or there
            are no rows.
    """
    if not rows:
        raise ValueError(f"{where}: there are no rows to check. Give at least one.")
    majority_share = max(Counter(row["relation"] for row in rows).values()) / len(rows)
    text_only_accuracy = lookup_accuracy(contexts_without_pixels(rows), [row["relation"] for row in rows])
    if text_only_accuracy > majority_share + TEXT_ONLY_TOLERANCE:
        raise ValueError(
            f"{where}: a rule that does not see the picture is right on {text_only_accuracy:.1%} of {len(rows)} rows, "
            f"but the most frequent relation has only {majority_share:.1%}: text, boxes or row order give the relation "
            "away. Give each pair of a sentence each relation equally often, with the same boxes."
        )
    return {"majority_share": majority_share, "text_only_accuracy": text_only_accuracy}


def contexts_without_pixels(rows: Sequence[Row]) -> Iterator[Hashable]:
    """Yield all that is known of each row without its pixels and its relation."""
    pictures = [(row["text"], row["image"]["bytes"]) for row in rows]
    num_rows, seen = Counter(pictures), Counter[tuple[str, bytes]]()
    for row, picture in zip(rows, pictures, strict=True):
        yield row["text"], _entity_key(row["head"]), _entity_key(row["tail"]), seen[picture], num_rows[picture]
        seen[picture] += 1


def _entity_key(entity: Entity) -> Hashable:
    return tuple(tuple(value) if isinstance(value, list) else value for value in entity.values())


def run_generator(
    build: Callable[..., dict[str, Any]],
    argv: Sequence[str] | None,
    *,
    builder: str,
    about: str,
    pictures_per_sentence: int,
) -> int:
    """Generate a set with the given command line and print what was written as one JSON line; returns the exit code.

    Args:
        build: Writes the set; its keyword arguments and their defaults are the options.
        argv: The arguments; None for those of the process.
        builder: The module's name.
        about: What it generates.
        pictures_per_sentence: The numbers of pictures are multiples of it.
    """
    parser = argparse.ArgumentParser(prog=f"python -m roc.dataset_scripts.{builder}", description=about)
    parser.add_argument("--output_dir", required=True, help="folder to write; an older dataset there is replaced")
    for name, default in (build.__kwdefaults__ or {}).items():
        what = f"pictures of the split {name.removeprefix('num_')}, a multiple of {pictures_per_sentence}"
        what = "the same seed gives the same rows" if name == "seed" else what
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    options = vars(parser.parse_args(argv))
    return run_program(lambda: build(**options))
