"""What learns: the model with its optimizer, and one step of it, on one process or in shards."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from roc.modeling_roc import RocModel
from roc.processing_entities_roc import NO_LABEL
from roc.training.adversarial import AdversarialNoise, check_not_compiled
from roc.training.settings import RunConfig
from roc.training.state import RunState, WeightAverage
from roc.training.type_task import TypeTask


class Learner:
    """A model that is prepared for training, with its optimizer, learning rates and weight average.

    Args:
        total_steps: Optimizer steps of the whole run.
        inputs: What the model gets besides each batch; a batch's own entries come first.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        model: RocModel,
        *,
        total_steps: int,
        inputs: Mapping[str, Tensor],
    ) -> None:
        self.config, self.accelerator, self.inputs = config, accelerator, inputs
        self._whole_model = _prepare_for_sharding(model, accelerator) if accelerator.is_fsdp2 else None
        optimizer = build_optimizer(model, config)
        # not prepared: the batches are shared out already, and it steps once per optimizer step
        scheduler = get_linear_schedule_with_warmup(optimizer, round(total_steps * config.warmup_ratio), total_steps)
        self._noise, self._types = _extras(config, accelerator, model)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if self._whole_model is not None:
            self.model.set_reduce_scatter_unused_params(True)  # as DDP's find_unused_parameters
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        average = None if config.average_decay is None else WeightAverage(self.parameters, config.average_decay)
        self.state = RunState(accelerator, accelerator.unwrap_model(self.model), self.optimizer, scheduler, average)
        self.progress = self.state.progress

    @property
    def plain_model(self) -> RocModel:
        """The model to validate and to save; under FSDP it is as of `gather_weights`."""
        return self._whole_model or self.accelerator.unwrap_model(self.model)

    @property
    def learning_rate(self) -> float:
        """The text encoder's learning rate."""
        return next(group["lr"] for group in self.optimizer.param_groups if group["part"] == "text_model")

    @torch.no_grad()
    def gather_weights(self) -> None:
        """Give `plain_model` the trained weights; all processes call this together."""
        if self._whole_model is not None:
            own = dict(self._whole_model.named_parameters())
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    own[name].copy_(parameter.full_tensor().view_as(own[name]))

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the weights are their average, where one is kept."""
        return contextlib.nullcontext() if self.state.average is None else self.state.average.applied()

    def step(self, batches: list[Any]) -> float:
        """Do one optimizer step, in which every pair of the batches of all processes weighs alike.

        Args:
            batches: The ids of the rows and the tensors of each batch.

        Returns:
            The mean loss of the pairs.

        Raises:
            FloatingPointError: If the loss or the gradient is not finite; the message names the step and the rows.
        """
        num_pairs = sum((batch["labels"] != NO_LABEL).sum() for _, batch in batches)
        num_pairs = self.accelerator.reduce(num_pairs, "sum")
        total = torch.zeros((), device=self.accelerator.device)
        for number, (row_ids, batch) in enumerate(batches):
            is_last = number == len(batches) - 1
            if self._noise is None:
                total += self._backward(row_ids, batch, num_pairs, is_last=is_last)
                continue
            with self._noise.measured() as probes:
                total += self._backward(row_ids, batch, num_pairs, is_last=False)
            with self._noise.applied(probes):
                self._backward(row_ids, batch, num_pairs, is_last=is_last)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self._check_finite(norm, "norm of the gradient", [row_id for row_ids, _ in batches for row_id in row_ids])
        self.optimizer.step()
        self.accelerator.unwrap_model(self.model).clamp_temperature()
        if self.state.average is not None:
            self.state.average.update()
        self.state.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return self.accelerator.reduce(total, "sum").item()

    def _backward(self, row_ids: list[str], batch: Any, num_pairs: Tensor, *, is_last: bool) -> Tensor:
        """Add the gradient of a batch's loss, and return that loss; the last one of a step shares the sum out."""
        with contextlib.ExitStack() as stack:
            if not is_last:
                stack.enter_context(self.accelerator.no_sync(self.model))
            states = None if self._types is None else stack.enter_context(self._types.watched())
            loss = self.model(**{**self.inputs, **batch}, num_items_in_batch=num_pairs).loss
            if self._types is not None and states is not None:
                loss = loss + self._types.loss(states[0], batch["labels"], num_pairs)
            self._check_finite(loss, "loss", row_ids)
            # the processes' gradients are averaged, but each holds a share of one sum
            self.accelerator.backward(loss * self.accelerator.num_processes)
        return loss.detach()

    def _check_finite(self, number: Tensor, what: str, row_ids: list[str]) -> None:
        if not torch.isfinite(number):
            raise FloatingPointError(
                f"The {what} is {number.item()} at step {self.progress.step + 1}, on the rows {row_ids}. Nothing of "
                "this step was saved. Lower the learning rates, or look at these rows."
            )


def _extras(
    config: RunConfig, accelerator: Accelerator, model: RocModel
) -> tuple[AdversarialNoise | None, TypeTask | None]:
    """Build what a run trains with besides its loss, as its settings say.

    Raises:
        ValueError: If the model is compiled, or its relations say nothing of types.
    """
    for setting in ("adversarial_noise", "type_loss"):
        if getattr(config, setting):
            check_not_compiled(accelerator, setting)
    size, weight = config.adversarial_noise, config.type_loss
    noise = AdversarialNoise(model.get_input_embeddings(), size) if size else None
    return noise, TypeTask(model, weight) if weight else None


def parameter_groups(model: RocModel, config: RunConfig) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay; biases, norms and vectors have no decay."""
    rates = {"text_model": config.learning_rate, "vision_model": config.vision_learning_rate}
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():  # each parameter comes once
        if parameter.requires_grad:
            part = name.split(".")[0]
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((part if part in rates else "head", decay), []).append(parameter)
    return [
        {"part": part, "params": own, "lr": rates.get(part, config.head_learning_rate), "weight_decay": decay}
        for (part, decay), own in groups.items()
    ]


def build_optimizer(model: RocModel, config: RunConfig) -> torch.optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter, 2019), or its variant with 8-bit averages (Dettmers et al., 2022).

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


def _prepare_for_sharding(model: RocModel, accelerator: Accelerator) -> RocModel:
    """Make a model one that FSDP can cut, and return a copy that stays whole, for what is not training."""
    whole = copy.deepcopy(model).to(accelerator.device)
    if model.config.head == "retrieval":  # a number cannot be cut, a list of one can
        scale = model.logit_scale
        model.logit_scale = nn.Parameter(scale.detach()[None], requires_grad=scale.requires_grad)
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    # the layers of encoders and fusion; Transformers proposes embeddings as well, which accelerate wraps by itself
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted({type(stack[0]).__name__ for stack in stacks})
    return whole
