"""A harder generated picture-text set: relations that need text and picture together, distractors, misleading pictures.

There are three kinds of pairs:

* text-object: the text names a team and the colour that it wears; the picture shows two to four boxed figures, each in
  one of two colours, with a ball, a briefcase or nothing. The figure's relation to the team follows from its colour
  (the text tells whether that is the team's) and from what it has, so that it needs the text, the picture and the box;
* text-text: the text names two persons and the colour that both wear; the picture shows two couples of figures in
  two colours, each with its own cue between them. The text tells which cue counts, the other one is a distractor;
* misleading: the same pictures, but the text states the relation in words, and the cue says something else. The text
  decides.

Each sentence comes with `PICTURES_PER_SENTENCE` pictures, all with the same boxes. Each of its text-object and
text-text pairs has each relation of its kind exactly once; each misleading sentence sees each cue exactly once. So
text, boxes and row order say nothing about the relation of the former, and the cue between the two persons nothing
about that of the latter. What decides is written to `evidence.jsonl`
(`roc.dataset_scripts.generating.evidence`), never into the rows.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
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
    contexts_without_pixels,
    empty_scene,
    fill_template,
    lookup_accuracy,
    run_generator,
    to_png,
    write_set,
)
from roc.dataset_scripts.generating.evidence import EVIDENCE_FILE, Evidence, evidence_lines
from roc.dataset_scripts.generating.symbols import COLOURS, Box, Canvas, Colour, shade
from roc.dataset_scripts.schema import Entity, Row, object_entity, text_entity
from roc.support.markdown import table

IMAGE_SIZE = 96  # pixels; an 8 x 8 grid of 12-pixel patches
CELL = IMAGE_SIZE // GRID  # pixels; each thing has its own cell

NONE = "none"

# relation -> what may be seen between the two persons for it; None is an empty place
CUES: dict[str, tuple[str | None, ...]] = {
    "couple": ("heart",),
    "teammates": ("ball",),
    "colleagues": ("briefcase",),
    "rivals": ("swords",),
    "neighbours": ("house",),
    NONE: (None, "tree"),
}
# relation -> whether the figure wears the team's colour, and what it has beside it
FIGURES: dict[str, tuple[bool, str | None]] = {
    "player": (True, "ball"),
    "coach": (True, "briefcase"),
    "supporter": (True, None),
    "opponent": (False, "ball"),
    "opposing coach": (False, "briefcase"),
    NONE: (False, None),
}
PICTURES_PER_SENTENCE = len(CUES)  # both kinds have as many relations, so `none` is as frequent in either

Kind = Literal["text-object", "text-text", "misleading"]
KINDS: tuple[Kind, ...] = ("text-object", "text-text", "misleading")
SENTENCE_KINDS: tuple[Kind, ...] = ("text-object", "text-text", "text-object", "misleading")  # taken in turn

SHIRTS: dict[str, Colour] = {
    "red": (214, 36, 40),
    "blue": (36, 72, 210),
}

TEAMS = ("FC {}", "{} United", "SC {}", "{} City", "{} Rovers", "Team {}")
TEAM_TEMPLATES = (
    "{team}, all in {colour}, at the {place} {time}.",
    "Seen {time} near the {place}: {team} in {colour}",
    "Everyone of {team} wears {colour} {time}, here at the {place}.",
    "Picture of the day: {team} (the ones in {colour}), {place}, {time}.",
    "RT @dailysnap: {team} go {colour} {time} by the {place}",
    "The {colour} shirts near the {place} belong to {team}, {time}.",
)
PAIR_TEMPLATES = (
    "{first} and {second}, both in {colour}, near the {place} {time}.",
    "Seen {time} near the {place}: {first} and {second}, the two in {colour}",
    "In {colour}: {first} with {second} at the {place} {time}",
    "The two in {colour} by the {place} are {first} and {second}, {time}.",
    "Picture of the day: {first}, {second} ({colour} shirts), {place}, {time}.",
    "RT @dailysnap: {first} and {second} wear {colour} by the {place} {time}",
)
STATEMENTS: dict[str, tuple[str, ...]] = {
    "couple": ("{first} married {second}", "{first} is in love with {second}", "{first} kissed {second}"),
    "teammates": (
        "{first} plays in one team with {second}",
        "{first} passed to fellow player {second}",
        "{first} and {second} score for the same side",
    ),
    "colleagues": (
        "{first} works at the same office as {second}",
        "{first} and co-worker {second} have a meeting",
        "{first} and {second} are employed by one company",
    ),
    "rivals": (
        "{first} challenged sworn rival {second}",
        "{first} fights a duel with {second}",
        "{first} and {second} are bitter opponents",
    ),
    "neighbours": (
        "{first} lives next door to {second}",
        "{first} moved into the house beside {second}",
        "{first} and {second} share a garden fence",
    ),
    NONE: (
        "{first} has never met {second}",
        "{first} and {second} are strangers",
        "{first} does not know {second}",
    ),
}
STATEMENT_FRAMES = (
    "STATEMENT, we heard at the {place} {time}.",
    "News from the {place} {time}: STATEMENT",
    "STATEMENT. Both in {colour}, {place}, {time}.",
    "RT @dailysnap: STATEMENT ({colour} shirts, {place}, {time})",
)

DESCRIPTION = f"""
Generated sentences and drawn pictures for relations that need text and picture together; made for demos and tests, it
says nothing about performance on real posts. Names are drawn at random; there are no photos and no real people.

