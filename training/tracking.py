"""What a run tells TensorBoard and trackio, through accelerate's trackers: on this machine only, without an account."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, TrackioTracker
from huggingface_hub import constants

from roc.training.run_folder import without_details
from roc.training.settings import RunConfig, settings_by_name

PROJECT = "roc"


def check_trackers(config: RunConfig) -> None:
    """Find out before the first step whether the trackers can be used.

    Raises:
        ImportError: If one is not installed.
        ValueError: If the environment would have trackio send the run elsewhere.
    """
    trackers = config.trackers or ()
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"trackers: {name} is not installed. Type `pip install 'roc[trackers]'`, or leave it out."
            )
    for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if "trackio" in trackers else ():
        if os.environ.get(variable):
            raise ValueError(
                f"The environment variable {variable} is set, with which trackio would send the run away. ROC keeps "
                "runs on this machine: unset it, and sync the finished run with `trackio sync` if you want to."
            )


@contextlib.contextmanager
def tracked(accelerator: Accelerator, config: RunConfig, *, step: int = 0) -> Iterator[None]:
    """Have the trackers of the settings get what `accelerator.log` is told in the block, on the main process.

    TensorBoard's files are in `tracking_dir/tensorboard`, trackio's in `tracking_dir/trackio` or where the environment
    variable `TRACKIO_DIR` says. A run is called like its output folder. After `step` 0 its record begins anew, after
    later ones it goes on.
    """
    if config.trackers and accelerator.is_main_process:
        known: dict[str, Any] = {"tensorboard": _TensorBoard, "trackio": _Trackio}
        accelerator.log_with = [known[name](config, step) for name in config.trackers]
        accelerator.init_trackers(PROJECT)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # not `end_training`, which also ends the group of processes
            tracker.finish()
        accelerator.trackers = []


def track_step(accelerator: Accelerator, *, step: int, loss: float, learning_rate: float) -> None:
    """Add an optimizer step, counted from 1, to the curves of training."""
    accelerator.log({"train/loss": loss, "train/learning_rate": learning_rate}, step=step)


def track_epoch(accelerator: Accelerator, record: Mapping[str, Any]) -> None:
    """Add the record of a validated epoch to the curves of validation."""
    scores = {f"val/{name}": score for name, score in _flat(record["val"]).items()}
    accelerator.log({**scores, "train/samples_per_second": record["samples_per_second"]}, step=record["step"])


def track_result(accelerator: Accelerator, scores: Mapping[str, Any], *, step: int) -> None:
    """Add the final table: the scores of the saved model, altogether and per relation."""
    for tracker in accelerator.trackers:
        final = {f"final/{name}": score for name, score in _flat(without_details(scores)).items()}
        rows = [{"relation": name, **values} for name, values in scores["per_relation"].items()]
        tracker.log_table(final, rows, step)


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Give the scores of each source names like the others': `SOURCE/micro_f1`."""
    by_source = scores.get("sources", {})
    flat = {f"{source}/{name}": score for source, own in by_source.items() for name, score in own.items()}
    return {name: score for name, score in scores.items() if name != "sources"} | flat


class _TensorBoard(TensorBoardTracker):
    """accelerate's tracker, with the settings as text, and as what TensorBoard compares runs by."""

    def __init__(self, config: RunConfig, step: int) -> None:
        super().__init__(_run_name(config), Path(config.tracking_dir) / "tensorboard", purge_step=step + 1)
        self._config, self._is_new = config, step == 0

    def start(self) -> None:
        if self._is_new:  # the curves of the run that it replaces would be drawn into its own
            for file in (Path(self.logging_dir_param) / self.run_name).glob("events.out.tfevents.*"):
                file.unlink()
        super().start()
        self.log({"config": textwrap.indent(self._config.to_yaml(), "    ")})  # indented: a block of code in Markdown

    def log_table(self, final: dict[str, float], rows: list[dict[str, Any]], step: int) -> None:
        settings = settings_by_name(dataclasses.asdict(self._config)).items()
        plain = {name: value if isinstance(value, (int, float, str)) else json.dumps(value) for name, value in settings}
        # run_name="." keeps it from making a run of its own, named by the time
        self.writer.add_hparams(plain, final, run_name=".", global_step=step)
        self.log({"final/per_relation": _markdown(rows)}, step=step)


class _Trackio(TrackioTracker):
    """accelerate's tracker, kept from writing to stdout, asking the Hub, and running on every process."""

    main_process_only = True

    def __init__(self, config: RunConfig, step: int) -> None:
        # read when trackio is imported
        os.environ.setdefault("TRACKIO_DIR", str(Path(config.tracking_dir).resolve() / "trackio"))
        super().__init__(
            PROJECT,
            name=_run_name(config),
            config=settings_by_name(dataclasses.asdict(config)),
            resume="allow" if step else "never",
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def start(self) -> None:
        with _quiet_and_offline():
            super().start()

    def log_table(self, final: dict[str, float], rows: list[dict[str, Any]], step: int) -> None:
        import trackio

        table = trackio.Table(columns=[*rows[0]], data=[[*row.values()] for row in rows])
        self.log({**final, "final/per_relation": table}, step=step)

    def finish(self) -> None:
        import trackio

        with _quiet_and_offline():
            trackio.finish()  # unlike the run's own, it is not repeated, with a line on stdout, when Python ends


@contextlib.contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Keep stdout for a program's result, and trackio from asking the Hub for the name of a user who has logged in."""
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _run_name(config: RunConfig) -> str:
    """Return the output folder, relative to the working folder where it lies there: no two runs share a name."""
    folder = Path(config.output_dir).resolve()
    base = Path.cwd() if folder.is_relative_to(Path.cwd()) else Path(folder.anchor)
    return folder.relative_to(base).as_posix()


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    for row in rows:
        lines.append(" | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    return "\n".join(lines)
