"""A moving average of the weights, which scores better and more steadily than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of parameters.

    After step t, `average = d * average + (1 - d) * parameter` with `d = min(decay, (1 + t) / (10 + t))`, so that the
    random start is soon forgotten.

    Args:
        parameters: What to average; the average starts at their values.
        decay: Weight of the past, in (0, 1): about the last `1 / (1 - decay)` steps count.

    Source:
        Polyak and Juditsky (1992); the growing decay as in TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._averages: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        self._decay = decay
        self.step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after an optimizer step."""
        self.step += 1
        decay = min(self._decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @torch.no_grad()
    def restart(self, step: int) -> None:
        """Take the parameters' present values for the average after `step` steps."""
        self.step = step
        for parameter, average in zip(self._parameters, self._averages):
            average.copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the parameters their averages within the block, and their own values again after it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, average in zip(self._parameters, self._averages):
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)
