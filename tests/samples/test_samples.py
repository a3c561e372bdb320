"""From rows to batches: grouping, entity order, collation, and batches of like length."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
import torch
from rows import ANN, BALL, BLUE, BOB, NAMES, PARIS, RED, TEXT, TREE, picture, row
from tiny import tiny_processor
from tiny_samples import grouped

from roc.dataset_scripts.schema import text_entity
from roc.processing_entities_roc import NO_LABEL
from roc.samples.batching import LengthBucketBatchSampler, SampleCollator
from roc.samples.grouping import GroupedSamples
from roc.samples.splitting import check_relations_known, sample_rows, swap_none_pairs


def places(samples: GroupedSamples, number: int = 0) -> list[tuple[Any, ...]]:
    entities = samples.samples[number].entities
    return [(entity.start, entity.end) if entity.bbox is None else entity.bbox for entity in entities]


ROWS = [
    row("1", BOB, PARIS, relation=NAMES[2], image=picture(RED)),
    row("2", BALL, ANN, image=picture(RED)),
    row("3", ANN, BOB, relation=NAMES[1], image=picture(RED)),
    row("4", TREE, BALL, relation=NAMES[3], image=picture(RED)),
]


# --- grouping ----------------------------------------------------------------------------------------------------


def test_rows_with_the_same_text_and_picture_are_one_sample() -> None:
    samples = grouped(ROWS)
    [sample] = samples.samples
    assert (len(samples), samples.num_pairs) == (1, 4)
    assert sample.text == TEXT
    assert sample.row_ids == ["1", "2", "3", "4"]
    assert sample.relations == [NAMES[2], "None", NAMES[1], NAMES[3]]


def test_every_pair_points_to_the_entities_of_its_row() -> None:
    [sample] = grouped(ROWS).samples
    for (head, tail), original in zip(sample.pairs, ROWS, strict=True):
        for number, entity in ((head, original["head"]), (tail, original["tail"])):
            mine = sample.entities[number]
            assert (mine.start, mine.end) == (entity["start"], entity["end"])
            assert mine.bbox is None or mine.bbox == pytest.approx(entity["bbox"])


def test_entities_are_in_the_order_of_their_place_then_objects() -> None:
    boxes = [pytest.approx(BALL["bbox"]), pytest.approx(TREE["bbox"])]
    assert places(grouped(ROWS)) == [(0, 3), (11, 14), (18, 23), *boxes]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[1::5])
def test_entity_order_never_depends_on_the_order_of_pairs(order: tuple[int, ...]) -> None:
    [expected] = grouped(ROWS).samples
    [sample] = grouped([ROWS[number] for number in order]).samples
    assert sample.entities == expected.entities
    assert [sample.pairs[order.index(number)] for number in range(4)] == expected.pairs


def test_turning_a_pair_around_changes_the_pair_only() -> None:
    [sample], [turned] = grouped([row("1", ANN, BOB)]).samples, grouped([row("1", BOB, ANN)]).samples
    assert sample.entities == turned.entities
    assert (sample.pairs, turned.pairs) == ([(0, 1)], [(1, 0)])


@pytest.mark.parametrize("types", [("person", None), (None, "person")])
def test_an_entity_has_the_type_that_any_of_its_rows_states(types: tuple[Any, Any]) -> None:
    first, second = ({**BOB, "type": entity_type} for entity_type in types)
    [sample] = grouped([row("1", ANN, first), row("2", first, PARIS), row("3", second, ANN)]).samples
    assert sample.entities[1].type == "person"


def test_an_untyped_entity_stays_untyped_and_is_not_typed_again() -> None:
    [sample] = grouped([row("1", ANN, PARIS)]).samples
    assert [entity.type for entity in sample.entities] == ["person", ""]
    assert not any(entity.type is None for entity in sample.entities)


def test_other_pictures_or_no_picture_or_other_texts_are_other_samples() -> None:
    other = TEXT.replace("today", "again")
    samples = grouped(
        [
            row("1", image=picture(RED)),
            row("2", image=picture(BLUE)),
            row("3"),
            row("4", text=other),
            row("5"),
            row("6", image=picture(RED, "another_name.png")),
        ]
    )
    assert [sample.row_ids for sample in samples.samples] == [["1", "6"], ["2"], ["3", "5"], ["4"]]


def test_items_come_with_the_bytes_of_their_picture(tmp_path: Path) -> None:
    file = tmp_path / "blue.png"
    file.write_bytes(BLUE)
    samples = grouped([row("1", image=picture(RED)), row("2", image=str(file)), row("3")])
    assert [samples[number][1] for number in range(3)] == [RED, BLUE, None]
    assert [samples[number][0].row_ids for number in range(3)] == [["1"], ["2"], ["3"]]


def test_pictures_given_as_bytes_and_as_files_are_the_same_picture(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(RED)
    assert len(grouped([row("1", image=picture(RED)), row("2", image=str(file))])) == 1


def test_without_use_image_no_item_has_a_picture() -> None:
    samples = grouped(ROWS, use_image=False)
    assert samples[0][1] is None
    assert samples.num_pairs == 4


def test_a_duplicated_row_stays_two_rows() -> None:
    [sample] = grouped([row("1"), row("2")]).samples
    assert sample.pairs == [(0, 1), (0, 1)]
    assert len(sample.entities) == 2


def test_grouping_does_not_decode_pictures() -> None:
    assert len(grouped([row("1", image=picture(b"no picture"))])) == 1


# --- turning pairs without a relation ----------------------------------------------------------------------------


def many_rows() -> list[dict[str, Any]]:
    return [row(str(number), relation=NAMES[number % 2]) for number in range(200)]


def test_about_half_of_the_pairs_without_a_relation_are_turned_and_no_other() -> None:
    samples = grouped(many_rows())
    turned = swap_none_pairs(samples, "None")
    [sample] = samples.samples
    assert 35 <= turned <= 65  # of 100; three standard deviations
    by_relation = {name: [p for p, r in zip(sample.pairs, sample.relations) if r == name] for name in NAMES[:2]}
    assert by_relation["None"].count((1, 0)) == turned
    assert by_relation[NAMES[1]] == [(0, 1)] * 100
    assert sample.entities == grouped(many_rows()).samples[0].entities


def test_which_pairs_are_turned_depends_on_the_seed_and_the_rows_id_only() -> None:
    def turned_ids(rows: list[dict[str, Any]], seed: int) -> set[str]:
        samples = grouped(rows)
        swap_none_pairs(samples, "None", seed=seed)
        [sample] = samples.samples
        return {row_id for row_id, pair in zip(sample.row_ids, sample.pairs) if pair == (1, 0)}

    rows = many_rows()
    first = turned_ids(rows, 0)
    random.Random(1).shuffle(rows)
    assert turned_ids(rows, 0) == first
    assert turned_ids(rows, 1) != first


# --- collating ---------------------------------------------------------------------------------------------------


def test_a_batch_has_the_row_ids_in_the_order_of_its_real_pairs() -> None:
    samples = grouped([*ROWS, row("5", PARIS, ANN, relation=NAMES[1])])
    collate = SampleCollator(tiny_processor(), NAMES)
    row_ids, batch = collate([samples[1], samples[0]])
    assert row_ids == ["5", "1", "2", "3", "4"]
    assert batch["labels"][batch["pair_mask"].bool()].tolist() == [1, 2, 0, 1, 3]
    assert batch["image_index"].tolist() == [-1, 0]
    assert (batch["labels"] == -100).sum() == 3


def test_with_pair_markers_the_row_ids_fit_too() -> None:
    samples = grouped([*ROWS[:3], row("5", PARIS, ANN, relation=NAMES[1])])
    row_ids, batch = SampleCollator(tiny_processor(markers="pair"), NAMES)([samples[1], samples[0]])
    assert row_ids == ["5", "1", "2", "3"]
    assert batch["labels"][batch["pair_mask"].bool()].tolist() == [1, 2, 0, 1]
    assert len(batch["input_ids"]) == 4


def test_without_relations_a_batch_has_no_labels() -> None:
    samples = grouped([row("1", relation="never heard of")])
    assert "labels" not in SampleCollator(tiny_processor(), None)([samples[0]])[1]


def test_an_unknown_relation_in_a_batch_names_its_row() -> None:
    samples = grouped([row("1"), row("post-7", relation="/per/per/couples")])
    with pytest.raises(
        ValueError, match=r"'post-7' has the relation '/per/per/couples'.*Did you mean '/per/per/couple'"
    ):
        SampleCollator(tiny_processor(), NAMES)([samples[0]])


def test_an_epoch_shows_so_many_pairs_without_a_relation_and_the_others_in_turn() -> None:
    unrelated = [row(str(number), *pair) for number, pair in enumerate(itertools.permutations((ANN, BOB, PARIS), 2))]
    rows = [*unrelated[1:], row("related", ANN, BOB, relation=NAMES[1])]
    samples = grouped(rows)
    [sample] = samples.samples
    collate = SampleCollator(tiny_processor(), NAMES, none_relation=NAMES[0], max_none_pairs=2)
    shown = set()
    for epoch in range(20):
        collate.set_epoch(epoch)
        _, batch = collate([samples[0]])
        [labels] = batch["labels"].tolist()
        assert labels == collate([samples[0]])[1]["labels"].tolist()[0], "it depends on who asks"
        kept = [name for name, label in zip(sample.relations, labels) if label != NO_LABEL]
        assert sorted(kept) == sorted([NAMES[0], NAMES[0], NAMES[1]])
        shown |= {number for number, label in enumerate(labels) if label == 0}
    assert len(shown) == len(rows) - 1
    everything = SampleCollator(tiny_processor(), NAMES)([samples[0]])[1]["labels"]
    assert (everything != NO_LABEL).all()


def test_unknown_relations_of_a_split_are_all_named_before_training() -> None:
    samples = grouped([row("1"), row("post-7", relation="zzz"), row("8", relation="/per/per/couples")])
    with pytest.raises(
        ValueError, match=r"data, split val: .*'/per/per/couples', 'zzz'.*first is 'zzz' in row 'post-7'"
    ):
        check_relations_known(samples, NAMES, "data, split val")
    check_relations_known(grouped(ROWS), NAMES, "data")


@pytest.mark.parametrize(
    "broken",
    [
        row("post-7", image=picture(b"no picture")),
        row("post-7", ANN, ANN, image=picture(BLUE)),
        row("post-7", text_entity("a " * 99, 0, 1), text_entity("a " * 99, 196, 197), text="a " * 99),
    ],
    ids=["picture", "head and tail at one place", "entities too far apart"],
)
def test_what_cannot_be_encoded_names_its_row(broken: dict[str, Any]) -> None:
    """Otherwise an error in the middle of training says `sample 3` of a batch that nobody saw."""
    samples = grouped([row("1"), broken])
    with pytest.raises(ValueError, match="post-7"):
        SampleCollator(tiny_processor(max_length=64), NAMES)([samples[0], samples[1]])


def test_pairs_that_fit_alone_fit_when_their_text_is_encoded_once() -> None:
    """Two neighbours at the start and two at the end of a long text: each pair fits into max_length."""
    text = "ann met bob " + "a " * 99 + "eve met ann"
    first = row("1", text_entity(text, 0, 3), text_entity(text, 8, 11), text=text)
    last = row("2", text_entity(text, 210, 213), text_entity(text, 218, 221), text=text)
    assert last["head"]["name"] == "eve"
    collate = SampleCollator(tiny_processor(max_length=64), NAMES)
    for rows in ([first], [last], [first, last]):
        samples = grouped(rows)
        row_ids, batch = collate([samples[number] for number in range(len(samples))])
        assert sorted(row_ids) == [row["id"] for row in rows]
        assert batch["pair_mask"].sum() == len(rows)


def test_pairs_of_a_text_that_takes_several_windows_keep_their_order() -> None:
    text = "ann met bob " + "a " * 99 + "eve met ann"
    first, last = (
        (text_entity(text, 0, 3), text_entity(text, 8, 11)),
        (text_entity(text, 210, 213), text_entity(text, 218, 221)),
    )
    rows = [
        row("1", *last, relation=NAMES[3], text=text),
        row("2", *first, relation=NAMES[1], text=text),
        row("3", *reversed(last), relation=NAMES[2], text=text),
        row("4", *reversed(first), relation=NAMES[0], text=text),
    ]
    samples = grouped([*rows, row("5", relation=NAMES[1])])
    row_ids, batch = SampleCollator(tiny_processor(max_length=64), NAMES)([samples[0], samples[1]])
    assert len(batch["input_ids"]) > 2
    assert row_ids == ["1", "2", "3", "4", "5"]
    assert batch["labels"][batch["pair_mask"].bool()].tolist() == [3, 1, 2, 0, 1]


# --- batches of like length --------------------------------------------------------------------------------------

LENGTHS = [random.Random(0).choice([10, 20, 30, 40, 120]) + number % 7 for number in range(403)]


def batches(**options: Any) -> list[list[int]]:
    return list(LengthBucketBatchSampler(LENGTHS, 8, **options))


def padding(order: Sequence[Sequence[int]]) -> int:
    return sum(max(LENGTHS[n] for n in batch) * len(batch) - sum(LENGTHS[n] for n in batch) for batch in order)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("number", "batch_size"), [(403, 8), (16, 8), (3, 8), (1, 1), (0, 4), (403, 1)])
def test_every_sample_comes_exactly_once_in_an_epoch(number: int, batch_size: int, shuffle: bool) -> None:
    sampler = LengthBucketBatchSampler(LENGTHS[:number], batch_size, shuffle=shuffle, pool_size=4)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(itertools.chain(*order)) == list(range(number))
        assert len(order) == len(sampler)
        assert all(1 <= len(batch) <= batch_size for batch in order)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert batches(seed=3) == batches(seed=3)
    assert batches(seed=3) != batches(seed=4)
    sampler = LengthBucketBatchSampler(LENGTHS, 8, seed=3)
    orders = []
    for epoch in (0, 1, 2, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[1] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(sampler) == orders[3], "a second pass without set_epoch changed the order"


def test_epochs_differ_in_which_samples_meet_not_only_in_the_order_of_batches() -> None:
    sampler = LengthBucketBatchSampler(LENGTHS, 8)
    first = {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    second = {frozenset(batch) for batch in sampler}
    assert len(first & second) < len(first) / 4


def test_the_order_does_not_depend_on_the_global_random_state() -> None:
    random.seed(0)
    first = batches()
    random.seed(1)
    assert batches() == first


def test_batches_of_like_length_need_far_less_padding_than_shuffled_ones() -> None:
    order = list(range(len(LENGTHS)))
    random.Random(0).shuffle(order)
    shuffled = [order[start : start + 8] for start in range(0, len(order), 8)]
    assert padding(batches()) < padding(shuffled) / 4
    assert padding(batches(shuffle=False)) <= padding(batches())


def test_long_and_short_batches_are_mixed_over_the_epoch() -> None:
    means = [sum(LENGTHS[n] for n in batch) / len(batch) for batch in batches()]
    assert means != sorted(means)
    half = len(means) // 2
    assert abs(sum(means[:half]) / half - sum(means[half:]) / (len(means) - half)) < 25


def test_a_sampler_refuses_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="batch_size=0 is out of range"):
        LengthBucketBatchSampler(LENGTHS, 0)


def test_samples_say_about_how_long_they_are() -> None:
    long = "ann met bob in paris and berlin and paris and berlin today"
    samples = grouped([row("1", text="ann met bob", tail=text_entity("ann met bob", 8, 11)), row("2", text=long)])
    lengths = [sample.approximate_length for sample in samples.samples]
    assert lengths == sorted(lengths)


def test_a_picture_survives_the_way_through_the_collator() -> None:
    samples = grouped([row("1", image=picture(BLUE))])
    _, batch = SampleCollator(tiny_processor(), NAMES)([samples[0]])
    expected = tiny_processor().image_processor(PIL.Image.open(io.BytesIO(BLUE)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)


# --- few training rows -------------------------------------------------------------------------------------------


def related(counts: dict[str, int]) -> datasets.Dataset:
    names = [name for name, count in counts.items() for _ in range(count)]
    return datasets.Dataset.from_dict({"relation": names, "id": [str(number) for number in range(len(names))]})


def test_a_share_of_the_rows_keeps_the_shares_of_the_relations() -> None:
    drawn = sample_rows(related({"a": 200, "b": 41, "c": 3}), 0.1)
    names = drawn["relation"][:]
    assert {name: names.count(name) for name in "abc"} == {"a": 20, "b": 4, "c": 1}
    assert drawn["id"][:] == sorted(drawn["id"][:], key=int)


def test_the_draw_depends_on_the_seed_alone_and_a_larger_one_holds_the_smaller() -> None:
    rows = related({"a": 200, "b": 40})
    small, same, other = (set(sample_rows(rows, 0.1, seed=seed)["id"][:]) for seed in (0, 0, 1))
    assert small == same
    assert small != other
    assert small < set(sample_rows(rows, 0.5)["id"][:])
    assert sample_rows(rows, 1.0)["id"][:] == rows["id"][:]
