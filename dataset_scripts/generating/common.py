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

from roc.dataset_scripts.exporting.provenance import Provenance
from roc.dataset_scripts.generating.symbols import Box, Canvas, Colour, shade
from roc.dataset_scripts.schema import SPLITS, Entity, Row
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
    """Fill in a template.

    Args:
        template: Text with fields such as `{place}`.
        words: What to put for each field.

    Returns:
        The text, and for each field its half-open character span in it, in the order of the text.
    """
    text, spans = "", {}
    for literal, field, _, _ in Formatter().parse(template):
        text += literal
        if field is not None:
            spans[field] = (len(text), len(text) + len(words[field]))
            text += words[field]
    return text, spans


def box_in_cell(cell: int, rng: Random, *, side: int, width: tuple[int, int], height: tuple[int, int]) -> Box:
    """Choose a box of random size at a random place inside a cell of the grid.

    Args:
        cell: Number of the cell, row by row.
        rng: Source of randomness.
        side: Width and height of a cell in pixels.
        width: Smallest and largest width of the box in pixels.
        height: Smallest and largest height of the box in pixels.

    Returns:
        The box in pixels.
    """
    row, column = divmod(cell, GRID)
    box_width, box_height = rng.randint(*width), rng.randint(*height)
    x0 = column * side + rng.randint(0, side - box_width)
    y0 = row * side + rng.randint(0, side - box_height)
    return x0, y0, x0 + box_width, y0 + box_height


def empty_scene(size: int, rng: Random) -> Canvas:
    """A sky over a ground, `size` x `size` pixels."""
    background = shade(rng.choice(SKIES), rng), shade(rng.choice(GROUNDS), rng)
    return Canvas(size, background=background, horizon=rng.uniform(0.3, 0.8))


def to_png(canvas: Canvas) -> bytes:
    """The finished picture as the content of a PNG file."""
    file = io.BytesIO()
    canvas.finish().save(file, format="PNG")
    return file.getvalue()


def check_num_pictures(num_pictures: int, where: str, *, pictures_per_sentence: int) -> None:
    """Check that each sentence can have all of its pictures.

    Args:
        num_pictures: How many pictures are asked for.
        where: Put in front of the error.
        pictures_per_sentence: Of which it must be a multiple.

    Raises:
        ValueError: If it is not a positive multiple.
    """
    if num_pictures < 1 or num_pictures % pictures_per_sentence:
        nearest = pictures_per_sentence * max(1, round(num_pictures / pictures_per_sentence))
        raise ValueError(
            f"{where} must be a positive multiple of {pictures_per_sentence}, got {num_pictures}: each sentence comes "
            f"with {pictures_per_sentence} pictures, one for each relation. Give {nearest}."
        )


def numbers_of_pictures(*numbers: int, pictures_per_sentence: int) -> dict[str, int]:
    """How many pictures each split is to have.

    Args:
        numbers: Of `train`, `val` and `test`.
        pictures_per_sentence: See `check_num_pictures`.

    Raises:
        ValueError: As `check_num_pictures`.
    """
    by_split = dict(zip(SPLITS, numbers, strict=True))
    for split, number in by_split.items():
        check_num_pictures(number, f"num_{split}", pictures_per_sentence=pictures_per_sentence)
    return by_split


def write_set(
    rows: Mapping[str, Sequence[Row]],
    output_dir: str | Path,
    *,
    seed: int,
    provenance: Provenance,
    side_files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a generated set as a folder of Parquet files.

    Args:
        rows: Rows of the schema by split.
        output_dir: See `export_dataset`.
        seed: What they were generated with.
        provenance: See `export_dataset`.
        side_files: See `export_dataset`.

    Returns:
        `output_dir`, `builder`, `seed`, and under `splits` per split the counts of the folder's marker.

    Raises:
        FileExistsError: If `output_dir` exists and is not such a folder.
    """
    from datasets import Dataset  # here, as the next two: it takes seconds to import

    from roc.dataset_scripts.exporting.folder import export_dataset
    from roc.dataset_scripts.features import FEATURES

    splits = {split: Dataset.from_list(list(own), features=FEATURES) for split, own in rows.items()}
    marker = export_dataset(splits, output_dir, provenance=provenance, side_files=side_files)
    summary = {"output_dir": str(output_dir), "builder": marker["builder"], "seed": seed}
    return summary | {"splits": marker["splits"]}


def lookup_accuracy(contexts: Iterable[Hashable], relations: Sequence[str]) -> float:
    """The best accuracy, of 1, of a rule that sees only the context of each row, knowing these very rows."""
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
        ValueError: If the rule is right more often than the most frequent relation occurs, by more than
            `TEXT_ONLY_TOLERANCE`, or there are no rows.
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
    """All that is known of each row without its pixels and its relation."""
    pictures = [(row["text"], row["image"]["bytes"]) for row in rows]
    num_rows, seen = Counter(pictures), Counter[tuple[str, bytes]]()
    for row, picture in zip(rows, pictures, strict=True):
        yield row["text"], _entity_key(row["head"]), _entity_key(row["tail"]), seen[picture], num_rows[picture]
        seen[picture] += 1


def _entity_key(entity: Entity) -> Hashable:
    return tuple(tuple(value) if isinstance(value, list) else value for value in entity.values())


def command_of(builder: str, output_dir: str | Path, options: Mapping[str, Any]) -> str:
    """The command that generates a set again, with the folder's name only: a card is published, paths are private."""
    words = [f"--{name} {value}" for name, value in options.items()]
    return f"python -m roc.dataset_scripts.{builder} --output_dir {Path(output_dir).name} {' '.join(words)}"


def run_generator(
    build: Callable[..., dict[str, Any]],
    argv: Sequence[str] | None,
    *,
    builder: str,
    about: str,
    pictures_per_sentence: int,
) -> int:
    """Command line of a generator: generate the set and print what was written as one JSON line.

    Args:
        build: Writes the set; its keyword arguments and their defaults are the options.
        argv: The arguments; None for those of the process.
        builder: The module's name.
        about: What it generates.
        pictures_per_sentence: Of which the numbers of pictures are multiples.

    Returns:
        The exit code, as `run_program`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m roc.dataset_scripts.{builder}", description=about)
    parser.add_argument("--output_dir", required=True, help="folder to write; an older dataset there is replaced")
    for name, default in (build.__kwdefaults__ or {}).items():
        split = name.removeprefix("num_")
        what = f"pictures of the split {split}, a multiple of {pictures_per_sentence}"
        what = "the same seed gives the same rows" if name == "seed" else what
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    options = vars(parser.parse_args(argv))
    return run_program(lambda: build(**options))
