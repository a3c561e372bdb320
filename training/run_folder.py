"""The folder that a run writes: whether it may, and the model, settings, scores, costs and plots in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers.utils import CONFIG_NAME

from roc.evaluation.plots import plot_confusion_matrix, plot_reliability, plot_training_curves
from roc.evaluation.predictions import Predictions
from roc.evaluation.scoring import confusion_matrix
from roc.modeling_backbones_roc import PACKAGED_MODELS
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.support.files import atomic_write, swap_folder
from roc.support.locks import sole_writer
from roc.support.programs import is_main_process
from roc.support.resources import PACKAGE_ROOT
from roc.training.adapters import save_model
from roc.training.checkpoints import checkpoint_folder, list_checkpoints
from roc.training.competitors import Competitors
from roc.training.settings import ENVIRONMENT_FILE, METRICS_FILE, RUN_FILE, RunConfig
from roc.training.starting import RECORD
from roc.training.state import Progress

RESEMBLANCES_FILE = "resemblances.yaml"  # in the folder of a run of several sources
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "safetensors", "tokenizers", "pillow")

logger = logging.getLogger("roc.training.run_folder")


@contextlib.contextmanager
def own_output_dir(config: RunConfig) -> Iterator[None]:
    """Keep other runs out of the run's folder; of several processes the main one does.

    Raises:
        BlockingIOError: If a run is going on there.
        OSError: If it cannot be written.
    """
    if config.dry_run or not is_main_process():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole_writer(config.output_dir))
        except BlockingIOError as error:
            raise BlockingIOError(f"output_dir={config.output_dir!r}: a run is going on there. {error}") from error
        except OSError as error:
            raise _not_writable(config, error) from error
        yield


def _not_writable(config: RunConfig, error: OSError) -> OSError:
    return OSError(f"output_dir={config.output_dir!r} cannot be written ({error}). Choose another one.")


def check_output_dir(config: RunConfig, *, resumed_from: Path | None = None) -> None:
    """Refuse to replace a folder that is not an earlier run's, and an earlier run's unless asked to.

    A run that goes on from a checkpoint, `resumed_from`, may replace its own folder.

    Raises:
        ValueError: If the folder must not be replaced.
        OSError: If it cannot be written.
    """
    if config.dry_run:
        return
    folder, checkpoints = Path(config.output_dir), checkpoint_folder(config)
    is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken and not (folder / RUN_FILE).is_file():
        raise ValueError(
            f"output_dir={config.output_dir!r} exists and holds something else than a run. Choose another folder."
        )
    goes_on = resumed_from is not None and resumed_from.parent == checkpoints
    # killed after it saved its first model and before its first checkpoint
    starts_again = config.resume == "auto" and not (folder / METRICS_FILE).is_file()
    if not (config.overwrite or goes_on or starts_again):
        if list_checkpoints(checkpoints):
            raise ValueError(
                f"{checkpoints} holds the checkpoints of a run that has not ended. Add --resume auto to go on with it, "
                "or --overwrite to start afresh, or choose another output_dir."
            )
        if is_taken:
            raise ValueError(
                f"output_dir={config.output_dir!r} holds an earlier run. Choose another folder, or add --overwrite."
            )
    try:  # fails now rather than after an epoch
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as probe:
            (Path(probe) / "probe").write_text("x", encoding="utf-8")
    except OSError as error:
        raise _not_writable(config, error) from error


def environment(config: RunConfig, start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a run is made with: its commit (None outside a checkout), versions, and `base_revisions`.

    The latter are of `text_model` and `vision_model`: a commit of the Hub, the version of a package, or None where an
    encoder comes from a folder, starts at random or is not there. `start` is what is recorded of the model that the
    run starts from, under `start_from`; the encoders' revisions are then those that are recorded there.
    """
    versions = {library: version(library) for library in LIBRARIES}
    revisions = {name: _revision_of(getattr(config, name)) for name in ("text_model", "vision_model")}
    if start is not None:
        revisions = {name: start["base_revisions"].get(name) for name in revisions}
    found = {"commit": _commit(), "base_revisions": revisions, "python": sys.version.split()[0], **versions}
    return found if start is None else found | {RECORD: dict(start)}


def _revision_of(encoder: str | dict[str, Any] | None) -> str | None:
    if encoder is None or isinstance(encoder, dict):
        return None
    if encoder in PACKAGED_MODELS:
        return version(encoder)
    if Path(encoder).is_dir():
        return None
    file = try_to_load_from_cache(encoder, CONFIG_NAME)  # .../snapshots/COMMIT/config.json
    return Path(file).parent.name if isinstance(file, str) else None


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    return None


def save_run(
    config: RunConfig,
    model: RocModel,
    processor: RocProcessor,
    *,
    start: Mapping[str, Any] | None = None,
    competitors: Competitors | None = None,
) -> None:
    """Write the run's folder as of the best epoch so far: all of it, or nothing.

    `environment` describes `start`; `competitors` are those of a run of several sources.
    """
    with swap_folder(config.output_dir) as folder:
        save_model(model, folder, merge_adapter=config.merge_adapter)
        processor.save_pretrained(folder)
        # the run as such: whether it replaced something, or was interrupted, is not part of it
        settings = dataclasses.replace(config, overwrite=False, resume=None)
        (folder / RUN_FILE).write_text(settings.to_yaml(), encoding="utf-8")
        if competitors is not None:
            (folder / RESEMBLANCES_FILE).write_text(competitors.to_yaml(), encoding="utf-8")
        (folder / ENVIRONMENT_FILE).write_text(
            json.dumps(environment(config, start), indent=2) + "\n", encoding="utf-8"
        )


def write_metrics(
    folder: str, progress: Progress, model: RocModel, *, unreadable_rows: dict[str, dict[str, int]]
) -> None:
    """Write the scores, the history and the costs of a run that has ended, and the rows that it left out by reason."""
    metrics = {
        "best_epoch": progress.best_epoch,
        "val": progress.best_val,
        "history": progress.history,
        "calibration": progress.calibration,
        "unreadable_rows": unreadable_rows,
        "seconds": round(progress.seconds, 1),
        "peak_memory_mib": peak_memory_mib(),
        **count_parameters(model),
    }
    with atomic_write(Path(folder) / METRICS_FILE) as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")


def draw_plots(folder: str, progress: Progress, predictions: Predictions, relations: Sequence[str]) -> None:
    """Draw the curves of training, and confusions and reliability on the validation split; warn without matplotlib."""
    try:
        plot_training_curves(progress.history, Path(folder) / "curves.png")
        matrix = confusion_matrix(predictions.predicted, predictions.expected, relations)
        plot_confusion_matrix(matrix, relations, Path(folder) / "confusion.png")
        plot_reliability(progress.calibration["reliability"], Path(folder) / "calibration.png")
    except ImportError as error:
        logger.warning("no plots: %s", error)


def without_details(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the scores of each relation."""
    return {name: value for name, value in scores.items() if name != "per_relation"}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the `trainable_parameters`, and the `parameters` in all."""
    own = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
    return {"trainable_parameters": trainable, "parameters": sum(parameter.numel() for parameter in own)}


def peak_memory_mib() -> int | None:
    """Return the most memory that this process has held so far, in MiB.

    It is the accelerator's where there is one that counts, else RAM (resident); None on Windows, which does not tell.
    """
    accelerator = torch.get_device_module()  # the CPU's where there is no other
    if hasattr(accelerator, "max_memory_allocated") and accelerator.is_initialized():
        return round(accelerator.max_memory_allocated() / 2**20)
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
