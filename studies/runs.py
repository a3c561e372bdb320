"""Runs of a study: started as users start them, several beside each other, and never twice."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from roc.studies.plan import TRAINED, WITHOUT_EFFECT, Study, StudyRun, effective_settings
from roc.support.files import atomic_write
from roc.support.machine import available_cores
from roc.support.resources import PACKAGE_ROOT
from roc.training.settings import DEFAULTS, ENVIRONMENT_FILE, METRICS_FILE, load_run_config

LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1")
TRAIN = (*LAUNCH, "--mixed_precision", "no", "--dynamo_backend", "no", str(PACKAGE_ROOT / "train.py"))
SCORE = (sys.executable, str(PACKAGE_ROOT / "score.py"))
RECORD = "study_run.json"  # in a run's folder once it has ended well: the settings that it ended with
SCORINGS = "study_scorings.json"  # likewise, what `score.py` said afterwards


class RunFailed(Exception):
    """A run did not end well; the message says why."""


@dataclass(frozen=True)
class RunResult:
    """What is known about one run.

    Args:
        run: The run.
        metrics: What `train.py` recorded of it in `metrics.json`; None if it has not finished.
        scores: Per scoring, `roc.studies.plan.TRAINED` first, what `score.py` says; empty if it has not finished.
        commit: The commit of the code that trained it, as `environment.json` has it.
        failure: Why it did not end well just now; None if it did, or was not tried.
    """

    run: StudyRun
    metrics: dict[str, Any] | None = None
    scores: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    commit: str | None = None
    failure: str | None = None


def is_finished(run: StudyRun, scorings: Mapping[str, Sequence[str]]) -> bool:
    """Whether the run has ended well with these very settings, and every scoring of it too."""
    return _is_trained(run) and not _open_scorings(run, scorings)


def changed_settings(run: StudyRun) -> list[str]:
    """In what a finished run in this run's folder differs from it, as "field (value there)"; empty if in nothing."""
    record = run.folder / RECORD
    if not record.is_file():
        return []
    own = effective_settings(run.config)
    # a field that came to ROC after the run had its default
    there = {**DEFAULTS, **json.loads(record.read_text(encoding="utf-8"))}
    names = [name for name in {**own, **there} if name not in WITHOUT_EFFECT]
    return [f"{name} ({there.get(name)!r})" for name in names if own.get(name) != there.get(name)]


def read_result(run: StudyRun, scorings: Mapping[str, Sequence[str]]) -> RunResult:
    """What a run's folder says, if it has finished."""
    if not is_finished(run, scorings):
        return RunResult(run)
    metrics = _read_json(run.folder / METRICS_FILE)
    own = _read_json(run.folder / SCORINGS) if scorings else {}
    scores = {TRAINED: metrics["val"], **{name: own[name]["scores"] for name in scorings}}
    return RunResult(run, metrics, scores, commit=_read_json(run.folder / ENVIRONMENT_FILE)["commit"])


