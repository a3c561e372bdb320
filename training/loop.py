"""Training: the loop over epochs and steps of the run that a `RunConfig` describes, with its validation."""

from __future__ import annotations

import itertools
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from roc.evaluation.predictions import Predictions
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.samples.batching import LengthBucketBatchSampler, ProcessShares, SampleCollator
from roc.samples.reading import count_unreadable, settle_unreadable
from roc.samples.report import format_batch, report_data
from roc.samples.vision_cache import use_vision_cache
from roc.support.machine import choose_precision, set_num_threads
from roc.support.programs import shows_progress
from roc.training.building import (
    build_model,
    build_processor,
    check_encoders,
    encode_negatives,
    load_data,
    read_negatives,
)
from roc.training.checkpoints import Checkpoints, find_checkpoint
from roc.training.competitors import Competitors, find_competitors
from roc.training.learner import Learner
from roc.training.processes import disk_errors_explained, memory_errors_explained, start_accelerator
from roc.training.run_folder import (
    RESEMBLANCES_FILE,
    check_output_dir,
    count_parameters,
    draw_plots,
    own_output_dir,
    save_run,
    without_details,
    write_metrics,
)
from roc.training.settings import RunConfig
from roc.training.sources import RunData, choose_sources
from roc.training.starting import load_start
from roc.training.state import describe_run
from roc.training.tracking import check_trackers, track_epoch, track_result, track_step, tracked
from roc.training.validation import Validator

logger = logging.getLogger("roc.training.loop")


@dataclass(frozen=True)
class Parts:
    """The parts of a run that may be replaced by others, such as ones that tests watch."""

    step: Callable[[Learner, list[Any]], float] = Learner.step
    validate: Callable[[Validator, RocModel], dict[str, Any]] = Validator.score
    calibrate: Callable[[Validator, RocModel], tuple[list[Predictions], dict[str, Any]]] = Validator.calibrate
    draw: Callable[..., None] = draw_plots


def train(config: RunConfig, parts: Parts | None = None) -> dict[str, Any]:
    """Train, keep the best epoch by validation micro-F1, and write the run's folder.

    Returns:
        `{"output_dir": ..., "val": {...}}` on the main process, and nothing on the others.

    Raises:
        ValueError: If data, relations and settings do not fit together, or the output folder is not a run's.
        FloatingPointError: If the loss is not finite; the message names the step and the rows.
        MemoryError: If memory is exhausted; the message says what to lower.
        OSError: If a folder cannot be written, or the disk is too full.
        SystemExit: After SIGTERM, when a checkpoint has been written; the code is 143.
    """
    with own_output_dir(config):
        return _train(config, parts)


def _train(config: RunConfig, parts: Parts | None) -> dict[str, Any]:
    """Do what `train` does, in an output folder that no other run writes to."""
    resumed = find_checkpoint(config)
    check_output_dir(config, resumed_from=None if resumed is None else resumed.path)
    check_trackers(config)
    set_num_threads(config.num_threads)
    set_seed(config.seed)
    accelerator = start_accelerator(choose_precision(config.mixed_precision))
    check_encoders(config)
    start = load_start(config)
    sources = choose_sources(config, None if start is None else start.model)
    negatives = read_negatives(config)
    processor = build_processor(config) if start is None else start.processor
    with accelerator.local_main_process_first():  # the others find its work in the cache
        data = load_data(config, sources, processor)
    if config.start_seed is not None:
        set_seed(config.start_seed)
    model = build_model(config, processor, data.training, None if start is None else start.model)
    if config.start_seed is not None:  # from here on each run has random numbers of its own
        set_seed(config.seed)
    encoded_negatives = encode_negatives(config, processor, model, negatives)
    competitors = find_competitors(data, model, max_resemblance=config.max_resemblance)
    record = None if start is None else start.record
    described = describe_run(config, accelerator, model, data, negatives, start=record)
    if resumed is not None:
        resumed.check_same_run(described)
    if config.vision_cache is not None and not config.dry_run:  # a dry run writes nothing
        options = {"batch_size": config.eval_batch_size, "num_workers": config.num_workers}
        splits = [data.train_set, *data.val_sets]
        use_vision_cache(config.vision_cache, model, processor, splits, accelerator, **options)
    if accelerator.process_index:  # the same weights as on the others, but dropout of its own
        set_seed(config.seed, device_specific=True)
    run = TrainingRun(config, accelerator, processor, model, data, encoded_negatives, competitors, parts)
    run.start = record
    if config.dry_run:
        result = run.dry_run()
    else:
        with tracked(accelerator, config, step=0 if resumed is None else resumed.progress.step):
            result = run.run(Checkpoints(config, accelerator, described, resumed))
    accelerator.end_training()
    return result if accelerator.is_main_process else {}  # one JSON line, whatever the number of processes


