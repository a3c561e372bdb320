"""Adversarial noise: each step is repeated on token embeddings that are moved to where the loss grows fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor, nn


class AdversarialNoise:
    """Moves what a text encoder's token embeddings give by `size * g / ||g||`, the worst direction for each text.

    `g` is the gradient of the loss with respect to a text's embeddings as they go into the encoder, all tokens
    together, so that the noise does not depend on what else is in the batch, and frozen embeddings get it too. Of a
    forward pass the first reading alone is moved: descriptions that the same encoder reads afterwards stay as they are.

    Args:
        embeddings: The token embeddings, `(batch, length)` ids to `(batch, length, dim)`.
        size: Euclidean length of the noise of one text.

    Source:
        Miyato et al., "Adversarial Training Methods for Semi-Supervised Text Classification" (2017), equations 5 and 6.
        There embeddings are normalised first; a pretrained encoder's are not, as usual in fine-tuning.
    """

    def __init__(self, embeddings: nn.Module, size: float) -> None:
        self._embeddings, self._size = embeddings, size

    @contextmanager
    def measured(self) -> Iterator[list[Tensor]]:
        """In the block, one forward pass computes as ever; its backward pass leaves the noise's gradient.

        Yields:
            A list that then has one tensor of zeros, `(batch, length, dim)`, with the gradient `g`.
        """
        probes: list[Tensor] = []

        def probe(embedded: Tensor) -> Tensor:
            probes.append(torch.zeros_like(embedded, requires_grad=True))
            return probes[0]

        with self._added(probe):
            yield probes

    @contextmanager
    def applied(self, probes: list[Tensor]) -> Iterator[None]:
        """In the block, one forward pass on the same texts is moved by the noise that `probes` have measured."""
        [probe] = probes
        assert probe.grad is not None  # the backward pass has been there
        noise = worst_noise(probe.grad, self._size)
        with self._added(lambda embedded: noise):
            yield

    @contextmanager
    def _added(self, what: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Add what `what` gives to the first embeddings in the block."""
        is_first = True

        def add(module: nn.Module, given: Any, embedded: Tensor) -> Tensor:
            nonlocal is_first
            if not is_first:
                return embedded
            is_first = False
            return embedded + what(embedded.detach())

        handle = self._embeddings.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def worst_noise(gradient: Tensor, size: float) -> Tensor:
    """Return `size * g / ||g||` of each text of `gradient` `(batch, length, dim)`; zeros where it has no gradient."""
    norms = gradient.float().flatten(1).norm(dim=1)[:, None, None]
    return (size * gradient.float() / norms.where(norms > 0, 1)).to(gradient.dtype)


def check_not_compiled(accelerator: Accelerator, setting: str) -> None:
    """Raise a ValueError where the model is compiled: a compiled model passes by what a `setting` adds to it."""
    plugin = accelerator.state.dynamo_plugin
    if plugin is not None and plugin.backend != DynamoBackend.NO:
        raise ValueError(f"{setting} does not work with a compiled model. Leave out --dynamo_backend, or {setting}.")
