"""The card of a written dataset: what the Hub shows of it, and what whoever loads it has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from roc.dataset_scripts.features import FEATURES
from roc.support.markdown import code, table

TEMPLATE = Path(__file__).with_name("dataset_card.md")


def dataset_card(
    marker: Mapping[str, Any], *, num_bytes: Mapping[str, Mapping[str, int]], repo_id: str | None = None
) -> str:
    """Return the card of a dataset: Markdown with the Hub's YAML in front.

    Args:
        marker: The content of the folder's marker file.
        num_bytes: Bytes of the rows with their pictures, by configuration and split.
        repo_id: Where it will be on the Hub, or None for a folder that stays where it is.
    """
    splits = marker["splits"]
    stripped = {name: marker[name].strip() for name in ("description", "license_note", "leak_note")}
    card = DatasetCard.from_template(
        _card_data(marker, num_bytes),
        template_path=str(TEMPLATE),
        **{**marker, **stripped},
        repo_id=repo_id,
        code=code,
        counts=_count_table(splits),
        relations=_relation_table(splits),
        missing=_missing_table(splits),
        without=sum(counts["rows"] - counts["rows_with_image"] for counts in splits.values()),
    )
    return f"{card}\n"


def _card_data(marker: Mapping[str, Any], num_bytes: Mapping[str, Mapping[str, int]]) -> DatasetCardData:
    configs: list[dict[str, Any]] = [
        {
            "config_name": name,
            "data_files": [
                {"split": split, "path": f"{config['folder']}/{split}-*.parquet"} for split in config["splits"]
            ],
        }
        for name, config in marker["configs"].items()
    ]
    configs[0]["default"] = True
    data = DatasetCardData(
        pretty_name=marker["title"],
        license=marker["license"],
        tags=["relation-extraction", "multimodal", "roc"],
        configs=configs,
    )
    infos = {name: _info(config["splits"], num_bytes[name]) for name, config in marker["configs"].items()}
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return data


def _info(splits: Mapping[str, Mapping[str, Any]], num_bytes: Mapping[str, int]) -> DatasetInfo:
    infos = {name: SplitInfo(name, num_bytes[name], counts["rows"]) for name, counts in splits.items()}
    return DatasetInfo(features=FEATURES, splits=SplitDict(infos))


def _count_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for counts in splits.values() for name in counts if name != "relations"))
    rows = [(split, *(counts.get(name, 0) for name in names)) for split, counts in splits.items()]
    return _table(("split", *(name.replace("_", " ") for name in names)), rows)


def _relation_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    totals = sum((Counter(counts["relations"]) for counts in splits.values()), Counter[str]())
    rows = [
        (code(relation), *(counts["relations"].get(relation, 0) for counts in splits.values()))
        for relation, _ in totals.most_common()
    ]
    return _table(("relation", *splits), rows)


def _missing_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which raw rows lacked their picture; nothing if none did."""
    lost = {split: (counts.get("missing_images", 0), counts.get("dropped_rows", 0)) for split, counts in splits.items()}
    if not any(missing for missing, _ in lost.values()):
        return ""
    header = ("split", "raw rows whose picture was not there", "of them dropped", "kept with a null `image`")
    return _table(header, [(split, missing, gone, missing - gone) for split, (missing, gone) in lost.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of texts that are Markdown already, and of numbers."""
    return table(header, [[str(cell) for cell in row] for row in rows])
