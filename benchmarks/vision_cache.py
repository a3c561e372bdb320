"""What pictures cost in training when they come from the cache: `python benchmarks/vision_cache.py [--data_dir MNRE]`.

Timed are epochs (batches, steps, optimizer, averaging of weights) with the settings of `configs/mnre_minilm.yaml`, a
frozen vision encoder, and a generated picture for each text, against the same without pictures: in one run, in turns.
First with the vision encoder of that file, then with ViT-Small/16 at 224 pixels, which has four times as many patches.
The texts are MNRE's validation texts, or generated ones, which have fewer tokens. Counted are the pictures that reach
the vision encoder.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import datasets
import torch
from accelerate import Accelerator

from roc.benchmarks.common import SMALL_VIT, alternate, counting, machine, make_post, run_benchmark
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.schema import text_entity
from roc.relations.files import read_relation_file
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples
from roc.samples.vision_cache import use_vision_cache
from roc.support.machine import choose_precision
from roc.training.building import build_model, build_processor
from roc.training.loop import TrainingRun
from roc.training.settings import RunConfig, load_run_config
from roc.training.sources import RunData, Source


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures with each of the two vision encoders."""
    settings = {"model": {"freeze_vision": True}, "num_epochs": options.repeats + 1}
    config = load_run_config("configs/mnre_minilm.yaml", settings)
    rows = generated_rows(options.texts) if options.data_dir is None else mnre_rows(options.data_dir, config)
    return {
        "benchmark": "vision_cache",
        "precision": choose_precision(config.mixed_precision),
        "config_encoder": measure_epochs(config, rows, options),
        "vit_small": measure_epochs(replace(config, vision_model=SMALL_VIT), rows, options),
        **machine(),
    }


def measure_epochs(config: RunConfig, rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of an epoch with and without pictures, and how many pictures were encoded when."""
    samples, without_pictures = (grouped(rows, options.texts, use_image=use_image) for use_image in (True, False))
    text_only, cached = training_run(replace(config, use_image=False), without_pictures), training_run(config, samples)
    model = cached.learner.plain_model
    with tempfile.TemporaryDirectory() as folder, counting(model.vision_model, "pixel_values") as encoded:
        model(**four_texts_of_one_picture(cached, rows))
        of_four_texts = sum(encoded)
        use_vision_cache(folder, model, cached.processor, [samples], cached.accelerator)
        before_training = sum(encoded)
        batches = [batch for _, batch in cached.loader]
        runs = {"cached": lambda: train_epoch(cached), "text_only": lambda: train_epoch(text_only)}
        seconds = alternate(runs, repeats=options.repeats)
    return {
        "ratio": round(seconds["cached"] / seconds["text_only"], 3),
        **{f"{name}_seconds": round(value, 3) for name, value in seconds.items()},
        "texts": len(samples),
        "tokens": round(mean(batch["input_ids"].shape[1] for batch in batches), 1),
        "patches": batches[0]["patch_features"].shape[1:3].numel(),
        "encoded_for_four_texts_of_one_picture": of_four_texts,
        "encoded_into_the_cache": before_training - of_four_texts,
        "encoded_in_training": sum(encoded) - before_training,
    }


def train_epoch(run: TrainingRun) -> None:
    """Train for an epoch without validation and checkpoints."""
    run.train_epoch(1)
    run.progress.end_epoch({})


def generated_rows(num_texts: int) -> list[dict[str, Any]]:
    """Make rows of the schema, one pair for each text."""
    generator, rows = random.Random(0), []
    for number in range(num_texts):
        post = make_post(generator)
        pair = (text_entity(post["text"], e["start"], e["end"], entity_type=e["type"]) for e in post["entities"])
        row = {"id": str(number), "text": post["text"], "relation": "None", **dict(zip(("head", "tail"), pair))}
        rows.append({**row, "image": {"bytes": post["image"], "path": None}})
    return rows


def mnre_rows(data_dir: str, config: RunConfig) -> list[dict[str, Any]]:
    """Return the validation rows, each text with a generated picture."""
    splits = load_dataset_splits(
        "mnre", data_dir, splits=["val"], missing_images="no_image", entity_typer=config.entity_typer
    )
    rows, generator = splits["val"].remove_columns(["image"]), random.Random(0)
    pictures = {text: {"bytes": make_post(generator)["image"], "path": None} for text in dict.fromkeys(rows["text"][:])}
    return [{**row, "image": pictures[row["text"]]} for row in rows]


def grouped(rows: Sequence[dict[str, Any]], num_texts: int, *, use_image: bool = True) -> GroupedSamples:
    """Return the samples of the first texts."""
    samples = GroupedSamples(datasets.Dataset.from_list([*rows], features=FEATURES), use_image=use_image)
    samples.samples = samples.samples[:num_texts]
    return samples


def training_run(config: RunConfig, samples: GroupedSamples) -> TrainingRun:
    """Prepare a run as `train` does."""
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=choose_precision(config.mixed_precision))
    inventory, processor = read_relation_file(str(config.relations)), build_processor(config)
    model = build_model(config, processor, inventory)
    [settings] = config.data_sources
    data = RunData([Source(settings, inventory)], [samples], [samples])
    return TrainingRun(config, accelerator, processor, model, data)


def four_texts_of_one_picture(run: TrainingRun, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch of four texts that all have the first one's picture."""
    by_text = {row["text"]: {**row, "image": rows[0]["image"]} for row in rows}
    samples = grouped(list(by_text.values()), 4)
    _, batch = SampleCollator(run.processor, run.data.training.names)([samples[number] for number in range(4)])
    return batch.to(run.accelerator.device)


if __name__ == "__main__":
    data_dir = {"help": "raw MNRE; generated texts without it"}
    sys.exit(run_benchmark(measure, {"--data_dir": data_dir, "--texts": 320, "--repeats": 5}))
