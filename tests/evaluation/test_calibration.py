"""Calibration: temperature and threshold are those that the data was made with; their worth is measured honestly."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import NONE_RELATION, RELATIONS, tiny_model, tiny_processor
from torch import Tensor
from torch.nn import functional

import roc.evaluation.calibration
from roc.evaluation.calibration import (
    calibrate,
    expected_calibration_error,
    fit_temperature,
    predict_by_label,
    reliability,
)
from roc.evaluation.predictions import Predictions
from roc.modeling_decisions_roc import HARD_PENALTY, relation_probabilities
from roc.relations_bank_roc import descriptions_of

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


def unregularised(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the lowest cross-entropy."""
    grid = torch.logspace(-1, 1, 2001).tolist()
    return min(grid, key=lambda t: functional.cross_entropy(logits / t, labels).item())


@pytest.mark.parametrize("margin", [0.01, 1.0, 20.0])  # of untrained models, of usual ones, of min_temperature
@pytest.mark.parametrize("kind", ["right", "wrong", "random", "one relation", "one class"])
@pytest.mark.parametrize("num_pairs", [0, 1, 5, 30])
def test_few_pairs_of_any_kind_call_nothing_certain(num_pairs: int, kind: str, margin: float) -> None:
    """Rule of succession: whoever was right n times of n may claim (n + 1) / (n + 2), more or less."""
    generator = torch.Generator().manual_seed(0)
    logits = margin * torch.rand(num_pairs, 1 if kind == "one relation" else len(NAMES), generator=generator)
    labels = {
        "right": logits.argmax(-1),
        "wrong": logits.argmin(-1),
        "random": torch.randint(0, len(NAMES), (num_pairs,), generator=generator),
        "one relation": torch.zeros(num_pairs, dtype=torch.long),
        "one class": torch.ones(num_pairs, dtype=torch.long),
    }[kind]
    temperature = fit_temperature(logits, labels)
    assert 0.05 < temperature < 30
    if kind == "one relation" or num_pairs == 0:
        assert temperature == pytest.approx(1)
    elif margin <= 1:  # where the logits themselves claim nothing
        assert (logits / temperature).softmax(-1).amax(-1).mean() < (num_pairs + 1) / (num_pairs + 2)
    if kind == "wrong" and num_pairs:
        assert temperature > 1


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_many_pairs_choose_what_they_would_without_the_prior(scale: float) -> None:
    logits, labels = sampled(scale, num_pairs=1600)
    chosen, free = fit_temperature(logits, labels), unregularised(logits, labels)
    assert chosen == pytest.approx(free, rel=0.01)
    errors = [
        expected_calibration_error((logits / t).softmax(-1).amax(-1), logits.argmax(-1) == labels)
        for t in (chosen, free, 1.0)
    ]
    assert errors[0] <= min(errors[1], errors[2]) + 0.003


def test_a_relation_that_its_types_rule_out_says_nothing_of_the_temperature() -> None:
    logits, labels = sampled(1.0, num_pairs=400)
    ruled_out = logits.clone()
    ruled_out[range(20), labels[:20]] -= HARD_PENALTY
    assert fit_temperature(ruled_out, labels) == pytest.approx(fit_temperature(logits[20:], labels[20:]))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_calibrate_nothing(broken: float) -> None:
    logits, labels = sampled(1.0, num_pairs=40)
    logits[3, 1] = broken
    with pytest.raises(ValueError, match="not all finite"):
        fit_temperature(logits, labels)


