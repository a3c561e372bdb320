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
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parent))
from common import SMALL_VIT, alternate, post, report

from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.schema import text_entity
from roc.modeling_roc import RocModel
from roc.relations.files import read_relation_file
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples
from roc.samples.vision_cache import use_vision_cache
from roc.support.machine import choose_precision
from roc.training.building import build_model, build_processor
from roc.training.loop import TrainingRun
from roc.training.settings import RunConfig, load_run_config


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="raw MNRE; generated texts without it")
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    config = load_run_config(
        "configs/mnre_minilm.yaml", {"model": {"freeze_vision": True}, "num_epochs": options.repeats + 1}
    )
    rows = generated_rows(options.texts) if options.data_dir is None else mnre_rows(options.data_dir, config)
    report(
        benchmark="vision_cache",
        precision=choose_precision(config.mixed_precision),
        config_encoder=measure(config, rows, options.texts, repeats=options.repeats),
        vit_small=measure(replace(config, vision_model=SMALL_VIT), rows, options.texts, repeats=options.repeats),
    )


def measure(config: RunConfig, rows: Sequence[dict[str, Any]], num_texts: int, *, repeats: int) -> dict[str, Any]:
    """Seconds of an epoch with and without pictures, their ratio, and how many pictures were encoded when."""
    text_only = training_run(replace(config, use_image=False), grouped(rows, num_texts, use_image=False))
    samples = grouped(rows, num_texts)
    cached = training_run(config, samples)
    with tempfile.TemporaryDirectory() as folder, counting(cached.model) as encoded:
        cached.model(**four_texts_of_one_picture(cached, rows))
        of_four_texts = sum(encoded)
        use_vision_cache(folder, cached.model, cached.processor, [samples], cached.accelerator)
        before_training = sum(encoded)
        batches = [batch for _, batch in cached.loader]
        runs = {"cached": lambda: train_epoch(cached), "text_only": lambda: train_epoch(text_only)}
        seconds = alternate(runs, repeats=repeats)
    return {
        "ratio": round(seconds["cached"] / seconds["text_only"], 3),
        **{f"{name}_seconds": round(value, 3) for name, value in seconds.items()},
        "texts": len(samples),
        "tokens": round(statistics.mean(batch["input_ids"].shape[1] for batch in batches), 1),
        "patches": batches[0]["patch_features"].shape[1:3].numel(),
        "encoded_for_four_texts_of_one_picture": of_four_texts,
        "encoded_into_the_cache": before_training - of_four_texts,
        "encoded_in_training": sum(encoded) - before_training,
    }


def train_epoch(run: TrainingRun) -> None:
    """An epoch without validation and checkpoints."""
    run.train_epoch(1)
    run.progress.end_epoch({})


def generated_rows(num_texts: int) -> list[dict[str, Any]]:
    """Rows of the schema, one pair for each text."""
    generator, rows = random.Random(0), []
    for number in range(num_texts):
        content = post(generator)
        head, tail = (
            text_entity(content["text"], entity["start"], entity["end"], entity_type=entity["type"])
            for entity in content["entities"]
        )
        row = {"id": str(number), "text": content["text"], "head": head, "tail": tail, "relation": "None"}
        rows.append({**row, "image": {"bytes": content["image"], "path": None}})
    return rows


def mnre_rows(data_dir: str, config: RunConfig) -> list[dict[str, Any]]:
    """The validation rows, each text with a generated picture."""
    options = {"missing_images": "no_image", "entity_typer": config.entity_typer}
    rows = load_dataset_splits("mnre", data_dir, splits=["val"], **options)["val"].remove_columns(["image"])
    generator = random.Random(0)
    pictures = {text: {"bytes": post(generator)["image"], "path": None} for text in dict.fromkeys(rows["text"][:])}
    return [{**row, "image": pictures[row["text"]]} for row in rows]


def grouped(rows: Sequence[dict[str, Any]], num_texts: int, *, use_image: bool = True) -> GroupedSamples:
    """The samples of the first texts."""
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    samples = GroupedSamples(datasets.Dataset.from_dict(columns, features=FEATURES), use_image=use_image)
    samples.samples = samples.samples[:num_texts]
    return samples


def training_run(config: RunConfig, samples: GroupedSamples) -> TrainingRun:
    """A run as `train` makes it."""
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=choose_precision(config.mixed_precision))
    inventory, processor = read_relation_file(config.relations), build_processor(config)
    model = build_model(config, processor, inventory)
    return TrainingRun(config, accelerator, processor, model, inventory, samples, samples)


def four_texts_of_one_picture(run: TrainingRun, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of four texts that all have the first one's picture."""
    by_text = {row["text"]: {**row, "image": rows[0]["image"]} for row in rows}
    samples = grouped(list(by_text.values()), 4)
    _, batch = SampleCollator(run.processor, run.inventory.names)([samples[number] for number in range(4)])
    return batch


@contextmanager
def counting(model: RocModel) -> Iterator[list[int]]:
    """How many pictures each call of the vision encoder gets."""
    encoded: list[int] = []
    handle = model.vision_model.register_forward_hook(
        lambda module, args, kwargs, output: encoded.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        yield encoded
    finally:
        handle.remove()


if __name__ == "__main__":
    main()
