"""Names of objects (a detector's labels, captions) read as text behind the post."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_picture, tiny_processor

from roc.processing_marking_roc import MAX_NAME_TOKENS
from roc.processing_roc import RocProcessor

PICTURE = tiny_picture("red")
ANN = {"start": 0, "end": 3, "type": "person"}
NAMED = {"bbox": (0.1, 0.1, 0.6, 0.9), "name": "the post", "type": "object"}
OTHER = {"bbox": (0.5, 0.1, 0.9, 0.9), "name": "berlin"}
UNNAMED = {"bbox": (0.0, 0.0, 0.4, 0.4)}


@pytest.fixture
def reads_names() -> RocProcessor:
    return tiny_processor(object_names=True)


def read(processor: RocProcessor, text: str, entities: list[Any], **options: Any) -> tuple[list[str], Any]:
    """The tokens that the model reads, and the batch."""
    batch = processor(text, PICTURE, entities, **options)
    return processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0]), batch


def test_names_follow_the_text_each_marked_and_typed(reads_names: RocProcessor) -> None:
    tokens, batch = read(reads_names, "ann met", [ANN, NAMED, UNNAMED, OTHER])
    expected = "[CLS] [ENT] person ann [/ENT] met [ENT] object the post [/ENT] [ENT] berlin [/ENT] [SEP]"
    assert tokens == expected.split()
    assert batch["region_name_positions"].tolist() == [[6, -1, 11]]
    assert batch["entity_positions"].tolist() == [[1, 0, 1, 2]]
    assert not batch["truncated"].any()


def test_pair_markers_name_the_object_in_its_role() -> None:
    tokens, _ = read(tiny_processor("pair", object_names=True), "ann met", [ANN, NAMED], pairs=[(0, 1)])
    assert " ".join(tokens) == "[CLS] [HEAD] person ann [/HEAD] met [TAIL] object the post [/TAIL] [SEP]"


def test_names_are_not_read_unless_asked_for() -> None:
    processor = tiny_processor()
    tokens, batch = read(processor, "ann met", [ANN, NAMED])
    assert tokens == ["[CLS]", "[ENT]", "person", "ann", "[/ENT]", "met", "[SEP]"]
    assert "region_name_positions" not in batch


def test_a_name_of_a_text_entity_is_not_read_twice(reads_names: RocProcessor) -> None:
    tokens, _ = read(reads_names, "ann met", [ANN | {"name": "ann"}, UNNAMED])
    assert tokens.count("ann") == 1


def test_a_marker_in_a_name_is_text(reads_names: RocProcessor) -> None:
    tokens, _ = read(reads_names, "ann met", [ANN, NAMED | {"name": "[/ENT]"}])
    assert tokens.count("[/ENT]") == 2


def test_a_long_name_is_cut_and_the_cut_is_told(reads_names: RocProcessor) -> None:
    tokens, batch = read(reads_names, "ann met", [ANN, NAMED | {"name": "berlin " * 40}])
    assert tokens.count("berlin") == MAX_NAME_TOKENS - 1  # the type takes one
    assert batch["truncated"].tolist() == [True]


def test_a_long_text_makes_room_for_names_and_its_entities_stay() -> None:
    processor = tiny_processor(object_names=True, max_length=16)
    tokens, batch = read(processor, "ann met " + "today " * 30, [ANN, NAMED])
    assert len(tokens) == 16
    assert tokens[-6:] == ["[ENT]", "object", "the", "post", "[/ENT]", "[SEP]"]
    assert tokens[batch["region_name_positions"][0, 0]] == "[ENT]"
    assert batch["truncated"].tolist() == [True]


def test_names_give_way_where_the_entities_need_the_room() -> None:
    processor = tiny_processor(object_names=True, max_length=16)
    text = "ann met " + "today " * 6 + "bob"
    entities = [ANN, {"start": len(text) - 3, "end": len(text)}, NAMED]
    tokens, batch = read(processor, text, entities, pairs=[(0, 1), (0, 2)])
    assert (tokens.count("ann"), tokens.count("bob"), tokens.count("post")) == (1, 1, 0)
    assert batch["region_name_positions"].tolist() == [[-1]]
    assert batch["truncated"].tolist() == [True]


def test_a_name_that_is_no_string_is_refused(reads_names: RocProcessor) -> None:
    with pytest.raises(TypeError, match="sample 0, entity 1: name must be a string or None; given 7"):
        read(reads_names, "ann met", [ANN, NAMED | {"name": 7}])


def test_a_name_changes_its_own_objects_vector(reads_names: RocProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(reads_names)
    both = [ANN, NAMED, UNNAMED]
    batch = reads_names(["ann met"] * 2, [PICTURE] * 2, [both, [ANN, NAMED | {"name": "a berlin"}, UNNAMED]])
    regions: list[torch.Tensor] = []
    fuse = model._fuse

    def keep_regions(parts: Any, positions: torch.Tensor) -> torch.Tensor:
        regions.append(parts[1][0])
        return fuse(parts, positions)

    monkeypatch.setattr(model, "_fuse", keep_regions)
    model(**batch)
    [[first, second]] = regions
    assert not torch.allclose(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])


def test_a_batch_with_names_gives_what_its_posts_give_one_by_one(reads_names: RocProcessor) -> None:
    model = tiny_model(reads_names)
    posts = [("ann met bob today", [ANN, NAMED]), ("eve", [{"start": 0, "end": 3}, OTHER]), ("bob", [(0, 3), UNNAMED])]
    together = model(**reads_names([text for text, _ in posts], [PICTURE] * 3, [own for _, own in posts])).logits
    for row, (text, own) in zip(together, posts, strict=True):
        alone = model(**reads_names(text, PICTURE, own)).logits
        torch.testing.assert_close(alone[0], row, rtol=1e-4, atol=1e-4)


def test_the_setting_is_saved_with_the_processor(reads_names: RocProcessor, tmp_path: Any) -> None:
    reads_names.save_pretrained(tmp_path)
    assert RocProcessor.from_pretrained(tmp_path).object_names
