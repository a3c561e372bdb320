"""Text, entities and pictures in, tensors out: every entity marked, typed and tracked to its position."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin, ViTImageProcessorPil
from transformers.utils import cached_file

from .configuration_roc import refuse_places
from .messages_roc import check_unicode, describe_error, quote, read_settings, shorten
from .processing_entities_roc import (
    NO_LABEL,
    Entity,
    check_entity,
    check_has_picture,
    check_labels,
    check_number_of_pairs,
    check_number_of_regions,
    check_pairs,
    is_int,
    join_words,
)
from .processing_images_roc import open_image
from .processing_marking_roc import MARKERS, NO_SPAN, Sample, encode_marked, encode_texts
from .processing_typing_roc import ENTITY_TYPES, Span, check_stored_typer, load_entity_typer, type_id, word_of_type

# What Transformers reads of a processor's folder, besides its tokenizer's files.
SETTINGS_FILES = ("processor_config.json", "preprocessor_config.json", "audio_tokenizer_config.json")

MAX_CHARACTERS = 1_000_000  # of a text; named-entity recognition takes no more


class RocProcessor(ProcessorMixin):
    """Prepares text, pictures, entities and pairs for `RocModel`.

    What texts, types, names and descriptions hold is read as text, never as a marker or a special token. One processor
    may be used by several threads at once: it reads with a copy of its tokenizer, whose flags nobody changes.

    Args:
        image_processor: A Transformers image processor, or None for a text-only model.
        tokenizer: A tokenizer; the markers are added to it where they are missing.
        markers: `"entities"` marks all entities of a text alike, so that one encoding serves all pairs; `"pair"`
            encodes the text once per pair, with different markers around head and tail.
        max_length: Most tokens of a marked text, special tokens included.
        max_description_length: Most tokens of a relation's description.
        max_regions: Most object entities of one picture.
        object_names: Whether an object's `name` (a detector's label, a caption) is read as text, behind the post.
        entity_typer: Name of the typer that predicts types that are not given, as `load_entity_typer` takes it; None
            to leave those entities untyped.
        entity_types: The types that entities may have. Other given types are refused, and an entity for which the
            typer predicts another type stays untyped.
        reads_images: Whether pictures are taken; None takes them if there is an image processor.
        chat_template: Not used; Transformers asks for it.

    Raises:
        ValueError: If a setting is out of range, or the tokenizer's own limit is below `max_length`.
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
        entity_types: Sequence[str] = ENTITY_TYPES,
        reads_images: bool | None = None,
        object_names: bool = False,
        chat_template: str | None = None,
    ) -> None:
        self.markers = markers
        self.max_length = max_length
        self.max_description_length = max_description_length
        self.max_regions = max_regions
        self.object_names = object_names
        self.entity_typer = entity_typer
        self.entity_types = entity_types
        self.reads_images = image_processor is not None if reads_images is None else reads_images
        if image_processor is None:  # Transformers cannot save or load a processor that lacks one of its parts
            image_processor = ViTImageProcessorPil()
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self._check_settings()
        if new := [token for token in self._marker_tokens if token not in tokenizer.all_special_tokens]:
            tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, trust_remote_code: bool | None = None, **options: Any
    ) -> Any:
        """Load a processor as `ProcessorMixin.from_pretrained` does. Code that comes with its parts is never run.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            trust_remote_code: Whether this class itself may come from there; its parts may not.
            **options: As for `ProcessorMixin.from_pretrained`; and settings of this class in place of the folder's. An
                `entity_typer` that is no model of spaCy's own is taken from here alone.

        Raises:
            ValueError: If the folder names such a typer, or a part that a `RocProcessor` does not have, or its
                `processor_config.json` is no JSON object.
        """
        settings, *_ = (_stored(pretrained_model_name_or_path, name, options) for name in SETTINGS_FILES)
        if "entity_typer" not in options:
            check_stored_typer(settings.get("entity_typer"), str(pretrained_model_name_or_path))
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options, trust_remote_code=False)
        except (OSError, ImportError):
            raise
        except Exception as error:  # Transformers and tokenizers raise many kinds about malformed files
            raise ValueError(f"{pretrained_model_name_or_path}: {describe_error(error)}") from error

    def _check_settings(self) -> None:
        if self.markers not in ("entities", "pair"):
            raise ValueError(f"markers={quote(self.markers)} is not known: give 'entities' or 'pair'.")
        if not isinstance(self.entity_typer, str | None):
            raise ValueError(f"entity_typer={quote(self.entity_typer)} is not allowed: give a typer's name, or None.")
        given = self.entity_types
        if not isinstance(given, (list, tuple)) or not all(isinstance(word, str) for word in given):
            raise ValueError(f"entity_types={quote(given)} is not allowed: give a list of words.")
        self.entity_types = [*given]
        for name, least in {"max_length": 8, "max_description_length": 8, "max_regions": 0}.items():
            value = getattr(self, name)
            if not is_int(value) or value < least:
                raise ValueError(f"{name}={quote(value)} is out of range: give a whole number >= {least}.")
        if self.max_length > self.tokenizer.model_max_length:
            raise ValueError(
                f"max_length={self.max_length} is more than the {self.tokenizer.model_max_length} tokens that this "
                "tokenizer's model reads. Lower it."
            )

    def __call__(
        self,
        text: str | Sequence[Any] | None = None,
        images: Any = None,
        entities: Sequence[Any] | None = None,
        pairs: Sequence[Any] | None = None,
        labels: Sequence[Any] | None = None,
        is_split_into_words: bool = False,
        where: Sequence[str] | None = None,
        return_offsets_mapping: bool = False,
        return_tensors: str = "pt",
        patch_features: Any = None,
        pictures_left_out: bool = False,
    ) -> BatchFeature:
        """Encode one sample or a batch.

        Args:
            text: A string, or a list of them; with `is_split_into_words` a list of words, or a list of such lists.
            images: A picture as `open_image` takes it (PIL image, the bytes of its file, array or tensor) or None; for
                a batch a list of them. Strings are refused: a path or address out of user data must not be opened by
                accident.
            entities: The entities of the text: mappings with half-open character offsets `start` and `end` (offsets
                of words with `is_split_into_words`) or a `bbox`, and optionally a `type` and, for objects, a `name`;
                for a batch a list of such lists. `(start, end)` and `(start, end, type)` are taken too. A `bbox` needs
                a picture and a model that reads it.
            pairs: `(head, tail)` numbers into `entities`; None for every ordered pair, at most `MAX_PAIRS`. For a batch
                a list of lists.
            labels: One relation index per pair, -100 for a pair without; for a batch a list of lists.
            is_split_into_words: See `text`.
            where: Each text's name in an error; None for "sample 0" and so on.
            return_offsets_mapping: Whether to return each token's place in the text as `offset_mapping`.
            return_tensors: `"pt"`; other values are refused.
            patch_features: What a frozen vision encoder gives for each picture, `(rows, columns, vision_hidden)`, all
                of one shape. It takes the place of `images`.
            pictures_left_out: Whether boxes are taken without their picture: in training and evaluation, where it was
                left out on purpose.

        Returns:
            A `BatchFeature` with what `RocModel.forward` takes, and `pair_mask` `(batch, pairs)` (1 = real) and
            `truncated` `(batch,)` bool: whether text was cut off. With `return_offsets_mapping`, `offset_mapping`
            `(batch, length, 2)`: half-open character spans in the text, (0, 0) for markers, types, names of objects,
            special tokens and padding.
            With `markers="pair"` each pair is a row of the batch, and a text whose pairs lie too far apart for one
            window of `max_length` takes several rows. `logits[pair_mask.bool()]` always has the pairs in the order
            that they were given, sample by sample.

        Raises:
            ValueError: If an entity, pair, label or picture is malformed (the message names it), or the entities of
                one pair lie too far apart for `max_length`.
            TypeError: If an argument has the wrong type.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r} is not supported: ROC returns PyTorch tensors ('pt').")
        given = _one_tuple_per_sample(text, images, entities, pairs, labels, patch_features, is_split_into_words)
        names = where or [f"sample {i}" for i in range(len(given))]
        rows = self._check_samples(given, names, is_split_into_words)
        if not pictures_left_out:
            for row in rows:
                self.check_has_picture(row.entities, row.image, row.where)
        if self.markers == "pair":
            rows = [row for sample in rows for row in sample.one_pair_each()]
        if not any(row.pairs for row in rows):
            raise ValueError("No text has a pair: give at least one of them two entities.")
        rows, tensors = self._text_tensors(rows, with_offsets=return_offsets_mapping)
        return BatchFeature(tensors | _pair_tensors(rows) | _region_tensors(rows) | self._image_tensors(rows))

    @property
    def marker_ids(self) -> list[int]:
        """Ids of the tokens that mark entities."""
        return self.tokenizer.convert_tokens_to_ids(self._marker_tokens)

    @property
    def _marker_tokens(self) -> list[str]:
        return [*MARKERS["entities"]] if self.markers == "entities" else [*MARKERS["head"], *MARKERS["tail"]]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `RocModel.forward` reads."""
        text = ("input_ids", "attention_mask", "entity_positions", "entity_is_region", "pair_index")
        pictures = ("pixel_values", "patch_features", "image_index", "whole_batch")
        regions = ("region_boxes", "region_mask", "region_name_positions")
        return [*text, *pictures, *regions, "entity_type_ids", "marker_mask"]

    def tokenize_descriptions(self, descriptions: Sequence[str]) -> BatchFeature:
        """Tokenise relation descriptions to `input_ids` and `attention_mask`, `(num_descriptions, length)`.

        Raises:
            ValueError: If there is none, or one has more than `max_description_length` tokens.
        """
        if not descriptions:
            raise ValueError("descriptions is empty: give at least one text.")
        for description in descriptions:
            check_unicode(description, "A description")
        ids = encode_texts(self.tokenizer, descriptions)
        longest = min(self.max_description_length, self.tokenizer.model_max_length)
        for description, own_ids in zip(descriptions, ids):
            if len(own_ids) > longest:
                raise ValueError(
                    f"A description has {len(own_ids)} tokens, but at most {longest} are read "
                    f"(max_description_length): {shorten(description)!r}. Shorten it, or split it into several."
                )
        return BatchFeature(self._padded_tokens(ids))

    def find_entities(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Find the entities of each text by named-entity recognition: mappings of `start`, `end` and `type`.

        With `entity_typer=None` spaCy finds the entities, and their type is `""`.

        Raises:
            ImportError: If what finds them is not installed.
            ValueError: If a text is longer than `MAX_CHARACTERS`, or not valid Unicode.
        """
        for number, text in enumerate(texts):
            _check_text(text, f"text {number}")
        found = load_entity_typer(self.entity_typer or "spacy").find(texts)
        if self.entity_typer is None:
            found = [[(start, end, "") for start, end, _ in own] for own in found]
        return [
            [{"start": start, "end": end, "type": self._predicted(kind)} for start, end, kind in own] for own in found
        ]

    def _predicted(self, kind: str | None) -> str:
        """Bring what the typer predicted into a word of `entity_types`, or `""` where it is none of them."""
        return word_of_type(kind or "", self.entity_types) or ""

    def type_entities(
        self, texts: Sequence[str], entities: Sequence[Sequence[Any]], *, where: Sequence[str] | None = None
    ) -> list[tuple[Entity, ...]]:
        """Check entities of texts, and have the entity typer fill in the types that are not given.

        `entities` and `where` are as for `__call__`. A type that the typer could not tell is `""`.

        Raises:
            TypeError: If an entity is malformed.
            ValueError: If a span lies outside its text, a box outside the picture, or a type is unknown.
        """
        names = where or [f"sample {i}" for i in range(len(texts))]
        for text, name in zip(texts, names, strict=True):
            _check_text(text, name)
        checked = [
            tuple(check_entity(entity, text, f"{name}, entity {j}", self.entity_types) for j, entity in enumerate(own))
            for text, own, name in zip(texts, entities, names, strict=True)
        ]
        spans = {i: found for i, own in enumerate(checked) if (found := _untyped_spans(own))}
        if self.entity_typer is None or not spans:
            return checked
        typer = load_entity_typer(self.entity_typer)
        for i, types in zip(spans, typer([texts[i] for i in spans], [*spans.values()]), strict=True):
            queue = iter(types)
            checked[i] = tuple(
                replace(entity, type=self._predicted(next(queue)))
                if entity.type is None and not entity.is_object
                else entity
                for entity in checked[i]
            )
        return checked

    def check_has_picture(self, entities: Sequence[Entity], image: Any, where: str) -> None:
        """Raise a ValueError where an entity is a box, but `image` is None or this processor takes no pictures."""
        check_has_picture(entities, image is not None, where, reads_images=self.reads_images)

    def _check_samples(
        self, given: Sequence[tuple[Any, ...]], names: Sequence[str], is_split_into_words: bool
    ) -> list[Sample]:
        texts, entities = [], []
        for (text, _, own, asked, _, _), name in zip(given, names, strict=True):
            if not isinstance(own, Sequence) or isinstance(own, str):
                raise TypeError(f"{name}: entities must be a list; given {quote(own)}.")
            if asked is None:
                check_number_of_pairs(len(own), name)
            text, own = join_words(text, own, name) if is_split_into_words else (text, own)
            texts.append(text)
            entities.append(own)
        typed = self.type_entities(texts, entities, where=names)
        samples = []
        for (_, image, _, pairs, labels, features), text, own, name in zip(given, texts, typed, names):
            if image is not None and features is not None:
                raise ValueError(f"{name}: give its picture or its patch_features, but not both.")
            check_number_of_regions(own, self.max_regions, name)
            if not self.object_names:
                own = tuple(replace(entity, name=None) for entity in own)
            pairs = check_pairs(pairs, len(own), name)
            image = image if features is None else PatchFeatures(features)
            samples.append(Sample(text, image, own, pairs, check_labels(labels, len(pairs), name), name))
        return samples

    def _text_tensors(self, samples: list[Sample], *, with_offsets: bool) -> tuple[list[Sample], dict[str, Tensor]]:
        """Build the tensors of the texts, and tell the sample of each row: one that is too long takes several."""
        encoded = encode_marked(self.tokenizer, samples, max_length=self.max_length, with_offsets=with_offsets)
        rows = [text.sample for text in encoded]
        tensors = {
            **self._padded_tokens([[token.id for token in text.tokens] for text in encoded]),
            "entity_positions": _padded([text.positions for text in encoded], 0),
            "entity_is_region": _padded([[entity.is_object for entity in row.entities] for row in rows], False),
            "entity_type_ids": _padded([[type_id(entity.type) for entity in row.entities] for row in rows], -1),
            "marker_mask": _padded([[int(token.is_marker) for token in text.tokens] for text in encoded], 0),
            "truncated": torch.tensor([text.truncated for text in encoded]),
        }
        if self.object_names and any(text.name_positions for text in encoded):
            tensors["region_name_positions"] = _padded([text.name_positions for text in encoded], -1)
        if with_offsets:
            tensors["offset_mapping"] = _padded([[token.span for token in text.tokens] for text in encoded], NO_SPAN)
        return rows, tensors

    def _padded_tokens(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        return {"input_ids": _padded(ids, self.tokenizer.pad_token_id or 0), "attention_mask": _mask(ids)}

    def _image_tensors(self, rows: Sequence[Sample]) -> dict[str, Tensor]:
        """Build the pixels of every distinct picture, and for each row the number of its picture."""
        shown: dict[Any, Sample] = {}
        keys = [_picture_key(row.image) for row in rows]
        for key, row in zip(keys, rows):
            if key is not None:
                shown.setdefault(key, row)
        if not shown:
            return {"whole_batch": torch.empty(len(rows), 0, 0, 0, 0)} if self.reads_images else {}
        first, *_ = shown.values()
        if not self.reads_images:
            raise ValueError(
                f"{first.where}: a picture was given, but this processor's model reads text only. Leave the picture "
                "out, or load a model with a vision encoder."
            )
        numbers = {key: number for number, key in enumerate(shown)}
        index = torch.tensor([numbers.get(key, -1) for key in keys])
        if any(isinstance(row.image, PatchFeatures) for row in shown.values()):
            name, pictures = "patch_features", torch.stack(_features([*shown.values()]))
        else:
            name, pictures = "pixel_values", torch.cat([self.pixels(row.image, row.where) for row in shown.values()])
        return {name: pictures, "image_index": index, "whole_batch": _whole_batch(index, pictures)}

    def pixels(self, image: Any, where: str) -> Tensor:
        """Turn one picture, which `open_image` decodes, into the vision encoder's `(1, channels, height, width)`."""
        pixels = self.image_processor(open_image(image, where), return_tensors="pt")["pixel_values"]
        if not pixels.isfinite().all():
            raise ValueError(f"{where}: the image processor's settings (image_std, rescale_factor) give no numbers.")
        return pixels


@dataclass(frozen=True)
class PatchFeatures:
    """What a frozen vision encoder gives for a picture, in the picture's place."""

    states: Any  # (rows, columns, vision_hidden)


def _one_tuple_per_sample(
    text: Any, images: Any, entities: Any, pairs: Any, labels: Any, features: Any, is_split_into_words: bool
) -> list[tuple[Any, ...]]:
    """Return text, image, entities, pairs, labels and features of each sample, whether one was given or a batch."""
    if text is None or entities is None:
        raise ValueError("ROC needs `text` and its `entities` (images and pairs are optional).")
    columns = {"text": text, "images": images, "entities": entities, "pairs": pairs, "labels": labels}
    columns["patch_features"] = features
    is_list_of_words = is_split_into_words and isinstance(text, Sequence) and text and isinstance(text[0], str)
    if isinstance(text, str) or is_list_of_words:
        return [tuple(columns.values())]
    for name, column in columns.items():
        if column is None:
            columns[name] = [None] * len(text)
        elif not isinstance(column, Sequence) or isinstance(column, (str, bytes)):
            raise TypeError(f"`{name}` must be a list with one entry per text; given a {type(column).__name__}.")
        elif len(column) != len(text):
            raise ValueError(f"`{name}` must have one entry per text: {len(text)} texts, given {len(column)}.")
    if not text:
        raise ValueError("The batch is empty: give at least one text.")
    return list(zip(*columns.values(), strict=True))


def _untyped_spans(entities: Sequence[Entity]) -> list[Span]:
    """List the spans of the text entities whose type was not given."""
    return [(e.start, e.end) for e in entities if e.type is None and e.start is not None and e.end is not None]


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{where}: text must be a string; given {quote(text)}.")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"{where}: its text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read. Shorten it."
        )
    check_unicode(text, f"{where}: the text")