class TrainingRun:
    """One run: everything that the loop needs, prepared.

    `negatives`, `(num_negatives, feature_dim)`, are the features of descriptions that hold for no pair.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        processor: RocProcessor,
        model: RocModel,
        data: RunData,
        negatives: torch.Tensor | None = None,
        competitors: Competitors | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.config, self.accelerator, self.processor, self.data = config, accelerator, processor, data
        self.competitors, self.parts = competitors, parts or Parts()
        self.validator = Validator(config, accelerator, processor, data)
        index, num_processes = accelerator.process_index, accelerator.num_processes
        self.sampler = self._new_sampler(num_processes)
        self.collator = self._new_collator()
        self.loader = DataLoader(
            data.train_set,
            batch_sampler=ProcessShares(self.sampler, process_index=index, num_processes=num_processes),
            collate_fn=self.collator,
            num_workers=config.num_workers,
            worker_init_fn=_ignore_sigterm,
            generator=torch.Generator(),  # a loader made anew in the middle of an epoch draws nothing from the run's
        )
        steps_per_epoch = -(-len(self.loader) // config.gradient_accumulation_steps)
        self.total_steps = config.max_steps or steps_per_epoch * config.num_epochs
        self.num_epochs = -(-self.total_steps // steps_per_epoch)
        total, inputs = self.total_steps, self._inputs(model, negatives)
        self.learner = Learner(config, accelerator, model, total_steps=total, inputs=inputs)
        self.progress = self.learner.progress
        self.start: dict[str, Any] | None = None  # what is recorded of the model that the run starts from
        self._started = time.perf_counter()

    def _new_sampler(self, num_processes: int) -> LengthBucketBatchSampler:
        """Make what draws the batches of all processes."""
        config, samples = self.config, self.data.train_set.samples
        return LengthBucketBatchSampler(
            [sample.approximate_length for sample in samples],
            config.batch_size * num_processes,
            seed=config.seed,
            sources=None if self.competitors is None else [sample.source for sample in samples],
            temperature=config.source_temperature,
        )

    def _new_collator(self) -> SampleCollator:
        """Make what turns samples into batches, with the relations that they are compared with."""
        config, relations = self.config, self.data.training
        return SampleCollator(
            self.processor,
            relations.names,
            type_noise=config.type_noise,
            seed=config.seed,
            competitors=None if self.competitors is None else self.competitors.table,
            none_relation=relations.none_relation,
            max_none_pairs=config.max_none_pairs,
        )

    def run(self, checkpoints: Checkpoints) -> dict[str, Any]:
        """Train all epochs that are left; return `{"output_dir": ..., "val": {...}}`."""
        progress, output_dir = self.progress, self.config.output_dir
        with checkpoints.kept(self.learner.state):
            self._started = time.perf_counter() - progress.seconds
            self._log_start()
            if self.start is not None:
                self._leave_start()
            while not self._is_over():
                self._run_epoch(len(progress.history) + 1, checkpoints.after_step)
                checkpoints.after_epoch()
        predictions, progress.calibration = self.parts.calibrate(self.validator, self.learner.plain_model)
        progress.best_val = self.validator.scores_of(predictions)
        self._note_time()
        track_result(self.accelerator, progress.best_val, step=progress.step)
        if self.accelerator.is_main_process:
            unreadable = {"train": count_unreadable(self.data.train_set), "val": count_unreadable(self.data.val_set)}
            write_metrics(output_dir, progress, self.learner.plain_model, unreadable_rows=unreadable)
            self.parts.draw(output_dir, progress, Predictions.joined(predictions), self.data.validating.names)
        checkpoints.remove()
        return {"output_dir": output_dir, "val": without_details(progress.best_val)}

    def dry_run(self) -> dict[str, Any]:
        """Report on the data, do one optimizer step and write nothing; return counts and the loss."""
        processor, data, relations = self.processor, self.data, self.data.training.names
        if self.accelerator.is_main_process:
            self._report()
        self.learner.model.train()
        batches = next(self.steps(epoch=0))
        if self.accelerator.is_main_process:
            row_ids, batch = batches[0]
            first = format_batch(row_ids, batch, data.train_set.samples, processor, relations)
            print(f"\n{first}", file=sys.stderr)
        return {
            "dry_run": True,
            "num_samples": len(data.train_set),
            "num_val_samples": len(data.val_set),
            "num_relations": len(relations),
            "total_steps": self.total_steps,
            "loss": self.parts.step(self.learner, batches),
        }

    def _report(self) -> None:
        """Print what there is to know of each source, and of the relations of different sources that are alike."""
        data = self.data
        for source, train_set, val_set in zip(data.sources, data.train_sets, data.val_sets):
            if source.name:
                print(f"\nsource {source.name}:\n", file=sys.stderr)
            known = set(source.trained_names)
            relations = [relation for relation in data.training.relations if relation["name"] in known]
            report_data(train_set, val_set, self.processor, relations)
        settle_unreadable(data.splits, self.config.unreadable_rows)
        if self.competitors is not None:
            print(f"\n{self.competitors.summary()}\n{self.competitors.to_yaml()}", file=sys.stderr)

    def _leave_start(self) -> None:
        """Log what the model scores that the run starts from, and forget the threshold that was chosen for it."""
        model = self.learner.plain_model
        if not self.progress.step:
            val = without_details(self.parts.validate(self.validator, model))
            logger.info("before the first step: %s", json.dumps({"val": val}))
        model.config.none_threshold = None

    def _run_epoch(self, epoch: int, after_step: Callable[[], None]) -> None:
        record = self.train_epoch(epoch, after_step)
        if epoch % self.config.epochs_per_validation == 0 or epoch == self.num_epochs:
            with self.learner.averaged():
                self._validate_and_save(epoch, record)
        self._note_time()
        self.progress.end_epoch(record)

    def train_epoch(self, epoch: int, after_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Do the steps that an epoch, counted from 1, has left; `after_step` follows each but the run's last.

        Returns:
            The epoch's record: step, loss, learning rate, samples per second, temperature.
        """
        self.learner.model.train()
        progress, hidden = self.progress, not shows_progress()
        advice = (
            "Add --activation_checkpointing, with which --resume auto can go on; or, in a new run, lower "
            f"--batch_size ({self.config.batch_size}) and raise --gradient_accumulation_steps, or lower --max_length "
            f"({self.config.max_length})."
        )
        bar = tqdm(total=self.total_steps, initial=progress.step, desc=f"epoch {epoch}", disable=hidden)
        for batches in self.steps(epoch):
            shapes = [tuple(batch["input_ids"].shape) for _, batch in batches]
            with memory_errors_explained(f"at step {progress.step + 1}, on samples x tokens {shapes}", advice):
                loss = self.parts.step(self.learner, batches)
            self._note_step(loss, bar)
            if progress.step >= self.total_steps:
                break
            after_step()
        bar.close()
        self.learner.gather_weights()
        return {
            "epoch": epoch,
            "step": progress.step,
            "loss": sum(progress.losses) / len(progress.losses),
            "learning_rate": self.learner.learning_rate,
            "samples_per_second": self._samples_per_second(),
            "temperature": self.learner.plain_model.temperature if self.config.model.head == "retrieval" else None,
        }

    def steps(self, epoch: int) -> Iterator[list[Any]]:
        """Give the batches of each optimizer step that an epoch has left; order and noise depend on its number.

        Yields:
            `gradient_accumulation_steps` batches, fewer at the end of the epoch. A batch is the ids of its rows and
            its tensors.
        """
        self.sampler.set_epoch(epoch)
        self.collator.set_epoch(epoch)
        # the batches of all processes, so that samples are counted and not what a processor makes of them
        self._samples_up_to = list(itertools.accumulate(map(len, self.sampler), initial=0))
        num_done = len(self.progress.losses) * self.config.gradient_accumulation_steps
        batches = []
        for row_ids, batch in skip_first_batches(self.loader, num_done) if num_done else self.loader:
            batches.append((row_ids, batch.to(self.accelerator.device)))
            if len(batches) == self.config.gradient_accumulation_steps:
                yield batches
                batches = []
        if batches:
            yield batches

    def _note_step(self, loss: float, bar: tqdm) -> None:
        progress, rate = self.progress, self.learner.learning_rate
        progress.losses.append(loss)
        num_batches = min(len(progress.losses) * self.config.gradient_accumulation_steps, len(self.sampler))
        progress.num_samples = self._samples_up_to[num_batches]
        self._note_time()
        track_step(self.accelerator, step=progress.step, loss=loss, learning_rate=rate)
        bar.set_postfix(loss=f"{loss:.3f}", lr=f"{rate:.1e}", samples_per_s=f"{self._samples_per_second():.0f}")
        bar.update()

    def _validate_and_save(self, epoch: int, record: dict[str, Any]) -> None:
        """Add the scores to the epoch's record."""
        self.learner.gather_weights()
        model, progress = self.learner.plain_model, self.progress
        val = self.parts.validate(self.validator, model)
        record["val"] = without_details(val)
        logger.info("epoch %d: %s", epoch, json.dumps(record))
        track_epoch(self.accelerator, record)
        if not progress.best_val or val["micro_f1"] > progress.best_val["micro_f1"]:
            progress.best_epoch, progress.best_val = epoch, val
            if self.accelerator.is_main_process:
                with disk_errors_explained(f"The model of epoch {epoch}"):
                    save_run(self.config, model, self.processor, start=self.start, competitors=self.competitors)

    def _is_over(self) -> bool:
        history, patience = self.progress.history, self.config.early_stopping_patience
        if len(history) == self.num_epochs:
            return True
        num_worse = len(history) - self.progress.best_epoch
        if patience is None or not history or "val" not in history[-1] or num_worse < patience:
            return False
        logger.info("no better validation micro-F1 for %d epochs: stopping", num_worse)
        return True

    def _inputs(self, model: RocModel, negatives: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return what the model gets besides each batch."""
        config, device = self.config, self.accelerator.device
        inputs = {} if negatives is None else {"negative_features": negatives.to(device)}
        if self.accelerator.is_fsdp2 and model.vision_model is not None and self.data.train_set.features is None:
            # a picture of no sample: with FSDP all processes run the vision encoder, or none does
            size = self.processor.image_processor.size
            inputs["pixel_values"] = torch.zeros(1, 3, size["height"], size["width"], device=device)
        if config.model.head == "retrieval" and config.share_description_encoder:  # read again at every step
            rows = model.texts_of_rows(self.data.training.relations)
            tokens = self.processor.tokenize_descriptions([text for part in zip(*rows) for text in part]).to(device)
            inputs |= {"relation_" + name: tensor for name, tensor in tokens.items()}
        return inputs

    def _note_time(self) -> None:
        self.progress.seconds = time.perf_counter() - self._started

    def _samples_per_second(self) -> float:
        return self.progress.num_samples / (self.progress.seconds - self.progress.epoch_started)

    def _log_start(self) -> None:
        accelerator, counts = self.accelerator, count_parameters(self.learner.plain_model)
        if self.competitors is not None:
            logger.info("%s; %s in the run's folder has all", self.competitors.summary(), RESEMBLANCES_FILE)
        logger.info(
            f"{len(self.data.train_set)} samples, {self.total_steps} steps in {self.num_epochs} epochs on "
            f"{accelerator.num_processes} processes, {accelerator.mixed_precision} precision, "
            f"{counts['trainable_parameters'] / 1e6:.1f} M trainable parameters of {counts['parameters'] / 1e6:.1f} M"
        )


def _ignore_sigterm(worker: int) -> None:
    """Keep a process that prepares batches alive when a signal to the whole group asks the main one to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
