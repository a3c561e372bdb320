"""Training: data, model and optimizer out of a `RunConfig`, and the loop."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import broadcast, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup
from transformers.utils import CONFIG_NAME

from roc.evaluation.calibration import calibrate, predict_by_label
from roc.evaluation.plots import plot_confusion_matrix, plot_reliability, plot_training_curves
from roc.evaluation.predictions import Predictions, predict_relations, score_predictions
from roc.evaluation.scoring import confusion_matrix
from roc.evaluation.zero_shot import restrict_inventory, unseen_relations
from roc.loss_roc import NO_LABEL
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory, load_relations
from roc.relations_bank_roc import descriptions_of
from roc.samples.batching import LengthBucketBatchSampler, ProcessShares, SampleCollator
from roc.samples.grouping import GroupedSamples
from roc.samples.report import format_batch, report_data
from roc.samples.vision_cache import use_vision_cache
from roc.support.files import atomic_write, replace_folder
from roc.support.machine import choose_precision, set_num_threads
from roc.support.programs import shows_progress
from roc.training.adapters import save_model, without_adapter
from roc.training.averaging import WeightAverage
from roc.training.building import (
    build_model,
    build_processor,
    encode_negatives,
    load_samples,
)
from roc.training.checkpoints import Checkpoints, find_checkpoint
from roc.training.costs import count_parameters, peak_memory_mib
from roc.training.interruptions import disk_errors_explained, ignore_termination, memory_errors_explained
from roc.training.optimizer import build_optimizer
from roc.training.processes import gather_weights, prepare_for_sharding, start_accelerator
from roc.training.run_folder import check_output_dir, environment
from roc.training.settings import ENVIRONMENT_FILE, METRICS_FILE, RUN_FILE, RunConfig
from roc.training.state import RunState, describe_run
from roc.training.tracking import check_trackers, track_epoch, track_result, track_step, tracked

logger = logging.getLogger("roc.training.loop")


def train(config: RunConfig) -> dict[str, Any]:
    """Train, keep the best epoch by validation micro-F1, and write the run's folder.

    Args:
        config: The settings.

    Returns:
        `{"output_dir": ..., "val": {...}}`.

    Raises:
        ValueError: If data, relations and settings do not fit together, or the output folder is somebody else's.
        FloatingPointError: If the loss is not finite; the message names the step and the rows.
        MemoryError: If memory is exhausted; the message says what to lower.
        OSError: If a folder cannot be written, or the disk is too full.
        SystemExit: After SIGTERM, when a checkpoint has been written; the code is 143.
    """
    resumed = find_checkpoint(config)
    check_output_dir(config, resumed_from=None if resumed is None else resumed.path)
    check_trackers(config)
    set_num_threads(config.num_threads)
    set_seed(config.seed)
    accelerator = start_accelerator(choose_precision(config.mixed_precision))
    inventory = load_relations(config.relations, entity_types=config.model.entity_types)
    if config.described_by == "labels":
        inventory = inventory.described_by_labels()
    held_out = unseen_relations(
        inventory, held_out_relations=config.held_out_relations, num_unseen=config.num_unseen, seed=config.seed
    )
    inventory = restrict_inventory(inventory, set(inventory.names) - set(held_out))
    with accelerator.local_main_process_first():  # the others find its work in the cache
        train_set, val_set = load_samples(config, inventory, held_out=held_out)
    processor = build_processor(config)
    model = build_model(config, processor, inventory)
    negatives = encode_negatives(config, processor, model, inventory)
    described = describe_run(config, accelerator, model, inventory, train_set, val_set)
    if resumed is not None:
        resumed.check_same_run(described)
    if config.vision_cache is not None and not config.dry_run:  # a dry run writes nothing
        options = {"batch_size": config.eval_batch_size, "num_workers": config.num_workers}
        use_vision_cache(config.vision_cache, model, processor, [train_set, val_set], accelerator, **options)
    if accelerator.process_index:  # the same weights as on the others, but dropout of its own
        set_seed(config.seed, device_specific=True)
    run = TrainingRun(config, accelerator, processor, model, inventory, train_set, val_set, negatives)
    if config.dry_run:
        result = run.dry_run()
    else:
        with tracked(accelerator, config, step=0 if resumed is None else resumed.progress.step):
            result = run.run(Checkpoints(config, accelerator, described, resumed))
    accelerator.end_training()
    return result if accelerator.is_main_process else {}  # one JSON line, whatever the number of processes


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
        lengths, num_processes = [sample.approximate_length for sample in train_set.samples], accelerator.num_processes
        self.sampler = LengthBucketBatchSampler(lengths, config.batch_size * num_processes, seed=config.seed)
        shares = ProcessShares(self.sampler, process_index=accelerator.process_index, num_processes=num_processes)
        self.num_samples = len(train_set)
        self.collator = SampleCollator(processor, inventory.names, type_noise=config.type_noise, seed=config.seed)
        self.loader = DataLoader(
            train_set,
            batch_sampler=shares,
            collate_fn=self.collator,
            num_workers=config.num_workers,
            worker_init_fn=ignore_termination,
            generator=torch.Generator(),  # a loader made anew in the middle of an epoch draws nothing from the run's
        )
        self._whole_model = prepare_for_sharding(model, accelerator) if accelerator.is_fsdp2 else None
        optimizer = build_optimizer(model, config)
        steps_per_epoch = -(-len(self.loader) // config.gradient_accumulation_steps)
        self.total_steps = config.max_steps or steps_per_epoch * config.num_epochs
        self.num_epochs = -(-self.total_steps // steps_per_epoch)
        scheduler = get_linear_schedule_with_warmup(
            optimizer, round(self.total_steps * config.warmup_ratio), self.total_steps
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if self._whole_model is not None:
            self.model.set_reduce_scatter_unused_params(True)  # as DDP's find_unused_parameters
        # not prepared: the batches are shared out already, and it steps once per optimizer step
        self.scheduler = scheduler
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.average = None if config.average_decay is None else WeightAverage(self.parameters, config.average_decay)
        self._always_given = self._blank_picture(train_set)
        self.state = RunState(
            accelerator, accelerator.unwrap_model(self.model), self.optimizer, scheduler, self.average
        )
        self.progress = self.state.progress
        self._started = time.perf_counter()
        self.descriptions = self._descriptions()
        self.negatives = None if negatives is None else negatives.to(accelerator.device)

    def run(self, checkpoints: Checkpoints) -> dict[str, Any]:
        """All epochs that are left; returns `{"output_dir": ..., "val": {...}}`."""
        with checkpoints.kept(self.state):
            self._started = time.perf_counter() - self.progress.seconds
            self._log_start()
            while not self._is_over():
                self._run_epoch(len(self.progress.history) + 1, checkpoints.after_step)
                checkpoints.after_epoch()
        predictions = self._calibrate_saved_model()
        self.progress.best_val = score_predictions(predictions, self.inventory.none_relation)
        self._note_time()
        track_result(self.accelerator, self.progress.best_val, step=self.progress.step)
        if self.accelerator.is_main_process:
            self._save_records()
            self._draw(predictions)
        checkpoints.remove()
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

    def _run_epoch(self, epoch: int, after_step: Callable[[], None]) -> None:
        """Train, and validate where it is time to."""
        record = self._train_epoch(epoch, after_step)
        if epoch % self.config.epochs_per_validation == 0 or epoch == self.num_epochs:
            with contextlib.nullcontext() if self.average is None else self.average.applied():
                record = self._validate_and_save(epoch, record)
        self._note_time()
        self.progress.end_epoch(record)

    def _train_epoch(self, epoch: int, after_step: Callable[[], None]) -> dict[str, Any]:
        """What is left of an epoch; returns its record."""
        self.model.train()
        progress, config = self.progress, self.config
        advice = (
            "Add --activation_checkpointing, with which --resume auto can go on; or, in a new run, lower "
            f"--batch_size ({config.batch_size}) and raise --gradient_accumulation_steps, or lower --max_length "
            f"({config.max_length})."
        )
        hidden = not shows_progress()
        bar = tqdm(total=self.total_steps, initial=progress.step, desc=f"epoch {epoch}", disable=hidden)
        for batches in self._steps(epoch):
            shapes = [tuple(batch["input_ids"].shape) for _, batch in batches]
            with memory_errors_explained(f"at step {progress.step + 1}, on samples x tokens {shapes}", advice):
                progress.losses.append(self._step(batches))
            learning_rate = self._learning_rate()
            track_step(self.accelerator, step=progress.step, loss=progress.losses[-1], learning_rate=learning_rate)
            progress.num_samples += sum(shape[0] for shape in shapes) * self.accelerator.num_processes
            self._note_time()
            rates = {"lr": f"{learning_rate:.1e}", "samples_per_s": f"{self._samples_per_second():.0f}"}
            bar.set_postfix(loss=f"{progress.losses[-1]:.3f}", **rates)
            bar.update()
            if progress.step >= self.total_steps:
                break
            after_step()
        bar.close()
        self._gather_weights()
        return {
            "epoch": epoch,
            "step": progress.step,
            "loss": sum(progress.losses) / len(progress.losses),
            "learning_rate": self._learning_rate(),
            "samples_per_second": self._samples_per_second(),
            "temperature": self._plain_model().temperature if config.model.head == "retrieval" else None,
        }

    def _steps(self, epoch: int) -> Iterator[list[Any]]:
        """The batches of each optimizer step that the epoch has left.

        There are `gradient_accumulation_steps` of them, fewer at the end of the epoch.
        """
        self.sampler.set_epoch(epoch)
        self.collator.set_epoch(epoch)
        num_done = len(self.progress.losses) * self.config.gradient_accumulation_steps
        batches = []
        for row_ids, batch in skip_first_batches(self.loader, num_done) if num_done else self.loader:
            batches.append((row_ids, {**self._always_given, **batch.to(self.accelerator.device)}))
            if len(batches) == self.config.gradient_accumulation_steps:
                yield batches
                batches = []
        if batches:
            yield batches

    def _step(self, batches: list[Any]) -> float:
        """One optimizer step; every pair of its batches, on all processes, weighs alike. Returns the mean loss."""
        num_pairs = sum((batch["labels"] != NO_LABEL).sum() for _, batch in batches)
        num_pairs = self.accelerator.reduce(num_pairs, "sum")
        total = torch.zeros((), device=self.accelerator.device)
        for number, (row_ids, batch) in enumerate(batches):
            is_last = number == len(batches) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                output = self.model(
                    **batch, **self.descriptions, negative_features=self.negatives, num_items_in_batch=num_pairs
                )
                self._check_finite(output.loss, "loss", row_ids)
                # the processes' gradients are averaged, but each holds a share of one sum
                self.accelerator.backward(output.loss * self.accelerator.num_processes)
            total += output.loss.detach()
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self._check_finite(norm, "norm of the gradient", [row_id for row_ids, _ in batches for row_id in row_ids])
        self.optimizer.step()
        self.accelerator.unwrap_model(self.model).clamp_temperature()
        if self.average is not None:
            self.average.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return self.accelerator.reduce(total, "sum").item()

    def _check_finite(self, number: torch.Tensor, what: str, row_ids: list[str]) -> None:
        if not torch.isfinite(number):
            raise FloatingPointError(
                f"The {what} is {number.item()} at step {self.progress.step + 1}, on the rows {row_ids}. Nothing was "
                "saved of this step. Lower the learning rates, or look at these rows."
            )

    def _validate_and_save(self, epoch: int, record: dict[str, Any]) -> dict[str, Any]:
        """Returns the epoch's record with the scores."""
        self._gather_weights()
        val = self._validate()
        record = {**record, "val": _without_details(val)}
        logger.info("epoch %d: %s", epoch, json.dumps(record))
        track_epoch(self.accelerator, record)
        if self.progress.improves(val):
            self.progress.best_epoch, self.progress.best_val = epoch, val
            with disk_errors_explained(f"The model of epoch {epoch}"):
                self._save_model()
        return record

    def _validate(self) -> dict[str, Any]:
        self._encode_relations_anew()
        advice = f"Lower --eval_batch_size ({self.config.eval_batch_size}), with which --resume auto can go on."
        with memory_errors_explained("in validation", advice):
            predictions = self._predict(self._plain_model())
        return score_predictions(predictions, self.inventory.none_relation)

    def _predict(self, model: RocModel, predict: Callable[..., Predictions] = predict_relations) -> Predictions:
        """A model's predictions on the validation split; all processes work on them, and all get them."""
        options: dict[str, Any] = {"batch_size": self.config.eval_batch_size, "accelerator": self.accelerator}
        return predict(model, self.processor, self.val_set, **options)

    def _is_over(self) -> bool:
        history, patience = self.progress.history, self.config.early_stopping_patience
        if len(history) == self.num_epochs:
            return True
        num_worse = len(history) - self.progress.best_epoch
        if patience is None or not history or "val" not in history[-1] or num_worse < patience:
            return False
        logger.info("no better validation micro-F1 for %d epochs: stopping", num_worse)
        return True

    def _blank_picture(self, samples: GroupedSamples) -> dict[str, torch.Tensor]:
        """A picture of no sample, where FSDP has all processes run the vision encoder together or not at all."""
        if self._whole_model is None or self._whole_model.vision_model is None or samples.features is not None:
            return {}
        size = self.processor.image_processor.size
        return {"pixel_values": torch.zeros(1, 3, size["height"], size["width"], device=self.accelerator.device)}

    def _descriptions(self) -> dict[str, torch.Tensor]:
        """The descriptions' tokens, where the trained text encoder reads them anew at every step."""
        if self.config.model.head != "retrieval" or not self.config.share_description_encoder:
            return {}
        texts = descriptions_of(self.inventory.relations)
        tokens = self.processor.tokenize_descriptions(texts).to(self.accelerator.device)
        return {"relation_" + name: tensor for name, tensor in tokens.items()}

    def _plain_model(self) -> RocModel:
        """The model to validate and to save; under FSDP it is as of `_gather_weights`."""
        return self._whole_model or self.accelerator.unwrap_model(self.model)

    def _gather_weights(self) -> None:
        if self._whole_model is not None:
            gather_weights(self.model, self._whole_model)

    def _learning_rate(self) -> float:
        """The text encoder's."""
        return next(group["lr"] for group in self.optimizer.param_groups if group["part"] == "text_model")

    def _encode_relations_anew(self) -> None:
        """A shared description encoder has learnt since the bank was filled."""
        if self.descriptions:
            self._plain_model().set_relations(
                self.inventory.relations, self.processor, none_relation=self.inventory.none_relation
            )

    def _note_time(self) -> None:
        self.progress.seconds = time.perf_counter() - self._started

    def _samples_per_second(self) -> float:
        return self.progress.num_samples / (self.progress.seconds - self.progress.epoch_started)

    def _log_start(self) -> None:
        counts = count_parameters(self._plain_model())
        logger.info(
            "%d samples, %d steps in %d epochs on %d processes, %s precision, %.1f M trainable parameters of %.1f M",
            self.num_samples,
            self.total_steps,
            self.num_epochs,
            self.accelerator.num_processes,
            self.accelerator.mixed_precision,
            counts["trainable_parameters"] / 1e6,
            counts["parameters"] / 1e6,
        )

    def _save_model(self) -> None:
        """Write the run's folder as of the best epoch so far: complete, or as it was before."""
        if not self.accelerator.is_main_process:
            return
        model = self._plain_model()
        with replace_folder(self.config.output_dir) as folder:
            save_model(model, folder, merge_adapter=self.config.merge_adapter)
            self.processor.save_pretrained(folder)
            # the run as such: whether it replaced something, or was interrupted, is not part of it
            settings = replace(self.config, overwrite=False, resume=None)
            (folder / RUN_FILE).write_text(settings.to_yaml(), encoding="utf-8")
            made_with = environment(self.config)
            (folder / ENVIRONMENT_FILE).write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")

    def _calibrate_saved_model(self) -> Predictions:
        """Calibrate the folder just written; returns its predictions on the validation split, as `score.py`'s."""
        self.val_set.features = None  # pictures, as `score.py` reads them
        saved = self._saved_model()
        predictions = self._predict(saved)
        by_label = None
        if (
            self.config.model.head == "retrieval" and self.config.described_by == "descriptions"
        ):  # or training read them
            by_label = self._predict(saved, predict_by_label)
        self.progress.calibration = calibrate(saved, predictions, by_label)
        if self.accelerator.is_main_process:
            with atomic_write(Path(self.config.output_dir) / CONFIG_NAME) as file:
                file.write(saved.config.to_json_string())
        return predictions

    def _saved_model(self) -> RocModel:
        """The model of the folder just written, which other machines may not see."""
        if self.accelerator.is_main_process:
            saved = RocModel.from_pretrained(self.config.output_dir, dtype=torch.float32)
        elif self.config.merge_adapter:
            saved = without_adapter(self._plain_model(), merge=True)
        else:
            saved = copy.deepcopy(self._plain_model())
        saved = saved.to(self.accelerator.device)
        broadcast(saved.state_dict())
        return saved

    def _save_records(self) -> None:
        metrics = {
            "best_epoch": self.progress.best_epoch,
            "val": self.progress.best_val,
            "history": self.progress.history,
            "calibration": self.progress.calibration,
            "seconds": round(self.progress.seconds, 1),
            "peak_memory_mib": peak_memory_mib(),
            **count_parameters(self._plain_model()),
        }
        with atomic_write(Path(self.config.output_dir) / METRICS_FILE) as file:
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


def _without_details(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "per_relation"}
