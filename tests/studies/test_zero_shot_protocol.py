"""The zero-shot protocol as a command: what is trained, chosen and scored, resumed, refused and reported."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import run_here, run_settings, weights

from roc.evaluation.zero_shot import RelationSplit
from roc.studies import runs as study_runs
from roc.studies import watch, zero_shot
from roc.studies.plan import StudyRun
from roc.studies.runs import RunResult, run_all
from roc.studies.zero_shot_report import TEST, chosen_on_test, summarise
from roc.training.loop import Parts
from roc.training.settings import RunConfig, load_run_config

NAMES = [f"P{number}" for number in range(8)]
WORDS = ["kissed", "in", "today", "ann", "bob", "paris", "berlin", "eve"]
SPLITS = {
    "2_a": {"train": NAMES[:4], "eval": NAMES[4:6], "test": NAMES[6:]},
    "3_b": {"train": NAMES[:2], "eval": NAMES[2:4], "test": NAMES[4:7]},  # P7 is in no part of it
}


def sentences(relation: str, *, changed: bool = False) -> list[dict[str, Any]]:
    """Sentences like those of FewRel's compact file."""
    word = WORDS[NAMES.index(relation)]
    texts = [f"tom {'is not' if changed else word} {number} tom{number} {word}" for number in range(4)]
    return [
        {"relation": relation, "text": text, "head": [0, 3], "tail": [text.index("tom", 3), text.index("tom", 3) + 4]}
        for text in texts
    ]


