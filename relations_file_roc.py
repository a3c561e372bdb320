"""A relation bank as one file: safetensors, with the relations in the metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from .messages_roc import on_one_line, parse_json, quote
from .relations_bank_roc import NUM_SEALS, RelationBank, description_digests, feature_seals, relation_index_of
from .relations_roc import normalise_relations

METADATA_KEY = "roc_relations"
VERSION = 2

# What a configuration holds beside the encoder itself.
UNRELATED_SETTINGS = ("transformers_version", "_name_or_path", "architectures", "dtype")


@dataclass(frozen=True)
class SavedRelations:
    """What a file of relations holds."""

    relations: list[dict[str, Any]]  # in the form of `RocConfig.relations`
    none_relation: str | None
    features: Tensor  # (num_descriptions, feature_dim) float, one row per description, relation by relation
    # `encoder_fingerprint` of the encoder that made the features from these descriptions; None where it is not known
    encoder: str | None


def write_relations(path: str | os.PathLike[str], saved: SavedRelations) -> None:
    """Write a file and create its folder; under a temporary name first, so that nobody sees a half-written one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    features, digests = saved.features.cpu().contiguous(), description_digests(saved.relations)
    tensors = {
        "features": features,
        "relation_index": relation_index_of(saved.relations),
        "digests": digests,
        "seals": feature_seals(features, digests),
    }
    content = {"version": VERSION} | {name: getattr(saved, name) for name in ("encoder", "none_relation", "relations")}
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(content, ensure_ascii=False)})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_relations(path: str | os.PathLike[str], *, feature_dim: int, entity_types: Sequence[str]) -> SavedRelations:
    """Read a file that `write_relations` wrote and check all of it, for a model with such features and entity types.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If the path is a folder.
        ValueError: If the file is not a whole safetensors file, holds no relations or those of another version, if
            the relations are malformed, or if the features do not fit them or the model. The message names the file.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder. Name a file that model.save_relations wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
        content = _content(metadata)
        relations = normalise_relations(content["relations"], content["none_relation"], entity_types)
        features = _checked_features(tensors, relations, feature_dim)
    except SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)}: not a safetensors file, or not all of it ({on_one_line(error, 200)}). Give a file "
            "that model.save_relations wrote."
        ) from error
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {on_one_line(error)}") from error
    encoder = content["encoder"] if _are_tied(tensors, relations) else None
    return SavedRelations(relations, content["none_relation"], features, encoder)


def _content(metadata: dict[str, str]) -> dict[str, Any]:
    if METADATA_KEY not in metadata:
        raise ValueError("this safetensors file holds no relations. Give a file that model.save_relations wrote.")
    content = parse_json(metadata[METADATA_KEY])
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(f"version {quote(version)} is not known; this ROC reads version {VERSION}. Update ROC.")
    if missing := {"relations", "none_relation", "encoder"} - set(content):
        raise ValueError(f"{sorted(missing)} missing from the metadata. Save the relations again.")
    return content


def _checked_features(tensors: dict[str, Tensor], relations: Sequence[dict[str, Any]], feature_dim: int) -> Tensor:
    if set(tensors) != {"features", "relation_index", "digests", "seals"}:
        raise ValueError(f"the tensors are {quote(sorted(tensors))}, not features, relation_index, digests and seals.")
    features, relation_index = tensors["features"], relation_index_of(relations)
    if tensors["relation_index"].tolist() != relation_index.tolist():
        raise ValueError(f"relation_index does not number the {len(relation_index)} descriptions of the relations.")
    if features.ndim != 2 or len(features) != len(relation_index) or not features.is_floating_point():
        raise ValueError(
            f"features are {features.dtype} of shape {tuple(features.shape)}, not one row of floats for each of the "
            f"{len(relation_index)} descriptions."
        )
    if features.shape[1] != feature_dim:
        raise ValueError(
            f"features are {features.shape[1]} wide, but this model's description encoder gives {feature_dim}: they "
            "come from another encoder. Give the descriptions to model.set_relations instead."
        )
    if not torch.isfinite(features).all():
        raise ValueError("features hold numbers that are not finite.")
    return features


def _are_tied(tensors: dict[str, Tensor], relations: Sequence[dict[str, Any]]) -> bool:
    """Whether each row of features was made from the description that the file has in its place."""
    bank = RelationBank(0, 1, 1)
    for name, tensor in tensors.items():
        setattr(bank, name, tensor)
    digests = bank.digests
    has_seals = len(digests) == len(bank.features) and bank.seals.shape == (len(digests), NUM_SEALS)
    return has_seals and bool(bank.holds(description_digests(relations)).all())


def encoder_fingerprint(encoder: PreTrainedModel) -> str:
    """Compute the SHA-256 of an encoder's settings and weights: where it is the same, texts are encoded alike.

    It is computed at each call, because the weights may have changed since the last. 22 M parameters take about 0.1 s.
    """
    settings = encoder.config.to_diff_dict()
    settings = {key: value for key, value in settings.items() if key not in UNRELATED_SETTINGS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
