"""What a run of `train.py` left behind, read and checked for the model card."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from roc.messages_roc import shorten
from roc.training.settings import (
    DEFAULTS,
    ENVIRONMENT_FILE,
    LOCAL_SETTINGS,
    METRICS_FILE,
    RUN_FILE,
    settings_by_name,
)

SCORES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
}
MAY_DIFFER = LOCAL_SETTINGS | {"seed"}  # between runs that are called seeds of one


@dataclass(frozen=True)
class RunRecord:
    """The files of one run.

    Args:
        folder: Where it lies.
        settings: Those of `run_config.yaml`, the model's among them, with this version's defaults for what it lacks.
        metrics: `metrics.json`.
        environment: `environment.json`.
    """

    folder: Path
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings["seed"]

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read the files of a run that has ended.

        Raises:
            FileNotFoundError: If one is missing; the message says why that may be.
            ValueError: If one cannot be read.
        """
        path = Path(folder)
        if not (path / RUN_FILE).is_file():
            raise FileNotFoundError(f"{path} is not the folder of a run of train.py: it has no {RUN_FILE}.")
        if not (path / METRICS_FILE).is_file():
            raise FileNotFoundError(
                f"{path} has no {METRICS_FILE}: the run has not ended. Go on with it by the same command and "
                "--resume auto."
            )
        if not (path / ENVIRONMENT_FILE).is_file():
            raise FileNotFoundError(f"{path} has no {ENVIRONMENT_FILE}, which train.py writes beside the weights.")
        # not `load_run_config`: a run of another version may have settings that this one does not know
        settings = settings_by_name(_read(path / RUN_FILE))
        metrics = _read(path / METRICS_FILE)
        check_scores(metrics.get("val"), path / METRICS_FILE)
        return cls(path, DEFAULTS | settings, metrics, _read(path / ENVIRONMENT_FILE))


def read_runs(folders: Sequence[str | Path]) -> list[RunRecord]:
    """Read several runs, which differ in their seeds alone.

    Raises:
        FileNotFoundError: As `RunRecord.read`.
        ValueError: As `RunRecord.read`, or if there is none, two have the same seed, or they differ in more than seeds.
    """
    if not folders:
        raise ValueError("A card needs the folder of the run that trained the model: give one or more.")
    first, *others = runs = [RunRecord.read(folder) for folder in folders]
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"Runs have the same seed: {seeds}. Give each run once.")
    for other in others:
        names = (first.settings.keys() | other.settings.keys()) - MAY_DIFFER
        different = sorted(name for name in names if first.settings.get(name) != other.settings.get(name))
        if different:
            raise ValueError(
                f"{first.folder} and {other.folder} differ in {different}, so they are not seeds of one run."
            )
    return runs


def read_test_scores(
    files: Sequence[str | Path], runs: Sequence[RunRecord], relations: Collection[str]
) -> list[Mapping[str, Any] | None]:
    """Read what `score.py --split test` said of each run.

    Args:
        files: One for each run, in their order; those at the end may be missing.
        runs: The runs.
        relations: The relations of the model.

    Returns:
        The scores of each run, None where there are none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are more files than runs, or one is not what `score.py` printed, of another model or of the
            validation split.
    """
    if len(files) > len(runs):
        raise ValueError(f"There are {len(files)} files of test scores for {len(runs)} runs. Give one for each run.")
    read = []
    for file, run in zip(files, runs):
        scores = _read(Path(file))
        check_scores(scores, file)
        unknown = sorted(set(scores["per_relation"]) - set(relations) - {""})  # "" is what a model abstains with
        if unknown:
            raise ValueError(f"{file} scores {shorten(str(unknown))}, which this model does not know.")
        if scores == run.metrics["val"]:
            raise ValueError(f"{file} holds the validation scores of {run.folder}, not those of the test split.")
        read.append(scores)
    return [*read, *[None] * (len(runs) - len(read))]


def read_robustness(file: str | Path, run: RunRecord) -> dict[str, Any]:
    """Read what `benchmarks/robustness.py` said.

    Args:
        file: Its output.
        run: The run whose model is meant.

    Returns:
        `dataset`, `split`, `seed`, and of this model `n` and `conditions`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or of other models.
    """
    content = _read(Path(file))
    if content.get("benchmark") != "robustness":
        raise ValueError(f"{file} is not what benchmarks/robustness.py printed.")
    name = run.folder.resolve().name
    own = [result for label, result in content["models"].items() if Path(label).name == name]
    if len(own) != 1:
        raise ValueError(f"{file} is about the models {list(content['models'])}; one of them should be {name!r}.")
    return {key: content[key] for key in ("dataset", "split", "seed")} | own[0]


def check_scores(scores: Any, where: str | Path) -> None:
    """Refuse what are not the scores of a split.

    Raises:
        ValueError: If they are not.
    """
    wanted = [*SCORES, "per_relation", "n"]
    if not isinstance(scores, dict) or (missing := [name for name in wanted if name not in scores]) == wanted:
        raise ValueError(f"{where} holds no scores, as score.py prints them.")
    if missing:
        raise ValueError(f"{where}: the scores lack {missing}. Give what score.py printed, whole.")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    text = file.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} cannot be read: it holds a {type(content).__name__}, not a mapping.")
    return content
