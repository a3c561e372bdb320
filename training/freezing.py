"""Training only the upper part of a text encoder: the lower layers cost no backward pass, and keep what they know."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def freeze_lower_layers(encoder: PreTrainedModel, num_layers: int) -> None:
    """Freeze an encoder's embeddings and its first layers.

    Args:
        encoder: A text encoder.
        num_layers: How many layers; 0 for the embeddings alone.

    Raises:
        ValueError: If the encoder has no list of layers, or no layer is left to train.
    """
    layers = _layers(encoder)
    if num_layers >= len(layers):
        raise ValueError(
            f"freeze_text_layers={num_layers}, but the text encoder has {len(layers)} layers. Leave one to train."
        )
    for module in (_embeddings(encoder), *layers[:num_layers]):
        module.requires_grad_(False)


def _layers(encoder: PreTrainedModel) -> nn.ModuleList:
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == encoder.config.num_hidden_layers:
            return module
    raise ValueError(
        f"freeze_text_layers does not know where the layers of a text encoder {encoder.config.model_type!r} are. "
        "Leave it out."
    )


def _embeddings(encoder: PreTrainedModel) -> nn.Module:
    """Return what makes the first layer's input: token embeddings, with positions and norm where there are such."""
    tokens = encoder.get_input_embeddings()
    name = next(name for name, module in encoder.named_modules() if module is tokens)
    parent = name.rpartition(".")[0]
    return encoder.get_submodule(parent) if parent else tokens