- `text-object`: a team whose colour the text tells, and one of two to four boxed figures. In the team's colour, a ball
  means `player`, a briefcase `coach`, nothing `supporter`; in another colour, a ball means `opponent`, a briefcase
  `opposing coach`, nothing `none`. Several figures of a picture may have the same relation, by chance.
- `text-text`: two persons whose colour the text tells. Between the two figures in it, a heart means `couple`, a ball
  `teammates`, a briefcase `colleagues`, crossed swords `rivals`, a house `neighbours`; nothing or a tree means `none`.
  Two figures in another colour have a cue of their own, which says nothing.
- `misleading`: the text states the relation, in several wordings; the cues in the picture say nothing.

Each sentence comes with {PICTURES_PER_SENTENCE} pictures, with the same boxes. On every split the builder checks that
a rule which sees all but the pixels is right on 1/{PICTURES_PER_SENTENCE} of the `text-object` and of the `text-text`
pairs, and that a rule which sees the right cue alone is right on 1/{PICTURES_PER_SENTENCE} of the `misleading` ones. A
rule that sees what a figure has, but not whether its colour is the team's, is right on half of the `text-object` pairs.
`evidence.jsonl` has the boxes of the objects that decide each row. Pictures are {IMAGE_SIZE} x {IMAGE_SIZE} PNG.
"""


@dataclass(frozen=True)
class Example:
    """A row of `features.FEATURES` with what decides it.

    Args:
        row: The row.
        evidence: What decides its relation.
        seen: What a rule sees that looks at the picture without the text: what the boxed figure has in a text-object
            pair, what both cues mean in a text-text pair, what the cue of its two persons means in a misleading pair.
    """

    row: Row
    evidence: Evidence
    seen: Hashable


_View = tuple[str, Evidence, Hashable]  # what one picture shows of one pair: its relation, and fields of `Example`


@dataclass(frozen=True)
class _Sentence(ABC):
    """A sentence that names a colour, with its pairs in the order of the rows."""

    kind: Kind
    text: str
    colour: str
    pairs: Sequence[tuple[Entity, Entity]]

    @abstractmethod
    def draw(self, canvas: Canvas, index: int, rng: Random) -> list[_View]:
        """Draw picture number `index`; returns what is seen of each pair."""

    def other_colour(self, rng: Random) -> str:
        """Choose a colour that the text does not name."""
        return rng.choice([colour for colour in SHIRTS if colour != self.colour])


@dataclass(frozen=True)
class _TeamSentence(_Sentence):
    """A team and several figures, each with a relation for every picture of the sentence."""

    boxes: Sequence[Box]
    relations: Sequence[Sequence[str]]

    def draw(self, canvas: Canvas, index: int, rng: Random) -> list[_View]:
        other = self.other_colour(rng)
        views: list[_View] = []
        for box, relations in zip(self.boxes, self.relations, strict=True):
            in_team, item = FIGURES[relations[index]]
            _draw_figure_with_item(canvas, box, SHIRTS[self.colour if in_team else other], item, rng)
            evidence = Evidence(self.kind, _shares([box]), _shares([rest for rest in self.boxes if rest != box]))
            views.append((relations[index], evidence, item))
        return views


@dataclass(frozen=True)
class _PairSentence(_Sentence):
    """Two persons, and two couples of figures with a cue each; `stated` is the relation where the text tells it."""

    grid_rows: Sequence[int]  # of the two persons, and of the others
    cues: Sequence[Sequence[str]]  # of either couple, for every picture the relation that its cue means
    stated: str | None

    def draw(self, canvas: Canvas, index: int, rng: Random) -> list[_View]:
        other, symbols, boxes = self.other_colour(rng), [], []
        for grid_row, shirt, cues in zip(self.grid_rows, (self.colour, other), self.cues, strict=True):
            symbols.append(rng.choice(CUES[cues[index]]))
            boxes.append(_draw_couple(canvas, grid_row, SHIRTS[shirt], symbols[-1], rng))
        meant = [cues[index] for cues in self.cues]
        drawn = [_shares([box]) if symbol else [] for symbol, box in zip(symbols, boxes, strict=True)]
        if self.stated is not None:
            return [(self.stated, Evidence(self.kind, [], [*drawn[0], *drawn[1]]), meant[0])]
        decides = drawn[0] if meant[0] != NONE else []  # a tree decides as little as an empty place
        return [(meant[0], Evidence(self.kind, decides, drawn[1]), tuple(sorted(meant)))]


def generate_examples(num_pictures: int, seed: int, *, split: str = "train") -> Iterator[Example]:
    """Generate one split; the rows of a picture follow each other and hold the same image bytes.

    Args:
        num_pictures: How many pictures; a multiple of `PICTURES_PER_SENTENCE`.
        seed: The same seed, number and split give the same rows, byte for byte.
        split: Names the random stream and begins the ids.

    Yields:
        Examples; a row's `image` is `{"bytes": PNG bytes, "path": None}`.

    Raises:
        ValueError: If `num_pictures` is not a positive multiple of `PICTURES_PER_SENTENCE`.
    """
    check_num_pictures(num_pictures, split, pictures_per_sentence=PICTURES_PER_SENTENCE)
    return _examples(num_pictures, Random(f"scenes/{seed}/{split}"), split)


def _examples(num_pictures: int, rng: Random, split: str) -> Iterator[Example]:
    for number in range(num_pictures):
        turn, index = divmod(number, PICTURES_PER_SENTENCE)
        if index == 0:
            kind = SENTENCE_KINDS[turn % len(SENTENCE_KINDS)]
            sentence = _plan_team(rng) if kind == "text-object" else _plan_pair(kind, turn, rng)
        canvas = empty_scene(IMAGE_SIZE, rng)
        views = sentence.draw(canvas, index, rng)
        image = {"bytes": to_png(canvas), "path": None}
        for position, ((head, tail), view) in enumerate(zip(sentence.pairs, views, strict=True)):
            relation, evidence, seen = view
            row = {"id": f"{split}-{number}-{position}", "text": sentence.text, "image": image}
            row |= {"head": dict(head), "tail": dict(tail), "relation": relation}
            yield Example(row, evidence, seen)


def _plan_team(rng: Random) -> _TeamSentence:
    colour, team = rng.choice(list(SHIRTS)), rng.choice(TEAMS).format(rng.choice(NAMES))
    text, spans = fill_template(rng.choice(TEAM_TEMPLATES), {"team": team, "colour": colour, **_surroundings(rng)})
    head = text_entity(text, *spans["team"], entity_type="organization")
    boxes = [
        box_in_cell(cell, rng, side=CELL, width=(28, 32), height=(26, 32))
        for cell in rng.sample(range(GRID * GRID), rng.choice((2, 3, 4)))
    ]
    pairs = [(head, object_entity(f"[OBJ{index}]", box)) for index, box in enumerate(_shares(boxes))]
    relations = [rng.sample(list(FIGURES), len(FIGURES)) for _ in boxes]
    return _TeamSentence("text-object", text, colour, pairs, boxes, relations)


def _plan_pair(kind: Kind, turn: int, rng: Random) -> _PairSentence:
    colour, stated = rng.choice(list(SHIRTS)), None
    template = rng.choice(PAIR_TEMPLATES)
    if kind == "misleading":
        stated = list(STATEMENTS)[turn // len(SENTENCE_KINDS) % len(STATEMENTS)]  # in turn, so that all are as frequent
        template = rng.choice(STATEMENT_FRAMES).replace("STATEMENT", rng.choice(STATEMENTS[stated]))
    names = dict(zip(("first", "second"), rng.sample(NAMES, 2), strict=True))
    text, spans = fill_template(template, {**names, "colour": colour, **_surroundings(rng)})
    head, tail = rng.sample([text_entity(text, *spans[field], entity_type="person") for field in names], 2)
    cues = [rng.sample(list(CUES), len(CUES)) for _ in range(2)]
    return _PairSentence(kind, text, colour, [(head, tail)], rng.sample(range(GRID), 2), cues, stated)


def _surroundings(rng: Random) -> dict[str, str]:
    return {"place": rng.choice(PLACES), "time": rng.choice(TIMES)}


def _draw_figure_with_item(canvas: Canvas, box: Box, shirt: Colour, item: str | None, rng: Random) -> None:
    """Draw a figure in the left two thirds of its box, and what it has in the lower right."""
    x0, y0, x1, y1 = box
    middle = (x0 + x1) // 2
    canvas.stamp("strip", (x0, y0, x0 + 2 * (x1 - x0) // 3, y1), colour=shade(shirt, rng))
    if item is not None:
        canvas.stamp(item, (middle, (y0 + y1) // 2 - 1, x1, y1), colour=shade(COLOURS[item], rng))


def _draw_couple(canvas: Canvas, grid_row: int, shirt: Colour, symbol: str | None, rng: Random) -> Box:
    """Draw two figures in one row of the grid, and a cue between them; returns the cue's box."""
    left, middle, right = range(GRID * grid_row, GRID * grid_row + GRID)
    for cell in (left, right):
        box = box_in_cell(cell, rng, side=CELL, width=(18, 22), height=(25, 30))
        canvas.stamp("strip", box, colour=shade(shirt, rng))
    box = box_in_cell(middle, rng, side=CELL, width=(20, 26), height=(20, 26))
    if symbol is not None:
        canvas.stamp(symbol, box, colour=shade(COLOURS[symbol], rng))
    return box


