"""MORE: relations between an entity of a news title and an object in the picture of the article.

Reads the published raw files:

* `txt/train.txt`, `txt/valid.txt`, `txt/test.txt`: a line is a Python literal (or JSON)
  `{'token': [...], 'relation': label, 'img_id': file name, 'h': {'name', 'pos'}, 't': {'name', 'box'}}`, where `pos` is
  half-open token offsets, and `name` of `t` is a key such as `[OBJ0]` into the boxes of the picture;
* `rel2id.json`: the labels; a line with another one is refused;
* `ent_train_dict.pth` and so on: `{img_id: {object name: (cx, cy, w, h)}}`, centre, width and height as shares of the
  picture, at most 10 objects; read as plain data, never as code;
* `caption_dict.json`, only with `captions`: `{img_id: {object name: caption}}`;
* `img_org/train`, `img_org/valid`, `img_org/test`: the pictures.

The text entity is the head and the object the tail, in every row. Token offsets become half-open character offsets into
the tokens joined by single spaces, boxes become (x0, y0, x1, y1).

What is not used, because it could tell something about the label:

* `box` of a line. The box is that of `ent_*_dict.pth`, as in the published loader: that file is keyed by picture, so it
  says the same of related and unrelated pairs, while whether and how a line states its own may depend on its label.
  Lines whose box differs are counted, and the first is named in a warning.
* The other objects of the picture, their number and their order. A row holds its own object alone.
* The numbers of `rel2id.json`, other keys of a line, and how it is written.
* Types: labels such as `/per/misc/awarded` hold them. A text entity has none unless a typer predicts it. An object has
  none: what it shows is not known, and "object" would contradict every relation that asks for a person or a place.

`name` of an object (`[OBJ0]`, or its caption) is what output calls it. `RocProcessor` reads it only with
`object_names`, which is for captions: the number in `[OBJ0]` may follow the order of annotation and should reach no
model.

Source: He et al., "MORE: A Multimodal Object-Entity Relation Extraction Dataset with a Benchmark Evaluation", ACM MM
2023, https://github.com/NJUNLP/MORE. The files themselves were not at hand: this follows the published loader
(`processor/dataset.py`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.builder import RawRow
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.building.instance_files import (
    Instance,
    InstancesBuilder,
    Line,
    read_instance_lines,
    row_of,
)
from roc.dataset_scripts.building.raw_files import find_only_file
from roc.dataset_scripts.exporting.marker import NO_LICENSE
from roc.dataset_scripts.schema import SPLITS, object_entity
from roc.messages_roc import did_you_mean, quote
from roc.support.files import load_plain_pickle
from roc.support.reading import read_json

Box = tuple[float, float, float, float]
Objects = Mapping[str, Mapping[str, Any]]  # box, or caption, by object name by picture; not checked yet

FOLDERS = ("", "txt")
MAX_OBJECTS = 10

# Boxes with six decimals, as the format of YOLO has them: a side is off by at most 0.75e-6.
ROUNDING = 1e-6

# A line's box that is farther than this from the box of the same object is another box. Our choice: below a pixel.
SAME_BOX = 1e-3


class MoreBuilder(InstancesBuilder):
    """Builds MORE from its raw files.

    Args:
        data_dir: Folder of the raw files.
        captions: Name objects by their captions instead of `[OBJ0]`.
        options: Options of `RocDatasetBuilder`.
    """

    NAME = "more"
    TITLE = "MORE"
    LICENSE = NO_LICENSE
    DESCRIPTION = """Multimodal relation extraction on news: an entity of the title, and an object in the picture.