class StudyRunner:
    """Runs what is missing of a study.

    Every command has a log, a process group and a lock of its own: an interrupted study stops all that it started, and
    where it could not (it was killed itself) the run that goes on holds the lock of its log, so that no second one
    writes into its folder.

    Args:
        study: The study.
        jobs: Runs beside each other; where the settings give no `num_threads`, they share the processor's cores.
        resume: Whether a run that was begun with the same settings goes on from its last checkpoint.
    """

    def __init__(self, study: Study, *, jobs: int = 1, resume: bool = True) -> None:
        self._study, self._jobs, self._resume = study, jobs, resume
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, runs: Sequence[StudyRun]) -> Iterator[RunResult]:
        """Run them in this order, and give what came of each as soon as it ends."""
        pool = ThreadPoolExecutor(self._jobs)
        try:
            for future in as_completed([pool.submit(self._run, run) for run in runs]):
                yield future.result()
        finally:
            self._stop()
            pool.shutdown(cancel_futures=True)

    def _run(self, run: StudyRun) -> RunResult:
        try:
            with _locked_log(run) as log:
                if not _is_trained(run):
                    self._train(run, log)
                for name in _open_scorings(run, self._study.scorings):
                    self._score(run, name, log)
        except RunFailed as error:
            return RunResult(run, failure=str(error))
        return read_result(run, self._study.scorings)

    def _train(self, run: StudyRun, log: IO[str]) -> None:
        log.truncate(0)
        settings = effective_settings(run.config)  # now: a relation file may be edited while the run goes on
        # what an earlier run left is replaced: it was not finished, or the caller has agreed
        goes_on = self._resume and _was_begun(run, settings)
        config = dataclasses.replace(run.config, overwrite=True, resume="auto" if goes_on else None)
        if config.num_threads is None and self._jobs > 1:
            config = dataclasses.replace(config, num_threads=max(1, available_cores() // self._jobs))
        with atomic_write(settings_file(run)) as file:
            file.write(config.to_yaml())
        self._call(train_command(run), log)
        with atomic_write(run.folder / RECORD) as file:
            file.write(json.dumps(settings, ensure_ascii=False) + "\n")

    def _score(self, run: StudyRun, name: str, log: IO[str]) -> None:
        told = self._call(score_command(run, self._study.scorings[name]), log)
        file = run.folder / SCORINGS
        known = _read_json(file) if file.is_file() else {}
        known[name] = {"arguments": self._study.scorings[name], "scores": json.loads(told)}
        with atomic_write(file) as opened:
            opened.write(json.dumps(known, ensure_ascii=False) + "\n")

    def _call(self, command: Sequence[str], log: IO[str]) -> str:
        """Run a command to its end; returns what it wrote to stdout."""
        start = Path(log.name).stat().st_size
        with self._lock:
            if self._stopped:
                raise RunFailed("the study was stopped")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
            self._running.add(process)
        told, _ = process.communicate()
        with self._lock:
            self._running.remove(process)
        if process.returncode:
            written = Path(log.name).read_bytes()[start:].decode(errors="replace")
            raise RunFailed(failure_reason(written, process.returncode))
        return told

    def _stop(self) -> None:
        """Stop what still runs, children of the commands included."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with suppress(ProcessLookupError):  # it has just ended
                    os.killpg(process.pid, signal.SIGTERM)


def train_command(run: StudyRun) -> list[str]:
    """What trains the run, once its settings are written."""
    return [*TRAIN, str(settings_file(run))]


def score_command(run: StudyRun, arguments: Sequence[str]) -> list[str]:
    """What scores the run's model with further arguments."""
    data = ["--dataset", run.config.dataset, "--data_dir", run.config.data_dir, "--split", run.config.val_split]
    own = [argument.replace("{seed}", str(run.seed)) for argument in arguments]
    return [*SCORE, "--model", str(run.folder), *data, *own]


def settings_file(run: StudyRun) -> Path:
    """The file with the run's settings."""
    return run.folder.with_name(run.folder.name + ".yaml")


def log_file(run: StudyRun) -> Path:
    """The file with what the run's commands wrote to stderr."""
    return run.folder.with_name(run.folder.name + ".log")


def failure_reason(log: str, code: int) -> str:
    """Why a command failed, on one line: what killed it, its own "error:" line, or the last line of its traceback.

    Args:
        log: What it wrote to stderr.
        code: Its exit code, negative for a signal.
    """
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    # accelerate's launcher adds a traceback of its own, which says no more than how its child ended
    own, _, launcher = log.rpartition("Traceback (most recent call last):\n")
    if "subprocess.CalledProcessError" not in launcher:
        own, launcher = log, ""
    if killed := re.search(r"died with <Signals\.(\w+)", launcher):
        return f"killed by {killed[1]}"
    lines = [line.strip() for line in own.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return [f"exit code {code}, no message", *lines, *errors][-1]


def _is_trained(run: StudyRun) -> bool:
    return (run.folder / RECORD).is_file() and not changed_settings(run)


def _was_begun(run: StudyRun, settings: Mapping[str, Any]) -> bool:
    """Whether the run was begun with these effective settings: it may have left checkpoints."""
    try:
        return effective_settings(load_run_config(str(settings_file(run)))) == settings
    except (FileNotFoundError, ValueError):  # not begun, or by a version of ROC with other settings
        return False


def _open_scorings(run: StudyRun, scorings: Mapping[str, Sequence[str]]) -> list[str]:
    """Those that have not been done, or with other arguments."""
    file = run.folder / SCORINGS
    known = _read_json(file) if file.is_file() else {}
    return [name for name, arguments in scorings.items() if known.get(name, {}).get("arguments") != arguments]


@contextmanager
def _locked_log(run: StudyRun) -> Iterator[IO[str]]:
    """The log, open at its end. The commands that write to it hold its lock too, even if the study is killed."""
    path = log_file(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailed(
                f"another process still writes {path}: a second study, or a run that outlived one. Wait, or stop it"
            ) from None
        yield log


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