def _shares(boxes: Sequence[Box]) -> list[list[float]]:
    """Return boxes in pixels as shares of the picture's sides."""
    return [[side / IMAGE_SIZE for side in box] for box in boxes]


def audit_examples(examples: Sequence[Example], where: str) -> dict[str, dict[str, float]]:
    """Check what text alone, and cues alone, can know.

    Args:
        examples: One split, in its order.
        where: What it is, put in front of the error.

    Returns:
        Per kind `pairs`, `majority_share`, `text_only_accuracy` (see `check_text_only`), and `picture_only_accuracy` of
        a rule that knows `Example.seen` alone; shares of 1.

    Raises:
        ValueError: If a rule without the pixels knows something about text-object or text-text pairs, or one without
            the text about misleading pairs; or if a kind has no pairs.
    """
    audit: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        own = [example for example in examples if example.evidence.kind == kind]
        rows, relations = [example.row for example in own], [example.row["relation"] for example in own]
        if kind != "misleading":
            checked = check_text_only(rows, f"{where}, {kind}")
        else:
            share = max(Counter(relations).values(), default=0) / max(1, len(relations))
            known = lookup_accuracy(contexts_without_pixels(rows), relations)
            checked = {"majority_share": share, "text_only_accuracy": known}
        picture_only = lookup_accuracy([example.seen for example in own], relations)
        if kind == "misleading" and picture_only > checked["majority_share"]:
            raise ValueError(
                f"{where}, {kind}: a rule that sees the cue alone is right on {picture_only:.1%} of the rows, but the "
                f"most frequent relation has only {checked['majority_share']:.1%}. Show every sentence each cue once."
            )
        audit[kind] = {"pairs": len(own), **checked, "picture_only_accuracy": picture_only}
    return audit


