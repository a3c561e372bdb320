"""Small checkpoints: `python -m roc.publishing.small_checkpoints --model RUN --output_dir FOLDER`.

A run with an adapter leaves its encoders as they were, so a checkpoint need not hold them: they come from where the run
had them. What is left, the adapter and what joins the encoders, is written in half precision, a few MB.
`AutoModel.from_pretrained` loads it like every other folder where `roc` is installed. `--relations` gives it other
relations than those of its training, encoded, as a model that is made for relations written on the spot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.relations.files import read_relation_file
from roc.support.files import replace_folder
from roc.support.programs import run_program
from roc.support.reading import format_yaml, read_json, read_yaml
from roc.training.settings import ENVIRONMENT_FILE, LOCAL_SETTINGS, METRICS_FILE, RUN_FILE, load_run_config

if TYPE_CHECKING:
    from torch import Tensor

    from roc.configuration_roc import RocConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LEFT_OUT = ("text_model", "relation_model")  # the vision encoder may have been trained, or started at random
COPIED = (
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json", ADAPTER_CONFIG),
    *(METRICS_FILE, ENVIRONMENT_FILE),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a small checkpoint with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.publishing.small_checkpoints", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder of a run with an adapter")
    parser.add_argument("--output_dir", required=True, help="where to write the checkpoint")
    parser.add_argument("--relations", help="relation file to take in place of the relations of the training")
    parser.add_argument("--data_note", type=Path, help="file with Markdown about the data, for the card")
    parser.add_argument("--zero_shot", help="results.json of python -m roc.evaluation.zero_shot, for the card")
    everyday = "what score.py printed of the model with these relations about the sentences in tests/everyday, likewise"
    parser.add_argument("--everyday", help=everyday)
    options = vars(parser.parse_args(arguments))
    return run_program(lambda: save_small_checkpoint(options.pop("model"), options.pop("output_dir"), **options))


def save_small_checkpoint(
    run: str | Path,
    folder: str | Path,
    *,
    relations: str | None = None,
    data_note: Path | None = None,
    **scores: Any,
) -> dict[str, Any]:
    """Write a run's model without its text encoders, and its model card.

    Args:
        run: The folder of a run of `train.py` with `lora_rank`.
        folder: The folder to write; an earlier small checkpoint there is replaced.
        relations: Relation file whose relations the model is to have, encoded; None for those of its training. Its
            thresholds and temperatures stay as they are.
        data_note: File with Markdown that says where the data come from, for the card.
        **scores: Files with scores for the card, `zero_shot` and `everyday`, as `write_model_card` takes them.

    Returns:
        `output_dir`, `bytes` in all files and `encoders`, the names of the encoders that are not in them.

    Raises:
        FileNotFoundError: If there is no such relation file.
        ValueError: If the run has no adapter, or its encoders are not what its settings name; or the folder holds
            something else; or the relation file is malformed, or the model classifies and takes no other relations.
    """
    from safetensors.torch import load_file  # here, as below: PyTorch takes seconds to import
    from transformers import AutoConfig

    import roc.register  # noqa: F401  (AutoConfig knows ROC)
    from roc.publishing.card import write_model_card
    from roc.publishing.folder import forget_paths

    run, folder = Path(run), Path(folder)
    if not (run / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{run} is no run with an adapter. Train one with `--lora_rank 16`, without --merge_adapter.")
    if folder.exists() and not _is_small_checkpoint(folder):
        raise ValueError(f"{folder} exists and is no small checkpoint. Choose another folder.")
    settings = read_yaml(run / RUN_FILE)
    name = _encoder_of_run(run, settings)
    config, weights = AutoConfig.from_pretrained(run), load_file(run / WEIGHTS)
    if relations is not None:
        weights |= _take_relations(config, run, relations)
    sources = _encoder_sources(weights, name)
    rest = {key: tensor for key, tensor in weights.items() if key.split(".")[0] not in sources}
    config.encoder_sources = sources
    with replace_folder(folder) as new:
        _save_half(rest, new / WEIGHTS)
        _save_half(load_file(run / ADAPTER_WEIGHTS), new / ADAPTER_WEIGHTS)
        (new / CONFIG).write_text(config.to_json_string(), encoding="utf-8")
        forget_paths(new / CONFIG)
        _write_records(new, run, settings, relations)
        note = None if data_note is None else data_note.read_text(encoding="utf-8")
        write_model_card(new, [new], repo_id="/".join(folder.resolve().parts[-2:]), data_note=note, **scores)
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return {"output_dir": str(folder), "bytes": num_bytes, "encoders": dict.fromkeys(sources, name)}


def _write_records(new: Path, run: Path, settings: Mapping[str, Any], relations: str | None) -> None:
    """Write what is told of a run without places of its machine, its processor, and which relations came afterwards."""
    from roc.publishing.run_records import public

    kept = {name: value for name, value in settings.items() if name not in LOCAL_SETTINGS}
    for own in kept.get("sources") or ():
        own["data_dir"] = public(own["data_dir"])
    (new / RUN_FILE).write_text(format_yaml(kept), encoding="utf-8")
    for file in COPIED:
        if (run / file).is_file():
            shutil.copy(run / file, new / file)
    if relations is not None:
        told = read_json(new / METRICS_FILE) | {"relations_after_training": Path(relations).name}  # for the card
        (new / METRICS_FILE).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _take_relations(config: RocConfig, run: Path, file: str) -> dict[str, Tensor]:
    """Give a run's configuration the relations of a file; return the weights in which its model has them encoded."""
    from roc.inference.posts import load_model

    inventory = read_relation_file(file)
    model, processor = load_model(str(run))
    model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    config.replace_relations(inventory.relations, inventory.none_relation)
    return {f"relation_bank.{name}": tensor.cpu() for name, tensor in model.relation_bank.state_dict().items()}