def _picture_key(image: Any) -> Any:
    """Tell pictures apart, by their bytes or as objects; None for no picture."""
    if image is None:
        return None
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return id(image.states if isinstance(image, PatchFeatures) else image)


def _whole_batch(image_index: Tensor, pictures: Tensor) -> Tensor:
    """Make a tensor whose shape alone states the batch: `(rows, rows, pictures, digest, 0)`.

    The digest of a sample of the pictures keeps launchers from joining this batch with another one: tensors that
    differ in more than their first dimension cannot be joined, and the numbers in `image_index` would clash.
    """
    sample = pictures.flatten(1)[:, ::64].float().contiguous()
    digest = zlib.crc32(sample.numpy(), zlib.crc32(image_index.numpy())) % 2**20  # the sizes' product is limited
    return torch.empty(len(image_index), len(image_index), len(pictures), digest, 0)


def _features(rows: Sequence[Sample]) -> list[Tensor]:
    """Check that all pictures of the rows are vision features of one shape, and return them."""
    found = [row.image.states if isinstance(row.image, PatchFeatures) else row.image for row in rows]
    for row, own in zip(rows, found):
        shape = tuple(own.shape) if isinstance(own, Tensor) else None
        if shape is None or len(shape) != 3 or shape != tuple(found[0].shape):
            raise ValueError(
                f"{row.where}: its picture is {shape or type(own).__name__}, but features of a vision encoder "
                "were given for others. Give (rows, columns, vision_hidden), of one shape, for all of them."
            )
    return found


