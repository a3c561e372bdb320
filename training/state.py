"""What changes while a run goes on, and what tells one run from another: the content of a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from roc.messages_roc import quote
from roc.modeling_roc import RocModel
from roc.relations.files import RelationInventory
from roc.training.settings import FILE_SETTINGS, LOCAL_SETTINGS, RunConfig, settings_by_name
from roc.training.sources import RunData

# Settings that a run may go on with changed: those without effect, and those of which what they come to on this machine
# is compared: the content of paths, and the precision.
MAY_CHANGE = LOCAL_SETTINGS | FILE_SETTINGS | {"mixed_precision", "start_from"}

# Whole tensors, wherever FSDP has cut them: on the main process when they are saved, on all when they are loaded.
SAVED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
WHOLE = StateDictOptions(full_state_dict=True)


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # optimizer steps done
    history: list[dict[str, Any]] = field(default_factory=list)  # the record of each finished epoch
    best_epoch: int = 0  # the one with the best validation micro-F1, counted from 1
    best_val: dict[str, Any] = field(default_factory=dict)  # its scores
    calibration: dict[str, Any] = field(default_factory=dict)  # what `calibrate` reports of it, at the end
    losses: list[float] = field(default_factory=list)  # one for each optimizer step of the running epoch
    num_samples: int = 0  # how many the running epoch has seen
    epoch_started: float = 0.0  # `seconds` when the running epoch began
    seconds: float = 0.0  # how long the run has been computing, all its parts together

    @classmethod
    def from_record(cls, record: Any) -> Progress:
        """Read what `dataclasses.asdict` made of a progress.

        Raises:
            ValueError: If a value is missing, unknown, of another type or not possible.
        """
        known = {own.name: type(getattr(cls(), own.name)) for own in dataclasses.fields(cls)}
        if not isinstance(record, dict) or record.keys() != known.keys():
            raise ValueError(f"the progress has not the keys {list(known)}")
        for name, kind in known.items():
            if not (_is_number(record[name], kind) if kind in (int, float) else isinstance(record[name], kind)):
                raise ValueError(f"{name}={quote(record[name])} is not possible")
        progress = cls(**record)
        epochs, losses = progress.history, progress.losses
        if not all(isinstance(epoch, dict) and _is_number(epoch.get("loss"), float) for epoch in epochs):
            raise ValueError("the history is not one record with a loss for each epoch")
        if not all(_is_number(loss, float) for loss in losses) or not len(losses) <= progress.step:
            raise ValueError("the losses are not those of steps that were done")
        scored = [number for number, epoch in enumerate(epochs, 1) if isinstance(epoch.get("val"), dict)]
        if progress.best_epoch and (
            progress.best_epoch not in scored or not _is_number(progress.best_val.get("micro_f1"), float)
        ):
            raise ValueError(f"best_epoch={progress.best_epoch} is none that was validated")
        return progress

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Add the record of the running epoch; the next one begins."""
        self.history.append(record)
        self.losses, self.num_samples, self.epoch_started = [], 0, self.seconds


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
        """The parameters hold their averages within the block, and their own values again after it."""
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


