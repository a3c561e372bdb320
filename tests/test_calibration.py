"""Calibration: temperature and threshold are those that the data was made with; their worth is measured honestly."""

from __future__ import annotations

import pytest
import torch
from tiny import NONE_RELATION, RELATIONS, tiny_model, tiny_processor
from torch import Tensor

from roc.calibration import calibrate, expected_calibration_error, fit_temperature, reliability
from roc.evaluation import Predictions

NAMES = [relation["name"] for relation in RELATIONS]


def sampled(scale: float, *, num_pairs: int = 4000) -> tuple[Tensor, Tensor]:
    """Logits that are `scale` times too sharp for their labels, and the labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(num_pairs, len(NAMES), generator=generator)
    return logits * scale, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def predictions_of(logits: Tensor, labels: Tensor) -> Predictions:
    expected, predicted = ([NAMES[number] for number in numbers] for numbers in (labels, logits.argmax(-1)))
    return Predictions([str(number) for number in range(len(labels))], expected, predicted, logits)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_temperature_is_the_one_that_the_labels_were_drawn_with(scale: float) -> None:
    assert fit_temperature(*sampled(scale)) == pytest.approx(scale, rel=0.1)


def test_the_calibration_error_by_hand() -> None:
    confidences = torch.tensor([0.91, 0.91, 0.5, 0.5])
    is_right = torch.tensor([True, False, True, False])
    bins = reliability(confidences, is_right)
    assert [own["accuracy"] for own in bins] == [0.5, 0.5]
    assert [own["confidence"] for own in bins] == pytest.approx([0.5, 0.91])
    assert expected_calibration_error(confidences, is_right) == pytest.approx(0.5 * 0.41)


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    [only] = reliability(torch.tensor([1.0, 0.97]), torch.tensor([True, True]))
    assert only["share"] == 1


def test_calibration_mends_probabilities_and_leaves_decisions() -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    logits, labels = sampled(3.0)
    report = calibrate(model, predictions_of(logits, labels))
    assert model.config.probability_temperature == report["probability_temperature"] == pytest.approx(3, rel=0.1)
    assert report["calibration_error"]["before"] > 0.1
    assert report["calibration_error"]["after"] < 0.03
    assert sum(own["share"] for own in report["reliability"]) == pytest.approx(1)
    assert model.probabilities(logits).argmax(-1).equal(logits.argmax(-1))


def test_the_threshold_separates_what_can_be_separated() -> None:
    """Cosines above 0.6 have a relation; the description of "none" says nothing."""
    model = tiny_model(tiny_processor())
    generator = torch.Generator().manual_seed(0)
    cosines = torch.zeros(400, len(NAMES))
    labels = torch.randint(0, len(NAMES), (400,), generator=generator)
    for row, label in zip(cosines, labels.tolist()):
        row[label or 1] = 0.5 if label == 0 else 0.7
    cosines += 0.05 * torch.rand(cosines.shape, generator=generator)
    report = calibrate(model, predictions_of(cosines / model.temperature, labels))
    assert 0.54 < model.config.none_threshold <= 0.7
    assert report["none_threshold"] == model.config.none_threshold
    worth = {way: report["abstention"][way]["micro_f1"] for way in ("described", "threshold", "both")}
    assert worth["threshold"] == worth["both"] == 1
    assert worth["described"] < 0.95


def test_where_the_description_of_none_is_right_it_is_kept() -> None:
    model = tiny_model(tiny_processor())
    labels = torch.arange(400) % len(NAMES)
    cosines = 0.1 * torch.nn.functional.one_hot(labels, len(NAMES)).float()
    cosines += (
        torch.rand(400, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    )  # of the pair, whatever its relation
    worth = calibrate(model, predictions_of(cosines / model.temperature, labels))["abstention"]
    assert worth["described"]["micro_f1"] == worth["both"]["micro_f1"] == 1
    assert worth["threshold"]["micro_f1"] < 0.9


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_without_unrelated_pairs_there_is_no_threshold(head: str) -> None:
    model = tiny_model(tiny_processor(), head=head)
    logits, labels = sampled(1.0, num_pairs=100)
    if head == "retrieval":
        labels = labels.clamp(min=1)
    report = calibrate(model, predictions_of(logits, labels))
    assert model.config.none_threshold is report["none_threshold"] is None
    assert "abstention" not in report


def test_worth_is_measured_on_pairs_that_did_not_choose() -> None:
    """On noise, a threshold chosen and scored on the same pairs would look better than it is."""
    model = tiny_model(tiny_processor())
    generator = torch.Generator().manual_seed(1)
    logits = torch.rand(60, len(NAMES), generator=generator) / model.temperature
    labels = torch.randint(0, len(NAMES), (60,), generator=generator)
    predictions = predictions_of(logits, labels)
    assert NONE_RELATION in predictions.expected
    worth = [calibrate(model, predictions, seed=seed)["abstention"]["threshold"]["micro_f1"] for seed in range(8)]
    assert len(set(worth)) > 2  # the halves differ, so what they choose does
