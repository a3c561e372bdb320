"""What changes while a run goes on, and what tells one run from another: the content of a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from roc.modeling_roc import RocModel
from roc.relations.files import RelationInventory, read_relation_file
from roc.samples.grouping import GroupedSamples, Sample
from roc.training.averaging import WeightAverage
from roc.training.settings import FILE_SETTINGS, LOCAL_SETTINGS, RunConfig, settings_by_name

# Settings that a run may go on with changed: those without effect, paths, whose content is compared instead, and the
# precision, of which what it comes to on this machine is compared.
MAY_CHANGE = LOCAL_SETTINGS | FILE_SETTINGS | {"mixed_precision"}

# Whole tensors, wherever FSDP has cut them: on the main process when they are saved, on all when they are loaded.
SAVED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
WHOLE = StateDictOptions(full_state_dict=True)


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: Optimizer steps done.
        history: Per finished epoch: step, loss, learning rate, samples per second, and the validation scores.
        best_epoch: Epoch with the best validation micro-F1, counted from 1.
        best_val: The scores of that epoch.
        calibration: The report of the calibration at the end of the run.
        losses: The loss of each optimizer step of the running epoch.
        num_samples: Samples that the running epoch has seen.
        epoch_started: `seconds` when the running epoch began.
        seconds: How long the run has been computing, all its parts together.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_val: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    num_samples: int = 0
    epoch_started: float = 0.0
    seconds: float = 0.0

    def improves(self, val: dict[str, Any]) -> bool:
        """Return whether these validation scores beat the best so far."""
        return not self.best_val or val["micro_f1"] > self.best_val["micro_f1"]

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Add the record of the running epoch; the next one begins."""
        self.history.append(record)
        self.losses, self.num_samples, self.epoch_started = [], 0, self.seconds


@dataclass
class RunState:
    """The parts of a run that change.

    There is no gradient scaler among them: none of the precisions of `RunConfig` has one.

    Args:
        accelerator: The processes of the run and their device.
        model: The model, unwrapped.
        optimizer: The model's optimizer.
        scheduler: What sets the learning rates.
        average: The moving average of the weights, if there is one.
        progress: How far the run is.
    """

    accelerator: Accelerator
    model: RocModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: WeightAverage | None
    progress: Progress = field(default_factory=Progress)

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Collect what `load` needs besides the progress. All processes call this; the main one gets whole tensors.

        Returns:
            The trained parameters and all buffers by name, and everything else. Frozen parameters are left out: the
            run takes them from where it took them before.
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


def _random_state(device: torch.device) -> dict[str, Any]:
    """Return the random states of this process, as plain numbers and tensors."""
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
    inventory: RelationInventory,
    train_set: GroupedSamples,
    val_set: GroupedSamples,
) -> dict[str, dict[str, Any]]:
    """Describe what decides a run's result: two runs with the same description are the same run.

    Args:
        config: The settings.
        accelerator: The processes of the run and their device.
        model: The model, before it is prepared.
        inventory: The relations to train on.
        train_set: Samples to learn from.
        val_set: Samples that choose the best epoch.

    Returns:
        `settings` by name, and `contents`, SHA-256 of what settings merely name.
    """
    settings = settings_by_name(dataclasses.asdict(config))
    settings = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    settings |= {
        "mixed_precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "vision_cache is used": config.vision_cache is not None,
    }
    negatives = (
        None
        if config.negative_relations is None
        else read_relation_file(config.negative_relations, entity_types=config.model.entity_types).relations
    )
    contents = {
        "training samples": _digest_of_samples(train_set.samples),
        "validation samples": _digest_of_samples(val_set.samples),
        "relations": _digest([inventory.relations, inventory.none_relation]),
        "negative relations": _digest(negatives),
        "frozen weights": _digest_of_frozen(model),
    }
    return {"settings": settings, "contents": contents}


def differences(saved: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """Say in words in which settings and contents two descriptions differ."""
    found = []
    for name in sorted(saved["settings"].keys() | now["settings"].keys()):
        before, after = (described["settings"].get(name, "not known") for described in (saved, now))
        if before != after:
            found.append(f"{name} was {before!r} and is {after!r}")
    changed = [name for name, digest in now["contents"].items() if saved["contents"].get(name) != digest]
    return found + [f"the {name} are other ones" for name in changed]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_samples(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr(sample).encode())
    return digest.hexdigest()


def _digest_of_frozen(model: RocModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
