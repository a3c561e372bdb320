"""Adversarial noise on token embeddings in training."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny import tiny_adapted_model, tiny_model, tiny_processor
from tiny_runs import NAMES
from tiny_samples import ROWS, grouped, training_run
from torch import Tensor, nn

from roc.modeling_roc import RocModel
from roc.samples.batching import SampleCollator
from roc.training.adapters import freeze_lower_layers
from roc.training.adversarial import AdversarialNoise, worst_noise
from roc.training.learner import Learner
from roc.training.settings import RunConfig

pytestmark = pytest.mark.usefixtures("fresh_state")
NOISE = {"adversarial_noise": 0.5}


def batches(*cuts: int) -> list[Any]:
    """All rows, cut into so many samples a batch."""
    samples, collate = grouped(ROWS), SampleCollator(tiny_processor(), NAMES)
    items = [samples[number] for number in range(len(samples))]
    return [collate(items[start:end]) for start, end in itertools.pairwise([0, *cuts, len(items)])]


def gradients(model: RocModel, given: list[Any], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Tensor]:
    """The gradients with which a step moves a model's weights, before they are clipped."""
    learner = training_run(model, tiny_processor(), max_grad_norm=1e9, **settings).learner
    seen: dict[str, Tensor] = {}

    def record() -> None:
        parameters = learner.plain_model.named_parameters()
        seen.update((name, own.grad.clone()) for name, own in parameters if own.grad is not None)

    with monkeypatch.context() as patch:
        patch.setattr(learner.optimizer, "step", record)
        learner.step(given)
    return seen


def check_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    scale = max(tensor.abs().max() for tensor in first.values())
    for name, tensor in first.items():
        assert (tensor - second[name]).abs().max() <= 1e-5 * scale, name


def test_where_the_loss_is_linear_it_grows_by_the_noise_times_the_gradients_length() -> None:
    embeddings, weight = nn.Embedding(9, 4), torch.randn(2, 3, 4)  # two texts of three tokens
    noise = AdversarialNoise(embeddings, 0.3)
    ids = torch.tensor([[1, 2, 3], [4, 5, 1]])
    with noise.measured() as probes:
        losses = (embeddings(ids) * weight).sum(dim=(1, 2))
        losses.sum().backward()
    with noise.applied(probes):
        moved = (embeddings(ids) * weight).sum(dim=(1, 2))
    torch.testing.assert_close(moved - losses, 0.3 * weight.flatten(1).norm(dim=1))
    assert torch.equal((embeddings(ids) * weight).sum(dim=(1, 2)), losses), "the noise is gone behind its block"


def test_the_noise_of_a_text_has_its_length_however_small_the_gradient_and_none_without_one() -> None:
    gradient = torch.randn(3, 5, 4) * torch.tensor([1e-6, 1.0, 0.0])[:, None, None]
    for given in (gradient, gradient.bfloat16()):
        noise = worst_noise(given, 2.0)
        assert noise.dtype == given.dtype
        assert noise.float().flatten(1).norm(dim=1).tolist() == pytest.approx([2, 2, 0], rel=1e-2)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("cuts", [(1,), (1, 2, 3)])
def test_accumulating_batches_is_one_step_with_their_union(
    cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (gradients(tiny_model(tiny_processor()), batches(*own), monkeypatch, **NOISE) for own in ((), cuts))
    check_close(whole, parts)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_the_gradient_is_the_sum_of_that_without_noise_and_that_at_the_moved_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one text, whose noise is easily made by hand."""
    [_, given] = batches(4)
    model = tiny_model(tiny_processor())
    both = gradients(copy.deepcopy(model), [given], monkeypatch, **NOISE)
    alone = gradients(copy.deepcopy(model), [given], monkeypatch)
    embedded: list[Tensor] = []
    words = model.get_input_embeddings()
    handle = words.register_forward_hook(lambda module, ids, states: embedded.append(states))
    loss = model(**given[1]).loss
    handle.remove()
    [direction] = torch.autograd.grad(loss, embedded)
    moved = 0.5 * direction / direction.norm()
    words.register_forward_hook(lambda module, ids, states: states + moved)
    at_moved = gradients(model, [given], monkeypatch)
    check_close(both, {name: tensor + at_moved[name] for name, tensor in alone.items()})
    assert not torch.allclose(at_moved["pair_head.dense.weight"], alone["pair_head.dense.weight"], rtol=1e-3)


@pytest.mark.parametrize("kind", ["whole", "adapter", "frozen", "bf16"])
def test_a_step_moves_every_parameter_that_it_moves_without_noise(kind: str) -> None:
    processor = tiny_processor()
    model = tiny_adapted_model(processor) if kind == "adapter" else tiny_model(processor)
    if kind == "frozen":
        freeze_lower_layers(model.text_model, 1)
    learner = training_run(model, processor, warmup_ratio=0.0, **NOISE).learner
    if kind == "bf16":
        learner.model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(learner.model.forward)
    before = {name: own.detach().clone() for name, own in model.named_parameters()}
    learner.step(batches())
    for name, own in model.named_parameters():
        assert torch.equal(own, before[name]) != own.requires_grad, name


def test_descriptions_that_the_same_encoder_reads_are_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = tiny_processor()
    model = tiny_model(processor, relation_config=None)
    learner = training_run(model, processor, share_description_encoder=True, **NOISE).learner
    outputs: list[Any] = []
    model.register_forward_hook(lambda module, given, output: outputs.append(output))
    learner.step(batches())
    clean, moved = outputs
    assert torch.equal(clean.relation_embeds, moved.relation_embeds)
    assert moved.loss > clean.loss, "the pairs' texts are where the loss is larger"


def test_the_loss_that_is_reported_is_that_without_noise() -> None:
    processor = tiny_processor()
    losses = [training_run(tiny_model(processor), processor, **own).learner.step(batches()) for own in ({}, NOISE)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("setting", ["adversarial_noise", "type_loss"])
def test_a_compiled_model_is_refused_because_it_passes_by_what_is_added_to_it(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = tiny_model(tiny_processor()), RunConfig(**{setting: 0.1})
    Learner(config, Accelerator(cpu=True), model, total_steps=1, inputs={})
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match=f"{setting} does not work with a compiled model. Leave out --dynamo_backend"):
        Learner(config, Accelerator(cpu=True), model, total_steps=1, inputs={})
