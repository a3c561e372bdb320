"""What is different where several processes train or score together, as `accelerate launch` starts them."""

from __future__ import annotations

import copy

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from roc.modeling_roc import RocModel


def start_accelerator(mixed_precision: str | None = None) -> Accelerator:
    """Join the processes that were launched together.

    Args:
        mixed_precision: `no` or `bf16`; None where nothing is trained.

    Returns:
        The accelerator of this process, the only one where it was started by itself.

    Raises:
        ValueError: If FSDP is asked for in its first version.
    """
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        # without this, processes that `accelerate launch` starts on a machine without a GPU do not find each other
        cpu=not torch.accelerator.is_available(),
        # a batch without a picture or an object leaves parameters without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP works in version 2 only. Give fsdp_version: 2, as configs/accelerate/fsdp.yaml does.")
    return accelerator


def prepare_for_sharding(model: RocModel, accelerator: Accelerator) -> RocModel:
    """Make a model one that FSDP can cut into shards.

    Args:
        model: The model, not yet handed to `accelerator.prepare`. It is changed.
        accelerator: The processes of the run and their device.

    Returns:
        A copy that stays whole, for what is not training; see `gather_weights`.
    """
    whole = copy.deepcopy(model).to(accelerator.device)
    if model.config.head == "retrieval":  # a number cannot be cut, a list of one can
        scale = model.logit_scale
        model.logit_scale = nn.Parameter(scale.detach()[None], requires_grad=scale.requires_grad)
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    # the layers of encoders and fusion; Transformers proposes embeddings as well, which accelerate wraps by itself
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted({type(stack[0]).__name__ for stack in stacks})
    return whole


@torch.no_grad()
def gather_weights(sharded: nn.Module, whole: RocModel) -> None:
    """Give the whole copy the trained weights; all processes call this together.

    Args:
        sharded: What `accelerator.prepare` made of the model.
        whole: What `prepare_for_sharding` returned.
    """
    own = dict(whole.named_parameters())
    for name, parameter in sharded.named_parameters():
        if parameter.requires_grad:
            own[name].copy_(parameter.full_tensor().view_as(own[name]))