From the raw files of [MORE](https://github.com/NJUNLP/MORE) (He et al., "MORE: A Multimodal Object-Entity Relation
Extraction Dataset with a Benchmark Evaluation", ACM MM 2023).

The head is always the entity in the text and the tail the object, whatever the order of types in the label."""
    LICENSE_NOTE = """**MORE's code is under MIT, its data under no licence that is known.** The titles and pictures
stay their publishers'. Do not publish this folder without their permission."""
    LEAK_NOTE = """The labels hold the gold types of both entities; `type` was not read from them. A row holds its own
object alone, with the box that its picture has for it: the boxes that the raw lines state, and the other objects, their
number and their order, could depend on the label."""
    PICTURES_HINT = (
        "MORE's pictures are a separate download (see https://github.com/NJUNLP/MORE): unpack them to img_org/train, "
        "img_org/valid and img_org/test in data_dir."
    )
    RELEASE = "MORE"
    OFFICIAL_ROWS = {"train": 15486, "val": 1742, "test": 3036}  # as the paper counts them
    TEXT_ENTITIES = ("h",)
    PICTURE_FOLDERS = ("img_org/{split}", "img_org")
    RAW_SPLITS = {"train": "train", "val": "valid", "test": "test"}
    FLAGS = {"captions": "name objects by the captions of caption_dict.json (default: [OBJ0] and so on)"}

    def __init__(self, data_dir: str | Path, *, captions: bool = False, **options: Any) -> None:
        self.captions = captions
        super().__init__(data_dir, **options)

    def find_splits(self) -> dict[str, list[Path]]:
        """Find the files of each split: lines, labels, boxes and, where they are asked for, captions."""
        found = {}
        for split in SPLITS:
            raw_split = self.RAW_SPLITS[split]
            names = [f"{raw_split}.txt", "rel2id.json", f"ent_{raw_split}_dict.pth"]
            paths = [self._find(name) for name in (*names, *(["caption_dict.json"] if self.captions else []))]
            if paths[0].is_file():
                found[split] = paths
        return found

    def read_split(self, split: str) -> Iterator[RawRow]:
        """Read the instances of one split, in the order of the file."""
        path, labels_path, objects_path, *captions_path = self.split_files[split]
        labels, objects = read_labels(labels_path), read_objects(objects_path)
        captions = read_captions(captions_path[0]) if captions_path else None
        lines, rows, boxes = list(read_instances(path, labels)), [], []
        self.warn_of_differences(split, lines)
        for number, where, instance in lines:
            box = box_of(instance, objects, where)
            if _is_other_box(instance["t"], where, box):
                boxes.append(f"{where}: {instance['t']['box']} for the box {box}")
            name = instance["t"]["name"] if captions is None else caption_of(instance, captions, where)
            tail = object_entity(name, to_xyxy(box, f"{where}: 't'"), entity_type=None)
            rows.append((where, row_of(instance, f"{split}-{number:05d}", tail=tail)))
        what, kept = f"lines have another box than {objects_path.name}", f"that of {objects_path.name} is used"
        self.warn_of_others(split, boxes, count="other_boxes", what=what, kept=kept)
        yield from self.raw_rows(split, rows)

    def _find(self, name: str) -> Path:
        """Return the file of that name, or where it would be if there is none."""
        return find_only_file(self.raw_dir, [Path(folder) / name for folder in FOLDERS], name) or self.raw_dir / name


def read_labels(path: Path) -> list[str]:
    """Read the labels of `rel2id.json`; `ValueError` if it is not a JSON object of labels and numbers."""
    _check_is_there(path, "the labels and their numbers")
    labels = read_json(path)
    if not isinstance(labels, dict) or not labels or not all(type(number) is int for number in labels.values()):
        raise ValueError(f"{path}: expected an object of labels and their numbers, such as {{'none': 0}}.")
    return list(labels)


def read_objects(path: Path) -> Objects:
    """Read the boxes of the objects of each picture from an `ent_*_dict.pth`, as plain data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut short, holds anything but plain data, or is not a dict of pictures and their objects.
    """
    _check_is_there(path, "the boxes of the objects")
    objects = load_plain_pickle(path)
    if not _is_text_to_dict(objects):
        raise ValueError(f"{path}: expected a dict of picture names to {{object name: (cx, cy, w, h)}}.")
    return objects


def read_captions(path: Path) -> Objects:
    """Read the captions of the objects of each picture from a `caption_dict.json`."""
    _check_is_there(path, "the captions that were asked for")
    captions = read_json(path)
    if not _is_text_to_dict(captions):
        raise ValueError(f"{path}: expected an object of picture names to {{object name: caption}}.")
    return captions


def read_instances(path: Path, labels: Sequence[str]) -> Iterator[Line]:
    """Read and check the instances of a raw file, whose labels must be among `labels`.

    Raises:
        ValueError: If a line is malformed or has an unknown label; the message names file and line.
        TypeError: If an offset is not an integer.
    """
    for number, where, instance in read_instance_lines(path):
        label, tail = instance["relation"], instance["t"]
        if label not in labels:
            raise ValueError(
                f"{where}: 'relation' is {quote(label)}, which is not among the {len(labels)} labels of rel2id.json."
                f"{did_you_mean(label, labels)} Mend the line, or take the rel2id.json of the same release."
            )
        if not isinstance(tail, dict) or not isinstance(tail.get("name"), str) or not tail["name"].strip():
            raise ValueError(
                f"{where}: 't' must be a dict with the 'name' of an object, such as '[OBJ0]', got {quote(tail)}."
            )
        yield number, where, instance


def box_of(instance: Instance, objects: Objects, where: str) -> Box:
    """Return the box (cx, cy, w, h) of an instance's object, as its picture has it.

    Raises:
        ValueError: If the picture or the object is not there, the picture has more than 10 objects, or the box is not
            four numbers.
    """
    image, name = instance["img_id"], instance["t"]["name"]
    if image not in objects:
        raise ValueError(
            f"{where}: the picture {quote(image)} has no objects in the ent_*_dict.pth of its split. Take the file of "
            "the same split and release, or remove the line."
        )
    boxes = objects[image]
    if len(boxes) > MAX_OBJECTS:
        raise ValueError(
            f"{where}: the picture {quote(image)} has {len(boxes)} objects; MORE has at most {MAX_OBJECTS}."
        )
    if name not in boxes:
        raise ValueError(
            f"{where}: 't': the picture {quote(image)} has no object {quote(name)}; it has {quote(list(boxes))}."
            f"{did_you_mean(name, boxes)} Mend the line, or take the ent_*_dict.pth of the same release."
        )
    return _numbers(boxes[name], f"{where}: the box of {name!r} in the picture {quote(image)}")


def to_xyxy(box: Sequence[float], where: str) -> Box:
    """Convert a box from its centre and size to its sides, all as shares of the picture, origin top left.

    Args:
        box: (cx, cy, w, h).
        where: Put in front of the error.

    Returns:
        (x0, y0, x1, y1) in [0, 1]; what rounding put outside is clipped.

    Raises:
        ValueError: If the box has no area or reaches outside the picture.
    """
    cx, cy, w, h = box
    if not (w > ROUNDING and h > ROUNDING):
        raise ValueError(f"{where}: the box (cx, cy, w, h) = {tuple(box)} has no area. Width and height must be > 0.")
    sides = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    if not all(-ROUNDING <= side <= 1 + ROUNDING for side in sides):
        raise ValueError(
            f"{where}: the box (cx, cy, w, h) = {tuple(box)} reaches outside the picture: its sides (x0, y0, x1, y1) "
            f"are {tuple(round(side, 6) for side in sides)}, not in [0, 1]. The order is centre, then size, as shares "
            "of the picture's width and height, not pixels."
        )
    x0, y0, x1, y1 = (min(max(side, 0.0), 1.0) for side in sides)
    return x0, y0, x1, y1


def caption_of(instance: Instance, captions: Objects, where: str) -> str:
    """Return the caption of an instance's object.

    Raises:
        ValueError: If it has none. To fall back to the name would show which objects have one.
    """
    image, name = instance["img_id"], instance["t"]["name"]
    caption = captions.get(image, {}).get(name)
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError(
            f"{where}: caption_dict.json has no caption for {name!r} in the picture {quote(image)}, but "
            f"{quote(caption)}. Complete the file, or leave out --captions."
        )
    return caption.strip()


def _is_other_box(tail: Mapping[str, Any], where: str, box: Box) -> bool:
    """Tell whether a line states a box of its own that is not the box of its object."""
    if tail.get("box") is None:
        return False
    stated = _numbers(tail["box"], f"{where}: 't': 'box'")
    return max(abs(one - other) for one, other in zip(stated, box, strict=True)) > SAME_BOX


def _numbers(box: Any, where: str) -> Box:
    """Return four finite numbers; MORE's own lines have been seen with numbers as strings."""
    try:
        cx, cy, w, h = (float(side) for side in box)
    except (TypeError, ValueError):
        cx = cy = w = h = math.nan
    if not all(map(math.isfinite, (cx, cy, w, h))):
        raise ValueError(f"{where} must be four finite numbers (cx, cy, w, h), got {quote(box)}.")
    return cx, cy, w, h


def _is_text_to_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(image, str) and isinstance(values, dict) for image, values in content.items()
    )


def _check_is_there(path: Path, what: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: MORE needs it for {what}. Put it beside the others.")


if __name__ == "__main__":
    sys.exit(main(MoreBuilder))
