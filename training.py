"""Training: data, model and optimizer out of a `RunConfig`, and the loop."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil, get_linear_schedule_with_warmup

from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation import predict_relations, score_predictions
from roc.files import atomic_write, replace_folder
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relation_files import RelationInventory, load_relations
from roc.resources import PACKAGE_ROOT, resolve_model
from roc.run_config import RUN_FILE, RunConfig
from roc.samples import GroupedSamples, LengthBucketBatchSampler, SampleCollator, check_relations_known

logger = logging.getLogger("roc.training")

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "safetensors", "tokenizers", "PIL")


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: Optimizer steps done.
        history: Per epoch: step, loss, learning rate, samples per second, and the validation scores.
        best_epoch: Epoch with the best validation micro-F1, counted from 1.
        best_val: Its scores.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_val: dict[str, Any] = field(default_factory=dict)

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
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=_precision(config))
    inventory = load_relations(config.relations)
    train_set, val_set = load_samples(config, inventory)
    processor = build_processor(config)
    model = build_model(config, processor, inventory)
    run = TrainingRun(config, accelerator, processor, model, inventory, train_set, val_set)
    return run.dry_run() if config.dry_run else run.run()


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
    ) -> None:
        self.config, self.accelerator, self.processor = config, accelerator, processor
        self.inventory, self.val_set = inventory, val_set
        self.sampler = LengthBucketBatchSampler(
            [sample.approximate_length for sample in train_set.samples], config.batch_size, seed=config.seed
        )
        self.num_samples = len(train_set)
        collator = SampleCollator(processor, inventory.names)
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
        self.descriptions = self._descriptions()
        self.progress = Progress()

    def run(self) -> dict[str, Any]:
        """All epochs; returns `{"output_dir": ..., "val": {...}}`."""
        started = time.perf_counter()
        self._log_start()
        for epoch in range(1, self.num_epochs + 1):
            record = self._train_epoch(epoch)
            val = self._validate()
            self.progress.history.append({**record, "val": _without_details(val)})
            logger.info("epoch %d: %s", epoch, json.dumps(self.progress.history[-1]))
            if self.progress.improves(val):
                self.progress.best_epoch, self.progress.best_val = epoch, val
                self._save_model()
            elif self._patience_is_over(epoch):
                logger.info("no better validation micro-F1 for %d epochs: stopping", epoch - self.progress.best_epoch)
                break
        self._save_records(time.perf_counter() - started)
        return {"output_dir": self.config.output_dir, "val": _without_details(self.progress.best_val)}

    def dry_run(self) -> dict[str, Any]:
        """One optimizer step and nothing written; returns counts and the loss."""
        self.model.train()
        batches = next(self._steps(epoch=0))
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
        self.sampler.set_epoch(epoch)
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
                output = self.model(**batch, **self.descriptions, num_items_in_batch=num_pairs)
                self._check_finite(output.loss, row_ids)
                # the processes' gradients are averaged, but each holds a share of one sum
                self.accelerator.backward(output.loss * self.accelerator.num_processes)
            total += output.loss.item()
        self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return total * self.accelerator.num_processes

    def _check_finite(self, loss: torch.Tensor, row_ids: list[str]) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.progress.step + 1}, on the rows {row_ids}. Nothing was saved "
                "of this step. Lower the learning rates, or look at these rows."
            )

    def _validate(self) -> dict[str, Any]:
        predictions = predict_relations(
            self._plain_model(),
            self.processor,
            self.val_set,
            batch_size=self.config.eval_batch_size,
            autocast=self.accelerator.autocast,
        )
        return score_predictions(predictions, self.inventory.none_relation)

    def _patience_is_over(self, epoch: int) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and epoch - self.progress.best_epoch >= patience

    def _descriptions(self) -> dict[str, torch.Tensor]:
        """The descriptions' tokens, where the trained text encoder reads them anew at every step."""
        if self.config.head != "retrieval" or not self.config.share_description_encoder:
            return {}
        texts = [text for relation in self.inventory.relations for text in relation["descriptions"]]
        tokens = self.processor.tokenize_descriptions(texts).to(self.accelerator.device)
        return {"relation_" + name: tensor for name, tensor in tokens.items()}

    def _plain_model(self) -> RocModel:
        return self.accelerator.unwrap_model(self.model)

    def _learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

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
        if self.descriptions:
            model.set_relations(self.inventory.relations, self.processor, none_relation=self.inventory.none_relation)
        with replace_folder(self.config.output_dir) as folder:
            model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            # the run as such: where it went and whether it replaced something is not part of it
            settings = replace(self.config, overwrite=False)
            (folder / RUN_FILE).write_text(settings.to_yaml(), encoding="utf-8")
            (folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")

    def _save_records(self, seconds: float) -> None:
        if not self.accelerator.is_main_process:
            return
        progress, folder = self.progress, Path(self.config.output_dir)
        metrics = {
            "best_epoch": progress.best_epoch,
            "val": progress.best_val,
            "history": progress.history,
            "seconds": round(seconds, 1),
        }
        with atomic_write(folder / "metrics.json") as file:
            file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        self._draw(folder)

    def _draw(self, folder: Path) -> None:
        from roc.drawing import plot_confusion_matrix, plot_training_curves
        from roc.scoring import confusion_matrix

        best = RocModel.from_pretrained(folder)
        predictions = predict_relations(
            best.to(self.accelerator.device), self.processor, self.val_set, batch_size=self.config.eval_batch_size
        )
        names = self.inventory.names
        try:
            plot_training_curves(self.progress.history, folder / "curves.png")
            matrix = confusion_matrix(predictions.predicted, predictions.expected, names)
            plot_confusion_matrix(matrix, names, folder / "confusion.png")
        except ImportError as error:
            logger.warning("no plots: %s", error)


def load_samples(config: RunConfig, inventory: RelationInventory) -> tuple[GroupedSamples, GroupedSamples]:
    """The grouped training and validation samples.

    Raises:
        ValueError: If a row's relation is not in the inventory.
    """
    splits = load_dataset_splits(
        config.dataset,
        config.data_dir,
        splits=[config.train_split, config.val_split],
        missing_images=config.missing_images,
        entity_typer=config.entity_typer,
    )
    train_rows = splits[config.train_split]
    train_set = GroupedSamples(train_rows, use_image=config.use_image)
    val_set = GroupedSamples(splits[config.val_split], use_image=config.use_image)
    for name, samples in ((config.train_split, train_set), (config.val_split, val_set)):
        check_relations_known(samples, inventory.names, f"{config.data_dir}, split {name}")
    if config.max_train_samples is not None:
        train_set.samples = train_set.samples[: config.max_train_samples]
    return train_set, val_set


def build_processor(config: RunConfig) -> RocProcessor:
    """The processor of a run, with the backbones' tokenizer and picture normalisation."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(config.text_model))
    return RocProcessor(
        _image_processor(config),
        tokenizer,
        markers=config.markers,
        max_length=config.max_length,
        max_regions=config.max_regions,
        entity_typer=config.entity_typer,
    )


def _image_processor(config: RunConfig) -> Any:
    if config.vision_model is None or not config.use_image:
        return None
    if isinstance(config.vision_model, str):
        sizes = {} if config.image_size is None else {"size": {"height": config.image_size, "width": config.image_size}}
        return AutoImageProcessor.from_pretrained(resolve_model(config.vision_model), use_fast=False, **sizes)
    size = config.image_size or config.vision_model.get("image_size", 224)
    return ViTImageProcessorPil(size={"height": size, "width": size})


def build_model(config: RunConfig, processor: RocProcessor, inventory: RelationInventory) -> RocModel:
    """The model of a run, with its relations."""
    vision = config.vision_model if config.use_image else None
    model = RocModel.from_backbones(
        resolve_model(config.text_model),
        resolve_model(vision) if isinstance(vision, str) else vision,
        vocab_size=len(processor.tokenizer),
        text_overrides=config.text_overrides,
        share_description_encoder=config.share_description_encoder,
        head=config.head,
        fusion_num_layers=config.fusion_num_layers,
        fusion_num_heads=config.fusion_num_heads,
        projection_dim=config.projection_dim,
        dropout=config.dropout,
        initial_temperature=config.initial_temperature,
        learn_temperature=config.learn_temperature,
        label_smoothing=config.label_smoothing,
        max_regions=config.max_regions,
        relations=inventory.relations,
        none_relation=inventory.none_relation,
    )
    if config.head == "retrieval":
        model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    if config.activation_checkpointing:
        model.activation_checkpointing_enable()
    return model


def parameter_groups(model: RocModel, config: RunConfig) -> list[dict[str, Any]]:
    """Optimizer groups: a learning rate per part, no weight decay on biases, norms and single vectors.

    Args:
        model: The model.
        config: Learning rates and weight decay.

    Returns:
        Groups in which every trainable parameter is exactly once.
    """
    rates = {"text_model": config.learning_rate, "vision_model": config.vision_learning_rate}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = rates.get(name.split(".")[0], config.head_learning_rate)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(trainable), "a parameter is in two groups, or in none"
    assert set(grouped) == trainable
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def check_output_dir(config: RunConfig) -> None:
    """Refuse to replace a folder that is not an earlier run's, and an earlier run's unless asked to.

    Raises:
        ValueError: If the folder must not be replaced.
        OSError: If it cannot be written.
    """
    folder = Path(config.output_dir)
    if config.dry_run:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / RUN_FILE).is_file():
            raise ValueError(
                f"output_dir={config.output_dir!r} exists and holds something else than a run. Choose another folder."
            )
        if not config.overwrite:
            raise ValueError(
                f"output_dir={config.output_dir!r} holds an earlier run. Choose another folder, or add --overwrite."
            )
    with replace_folder(folder.parent / f".{folder.name}.probe") as probe:  # fails now rather than after an epoch
        (probe / "probe").write_text("x", encoding="utf-8")
    (folder.parent / f".{folder.name}.probe" / "probe").unlink()
    (folder.parent / f".{folder.name}.probe").rmdir()


def environment() -> dict[str, Any]:
    """The commit and the versions that a run was made with."""
    from importlib.metadata import version

    git = ["git", "-C", str(PACKAGE_ROOT)]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        commit += "-dirty" if changed.strip() else ""
        return {"commit": commit, **_versions(version)}
    return {"commit": None, **_versions(version)}


def _versions(version: Any) -> dict[str, str]:
    names = {"PIL": "pillow"}
    return {"python": sys.version.split()[0]} | {library: version(names.get(library, library)) for library in LIBRARIES}


def _precision(config: RunConfig) -> str:
    """`bf16` where the hardware multiplies it natively, unless the settings say otherwise."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def _quiet() -> bool:
    """Whether to leave out progress bars: where nobody watches, or on all processes but one."""
    return not sys.stderr.isatty() or int(os.environ.get("LOCAL_RANK", "0")) != 0


def _without_details(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "per_relation"}
