"""What options of a run save: `python benchmarks/train_options.py [CONFIG.yaml] [--steps 5] [--rounds 1]`.

Training steps on generated posts, as `CONFIG.yaml` has them (`configs/mnre_minilm.yaml` if not given) and with one
option more each, in a process of its own: forward, backward, clipping and optimizer on a batch that is ready. Printed
are for each option the seconds of a step (the median; of CPU time where there is no accelerator, so that other programs
do not count) and the peak of the memory that model and steps have added, both as shares of the plain run's too, and the
seconds on the clock of the first step, in which `torch.compile` compiles.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from roc.benchmarks.common import collate, machine, make_post, run_benchmark
from roc.relations.files import read_relation_file
from roc.training.building import build_model, build_processor
from roc.training.optimizer import build_optimizer
from roc.training.run_folder import count_parameters, peak_memory_mib
from roc.training.settings import RunConfig, load_run_config

PLAIN = "plain"
COMPILED = "torch.compile"  # what `accelerate launch --dynamo_backend inductor` does
OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "lora_rank=16": {"lora_rank": 16},
    "lora_rank=16, lora_encoders=both": {"lora_rank": 16, "lora_encoders": "both"},
    "freeze_text_layers=3": {"freeze_text_layers": 3},
    "freeze_vision": {"model": {"freeze_vision": True}},
    "activation_checkpointing": {"activation_checkpointing": True},
    "gradient_accumulation_steps=4, batch_size/4": {"gradient_accumulation_steps": 4},
    "optimizer=adamw_8bit": {"optimizer": "adamw_8bit"},
    COMPILED: {},
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each option, and their shares of the plain run's."""
    if options.only is not None:
        return measure_one(load_run_config(options.config, OPTIONS[options.only]), options)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in [PLAIN, *options.options]}
    for _ in range(options.rounds):
        for name, measured in rounds.items():
            command = [sys.executable, __file__, options.config, "--steps", str(options.steps), "--only", name]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            measured.append(json.loads(output.splitlines()[-1]))
    figures = {
        name: {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        for name, measured in rounds.items()
    }
    for name, own in figures.items():
        for key in ("step_seconds", "memory_mib"):
            own[f"{key}_ratio"] = round(own[key] / figures[PLAIN][key], 3)
        print(f"{name}: {own}", file=sys.stderr)
    return {"benchmark": "train_options", "config": options.config, "options": figures, **machine()}


def measure_one(config: RunConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Return what training steps cost in this process."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    processor = build_processor(config)
    posts = [make_post(random.Random(number)) for number in range(config.batch_size)]
    size = config.batch_size // config.gradient_accumulation_steps
    batches = [
        collate(processor, posts[start : start + size], use_image=config.vision_model is not None).to(device)
        for start in range(0, size * config.gradient_accumulation_steps, size)
    ]
    memory_before = peak_memory_mib()
    model = build_model(config, processor, read_relation_file(str(config.relations))).to(device).train()
    optimizer = build_optimizer(model, config)
    run = torch.compile(model) if options.only == COMPILED else model
    started = time.perf_counter()
    step(run, optimizer, batches, config)
    first_step = time.perf_counter() - started
    seconds = [step(run, optimizer, batches, config) for _ in range(options.steps)]
    memory = peak_memory_mib()
    assert memory is not None
    assert memory_before is not None
    return {
        "step_seconds": round(statistics.median(seconds), 4),
        "first_step_seconds": round(first_step, 1),
        "memory_mib": memory - memory_before,
        **count_parameters(model),
    }


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict[str, Tensor]], config: RunConfig
) -> float:
    """Do one training step; return its seconds."""
    started = now()
    num_pairs = sum(int(batch["pair_mask"].sum()) for batch in batches)
    for batch in batches:
        model(**batch, num_items_in_batch=num_pairs).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return now() - started


def now() -> float:
    """Return the seconds of CPU time, or of the clock once the accelerator is done."""
    if not torch.accelerator.is_available():
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    options = {
        "config": {"nargs": "?", "default": "configs/mnre_minilm.yaml"},
        "--steps": {"type": int, "default": 5, "help": "steps that are timed, after one that is not"},
        "--rounds": {"type": int, "default": 1, "help": "processes per option, taking turns"},
        "--options": {"nargs": "+", "choices": OPTIONS, "default": [*OPTIONS], "metavar": "OPTION"},
        "--only": {"choices": OPTIONS, "help": argparse.SUPPRESS},  # what each process is called with
    }
    sys.exit(run_benchmark(measure, options))
