"""Corrupted posts: what is changed is changed, what must stay stays, spans and boxes fit, a seed says everything."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rows import ANN, BALL, BLUE, BOB, PARIS, RED, TEXT, TREE, picture, row
from tiny import picture_bytes, tiny_model, tiny_picture, tiny_processor
from tiny_samples import grouped

from roc.evaluation.corruptions import (
    CorruptedSamples,
    WrongPicture,
    as_jpeg,
    blurred,
    cropped,
    input_conditions,
    misspelt,
    share_changed,
    share_inside,
    shuffled_relations,
    without_picture,
    wrong_entity_types,
)
from roc.evaluation.predictions import predict_relations
from roc.modeling_roc import RocModel
from roc.processing_entities_roc import Entity, check_entity
from roc.processing_roc import RocProcessor
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples, Sample

TYPES = ["person", "organization", "location", "miscellaneous"]
GREEN = picture_bytes(tiny_picture("green"))
NOISE = picture_bytes(Image.effect_noise((40, 24), 100).convert("RGB"))


def sample(text: str = TEXT, *entities: Entity, row_id: str = "1") -> Sample:
    made = list(entities) or [Entity(0, 3, "person"), Entity(11, 14, "person"), Entity(bbox=(0.1, 0.2, 0.5, 0.9))]
    return Sample(text, 0, made, [(0, 1)], ["None"], [row_id])


def pixels(image: bytes | None) -> np.ndarray:
    assert image is not None
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)


def posts() -> GroupedSamples:
    """Six posts: two red pictures, a blue and a green one, noise, and one without a picture."""
    images = [RED, RED, BLUE, GREEN, NOISE, None]
    return grouped(
        [
            row(
                str(number),
                ANN,
                PARIS if image is None else BALL,
                image=None if image is None else picture(image),
                text=f"{TEXT} number {'again ' * number}",
            )
            for number, image in enumerate(images)
        ]
    )


CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "no picture": without_picture,
    "wrong picture": WrongPicture(posts()),
    "cropped": cropped,
    "blurred": blurred,
    "as JPEG": as_jpeg,
    "wrong types": partial(wrong_entity_types, entity_types=TYPES),
    "typos": misspelt,
}


# --- every corruption --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corruption_changes_the_item_the_same_way_each_time_and_leaves_the_given_one(corrupt: Any) -> None:
    given = (sample(), NOISE)
    before = copy.deepcopy(given)
    changed = corrupt(given)
    assert given == before
    assert changed != before
    assert corrupt(copy.deepcopy(given)) == changed
    random.seed(7)
    assert corrupt(given) == changed


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corruption_keeps_pairs_relations_and_ids_and_the_order_of_entities(corrupt: Any) -> None:
    given = sample()
    changed, _ = corrupt((given, NOISE))
    for name in ("image_row", "pairs", "relations", "row_ids"):
        assert getattr(changed, name) == getattr(given, name)
    assert [entity.is_object for entity in changed.entities] == [entity.is_object for entity in given.entities]


@pytest.mark.parametrize("name", ["no picture", "wrong picture", "cropped", "blurred", "as JPEG"])
def test_without_a_picture_there_is_nothing_to_do_to_it(name: str) -> None:
    assert CORRUPTIONS[name]((sample(), None)) == (sample(), None)


@pytest.mark.parametrize("corrupt", [cropped, blurred, as_jpeg])
def test_a_picture_that_cannot_be_decoded_is_named(corrupt: Any) -> None:
    with pytest.raises(ValueError, match=r"row '1': these 5 bytes are no picture"):
        corrupt((sample(), b"12345"))


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_the_processor_takes_what_a_corruption_gives(corrupt: Any) -> None:
    samples = posts()
    corrupted = CorruptedSamples(samples, corrupt)
    assert (len(corrupted), corrupted.num_pairs) == (len(samples), samples.num_pairs)
    ids, batch = SampleCollator(tiny_processor(), relations=None)([corrupted[n] for n in range(len(corrupted))])
    assert ids == [str(number) for number in range(6)]
    assert batch["pair_mask"].sum() == 6


# --- pictures ----------------------------------------------------------------------------------------------------


def test_a_wrong_picture_is_another_posts_and_never_the_same() -> None:
    samples = posts()
    corrupted = CorruptedSamples(samples, WrongPicture(samples))
    chosen = [corrupted[number][1] for number in range(6)]
    assert chosen[5] is None
    for own, other in zip([samples[number][1] for number in range(5)], chosen):
        assert other in {RED, BLUE, GREEN, NOISE} - {own}
    assert [corrupted[number][0] for number in range(6)] == samples.samples


def test_which_picture_a_post_gets_depends_on_the_seed_and_its_row() -> None:
    wrong, other_seed = WrongPicture(posts(), seed=0), WrongPicture(posts(), seed=1)
    rows = [sample(row_id=str(number)) for number in range(60)]
    chosen = [wrong((own, RED))[1] for own in rows]
    assert [wrong((own, RED))[1] for own in reversed(rows)] == chosen[::-1]
    assert {image: chosen.count(image) for image in set(chosen)}.keys() == {BLUE, GREEN, NOISE}
    assert min(map(chosen.count, (BLUE, GREEN, NOISE))) > 10
    assert [other_seed((own, RED))[1] for own in rows] != chosen


def test_where_all_pictures_are_the_same_none_is_wrong() -> None:
    samples = grouped([row(str(n), image=picture(RED), text=f"{TEXT} {n}") for n in range(3)])
    assert WrongPicture(samples)(samples[0]) == samples[0]


def test_cropping_cuts_away_the_border_and_nothing_else() -> None:
    given = Image.new("RGB", (40, 20), "white")
    given.paste("red", (4, 2, 36, 18))
    _, image = cropped((sample(), picture_bytes(given)), border=0.1)
    assert pixels(image).shape == (16, 32, 3)
    assert (pixels(image) == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(40, 20), (47, 23), (200, 30)])
def test_a_box_shows_the_same_pixels_after_cropping(size: tuple[int, int]) -> None:
    width, height = size
    given = Image.effect_noise(size, 100).convert("RGB")
    x0, y0, x1, y1 = width // 3, height // 4, width // 2, height - height // 4
    shares = (x0 / width, y0 / height, x1 / width, y1 / height)
    changed, image = cropped((sample(TEXT, Entity(bbox=shares)), picture_bytes(given)), border=0.1)
    left = pixels(image)
    box = changed.entities[0].bbox
    assert box is not None
    a, b, c, d = (round(side * length) for side, length in zip(box, (left.shape[1], left.shape[0]) * 2))
    assert (left[b:d, a:c] == np.asarray(given)[y0:y1, x0:x1]).all()


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 1, 1)),
        ((0.0, 0.5, 0.5, 1.0), (0, 0.5, 0.5, 1)),  # clipped on two sides
        ((0.3, 0.3, 0.7, 0.7), (0.25, 0.25, 0.75, 0.75)),
        ((0.0, 0.4, 0.1, 0.6), (0, 0.375, 1 / 80, 0.625)),  # outside: a strip of one of the 80 pixels that are left
        ((0.95, 0.0, 1.0, 0.05), (79 / 80, 0, 1, 1 / 80)),
    ],
)
def test_boxes_move_with_the_crop_and_are_clipped_to_it(bbox: Any, expected: tuple[float, ...]) -> None:
    given = picture_bytes(tiny_picture(size=(100, 100)))
    [entity] = cropped((sample(TEXT, Entity(bbox=bbox, type="object")), given), border=0.1)[0].entities
    assert entity.bbox == pytest.approx(expected)
    assert entity.type == "object"
    assert check_entity(entity, TEXT, "here") == entity


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 200), (19, 19)])
@pytest.mark.parametrize("border", [0.0, 0.1, 0.34, 0.49])
def test_something_is_left_of_every_picture_and_every_box(size: tuple[int, int], border: float) -> None:
    generator = random.Random(0)
    for _ in range(50):
        x0, x1 = sorted(generator.uniform(0, 1) for _ in range(2))
        y0, y1 = sorted(generator.uniform(0, 1) for _ in range(2))
        given = sample(TEXT, Entity(bbox=(x0, y0, x1, y1)))
        changed, image = cropped((given, picture_bytes(tiny_picture(size=size))), border=border)
        assert pixels(image).size >= 3
        check_entity(changed.entities[0], TEXT, "here")


def test_without_a_border_boxes_stay_where_they_are() -> None:
    given = sample(TEXT, Entity(bbox=(0.1, 0.2, 0.5, 0.9)))
    assert cropped((given, NOISE), border=0.0)[0].entities[0].bbox == pytest.approx((0.1, 0.2, 0.5, 0.9))


@pytest.mark.parametrize(
    ("bbox", "share"),
    [((0.2, 0.2, 0.8, 0.8), 1), ((0, 0, 1, 1), 0.64), ((0, 0.4, 0.2, 0.6), 0.5), ((0, 0, 0.1, 1), 0)],
)
def test_the_share_of_a_box_that_is_left(bbox: Any, share: float) -> None:
    assert share_inside(bbox, border=0.1) == pytest.approx(share)


def test_blur_takes_away_detail_and_keeps_size_and_brightness() -> None:
    given = pixels(NOISE)
    little, much = (pixels(blurred((sample(), NOISE), radius=radius)[1]) for radius in (0.02, 0.1))
    assert given.shape == little.shape == much.shape
    assert given.std() > 1.2 * little.std() > 1.44 * much.std()
    assert much.mean() == pytest.approx(given.mean(), abs=3)


def test_the_blur_grows_with_the_picture() -> None:
    edge = Image.new("L", (200, 100))
    edge.paste(255, (100, 0, 200, 100))

    def width_of_edge(factor: int) -> int:
        large = edge.resize((200 * factor, 100 * factor))
        line = pixels(blurred((sample(), picture_bytes(large)))[1])[50, :, 0]
        return int(((line > 20) & (line < 235)).sum())

    assert width_of_edge(4) == pytest.approx(4 * width_of_edge(1), rel=0.2)


def test_a_picture_as_jpeg_is_one_of_that_quality() -> None:
    _, image = as_jpeg((sample(), NOISE))
    assert image is not None
    opened = Image.open(io.BytesIO(image))
    assert (opened.format, opened.size) == ("JPEG", (40, 24))
    errors = [np.abs(pixels(as_jpeg((sample(), NOISE), quality=q)[1]) - pixels(NOISE)).mean() for q in (10, 95)]
    assert errors[0] > 2 * errors[1]


def test_a_picture_lies_upright_before_it_is_cropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(cropped((sample(), picture_bytes(tiny_picture(), exif=exif)))[1]).shape == (32, 20, 3)


def test_a_wrong_type_needs_another_one() -> None:
    with pytest.raises(ValueError, match="none but 'person': give at least two"):
        wrong_entity_types((sample(), NOISE), entity_types=["person"])


# --- texts -------------------------------------------------------------------------------------------------------


def test_every_typed_text_entity_gets_another_type_and_no_other_entity() -> None:
    given = sample(
        TEXT, Entity(0, 3, "person"), Entity(11, 14, ""), Entity(18, 23, None), Entity(bbox=(0, 0, 1, 1), type="object")
    )
    seen = set()
    for seed in range(30):
        changed = wrong_entity_types((given, RED), entity_types=TYPES, seed=seed)[0].entities
        assert changed[1:] == given.entities[1:]
        assert replace(changed[0], type="person") == given.entities[0]
        seen.add(changed[0].type)
    assert seen == set(TYPES) - {"person"}


def test_a_type_that_nobody_knows_is_replaced_by_a_known_one() -> None:
    [entity] = wrong_entity_types((sample(TEXT, Entity(0, 3, "spaceship")), None), entity_types=["person"])[0].entities
    assert entity.type == "person"


LONG = "Yesterday 😀 Ann Smith kissed Zoë's friend Bob in Paris, the CAPITAL of France http://x.yz @somebody again"


def spans(text: str, *names: str) -> list[Entity]:
    return [Entity(text.index(name), text.index(name) + len(name), "person") for name in names]


@pytest.mark.parametrize("share", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(20))
def test_typos_leave_entities_as_they_are_and_spans_fit(seed: int, share: float) -> None:
    names = ["Ann Smith", "Smith", "friend Bob", "Bob in Paris", "again"]  # nested, crossing and last ones too
    given = sample(LONG, *spans(LONG, *names), Entity(bbox=(0, 0, 1, 1)))
    changed, image = misspelt((given, RED), share=share, seed=seed)
    assert image == RED
    assert changed.text != LONG
    assert [changed.text[e.start : e.end] for e in changed.entities[:-1]] == names
    assert changed.entities[-1] == given.entities[-1]
    for entity in changed.entities:
        check_entity(entity, changed.text, "here")


def words(text: str) -> list[str]:
    return text.split(" ")


def is_one_typo(before: str, after: str) -> bool:
    """Whether one letter is missing or doubled, or two neighbours are swapped."""
    missing = any(before[:i] + before[i + 1 :] == after for i in range(len(before)))
    doubled = any(before[: i + 1] + before[i:] == after for i in range(len(before)))
    swapped = any(before[:i] + before[i + 1] + before[i] + before[i + 2 :] == after for i in range(len(before) - 1))
    return missing or doubled or swapped


def test_every_typo_is_one_slip_in_one_word_and_all_kinds_occur() -> None:
    text = "ann " + "kitten bottle happened " * 20
    given = sample(text, Entity(0, 3, "person"))
    lengths = set()
    for seed in range(5):
        changed, _ = misspelt((given, None), share=0.5, seed=seed)
        pairs = [(a, b) for a, b in zip(words(text), words(changed.text), strict=True) if a != b]
        assert len(pairs) == 30
        assert all(is_one_typo(before, after) and before.lower() != after.lower() for before, after in pairs)
        lengths |= {len(after) - len(before) for before, after in pairs}
    assert lengths == {-1, 0, 1}


def test_at_least_one_word_is_misspelt_and_short_words_and_numbers_never() -> None:
    text = "ann is on 2019 kissed"
    for seed in range(20):
        changed, _ = misspelt((sample(text, Entity(0, 3)), None), share=0.01, seed=seed)
        assert changed.text.startswith("ann is on 2019 ")
        assert changed.text != text


def test_two_letters_that_look_alike_are_not_swapped() -> None:
    for seed in range(30):
        changed, _ = misspelt((sample("bob Aaa", Entity(0, 3)), None), seed=seed)
        assert changed.text.lower() in ("bob aa", "bob aaaa")


@pytest.mark.parametrize("text", ["ann bob", "ann 😀 bob .", "ann is bob"])
def test_a_text_of_entities_has_no_typos(text: str) -> None:
    given = (sample(text, *spans(text, "ann", "bob")), RED)
    assert misspelt(given) == given


def test_typos_depend_on_the_seed_and_the_row() -> None:
    text = "ann " + "kitten bottle happened " * 5
    first, other_row = (sample(text, Entity(0, 3), row_id=row_id) for row_id in ("1", "2"))
    made = misspelt((first, None), seed=0)[0].text
    assert misspelt((first, None), seed=1)[0].text != made
    assert misspelt((other_row, None), seed=0)[0].text != made


# --- conditions --------------------------------------------------------------------------------------------------


def test_the_share_of_pairs_that_a_condition_changes_counts_pairs() -> None:
    rows = [
        row("1", ANN, BALL, image=picture(RED)),
        row("2", BOB, BALL, image=picture(RED)),
        row("3", ANN, TREE, image=picture(RED)),
        row("4", PARIS, BALL, image=picture(BLUE)),
        row("5", PARIS, PARIS | {"start": 3, "end": 10, "name": TEXT[3:10]}),
    ]
    samples = grouped(rows)
    conditions = {c.name: c for c in input_conditions(samples, entity_types=TYPES)}
    shares = {name: share_changed(samples, condition) for name, condition in conditions.items()}
    pictures = dict.fromkeys(["no picture", "wrong picture", "cropped", "blurred", "JPEG quality 10"], 0.8)
    assert shares == pictures | {"wrong entity types": 0.6, "typos": 1.0}
    assert [name for name, condition in conditions.items() if condition.is_of_pictures] == list(pictures)


def test_without_pictures_in_use_no_condition_of_pictures_changes_anything() -> None:
    samples = grouped([row("1", image=picture(RED)), row("2", image=picture(BLUE))], use_image=False)
    for condition in input_conditions(samples, entity_types=TYPES):
        assert (share_changed(samples, condition) == 0) == condition.is_of_pictures


# --- relations ---------------------------------------------------------------------------------------------------


@pytest.fixture
def vision_processor() -> RocProcessor:
    return tiny_processor()


def test_predictions_do_not_depend_on_the_order_of_relations(vision_processor: RocProcessor) -> None:
    model = tiny_model(vision_processor)
    samples = posts()
    names = list(model.config.relation_names)
    before = predict_relations(model, vision_processor, samples)
    with shuffled_relations(model, seed=0):
        inside = list(model.config.relation_names)
        after = predict_relations(model, vision_processor, samples)
    assert inside != names
    assert sorted(inside) == sorted(names)
    assert after.predicted == before.predicted
    torch.testing.assert_close(after.logits[:, [inside.index(name) for name in names]], before.logits)
    again = predict_relations(model, vision_processor, samples)
    assert (model.config.relation_names, model.config.none_relation) == (names, "None")
    assert torch.equal(again.logits, before.logits)


def test_the_order_comes_back_after_an_error(model: RocModel) -> None:
    names = list(model.config.relation_names)

    def fail() -> None:
        with shuffled_relations(model):
            assert model.config.relation_names != names
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.config.relation_names == names


def test_an_order_needs_two_relations_and_a_model_that_retrieves(processor: RocProcessor, model: RocModel) -> None:
    model.subset_relations(["None"])
    with (
        pytest.raises(ValueError, match=r"has the relations \['None'\]: give it at least two"),
        shuffled_relations(model),
    ):
        pass
    classifier = tiny_model(processor, vision=False, head="classification")
    with pytest.raises(ValueError, match="classif"), shuffled_relations(classifier):
        pass
