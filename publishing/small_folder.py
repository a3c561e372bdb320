"""The folder of a small checkpoint: a run's model in half precision, without the encoders that it left as they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, CONFIG_NAME, SAFE_WEIGHTS_NAME

import roc.register  # noqa: F401  (AutoConfig knows ROC)
from roc.modeling_backbones_roc import load_backbone, resolve_model, weights_digest
from roc.publishing.card import write_model_card
from roc.publishing.folder import forget_paths
from roc.support.files import replace_folder
from roc.training.settings import ENVIRONMENT_FILE, LOCAL_SETTINGS, METRICS_FILE, RUN_FILE, load_run_config

LEFT_OUT = ("text_model", "relation_model")  # the vision encoder may have been trained, or be nobody's
COPIED = (
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json", ADAPTER_CONFIG_NAME),
    *(METRICS_FILE, ENVIRONMENT_FILE),
)


def save_small_checkpoint(run: str | Path, folder: str | Path, **card: Any) -> dict[str, Any]:
    """Write a run's model without its text encoders, and its model card.

    Args:
        run: The folder of a run of `train.py` with `lora_rank`.
        folder: Where to; an earlier small checkpoint there is replaced.
        **card: What the card says besides, as for `write_model_card`.

    Returns:
        `output_dir`, `bytes` in all files and `encoders`, the names of what is not in them.

    Raises:
        ValueError: If the run has no adapter, or its encoders are not what its settings name; or the folder holds
            something else.
    """
    run, folder = Path(run), Path(folder)
    if not (run / ADAPTER_SAFE_WEIGHTS_NAME).is_file():
        raise ValueError(f"{run} is no run with an adapter. Train one with `--lora_rank 16`, without --merge_adapter.")
    if folder.exists() and not _is_small_checkpoint(folder):
        raise ValueError(f"{folder} exists and is no small checkpoint. Choose another folder.")
    weights = load_file(run / SAFE_WEIGHTS_NAME)
    name = load_run_config(str(run / RUN_FILE)).text_model
    sources = _encoder_sources(weights, name)
    rest = {key: tensor for key, tensor in weights.items() if _part(key) not in sources}
    config = AutoConfig.from_pretrained(run)
    config.encoder_sources = sources
    with replace_folder(folder) as new:
        _save_half(rest, new / SAFE_WEIGHTS_NAME)
        _save_half(load_file(run / ADAPTER_SAFE_WEIGHTS_NAME), new / ADAPTER_SAFE_WEIGHTS_NAME)
        (new / CONFIG_NAME).write_text(config.to_json_string(), encoding="utf-8")
        forget_paths(new / CONFIG_NAME)
        (new / RUN_FILE).write_text(_settings(run), encoding="utf-8")
        for file in COPIED:
            if (run / file).is_file():
                shutil.copy(run / file, new / file)
        write_model_card(new, [new], repo_id="/".join(folder.resolve().parts[-2:]), **card)
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return {"output_dir": str(folder), "bytes": num_bytes, "encoders": dict.fromkeys(sources, name)}


def _encoder_sources(weights: Mapping[str, Tensor], name: str) -> dict[str, dict[str, str]]:
    """For each encoder among the weights, where it comes from."""
    given = load_backbone(resolve_model(name)).state_dict()
    source = {"name": name, "sha256": weights_digest(given)}
    parts = [part for part in LEFT_OUT if any(_part(key) == part for key in weights)]
    for part in parts:
        for key, tensor in given.items():
            own = weights.get(f"{part}.{key}")
            # behind the embeddings of known tokens are those of the markers, which the adapter has
            if own is None or not torch.equal(own[: len(tensor)], tensor):
                raise ValueError(f"{part}.{key} is not that of {name!r}: a small checkpoint could not bring it back.")
    return dict.fromkeys(parts, source)


def _settings(run: Path) -> str:
    settings = yaml.safe_load((run / RUN_FILE).read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name not in LOCAL_SETTINGS}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _save_half(tensors: Mapping[str, Tensor], file: Path) -> None:
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if unsafe := [name for name, tensor in halved.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{unsafe} do not fit into half precision.")
    save_file(halved, file, metadata={"format": "pt"})


def _is_small_checkpoint(folder: Path) -> bool:
    file = folder / CONFIG_NAME
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("encoder_sources") is not None


def _part(key: str) -> str:
    return key.split(".")[0]
