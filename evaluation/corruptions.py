"""What may be wrong with a post, as transformations of samples: missing, wrong or damaged pictures, wrong types, typos.

Every corruption maps an item of `GroupedSamples`, a sample and the bytes of its picture, to another item and leaves the
given one as it was. Pairs, relations and row ids always stay, and so does the order of the entities. What is drawn at
random depends on the seed and the id of the sample's first row only, not on the order of the samples.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from PIL import Image, ImageFilter

from roc.modeling_roc import RocModel
from roc.processing_entities_roc import Entity
from roc.processing_images_roc import open_image
from roc.samples.grouping import GroupedSamples, Sample

Item = tuple[Sample, bytes | None]

CROPPED_BORDER = 0.1  # of width and height, at each side: 64 % of the picture is left
# sigma 6 at 224 pixels: Gaussian blur of the highest severity in ImageNet-C (Hendrycks & Dietterich, 2019)
BLUR_RADIUS = 6 / 224
JPEG_QUALITY = 10
MISSPELT_SHARE = 0.2
_WORD = re.compile(r"[^\W\d_]{3,}")


class Condition(NamedTuple):
    """A corruption with its name."""

    name: str
    description: str  # what it does, in one sentence
    corrupt: Callable[[Item], Item]
    is_of_pictures: bool = False  # a model without a vision encoder cannot notice it


class CorruptedSamples(GroupedSamples):
    """Samples seen through a corruption, item by item; `self.samples` are as they were before."""

    def __init__(self, samples: GroupedSamples, corrupt: Callable[[Item], Item]) -> None:
        self.samples, self.unreadable = samples.samples, samples.unreadable
        self._intact = samples
        self._corrupt = corrupt

    def __getitem__(self, index: int) -> Item:
        """Return the corrupted sample and picture."""
        return self._corrupt(self._intact[index])


def input_conditions(samples: GroupedSamples, *, entity_types: Sequence[str], seed: int = 0) -> list[Condition]:
    """Give the corruptions of this module, as the robustness suite scores them.

    Args:
        samples: The samples that are to be corrupted; other posts' pictures come from them.
        entity_types: Types from which `wrong_entity_types` chooses.
        seed: Decides what is drawn.
    """
    kept, wrong_types = (1 - 2 * CROPPED_BORDER) ** 2, partial(wrong_entity_types, entity_types=entity_types, seed=seed)
    crop = f"{CROPPED_BORDER:.0%} of width and height are cut away at each side, {kept:.0%} of the picture is left; "
    slips = f"{MISSPELT_SHARE:.0%} of the words outside entities (at least one) have two letters swapped, or a letter "
    slips += "missing or doubled; names of entities stay as they are."
    blur = f"Gaussian blur with a radius of {BLUR_RADIUS:.1%} of the picture's shorter side."
    quality = f"JPEG quality {JPEG_QUALITY}"
    return [
        Condition("no picture", "The picture is left out.", without_picture, True),
        Condition("wrong picture", "The picture is that of another post.", WrongPicture(samples, seed=seed), True),
        Condition("cropped", crop + "boxes move along and are clipped.", cropped, True),
        Condition("blurred", blur, blurred, True),
        Condition(quality, f"The picture is saved as JPEG of quality {JPEG_QUALITY}.", as_jpeg, True),
        Condition("wrong entity types", "The type of each typed text entity is another one.", wrong_types),
        Condition("typos", slips, partial(misspelt, seed=seed)),
    ]


def share_changed(samples: GroupedSamples, condition: Condition) -> float:
    """Return the share of the pairs whose text or picture a condition changes. Pictures are not decoded for that."""
    changed = 0
    for index in range(len(samples)):
        item = samples[index]
        # Cropping, blurring and compressing changes the bytes of every picture; no need to do it.
        rewrites = condition.corrupt in (cropped, blurred, as_jpeg)
        changed += (item[1] is not None if rewrites else condition.corrupt(item) != item) * len(item[0].pairs)
    return changed / max(1, samples.num_pairs)


# --- pictures


def without_picture(item: Item) -> Item:
    """Leave the picture out; entities that are boxes in it stay."""
    return item[0], None


class WrongPicture:
    """Replaces each picture by that of another post, never by one with the same bytes.

    An item stays as it is where there is no other picture, and where its sample has none.

    Args:
        samples: The samples that the pictures come from.
        seed: Decides, with the id of a sample's first row, which picture the sample gets.
    """

    def __init__(self, samples: GroupedSamples, *, seed: int = 0) -> None:
        self._samples, self._seed = samples, seed
        self._first: dict[bytes, int] = {}  # content of a picture -> first sample that has it
        for index in range(len(samples)):
            image = samples[index][1]
            if image is not None:
                self._first.setdefault(hashlib.sha256(image).digest(), index)

    def __call__(self, item: Item) -> Item:
        """Give the sample another picture."""
        sample, image = item
        if image is None:
            return item
        own = hashlib.sha256(image).digest()
        others = [index for content, index in self._first.items() if content != own]
        return (sample, self._samples[_generator(sample, self._seed).choice(others)][1]) if others else item


def cropped(item: Item, *, border: float = CROPPED_BORDER) -> Item:
    """Cut away a share `border` of width and height at each side of the picture, and move the boxes along.

    A box that lies outside altogether becomes a strip of one pixel at the nearest edge, so that its pairs can still be
    asked for.
    """
    entities = list(item[0].entities)

    def crop(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        left, top = int(border * width), int(border * height)
        for number, entity in enumerate(entities):
            if entity.bbox is not None:
                x0, y0, x1, y1 = entity.bbox
                across = _side_within(x0 * width, x1 * width, left, width - left)
                down = _side_within(y0 * height, y1 * height, top, height - top)
                entities[number] = replace(entity, bbox=(across[0], down[0], across[1], down[1]))
        return picture.crop((left, top, width - left, height - top))

    sample, image = _redrawn(item, crop)
    return replace(sample, entities=entities), image


def blurred(item: Item, *, radius: float = BLUR_RADIUS) -> Item:
    """Blur the picture by a Gaussian whose deviation is a share `radius` of the picture's shorter side."""
    return _redrawn(item, lambda picture: picture.filter(ImageFilter.GaussianBlur(radius * min(picture.size))))


