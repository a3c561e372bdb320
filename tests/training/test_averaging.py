"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from roc.training.state import WeightAverage


def test_the_average_follows_its_formula() -> None:
    weight = nn.Parameter(torch.zeros(2))
    average = WeightAverage([weight], decay=0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 4.0, 8.0), start=1):
        weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        torch.testing.assert_close(weight.data, torch.full((2,), expected))
    assert weight.tolist() == [8.0, 8.0]


def test_the_weights_come_back_after_an_error() -> None:
    weight = nn.Parameter(torch.ones(1))
    average = WeightAverage([weight], decay=0.9)
    weight.data.fill_(3.0)

    def fail() -> None:
        with average.applied():
            assert weight.item() == 1.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert weight.item() == 3.0
    average.update()
    with average.applied():
        assert weight.item() == pytest.approx(3.0 + (1.0 - 3.0) * 2 / 11)


def test_a_loaded_average_goes_on_as_the_saved_one() -> None:
    weights = [nn.Parameter(torch.rand(3)) for _ in range(2)]
    weights[1].data.copy_(weights[0])
    first = WeightAverage(weights[:1], decay=0.9)
    for value in (1.0, 5.0):
        weights[0].data.fill_(value)
        first.update()
    second = WeightAverage(weights[1:], decay=0.9)
    with first.applied():
        weights[1].data.copy_(weights[0])
    second.restart(first.step)
    for weight, average in zip(weights, (first, second), strict=True):
        weight.data.fill_(2.0)
        average.update()
    with first.applied(), second.applied():
        assert torch.equal(*weights)
