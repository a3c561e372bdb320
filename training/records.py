"""The folder that a run leaves: the model with its processor, the settings, the scores and the plots."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from roc.evaluation.plots import plot_confusion_matrix, plot_reliability, plot_training_curves
from roc.evaluation.predictions import Predictions
from roc.evaluation.scoring import confusion_matrix
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.support.files import atomic_write, replace_folder
from roc.training.adapters import save_model
from roc.training.costs import count_parameters, peak_memory_mib
from roc.training.run_folder import environment
from roc.training.settings import ENVIRONMENT_FILE, METRICS_FILE, RUN_FILE, RunConfig
from roc.training.state import Progress

logger = logging.getLogger("roc.training.records")


def save_run(config: RunConfig, model: RocModel, processor: RocProcessor) -> None:
    """Write the run's folder as of the best epoch so far: all of it, or nothing.

    Args:
        config: The settings.
        model: The model of that epoch.
        processor: Its processor.
    """
    with replace_folder(config.output_dir) as folder:
        save_model(model, folder, merge_adapter=config.merge_adapter)
        processor.save_pretrained(folder)
        # the run as such: whether it replaced something, or was interrupted, is not part of it
        settings = replace(config, overwrite=False, resume=None)
        (folder / RUN_FILE).write_text(settings.to_yaml(), encoding="utf-8")
        (folder / ENVIRONMENT_FILE).write_text(json.dumps(environment(config), indent=2) + "\n", encoding="utf-8")


def write_metrics(folder: str, progress: Progress, model: RocModel) -> None:
    """Write the scores, the history and the costs of a run that has ended.

    Args:
        folder: The run's folder.
        progress: The run at its end.
        model: The model that was trained.
    """
    metrics = {
        "best_epoch": progress.best_epoch,
        "val": progress.best_val,
        "history": progress.history,
        "calibration": progress.calibration,
        "seconds": round(progress.seconds, 1),
        "peak_memory_mib": peak_memory_mib(),
        **count_parameters(model),
    }
    with atomic_write(Path(folder) / METRICS_FILE) as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")


def draw_plots(folder: str, progress: Progress, predictions: Predictions, relations: Sequence[str]) -> None:
    """Draw the curves of training, the confusion matrix and the reliability; without matplotlib, only warn.

    Args:
        folder: The run's folder.
        progress: The run at its end.
        predictions: Those of the saved model on the validation split.
        relations: Names of the relations, in the order of rows and columns.
    """
    files = Path(folder)
    try:
        plot_training_curves(progress.history, files / "curves.png")
        matrix = confusion_matrix(predictions.predicted, predictions.expected, relations)
        plot_confusion_matrix(matrix, relations, files / "confusion.png")
        plot_reliability(progress.calibration["reliability"], files / "calibration.png")
    except ImportError as error:
        logger.warning("no plots: %s", error)


def without_details(scores: dict[str, Any]) -> dict[str, Any]:
    """Leave out the scores of each relation."""
    return {name: value for name, value in scores.items() if name != "per_relation"}
