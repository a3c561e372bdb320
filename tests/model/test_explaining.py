"""Explanations: complete, of the right shapes, pointing at what decides, and true when that is deleted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from tiny import tiny_model, tiny_picture, tiny_processor
from torch import Tensor

from roc.benchmarks.evidence import delete_patches
from roc.modeling_explaining_roc import _integrated_gradients
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

ENTITIES = [{"start": 0, "end": 3, "type": "person"}, {"start": 8, "end": 11}]
BOX = {"bbox": (0.0, 0.0, 0.5, 1.0)}


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    return tiny_model(processor)


def two_colours() -> Any:
    picture = tiny_picture("red", size=(32, 32))
    picture.paste(tiny_picture("blue", size=(16, 32)), (16, 0))
    return picture


def encoded(processor: RocProcessor, **options: Any) -> dict[str, Tensor]:
    """Two posts, the second without a picture and longer."""
    texts = ["ann met bob", "ann met bob in paris today"]
    return dict(processor(texts, [two_colours(), None], [[*ENTITIES, BOX], ENTITIES], **options))


def test_a_linear_score_is_explained_by_its_weights() -> None:
    weight, given, baseline = torch.randn(1, 3, 5), torch.randn(1, 3, 5), torch.randn(1, 3, 5)
    relevance = _integrated_gradients(lambda path: (path * weight).sum((1, 2)), given, baseline, 4)
    torch.testing.assert_close(relevance, weight * (given - baseline))


def test_a_square_is_explained_by_the_difference_of_its_ends() -> None:
    """Midpoints integrate the straight line of its gradient exactly."""
    given, baseline = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, -2.0]])
    relevance = _integrated_gradients(lambda path: (path**2).sum(1), given, baseline, 3)
    torch.testing.assert_close(relevance, given**2 - baseline**2)


def test_the_best_relation_is_explained_with_its_description_and_those_behind_it(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = encoded(processor, pairs=[[(0, 1), (1, 2)], [(1, 0)]])
    output = model(**batch)
    explanation = model.explain(batch, pair=1, top_k=2)
    ranked = model.rank_relations(output, batch["pair_mask"], top_k=2)[1]
    assert [entry["relation"] for entry in explanation.ranked] == [entry["relation"] for entry in ranked]
    assert (explanation.relation, explanation.description) == (ranked[0]["relation"], ranked[0]["description"])
    number = model.config.relation_names.index(explanation.relation)
    assert explanation.score == pytest.approx(output.logits[0, 1, number].item() * model.temperature, abs=1e-5)


def test_relevance_has_a_number_for_each_token_and_each_patch(model: RocModel, processor: RocProcessor) -> None:
    batch = encoded(processor)
    explanation = model.explain(batch)
    assert explanation.token_relevance.shape == batch["input_ids"][0].shape
    assert explanation.patch_relevance is not None
    assert explanation.patch_relevance.shape == (4, 4)
    assert model.explain(batch, row=1).patch_relevance is None
    assert not explanation.token_relevance[batch["attention_mask"][0] == 0].any()


def test_only_the_texts_own_tokens_are_explained_where_their_places_are_given(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = encoded(processor, return_offsets_mapping=True)
    relevance = model.explain(batch, row=1).token_relevance
    is_text = batch["offset_mapping"][1, :, 1] > 0
    assert relevance[is_text].all()
    assert not relevance[~is_text].any()
    assert model.explain(encoded(processor), row=1).token_relevance[~is_text].any()


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_relevance_sums_to_what_the_input_adds_over_an_uninformative_one(head: str, processor: RocProcessor) -> None:
    model = tiny_model(processor, head=head)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "relation_model" not in name:
                parameter.mul_(4)  # so that both inputs matter
    batch = encoded(processor)
    explanation = model.explain(batch, relation="/per/per/couple", num_steps=200)
    unit = 1.0 if head == "classification" else model.temperature

    def score(inputs: dict[str, Tensor]) -> float:
        with torch.no_grad():
            return model(**inputs).logits[0, 0, 1].item() * unit

    grey = batch["pixel_values"].mean(dim=(2, 3), keepdim=True).expand_as(batch["pixel_values"])
    gained = score(batch) - score({**batch, "pixel_values": grey})
    assert abs(gained) > 1e-4
    assert explanation.patch_relevance is not None
    assert explanation.patch_relevance.sum().item() == pytest.approx(gained, abs=0.05 * abs(gained) + 1e-5)
    average = model.get_input_embeddings().weight.detach().mean(dim=0)
    handle = model.get_input_embeddings().register_forward_hook(lambda _, __, output: average.expand_as(output))
    blank = score(batch)
    handle.remove()
    gained = score(batch) - blank
    assert abs(gained) > 1e-4
    assert explanation.token_relevance.sum().item() == pytest.approx(gained, abs=0.05 * abs(gained) + 1e-5)


def test_the_row_and_pair_asked_for_are_explained_whatever_stands_beside_them(
    model: RocModel, processor: RocProcessor
) -> None:
    """The picture of the row, the tokens of the row, and not those of others."""
    entities, pairs = [ENTITIES, [*ENTITIES, BOX]], [[(0, 1)], [(0, 1), (1, 2)]]
    posts = {"text": ["eve met ann today", "ann met bob"], "images": [tiny_picture("green"), two_colours()]}
    together = model.explain(dict(processor(**posts, entities=entities, pairs=pairs)), row=1, pair=1)
    alone = model.explain(dict(processor("ann met bob", two_colours(), entities[1], pairs=[(1, 2)])))
    assert together.relation == alone.relation
    length = len(alone.token_relevance)
    torch.testing.assert_close(together.token_relevance[:length], alone.token_relevance, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together.patch_relevance, alone.patch_relevance, rtol=1e-3, atol=1e-5)


def test_explaining_leaves_the_model_as_it_was(model: RocModel, processor: RocProcessor) -> None:
    model.train()
    with torch.no_grad():  # as callers predict
        model.explain(encoded(processor))
    assert model.training
    assert not model.relation_model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("mode", [False, True])
def test_what_others_do_with_the_model_meanwhile_is_as_ever(
    mode: bool, model: RocModel, processor: RocProcessor
) -> None:
    batch = encoded(processor)
    alone, seen = model(**batch).logits, []
    model.train(mode)

    def ask() -> Any:
        return [module.training for module in model.modules()], None if mode else model(**batch).logits.detach()

    before, explaining = ask(), threading.current_thread()

    def meanwhile(*_: Any) -> None:
        if threading.current_thread() is explaining:
            with ThreadPoolExecutor(1) as other:
                seen.append(other.submit(ask).result())

    model.pair_projection.register_forward_hook(meanwhile)
    model.explain(batch)
    assert len(seen) >= 4
    for modes, logits in seen:
        assert modes == before[0]
        assert mode or torch.equal(logits, alone)


def test_threads_explain_what_each_would_alone(model: RocModel, processor: RocProcessor) -> None:
    batch = encoded(processor)
    asked = [{"row": row, "relation": name} for row in (0, 1) for name in model.config.relation_names[:2]]
    alone = [model.explain(batch, **own).token_relevance for own in asked]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda own: model.explain(batch, **own).token_relevance, asked * 2))
    for own, other in zip(alone * 2, together, strict=True):
        torch.testing.assert_close(own, other)


def test_modules_that_accelerate_has_hooked_are_explained(model: RocModel, processor: RocProcessor) -> None:
    batch = encoded(processor)
    expected = model.explain(batch)
    for module in [*model.modules()]:
        add_hook_to_module(module, ModelHook())
    explained = model.explain(batch)
    torch.testing.assert_close(explained.token_relevance, expected.token_relevance)
    torch.testing.assert_close(explained.patch_relevance, expected.patch_relevance)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"row": 2}, "row=2 is out of range: the inputs have 2 rows"),
        ({"row": 1, "pair": 5}, "pair=5 is out of range: row 1 has 2 pairs"),
        ({"relation": "None "}, "The model has no relation 'None '; it has .* Did you mean 'None'"),
        ({"num_steps": 0}, "num_steps=0 must be 1 or more"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    wrong: dict[str, Any], message: str, model: RocModel, processor: RocProcessor
) -> None:
    with pytest.raises(ValueError, match=message):
        model.explain(encoded(processor), **wrong)


def test_features_in_place_of_a_picture_cannot_be_explained(model: RocModel, processor: RocProcessor) -> None:
    with pytest.raises(ValueError, match="patch_features cannot be explained: give the processor the picture itself"):
        model.explain({**encoded(processor), "patch_features": torch.zeros(1, 4, 4, 32)})


# --- explanations that are true ----------------------------------------------------------------------------------

SIZE = 32  # pixels, in 4 x 4 patches


def squares(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a bright square in a patch, or without; its colour decides. Returns pixels, labels and places."""
    pixels = 0.3 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    labels, places = (torch.randint(n, (count,), generator=generator) for n in (3, 16))
    for picture, label, place in zip(pixels, labels.tolist(), places.tolist(), strict=True):
        row, column = divmod(place, 4)
        if label:
            picture[label, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 3
    return pixels, labels, places


Trained = tuple[RocModel, dict[str, Tensor], Tensor]


@pytest.fixture(scope="module")
def trained(processor: RocProcessor) -> list[Trained]:
    """Three of them: where the most relevant patch lies differs from seed to seed and from machine to machine."""
    return [train(processor, seed) for seed in range(3)]


def train(processor: RocProcessor, seed: int) -> Trained:
    """A model that has learnt which colour means which relation, and pictures that it has not seen."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model(processor, dropout=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    text = dict(processor("ann met bob", entities=ENTITIES, pairs=[(0, 1)]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)

    def batch(count: int) -> tuple[dict[str, Tensor], Tensor]:
        pixels, labels, places = squares(count, generator)
        repeated = {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in text.items()}
        repeated |= {"pixel_values": pixels, "image_index": torch.arange(count), "labels": labels[:, None]}
        return repeated, places

    model.train()
    for _ in range(150):
        model(**batch(32)[0]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    inputs, places = batch(64)
    shows = inputs["labels"][:, 0] > 0
    inputs = {name: tensor if name == "pixel_values" else tensor[shows] for name, tensor in inputs.items()}
    return model.eval(), inputs, places[shows]


def relevances(model: RocModel, batch: dict[str, Tensor]) -> Tensor:
    """`(pictures, 16)`."""
    explained = [model.explain(batch, row=row).patch_relevance for row in range(len(batch["input_ids"]))]
    return torch.stack([relevance.flatten() for relevance in explained if relevance is not None])


def score_without(model: RocModel, batch: dict[str, Tensor], patches: Tensor) -> float:
    """The mean logit of the right relation with a patch of each picture put to the picture's mean colour."""
    pixels = batch["pixel_values"][batch["image_index"]].clone()
    for picture, patch in zip(pixels, patches.tolist(), strict=True):
        picture[:] = delete_patches(picture[None], [patch], (4, 4))[0]
    with torch.no_grad():
        logits = model(**{**batch, "pixel_values": pixels, "image_index": torch.arange(len(pixels))}).logits[:, 0]
    return logits.gather(1, batch["labels"]).mean().item()


def test_the_most_relevant_patch_is_the_one_that_decides(trained: list[Trained]) -> None:
    hits = []
    for model, batch, places in trained:
        with torch.no_grad():
            assert (model(**batch).logits[:, 0].argmax(-1) == batch["labels"][:, 0]).float().mean() > 0.9
        hits.append((relevances(model, batch).argmax(-1) == places).float().mean())
    assert torch.stack(hits).mean() > 0.8


def test_deleting_the_most_relevant_patch_costs_more_than_deleting_a_random_one(trained: list[Trained]) -> None:
    model, batch, _ = trained[0]
    most = relevances(model, batch).argmax(-1)
    torch.manual_seed(0)
    anywhere = torch.randint(16, most.shape)
    with torch.no_grad():
        whole = model(**batch).logits[:, 0].gather(1, batch["labels"]).mean().item()
    lost_most, lost_anywhere = (whole - score_without(model, batch, patches) for patches in (most, anywhere))
    assert lost_most > 3 * max(lost_anywhere, 0.0)
    assert lost_most > 1
