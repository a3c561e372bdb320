"""Calibration: temperature and threshold are those that the data was made with; their worth is measured honestly."""

from __future__ import annotations

import pytest
import torch
from tiny import RELATIONS, tiny_model, tiny_processor
from torch import Tensor
from torch.nn import functional

from roc.evaluation.calibration import (
    calibrate,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    reliability,
)
from roc.evaluation.drawn import draw_inventories, even_f1
from roc.evaluation.predictions import Predictions
from roc.modeling_decisions_roc import HARD_PENALTY, relation_probabilities

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
    report = calibrate(model, predictions)
    assert model.config.probability_temperature == report["probability_temperature"] == 1
    assert model.config.none_threshold is None
    assert report["num_pairs"] == num_pairs
    assert "drawn_inventories" not in report
    assert f"{num_pairs} validation pairs are too few to calibrate" in caplog.text


@pytest.mark.parametrize(
    ("counts", "is_fitted"),
    [
        ([0, 40, 0, 0], False),
        ([9, 31, 0, 0], False),
        ([10, 30, 0, 0], True),
        ([31, 9, 0, 0], False),
        ([0, 31, 9, 0], False),
        ([0, 30, 10, 0], True),
        ([0, 10, 10, 9], False),
    ],
)
def test_a_threshold_needs_pairs_of_several_kinds(counts: list[int], is_fitted: bool) -> None:
    model = tiny_model(tiny_processor())
    labels = torch.arange(len(NAMES)).repeat_interleave(torch.tensor(counts))
    report = calibrate(model, predictions_of(sampled(1.0, num_pairs=len(labels))[0], labels))
    assert ("none_threshold" in report) == ("drawn_inventories" in report) == is_fitted
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
    calibrate(model, predictions, unseen=True)
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
    """Cosines above 0.6 belong to a pair's own relation; the description of "none" says nothing."""
    model = tiny_model(tiny_processor())
    generator = torch.Generator().manual_seed(0)
    cosines = torch.full((400, len(NAMES)), 0.5)
    labels = torch.randint(0, len(NAMES), (400,), generator=generator)
    for row, label in zip(cosines, labels.tolist()):
        row[0] = 0.0
        row[label or 1] = 0.7 if label else 0.5
    cosines += 0.05 * torch.rand(cosines.shape, generator=generator)
    report = calibrate(model, predictions_of(cosines / model.temperature, labels), unseen=True)
    assert 0.54 < model.config.none_threshold <= 0.7
    assert report["none_threshold"] == model.config.none_threshold
    worth = report["drawn_inventories"]
    assert worth["auc"] == worth["micro_f1"]["threshold"] == 1
    assert worth["micro_f1"]["never"] == worth["micro_f1"]["described"] < 0.7