def _encoder_of_run(run: Path, settings: Mapping[str, Any]) -> str:
    """Return the name of the encoder that a run started from; a ValueError says why others could not get it."""
    if settings.get("start_from") is not None:
        raise ValueError(
            f"{run} was trained further from a trained model, whose text encoder no source of encoders has: a small "
            "checkpoint could not bring it back. Publish it whole."
        )
    name = str(load_run_config(str(run / RUN_FILE)).text_model)
    if Path(name).is_dir():
        raise ValueError(f"The encoder of {run} is the folder {name!r}, which nobody else has. Take a Hub id's.")
    return name


def _encoder_sources(weights: Mapping[str, Tensor], name: str) -> dict[str, dict[str, str]]:
    """Return name and digest of the source of each encoder among the weights, which must equal that source."""
    import torch

    from roc.modeling_backbones_roc import load_backbone, source_folder, weights_digest

    given = load_backbone(source_folder(name)).state_dict()
    source = {"name": name, "sha256": weights_digest(given)}
    parts = [part for part in LEFT_OUT if any(key.startswith(f"{part}.") for key in weights)]
    for part in parts:
        for key, tensor in given.items():
            own = weights.get(f"{part}.{key}")
            # behind the embeddings of known tokens are those of the markers, which the adapter has
            if own is None or not torch.equal(own[: len(tensor)], tensor):
                raise ValueError(f"{part}.{key} is not that of {name!r}: a small checkpoint could not bring it back.")
    return dict.fromkeys(parts, source)


def _save_half(tensors: Mapping[str, Tensor], file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if unsafe := [name for name, tensor in halved.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{unsafe} do not fit into half precision.")
    save_file(halved, file, metadata={"format": "pt"})


def _is_small_checkpoint(folder: Path) -> bool:
    file = folder / CONFIG
    return file.is_file() and read_json(file).get("encoder_sources") is not None


if __name__ == "__main__":
    sys.exit(main())