class Folder:
    """A recipe, its data, its splits, and what came of them."""

    def __init__(self, folder: Path, inputs: Path, *, changed: Sequence[str] = ()) -> None:
        self.folder, self.output = folder, folder / "out"
        self.commands: list[list[str]] = []
        (folder / "data").mkdir(parents=True)
        rows = [row for name in NAMES for row in sentences(name, changed=name in changed)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / "fewrel80.jsonl").write_text(lines, encoding="utf-8")
        described = [
            {"name": name, "descriptions": [f"about {word}", word]} for name, word in zip(NAMES, WORDS, strict=True)
        ]
        content = {"version": 1, "language": "en", "none_relation": None, "relations": described}
        (folder / "relations.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        self.write_splits(SPLITS)
        recipe = run_settings(inputs) | {
            "dataset": "fewrel",
            "data_dir": str(folder / "data"),
            "relations": str(folder / "relations.yaml"),
            "vision_model": None,
            "train_split": "train",
            "val_split": "train",
            "num_unseen": 5,  # the splits decide
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")

    def write_splits(self, splits: Any) -> None:
        (self.folder / "splits.json").write_text(json.dumps(splits), encoding="utf-8")

    def run(self, *more: str) -> int:
        own = ["--recipe", str(self.folder / "recipe.yaml"), "--splits", str(self.folder / "splits.json")]
        return zero_shot.main([*own, "--output_dir", str(self.output), *more])

    def results(self) -> dict[str, Any]:
        return json.loads((self.output / "results.json").read_text(encoding="utf-8"))

    def call(self, command: Sequence[str], log: Path, stop: threading.Event) -> str:
        self.commands.append([*command])
        return run_here(command, log, stop)

    def ran(self) -> list[str]:
        """The programs that have run since the last call, and for which split."""
        told = []
        for command in self.commands:
            program = command[2] if command[1] == "-m" else Path(command[1]).name
            place = (
                command[command.index("--model") + 1]
                if "--model" in command
                else next(own for own in command if own.endswith(".yaml"))
            )
            told.append(f"{program} {Path(place).stem}")
        self.commands.clear()
        return told


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Programs run in this process, and data are cached among the tests' files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setattr(watch, "Parts", functools.partial(Parts, draw=lambda *given: None))
        patch.setattr(zero_shot, "draw_results", lambda *given: None)
        yield patch


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory, quick: pytest.MonkeyPatch) -> Folder:
    """The command at its end; tests of it change nothing."""
    made = Folder(tmp_path_factory.mktemp("finished") / "made", inputs)
    quick.setattr(study_runs, "_call", made.call)
    assert made.run() == 0
    return made


# --- the real command --------------------------------------------------------------------------------------------


def test_each_split_is_trained_without_its_eval_and_test_relations_and_scored_once(finished: Folder) -> None:
    scorings = [command for command in finished.commands if Path(command[1]).name == "score.py"]
    assert len(finished.commands) == 4
    assert [command[command.index("--held_out_relations") + 1 :][:3] for command in scorings] == [
        ["P6", "P7", "--batch_size"],
        ["P4", "P5", "P6"],
    ]
    for name, held_out in (("2_a", ["P6", "P7"]), ("3_b", ["P4", "P5", "P6", "P7"])):
        config = load_run_config(str(finished.output / name / "run_config.yaml"))
        assert (config.held_out_relations, config.num_unseen) == (held_out, 0)
        assert config.eval_relations == SPLITS[name]["eval"]
        saved = json.loads((finished.output / name / "config.json").read_text(encoding="utf-8"))
        assert [relation["name"] for relation in saved["relations"]] == SPLITS[name]["train"]


def test_the_results_hold_both_macro_scores_of_all_systems(finished: Folder) -> None:
    results = finished.results()
    assert [(own["name"], own["num_unseen"]) for own in results["splits"]] == [("2_a", 2), ("3_b", 3)]
    for own in results["splits"]:
        assert own["scores"].keys() == {"trained", "untrained", "chosen_on_test"}
        for scores in own["scores"].values():
            assert scores.keys() == {"macro_precision", "macro_recall", "macro_f1", "f1_of_means", "accuracy"}
            assert scores["f1_of_means"] >= scores["macro_f1"] - 1e-9
            assert scores["accuracy"] == pytest.approx(scores["macro_recall"])  # as many sentences of each
        history = json.loads((finished.output / own["name"] / "metrics.json").read_text(encoding="utf-8"))["history"]
        watched = [record["val"]["test_macro_f1"] for record in history]
        assert own["scores"]["chosen_on_test"]["macro_f1"] == max(watched)
        assert own["scores"]["trained"]["macro_f1"] == pytest.approx(watched[own["epochs"]["trained"] - 1])
    text = (finished.output / "results.md").read_text(encoding="utf-8")
    assert text.count("| classification head | cannot answer |") == 2
    assert "| 2 | 1 of 1 | ROC, epoch chosen on the eval relations |" in text


def test_what_has_finished_is_not_run_again_and_other_settings_are_refused(
    finished: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(finished.commands)
    table = (finished.output / "results.md").read_text(encoding="utf-8")
    assert finished.run() == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["finished"], told["failed"]) == (2, 0)
    assert told["macro_f1"].keys() == {"2", "3"}
    assert finished.run("--learning_rate", "0.5") == 1
    assert "holds a finished run with other settings: learning_rate (0.001)" in capsys.readouterr().err
    assert len(finished.commands) == before
    assert (finished.output / "results.md").read_text(encoding="utf-8") == table


def test_the_test_relations_reach_neither_training_nor_the_choice(
    finished: Folder, inputs: Path, tmp_path: Path, quick: pytest.MonkeyPatch
) -> None:
    """Other sentences of the test relations, and not to watch them, change nothing of a model."""
    made = Folder(tmp_path / "made", inputs, changed=SPLITS["2_a"]["test"])
    assert sentences("P6", changed=True) != sentences("P6")
    quick.setattr(study_runs, "_call", made.call)
    assert made.run("--unseen", "2", "--no-published_habit") == 0
    assert made.ran() == ["train.py 2_a", "score.py 2_a"]
    ours, theirs = (weights(own.output / "2_a") for own in (made, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    told = [json.loads((own.output / "2_a" / "metrics.json").read_text(encoding="utf-8")) for own in (made, finished)]
    assert told[0]["best_epoch"] == told[1]["best_epoch"]
    assert told[0]["val"] == told[1]["val"]
    [own] = made.results()["splits"]
    assert "chosen_on_test" not in own["scores"], "two epochs, and nobody looked"


def test_relations_that_training_sees_are_not_watched() -> None:
    with pytest.raises(ValueError, match=r"\['a'\] are not held out"):
        watch.watch(RunConfig(held_out_relations=["b", "c"]), ["a", "b"])


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--unseen", "7"], r"--unseen \[7\]: no split has so many test relations. .* has splits with \[2, 3\]"),
        (["--relations", "null"], "names no relation file. Add --relations FILE"),
        (["--relations", "relations/mnre.yaml"], r"relations/mnre.yaml does not describe \['P0', .*split '2_a'"),
        (["--jobs", "0"], "--jobs 0 is out of range"),
        (["--head", "classification"], "head='classification' cannot answer about unseen relations"),
        (["--described_by", "labels"], "described_by='labels'; unseen relations are scored by descriptions"),
        (["--num_unseen", "3"], r"\['num_unseen'\] are chosen by the protocol"),
        (["other.yaml"], "'other.yaml' belongs to no option. The recipe is given by --recipe"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else None,
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    inputs: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Folder(tmp_path / "made", inputs)
    if more[1:] == ["null"]:  # only a run that starts from a model may lack it
        with pytest.raises(ValueError, match=message):
            zero_shot.check_recipe(RunConfig(relations=None, start_from="model", text_model=None), [], "recipe.yaml")
        return
    assert made.run(*more) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not made.output.exists()


def test_unseen_relations_without_a_sentence_are_named(
    inputs: Path, tmp_path: Path, quick: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Folder(tmp_path / "made", inputs)
    file = made.folder / "data" / "fewrel80.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"P7"' not in line), encoding="utf-8")
    assert made.run("--unseen", "2") == 1
    assert "no row has one of the relations ['P7']" in capsys.readouterr().err


def test_a_dry_run_lists_what_would_run(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Folder(tmp_path / "made", inputs)
    assert made.run("--dry_run") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"dry_run": True, "finished": 0, "to_run": 2}
    assert "2_a:" in printed.err
    assert "--held_out_relations P4 P5 P6" in printed.err
    assert not made.output.exists()


# --- runs beside each other --------------------------------------------------------------------------------------


def test_runs_go_beside_each_other_and_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    both, started, stopped = threading.Barrier(2), [], []

    def pretend(run: StudyRun, scorings: Any, *, resume: bool, stop: threading.Event) -> RunResult:
        started.append(run.variant)
        if run.variant == "late":
            assert stop.wait(60)
            stopped.append(run.variant)
        else:
            both.wait(60)
        return RunResult(run)

    monkeypatch.setattr(study_runs, "_train_and_score", pretend)
    planned = [(StudyRun(name, RunConfig()), {}) for name in ("a", "b", "late", "late", "never")]
    running = run_all(planned, jobs=2)
    assert {next(running).run.variant, next(running).run.variant} == {"a", "b"}
    running.close()
    assert stopped == started[2:]
    assert "never" not in started


# --- summaries ---------------------------------------------------------------------------------------------------


def result_of(split: RelationSplit, right: int) -> RunResult:
    """A finished run that names so many of ten sentences of each of two test relations right, and the rest alike."""
    precision = {0: right / (right + 0), 1: 10 / (20 - right)}
    per_relation = {
        name: {
            "precision": precision[number],
            "recall": recall,
            "f1": 2 * precision[number] * recall / (precision[number] + recall),
        }
        for number, (name, recall) in enumerate(zip(split.test, (right / 10, 1.0), strict=True))
    }
    scores = {"accuracy": (right + 10) / 20, "per_relation": per_relation}
    metrics = {"best_epoch": 1, "val": {"macro_f1": 0.9}, "history": [{"epoch": 1, "val": {}}]}
    return RunResult(StudyRun(split.name, RunConfig()), metrics, {TEST: scores}, commit="abc")


def test_means_and_spreads_are_over_the_splits_of_one_size() -> None:
    splits = [RelationSplit(name, ["a", "b"], ["c", "d"], ["e", "f"]) for name in ("first", "second", "third")]
    results = {own.name: result_of(own, right) for own, right in zip(splits, (5, 10), strict=False)}
    results["third"] = RunResult(StudyRun("third", RunConfig()), failure="no memory")
    untrained = {own.name: dict.fromkeys(zero_shot_scores(), 0.5) for own in splits}
    summary = summarise("recipe.yaml", splits, results, untrained)
    trained = summary["means"]["2"]["trained"]
    assert trained["accuracy"] == {"mean": 0.875, "std": pytest.approx(0.125 * 2**0.5), "values": [0.75, 1.0]}
    assert trained["macro_precision"]["values"] == pytest.approx([(1 + 10 / 15) / 2, 1.0])
    assert trained["macro_f1"]["values"] == pytest.approx([(2 / 3 + 0.8) / 2, 1.0])
    assert trained["f1_of_means"]["values"][0] == pytest.approx(2 * (5 / 6) * 0.75 / (5 / 6 + 0.75))
    assert summary["means"]["2"]["untrained"]["macro_f1"]["values"] == [0.5] * 3
    assert [own["failure"] for own in summary["splits"]] == [None, None, "no memory"]


def zero_shot_scores() -> list[str]:
    return ["macro_precision", "macro_recall", "macro_f1", "f1_of_means", "accuracy"]


def test_the_published_habit_takes_the_epoch_that_is_best_on_the_test_relations() -> None:
    def record(epoch: int, f1: float | None) -> dict[str, Any]:
        watched = {} if f1 is None else {f"test_{name}": f1 for name in zero_shot_scores()}
        return {"epoch": epoch, "val": {"macro_f1": 1.0, **watched}}

    ours: Mapping[str, float] = dict.fromkeys(zero_shot_scores(), 0.25)
    unvalidated = {"epoch": 4}
    history = [record(1, 0.5), record(2, 0.75), record(3, 0.25), unvalidated]
    assert chosen_on_test(history, ours) == (2, dict.fromkeys(zero_shot_scores(), 0.75))
    assert chosen_on_test([record(1, None)], ours) == (1, ours)
    assert chosen_on_test([record(1, 0.5), record(2, None)], ours) is None
