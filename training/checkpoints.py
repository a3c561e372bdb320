"""Checkpoints on disk: a run that was killed goes on from the last one, as if nothing had happened.

A checkpoint is a folder in `OUTPUT_DIR.checkpoints`, beside the run's folder, which is replaced as a whole whenever an
epoch is better than all before. It holds:

- `run.json`: which run it is of, and how far that was.
- `model.safetensors`: the weights that training changes.
- `state.pt`: optimizer, scheduler, weight average, random states; read with `weights_only=True`.
- `best/`: the run's folder as of the best epoch so far. Its files are hard links where the file system has them, and
  take no space.
- `checksums.json`: CRC-32 of all these files.

It is written under a temporary name and renamed when all of it has reached the disk, so what has a checkpoint's name is
whole, unless it was damaged later. When the run has ended well, its checkpoints are removed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from roc.messages_roc import on_one_line, quote, read_settings, shorten
from roc.support.files import (
    flush_to_disk,
    load_plain_pickle,
    remove_folder,
    remove_leftovers,
    swap_folder,
)
from roc.training.processes import disk_errors_explained
from roc.training.settings import RUN_FILE, RunConfig
from roc.training.state import Progress, RunState, differences

STATE_KEYS = {"optimizer", "scheduler", "average", "random"}  # what `RunState.save` gives besides the weights
FORMAT = 3  # since relations are compared as Python writes them
RUN, WEIGHTS, STATE, BEST, CHECKSUMS = "run.json", "model.safetensors", "state.pt", "best", "checksums.json"

logger = logging.getLogger("roc.training.checkpoints")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole: its folder, the description of its run, and how far that was."""

    path: Path
    run: dict[str, Any]
    progress: Progress

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Check all files and read what is small; raise a ValueError where it is damaged or of another format."""
        try:
            _check_files(path)
            content = read_settings(str(path / RUN))
            if content["format"] != FORMAT:
                raise ValueError(
                    f"it has format {quote(content['format'])}; this version of ROC reads {FORMAT}. Go on "
                    "with the version that wrote it"
                )
            found = cls(path, _checked_run(content["run"]), Progress.from_record(content["progress"]))
            if found.progress.best_epoch and not (path / BEST).is_dir():
                raise ValueError(f"the best epoch's {BEST}/ is missing")
            with safe_open(path / WEIGHTS, framework="pt"):
                found.read_state(mmap=True)  # mapped, not read: whether it is one
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise ValueError(f"{path} is no whole checkpoint: {_reason(error)}.") from error
        return found

    def read_state(self, *, mmap: bool = False) -> dict[str, Any]:
        """Read `state.pt`: numbers, texts and tensors, never code.

        Raises:
            ValueError: If it holds anything else, or is no such file.
        """
        state = load_plain_pickle(self.path / STATE, mmap=mmap)
        if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
            raise ValueError(f"{STATE} lacks some of {sorted(STATE_KEYS)}")
        return state

    def check_same_run(self, run: dict[str, Any]) -> None:
        """Raise a ValueError that names every setting that differs, and data or frozen weights that do."""
        if different := differences(self.run, run):
            raise ValueError(
                f"{self.path} is of another run: {'; '.join(different)}. Go on with the settings and the data that it "
                "was made with, or start afresh: with another output_dir, or with --overwrite and without --resume."
            )


def checkpoint_folder(config: RunConfig) -> Path:
    """Return where a run's checkpoints lie: beside its folder."""
    output_dir = Path(config.output_dir).resolve()
    return output_dir.with_name(output_dir.name + ".checkpoints")


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, whole or damaged, the oldest first."""
    return sorted(folder.glob("epoch-*"))


def find_checkpoint(config: RunConfig) -> Checkpoint | None:
    """Return the checkpoint that the settings ask to go on from, or None to start afresh.

    Raises:
        ValueError: If the one that they name is not whole, or several are there and none is.
    """
    if config.resume is None:
        return None
    if config.resume != "auto":
        return Checkpoint.read(_named_checkpoint(config.resume))
    paths = list_checkpoints(checkpoint_folder(config))
    for path in reversed(paths):
        try:
            return Checkpoint.read(path)
        except ValueError as error:
            logger.warning("%s It is skipped for the one before.", error)
    if paths:
        raise ValueError(f"Of the checkpoints in {paths[0].parent} none is whole. Remove the folder to start afresh.")
    return None


def _named_checkpoint(name: str) -> Path:
    """Return the folder of a checkpoint that was named; raise a FileNotFoundError where there is none."""
    path = Path(name).resolve()
    if (path / CHECKSUMS).is_file() or (path / RUN).is_file():
        return path
    if (path / RUN_FILE).is_file():
        raise FileNotFoundError(
            f"resume={name!r} is the folder of a run, not one of its checkpoints. Give 'auto', which takes the last "
            f"one of {path.name}.checkpoints; to train the model further on other data, give --start_from {name}."
        )
    inside = list_checkpoints(path)
    hint = f"Give one of those in it, such as {inside[-1]}" if inside else "Give the folder of one"
    raise FileNotFoundError(f"resume={name!r} is no checkpoint. {hint}, or 'auto' for the last one of the run.")


class Checkpoints:
    """The checkpoints that a run writes. All processes call its methods; the main one writes.

    Args:
        run: The description of the run, by `roc.training.state.describe_run`.
        resumed: The checkpoint that the run goes on from, if it does.
    """

    def __init__(
        self, config: RunConfig, accelerator: Accelerator, run: dict[str, Any], resumed: Checkpoint | None = None
    ) -> None:
        self.folder = checkpoint_folder(config)
        self._output_dir = Path(config.output_dir).resolve()
        self._num_kept, self._every = config.keep_checkpoints, config.checkpoint_steps
        self._accelerator, self._run, self._resumed = accelerator, run, resumed
        self._has_sigterm = False
        self._own: list[Path] = []  # those of this run, the oldest first; others are removed when one has been written

    @contextmanager
    def kept(self, state: RunState) -> Iterator[None]:
        """Put the run where its checkpoint was; in the block, SIGTERM waits for `after_step` or `after_epoch`.

        Raises:
            OSError: If there is too little space on the disk.
            ValueError: If the processes found different checkpoints.
        """
        self._state = state
        found = set(gather_object([None if self._resumed is None else self._resumed.path.name]))
        if len(found) > 1:
            raise ValueError(f"The processes found different checkpoints in {self.folder}. Name a folder they share.")
        if self._accelerator.is_main_process:
            for folder in (self._output_dir, self.folder):
                remove_leftovers(folder.parent, folder.name)
            remove_leftovers(self.folder)
            self._check_space()
        if self._resumed is not None:
            self._restore(self._resumed)
        handles_signals = threading.current_thread() is threading.main_thread()  # others cannot
        before = signal.signal(signal.SIGTERM, self._note_sigterm) if handles_signals else None
        try:
            yield
        finally:
            if handles_signals:
                signal.signal(signal.SIGTERM, before)

    def after_step(self) -> None:
        """Write a checkpoint where it is time to, and after SIGTERM, when the run ends (SystemExit)."""
        if self._is_asked_to_stop():
            self.after_epoch()  # writes one and ends the run
        elif self._every is not None and self._state.progress.step % self._every == 0:
            self._save()

    def after_epoch(self) -> None:
        """Write a checkpoint, and end the run (SystemExit) after SIGTERM."""
        self._save()
        if self._is_asked_to_stop():
            step = self._state.progress.step
            logger.warning("SIGTERM: stopped after step %d. Go on with the same command and --resume auto.", step)
            raise SystemExit(128 + signal.SIGTERM)  # as shells report it

    def remove(self) -> None:
        """Remove all checkpoints, when the run has ended well."""
        if self._accelerator.is_main_process and self.folder.is_dir():
            remove_folder(self.folder)

    def _note_sigterm(self, *received: Any) -> None:
        self._has_sigterm = True

    def _is_asked_to_stop(self) -> bool:
        """Whether any process has received SIGTERM; all call this together."""
        received = torch.tensor(int(self._has_sigterm), device=self._accelerator.device)
        return bool(self._accelerator.reduce(received, "sum"))

    def _save(self) -> None:
        weights, others = self._state.save()
        if self._accelerator.is_main_process:
            progress = self._state.progress
            path = self.folder / f"epoch-{len(progress.history):06d}-step-{progress.step:09d}"
            with disk_errors_explained(f"The checkpoint {path.name}"):
                self._write(path, weights, others)
            self._own = [*(own for own in self._own if own != path), path][-self._num_kept :]
            for other in list_checkpoints(self.folder):
                if other not in self._own:
                    remove_folder(other)
        self._accelerator.wait_for_everyone()

    def _write(self, path: Path, weights: dict[str, Tensor], others: dict[str, Any]) -> None:
        progress = self._state.progress
        with swap_folder(path) as folder:
            if progress.best_epoch:
                shutil.copytree(self._output_dir, folder / BEST, copy_function=_link)
            content = {"format": FORMAT, "run": self._run, "progress": dataclasses.asdict(progress)}
            (folder / RUN).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
            _save_state(others, folder / STATE)
            names = [entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file()]
            checksums = {name: _checksum(folder / name) for name in sorted(names)}
            (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
            flush_to_disk(folder)
        flush_to_disk(path.parent)

    def _restore(self, checkpoint: Checkpoint) -> None:
        others = checkpoint.read_state()
        try:
            self._state.load(load_file(checkpoint.path / WEIGHTS), others, checkpoint.progress)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{checkpoint.path} holds other weights or states than this run's ({_reason(error)}). Remove it to go "
                "on from the one before, or start afresh with --overwrite and without --resume."
            ) from error
        if self._accelerator.is_main_process:
            self._own = [path for path in list_checkpoints(self.folder) if path <= checkpoint.path]
            if checkpoint.progress.best_epoch:
                with swap_folder(self._output_dir) as folder:
                    shutil.copytree(checkpoint.path / BEST, folder, copy_function=_link, dirs_exist_ok=True)
        logger.info("going on from %s: %d steps done", checkpoint.path, checkpoint.progress.step)

    def _check_space(self) -> None:
        """Raise an OSError where checkpoints, each with a best epoch of its own, and the next best model do not fit."""
        model = sum(tensor.nbytes for tensor in self._state.model.state_dict().values())
        needed = (self._num_kept + 1) * (self._state.num_bytes() + model) + model
        replaced = sum(_bytes_on_disk(folder) for folder in (self.folder, self._output_dir))
        free = shutil.disk_usage(self._output_dir.parent).free + replaced
        if needed > free:
            wanted, there = (f"{tqdm.format_sizeof(number)}B" for number in (needed, free))
            raise OSError(
                f"The model and {self._num_kept} checkpoints take up to {wanted}, and there are {there} in "
                f"{self._output_dir.parent}. Free some, choose another output_dir, or lower "
                f"--keep_checkpoints ({self._num_kept})."
            )


def _check_files(path: Path) -> None:
    """Raise a ValueError unless all files of a checkpoint are there, as they were written."""
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file() and not file.is_symlink()}
    if CHECKSUMS not in there:  # or no file that ends
        raise ValueError(f"{CHECKSUMS} is missing")
    checksums = read_settings(str(path / CHECKSUMS))
    if missing := sorted(({RUN, WEIGHTS, STATE} | checksums.keys()) - (there & checksums.keys())):
        raise ValueError(f"{shorten(str(missing), 200)} are missing, there or in {CHECKSUMS}")
    if damaged := sorted(name for name, checksum in checksums.items() if _checksum(path / name) != checksum):
        raise ValueError(f"it is damaged: {shorten(str(damaged), 200)} are not as they were written")


def _checked_run(run: Any) -> dict[str, Any]:
    """Return the description of a run, if it has the form of one."""
    parts = [run[part] for part in ("settings", "contents")]
    if not all(isinstance(part, dict) for part in parts):
        raise TypeError(f"{RUN} does not say which run it is of")
    return run


def _reason(error: Exception) -> str:
    """Return in one line what an error says, without a full stop."""
    missing = f"{error} is missing" if isinstance(error, LookupError) else str(error)
    return on_one_line(missing, 300).rstrip(".")


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _save_state(content: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what it makes of an error in writing
            raise OSError(error.__context__ or error) from error


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _bytes_on_disk(folder: Path) -> int:
    """Return the size of a folder's files; one with several names counts once, in equal parts."""
    found = (entry.stat() for entry in folder.rglob("*") if entry.is_file())
    return sum(stat.st_size // stat.st_nlink for stat in found)
