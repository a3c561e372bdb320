"""Training: data, model and optimizer out of a `RunConfig`, and the loop."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup
from transformers.utils import CONFIG_NAME

from roc.assembly import (
    build_model,
    build_processor,
    check_output_dir,
    choose_precision,
    encode_negatives,
    environment,
    load_samples,
    parameter_groups,
    set_num_threads,
)
from roc.averaging import WeightAverage
from roc.calibration import calibrate, predict_by_label
from roc.data_report import format_batch, report_data
from roc.evaluation import Predictions, predict_relations, score_predictions
from roc.files import atomic_write, replace_folder
from roc.modeling_roc import RocModel
from roc.plotting import plot_confusion_matrix, plot_reliability, plot_training_curves
from roc.processing_roc import RocProcessor
from roc.relation_files import RelationInventory, load_relations
from roc.retrieval_roc import descriptions_of
from roc.run_config import RUN_FILE, RunConfig
from roc.samples import GroupedSamples, LengthBucketBatchSampler, SampleCollator
from roc.scoring import confusion_matrix
from roc.tracking import check_trackers, track_epoch, track_result, track_step, tracked
from roc.vision_cache import use_vision_cache
from roc.zero_shot import restrict_inventory, unseen_relations

logger = logging.getLogger("roc.training")


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: Optimizer steps done.
        history: Per epoch: step, loss, learning rate, samples per second, and the validation scores.
        best_epoch: Epoch with the best validation micro-F1, counted from 1.
        best_val: Its scores.
        calibration: What `calibrate` reports of it, at the end.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_val: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)

    def improves(self, val: dict[str, Any]) -> bool:
        """Whether these validation scores beat the best so far."""
        return not self.best_val or val["micro_f1"] > self.best_val["micro_f1"]


def train(config: RunConfig) -> dict[str, Any]:
    """Train, keep the best epoch by validation micro-F1, and write the run's folder.

    Args:
        config: The settings.

    Returns:
        `{"output_dir": ..., "val": {...}}`.

    Raises:
        ValueError: If data, relations and settings do not fit together, or the output folder is somebody else's.
        FloatingPointError: If the loss is not finite; the message names the step and the rows.
    """
    check_output_dir(config)
    check_trackers(config)
    set_num_threads(config)
    set_seed(config.seed)
    # a batch without a picture or an object leaves parameters without a gradient
    several_processes = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=choose_precision(config), kwargs_handlers=[several_processes])
    inventory = load_relations(config.relations)
    held_out = unseen_relations(
        inventory, held_out_relations=config.held_out_relations, num_unseen=config.num_unseen, seed=config.seed
    )
    inventory = restrict_inventory(inventory, set(inventory.names) - set(held_out))
    train_set, val_set = load_samples(config, inventory, held_out=held_out)
    processor = build_processor(config)
    model = build_model(config, processor, inventory)
    negatives = encode_negatives(config, processor, model, inventory)
    if config.vision_cache is not None and not config.dry_run:  # a dry run writes nothing
        options = {"batch_size": config.eval_batch_size, "num_workers": config.num_workers}
        use_vision_cache(config.vision_cache, model, processor, [train_set, val_set], accelerator, **options)
    run = TrainingRun(config, accelerator, processor, model, inventory, train_set, val_set, negatives)
    if config.dry_run:
        return run.dry_run()
    with tracked(accelerator, config, step=run.progress.step):
        return run.run()


class TrainingRun:
    """One run: everything that the loop needs, prepared.

    Args:
        config: The settings.
        accelerator: Places tensors and runs mixed precision.
        processor: The model's processor.
        model: The model.
        inventory: The relations.
        train_set: Samples to learn from.
        val_set: Samples that choose the best epoch.
        negatives: `(num_negatives, feature_dim)`, descriptions that hold for no pair.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        processor: RocProcessor,
        model: RocModel,
        inventory: RelationInventory,
        train_set: GroupedSamples,
        val_set: GroupedSamples,
        negatives: torch.Tensor | None = None,
    ) -> None:
        self.config, self.accelerator, self.processor = config, accelerator, processor
        self.inventory, self.train_set, self.val_set = inventory, train_set, val_set
        self.sampler = LengthBucketBatchSampler(
            [sample.approximate_length for sample in train_set.samples], config.batch_size, seed=config.seed
        )
        self.num_samples = len(train_set)
        collator = SampleCollator(processor, inventory.names, type_noise=config.type_noise)
        loader = DataLoader(train_set, batch_sampler=self.sampler, collate_fn=collator, num_workers=config.num_workers)
        optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
        steps_per_epoch = -(-len(loader) // (config.gradient_accumulation_steps * accelerator.num_processes))
        self.total_steps = config.max_steps or steps_per_epoch * config.num_epochs
        self.num_epochs = -(-self.total_steps // steps_per_epoch)
        scheduler = get_linear_schedule_with_warmup(
            optimizer, round(self.total_steps * config.warmup_ratio), self.total_steps
        )
        self.model, self.optimizer, self.loader = accelerator.prepare(model, optimizer, loader)
        self.scheduler = scheduler  # not prepared: it steps once per optimizer step, whatever the number of processes
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.average = None if config.average_decay is None else WeightAverage(self.parameters, config.average_decay)
        self.descriptions = self._descriptions()
        self.negatives = None if negatives is None else negatives.to(accelerator.device)
        self.progress = Progress()

    def run(self) -> dict[str, Any]:
        """All epochs; returns `{"output_dir": ..., "val": {...}}`."""
        started = time.perf_counter()
        self._log_start()
        for epoch in range(1, self.num_epochs + 1):
            record = self._train_epoch(epoch)
            if epoch % self.config.epochs_per_validation and epoch < self.num_epochs:
                self.progress.history.append(record)
                continue
            with contextlib.nullcontext() if self.average is None else self.average.applied():
                self._validate_and_save(epoch, record)
            if self._patience_is_over(epoch):
                logger.info("no better validation micro-F1 for %d epochs: stopping", epoch - self.progress.best_epoch)
                break
        if not self.accelerator.is_main_process:
            return {}  # one JSON line, whatever the number of processes
        predictions = self._calibrate_saved_model()
        self.progress.best_val = score_predictions(predictions, self.inventory.none_relation)
        self._save_records(time.perf_counter() - started)
        track_result(self.accelerator, self.progress.best_val, step=self.progress.step)
        self._draw(predictions)
        return {"output_dir": self.config.output_dir, "val": _without_details(self.progress.best_val)}

    def dry_run(self) -> dict[str, Any]:
        """Tell what the data are, do one optimizer step, write nothing; returns counts and the loss."""
        relations = self.inventory.names
        if self.accelerator.is_main_process:
            report_data(self.train_set, self.val_set, self.processor, relations)
        self.model.train()
        batches = next(self._steps(epoch=0))
        if self.accelerator.is_main_process:
            samples = self.train_set.samples
            first = format_batch(*batches[0], samples=samples, processor=self.processor, relations=relations)
            print(f"\n{first}", file=sys.stderr)
        loss = self._step(batches)
        return {
            "dry_run": True,
            "num_samples": self.num_samples,
            "num_val_samples": len(self.val_set),
            "num_relations": len(self.inventory.names),
            "total_steps": self.total_steps,
            "loss": loss,
        }

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        self.model.train()
        started, losses, num_samples = time.perf_counter(), [], 0
        bar = tqdm(total=self.total_steps, initial=self.progress.step, desc=f"epoch {epoch}", disable=_quiet())
        for batches in self._steps(epoch):
            losses.append(self._step(batches))
            track_step(self.accelerator, step=self.progress.step, loss=losses[-1], learning_rate=self._learning_rate())
            num_samples += sum(len(batch["input_ids"]) for _, batch in batches) * self.accelerator.num_processes
            rate = num_samples / (time.perf_counter() - started)
            bar.set_postfix(loss=f"{losses[-1]:.3f}", lr=f"{self._learning_rate():.1e}", samples_per_s=f"{rate:.0f}")
            bar.update()
            if self.progress.step >= self.total_steps:
                break
        bar.close()
        return {
            "epoch": epoch,
            "step": self.progress.step,
            "loss": sum(losses) / len(losses),
            "learning_rate": self._learning_rate(),
            "samples_per_second": num_samples / (time.perf_counter() - started),
            "temperature": self._plain_model().temperature if self.config.head == "retrieval" else None,
        }

    def _steps(self, epoch: int) -> Iterator[list[Any]]:
        """The batches of each optimizer step: `gradient_accumulation_steps` of them, fewer at the end of the epoch."""
        self.loader.set_epoch(epoch)  # the prepared loader counts epochs itself, and tells the sampler
        batches = []
        for batch in self.loader:
            batches.append(batch)
            if len(batches) == self.config.gradient_accumulation_steps:
                yield batches
                batches = []
        if batches:
            yield batches

    def _step(self, batches: list[Any]) -> float:
        """One optimizer step; every pair of its batches, on all processes, weighs alike. Returns the mean loss."""
        num_pairs = sum(batch["pair_mask"].sum() for _, batch in batches)
        num_pairs = self.accelerator.reduce(num_pairs, "sum")
        total = 0.0
        for number, (row_ids, batch) in enumerate(batches):
            is_last = number == len(batches) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                output = self.model(
                    **batch, **self.descriptions, negative_features=self.negatives, num_items_in_batch=num_pairs
                )
                self._check_finite(output.loss, "loss", row_ids)
                # the processes' gradients are averaged, but each holds a share of one sum
                self.accelerator.backward(output.loss * self.accelerator.num_processes)
            total += output.loss.item()
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self._check_finite(norm, "norm of the gradient", [row_id for row_ids, _ in batches for row_id in row_ids])
        self.optimizer.step()
        self._plain_model().clamp_temperature()
        if self.average is not None:
            self.average.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return total * self.accelerator.num_processes

    def _check_finite(self, number: torch.Tensor, what: str, row_ids: list[str]) -> None:
        if not torch.isfinite(number):
            raise FloatingPointError(
                f"The {what} is {number.item()} at step {self.progress.step + 1}, on the rows {row_ids}. Nothing was "
                "saved of this step. Lower the learning rates, or look at these rows."
            )

    def _validate_and_save(self, epoch: int, record: dict[str, Any]) -> None:
        val = self._validate()
        self.progress.history.append({**record, "val": _without_details(val)})
        logger.info("epoch %d: %s", epoch, json.dumps(self.progress.history[-1]))
        track_epoch(self.accelerator, self.progress.history[-1])
        if self.progress.improves(val):
            self.progress.best_epoch, self.progress.best_val = epoch, val
            self._save_model()

    def _validate(self) -> dict[str, Any]:
        self._encode_relations_anew()
        predictions = predict_relations(
            self._plain_model(), self.processor, self.val_set, batch_size=self.config.eval_batch_size
        )
        return score_predictions(predictions, self.inventory.none_relation)

    def _patience_is_over(self, epoch: int) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and epoch - self.progress.best_epoch >= patience

    def _descriptions(self) -> dict[str, torch.Tensor]:
        """The descriptions' tokens, where the trained text encoder reads them anew at every step."""
        if self.config.head != "retrieval" or not self.config.share_description_encoder:
            return {}
        texts = descriptions_of(self.inventory.relations)
        tokens = self.processor.tokenize_descriptions(texts).to(self.accelerator.device)
        return {"relation_" + name: tensor for name, tensor in tokens.items()}

    def _plain_model(self) -> RocModel:
        return self.accelerator.unwrap_model(self.model)

    def _learning_rate(self) -> float:
        """The text encoder's."""
        return next(group["lr"] for group in self.optimizer.param_groups if group["part"] == "text_model")

    def _encode_relations_anew(self) -> None:
        """A shared description encoder has learnt since the bank was filled."""
        if self.descriptions:
            self._plain_model().set_relations(
                self.inventory.relations, self.processor, none_relation=self.inventory.none_relation
            )

    def _log_start(self) -> None:
        model = self._plain_model()
        trainable = sum(parameter.numel() for parameter in self.parameters)
        logger.info(
            "%d samples, %d steps in %d epochs, %s precision, %.1f M trainable parameters of %.1f M",
            self.num_samples,
            self.total_steps,
            self.num_epochs,
            self.accelerator.mixed_precision,
            trainable / 1e6,
            model.num_parameters() / 1e6,
        )

    def _save_model(self) -> None:
        """Write the run's folder as of the best epoch so far: complete, or as it was before."""
        if not self.accelerator.is_main_process:
            return
        model = self._plain_model()
        with replace_folder(self.config.output_dir) as folder:
            model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            # the run as such: where it went and whether it replaced something is not part of it
            settings = replace(self.config, overwrite=False)
            (folder / RUN_FILE).write_text(settings.to_yaml(), encoding="utf-8")
            (folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")

    def _calibrate_saved_model(self) -> Predictions:
        """Calibrate the folder just written; returns its predictions on the validation split, as `score.py`'s."""
        self.val_set.features = None  # pictures, as `score.py` reads them
        saved = RocModel.from_pretrained(self.config.output_dir, dtype=torch.float32).to(self.accelerator.device)
        options: dict[str, Any] = {"batch_size": self.config.eval_batch_size}
        predictions = predict_relations(saved, self.processor, self.val_set, **options)
        by_label = None
        if self.config.head == "retrieval":
            by_label = predict_by_label(saved, self.processor, self.val_set, **options)
        self.progress.calibration = calibrate(saved, predictions, by_label)
        with atomic_write(Path(self.config.output_dir) / CONFIG_NAME) as file:
            file.write(saved.config.to_json_string())
        return predictions

    def _save_records(self, seconds: float) -> None:
        metrics = {
            "best_epoch": self.progress.best_epoch,
            "val": self.progress.best_val,
            "history": self.progress.history,
            "calibration": self.progress.calibration,
            "seconds": round(seconds, 1),
        }
        with atomic_write(Path(self.config.output_dir) / "metrics.json") as file:
            file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")

    def _draw(self, predictions: Predictions) -> None:
        folder, names = Path(self.config.output_dir), self.inventory.names
        try:
            plot_training_curves(self.progress.history, folder / "curves.png")
            matrix = confusion_matrix(predictions.predicted, predictions.expected, names)
            plot_confusion_matrix(matrix, names, folder / "confusion.png")
            plot_reliability(self.progress.calibration["reliability"], folder / "calibration.png")
        except ImportError as error:
            logger.warning("no plots: %s", error)


def _quiet() -> bool:
    """Whether to leave out progress bars: where nobody watches, or on all processes but one."""
    return not sys.stderr.isatty() or int(os.environ.get("LOCAL_RANK", "0")) != 0


def _without_details(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "per_relation"}
