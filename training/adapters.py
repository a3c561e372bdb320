"""Training less than all of an encoder: LoRA adapters through PEFT, or its upper layers alone.

With an adapter an encoder keeps its weights and learns a low-rank correction of each linear layer. What starts at
random is trained as ever: fusion, pair vector, projections, temperature, and the markers, which are new to encoders.

A run's folder with an adapter is a whole model, `config.json` and `model.safetensors`, with the encoders as they were,
and beside it PEFT's `adapter_config.json` and `adapter_model.safetensors`. `AutoModel.from_pretrained` sees both and
puts the adapter on, wherever the folder lies.

Source:
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). All linear layers have one, as in Dettmers
    et al., "QLoRA" (2023), section 4.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Literal

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter

ADAPTED_PARTS = {"text": ("text_model",), "vision": ("vision_model",), "both": ("text_model", "vision_model")}


def add_lora(
    model: RocModel,
    *,
    encoders: Literal["text", "vision", "both"],
    rank: int,
    alpha: int,
    marker_ids: Sequence[int],
) -> None:
    """Put an adapter on encoders, in place: from now on it is trained in their stead.

    The model computes what it did before until the adapter has learnt. Of an adapted text encoder's embeddings only
    the markers' are trained.

    Args:
        model: The model.
        encoders: The encoders that are adapted.
        rank: Rank of the corrections.
        alpha: The corrections are multiplied by `alpha / rank`.
        marker_ids: Tokens whose embeddings are trained: the processor's `marker_ids`.
    """
    parts = ADAPTED_PARTS[encoders]
    others = [own for name, own in model.named_parameters() if own.requires_grad and _part(name) not in parts]
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    linear_layers = [name for name, module in linear if _part(name) in parts and module.weight.requires_grad]
    embeddings = _name_of(model.get_input_embeddings(), model)
    markers = {embeddings: list(marker_ids)} if "text_model" in parts else None
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear_layers, trainable_token_indices=markers)
    model.add_adapter(lora)
    for parameter in others:  # PEFT has frozen everything but the adapter
        parameter.requires_grad_(True)


def without_adapter(model: RocModel, *, merge: bool) -> RocModel:
    """Copy a model that has an adapter, as a plain model.

    Args:
        model: The model; it is not changed.
        merge: Whether the copy's encoders have the adapter's corrections in their weights, and so compute what the
            model does, or are as they were before training.
    """
    plain = copy.deepcopy(model)
    for name, module in [*plain.named_modules()]:
        if isinstance(module, BaseTunerLayer):
            if merge:
                module.merge()
            # around the markers' adapter, PEFT has another wrapper
            plain.set_submodule(name.removesuffix(".token_adapter"), module.get_base_layer())
    del plain.peft_config
    plain._hf_peft_config_loaded = False  # what Transformers' own `delete_adapter` does after the last one
    plain.__dict__.pop("_weight_conversions", None)  # names as PEFT's file has them, where the adapter was loaded
    plain.requires_grad_(True)
    plain._freeze()  # what the configuration freezes, and no longer what PEFT has frozen
    return plain


def save_model(model: RocModel, folder: str | os.PathLike[str], *, merge_adapter: bool = False) -> None:
    """Save a model as `AutoModel.from_pretrained` loads it, with its adapter where it has one.

    Args:
        model: The model.
        folder: Where to save it.
        merge_adapter: Save the adapter merged into the encoders: a plain model, which needs no PEFT.
    """
    merged = without_adapter(model, merge=True) if merge_adapter and has_adapter(model) else model
    merged.save_pretrained(folder)


def freeze_lower_layers(encoder: PreTrainedModel, num_layers: int) -> None:
    """Freeze a text encoder's embeddings and its first layers, which then cost no backward pass.

    Raises:
        ValueError: If the encoder has no list of layers, or no layer is left to train.
    """
    stacks = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    layers = next((stack for stack in stacks if len(stack) == encoder.config.num_hidden_layers), None)
    if layers is None:
        raise ValueError(
            f"freeze_text_layers does not know where the layers of a text encoder {encoder.config.model_type!r} are. "
            "Leave it out."
        )
    if num_layers >= len(layers):
        raise ValueError(
            f"freeze_text_layers={num_layers}, but the text encoder has {len(layers)} layers. Leave one to train."
        )
    # beside the token embeddings lie those of positions, and a norm, where there are any
    parent = _name_of(encoder.get_input_embeddings(), encoder).rpartition(".")[0]
    for module in (encoder.get_submodule(parent) if parent else encoder.get_input_embeddings(), *layers[:num_layers]):
        module.requires_grad_(False)


def _name_of(wanted: nn.Module, model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _part(name: str) -> str:
    return name.split(".")[0]