def test_where_the_description_of_none_is_right_it_says_so() -> None:
    model = tiny_model(tiny_processor())
    labels = torch.arange(400) % 2  # one relation, so that none is left out
    cosines = 0.1 * functional.one_hot(labels, len(NAMES)).float()
    # of the pair, whatever its relation
    cosines += torch.rand(400, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    report = calibrate(model, predictions_of(cosines / model.temperature, labels), unseen=True)
    worth = report["drawn_inventories"]["micro_f1"]
    assert worth["described"] == 1
    assert worth["threshold"] < 0.9


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_only_a_model_that_retrieves_gets_a_threshold(head: str) -> None:
    model = tiny_model(tiny_processor(), head=head)
    report = calibrate(model, predictions_of(*sampled(1.0, num_pairs=100)))
    assert (model.config.none_threshold is not None) == ("drawn_inventories" in report) == (head == "retrieval")


def test_worth_is_measured_on_pairs_that_did_not_choose() -> None:
    """On noise, a threshold chosen and scored on the same pairs would look better than it is."""
    model = tiny_model(tiny_processor())
    generator = torch.Generator().manual_seed(1)
    logits = torch.rand(60, len(NAMES), generator=generator) / model.temperature
    predictions = predictions_of(logits, torch.randint(0, len(NAMES), (60,), generator=generator))
    worth, chosen = [], []
    for seed in range(8):
        report = calibrate(model, predictions, unseen=True, seed=seed)
        worth.append(report["drawn_inventories"]["micro_f1"]["threshold"])
        draws = draw_inventories(model, predictions, size=1, num_draws=50, seed=seed)
        chosen.append(max(even_f1(own, own.best >= t) for own in draws[:1] for t in own.best.tolist()))
    assert len(set(worth)) > 2  # the halves differ, so what they choose does
    assert max(worth) < min(chosen)


def open_world() -> Predictions:
    """Pairs of twelve relations, of which half of the pairs lie near their own and not far from one other.

    In the whole inventory that other one never wins, so that any low threshold is right; where a pair's own relation is
    left out, it is the nearest.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 12
    cosines = 0.05 * torch.randn(1200, 12, generator=generator)
    cosines[range(1200), labels] += 0.6
    cosines[range(1200), (labels + 1 + torch.arange(1200) // 12 % 11) % 12] += 0.35
    names = [f"relation {number}" for number in range(12)]
    expected = [names[number] for number in labels.tolist()]
    return Predictions([*map(str, range(1200))], expected, expected, cosines)


def test_a_threshold_from_draws_tells_inventories_apart_that_one_from_the_whole_inventory_does_not() -> None:
    processor, predictions = tiny_processor(vision=False), open_world()
    model = tiny_model(processor, vision=False)
    model.set_relations(
        [{"name": name, "descriptions": [name]} for name in dict.fromkeys(predictions.expected)], processor
    )
    predictions = Predictions(
        predictions.row_ids, predictions.expected, predictions.predicted, predictions.logits / model.temperature
    )
    report = calibrate(model, predictions, unseen=True)
    whole = fit_threshold(draw_inventories(model, predictions, size=12, num_draws=1, seed=0), unseen=True)
    others = draw_inventories(model, predictions, size=5, num_draws=10, seed=7)
    drawn_f1, whole_f1 = (
        sum(even_f1(own, own.best >= threshold) for own in others) / len(others)
        for threshold in (report["none_threshold"], whole)
    )
    assert drawn_f1 > 0.95 > 0.75 > whole_f1
    assert "described" not in report["drawn_inventories"]["micro_f1"]


def test_what_is_chosen_depends_on_the_seed_alone() -> None:
    model = tiny_model(tiny_processor())
    predictions = predictions_of(*sampled(1.0, num_pairs=200))
    first, again, other = (calibrate(model, predictions, unseen=True, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["drawn_inventories"] != other["drawn_inventories"]


def test_the_threshold_of_relations_that_training_has_seen_does_not_depend_on_how_near_their_pairs_are() -> None:
    """Pairs are nearer to seen relations than to those that a user writes, which must not be rejected therefore."""
    model = tiny_model(tiny_processor())
    labels = torch.arange(600) % len(NAMES)
    noise = torch.rand(600, len(NAMES), generator=torch.Generator().manual_seed(0))
    thresholds = {}
    for nearness in (0.5, 0.9):
        cosines = noise.clone().masked_fill(functional.one_hot(labels, len(NAMES)).bool() & (labels > 0)[:, None], 2)
        cosines = torch.where(cosines == 2, nearness, 0.2 * noise)
        predictions = predictions_of(cosines / model.temperature, labels)
        for unseen in (False, True):
            calibrate(model, predictions, unseen=unseen)
            thresholds[nearness, unseen] = model.config.none_threshold
    assert thresholds[0.5, False] == thresholds[0.9, False] == pytest.approx(0.2 * 0.7, abs=0.02)
    assert thresholds[0.5, True] < thresholds[0.9, True] - 0.1