def _pair_tensors(rows: Sequence[Sample]) -> dict[str, Tensor]:
    pairs = [row.pairs for row in rows]
    tensors = {"pair_index": _padded(pairs, (0, 0)), "pair_mask": _mask(pairs)}
    if any(row.labels is not None for row in rows):
        labels = [[NO_LABEL] * len(row.pairs) if row.labels is None else row.labels for row in rows]
        tensors["labels"] = _padded(labels, NO_LABEL)
    return tensors


def _region_tensors(rows: Sequence[Sample]) -> dict[str, Tensor]:
    boxes = [[entity.bbox for entity in row.entities if entity.bbox is not None] for row in rows]
    if not any(boxes):
        return {}
    return {"region_boxes": _padded(boxes, (0.0, 0.0, 0.0, 0.0)), "region_mask": _mask(boxes)}


def _padded(rows: Sequence[Sequence[Any]], filler: Any) -> Tensor:
    """Pad rows at their end to the longest: `(len(rows), longest row, ...)`, with at least one column."""
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def _mask(rows: Sequence[Sequence[Any]]) -> Tensor:
    """`(len(rows), longest row)` int64: 1 where `_padded` has a real entry."""
    return _padded([[1] * len(row) for row in rows], 0)


def _stored(path: Any, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON file of a folder or Hub repository; empty if there is none. It may name no place to load from."""
    keys = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
    where = {key: options[key] for key in keys if options.get(key) is not None}
    file = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **where)
    settings = {} if file is None else read_settings(file)
    refuse_places(settings)
    return settings


RocProcessor.register_for_auto_class()