@dataclass
class RunState:
    """The parts of a run that change; the precisions of `RunConfig` need no gradient scaler. `model` is unwrapped."""

    accelerator: Accelerator
    model: RocModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: WeightAverage | None
    progress: Progress = field(default_factory=Progress)

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Collect what `load` needs besides the progress. All processes call this; the main one gets whole tensors.

        Returns:
            The trained parameters and all buffers by name, and everything else. A run takes the frozen parameters from
            where it took them before.
        """
        others = {
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=SAVED),
            "scheduler": self.scheduler.state_dict(),
            "average": None if self.average is None else self._averages(self.average),
            "random": gather_object([_random_state(self.accelerator.device)]),
        }
        return get_model_state_dict(self.model, options=SAVED), others

    def num_bytes(self) -> int:
        """Return about the size of what `save` returns, also before the optimizer's first step."""
        trained = sum(parameter.nbytes for parameter in self.model.parameters() if parameter.requires_grad)
        return (3 if self.average is None else 4) * trained  # AdamW keeps two numbers of each weight

    def load(self, weights: dict[str, Any], others: dict[str, Any], progress: Progress) -> None:
        """Go on from what `save` returned. All processes call this with the same content."""
        if self.average is not None:
            set_model_state_dict(self.model, others["average"]["weights"], options=WHOLE)
            self.average.restart(others["average"]["step"])
        set_model_state_dict(self.model, weights, options=WHOLE)
        # Given whole tensors to cut, PyTorch makes up a state of one step for a parameter that has had no gradient yet.
        # FSDP gives all parameters gradients; without it there is nothing to cut.
        is_cut = self.accelerator.is_fsdp2
        options = StateDictOptions(full_state_dict=is_cut, strict=is_cut)
        set_optimizer_state_dict(self.model, self.optimizer, others["optimizer"], options=options)
        self.scheduler.load_state_dict(others["scheduler"])
        for attribute in dataclasses.fields(progress):  # in place: others hold this object
            setattr(self.progress, attribute.name, getattr(progress, attribute.name))
        _set_random_state(others["random"][self.accelerator.process_index], self.accelerator.device)

    def _averages(self, average: WeightAverage) -> dict[str, Any]:
        with average.applied():
            averages = get_model_state_dict(self.model, options=SAVED)
            # copies: on the CPU these are the parameters themselves, which get their own values back
            return {"weights": {name: tensor.clone() for name, tensor in averages.items()}, "step": average.step}


def _is_number(value: Any, kind: type) -> bool:
    """Tell whether a value read from JSON is a number of a kind, float or int, and not below 0 or infinite."""
    is_one = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return is_one and 0 <= value < 2**63


def _random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of this process's random generators as plain numbers and tensors."""
    name, keys, *position = typing.cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *position),
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(),
    }


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["device"] is not None:
        torch.get_device_module(device).set_rng_state(state["device"])


def describe_run(
    config: RunConfig,
    accelerator: Accelerator,
    model: RocModel,
    data: RunData,
    negatives: RelationInventory | None,
    *,
    start: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Describe what decides a run's result: two runs with the same description are the same run.

    It has `settings` by name, and `contents`, the SHA-256 of what settings merely name. `negatives` are the relations
    that hold for no pair, `start` is the record of the model that the run starts from.
    """
    settings = settings_by_name(dataclasses.asdict(config))
    settings["sources"] = None if config.sources is None else [dataclasses.asdict(own) for own in config.data_sources]
    for own in [settings, *(settings["sources"] or ())]:
        for name in MAY_CHANGE & own.keys():
            del own[name]
    settings |= {
        "mixed_precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "vision_cache is used": config.vision_cache is not None,
    }
    frozen = {name: own.detach().cpu() for name, own in model.named_parameters() if not own.requires_grad}
    contents = {
        "training samples": _digest(map(repr, data.train_set.samples)),
        "validation samples": _digest(map(repr, data.val_set.samples)),
        "relations": _digest([repr(data.training), repr(data.validating)]),
        "negative relations": _digest([repr(negatives)]),
        "frozen weights": _digest(
            part
            for name, weights in frozen.items()
            for part in (f"{name} {weights.dtype} {weights.shape}", weights.reshape(-1).view(torch.uint8).numpy())
        ),
    }
    if start is not None:
        contents["files of start_from"] = _digest([repr(start["sha256"])])
    return {"settings": settings, "contents": contents}


def differences(saved: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """Say in words in which settings and contents two descriptions differ."""
    found = []
    for name in sorted(saved["settings"].keys() | now["settings"].keys()):
        before, after = (described["settings"].get(name, "not known") for described in (saved, now))
        if before != after:
            found.append(f"{name} was {quote(before)} and is {quote(after)}")
    names = dict.fromkeys([*saved["contents"], *now["contents"]])
    changed = [name for name in names if saved["contents"].get(name) != now["contents"].get(name)]
    return found + [f"the {name} are other ones" for name in changed]


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
