"""Text, entities and pictures in, tensors out: every entity marked, typed and tracked to its position."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from .entities_roc import Entity, check_entity, check_number_of_regions, check_pairs, join_words, shorten
from .entity_typing_roc import load_entity_typer
from .images_roc import open_image

MARKERS = {"entities": ("[ENT]", "[/ENT]"), "head": ("[HEAD]", "[/HEAD]"), "tail": ("[TAIL]", "[/TAIL]")}


@dataclass(frozen=True)
class _Sample:
    text: str
    image: Any
    entities: tuple[Entity, ...]
    pairs: tuple[tuple[int, int], ...]
    where: str


@dataclass(frozen=True)
class _Encoded:
    input_ids: list[int]
    positions: list[int]  # of each entity: token of its opening marker, or number of its region
    truncated: bool


class RocProcessor(ProcessorMixin):
    """Prepares text, pictures, entities and pairs for `RocModel`.

    Args:
        image_processor: A Transformers image processor, or None for a text-only model.
        tokenizer: A fast tokenizer; the markers are added to it where they are missing.
        markers: `"entities"` marks all entities of a text alike, so that one encoding serves all pairs; `"pair"`
            encodes the text once per pair, with different markers around head and tail.
        max_length: Most tokens of a marked text, special tokens included.
        max_description_length: Most tokens of a relation's description.
        max_regions: Most object entities of one picture.
        entity_typer: What types entities whose type is not given: a name that `load_entity_typer` takes, or None
            to leave them untyped.
        chat_template: Not used; Transformers asks for it.
    """

    # Not keyword-only: Transformers would save such arguments but drop them on load.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        markers: str = "entities",
        max_length: int = 128,
        max_description_length: int = 96,
        max_regions: int = 10,
        entity_typer: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        if markers not in ("entities", "pair"):
            raise ValueError(f"markers={markers!r} is not known: give 'entities' or 'pair'.")
        self.markers = markers
        self.max_length = max_length
        self.max_description_length = max_description_length
        self.max_regions = max_regions
        self.entity_typer = entity_typer
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        roles = ["entities"] if markers == "entities" else ["head", "tail"]
        new = [token for role in roles for token in MARKERS[role] if token not in tokenizer.get_vocab()]
        if new:
            tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
        self._type_ids: dict[str, list[int]] = {"": []}
        self._around: tuple[list[int], list[int]] | None = None

    def __call__(
        self,
        text: str | Sequence[Any] | None = None,
        images: Any = None,
        entities: Sequence[Any] | None = None,
        pairs: Sequence[Any] | None = None,
        labels: Sequence[Any] | None = None,
        is_split_into_words: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Encode one sample or a batch.

        Args:
            text: A string, or a list of them; with `is_split_into_words` a list of words, or a list of such lists.
            images: A picture (PIL image or encoded bytes) or None; for a batch a list of them. Strings are refused:
                a path or address out of user data must not be opened by accident.
            entities: The entities of the text: mappings with half-open character offsets `start` and `end` (offsets
                of words with `is_split_into_words`) or a `bbox`, and optionally a `type`; for a batch a list of such
                lists. `(start, end)` and `(start, end, type)` are taken too.
            pairs: `(head, tail)` numbers into `entities`; None for every ordered pair. For a batch a list of lists.
            labels: One relation index per pair; for a batch a list of lists.
            is_split_into_words: See `text`.
            return_tensors: Only `"pt"`.

        Returns:
            A `BatchFeature` with what `RocModel.forward` takes, and
            `pair_mask` `(batch, pairs)` (1 = real) and `truncated` `(batch,)` bool: whether text was cut off.
            With `markers="pair"` each pair is a row of the batch. In both modes `logits[pair_mask.bool()]` has the
            pairs in the order that they were given, sample by sample.

        Raises:
            ValueError: If an entity, pair, label or picture is malformed (the message names it), or entities lie
                too far apart for `max_length`.
            TypeError: If an argument has the wrong type.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r} is not supported: ROC returns PyTorch tensors ('pt').")
        batch = _as_batch(text, images, entities, pairs, labels, is_split_into_words)
        samples, flat_labels = self._samples(*batch, is_split_into_words)
        rows = samples if self.markers == "entities" else [row for sample in samples for row in _one_per_pair(sample)]
        if not rows:
            raise ValueError("No sample has a pair: give every text at least two entities, or pairs of its own.")
        data = self._text_tensors(rows)
        data.update(self._pair_tensors(rows, flat_labels))
        data.update(self._region_tensors(rows))
        data.update(self._image_tensors(rows))
        return BatchFeature(data)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `RocModel.forward` reads."""
        return [
            "input_ids",
            "attention_mask",
            "entity_positions",
            "entity_is_region",
            "pair_index",
            "pixel_values",
            "image_index",
            "region_boxes",
            "region_mask",
        ]

    def tokenize_descriptions(self, descriptions: Sequence[str]) -> BatchFeature:
        """Tokenise relation descriptions.

        Args:
            descriptions: The texts.

        Returns:
            `input_ids` and `attention_mask`, `(num_descriptions, length)`.

        Raises:
            ValueError: If a description has more than `max_description_length` tokens.
        """
        encoded = self.tokenizer(list(descriptions), split_special_tokens=True)
        for description, ids in zip(descriptions, encoded["input_ids"]):
            if len(ids) > self.max_description_length:
                raise ValueError(
                    f"A description has {len(ids)} tokens, but at most {self.max_description_length} are read "
                    f"(max_description_length): {description[:80]!r}... Shorten it, or split it into several."
                )
        ids = encoded["input_ids"]
        return BatchFeature(_padded_ids(ids, self.tokenizer.pad_token_id or 0))

    def type_entities(
        self, texts: Sequence[str], entities: Sequence[Sequence[Any]], *, where: Sequence[str] | None = None
    ) -> list[tuple[Entity, ...]]:
        """Check entities, and have the entity typer fill in the types that are not given.

        Args:
            texts: The texts.
            entities: For each text its entities, as `__call__` takes them.
            where: What to call each text in an error.

        Returns:
            For each text its entities; a type that the typer could not tell is `""`.

        Raises:
            TypeError: If an entity is malformed.
            ValueError: If a span lies outside its text, or a box outside the picture.
        """
        names = where or [f"sample {i}" for i in range(len(texts))]
        checked = [
            tuple(check_entity(entity, text, f"{name}, entity {j}") for j, entity in enumerate(own))
            for text, own, name in zip(texts, entities, names, strict=True)
        ]
        untyped = [i for i, own in enumerate(checked) if any(entity.needs_type for entity in own)]
        if self.entity_typer is None or not untyped:
            return checked
        spans = [[(e.start, e.end) for e in checked[i] if e.needs_type] for i in untyped]
        typer = load_entity_typer(self.entity_typer)
        for i, types in zip(untyped, typer([texts[i] for i in untyped], spans), strict=True):
            queue = iter(types)
            checked[i] = tuple(replace(e, type=next(queue) or "") if e.needs_type else e for e in checked[i])
        return checked

    def _samples(
        self, texts: list[Any], images: list[Any], entities: list[Any], pairs: list[Any], labels: Any, words: bool
    ) -> tuple[list[_Sample], list[int] | None]:
        names = [f"sample {i}" for i in range(len(texts))]
        if words:
            joined = [join_words(*sample) for sample in zip(texts, entities, names)]
            texts, entities = [text for text, _ in joined], [own for _, own in joined]
        for text, name in zip(texts, names):
            if not isinstance(text, str):
                raise TypeError(f"{name}: text must be a string; given {type(text).__name__}.")
        samples = []
        typed = self.type_entities(texts, entities, where=names)
        for text, image, own, own_pairs, name in zip(texts, images, typed, pairs, names):
            check_number_of_regions(own, self.max_regions, name)
            samples.append(_Sample(text, image, own, check_pairs(own_pairs, len(own), name), name))
        return samples, _check_labels(labels, samples)

    def _text_tensors(self, rows: list[_Sample]) -> dict[str, Tensor]:
        encoded = self._encode_texts(rows)
        width = max([1, *(len(row.entities) for row in rows)])
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        is_region = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, (row, code) in enumerate(zip(rows, encoded)):
            positions[i, : len(code.positions)] = torch.tensor(code.positions)
            is_region[i, : len(row.entities)] = torch.tensor([entity.is_object for entity in row.entities])
        return {
            **_padded_ids([code.input_ids for code in encoded], self.tokenizer.pad_token_id or 0),
            "entity_positions": positions,
            "entity_is_region": is_region,
            "truncated": torch.tensor([code.truncated for code in encoded]),
        }

    def _encode_texts(self, rows: list[_Sample]) -> list[_Encoded]:
        """Mark and tokenise: the pieces between markers of the whole batch go through the tokenizer at once."""
        parts = [_marked_parts(row.text, row.entities) for row in rows]
        pieces = [part for row_parts in parts for part in row_parts if isinstance(part, str)]
        ids = iter(self._tokenize(pieces))
        with_ids = [[next(ids) if isinstance(part, str) else part for part in row_parts] for row_parts in parts]
        return [self._assemble(row, row_parts) for row, row_parts in zip(rows, with_ids)]

    def _assemble(self, row: _Sample, parts: list[Any]) -> _Encoded:
        """Join the token ids of pieces and markers, and cut a window out of a text that is too long.

        Args:
            row: The sample.
            parts: In order, token ids of a piece (list) or a marker `(entity number, is_opening)`.
        """
        before, after = self._special_ids()
        budget = self.max_length - len(before) - len(after)
        ids, opening, closing = self._join(row.entities, parts, keep=set(range(len(row.entities))))
        truncated = len(ids) > budget
        if truncated:
            asked = {number for pair in row.pairs for number in pair}
            ids, opening, closing = self._join(row.entities, parts, keep=asked)
            start = _window_start(row, opening, closing, len(ids), budget)
            ids = ids[start : start + budget]
            opening = {number: position - start for number, position in opening.items()}
        region_numbers = iter(range(len(row.entities)))
        positions = [
            next(region_numbers) if entity.is_object else opening.get(number, -len(before)) + len(before)
            for number, entity in enumerate(row.entities)
        ]
        return _Encoded([*before, *ids, *after], positions, truncated)

    def _join(
        self, entities: Sequence[Entity], parts: list[Any], keep: set[int]
    ) -> tuple[list[int], dict[int, int], dict[int, int]]:
        """Token ids, and the positions of the kept entities' opening and closing markers."""
        ids: list[int] = []
        opening: dict[int, int] = {}
        closing: dict[int, int] = {}
        for part in parts:
            if isinstance(part, list):
                ids.extend(part)
                continue
            number, is_opening = part
            if number not in keep:
                continue
            (opening if is_opening else closing)[number] = len(ids)
            entity = entities[number]
            ids.append(self._marker_id(entity.role, is_opening))
            if is_opening:
                ids.extend(self._ids_of_type(entity.type or ""))
        return ids, opening, closing

    def _tokenize(self, pieces: list[str]) -> list[list[int]]:
        if not pieces:
            return []
        # split_special_tokens: "[ENT]" in somebody's text is text, never a marker
        options = {"add_special_tokens": False, "return_attention_mask": False, "split_special_tokens": True}
        return self.tokenizer(pieces, verbose=False, **options)["input_ids"]

    def _marker_id(self, role: str, is_opening: bool) -> int:
        return self.tokenizer.convert_tokens_to_ids(MARKERS[role][0 if is_opening else 1])

    def _ids_of_type(self, entity_type: str) -> list[int]:
        if entity_type not in self._type_ids:
            self._type_ids[entity_type] = self._tokenize([entity_type])[0]
        return self._type_ids[entity_type]

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        if self._around is None:
            inner = self._tokenize(["a"])[0]
            whole = self.tokenizer("a")["input_ids"]
            start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
            self._around = whole[:start], whole[start + len(inner) :]
        return self._around

    def _pair_tensors(self, rows: list[_Sample], flat_labels: list[int] | None) -> dict[str, Tensor]:
        width = max([1, *(len(row.pairs) for row in rows)])
        pair_index = torch.zeros(len(rows), width, 2, dtype=torch.long)
        pair_mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            if row.pairs:
                pair_index[i, : len(row.pairs)] = torch.tensor(row.pairs)
                pair_mask[i, : len(row.pairs)] = 1
        tensors = {"pair_index": pair_index, "pair_mask": pair_mask}
        if flat_labels is not None:
            labels = torch.full(pair_mask.shape, -100)
            labels[pair_mask.bool()] = torch.tensor(flat_labels, dtype=torch.long)
            tensors["labels"] = labels
        return tensors

    def _region_tensors(self, rows: list[_Sample]) -> dict[str, Tensor]:
        boxes = [[entity.bbox for entity in row.entities if entity.is_object] for row in rows]
        width = max((len(row) for row in boxes), default=0)
        if not width:
            return {}
        region_boxes = torch.zeros(len(rows), width, 4)
        region_mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(boxes):
            if row:
                region_boxes[i, : len(row)] = torch.tensor(row)
                region_mask[i, : len(row)] = 1
        return {"region_boxes": region_boxes, "region_mask": region_mask}

    def _image_tensors(self, rows: list[_Sample]) -> dict[str, Tensor]:
        """Every distinct picture once, and which row shows which."""
        numbers: dict[Any, int] = {}
        distinct: list[Image.Image] = []
        index = []
        for row in rows:
            if row.image is None:
                index.append(-1)
                continue
            key = hashlib.sha256(row.image).digest() if isinstance(row.image, bytes) else id(row.image)
            if key not in numbers:
                numbers[key] = len(distinct)
                distinct.append(open_image(row.image, row.where))
            index.append(numbers[key])
        if not distinct:
            return {}
        if self.image_processor is None:
            raise ValueError(
                f"{rows[0].where}: a picture was given, but this processor has no image processor: its model reads "
                "text only. Leave `images` out, or load a model with a vision encoder."
            )
        pixels = self.image_processor(distinct, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "image_index": torch.tensor(index)}


