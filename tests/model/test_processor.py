"""The processor: entities marked and tracked, batches equal to their samples, pictures once, clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import picture_bytes, png_that_claims, tiny_byte_tokenizer, tiny_picture, tiny_processor, tiny_tokenizer
from transformers import BatchFeature

from roc.processing_roc import RocProcessor

TEXT = "Ann kissed Bob in Paris"
ANN, BOB, PARIS = (0, 3), (11, 14), (18, 23)
BOX, OTHER_BOX = {"bbox": (0.0, 0.0, 0.5, 0.5)}, {"bbox": (0.5, 0.5, 1.0, 1.0)}


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def pair_processor() -> RocProcessor:
    return tiny_processor(markers="pair")


@pytest.fixture(scope="module")
def byte_processor() -> RocProcessor:
    return tiny_processor(tokenizer=tiny_byte_tokenizer())


def tokens(processor: RocProcessor, batch: BatchFeature, row: int = 0) -> list[str]:
    """The real tokens of a row, special tokens included."""
    ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
    return processor.tokenizer.convert_ids_to_tokens(ids)


def marked(processor: RocProcessor, text: str, entities: Sequence[Any], **options: Any) -> str:
    """The marked text of one sample as the model reads it, special tokens around it left out."""
    batch = processor(text=text, entities=entities, **options)
    return " ".join(tokens(processor, batch)[1:-1])


def assert_positions_at_opening_markers(processor: RocProcessor, batch: BatchFeature, row: int = 0) -> None:
    read = tokens(processor, batch, row)
    for position, is_region in zip(batch["entity_positions"][row].tolist(), batch["entity_is_region"][row].tolist()):
        assert is_region or read[position] in ("[ENT]", "[HEAD]", "[TAIL]")


# ---------------------------------------------------------------------------------------------------------------------
# Marking


def test_entities_are_marked_with_their_types_and_their_positions_point_at_the_opening_markers(
    processor: RocProcessor,
) -> None:
    batch = processor(text=TEXT, entities=[(*ANN, "person"), BOB, (*PARIS, "location")])
    expected = "[CLS] [ENT] person ann [/ENT] kissed [ENT] bob [/ENT] in [ENT] location paris [/ENT] [SEP]"
    assert " ".join(tokens(processor, batch)) == expected
    assert batch["entity_positions"].tolist() == [[1, 6, 10]]
    assert not batch["truncated"].any()


def test_positions_follow_the_order_in_which_entities_are_given(processor: RocProcessor) -> None:
    batch = processor(text=TEXT, entities=[PARIS, ANN])
    assert batch["entity_positions"].tolist() == [[7, 1]]


@pytest.mark.parametrize(
    ("entities", "expected"),
    [
        ([ANN, PARIS], "[ENT] ann [/ENT] kissed bob in [ENT] paris [/ENT]"),  # at the start and at the end
        ([(0, 23), BOB], "[ENT] ann kissed [ENT] bob [/ENT] in paris [/ENT]"),  # nested
        ([BOB, (0, 23)], "[ENT] ann kissed [ENT] bob [/ENT] in paris [/ENT]"),
        ([(0, 14), (0, 3)], "[ENT] [ENT] ann [/ENT] kissed bob [/ENT] in paris"),  # nested, with one start
        ([(4, 14), BOB], "ann [ENT] kissed [ENT] bob [/ENT] [/ENT] in paris"),  # nested, with one end
        ([(0, 10), (4, 14)], "[ENT] ann [ENT] kissed [/ENT] bob [/ENT] in paris"),  # crossing
        ([BOB, BOB], "ann kissed [ENT] [ENT] bob [/ENT] [/ENT] in paris"),  # identical
        ([(4, 10), BOB], "ann [ENT] kissed [/ENT] [ENT] bob [/ENT] in paris"),  # adjacent words
        ([(11, 13), (13, 14)], "ann kissed [ENT] b ##o [/ENT] [ENT] b [/ENT] in paris"),  # adjacent characters
        ([(3, 15), PARIS], "ann [ENT] kissed bob [/ENT] in [ENT] paris [/ENT]"),  # white space at the border
    ],
)
def test_spans_at_the_borders_nested_crossing_and_adjacent_keep_their_markers(
    processor: RocProcessor, entities: list[tuple[int, int]], expected: str
) -> None:
    assert marked(processor, TEXT, entities) == expected
    assert_positions_at_opening_markers(processor, processor(text=TEXT, entities=entities))


def test_identical_spans_of_a_pair_nest(pair_processor: RocProcessor) -> None:
    assert (
        marked(pair_processor, TEXT, [BOB, BOB], pairs=[(0, 1)])
        == "ann kissed [HEAD] [TAIL] bob [/TAIL] [/HEAD] in paris"
    )


def test_every_pair_has_markers_of_its_own_in_pair_mode(pair_processor: RocProcessor) -> None:
    batch = pair_processor(text=TEXT, entities=[(*ANN, "person"), BOB, PARIS], pairs=[(0, 1), (2, 0)])
    rows = [" ".join(tokens(pair_processor, batch, row)[1:-1]) for row in range(2)]
    assert rows == [
        "[HEAD] person ann [/HEAD] kissed [TAIL] bob [/TAIL] in paris",
        "[TAIL] person ann [/TAIL] kissed bob in [HEAD] paris [/HEAD]",
    ]
    assert batch["pair_index"].tolist() == [[[0, 1]], [[0, 1]]]


@pytest.mark.parametrize(
    "user_text", ["[ENT] Ann [/ENT] [SEP] Bob", "[ent]Ann[SEP][CLS] Bob[/HEAD]", "Ann [PAD][MASK][UNK] Bob"]
)
def test_markers_and_special_tokens_in_a_text_stay_text(
    processor: RocProcessor, user_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = user_text.index("Ann"), user_text.index("Bob")
    monkeypatch.setattr(processor, "entity_types", ["[SEP]"])
    batch = processor(text=user_text, entities=[(ann, ann + 3, "[SEP]"), (bob, bob + 3)])
    special = [token for token in tokens(processor, batch) if token in processor.tokenizer.all_special_tokens]
    assert special == ["[CLS]", "[ENT]", "[/ENT]", "[ENT]", "[/ENT]", "[SEP]"]


def test_markers_in_a_description_stay_text(processor: RocProcessor) -> None:
    batch = processor.tokenize_descriptions(["the [ENT] loves [SEP] the tail"])
    special = [token for token in tokens(processor, batch) if token in processor.tokenizer.all_special_tokens]
    assert special == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("so 😀👩‍👩‍👧 Bob", "Bob"),
        ("😀😀", "😀"),
        ("e\u0301 Zoe\u0308 met", "Zoe\u0308"),  # combining accents
        ("קרא לאנה היום", "לאנה"),  # right to left
        ("安娜在巴黎见鲍勃", "巴黎"),
        ("  \t Bob\n\n met  ", "Bob"),  # white space at the ends
        ("a\u00a0Bob\u200b!", "Bob"),
    ],
)
def test_offsets_count_characters_in_every_script(byte_processor: RocProcessor, text: str, name: str) -> None:
    start = text.rindex(name)
    span = (start, start + len(name))
    batch = byte_processor(text=text, entities=[span, (0, len(text))], pairs=[(0, 1)])
    ids = batch["input_ids"][0].tolist()
    opening = batch["entity_positions"][0, 0].item()
    closing = ids.index(byte_processor.tokenizer.convert_tokens_to_ids("[/ENT]"), opening)
    assert byte_processor.tokenizer.decode(ids[opening + 1 : closing]).strip() == name
    assert byte_processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_byte_level_tokenizer_reads_the_same_tokens_as_without_markers(byte_processor: RocProcessor) -> None:
    batch = byte_processor(text="So Ann met Ann, Bob", entities=[(3, 6), (11, 14), (16, 19)])
    read = tokens(byte_processor, batch)
    assert [token for token in read if token not in ("[ENT]", "[/ENT]")] == tokens(
        byte_processor, byte_processor.tokenizer(["So Ann met Ann, Bob"], return_tensors="pt")
    )
    assert read.count("ĠAnn") == 2
    assert_positions_at_opening_markers(byte_processor, batch)


def test_types_do_not_touch_the_name_in_a_byte_level_tokenizer(
    byte_processor: RocProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_processor, "entity_types", ["Ann"])
    read = tokens(byte_processor, byte_processor(text="Ann met Ann", entities=[(0, 3), (8, 11, "Ann")]))
    assert read[read.index("[ENT]", 2) :] == ["[ENT]", "ĠAnn", "ĠAnn", "[/ENT]", "</s>"]


def test_padding_uses_the_tokenizer_s_own_token(byte_processor: RocProcessor) -> None:
    batch = byte_processor(text=["Ann met Bob", "A B"], entities=[[(0, 3), (8, 11)], [(0, 1), (2, 3)]])
    padding = batch["input_ids"][1][batch["attention_mask"][1] == 0]
    assert len(padding)
    assert set(padding.tolist()) == {byte_processor.tokenizer.pad_token_id}


def test_the_markers_are_added_once_and_other_special_tokens_stay() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["[URL]"]})
    tiny_processor(tokenizer=tokenizer)
    size = len(tokenizer)
    tiny_processor(tokenizer=tokenizer)
    assert len(tokenizer) == size
    assert {"[URL]", "[ENT]", "[/ENT]"} <= set(tokenizer.all_special_tokens)


# ---------------------------------------------------------------------------------------------------------------------
# Long texts


def long_text(gap: int) -> tuple[str, list[tuple[int, int]]]:
    text = "ann met bob " + "the " * gap + "eve in paris"
    return text, [(text.index(name), text.index(name) + len(name)) for name in ("ann", "bob", "eve", "paris")]


def test_a_long_text_keeps_a_window_with_every_asked_for_entity_and_says_truncated() -> None:
    processor = tiny_processor(max_length=16)
    text, entities = long_text(gap=40)
    for pairs in ([(0, 1)], [(3, 2)], [(2, 3), (3, 2)]):
        batch = processor(text=text, entities=entities, pairs=pairs)
        assert batch["input_ids"].shape == (1, 16)
        assert batch["truncated"].tolist() == [True]
        read = tokens(processor, batch)
        assert (read[0], read[-1]) == ("[CLS]", "[SEP]")
        for number in {number for pair in pairs for number in pair}:
            position = batch["entity_positions"][0, number].item()
            assert read[position : position + 3] == ["[ENT]", text[slice(*entities[number])], "[/ENT]"]


def test_the_window_is_centred_on_the_asked_for_entities() -> None:
    processor = tiny_processor(max_length=16)
    text = "the " * 30 + "ann met bob" + " the" * 30
    batch = processor(text=text, entities=[(120, 123), (128, 131)])
    assert batch["entity_positions"].tolist() == [[4, 8]]


def test_entities_that_nobody_asked_for_may_fall_out_of_the_window() -> None:
    processor = tiny_processor(max_length=16)
    text, entities = long_text(gap=40)
    batch = processor(text=text, entities=entities, pairs=[(2, 3)])
    assert tokens(processor, batch).count("[ENT]") == 2
    assert batch["entity_positions"][0, :2].tolist() == [0, 0]


def test_leaving_out_markers_that_nobody_asked_for_can_be_enough() -> None:
    text, entities = long_text(gap=4)
    whole = tiny_processor()(text=text, entities=entities, pairs=[(0, 3)])
    processor = tiny_processor(max_length=whole["input_ids"].shape[1] - 1)
    batch = processor(text=text, entities=entities, pairs=[(0, 3)])
    assert batch["truncated"].tolist() == [False]
    assert " ".join(tokens(processor, batch)) == (
        "[CLS] [ENT] ann [/ENT] met bob the the the the eve in [ENT] paris [/ENT] [SEP]"
    )
    assert_positions_at_opening_markers(processor, processor(text=text, entities=[entities[0], entities[3]]))


def test_a_text_that_just_fits_is_not_truncated() -> None:
    text, entities = long_text(gap=4)
    length = tiny_processor()(text=text, entities=entities)["input_ids"].shape[1]
    batch = tiny_processor(max_length=length)(text=text, entities=entities)
    assert batch["input_ids"].shape[1] == length
    assert not batch["truncated"].any()


def test_an_entity_beyond_the_length_limit_is_named() -> None:
    processor = tiny_processor(max_length=16)
    text, entities = long_text(gap=40)
    message = r"sample 0: entity 3 'paris' \(characters \d+-\d+\) does not fit: .* 50 tokens, but max_length leaves 14"
    with pytest.raises(ValueError, match=message):
        processor(text=text, entities=entities, pairs=[(0, 3)])


def test_a_long_text_with_objects_only_keeps_its_beginning() -> None:
    batch = tiny_processor(max_length=16)(text="the " * 30, entities=[BOX, OTHER_BOX], images=tiny_picture())
    assert batch["input_ids"].shape == (1, 16)
    assert batch["truncated"].tolist() == [True]
    assert batch["entity_positions"].tolist() == [[0, 1]]


# ---------------------------------------------------------------------------------------------------------------------
# Batches

POSTS: list[dict[str, Any]] = [
    {
        "text": TEXT,
        "entities": [ANN, (*BOB, "person"), PARIS, BOX],
        "pairs": [(0, 1), (1, 0), (0, 3)],
        "labels": [1, 0, 3],
    },
    {"text": "Eve visits Berlin", "entities": [(0, 3), (11, 17)], "pairs": [(0, 1)], "labels": [2]},
    {"text": "Bob", "entities": [(0, 3), BOX, OTHER_BOX], "pairs": [(2, 0), (1, 0)], "labels": [0, 0]},
]
PICTURES = [tiny_picture("red"), None, picture_bytes(tiny_picture("blue"))]


def as_batch(posts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: [post[name] for post in posts] for name in posts[0]}


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_a_batch_is_its_samples_one_by_one(markers: str) -> None:
    processor = tiny_processor(markers=markers)
    batch = processor(images=PICTURES, **as_batch(POSTS))
    first = 0
    for post, picture in zip(POSTS, PICTURES):
        single = processor(images=picture, **post)
        rows = slice(first, first + len(single["input_ids"]))
        first = rows.stop
        for name in ("input_ids", "attention_mask", "entity_positions", "entity_is_region", "pair_index", "pair_mask"):
            own = single[name]
            assert torch.equal(batch[name][rows][tuple(slice(size) for size in own.shape)], own), name
        assert batch["attention_mask"][rows].sum() == single["attention_mask"].sum()
        assert batch["pair_mask"][rows].sum() == single["pair_mask"].sum() == len(post["pairs"])
        assert torch.equal(batch["labels"][rows][batch["pair_mask"][rows].bool()], torch.tensor(post["labels"]))
        if "region_boxes" in single:
            width = single["region_boxes"].shape[1]
            assert torch.equal(batch["region_boxes"][rows, :width], single["region_boxes"])
            assert batch["region_mask"][rows].sum() == single["region_mask"].sum()
        if picture is not None:
            shown = batch["pixel_values"][batch["image_index"][rows]]
            assert torch.equal(shown, single["pixel_values"][single["image_index"]])
    assert first == len(batch["input_ids"])


def test_different_numbers_of_entities_and_pairs_are_padded(processor: RocProcessor) -> None:
    batch = processor(**as_batch(POSTS), pictures_left_out=True)
    assert batch["entity_positions"].shape == batch["entity_is_region"].shape == (3, 4)
    assert batch["pair_index"].shape == (3, 3, 2)
    assert batch["pair_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch["labels"].tolist() == [[1, 0, 3], [2, -100, -100], [0, 0, -100]]
    assert batch["entity_is_region"].tolist() == [
        [False, False, False, True],
        [False, False, False, False],
        [False, True, True, False],
    ]
    assert batch["region_mask"].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert batch["region_boxes"].shape == (3, 2, 4)
    assert (batch["attention_mask"].dtype, batch["pair_index"].dtype) == (torch.int64, torch.int64)
    assert (batch["region_boxes"].dtype, batch["truncated"].dtype) == (torch.float32, torch.bool)


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_the_pair_mask_selects_pairs_in_the_given_order(markers: str) -> None:
    batch = tiny_processor(markers=markers)(**as_batch(POSTS), pictures_left_out=True)
    assert batch["labels"][batch["pair_mask"].bool()].tolist() == [1, 0, 3, 2, 0, 0]


def test_pairs_default_to_all_ordered_pairs(processor: RocProcessor, pair_processor: RocProcessor) -> None:
    batch = processor(text=TEXT, entities=[ANN, BOB, PARIS])
    assert batch["pair_index"].tolist() == [[[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]]
    assert len(pair_processor(text=TEXT, entities=[ANN, BOB, PARIS])["input_ids"]) == 6


def test_a_text_without_pairs_may_stand_beside_one_with(processor: RocProcessor, pair_processor: RocProcessor) -> None:
    batch = {"text": ["nothing", TEXT], "entities": [[], [ANN, BOB]], "pairs": [None, [(0, 1)]]}
    assert processor(**batch)["pair_mask"].tolist() == [[0], [1]]
    assert pair_processor(**batch)["pair_mask"].tolist() == [[1]]


def test_words_give_the_same_tensors_as_their_text(processor: RocProcessor) -> None:
    words: dict[str, Any] = {"text": TEXT.split(), "entities": [(0, 1), (2, 3), (4, 5, "location"), BOX]}
    by_words = processor(**words, images=tiny_picture(), is_split_into_words=True)
    by_text = processor(text=TEXT, entities=[ANN, BOB, (*PARIS, "location"), BOX], images=tiny_picture())
    assert by_words.keys() == by_text.keys()
    assert all(torch.equal(by_words[name], by_text[name]) for name in by_text)


def test_a_batch_of_words_is_a_list_of_lists(processor: RocProcessor) -> None:
    words = [TEXT.split(), ["Bob", "Ann"]]
    batch = processor(text=words, entities=[[(0, 1), (2, 3)], [(0, 1), (1, 2)]], is_split_into_words=True)
    assert batch["input_ids"].shape[0] == 2


def test_an_object_s_position_is_its_number_among_the_objects(processor: RocProcessor) -> None:
    batch = processor(text=TEXT, entities=[BOX, ANN, OTHER_BOX], images=tiny_picture())
    assert batch["entity_positions"].tolist() == [[0, 1, 1]]
    assert batch["entity_is_region"].tolist() == [[True, False, True]]
    assert batch["region_boxes"].tolist() == [[list(BOX["bbox"]), list(OTHER_BOX["bbox"])]]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def test_the_same_picture_in_a_batch_is_one_row_of_pixels(processor: RocProcessor) -> None:
    red, blue = tiny_picture("red"), picture_bytes(tiny_picture("blue"))
    images = [red, blue, None, red, bytes(bytearray(blue)), picture_bytes(tiny_picture("green"))]
    batch = processor(text=[TEXT] * 6, images=images, entities=[[ANN, BOB]] * 6)
    assert batch["image_index"].tolist() == [0, 1, -1, 0, 1, 2]
    assert batch["pixel_values"].shape == (3, 3, 32, 32)


def test_the_rows_of_one_picture_share_it_in_pair_mode(pair_processor: RocProcessor) -> None:
    batch = pair_processor(text=TEXT, images=picture_bytes(tiny_picture()), entities=[ANN, BOB, PARIS])
    assert batch["image_index"].tolist() == [0] * 6
    assert len(batch["pixel_values"]) == 1


def test_a_missing_picture_is_no_black_picture(processor: RocProcessor) -> None:
    batch = processor(text=[TEXT, TEXT], images=[None, tiny_picture("white")], entities=[[ANN, BOB]] * 2)
    assert batch["image_index"].tolist() == [-1, 0]
    assert len(batch["pixel_values"]) == 1
    assert (batch["pixel_values"] > 0).all()


def test_a_batch_without_pictures_has_no_pixels(processor: RocProcessor) -> None:
    for images in (None, [None, None]):
        batch = processor(text=[TEXT, TEXT], images=images, entities=[[ANN, BOB]] * 2)
        assert "pixel_values" not in batch
        assert "image_index" not in batch


def test_a_bad_picture_is_named(processor: RocProcessor) -> None:
    posts = {"text": [TEXT, TEXT], "entities": [[ANN, BOB]] * 2}
    with pytest.raises(ValueError, match="sample 1: these 5 bytes are no picture"):
        processor(images=[None, b"12345"], **posts)
    with pytest.raises(TypeError, match=r"sample 1: a picture must be a PIL image .*given str"):
        processor(images=[None, "https://example.org/cat.png"], **posts)
    with pytest.raises(TypeError, match=r"sample 0: a picture must be a PIL image .*given str"):
        processor(text=TEXT, images="/etc/passwd", entities=[ANN, BOB])


@pytest.mark.parametrize(
    ("picture", "level"),
    [
        (tiny_picture((0, 0, 0, 0), mode="RGBA"), 1.0),
        (tiny_picture((0, 0, 0, 128), mode="RGBA"), 127 / 255 * 2 - 1),
        (tiny_picture(0x8000, mode="I;16"), 128 / 255 * 2 - 1),
        (tiny_picture(51, mode="L", size=(1, 1)), -0.6),
        (tiny_picture((51, 51, 51), size=(1, 400)), -0.6),
    ],
    ids=["transparent", "half transparent", "16-bit", "1 x 1", "1 x 400"],
)
def test_an_unusual_picture_is_read_as_it_looks(processor: RocProcessor, picture: Image.Image, level: float) -> None:
    pixels = processor(text=TEXT, images=picture_bytes(picture), entities=[ANN, BOX])["pixel_values"]
    torch.testing.assert_close(pixels, torch.full((1, 3, 32, 32), level))  # -1 is black, 1 is white


def test_a_decompression_bomb_is_named(processor: RocProcessor) -> None:
    posts = {"text": [TEXT, TEXT], "entities": [[ANN, BOB]] * 2}
    with pytest.raises(ValueError, match=r"sample 1: the picture has too many pixels, at most 64,000,000 are decoded"):
        processor(images=[tiny_picture(), png_that_claims(20_000, 20_000)], **posts)


def test_a_processor_without_image_processor_reads_text_only() -> None:
    processor = tiny_processor(vision=False)
    assert not processor.reads_images
    assert "pixel_values" not in processor(text=TEXT, entities=[ANN, BOB])
    with pytest.raises(ValueError, match="sample 1: a picture was given, but this processor's model reads text only"):
        processor(text=[TEXT] * 2, images=[None, tiny_picture()], entities=[[ANN, BOB]] * 2)


# ---------------------------------------------------------------------------------------------------------------------
# Types


class FakeTyper:
    """Types everything as a person, and remembers what it was asked."""

    name = "fake"

    def __init__(self, answer: str | None = "person") -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[Any]]) -> list[list[str | None]]:
        self.asked.append((list(texts), [list(row) for row in spans]))
        return [[self.answer for _ in row] for row in spans]


def processor_with(typer: FakeTyper, monkeypatch: pytest.MonkeyPatch) -> RocProcessor:
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: {"fake": typer}[name])
    return tiny_processor(entity_typer="fake")


def test_the_typer_is_asked_only_for_text_entities_without_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    typer = FakeTyper()
    processor = processor_with(typer, monkeypatch)
    entities = [[(*ANN, "location"), (*BOB, ""), PARIS, BOX], [(*ANN, ""), (*BOB, "")], [ANN, BOB]]
    typed = processor.type_entities([TEXT] * 3, entities)
    assert typer.asked == [([TEXT, TEXT], [[PARIS], [ANN, BOB]])]
    assert [[entity.type for entity in own] for own in typed] == [
        ["location", "", "person", None],
        ["", ""],
        ["person", "person"],
    ]


def test_what_was_typed_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    typer = FakeTyper(answer=None)
    processor = processor_with(typer, monkeypatch)
    typed = processor.type_entities([TEXT], [[ANN, BOB]])
    batch = processor(text=[TEXT], entities=typed)
    assert len(typer.asked) == 1
    assert " ".join(tokens(processor, batch)[1:4]) == "[ENT] ann [/ENT]"


def test_the_typer_is_not_loaded_when_every_type_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: pytest.fail("the typer was loaded"))
    given = [(*ANN, "person"), (*BOB, ""), BOX]
    tiny_processor(entity_typer="fake")(text=TEXT, entities=given, images=tiny_picture())


def test_without_a_typer_entities_stay_untyped(processor: RocProcessor) -> None:
    assert marked(processor, TEXT, [ANN, BOB]) == "[ENT] ann [/ENT] kissed [ENT] bob [/ENT] in paris"


def test_what_the_model_reads_does_not_depend_on_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = processor_with(FakeTyper(), monkeypatch)
    given = {"text": TEXT, "images": tiny_picture(), "entities": [ANN, BOB, BOX], "pairs": [(0, 1), (0, 2)]}
    plain = processor(**given)
    for labels in ([0, 1], [3, 2], [-100, 0]):
        batch = processor(labels=labels, **given)
        assert batch.keys() - plain.keys() == {"labels"}
        assert all(torch.equal(batch[name], plain[name]) for name in plain)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": None}, ValueError, "ROC needs `text` and its `entities`"),
        ({"entities": None}, ValueError, "ROC needs `text` and its `entities`"),
        ({"text": 5}, TypeError, "`text` must be a list with one entry per text; given a int"),
        ({"text": []}, ValueError, "`entities` must have one entry per text: 0 texts, given 2"),
        ({"text": [], "entities": []}, ValueError, "The batch is empty"),
        ({"text": [TEXT, TEXT]}, TypeError, r"sample 0: entities must be a list|give a mapping"),
        ({"text": [TEXT] * 3}, ValueError, "`entities` must have one entry per text: 3 texts, given 2"),
        ({"text": [5], "entities": [[ANN]]}, TypeError, "sample 0: text must be a string; given 5"),
        ({"text": "a\ud83d Ann"}, ValueError, "sample 0: the text is not valid Unicode .*lone surrogates"),
        ({"entities": "Ann"}, TypeError, "sample 0: entities must be a list"),
        ({"entities": [ANN, (4, 99)]}, ValueError, r"sample 0, entity 1: the span \(4, 99\) lies outside the text"),
        ({"entities": [ANN, (11, 11)]}, ValueError, r"sample 0, entity 1: the span \(11, 11\) is empty"),
        ({"entities": [ANN, (14, 11)]}, ValueError, r"sample 0, entity 1: the span \(14, 11\) is reversed"),
        ({"entities": [ANN, {"bbox": (0, 0, 2, 1)}]}, ValueError, r"sample 0, entity 1: bbox .* is not a box"),
        ({"entities": [ANN, {"bbox": (0.2, 0.1, 0.2, 0.9)}]}, ValueError, r"sample 0, entity 1: bbox .* is not a box"),
        ({"entities": [ANN, {"type": "object"}]}, TypeError, "sample 0, entity 1: start and end .*or give a bbox"),
        ({"entities": [ANN, {"bbox": None}]}, TypeError, "sample 0, entity 1: start and end .*or give a bbox"),
        ({"entities": [ANN]}, ValueError, "No text has a pair: give at least one of them two entities"),
        ({"pairs": []}, ValueError, "No text has a pair"),
        ({"pairs": [(0, 2)]}, ValueError, r"sample 0: the pair \(0, 2\) must name two different entities out of 2"),
        ({"pairs": 3}, TypeError, "sample 0: pairs must be a list"),
        ({"labels": [1]}, ValueError, "sample 0: 1 labels were given for 2 pairs"),
        ({"labels": 1}, TypeError, "sample 0: labels must be a list of whole numbers"),
        ({"labels": [1, 0.5]}, TypeError, "sample 0: labels must be a list of whole numbers"),
        ({"labels": ["None", "None"]}, TypeError, "sample 0: labels must be a list of whole numbers"),
        ({"labels": [1, -1]}, ValueError, "sample 0: labels are indices of relations, or -100 for none"),
        ({"entities": [BOX] * 11}, ValueError, "sample 0: 11 objects were given, but max_regions=10"),
        ({"return_tensors": "np"}, ValueError, "return_tensors='np' is not supported"),
    ],
)
def test_a_malformed_call_is_refused(
    processor: RocProcessor, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        processor(**({"text": TEXT, "entities": [ANN, BOB]} | change))


@pytest.mark.parametrize("column", ["images", "pairs", "labels"])
def test_a_batch_needs_one_entry_per_text_in_every_column(processor: RocProcessor, column: str) -> None:
    posts = {"text": [TEXT] * 2, "entities": [[ANN, BOB]] * 2}
    with pytest.raises(ValueError, match=f"`{column}` must have one entry per text: 2 texts, given 1"):
        processor(**posts, **{column: [None]})
    with pytest.raises(TypeError, match=f"`{column}` must be a list with one entry per text; given a "):
        processor(**posts, **{column: picture_bytes(tiny_picture())})


def test_errors_call_samples_what_the_caller_calls_them(processor: RocProcessor) -> None:
    posts = {"text": [TEXT] * 2, "entities": [[ANN, BOB], [ANN, (11, 99)]]}
    with pytest.raises(ValueError, match=r"^row 7, entity 1: the span \(11, 99\)"):
        processor(**posts, where=["row 3", "row 7"])


def test_unknown_arguments_are_refused(processor: RocProcessor) -> None:
    with pytest.raises(TypeError, match="image"):
        processor(text=TEXT, entities=[ANN, BOB], image=tiny_picture())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"markers": "entity"}, "markers='entity' is not known: give 'entities' or 'pair'"),
        ({"max_length": 7}, "max_length=7 is out of range: give a whole number >= 8"),
        ({"max_length": 64.0}, "max_length=64.0 is out of range"),
        ({"max_length": 513}, "max_length=513 is more than the 512 tokens"),
        ({"max_description_length": 0}, "max_description_length=0 is out of range"),
        ({"max_regions": -1}, "max_regions=-1 is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_processor(**setting)


def test_a_processor_needs_a_tokenizer() -> None:
    with pytest.raises(TypeError, match="tokenizer"):
        RocProcessor()


def test_a_description_that_is_too_long_is_refused() -> None:
    processor = tiny_processor(max_description_length=8)
    assert processor.tokenize_descriptions(["the " * 6])["input_ids"].shape == (1, 8)
    with pytest.raises(ValueError, match=r"A description has 9 tokens, but at most 8 are read .*'the the"):
        processor.tokenize_descriptions(["short", "the " * 7])


def test_descriptions_must_not_be_empty(processor: RocProcessor) -> None:
    with pytest.raises(ValueError, match="descriptions is empty"):
        processor.tokenize_descriptions([])


def test_descriptions_are_padded_and_masked(processor: RocProcessor) -> None:
    batch = processor.tokenize_descriptions(["the head", "the head loves the tail"])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]


# ---------------------------------------------------------------------------------------------------------------------
# Saving and loading

SETTINGS = {
    "markers": "pair",
    "max_length": 77,
    "max_description_length": 33,
    "max_regions": 3,
    "entity_typer": "spacy",
}


def test_every_setting_survives_saving_and_loading(tmp_path: Path) -> None:
    for vision in (True, False):
        processor = tiny_processor(vision=vision, **SETTINGS)
        processor.save_pretrained(tmp_path / str(vision))
        loaded = RocProcessor.from_pretrained(tmp_path / str(vision))
        assert {name: getattr(loaded, name) for name in SETTINGS} == SETTINGS
        assert loaded.reads_images is vision
        assert len(loaded.tokenizer) == len(processor.tokenizer)
        post = {"text": TEXT, "entities": [(*ANN, ""), (*BOB, "person")]}
        assert torch.equal(loaded(**post)["input_ids"], processor(**post)["input_ids"])
    loaded = RocProcessor.from_pretrained(tmp_path / "True")
    assert loaded.image_processor.to_dict()["size"] == {"height": 32, "width": 32}


def test_settings_given_on_loading_win(tmp_path: Path) -> None:
    tiny_processor(**SETTINGS).save_pretrained(tmp_path)
    assert RocProcessor.from_pretrained(tmp_path, max_length=99).max_length == 99


PROGRAM = """
import sys
sys.modules["roc"] = None  # `import roc` fails, as where it is not installed
import json
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = processor(text=sys.argv[2], entities=[(0, 3, ""), (11, 14, "person")])
settings = ("markers", "max_length", "max_description_length", "max_regions", "entity_typer")
print(json.dumps({
    "settings": {name: getattr(processor, name) for name in settings},
    "reads_images": processor.reads_images,
    "input_ids": batch["input_ids"].tolist(),
}))
"""


def test_the_saved_folder_loads_where_roc_is_not_installed(tmp_path: Path) -> None:
    processor = tiny_processor(vision=False, tokenizer=tiny_byte_tokenizer(), **SETTINGS)
    folder, elsewhere = tmp_path / "saved", tmp_path / "elsewhere"
    processor.save_pretrained(folder)
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), TEXT],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    batch = processor(text=TEXT, entities=[(*ANN, ""), (*BOB, "person")])
    assert loaded == {"settings": SETTINGS, "reads_images": False, "input_ids": batch["input_ids"].tolist()}


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer, tiny_byte_tokenizer])
def test_offsets_say_which_token_is_which_part_of_the_text(tokenizer: Callable[[], Any]) -> None:
    processor = tiny_processor(vision=False, tokenizer=tokenizer(), max_length=24)
    text = "ann met bob in berlin " + "today " * 30
    entities = [{"start": 0, "end": 3, "type": "person"}, {"start": 8, "end": 11}]
    plain = processor([text, "eve met ann"], entities=[entities, [(0, 3), (8, 11)]])
    batch = processor([text, "eve met ann"], entities=[entities, [(0, 3), (8, 11)]], return_offsets_mapping=True)
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    assert batch["offset_mapping"].shape == (2, 24, 2)
    for row, own in enumerate([text, "eve met ann"]):
        for token, (start, end) in zip(batch["input_ids"][row], batch["offset_mapping"][row].tolist(), strict=True):
            if end:
                assert processor.tokenizer.decode(token).strip() in ("", own[start:end].strip())
            else:
                assert (start, end) == (0, 0)
    kept = [text[start:end].strip() for start, end in batch["offset_mapping"][0].tolist() if end]
    assert "".join(kept).startswith("annmetbob")
    assert "offset_mapping" not in plain
