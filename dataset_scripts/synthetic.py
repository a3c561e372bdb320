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

import argparse
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any, Literal

from datasets import Dataset

from roc.dataset_scripts.export import Provenance, check_output_dir, export_dataset
from roc.dataset_scripts.schema import FEATURES, Entity, Row, object_entity, text_entity
from roc.dataset_scripts.symbols import COLOURS, Box, Canvas, Colour, shade

IMAGE_SIZE = 64  # pixels; an 8 x 8 grid of the 8-pixel patches of a tiny vision transformer
GRID = 3  # each thing has its own cell of a 3 x 3 grid, so nothing overlaps
CELL = IMAGE_SIZE // GRID  # pixels

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

# How far above the majority share a rule that does not see the picture may be. By construction it is not above at all.
TEXT_ONLY_TOLERANCE = 0.005

SHIRTS: tuple[Colour, ...] = ((24, 150, 150), (60, 170, 90), (90, 190, 225), (225, 215, 80), (150, 190, 60))
SKIES: tuple[Colour, ...] = ((206, 226, 240), (240, 226, 206), (222, 216, 236), (214, 234, 220), (236, 222, 224))
GROUNDS: tuple[Colour, ...] = ((182, 208, 160), (212, 198, 164), (186, 196, 208), (204, 186, 190), (196, 206, 196))

NAMES = tuple(
    """Ada Amir Anouk Arlo Beata Bela Bruno Carla Cem Chidi Clara Dana Darko Edda Elif Emil Esra Farah Felix Finn Gaia
    Goran Greta Hana Hugo Ida Ilan Ines Ivo Jana Jonas Jun Kaito Karim Kira Lale Lars Lena Linus Lubo Maja Malik Marta
    Milo Mira Nadia Nils Noor Olga Omar Orin Paula Pavel Petra Quinn Rafi Rosa Ruben Sami Selma Sina Tarek Thea Timo
    Ugo Ulla Vera Vito Wanda Wim Xenia Yara Yusuf Zelda Zoran Brixel Dovani Elowin Fenno Galtra Jorvik Kestra Lumo
    Marbin Nuvia Ostrel Pellan Quorra Sirvo Tavlin Vexley Wolmar Zintra""".split()  # noqa: SIM905 (a line for each name would be long)
)
PLACES = ("fountain", "old bridge", "harbour", "town hall", "river", "north gate", "clock tower", "market square")
TIMES = ("today", "this morning", "yesterday", "last Sunday", "on Monday", "last week", "in spring", "on Friday")
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


