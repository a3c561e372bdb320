"""Predictions of a model over a split, and their scores."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.zero_shot import restrict_rows
from roc.modeling_decisions_roc import HARD_PENALTY, NO_RELATION, decide_relations
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.samples.batching import LengthBucketBatchSampler, SampleCollator
from roc.samples.grouping import GroupedSamples, UnreadableRow
from roc.samples.reading import UnreadablePolicy, leave_out_unreadable, settle_unreadable
from roc.samples.splitting import check_relations_known
from roc.support.programs import shows_progress

ABSTAINED = ""  # what is predicted below `none_threshold`, where no relation of the inventory means "none of these"


@dataclass(frozen=True)
class Predictions:
    """One entry per row of the split that the model can read, in the order in which the samples list them."""

    row_ids: list[str]
    expected: list[str]  # what the data states
    predicted: list[str]  # what the model decides for; `ABSTAINED` for none
    logits: Tensor = field(compare=False)  # (pairs, relations), on the CPU
    unreadable: list[UnreadableRow] = field(default_factory=list)  # the split's other rows

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Join predictions of one model about several splits."""
        lists = ("row_ids", "expected", "predicted", "unreadable")
        joined: dict[str, Any] = {name: [*itertools.chain(*(getattr(own, name) for own in parts))] for name in lists}
        return cls(**joined, logits=torch.cat([own.logits for own in parts]))


def load_split(
    model: RocModel,
    processor: RocProcessor,
    dataset: str,
    data_dir: str,
    split: str,
    *,
    missing_images: MissingImages = "no_image",
    unreadable_rows: UnreadablePolicy = "stop",
    use_image: bool = True,
    only: Collection[str] = (),
    parts: Sequence[str] | None = None,
) -> GroupedSamples:
    """Load the samples of a split for a model.

    Args:
        model: The model; pictures are left out where it reads none.
        processor: Its processor, whose typer types entities without a type.
        dataset: See `load_dataset_splits`, as for `data_dir`, `split`, `missing_images` and `parts`.
        data_dir: Folder of the raw files, or of what a builder wrote.
        split: Name of the split.
        missing_images: What to do where a picture is missing.
        unreadable_rows: Whether to stop where the model cannot read a row, or to list it in `GroupedSamples.unreadable`
            and go on.
        use_image: Whether the model is shown pictures.
        only: Relations whose rows are kept; empty for all.
        parts: Some of the parts of a data set that has parts.

    Raises:
        ValueError: If the model lacks the relation of a row or cannot read it, no row is kept, or as
            `load_dataset_splits`.
        FileNotFoundError: If the folder, the split or a picture is not there.
    """
    typer, where = processor.entity_typer, f"{data_dir}, split {split}"
    splits = load_dataset_splits(
        dataset, data_dir, splits=[split], missing_images=missing_images, entity_typer=typer, parts=parts
    )
    rows = restrict_rows(splits[split], only, where=where) if only else splits[split]
    samples = GroupedSamples(rows, use_image=use_image and model.config.vision_config is not None)
    check_relations_known(samples, model.config.relation_names, where)
    leave_out_unreadable(samples, processor)
    settle_unreadable({where: samples}, unreadable_rows)
    return samples


@torch.no_grad()
def predict_relations(
    model: RocModel,
    processor: RocProcessor,
    samples: GroupedSamples,
    *,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    among: Collection[str] = (),
) -> Predictions:
    """Rank the relations of every pair, in the model's own precision, so that training and scoring agree.

    Args:
        model: The model; it is set to evaluation mode.
        processor: Its processor.
        samples: The split.
        batch_size: Samples per forward pass.
        accelerator: What the processes share that divide the batches among them. All of them call this, and get all
            predictions. None where this process works alone.
        among: Relations that may be predicted, the others being ruled out as `type_constraints` do; empty for all.
    """
    model.eval()
    lengths = [sample.approximate_length for sample in samples.samples]
    batches = list(LengthBucketBatchSampler(lengths, batch_size, shuffle=False))
    if accelerator is not None:
        batches = batches[accelerator.process_index :: accelerator.num_processes]
    loader = DataLoader(samples, batch_sampler=batches, collate_fn=SampleCollator(processor, relations=None))
    logits = [torch.empty(0, model.config.num_relations, device=model.device)]  # a process may have no batch
    for _, batch in tqdm(loader, desc="scoring", disable=not shows_progress(), leave=False):
        batch = batch.to(model.device)
        logits.append(model(**batch).logits[batch["pair_mask"].bool()])
    rows = torch.tensor(_rows_of(samples, batches), dtype=torch.long, device=model.device)
    in_order = _gather_in_order(rows, torch.cat(logits), accelerator)
    if among:
        is_other = torch.tensor([name not in among for name in model.config.relation_names], device=model.device)
        in_order = in_order - HARD_PENALTY * is_other
    decided = decide_relations(in_order, model.config, temperature=model.temperature).tolist()
    names = dict(enumerate(model.config.relation_names)) | {NO_RELATION: ABSTAINED}
    return Predictions(
        [row_id for sample in samples.samples for row_id in sample.row_ids],
        [relation for sample in samples.samples for relation in sample.relations],
        [names[number] for number in decided],
        in_order.cpu(),
        samples.unreadable,
    )


def _rows_of(samples: GroupedSamples, batches: Sequence[Sequence[int]]) -> list[int]:
    """Return the place of each pair of the batches among all pairs of the samples."""
    starts = list(itertools.accumulate((len(sample.pairs) for sample in samples.samples), initial=0))
    return [row for batch in batches for number in batch for row in range(starts[number], starts[number + 1])]


def _gather_in_order(rows: Tensor, values: Tensor, accelerator: Accelerator | None) -> Tensor:
    """Return the values `(n, ...)` of all processes together, in the order of their `rows` `(n,)`."""
    if accelerator is not None:
        rows, values = accelerator.gather(accelerator.pad_across_processes((rows, values), pad_index=-1))
        rows, values = rows[rows >= 0], values[rows >= 0]
    return values[rows.argsort()]


def score_predictions(predictions: Predictions, none_relation: str | None) -> dict[str, Any]:
    """Score predictions; where no relation means "none of these", those below the threshold count as that.

    A row that the model cannot read counts like one for which it finds no relation, so that leaving rows out raises no
    score: `n` counts them too, and `num_skipped`, which is there if there are any, says how many they are.
    """
    no_relation = ABSTAINED if none_relation is None else none_relation
    unread = predictions.unreadable
    predicted = [*predictions.predicted, *[no_relation] * len(unread)]
    expected = [*predictions.expected, *(row.relation for row in unread)]
    scores = score_relations(predicted, expected, none_relation=no_relation)
    return scores | {"num_skipped": len(unread)} if unread else scores


def score_relations(predicted: Sequence[str], expected: Sequence[str], *, none_relation: str) -> dict[str, Any]:
    """Score relations as `relation_scores` does, with the metric that `evaluate.load` gives of `metrics/roc_f1`."""
    from roc.evaluation.metrics.roc_f1.roc_f1 import RocF1  # here: `evaluate` takes seconds to import

    with tempfile.TemporaryDirectory() as folder:  # it makes an empty folder there; the pairs stay in memory
        metric = RocF1(keep_in_memory=True, cache_dir=folder)
        return metric.compute(predictions=predicted, references=expected, none_relation=none_relation)
