"""The untrained sentence encoder: what it is asked, and how its answers are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from roc.evaluation.predictions import ABSTAINED
from roc.evaluation.untrained import UntrainedEncoder, choose_threshold, nearest, query

ROW = {"text": "ann kissed bob.", "head": {"name": "ann"}, "tail": {"name": "bob"}}


@torch.no_grad()
def test_texts_are_embedded_as_one_by_one_whatever_the_batch(inputs: Path) -> None:
    folder = str(inputs / "text")
    encoder = UntrainedEncoder(folder, batch_size=2)
    texts = ["ann", "ann kissed bob in paris today", "ann", "in paris", "bob"]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
    torch.testing.assert_close(encoder.embed(texts), functional.normalize(torch.stack(states), dim=-1))


def test_a_pair_is_compared_with_the_mean_of_a_relations_descriptions(inputs: Path) -> None:
    encoder = UntrainedEncoder(str(inputs / "text"))
    relations = [{"name": "a", "descriptions": ["ann", "paris"]}, {"name": "b", "descriptions": ["bob"]}]
    [asked] = encoder.embed([query(ROW)])
    first, second, third = encoder.embed(["ann", "paris", "bob"])
    expected = torch.stack([asked @ functional.normalize(first + second, dim=0), asked @ third])
    torch.testing.assert_close(encoder.similarities([ROW], relations), expected[None])
    assert query(ROW) == "ann kissed bob. The relation between ann and bob."


def test_the_nearest_relation_is_named_unless_it_is_below_the_threshold() -> None:
    cosines = torch.tensor([[0.5, 0.25], [0.125, 0.25]])
    assert nearest(cosines, ["a", "b"]) == ["a", "b"]
    assert nearest(cosines, ["a", "b"], threshold=0.5) == ["a", ""]


def test_something_else_than_an_encoder_is_refused() -> None:
    with pytest.raises((OSError, ValueError)):
        UntrainedEncoder("nowhere")


def test_the_threshold_is_the_best_in_the_mean_of_the_sets() -> None:
    related = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.7]])
    unrelated = torch.tensor([[0.3, 0.1], [0.2, 0.4]])
    seen = [(torch.cat([related, unrelated]), ["a", "b"], ["a", "a", "b", ABSTAINED, ABSTAINED])]
    assert 0.4 < choose_threshold(seen) <= 0.7
    shifted = [(seen[0][0] - 0.35, *seen[0][1:])]
    assert 0.05 < choose_threshold(shifted) <= 0.35
    assert 0.05 < choose_threshold([*seen, *shifted]) <= 0.4  # the second keeps its relations, the first loses little
    assert choose_threshold([(related, ["a", "b"], ["a", "a", "b"])]) == -1.0  # all are related
