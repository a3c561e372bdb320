"""A generated picture-text set in which the picture alone decides the relation, for the demo and for tests.

A sentence names one or two persons; the picture shows figures, a cue between two of them, and objects:

* text-text pairs: two named persons; a heart means `couple`, a ball `teammates`, a briefcase `colleagues`, crossed
  swords `rivals`; nothing, a tree or a house means `none`;
* text-object pairs: a named person and a boxed object; a car means `drives`, an apple `eats`, a guitar `plays`, a book
  `reads`; a cloud or a rock means `none`. A picture holds two or three objects, so only the box tells which is meant.

Each sentence comes with `PICTURES_PER_SENTENCE` pictures, all with the same boxes, and each of its pairs has
each relation of its pair kind exactly once. So everything but the pixels (text, spans, types, boxes, row order) says
nothing about the relation, and the best rule that does not look at the picture is right as often as `none` occurs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from roc.dataset_scripts.exporting.marker import check_output_dir
from roc.dataset_scripts.generating.common import (
    GRID,
    NAMES,
    PLACES,
    TIMES,
    box_in_cell,
    check_num_pictures,
    check_text_only,
    empty_scene,
    fill_template,
    run_generator,
    to_png,
    write_set,
)
from roc.dataset_scripts.generating.symbols import COLOURS, Box, Colour, shade
from roc.dataset_scripts.schema import Entity, Row, object_entity, text_entity

IMAGE_SIZE = 64  # pixels; an 8 x 8 grid of the 8-pixel patches of a tiny vision transformer
CELL = IMAGE_SIZE // GRID  # pixels; each thing has its own cell

NONE = "none"

# relation -> what may be seen for it; None is an empty place
CUES: dict[str, tuple[str | None, ...]] = {
    "couple": ("heart",),
    "teammates": ("ball",),
    "colleagues": ("briefcase",),
    "rivals": ("swords",),
    NONE: (None, None, "tree", "house"),
}
OBJECTS: dict[str, tuple[str, ...]] = {
    "drives": ("car",),
    "eats": ("apple",),
    "plays": ("guitar",),
    "reads": ("book",),
    NONE: ("cloud", "rock"),
}
DISTRACTORS = ("tree", "house")  # stand about in pictures of every relation

# Both pair kinds have as many relations: `none` is then 1/5 of either kind and of the whole.
PICTURES_PER_SENTENCE = len(CUES)

# Which pairs a sentence has, taken in turn. Half of the sentences have their one text-text pair only, because each of
# those brings one example a picture, and each with objects two or three.
SentenceKind = Literal["both", "text-text", "text-object"]
SENTENCE_KINDS: tuple[SentenceKind, ...] = ("both", "text-text", "text-object", "text-text")

SHIRTS: tuple[Colour, ...] = ((24, 150, 150), (60, 170, 90), (90, 190, 225), (225, 215, 80), (150, 190, 60))
TEMPLATES = {
    1: (
        "{first} near the {place} {time}.",
        "Seen {time} near the {place}: {first}",
        "Who else noticed {first} at the {place} {time}?",
        "This is {first} {time}, not far from the {place}.",
        "Picture of the day: {first}, {place}, {time}.",
        "RT @dailysnap: {first} by the {place} {time}",
        "Guess what {first} is up to {time} near the {place}!",
        "I took this of {first} at the {place} {time}",
    ),
    2: (
        "{first} and {second} near the {place} {time}.",
        "Seen {time} near the {place}: {first} and {second}",
        "Who else noticed {first} with {second} at the {place} {time}?",
        "This is {first} {time}, and that is {second}, not far from the {place}.",
        "Picture of the day: {first}, {second}, {place}, {time}.",
        "RT @dailysnap: {first}, {second} by the {place} {time}",
        "Guess what {first} and {second} are to each other, {place}, {time}!",
        "I took this of {first} and {second} at the {place} {time}",
    ),
}

DESCRIPTION = f"""
Generated sentences and drawn pictures in which the picture alone decides the relation; made for demos and tests, it
says nothing about performance on real posts. Names are first names at random; there are no photos and no real people.

- Two named persons: a heart between the two figures means `couple`, a ball `teammates`, a briefcase `colleagues`,
  crossed swords `rivals`; nothing, a tree or a house means `none`.
- A named person and a boxed object: a car means `drives`, an apple `eats`, a guitar `plays`, a book `reads`; a cloud or
  a rock means `none`. There are two or three objects in a picture, so only the box tells which is meant.

