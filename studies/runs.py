"""Runs of a study: started as users start them, one after the other or some beside each other, and never twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roc.studies.plan import TRAINED, StudyRun, effective_settings
from roc.support.files import atomic_write
from roc.support.resources import PACKAGE_ROOT
from roc.training.settings import DEFAULTS, ENVIRONMENT_FILE, METRICS_FILE, WITHOUT_EFFECT, load_run_config

POLL_SECONDS = 0.2
# Without accelerate's launcher, which is the same for one process: the run is then our own child, which we can stop.
TRAIN = (sys.executable, str(PACKAGE_ROOT / "train.py"))
WATCH = (sys.executable, "-m", "roc.studies.watch")
SCORE = (sys.executable, str(PACKAGE_ROOT / "score.py"))
RECORD = "study_run.json"  # in a run's folder once it has ended well: the settings that it ended with
SCORINGS = "study_scorings.json"  # beside it: what `score.py` said afterwards

Scorings = Mapping[str, Sequence[str]]  # names, and arguments with which `score.py` scores the trained model once more


class RunFailed(Exception):
    """A run did not end well; the message says why."""


@dataclass(frozen=True)
class RunResult:
    """What is known about one run.

    Args:
        metrics: The run's `metrics.json`; None if it has not finished.
        scores: Scores by the name of the scoring, `roc.studies.plan.TRAINED` first; empty if it has not finished.
        commit: The commit of the code that trained it; None if that was not recorded.
        failure: Why it did not end well just now; None if it did, or was not tried.
    """

    run: StudyRun
    metrics: dict[str, Any] | None = None
    scores: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    commit: str | None = None
    failure: str | None = None


def changed_settings(run: StudyRun) -> list[str]:
    """Return in what a finished run in this run's folder differs from it, as "field (value there)"."""
    recorded = _read_json(run.folder / RECORD)
    if not recorded:
        return []
    own = effective_settings(run.config)
    there = {**DEFAULTS, **recorded}  # a field that came to ROC after the run had its default
    names = [name for name in {**own, **there} if name not in WITHOUT_EFFECT]
    return [f"{name} ({there.get(name)!r})" for name in names if own.get(name) != there.get(name)]


def refuse_changed(runs: Sequence[StudyRun]) -> None:
    """Raise a ValueError where a run would replace a finished one that had other settings."""
    for run in runs:
        if changed := changed_settings(run):
            raise ValueError(
                f"{run.folder} holds a finished run with other settings: {', '.join(changed)}. Choose another "
                "--output_dir, or add --overwrite to run anew what has changed."
            )


def read_result(run: StudyRun, scorings: Scorings) -> RunResult:
    """Read what a run's folder says, if it has ended well with these very settings, and every scoring of it too."""
    if not _is_trained(run) or _open_scorings(run, scorings):
        return RunResult(run)
    metrics, told = _read_json(run.folder / METRICS_FILE), _read_json(run.folder / SCORINGS)
    scores = {TRAINED: metrics["val"], **{name: told[name]["scores"] for name in scorings}}
    return RunResult(run, metrics, scores, commit=_read_json(run.folder / ENVIRONMENT_FILE)["commit"])


def run_all(
    planned: Sequence[tuple[StudyRun, Scorings]], *, jobs: int = 1, resume: bool = True
) -> Generator[RunResult]:
    """Do what is missing of several runs, `jobs` of them beside each other; close it early to stop them all.

    With `resume`, a run that was begun with the same settings goes on from its last checkpoint.

    Yields:
        The result of each run as it ends.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            running = [pool.submit(_train_and_score, run, own, resume=resume, stop=stop) for run, own in planned]
            for ended in as_completed(running):
                yield ended.result()
        finally:  # after Ctrl-C, above all
            stop.set()
            pool.shutdown(cancel_futures=True)


def _train_and_score(run: StudyRun, scorings: Scorings, *, resume: bool, stop: threading.Event) -> RunResult:
    """Do what is missing of a run, each step in a process of its own, whose crash ends this run alone."""
    try:
        if not _is_trained(run):
            settings = effective_settings(run.config)  # now: a relation file may be edited while the run goes on
            # what an earlier run left is replaced: it was not finished, or the caller has agreed
            goes_on = resume and _was_begun(run, settings)
            config = dataclasses.replace(run.config, overwrite=True, resume="auto" if goes_on else None)
            with atomic_write(run.settings_file) as file:
                file.write(config.to_yaml())
            run.log_file.unlink(missing_ok=True)
            _call(train_command(run), run.log_file, stop)
            _write_json(run.folder / RECORD, settings)
        for name in _open_scorings(run, scorings):
            scores = json.loads(_call(score_command(run, scorings[name]), run.log_file, stop))
            known = _read_json(run.folder / SCORINGS)
            _write_json(run.folder / SCORINGS, known | {name: {"arguments": scorings[name], "scores": scores}})
    except RunFailed as error:
        return RunResult(run, failure=str(error))
    return read_result(run, scorings)


def train_command(run: StudyRun) -> list[str]:
    """Return the command that trains the run, once its settings are written."""
    return [*(WATCH if run.watched else TRAIN), str(run.settings_file), *run.watched]


def score_command(run: StudyRun, arguments: Sequence[str]) -> list[str]:
    """Return the command that scores the run's model with further arguments."""
    data = ["--dataset", run.config.dataset, "--data_dir", run.config.data_dir, "--split", run.config.val_split]
    own = [argument.replace("{seed}", str(run.seed)) for argument in arguments]
    return [*SCORE, "--model", str(run.folder), *data, *own]


def failure_reason(log: str, code: int) -> str:
    """Say why a command failed: the signal that killed it (a negative exit code), its "error:" line or its last one."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return [f"exit code {code}, no message", *lines, *errors][-1]


def _call(command: Sequence[str], log: Path, stop: threading.Event) -> str:
    """Run a command to its end, or until it is to stop; return what it wrote to stdout."""
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with log.open("ab") as stderr:
        start = stderr.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", env=environment
        )
        while process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                told, _ = process.communicate(timeout=POLL_SECONDS)
            if stop.is_set():
                process.terminate()  # on which `train.py` writes a checkpoint
    if process.returncode:
        written = log.read_bytes()[start:].decode(errors="replace")
        raise RunFailed(failure_reason(written, process.returncode))
    return told


def _is_trained(run: StudyRun) -> bool:
    return (run.folder / RECORD).is_file() and not changed_settings(run)


def _was_begun(run: StudyRun, settings: Mapping[str, Any]) -> bool:
    """Tell whether the run was begun with these effective settings, so that it may have left checkpoints."""
    try:
        return effective_settings(load_run_config(str(run.settings_file))) == settings
    except (FileNotFoundError, ValueError):  # not begun, or by a version of ROC with other settings
        return False


def _open_scorings(run: StudyRun, scorings: Scorings) -> list[str]:
    """Return the names of scorings that have not been done, or with other arguments."""
    known = _read_json(run.folder / SCORINGS)
    return [name for name, arguments in scorings.items() if known.get(name, {}).get("arguments") != arguments]


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(file) as opened:
        opened.write(json.dumps(content, ensure_ascii=False) + "\n")
