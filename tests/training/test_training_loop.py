"""The parts of the training loop, and evaluation."""

from __future__ import annotations

import copy
import itertools
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import RELATIONS, tiny_model, tiny_processor
from tiny_runs import NAMES
from tiny_samples import RED, ROWS, grouped, row, run_data, training_run
from torch import Tensor, nn

from roc.evaluation.predictions import Predictions, predict_relations, score_predictions
from roc.samples.batching import SampleCollator
from roc.training.learner import parameter_groups
from roc.training.loop import TrainingRun
from roc.training.settings import RunConfig

pytestmark = pytest.mark.usefixtures("fresh_state")


# --- steps -----------------------------------------------------------------------------------------------------------


def step_with_gradients(run: TrainingRun, batches: list[Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The gradients with which a step moves the weights, and its loss."""
    seen: dict[str, Tensor] = {}

    def record() -> None:
        for name, parameter in run.learner.plain_model.named_parameters():
            if parameter.grad is not None:
                seen[name] = parameter.grad.clone()

    with monkeypatch.context() as patch:
        patch.setattr(run.learner.optimizer, "step", record)
        seen["loss"] = torch.tensor(run.learner.step(batches))
    return seen


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2, 3), (4,)])
@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_accumulating_uneven_batches_is_one_step_with_their_union(
    cuts: tuple[int, ...], markers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = tiny_processor(markers=markers)
    samples, collate = grouped(ROWS), SampleCollator(processor, NAMES)
    items = [samples[number] for number in range(len(samples))]
    assert [len(sample.pairs) for sample, _ in items] == [4, 1, 1, 1, 1], "batches would be even"
    whole = step_with_gradients(training_run(tiny_model(processor), processor), [collate(items)], monkeypatch)
    borders = [0, *cuts, len(items)]
    batches = [collate(items[start:end]) for start, end in itertools.pairwise(borders)]
    parts = step_with_gradients(training_run(tiny_model(processor), processor), batches, monkeypatch)
    assert whole.keys() == parts.keys()
    scale = max(tensor.abs().max() for tensor in whole.values())
    for name, tensor in whole.items():
        assert (tensor - parts[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_four_accumulated_batches_of_8_are_one_of_32(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ann", "bob", "eve", "paris")
    rows = [
        row(f"{number}-{pair}", f"ann met bob and eve in paris {number}", "ann", names[1 + pair], NAMES[pair], picture)
        for number in range(32)
        for picture in [RED if number % 5 == 0 else None]
        for pair in range(1 + number * number % 3)
    ]
    processor, samples = tiny_processor(), grouped(rows)
    items = [samples[number] for number in range(32)]
    counts = [sum(len(sample.pairs) for sample, _ in items[start : start + 8]) for start in range(0, 32, 8)]
    assert len(set(counts)) > 1, "batches would be even"
    collate = SampleCollator(processor, NAMES)
    gradients = [
        step_with_gradients(
            training_run(tiny_model(processor), processor),
            [collate(items[start : start + size]) for start in range(0, 32, size)],
            monkeypatch,
        )
        for size in (32, 8)
    ]
    whole, parts = gradients
    assert whole.keys() == parts.keys()
    scale = max(tensor.abs().max() for tensor in whole.values())
    for name, tensor in whole.items():
        assert (tensor - parts[name]).abs().max() <= 1e-5 * scale, name


def test_a_step_moves_every_trainable_parameter_and_counts_itself() -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    run = training_run(model, processor, batch_size=8, warmup_ratio=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    [batches] = list(run.steps(epoch=1))
    loss = run.learner.step(batches)
    assert math.isfinite(loss)
    assert run.progress.step == 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_a_parameter_whose_first_gradient_comes_after_a_checkpoint_learns_as_without_one() -> None:
    processor = tiny_processor()
    samples, collate = grouped(ROWS), SampleCollator(processor, NAMES)
    with_picture, without = ([collate([samples[number]])] for number in (0, 1))
    settings = {"average_decay": 0.9, "warmup_ratio": 0.0}
    first, second = (training_run(tiny_model(processor), processor, **settings).learner for _ in range(2))
    first.step(without)
    weights, others = copy.deepcopy(first.state.save())
    assert len(others["optimizer"]["state"]) < len(first.parameters), "all parameters had a gradient"
    second.state.load(weights, others, copy.deepcopy(first.progress))
    for learner in (first, second):
        learner.step(with_picture)
    for averaged in (False, True):
        with first.averaged() if averaged else nullcontext(), second.averaged() if averaged else nullcontext():
            assert [
                name
                for name, tensor in first.plain_model.state_dict().items()
                if not torch.equal(tensor, second.plain_model.state_dict()[name])
            ] == []


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_gradients_are_clipped_to_max_grad_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = tiny_processor()
    run = training_run(tiny_model(processor), processor, batch_size=8, max_grad_norm=1e-3)
    [batches] = list(run.steps(epoch=1))
    gradients = step_with_gradients(run, batches, monkeypatch)
    del gradients["loss"]
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_an_epoch_is_cut_into_steps_of_so_many_batches() -> None:
    processor = tiny_processor()
    run = training_run(tiny_model(processor), processor, gradient_accumulation_steps=2)
    assert [len(batches) for batches in run.steps(epoch=1)] == [2, 1]  # 5 samples, 2 a batch
    assert run.total_steps == 2 * run.config.num_epochs


@pytest.mark.parametrize("markers", ["entities", "pair"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_samples_are_counted_and_not_their_pairs(markers: str, accumulation: int) -> None:
    processor = tiny_processor(markers)
    run = training_run(tiny_model(processor), processor, gradient_accumulation_steps=accumulation)
    seen: list[int] = []
    record = run.train_epoch(1, lambda: seen.append(run.progress.num_samples))
    assert len(run.data.train_set) == 5
    assert sorted(seen) == seen
    assert seen[-1] == run.progress.num_samples == 5
    assert record["samples_per_second"] == pytest.approx(5 / run.progress.seconds)


def test_the_order_of_an_epoch_depends_on_its_number_only() -> None:
    """So that a resumed run sees what the uninterrupted one would have seen."""
    processor = tiny_processor()
    rows = [row(str(number), f"ann met bob {number}", "ann", "bob", NAMES[0]) for number in range(24)]

    def order(run: TrainingRun, epoch: int) -> list[list[str]]:
        return [row_ids for batches in run.steps(epoch) for row_ids, _ in batches]

    run = training_run(tiny_model(processor), processor, rows)
    orders = {epoch: order(run, epoch) for epoch in (1, 2, 3)}
    assert orders[1] != orders[2] != orders[3] != orders[1]
    resumed = training_run(tiny_model(processor), processor, rows)
    assert order(resumed, 3) == orders[3]


def test_the_learning_rate_rises_and_then_falls_to_zero() -> None:
    processor = tiny_processor()
    settings = {"num_epochs": 4, "batch_size": 3, "warmup_ratio": 0.5}
    run = training_run(tiny_model(processor), processor, **settings)
    tops = [group["initial_lr"] for group in run.learner.optimizer.param_groups]
    rates = []
    for epoch in range(1, 5):
        for batches in run.steps(epoch):
            rates.append([group["lr"] for group in run.learner.optimizer.param_groups])
            run.learner.step(batches)
    for own, share in zip(rates, (0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25), strict=True):
        assert own == pytest.approx([top * share for top in tops])
    assert [group["lr"] for group in run.learner.optimizer.param_groups] == pytest.approx([0.0] * len(tops))


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_the_learning_rate_that_is_reported_is_the_text_encoders(head: str) -> None:
    processor = tiny_processor()
    rates = {"learning_rate": 1e-5, "vision_learning_rate": 2e-5, "head_learning_rate": 3e-4}
    run = training_run(tiny_model(processor, head=head), processor, warmup_ratio=0.0, **rates)
    assert run.learner.learning_rate == pytest.approx(1e-5)


@pytest.mark.parametrize("outward", ["min_temperature", "max_temperature"])
def test_a_temperature_that_training_drove_past_a_border_can_come_back(outward: str) -> None:
    """A clamp without a gradient beyond it would hold the temperature there for the rest of the training."""
    borders = {"min_temperature": 0.02, "initial_temperature": 0.1, "max_temperature": 0.5}
    processor = tiny_processor()
    model = tiny_model(processor, **borders | {"initial_temperature": borders[outward]})
    run = training_run(model, processor, batch_size=8, num_epochs=99, warmup_ratio=0.0, head_learning_rate=0.01)
    for group in run.learner.optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter is model.logit_scale]
    [[(row_ids, batch)]] = list(run.steps(epoch=1))
    with torch.no_grad():
        logits = model(**batch).logits
    real = batch["labels"] != -100
    agrees, opposes = (
        (row_ids, {**batch, "labels": torch.where(real, labels, -100)})
        for labels in (logits.argmax(-1), logits.argmin(-1))
    )
    away, back = (agrees, opposes) if outward == "min_temperature" else (opposes, agrees)
    for given in [away] * 3 + [back] * 20:
        run.learner.step([given])
    assert abs(math.log(model.temperature / borders[outward])) > 0.01, "the temperature is stuck at its border"


def test_a_shared_description_encoder_is_validated_with_what_it_has_learnt() -> None:
    """The scores that choose an epoch must be those of the model that is saved."""
    processor = tiny_processor()
    model = tiny_model(processor, relation_config=None)
    run = training_run(model, processor, share_description_encoder=True)
    with torch.no_grad():
        for parameter in model.text_model.parameters():  # as training would
            parameter.add_(0.1 * torch.randn_like(parameter))
    run.validator.score(model)
    tokens = processor.tokenize_descriptions([text for relation in RELATIONS for text in relation["descriptions"]])
    with torch.no_grad():
        expected = model.encode_descriptions(**tokens)
    torch.testing.assert_close(model.relation_bank.features, expected, rtol=1e-4, atol=1e-5)


def test_validation_reads_the_validation_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = tiny_processor()
    run = training_run(tiny_model(processor), processor)
    run.validator.data = run_data(grouped(ROWS[:3]))
    assert run.validator.score(run.learner.plain_model)["n"] == 3


KINDS = [{}, {"vision": False}, {"head": "classification"}, {"relation_config": None}, {"learn_temperature": False}]
KINDS += [{"freeze_vision": True}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_trainable_parameter_is_in_exactly_one_optimizer_group(kind: dict[str, Any]) -> None:
    model = tiny_model(tiny_processor(), **kind)
    groups = parameter_groups(model, RunConfig())
    grouped_ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped_ids) == len(set(grouped_ids))
    assert set(grouped_ids) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    trains_vision = model.vision_model is not None and not model.config.freeze_vision
    assert any(group["part"] == "vision_model" for group in groups) == trains_vision


def test_each_part_has_its_learning_rate_and_norms_and_biases_no_decay() -> None:
    rates = {"learning_rate": 1e-5, "vision_learning_rate": 2e-5, "head_learning_rate": 3e-4}
    model = tiny_model(tiny_processor())
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, RunConfig(**rates, weight_decay=0.1))
        for parameter in group["params"]
    }
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = settings[id(parameter)]
        part = {"text_model": "learning_rate", "vision_model": "vision_learning_rate"}.get(name.split(".")[0])
        assert rate == rates[part or "head_learning_rate"], name
        spared = id(parameter) in norms or name.endswith("bias") or name in ("logit_scale", "image_embeddings.no_image")
        assert decay == (0.0 if spared else 0.1), name


# --- evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_every_row_has_one_prediction_whatever_the_batch_size(markers: str) -> None:
    processor = tiny_processor(markers=markers)
    model, samples = tiny_model(processor), grouped(ROWS)
    results = [predict_relations(model, processor, samples, batch_size=size) for size in (1, 2, 3, 64)]
    assert all(result == results[0] for result in results)
    for result in results:
        torch.testing.assert_close(result.logits, results[0].logits)
    best = [model.config.relation_names[number] for number in results[0].logits.argmax(-1).tolist()]
    assert results[0].predicted == best
    assert results[0].row_ids == [entry["id"] for entry in ROWS]
    assert results[0].expected == [entry["relation"] for entry in ROWS]
    alone = [predict_relations(model, processor, grouped([entry])).predicted for entry in ROWS[4:]]
    assert [[name] for name in results[0].predicted[4:]] == alone


def test_rows_with_the_same_id_have_each_their_own_prediction() -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    unique = predict_relations(model, processor, grouped(ROWS)).predicted
    assert len(set(unique)) > 1, "all predictions are alike"
    same = predict_relations(model, processor, grouped([{**entry, "id": "x"} for entry in ROWS])).predicted
    assert same == unique


def test_predicting_needs_no_known_relations_and_turns_dropout_off() -> None:
    processor = tiny_processor()
    model = tiny_model(processor).train()
    samples = grouped([{**entry, "relation": "never heard of"} for entry in ROWS])
    predictions = predict_relations(model, processor, samples)
    assert set(predictions.expected) == {"never heard of"}
    assert predictions.predicted == predict_relations(model, processor, samples).predicted
    assert not model.training


def test_a_model_that_has_learnt_everything_scores_one() -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    samples = grouped(ROWS)
    _, batch = SampleCollator(processor, NAMES)([samples[number] for number in range(len(samples))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        loss = model(**batch).loss
        if loss < 0.1:
            break
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    scores = score_predictions(predict_relations(model, processor, samples), "None")
    assert [scores[name] for name in ("accuracy", "precision", "recall", "micro_f1", "macro_f1")] == [1.0] * 5
    assert scores["n"] == len(ROWS)


def test_the_relation_that_means_none_counts_in_the_accuracy_only() -> None:
    predictions = Predictions(["1", "2"], ["None", "visits"], ["None", "None"], torch.empty(2, 2))
    scores = score_predictions(predictions, "None")
    assert (scores["accuracy"], scores["micro_f1"]) == (0.5, 0.0)
    assert score_predictions(predictions, None)["micro_f1"] == 0.5