@pytest.mark.parametrize("num_pairs", [0, 1, 5, 29])
def test_too_few_pairs_leave_the_model_as_it_is_and_the_log_says_so(
    num_pairs: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(tiny_processor())
    predictions = predictions_of(*(own[:num_pairs] for own in sampled(3.0)))
    report = calibrate(model, predictions, predictions)
    assert model.config.probability_temperature == report["probability_temperature"] == 1
    assert model.config.none_threshold is None
    assert report["num_pairs"] == num_pairs
    assert "abstention" not in report
    assert f"{num_pairs} validation pairs are too few to calibrate" in caplog.text


@pytest.mark.parametrize(("num_unrelated", "is_fitted"), [(0, False), (9, False), (10, True), (30, True), (31, False)])
def test_a_threshold_needs_pairs_of_both_kinds(num_unrelated: int, is_fitted: bool) -> None:
    model = tiny_model(tiny_processor())
    logits, _ = sampled(1.0, num_pairs=40)
    labels = torch.tensor([0] * num_unrelated + [1] * (40 - num_unrelated))
    predictions = predictions_of(logits, labels)
    assert ("none_threshold" in calibrate(model, predictions, predictions)) == is_fitted
    assert (model.config.none_threshold is not None) == is_fitted


def cosines_of(num_pairs: int, related: float, unrelated: float, *, spread: float) -> tuple[Tensor, Tensor]:
    """Cosines whose best relation lies about `related` or `unrelated`, half of the pairs each, and the labels."""
    generator = torch.Generator().manual_seed(num_pairs)
    labels = torch.arange(num_pairs) % 2
    best = torch.where(labels == 1, related, unrelated) + spread * torch.randn(num_pairs, generator=generator)
    cosines = torch.zeros(num_pairs, len(NAMES)).sub(1)
    cosines[:, 1] = best
    return cosines, labels


@pytest.mark.parametrize("num_pairs", [30, 100, 2000])
@pytest.mark.parametrize(("related", "unrelated"), [(0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.9, 0.05)])
def test_a_threshold_lies_where_both_kinds_of_pairs_are(num_pairs: int, related: float, unrelated: float) -> None:
    """A single odd pair of few must not decide that everything, or nothing, has a relation."""
    model = tiny_model(tiny_processor())
    cosines, labels = cosines_of(num_pairs, related, unrelated, spread=0.1)
    predictions = predictions_of(cosines / model.temperature, labels)
    calibrate(model, predictions, predictions)
    if related > unrelated:
        assert unrelated < model.config.none_threshold < related
    else:  # rejecting by the cosine does harm: at best few are
        assert model.config.none_threshold < 0.5


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
    assert relation_probabilities(logits, model.config).argmax(-1).equal(logits.argmax(-1))


def test_the_threshold_separates_what_can_be_separated() -> None:
    """Cosines above 0.6 have a relation; the description of "none" says nothing."""
    model = tiny_model(tiny_processor())
    generator = torch.Generator().manual_seed(0)
    cosines = torch.zeros(400, len(NAMES))
    labels = torch.randint(0, len(NAMES), (400,), generator=generator)
    for row, label in zip(cosines, labels.tolist()):
        row[label or 1] = 0.5 if label == 0 else 0.7
    cosines += 0.05 * torch.rand(cosines.shape, generator=generator)
    predictions = predictions_of(cosines / model.temperature, labels)
    report = calibrate(model, predictions, predictions)
    assert 0.54 < model.config.none_threshold <= 0.7
    assert report["none_threshold"] == model.config.none_threshold
    worth = {way: report["abstention"][way]["micro_f1"] for way in ("described", "threshold", "both")}
    assert worth["threshold"] == worth["both"] == 1
    assert worth["described"] < 0.95


def test_where_the_description_of_none_is_right_it_is_kept() -> None:
    model = tiny_model(tiny_processor())
    labels = torch.arange(400) % len(NAMES)
    cosines = 0.1 * functional.one_hot(labels, len(NAMES)).float()
    cosines += (
        torch.rand(400, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    )  # of the pair, whatever its relation
    predictions = predictions_of(cosines / model.temperature, labels)
    worth = calibrate(model, predictions, predictions)["abstention"]
    assert worth["described"]["micro_f1"] == worth["both"]["micro_f1"] == 1
    assert worth["threshold"]["micro_f1"] < 0.9


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_without_unrelated_pairs_there_is_no_threshold(head: str) -> None:
    model = tiny_model(tiny_processor(), head=head)
    logits, labels = sampled(1.0, num_pairs=100)
    if head == "retrieval":
        labels = labels.clamp(min=1)
    predictions = predictions_of(logits, labels)
    report = calibrate(model, predictions, predictions if head == "retrieval" else None)
    assert model.config.none_threshold is None
    assert "abstention" not in report


def test_worth_is_measured_on_pairs_that_did_not_choose() -> None:
    """On noise, a threshold chosen and scored on the same pairs would look better than it is."""
    model = tiny_model(tiny_processor())
    generator = torch.Generator().manual_seed(1)
    logits = torch.rand(60, len(NAMES), generator=generator) / model.temperature
    labels = torch.randint(0, len(NAMES), (60,), generator=generator)
    predictions = predictions_of(logits, labels)
    assert NONE_RELATION in predictions.expected
    reports = [calibrate(model, predictions, predictions, seed=seed) for seed in range(8)]
    worth = [report["abstention"]["threshold"]["micro_f1"] for report in reports]
    assert len(set(worth)) > 2  # the halves differ, so what they choose does


def test_the_threshold_is_chosen_for_unseen_wording() -> None:
    """Relations are nearer to their pairs in the wording that training has read."""
    model = tiny_model(tiny_processor())
    labels = torch.arange(400) % len(NAMES)
    noise = 0.01 * torch.rand(400, len(NAMES), generator=torch.Generator().manual_seed(0))
    near, far = (
        (height * functional.one_hot(labels, len(NAMES)) + noise).masked_fill(labels[:, None] == 0, 0.1)
        for height in (0.8, 0.3)
    )
    seen, unseen = (predictions_of(cosines / model.temperature, labels) for cosines in (near, far))
    report = calibrate(model, seen, unseen)
    assert 0.1 < model.config.none_threshold < 0.31
    assert report["abstention_by_label"]["threshold"]["micro_f1"] == 1
    assert report["abstention_by_label"]["never"]["micro_f1"] < 0.9


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The descriptions of the relations that a model is asked to predict."""
    texts: list[str] = []
    monkeypatch.setattr(
        roc.evaluation.calibration,
        "predict_relations",
        lambda model, *_, **__: texts.extend(descriptions_of(model.config.relations)) or "predictions",
    )
    return texts


def test_labels_that_share_their_last_part_are_read_as_different_texts(read: list[str]) -> None:
    """As the two `alternate_names` of MNRE and MORE."""
    processor = tiny_processor(vision=False)
    model = tiny_model(processor, vision=False)
    names = ["/per/per/alternate_names", "/org/org/alternate_names"]
    model.set_relations([{"name": name, "descriptions": ["other names"]} for name in names], processor)
    predict_by_label(model, processor, [])
    assert read == ["per per alternate names", "org org alternate names"]


def test_predictions_by_label_read_labels_and_give_the_model_its_own_descriptions_back(
    read: list[str],
) -> None:
    processor = tiny_processor(vision=False)
    model = tiny_model(processor, vision=False)
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(model.config.relations), model.config.none_relation
    assert predict_by_label(model, processor, []) == "predictions"
    assert read == ["None", "per per couple", "per loc place of birth", "per misc holds"]
    after = model.state_dict(), model.config.relations, model.config.none_relation
    assert before[1:] == after[1:]
    for name, tensor in before[0].items():
        torch.testing.assert_close(after[0][name], tensor)
