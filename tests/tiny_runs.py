"""What a run of `train.py` on tiny data needs: posts, pictures, relations, a random text encoder, a command line."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import RELATIONS, tiny_model, tiny_picture, tiny_processor, tiny_tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel

import roc.score
import roc.train
from roc.modeling_backbones_roc import PACKAGED_MODELS
from roc.modeling_roc import RocModel
from roc.publishing.run_records import HUB_IDS
from roc.studies import watch
from roc.studies.runs import RunFailed
from roc.training.adapters import add_lora, save_model
from roc.training.loop import Parts
from roc.training.settings import settings_by_name

NAMES = [relation["name"] for relation in RELATIONS]
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
VISION = {"model_type": "vit", "image_size": 32, "patch_size": 8, **SIZE}


def line(number: int, split: str) -> dict[str, Any]:
    """One post with one or two pairs; the words say which relation, and one in three has no picture."""
    first, second, place = (
        names[number % len(names)] for names in (["ann", "bob"], ["eve", "tom"], ["paris", "berlin"])
    )
    text = f"{first} kissed {second} in {place} {number}" + " today" * (number % 4)
    starts = [text.index(name) for name in (first, second, place)]
    entities: list[dict[str, Any]] = [
        {"start": start, "end": start + len(name)} for start, name in zip(starts, (first, second, place), strict=True)
    ]
    relations = [
        {"head": 0, "tail": 1, "relation": NAMES[1]},
        {"head": 0, "tail": 2, "relation": NAMES[number % 2 * 2]},
    ]
    made: dict[str, Any] = {"id": f"{split}-{number}", "text": text}
    if number % 3:
        made["image"] = f"pictures/{number % 2}.png"
        entities.append({"bbox": [0.1, 0.2, 0.6, 0.9], "name": "thing"})
        relations.append({"head": 1, "tail": 3, "relation": NAMES[3]})
    return made | {"entities": entities, "relations": relations[: 1 + number % 3]}


def write_lines(path: Path, lines: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")


def write_inputs(folder: Path, *, num_train: int = 12, num_val: int = 5) -> Path:
    """Fill a folder with data, relations and a random text encoder."""
    (folder / "data" / "pictures").mkdir(parents=True)
    for number, colour in enumerate(["red", "blue"]):
        tiny_picture(colour).save(folder / "data" / "pictures" / f"{number}.png")
    write_lines(folder / "data" / "train.jsonl", [line(number, "train") for number in range(num_train)])
    write_lines(folder / "data" / "val.jsonl", [line(number, "val") for number in range(num_val)])
    (folder / "data" / "test.jsonl").write_text("nobody reads this {", encoding="utf-8")
    content = {"version": 1, "language": "en", "none_relation": "None", "relations": RELATIONS}
    (folder / "relations.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "text")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SIZE)).save_pretrained(folder / "text")
    return folder


@contextlib.contextmanager
def packaged_encoder(inputs: Path, name: str = "tiny-text") -> Iterator[str]:
    """Let the text encoder of `write_inputs` be one that an installed package carries: small checkpoints name it."""
    with pytest.MonkeyPatch.context() as patch:
        (inputs / "__init__.py").touch()
        about = inputs.parent / f"{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        patch.syspath_prepend(inputs.parent)
        patch.setitem(PACKAGED_MODELS, name, (inputs.name, "text", "offline"))
        patch.setitem(HUB_IDS, name, f"ann/{name}")
        yield name


def run_settings(inputs: Path) -> dict[str, Any]:
    """Settings of a run on what `write_inputs` wrote, which takes seconds."""
    return {
        "data_dir": str(inputs / "data"),
        "relations": str(inputs / "relations.yaml"),
        "text_model": str(inputs / "text"),
        "vision_model": VISION,
        "model": {"fusion_num_layers": 1, "fusion_num_heads": 2, "projection_dim": 16},
        "batch_size": 4,
        "num_epochs": 2,
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_threads": 1,
    }


def main(given: Sequence[str], **parts: Any) -> int:
    """`train.py`, with other parts of the run; without its plots, which take longer than the training."""
    return roc.train.main(given, Parts(**{"draw": lambda *given: None, **parts}))


def arguments(inputs: Path, output_dir: Path, *more: str, **changes: Any) -> list[str]:
    """The command line of such a run."""
    settings = {"output_dir": output_dir} | settings_by_name(run_settings(inputs))
    settings |= {"vision_model": json.dumps(VISION)} | changes
    return [*itertools.chain(*(_option(name, value) for name, value in settings.items())), *more]


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def run_here(command: Sequence[str], log: Path, stop: threading.Event) -> str:
    """Run a program of a study in this process, in place of `roc.studies.runs._call`; without its plots."""
    program, given = Path(command[1]).name, [*command[2:]]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        if program == "-m":
            code = watch.main(given[1:])
        else:
            code = main(given) if program == "train.py" else roc.score.main(given)
    if code:
        raise RunFailed(f"{program} {given}")
    return told.getvalue()


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["history"]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == "", "a failed run printed a result"
    return printed.err.splitlines()[-1]


def everything_under(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def weights(folder: Path) -> dict[str, Tensor]:
    return RocModel.from_pretrained(folder).state_dict()


def save_trained(folder: Path, *, adapter: bool = False) -> Path:
    """Save a tiny model of text and its processor as training does, and return the folder."""
    processor = tiny_processor(vision=False)
    model = tiny_model(processor, vision=False)
    if adapter:
        add_lora(model, encoders="text", rank=2, alpha=4, marker_ids=processor.marker_ids)
    save_model(model, folder)
    processor.save_pretrained(folder)
    return folder
