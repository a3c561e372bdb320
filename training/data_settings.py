"""The settings of a data set in a training run: of its only one, or of each of its `sources`. Needs no PyTorch."""

# No `from __future__ import annotations`: values are checked against the annotations.

from dataclasses import dataclass
from typing import Literal

from roc.configuration_fields_roc import check_ranges, setting

DatasetName = Literal[
    "mnre", "more", "fewrel", "crossre", "semeval", "joint", "webnlg", "marked", "jsonl", "synthetic", "scenes"
]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The settings of a data set: those of the run, or of one of its `sources`.

    Besides its range a field may say `effect=False` (it changes nothing that a run learns), `local=True` (it is where
    this machine keeps something) and `file=True` (it names a file, of which the content counts).
    """

    dataset: DatasetName = setting("jsonl", "Builder of the data.")
    data_dir: str = setting("data", "Folder of the raw files, or of what a builder wrote.", local=True)
    parts: list[str] | None = setting(None, "Parts of the data set to use, such as CrossRE's domains; null for all.")
    relations: str | None = setting(
        "relations/mnre.yaml", "Relation file; with `start_from` null keeps that model's.", file=True
    )
    train_split: str = setting("train", "Split to train on.")
    val_split: str = setting("val", "Split that chooses the best epoch. Never the test split.")
    val_share: float = setting(0.1, "Share of a split that validates, if both are one.", more_than=0, less_than=1)
    held_out_relations: list[str] | None = setting(None, "Relations that training does not see; null for none.")
    eval_relations: list[str] | None = setting(
        None,
        "Relations that training does not see and that alone validate: they choose epoch, probabilities and threshold; "
        "null to validate on the relations of training.",
    )
    train_share: float = setting(1.0, "Share of each relation's training rows to use.", more_than=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class SourceConfig(DataSettings):
    """The settings of one of a run's `sources`, or of the only data set of a run."""

    name: str = setting("", "Its name in logs and scores; empty where the run has no `sources`.")
    annotates_all: bool = setting(
        False,
        "Whether a pair without a relation has none of the other sources' either, because the source annotates "
        "whatever two entities may have in common; it is then compared with all relations.",
    )

    def __post_init__(self) -> None:
        check_ranges(self)