@dataclass(frozen=True)
class _Pair:
    """One pair of a sentence, and what of it is seen in the sentence's pictures.

    Args:
        head: A person.
        tail: A person or an object.
        relations: Its relation in each of the sentence's pictures.
        symbols: What may be seen for each relation.
        cell: Where in the grid that is.
        box: Where exactly, in pixels, in all pictures; None to let each picture choose within the cell.
    """

    head: Entity
    tail: Entity
    relations: Sequence[str]
    symbols: Mapping[str, Sequence[str | None]]
    cell: int
    box: Box | None = None


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
        Rows of `schema.FEATURES`; `image` is `{"bytes": PNG bytes, "path": None}`.

    Raises:
        ValueError: If `num_pictures` is not a positive multiple of `PICTURES_PER_SENTENCE`.
    """
    _check_num_pictures(num_pictures, f"num_pictures of {split!r}")
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


def _check_num_pictures(num_pictures: int, where: str) -> None:
    if num_pictures < 1 or num_pictures % PICTURES_PER_SENTENCE:
        nearest = PICTURES_PER_SENTENCE * max(1, round(num_pictures / PICTURES_PER_SENTENCE))
        raise ValueError(
            f"{where} must be a positive multiple of {PICTURES_PER_SENTENCE}, got {num_pictures}: each sentence comes "
            f"with {PICTURES_PER_SENTENCE} pictures, one for each relation. Give {nearest}."
        )


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
    text, spans = "", []
    for literal, field, _, _ in Formatter().parse(rng.choice(TEMPLATES[num_persons])):
        text += literal
        if field in persons:
            spans.append((len(text), len(text) + len(persons[field])))
        if field is not None:
            text += persons.get(field) or words[field]
    return text, [text_entity(text, start, end, entity_type="person") for start, end in spans]


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
    canvas = Canvas(
        IMAGE_SIZE,
        background=(shade(rng.choice(SKIES), rng), shade(rng.choice(GROUNDS), rng)),
        horizon=rng.uniform(0.3, 0.8),
    )
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
    file = io.BytesIO()
    canvas.finish().save(file, format="PNG")
    return file.getvalue()


def _box_in_cell(
    cell: int, rng: Random, *, width: tuple[int, int] = (16, 20), height: tuple[int, int] = (16, 20)
) -> Box:
    """Choose a box of random size at a random place inside a cell of the grid; sizes are (smallest, largest) pixels."""
    row, column = divmod(cell, GRID)
    box_width, box_height = rng.randint(*width), rng.randint(*height)
    x0 = column * CELL + rng.randint(0, CELL - box_width)
    y0 = row * CELL + rng.randint(0, CELL - box_height)
    return x0, y0, x0 + box_width, y0 + box_height


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
    relations_by_context: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for context, row in zip(_contexts(rows), rows, strict=True):
        relations_by_context[context][row["relation"]] += 1
    text_only_accuracy = sum(max(counts.values()) for counts in relations_by_context.values()) / len(rows)
    if text_only_accuracy > majority_share + TEXT_ONLY_TOLERANCE:
        raise ValueError(
            f"{where}: a rule that does not see the picture is right on {text_only_accuracy:.1%} of {len(rows)} rows, "
            f"but the most frequent relation has only {majority_share:.1%}: text, boxes or row order give the relation "
            "away. Give each pair of a sentence each relation equally often, with the same boxes."
        )
    return {"majority_share": majority_share, "text_only_accuracy": text_only_accuracy}


def _contexts(rows: Sequence[Row]) -> Iterator[Hashable]:
    """All that is known of each row without its pixels and its relation."""
    pictures = [(row["text"], row["image"]["bytes"]) for row in rows]
    num_rows, seen = Counter(pictures), Counter[tuple[str, bytes]]()
    for row, picture in zip(rows, pictures, strict=True):
        yield row["text"], _entity_key(row["head"]), _entity_key(row["tail"]), seen[picture], num_rows[picture]
        seen[picture] += 1


def _entity_key(entity: Entity) -> Hashable:
    return tuple(tuple(value) if isinstance(value, list) else value for value in entity.values())


def build_synthetic(
    output_dir: str | Path, *, num_train: int = 3000, num_val: int = 600, num_test: int = 600, seed: int = 13
) -> dict[str, Any]:
    """Generate the set, check it, and write it as a folder of Parquet files with a card and a marker.

    Args:
        output_dir: The folder to write. An existing one is replaced only if it is such a dataset.
        num_train: Pictures of the split `train`; a multiple of `PICTURES_PER_SENTENCE`, as are the next two.
        num_val: Pictures of the split `val`.
        num_test: Pictures of the split `test`.
        seed: The same seed and numbers give the same rows.

    Returns:
        `output_dir`, `builder`, `seed` and, under `splits`, per split the counts of the folder's marker,
        `majority_share` and `text_only_accuracy`.

    Raises:
        ValueError: If a number of pictures is not a positive multiple of `PICTURES_PER_SENTENCE`.
        FileExistsError: If `output_dir` exists and is not such a folder.
    """
    check_output_dir(output_dir)
    numbers = {"train": num_train, "val": num_val, "test": num_test}
    for split, number in numbers.items():
        _check_num_pictures(number, f"num_{split}")
    rows = {split: list(generate_rows(number, seed, split=split)) for split, number in numbers.items()}
    audit = {split: check_text_only(rows[split], split) for split in rows}
    marker = export_dataset(
        {split: Dataset.from_list(rows[split], features=FEATURES) for split in rows},
        output_dir,
        provenance=_provenance(rows, numbers, seed=seed, output_dir=output_dir),
    )
    splits = {split: {**marker["splits"][split], **audit[split]} for split in rows}
    return {"output_dir": str(output_dir), "builder": marker["builder"], "seed": seed, "splits": splits}


def _provenance(
    rows: Mapping[str, Sequence[Row]], numbers: Mapping[str, int], *, seed: int, output_dir: str | Path
) -> Provenance:
    options = {f"num_{split}": number for split, number in numbers.items()} | {"seed": seed}
    words = [f"--{name} {value}" for name, value in options.items()]
    return Provenance(
        builder="synthetic",
        builder_version="1.0.0",
        title="Generated picture-text set for multimodal relation extraction",
        description=DESCRIPTION,
        license="apache-2.0",
        options=options,
        split_counts={
            split: {
                "pictures": number,
                "text_text_pairs": sum(row["tail"]["bbox"] is None for row in rows[split]),
                "text_object_pairs": sum(row["tail"]["bbox"] is not None for row in rows[split]),
            }
            for split, number in numbers.items()
        },
        # The folder's name only: a card is published, and paths of this machine are nobody's business.
        command=f"python -m roc.dataset_scripts.synthetic --output_dir {Path(output_dir).name} {' '.join(words)}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: generate the set and print what was written as one JSON line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        Exit code: 0 for success, 1 for a failure (2, for wrong usage, is raised by argparse).
    """
    args = _parser().parse_args(argv)
    try:
        summary = build_synthetic(**vars(args))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 1
    print(json.dumps(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m roc.dataset_scripts.synthetic",
        description="Generate a picture-text set in which only the picture tells the relation, as Parquet.",
    )
    parser.add_argument("--output_dir", required=True, help="folder to write; an older dataset there is replaced")
    for split, number in (("train", 3000), ("val", 600), ("test", 600)):
        parser.add_argument(
            f"--num_{split}",
            type=int,
            default=number,
            metavar="N",
            help=f"pictures of the split {split}, a multiple of {PICTURES_PER_SENTENCE} (default: %(default)s)",
        )
    parser.add_argument("--seed", type=int, default=13, help="the same seed gives the same rows (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
