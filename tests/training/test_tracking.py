"""TensorBoard and trackio: opt-in, on this machine, from one process."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator

from roc.training.settings import RunConfig
from roc.training.tracking import check_trackers, track_epoch, track_result, track_step, tracked

SCORES = {"accuracy": 0.5, "precision": 0.25, "recall": 0.75, "micro_f1": 0.375, "macro_f1": 0.125}
PER_RELATION = {"couple": {"precision": 0.25, "recall": 0.75, "f1": 0.375, "support": 4}}
RECORD = {"epoch": 1, "step": 3, "samples_per_second": 10.0, "val": {**SCORES, "n": 8}}


def a_run(config: RunConfig, *, first: int = 0, last: int = 3) -> None:
    accelerator = Accelerator(cpu=True)
    with tracked(accelerator, config, step=first):
        for step in range(first + 1, last + 1):
            track_step(accelerator, step=step, loss=1.0 / step, learning_rate=1e-3)
        track_epoch(accelerator, RECORD)
        track_result(accelerator, {**SCORES, "per_relation": PER_RELATION}, step=last)
    assert accelerator.trackers == []


def settings(tmp_path: Path, *trackers: Any, **changes: Any) -> RunConfig:
    folders = {"output_dir": str(tmp_path / "runs" / "one"), "tracking_dir": str(tmp_path / "tracking")}
    return RunConfig(**{**folders, "trackers": list(trackers), **changes})


@pytest.fixture
def tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads what TensorBoard would show of the run."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    return lambda: EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / "runs" / "one")).Reload()


def curve(events: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_tensorboard_shows_settings_curves_and_the_final_table(tmp_path: Path, tensorboard: Any) -> None:
    a_run(settings(tmp_path, "tensorboard", seed=7, text_overrides={"num_hidden_layers": 2}))
    events = tensorboard()
    assert curve(events, "train/loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    assert curve(events, "train/learning_rate") == [(1, 1e-3), (2, 1e-3), (3, 1e-3)]
    assert curve(events, "val/micro_f1") == [(3, 0.375)]
    assert curve(events, "final/macro_f1")[-1] == (3, 0.125)
    text = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "    seed: 7\n" in text["config/text_summary"]
    assert text["final/per_relation/text_summary"].splitlines()[2] == "couple | 0.250 | 0.750 | 0.375 | 4"
    assert "_hparams_/session_start_info" in events.summary_metadata
    folder = tmp_path / "tracking" / "tensorboard" / "runs" / "one"
    assert all(path.is_file() for path in folder.iterdir()), "TensorBoard would show a folder as a run of its own"


def test_a_resumed_run_continues_its_curves_and_forgets_what_it_repeats(tmp_path: Path, tensorboard: Any) -> None:
    config = settings(tmp_path, "tensorboard")
    a_run(config, last=5)
    a_run(config, first=2, last=4)
    assert curve(tensorboard(), "train/loss") == [(step, 1 / step) for step in (1, 2, 3, 4)]


def test_a_new_run_in_the_same_folder_begins_its_curves_anew(tmp_path: Path, tensorboard: Any) -> None:
    a_run(settings(tmp_path, "tensorboard"), last=5)
    a_run(settings(tmp_path, "tensorboard"), last=3)
    assert len(curve(tensorboard(), "train/loss")) == 3


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    a_run(settings(tmp_path))
    assert not list(tmp_path.iterdir())


def test_only_the_main_process_has_trackers(tmp_path: Path) -> None:
    other: Any = SimpleNamespace(is_main_process=False, trackers=[])
    with tracked(other, settings(tmp_path, "tensorboard", "trackio")):
        assert other.trackers == []
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"trackio is not installed. Type `pip install 'roc\[trackers\]'`"):
        check_trackers(settings(tmp_path, "trackio"))
    check_trackers(settings(tmp_path))


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_an_environment_that_would_send_the_run_away_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv(variable, "user/space")
    with pytest.raises(ValueError, match=f"{variable} is set"):
        check_trackers(settings(tmp_path, "trackio"))
    check_trackers(settings(tmp_path, "tensorboard"))


@pytest.mark.parametrize("trackers", [["wandb"], ["tensorboard", "tensorboard"]])
def test_a_tracker_that_is_not_known_or_given_twice_is_refused(trackers: Any) -> None:
    with pytest.raises(ValueError, match="give a list of 'tensorboard' and 'trackio'"):
        RunConfig(trackers=trackers)


TRACKIO_RUN = """
import socket, sys
from pathlib import Path

def refuse(self, address):
    raise SystemExit(f"{address} was contacted")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *rest, **options: refuse(None, host)
import test_tracking
folder = Path(sys.argv[1])
config = test_tracking.settings(folder, "trackio", seed=7)
test_tracking.a_run(config)
test_tracking.a_run(config, first=3, last=4)
"""


def test_trackio_keeps_the_run_here_and_leaves_stdout_alone(tmp_path: Path) -> None:
    """In a process of its own, as trackio reads its folder when it is imported, with a user logged in to the Hub."""
    pytest.importorskip("trackio")
    own = {"HF_TOKEN": "hf_somebody", "HF_HUB_OFFLINE": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment = {name: value for name, value in os.environ.items() if name != "TRACKIO_DIR"} | own
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO_RUN, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    with sqlite3.connect(tmp_path / "tracking" / "trackio" / "roc.db") as database:
        logged = [(step, json.loads(values)) for step, values in database.execute("SELECT step, metrics FROM metrics")]
        names = {name for (name,) in database.execute("SELECT DISTINCT run_name FROM metrics")}
        [saved] = database.execute("SELECT config FROM configs").fetchall()
    assert names == {"runs/one"}
    assert [(step, values["train/loss"]) for step, values in logged if "train/loss" in values][:3] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    assert {"val/micro_f1", "final/micro_f1", "final/per_relation"} <= {name for _, values in logged for name in values}
    assert json.loads(saved[0])["seed"] == 7