def as_jpeg(item: Item, *, quality: int = JPEG_QUALITY) -> Item:
    """Save the picture as JPEG of a quality from 1 to 95 (libjpeg's scale; 75 is usual)."""
    return _redrawn(item, lambda picture: picture, "JPEG", quality=quality)


def share_inside(bbox: Sequence[float], *, border: float = CROPPED_BORDER) -> float:
    """Return the share of a box's area that is left when a border of the picture is cut away."""
    x0, y0, x1, y1 = bbox
    across, down = (max(0.0, min(end, 1 - border) - max(start, border)) for start, end in ((x0, x1), (y0, y1)))
    return across * down / ((x1 - x0) * (y1 - y0))


def _side_within(start: float, end: float, low: int, high: int) -> tuple[float, float]:
    """Turn places in pixels into shares of what is between the pixels `low` and `high`, at least one pixel apart."""
    first, last = ((min(max(place, low), high) - low) / (high - low) for place in (start, end))
    if first < last:
        return first, last
    pixel = 1 / (high - low)
    first = min(first, 1 - pixel)
    return first, min(first + pixel, 1.0)


def _redrawn(item: Item, change: Callable[[Image.Image], Image.Image], format: str = "PNG", **options: Any) -> Item:
    """Decode the picture, where there is one, change it, and encode it anew."""
    sample, image = item
    if image is None:
        return item
    file = io.BytesIO()
    change(open_image(image, f"row {sample.row_ids[0]!r}")).save(file, format, **options)
    return sample, file.getvalue()


# --- texts


def wrong_entity_types(item: Item, *, entity_types: Sequence[str], seed: int = 0) -> Item:
    """Replace the type of every typed text entity by another of `entity_types`; untyped entities stay untyped.

    Raises:
        ValueError: If there is no other type to choose.
    """
    sample, image = item
    generator = _generator(sample, seed)

    def with_wrong_type(entity: Entity) -> Entity:
        if entity.is_object or not entity.type:
            return entity
        others = [other for other in entity_types if other != entity.type]
        if not others:
            raise ValueError(f"Among the types {list(entity_types)} is none but {entity.type!r}: give at least two.")
        return replace(entity, type=generator.choice(others))

    return replace(sample, entities=[with_wrong_type(entity) for entity in sample.entities]), image


def misspelt(item: Item, *, share: float = MISSPELT_SHARE, seed: int = 0) -> Item:
    """Misspell some of the words outside entities: two neighbouring letters swapped, or one missing or doubled.

    Entities keep their names, because a misspelt name is another question (whether it is still found), and their spans
    move with the text. Words have at least three letters. At least one is misspelt, where there is one.

    Args:
        item: The sample and its picture.
        share: Share of the words to misspell, in (0, 1].
        seed: Decides, with the id of the sample's first row, which words and how.
    """
    sample, image = item
    spans = [(e.start, e.end) for e in sample.entities if e.start is not None and e.end is not None]
    words = [
        word
        for word in _WORD.finditer(sample.text)
        if not any(start < word.end() and word.start() < end for start, end in spans)
    ]
    if not words:
        return item
    generator, text = _generator(sample, seed), sample.text
    drawn = sorted(generator.sample(range(len(words)), max(1, round(share * len(words)))))
    typos = [(words[number], _typo(words[number].group(), generator)) for number in drawn]
    for word, typo in reversed(typos):
        text = text[: word.start()] + typo + text[word.end() :]

    def moved(entity: Entity) -> Entity:
        if entity.start is None or entity.end is None:
            return entity
        shift = sum(len(typo) - len(word.group()) for word, typo in typos if word.end() <= entity.start)
        return replace(entity, start=entity.start + shift, end=entity.end + shift)

    return replace(sample, text=text, entities=[moved(entity) for entity in sample.entities]), image


def _typo(word: str, generator: random.Random) -> str:
    kind, place = generator.choice(("swapped", "missing", "doubled")), generator.randrange(len(word) - 1)
    before, letter, following, after = word[:place], word[place], word[place + 1], word[place + 2 :]
    if kind == "swapped" and letter.lower() != following.lower():
        return before + following + letter + after
    if kind == "missing":
        return before + following + after
    return before + letter * 2 + following + after


def _generator(sample: Sample, seed: int) -> random.Random:
    return random.Random(f"{seed}-{sample.row_ids[0]}")


# --- relations


@contextmanager
def shuffled_relations(model: RocModel, *, seed: int = 0) -> Iterator[None]:
    """Give the model its relations in another order while the block runs, and its own order again after that.

    Raises:
        ValueError: If the model has fewer than two relations, or classifies: its outputs are in the order of training.
    """
    names = list(model.config.relation_names)
    if len(names) < 2:
        raise ValueError(f"The model has the relations {names}: give it at least two, which have an order.")
    order, generator = list(names), random.Random(seed)
    while order == names:
        generator.shuffle(order)
    model.subset_relations(order)
    try:
        yield
    finally:
        model.subset_relations(names)
