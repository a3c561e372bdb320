"""What the untrained sentence encoder scores on the unseen relations of each split, computed once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.scoring import macro_scores, relation_scores
from roc.evaluation.untrained import UntrainedEncoder, nearest
from roc.evaluation.zero_shot import restrict_inventory, restrict_rows
from roc.relations.files import RelationInventory
from roc.support.files import atomic_write
from roc.training.settings import RunConfig

FILE = "untrained.json"


def untrained_scores(
    config: RunConfig,
    encoder: str | None,
    inventory: RelationInventory,
    unseen: Mapping[str, Sequence[str]],
    output_dir: Path,
) -> dict[str, dict[str, float]]:
    """Score an untrained encoder on the rows of unseen relations, among these relations.

    Args:
        config: The settings of the data.
        encoder: Its Hub id, folder or package.
        inventory: Descriptions of all relations.
        unseen: The unseen relations of each split.
        output_dir: Folder in which the scores are kept; what is there already is not computed again.

    Returns:
        For each split `accuracy` and what `macro_scores` gives.

    Raises:
        ValueError: If no encoder is given, or an unseen relation has no row.
    """
    if encoder is None:
        raise ValueError("The recipe starts from a trained model: name an encoder to compare with by --untrained.")
    asked = {split: _asked(config, encoder, inventory, names) for split, names in unseen.items()}
    file = output_dir / FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = [split for split, own in asked.items() if known.get(split, {}).get("asked") != own]
    if missing:
        loaded = load_dataset_splits(
            config.dataset, config.data_dir, splits=[config.val_split], missing_images=config.missing_images
        )[config.val_split]
        wanted = {name for split in missing for name in unseen[split]}
        rows = restrict_rows(loaded, wanted, where=config.data_dir)
        if absent := sorted(wanted - set(rows["relation"][:])):
            raise ValueError(f"{config.data_dir}, split {config.val_split}: no row has one of the relations {absent}.")
        pairs, model = rows.remove_columns(["image"]).to_list(), UntrainedEncoder(encoder)
        for split in missing:
            own = [row for row in pairs if row["relation"] in unseen[split]]
            known[split] = {"asked": asked[split], "scores": _score(model, own, inventory, unseen[split])}
        with atomic_write(file) as opened:
            opened.write(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return {split: known[split]["scores"] for split in unseen}


def _asked(config: RunConfig, encoder: str, inventory: RelationInventory, names: Sequence[str]) -> dict[str, Any]:
    relations = [{"name": own["name"], "descriptions": own["descriptions"]} for own in inventory.relations]
    data = {"dataset": config.dataset, "data_dir": config.data_dir, "split": config.val_split}
    return {"encoder": encoder, **data, "relations": [own for own in relations if own["name"] in names]}


def _score(
    model: UntrainedEncoder, rows: Sequence[Mapping[str, Any]], inventory: RelationInventory, names: Sequence[str]
) -> dict[str, float]:
    among = restrict_inventory(inventory, names)
    predicted = nearest(model.similarities(rows, among.relations), among.names)
    scores = relation_scores(predicted, [row["relation"] for row in rows], none_relation=None)
    return {"accuracy": scores["accuracy"], **macro_scores(scores["per_relation"], names)}