Each sentence comes with {PICTURES_PER_SENTENCE} pictures, with the same boxes, and each of its pairs has each relation
of its pair kind exactly once. So a rule that does not see the pixels is right on 1/{PICTURES_PER_SENTENCE} of the rows
at best, the share of `none`; the builder checks that on every split. Pictures are {IMAGE_SIZE} x {IMAGE_SIZE} PNG.
"""


_box_in_cell = partial(box_in_cell, side=CELL, width=(16, 20), height=(16, 20))  # sizes from and to, in pixels


@dataclass(frozen=True)
class _Pair:
    """One pair of a sentence, and what of it is seen in the sentence's pictures."""

    head: Entity
    tail: Entity
    relations: Sequence[str]  # one for each of the sentence's pictures
    symbols: Mapping[str, Sequence[str | None]]  # what may be seen for each relation
    cell: int  # where in the grid that is
    box: Box | None = None  # where exactly, in pixels, in all pictures; None to let each choose within the cell


@dataclass(frozen=True)
class _Sentence:
    """A sentence with its pairs in the order of the rows, and what all of its pictures have in common."""

    text: str
    pairs: Sequence[_Pair]
    figure_cells: Sequence[int]
    free_cells: Sequence[int]


def generate_rows(num_pictures: int, seed: int, *, split: str = "train") -> Iterator[Row]:
    """Generate the rows of one split; the rows of a picture follow each other and hold the same image bytes.

    Args:
        num_pictures: How many pictures; a multiple of `PICTURES_PER_SENTENCE`.
        seed: The same seed, number and split give the same rows, byte for byte.
        split: Names the random stream and begins the ids.

    Yields:
        Rows of `features.FEATURES`; `image` is `{"bytes": PNG bytes, "path": None}`.

    Raises:
        ValueError: If `num_pictures` is not a positive multiple of `PICTURES_PER_SENTENCE`.
    """
    check_num_pictures(num_pictures, split, pictures_per_sentence=PICTURES_PER_SENTENCE)
    return _rows(num_pictures, Random(f"{seed}/{split}"), split)


def _rows(num_pictures: int, rng: Random, split: str) -> Iterator[Row]:
    for number in range(num_pictures):
        turn, index = divmod(number, PICTURES_PER_SENTENCE)
        if index == 0:
            sentence = _plan_sentence(SENTENCE_KINDS[turn % len(SENTENCE_KINDS)], rng)
        image = {"bytes": _draw(sentence, index, rng=rng), "path": None}
        for position, pair in enumerate(sentence.pairs):
            yield {
                "id": f"{split}-{number}-{position}",
                "text": sentence.text,
                "image": image,
                "head": dict(pair.head),
                "tail": dict(pair.tail),
                "relation": pair.relations[index],
            }


def _plan_sentence(kind: SentenceKind, rng: Random) -> _Sentence:
    """Choose everything that the pictures of a sentence share, and the relation of each pair in each of them."""
    text, persons = _write(1 if kind == "text-object" else 2, rng)
    cells = rng.sample(range(GRID * GRID), GRID * GRID)
    pairs: list[_Pair] = []
    if kind == "text-object":
        figure_cells = [cells.pop()]
    else:
        row = rng.randrange(GRID)
        left, cue_cell, right = range(GRID * row, GRID * row + GRID)
        figure_cells = [left, right]
        cells = [cell for cell in cells if cell not in (left, cue_cell, right)]
        pairs.append(_text_pair(persons, cue_cell, rng))
    if kind != "text-text":
        object_cells = [cells.pop() for _ in range(rng.choice((2, 3)))]
        pairs += _object_pairs(persons, object_cells, rng)
    rng.shuffle(pairs)
    return _Sentence(text=text, pairs=pairs, figure_cells=figure_cells, free_cells=cells)


def _write(num_persons: int, rng: Random) -> tuple[str, list[Entity]]:
    """Fill in a template; returns the text and its persons."""
    words = {"place": rng.choice(PLACES), "time": rng.choice(TIMES)}
    persons = dict(zip(("first", "second"), rng.sample(NAMES, num_persons), strict=False))
    text, spans = fill_template(rng.choice(TEMPLATES[num_persons]), words | persons)
    return text, [text_entity(text, *span, entity_type="person") for field, span in spans.items() if field in persons]