def _check_labels(labels: Any, samples: Sequence[_Sample]) -> list[int] | None:
    if labels is None:
        return None
    for sample, own in zip(samples, labels, strict=True):
        if len(own) != len(sample.pairs):
            raise ValueError(f"{sample.where}: {len(own)} labels were given for {len(sample.pairs)} pairs.")
    return [int(label) for own in labels for label in own]


def _as_batch(
    text: Any, images: Any, entities: Any, pairs: Any, labels: Any, is_split_into_words: bool
) -> tuple[list[Any], list[Any], list[Any], list[Any], Any]:
    """Bring one sample or a batch into lists of equal length."""
    if text is None or entities is None:
        raise ValueError("ROC needs `text` and its `entities` (images and pairs are optional).")
    single = isinstance(text, str) or (is_split_into_words and bool(text) and isinstance(text[0], str))
    if single:
        text, images, entities = [text], [images], [entities]
        pairs, labels = [pairs], None if labels is None else [labels]
    text, entities = list(text), list(entities)
    columns = {
        "images": [None] * len(text) if images is None else images,
        "entities": entities,
        "pairs": [None] * len(text) if pairs is None else pairs,
        "labels": text if labels is None else labels,
    }
    if not text:
        raise ValueError("The batch is empty: give at least one text.")
    for name, column in columns.items():
        if not isinstance(column, Sequence) or len(column) != len(text):
            size = len(column) if isinstance(column, Sequence) else f"a {type(column).__name__}"
            raise ValueError(f"`{name}` must be a list with one entry per text: {len(text)} texts, given {size}.")
    return text, list(columns["images"]), entities, list(columns["pairs"]), labels


