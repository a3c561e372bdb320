"""The optimizer of a run, and its groups of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from roc.modeling_roc import RocModel
from roc.training.settings import RunConfig


def parameter_groups(model: RocModel, config: RunConfig) -> list[dict[str, Any]]:
    """Optimizer groups: a learning rate per part, no weight decay on biases, norms and single vectors.

    Args:
        model: The model.
        config: Learning rates and weight decay.

    Returns:
        Groups in which every trainable parameter is exactly once.
    """
    rates = {"text_model": config.learning_rate, "vision_model": config.vision_learning_rate}
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((part if part in rates else "head", decay), []).append(parameter)
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(trainable), "a parameter is in two groups, or in none"
    assert set(grouped) == trainable
    return [
        {
            "part": part,
            "params": parameters,
            "lr": rates.get(part, config.head_learning_rate),
            "weight_decay": decay,
        }
        for (part, decay), parameters in groups.items()
    ]


def build_optimizer(model: RocModel, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over `parameter_groups`; with 8-bit averages as in Dettmers et al. (2022).

    Raises:
        ImportError: If the 8-bit optimizer is not installed.
    """
    groups = parameter_groups(model, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ImportError("optimizer='adamw_8bit' needs bitsandbytes. Type `pip install 'roc[8bit]'`.") from error
    return AdamW8bit(groups)