def build_scenes(
    output_dir: str | Path, *, num_train: int = 7200, num_val: int = 960, num_test: int = 960, seed: int = 13
) -> dict[str, Any]:
    """Generate the set, check it, and write it as a folder of Parquet files with a card, a marker and the evidence.

    `output_dir` is replaced only if it is such a dataset. The numbers of pictures are multiples of
    `PICTURES_PER_SENTENCE`; the same numbers and seed give the same rows.

    Returns:
        `output_dir`, `builder`, `seed`, under `splits` per split the counts of the folder's marker, and under `audit`
        per split what `audit_examples` returns.

    Raises:
        ValueError: If a number of pictures is not a positive multiple of `PICTURES_PER_SENTENCE`, or too small for a
            sentence of each kind.
        FileExistsError: If `output_dir` exists and is not such a folder.
    """
    check_output_dir(output_dir)
    numbers = {"train": num_train, "val": num_val, "test": num_test}
    # All numbers are checked before the first picture is drawn.
    generators = {split: generate_examples(number, seed, split=split) for split, number in numbers.items()}
    examples = {split: list(generated) for split, generated in generators.items()}
    audit = {split: audit_examples(own, split) for split, own in examples.items()}
    rows = {split: [example.row for example in own] for split, own in examples.items()}
    evidence = {example.row["id"]: example.evidence for own in examples.values() for example in own}
    summary = write_set(
        rows,
        output_dir,
        builder="scenes",
        builder_version="1.1.0",
        title="Generated scenes for multimodal relation extraction",
        description=f"{DESCRIPTION}\nThe best accuracy of rules that know the very rows:\n\n{_audit_table(audit)}",
        options={f"num_{split}": number for split, number in numbers.items()} | {"seed": seed},
        split_counts={split: {"pictures": number} for split, number in numbers.items()},
        side_files={EVIDENCE_FILE: evidence_lines(evidence)},
    )
    return summary | {"audit": audit}


def _audit_table(audit: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = [
        [f"{split}, `{kind}`", str(found["pairs"]), *(f"{found[name]:.1%}" for name in found if name != "pairs")]
        for split, kinds in audit.items()
        for kind, found in kinds.items()
    ]
    return table(("split, kind", "pairs", "most frequent relation", "text alone", "cues alone"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate the set with the given command line; returns the exit code."""
    return run_generator(
        build_scenes,
        argv,
        builder="scenes",
        about="Generate a picture-text set whose relations need text and picture together, as Parquet.",
        pictures_per_sentence=PICTURES_PER_SENTENCE,
    )


if __name__ == "__main__":
    sys.exit(main())
