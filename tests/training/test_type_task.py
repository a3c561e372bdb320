"""Entity types as a second task."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tiny import RELATIONS, tiny_model, tiny_processor
from tiny_runs import NAMES
from tiny_samples import ROWS, grouped, training_run
from torch.nn import functional

from roc.modeling_roc import RocModel
from roc.processing_typing_roc import ENTITY_TYPES
from roc.samples.batching import SampleCollator
from roc.training.settings import load_run_config
from roc.training.type_task import SCALE, TypeTask, type_targets

pytestmark = pytest.mark.usefixtures("fresh_state")


def batches(*cuts: int) -> list[Any]:
    samples, collate = grouped(ROWS), SampleCollator(tiny_processor(), NAMES)
    items = [samples[number] for number in range(len(samples))]
    return [collate(items[start:end]) for start, end in itertools.pairwise([0, *cuts, len(items)])]


def test_a_relation_teaches_the_types_that_it_leaves_no_choice_of() -> None:
    relations = [
        {"head_types": ["person"], "tail_types": ["person", "location"]},
        {"head_types": None, "tail_types": ["location"]},
        {"head_types": [], "tail_types": []},
    ]
    person, place = (ENTITY_TYPES.index(kind) for kind in ("person", "location"))
    assert type_targets(relations, list(ENTITY_TYPES)).tolist() == [[person, -100], [-100, place], [-100, -100]]


def test_the_loss_is_the_cross_entropy_of_cosines_with_fixed_orthonormal_directions(model: RocModel) -> None:
    task = TypeTask(model, 0.5)
    directions = task._directions
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(ENTITY_TYPES)))
    labels = torch.tensor([[1, 0], [2, -100]])  # person and person, nothing; person and any, padding
    states = torch.randn(2, 2, 2, model.config.hidden_size)
    person = torch.tensor(ENTITY_TYPES.index("person"))
    cosines = functional.normalize(states, dim=-1) @ directions.T
    expected = [functional.cross_entropy(SCALE * cosines[own], person) for own in ((0, 0, 0), (0, 0, 1), (1, 0, 0))]
    torch.testing.assert_close(task.loss(states, labels, 3), 0.5 * sum(expected) / 3)
    certain = 3 * directions[person].expand(2, 2, 2, -1)
    assert task.loss(certain, labels, 3) < 1e-3
    assert task.loss(states, torch.full((2, 2), -100), 1) == 0


def test_accumulating_batches_is_one_step_with_their_union() -> None:
    learners = []
    for cuts in ((), (1, 2, 3)):
        processor = tiny_processor()
        learners.append(training_run(tiny_model(processor), processor, warmup_ratio=0.0, type_loss=0.5).learner)
        loss = learners[-1].step(batches(*cuts))
    plain = training_run(tiny_model(tiny_processor()), tiny_processor()).learner.step(batches())
    assert loss > plain, "the second task adds to the loss"
    for first, second in zip(*(learner.parameters for learner in learners), strict=True):
        # Adam's first step is about the sign of each gradient: those near 0 may differ
        assert ((first - second).abs() > 1e-5).float().mean() < 0.01


def test_types_are_learnt_and_the_model_has_nothing_more_than_before(model: RocModel) -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    names, pairs = set(model.state_dict()), []
    run = training_run(
        model, processor, warmup_ratio=0.0, num_epochs=40, head_learning_rate=1e-2, type_loss=1.0, batch_size=8
    )
    task = TypeTask(model, 1.0)
    [(_, batch)] = batches()
    for learnt in (False, True):
        with torch.no_grad(), task.watched() as states:
            model(**batch)
        pairs.append(task.loss(*states, batch["labels"], 1).item())
        for _ in range(0 if learnt else 30):
            run.learner.step(batches())
    assert pairs[1] < 0.3 * pairs[0]
    assert set(model.state_dict()) == names


def test_relations_without_types_and_pairs_without_entity_states_are_refused() -> None:
    untyped = [{name: own[name] for name in ("name", "descriptions")} for own in RELATIONS]
    model = tiny_model(tiny_processor(), relations=untyped)
    with pytest.raises(ValueError, match="Give them head_types and tail_types in the relation file"):
        TypeTask(model, 0.1)
    settings = {"type_loss": 0.1, "markers": "pair", "model": {"pair_representation": "sentence"}}
    with pytest.raises(ValueError, match="needs a state of each entity"):
        load_run_config(None, settings)
