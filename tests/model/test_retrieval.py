"""The loss and the relation bank against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from roc.modeling_training_roc import drop_relations, retrieval_loss
from roc.processing_typing_roc import type_id
from roc.relations_bank_roc import (
    RelationBank,
    nearest_descriptions,
    nearest_similarities,
    pool_descriptions,
    relation_index_of,
    rows_of_relations,
    type_mismatches,
)


def relations(*counts: int) -> list[dict[str, Any]]:
    """One relation for each count, with so many descriptions."""
    return [{"name": f"relation {number}", "descriptions": ["words"] * count} for number, count in enumerate(counts)]


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_number_of_relations() -> None:
    loss = retrieval_loss(torch.full((2, 3, 5), 7.0), torch.tensor([[0, 1, 2], [3, 4, 0]]))
    assert loss.item() == pytest.approx(math.log(5))


def test_the_loss_is_minus_the_logarithm_of_the_true_relations_share() -> None:
    cosines, temperature = torch.tensor([[0.5, 0.4, 0.3]]), 0.07
    exponentials = [math.exp(cosine / temperature) for cosine in cosines[0].tolist()]
    for label in range(3):
        loss = retrieval_loss(cosines / temperature, torch.tensor([label]))
        assert loss.item() == pytest.approx(-math.log(exponentials[label] / sum(exponentials)), rel=1e-5)


def test_the_gradient_of_the_loss_is_the_predicted_minus_the_true_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    retrieval_loss(logits, torch.tensor([1])).backward()
    expected = logits.detach().softmax(-1) - torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(logits.grad, expected)


def test_label_smoothing_spreads_a_share_of_the_target_over_all_relations() -> None:
    logits, smoothing = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 3.0, 0.0, 0.0]]), 0.2
    log_shares = logits.log_softmax(-1)
    target = torch.full((2, 4), smoothing / 4)
    target[0, 2] += 1 - smoothing
    target[1, 1] += 1 - smoothing
    expected = -(target * log_shares).sum(-1).mean()
    loss = retrieval_loss(logits, torch.tensor([2, 1]), label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_pair_without_label_counts_neither_in_the_loss_nor_in_its_mean(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, requires_grad=True)
    labels = torch.tensor([[1, -100, 3], [-100, -100, 0]])
    loss = retrieval_loss(logits, labels, label_smoothing=smoothing)
    real = labels != -100
    expected = retrieval_loss(logits[real], labels[real], label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    [gradient] = torch.autograd.grad(loss, logits)
    assert not gradient[~real].any()
    assert gradient[real].any(dim=-1).all()


def test_without_any_label_the_loss_and_its_gradient_are_zero() -> None:
    logits = torch.randn(2, 2, 3, requires_grad=True)
    loss = retrieval_loss(logits, torch.full((2, 2), -100), label_smoothing=0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_num_items_in_batch_divides_the_sum_of_the_loss(as_tensor: bool) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, -100, 1])
    number = torch.tensor(8) if as_tensor else 8
    loss = retrieval_loss(logits, labels, num_items_in_batch=number)
    torch.testing.assert_close(loss, retrieval_loss(logits, labels) * 4 / 8)


def test_parts_of_a_batch_add_up_to_the_loss_of_the_whole() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 2, -100, 1, 1, 0])
    whole = retrieval_loss(logits, labels)
    parts = [retrieval_loss(logits[rows], labels[rows], num_items_in_batch=6) for rows in ([0], [1, 2, 3], [4, 5, 6])]
    torch.testing.assert_close(sum(parts), whole)


def test_the_loss_is_computed_in_float32_whatever_the_logits_are() -> None:
    logits = torch.tensor([[100.0, 99.0]], dtype=torch.bfloat16)  # 99 and 100 have no bits to spare in bfloat16
    loss = retrieval_loss(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-5)


def test_the_loss_of_huge_logits_is_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = retrieval_loss(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(logits.grad).all()


def test_descriptions_of_a_relation_are_averaged_and_normalised_again() -> None:
    descriptions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    pooled = pool_descriptions(descriptions, torch.tensor([0, 0, 1]), 2)
    root = math.sqrt(0.5)
    torch.testing.assert_close(pooled, torch.tensor([[root, root], [0.6, 0.8]]))


def test_a_relation_with_one_description_is_that_description() -> None:
    descriptions = functional.normalize(torch.randn(3, 8), dim=-1)
    torch.testing.assert_close(pool_descriptions(descriptions, torch.arange(3), 3), descriptions)


def test_the_order_of_descriptions_does_not_change_a_relation() -> None:
    torch.manual_seed(0)
    descriptions, index = functional.normalize(torch.randn(6, 8), dim=-1), torch.tensor([0, 0, 1, 1, 1, 2])
    order = torch.tensor([1, 0, 4, 2, 3, 5])
    torch.testing.assert_close(
        pool_descriptions(descriptions[order], index, 3), pool_descriptions(descriptions, index, 3)
    )


def test_opposite_descriptions_of_a_relation_leave_no_nan() -> None:
    descriptions = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    pooled = pool_descriptions(descriptions, torch.tensor([0, 0]), 1)
    pooled.sum().backward()
    assert torch.equal(pooled, torch.zeros(1, 2))
    assert torch.isfinite(descriptions.grad).all()


def test_the_nearest_description_is_found_within_each_relation() -> None:
    descriptions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    pairs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    relations = torch.tensor([[0, 1, 2], [2, 0, 1]])
    cosines, rows = nearest_descriptions(pairs, descriptions, torch.tensor([0, 0, 1, 2, 2]), relations)
    assert rows.tolist() == [[0, 2, 4], [3, 1, 2]]
    torch.testing.assert_close(cosines, torch.tensor([[1.0, -1.0, 0.8], [0.8, 1.0, 0.0]]))


def test_rows_of_relations_come_in_the_order_that_was_asked_for() -> None:
    index = torch.tensor([0, 0, 1, 2, 2, 2])
    assert rows_of_relations(index, [2, 0]).tolist() == [3, 4, 5, 0, 1]
    assert rows_of_relations(index, [1]).tolist() == [2]


def test_descriptions_are_numbered_relation_by_relation() -> None:
    assert relation_index_of(relations(2, 1, 3)).tolist() == [0, 0, 1, 2, 2, 2]
    assert relation_index_of([]).tolist() == []


def test_a_bank_takes_other_descriptions_without_their_gradient() -> None:
    bank = RelationBank(1, 4, 4)
    features = torch.randn(3, 4, requires_grad=True)
    bank.replace(features, relations(1, 2))
    assert torch.equal(bank.features, features)
    assert not bank.features.requires_grad
    assert bank.relation_index.tolist() == [0, 1, 1]
    assert set(bank.state_dict()) == {"features", "relation_index", "digests", "seals", "encoder_sample"}


@pytest.mark.parametrize("given", [2, 4])
def test_a_bank_refuses_more_or_fewer_features_than_descriptions(given: int) -> None:
    bank = RelationBank(1, 4, 4)
    with pytest.raises(ValueError, match=f"have 3 descriptions, but {given} features"):
        bank.replace(torch.randn(given, 4), relations(1, 2))


def test_the_nearest_description_of_a_relation_speaks_for_it() -> None:
    torch.manual_seed(0)
    pairs = functional.normalize(torch.randn(2, 3, 8), dim=-1)
    descriptions = functional.normalize(torch.randn(6, 8), dim=-1).requires_grad_()
    index = torch.tensor([0, 0, 0, 1, 2, 2])
    found = nearest_similarities(pairs, descriptions, index, 3)
    cosines = pairs @ descriptions.T
    expected = torch.stack([cosines[..., :3].amax(-1), cosines[..., 3], cosines[..., 4:].amax(-1)], dim=-1)
    torch.testing.assert_close(found, expected)
    [gradient] = torch.autograd.grad(found[0, 0, 0], descriptions)
    assert gradient.any(dim=-1).nonzero().flatten().tolist() == [int(cosines[0, 0, :3].argmax())]


# --- entity types ------------------------------------------------------------------------------------------------


def test_mismatches_count_head_and_tail_that_a_relation_does_not_take() -> None:
    relations = [
        {"head_types": ["person"], "tail_types": ["person", "location"]},
        {"head_types": [], "tail_types": ["organization"]},
        {"head_types": [], "tail_types": []},
    ]
    type_ids = torch.tensor([[type_id(word) for word in ("person", "organization", "location", None)]])
    pairs = torch.tensor([[[0, 2], [1, 1], [2, 0], [3, 3], [3, 0]]])
    expected = [[0, 1, 0], [2, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert type_mismatches(type_ids, pairs, relations).tolist() == [expected]


# --- relation dropout --------------------------------------------------------------------------------------------


def test_relations_are_left_out_but_none_that_a_pair_has() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 50), torch.randint(0, 50, (4, 3))
    labels[1, 2] = labels[3, 0] = -100
    kept, numbers = drop_relations(logits, labels, 0.5)
    assert 12 < kept.shape[-1] < 45
    learnt = labels >= 0
    assert numbers[~learnt].tolist() == [-100, -100]
    own, before = (values[learnt].gather(-1, of[learnt][:, None]) for values, of in ((kept, numbers), (logits, labels)))
    assert own.equal(before)


def test_which_relations_are_left_out_changes_and_without_dropout_all_stay() -> None:
    logits, labels = torch.randn(2, 30), torch.tensor([0, 29])
    assert len({tuple(drop_relations(logits, labels, 0.5)[0][0].tolist()) for _ in range(5)}) > 1
    same, numbers = drop_relations(logits, labels, 0.0)
    assert same.equal(logits)
    assert numbers.equal(labels)