def _one_per_pair(sample: _Sample) -> list[_Sample]:
    """For pair-specific markers: the sample once per pair, with only head and tail marked, each in its role."""
    rows = []
    for head, tail in sample.pairs:
        two = (replace(sample.entities[head], role="head"), replace(sample.entities[tail], role="tail"))
        rows.append(replace(sample, entities=two, pairs=((0, 1),)))
    return rows


def _marked_parts(text: str, entities: Sequence[Entity]) -> list[Any]:
    """Cut the text at the entities' borders: pieces (str) and markers `(entity number, is_opening)`, in order.

    At one offset, closing markers come before opening ones, and longer entities open first, so that nested spans
    nest; spans that cross keep both borders.
    """
    marks: list[tuple[int, int, int, int]] = []  # (offset, opens?, tie-break, entity number)
    for number, entity in enumerate(entities):
        if entity.start is not None and entity.end is not None:
            marks.append((entity.start, 1, -entity.end, number))
            marks.append((entity.end, 0, -entity.start, number))
    parts: list[Any] = []
    last = 0
    for offset, opens, _, number in sorted(marks):
        if offset > last:
            parts.append(text[last:offset])
            last = offset
        parts.append((number, bool(opens)))
    if last < len(text):
        parts.append(text[last:])
    return parts


def _window_start(
    row: _Sample, opening: Mapping[int, int], closing: Mapping[int, int], length: int, budget: int
) -> int:
    """First token of a window of `budget` tokens that holds all asked-for entities, centred on them."""
    if not opening:
        return 0
    first, last = min(opening.values()), max(closing.values()) + 1
    if last - first > budget:
        number = max(closing, key=lambda n: closing[n])
        entity = row.entities[number]
        name = row.text[entity.start : entity.end]
        raise ValueError(
            f"{row.where}: entity {number} {shorten(name)!r} (characters {entity.start}-{entity.end}) does not fit: "
            f"the asked-for entities span {last - first} tokens, but max_length leaves {budget}. Ask for pairs that "
            "lie closer together, or raise max_length."
        )
    return min(max(0, first - (budget - (last - first)) // 2), length - budget)


def _padded_ids(rows: list[list[int]], pad_token_id: int) -> dict[str, Tensor]:
    length = max(map(len, rows))
    input_ids = torch.tensor([ids + [pad_token_id] * (length - len(ids)) for ids in rows])
    lengths = torch.tensor([len(ids) for ids in rows])
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask}


RocProcessor.register_for_auto_class()