def _text_pair(persons: Sequence[Entity], cell: int, rng: Random) -> _Pair:
    """Pair two persons, in either direction."""
    head, tail = rng.sample(persons, 2)
    return _Pair(head, tail, relations=rng.sample(list(CUES), len(CUES)), symbols=CUES, cell=cell)


def _object_pairs(persons: Sequence[Entity], cells: Sequence[int], rng: Random) -> list[_Pair]:
    """Pair each object with a person; the objects of one picture always differ in relation."""
    order = rng.sample(list(OBJECTS), len(OBJECTS))
    shifts = rng.sample(range(len(order)), len(cells))
    pairs = []
    for index, (cell, shift) in enumerate(zip(cells, shifts, strict=True)):
        box = _box_in_cell(cell, rng)
        tail = object_entity(f"[OBJ{index}]", [side / IMAGE_SIZE for side in box])
        # Rows of a Latin square: each object has each relation once, and no two the same one in the same picture.
        relations = order[shift:] + order[:shift]
        pairs.append(_Pair(rng.choice(persons), tail, relations=relations, symbols=OBJECTS, cell=cell, box=box))
    return pairs


def _draw(sentence: _Sentence, index: int, *, rng: Random) -> bytes:
    """Draw a sentence's picture number `index`; returns PNG bytes."""
    canvas = empty_scene(IMAGE_SIZE, rng)
    for cell, shirt in zip(sentence.figure_cells, rng.sample(SHIRTS, 2), strict=False):
        canvas.stamp("figure", _box_in_cell(cell, rng, width=(11, 14), height=(18, 21)), colour=shade(shirt, rng))
    for pair in sentence.pairs:
        symbol = rng.choice(pair.symbols[pair.relations[index]])
        box = pair.box or _box_in_cell(pair.cell, rng)
        if symbol is not None:
            canvas.stamp(symbol, box, colour=shade(COLOURS[symbol], rng))
    if rng.random() < 0.5:
        distractor, box = rng.choice(DISTRACTORS), _box_in_cell(rng.choice(sentence.free_cells), rng)
        canvas.stamp(distractor, box, colour=shade(COLOURS[distractor], rng))
    return to_png(canvas)


def build_synthetic(
    output_dir: str | Path, *, num_train: int = 3000, num_val: int = 600, num_test: int = 600, seed: int = 13
) -> dict[str, Any]:
    """Generate the set, check it, and write it as a folder of Parquet files with a card and a marker.

    `output_dir` is replaced only if it is such a dataset. The numbers of pictures are multiples of
    `PICTURES_PER_SENTENCE`; the same numbers and seed give the same rows.

    Returns:
        `output_dir`, `builder`, `seed` and, under `splits`, per split the counts of the folder's marker,
        `majority_share` and `text_only_accuracy`.

    Raises:
        ValueError: If a number of pictures is not a positive multiple of `PICTURES_PER_SENTENCE`.
        FileExistsError: If `output_dir` exists and is not such a folder.
    """
    check_output_dir(output_dir)
    numbers = {"train": num_train, "val": num_val, "test": num_test}
    # All numbers are checked before the first row is made.
    generators = {split: generate_rows(number, seed, split=split) for split, number in numbers.items()}
    rows = {split: list(generated) for split, generated in generators.items()}
    audit = {split: check_text_only(rows[split], split) for split in rows}
    summary = write_set(
        rows,
        output_dir,
        builder="synthetic",
        builder_version="1.0.0",
        title="Generated picture-text set for multimodal relation extraction",
        description=DESCRIPTION,
        options={f"num_{split}": number for split, number in numbers.items()} | {"seed": seed},
        split_counts={
            split: {
                "pictures": number,
                "text_text_pairs": sum(row["tail"]["bbox"] is None for row in rows[split]),
                "text_object_pairs": sum(row["tail"]["bbox"] is not None for row in rows[split]),
            }
            for split, number in numbers.items()
        },
    )
    return summary | {"splits": {split: {**summary["splits"][split], **audit[split]} for split in rows}}


def main(argv: Sequence[str] | None = None) -> int:
    """Generate the set with the given command line; returns the exit code."""
    return run_generator(
        build_synthetic,
        argv,
        builder="synthetic",
        about="Generate a picture-text set in which only the picture tells the relation, as Parquet.",
        pictures_per_sentence=PICTURES_PER_SENTENCE,
    )


if __name__ == "__main__":
    sys.exit(main())
