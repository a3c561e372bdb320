"""Studies as YAML files: named variants of one run's settings, each with some seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roc.messages_roc import did_you_mean, quote
from roc.support.reading import parse_yaml, read_text
from roc.support.resources import find_file
from roc.training.settings import FILE_SETTINGS, WITHOUT_EFFECT, RunConfig, load_run_config, settings_by_name

STUDY_KEYS = ("base", "seeds", "settings", "scorings", "variants")
VARIANT_KEYS = ("name", "settings", "seeds")
OF_THE_STUDY = ("output_dir", "seed", "resume", "overwrite", "dry_run")  # settings that the study itself chooses
TRAINED = "in training"  # the scoring that training itself does on the validation split


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: the name of its variant, and its settings."""

    variant: str
    config: RunConfig

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def folder(self) -> Path:
        """The folder that `train.py` writes."""
        return Path(self.config.output_dir)

    @property
    def settings_file(self) -> Path:
        """The file with the run's settings, beside its folder."""
        return self.folder.with_name(self.folder.name + ".yaml")

    @property
    def log_file(self) -> Path:
        """The file with what the run's commands wrote to stderr, beside its folder."""
        return self.folder.with_name(self.folder.name + ".log")

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """Variants of one run, compared over seeds.

    Args:
        name: The file's name without its ending.
        base: The YAML file with the settings that all variants share.
        variants: Mappings of `name`, `settings` (fields of `RunConfig` in which the variant differs) and `seeds`, in
            the order of the file; the others are compared with the first.
        scorings: Names, and arguments with which `score.py` scores each trained model once more; `{seed}` in them
            stands for the run's seed.
        runs: Every variant with its first seed, then every variant with its second, and so on, so that a study that
            was stopped early compares all variants on some seeds.
        output_dir: Folder of the table, the plot and all runs.
    """

    name: str
    base: str
    variants: list[dict[str, Any]]
    scorings: dict[str, list[str]]
    runs: list[StudyRun]
    output_dir: Path


def load_study(path: str, *, data_dir: str | None = None, output_dir: str | None = None) -> Study:
    """Read and check a study.

    Args:
        path: A YAML file, looked for in the working folder, then among ROC's own, with `base` (a run's YAML file),
            `seeds`, `variants` (each with a `name`, and where it differs `settings` and `seeds` of its own), and
            optionally `settings` (of all runs) and `scorings` (see `Study`).
        data_dir: Folder of the data; None for what the runs' settings say.
        output_dir: Folder of the table, the plot and all runs; None for `outputs/studies/NAME`.

    Raises:
        FileNotFoundError: If there is no such file, or a file that it names does not exist.
        ValueError: If it is malformed, or a variant's settings are not those of a run; the message names the file and
            the variant.
    """
    file = find_file(path)
    try:
        content = parse_yaml(read_text(file))
        _check_keys("a study", content, STUDY_KEYS, required=("base", "seeds", "variants"))
        if not isinstance(content["base"], str):
            raise ValueError(f"base is the YAML file of a run; given {quote(content['base'])}")
        seeds = _seeds(content["seeds"])
        variants = [_variant(given, seeds) for given in _list("variants", content["variants"])]
        shared = _settings("a study", content.get("settings")) | ({} if data_dir is None else {"data_dir": data_dir})
        folder = Path(output_dir if output_dir is not None else f"outputs/studies/{file.stem}")
        runs = _runs(content["base"], shared, variants, folder)
        scorings = _scorings(content.get("scorings") or {})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return Study(file.stem, content["base"], variants, scorings, runs, folder)


def effective_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide about a run's result, and digests of the relation files that they name.

    Data are known by their folder's name only.
    """
    settings = settings_by_name(dataclasses.asdict(config))
    settings = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
    for name in sorted(FILE_SETTINGS):
        if settings[name] is not None:
            settings[f"content of {name}"] = hashlib.sha256(find_file(settings[name]).read_bytes()).hexdigest()
    for own in config.data_sources if config.sources is not None else ():
        content = find_file(str(own.relations)).read_bytes()
        settings[f"content of relations of {own.name}"] = hashlib.sha256(content).hexdigest()
    return settings


def _runs(base: str, shared: Mapping[str, Any], variants: Sequence[Mapping[str, Any]], folder: Path) -> list[StudyRun]:
    folders = [_folder_name(variant["name"]) for variant in variants]
    if repeated := [variant["name"] for variant, own in zip(variants, folders) if folders.count(own) > 1]:
        raise ValueError(f"names of variants must differ in letters and digits; given {repeated}")
    runs = []
    numbered = [(number, seed, variant) for variant in variants for number, seed in enumerate(variant["seeds"])]
    for _, seed, variant in sorted(numbered, key=lambda entry: entry[0]):
        own = {"output_dir": str(folder / _folder_name(variant["name"]) / f"seed_{seed}"), "seed": seed}
        try:
            config = load_run_config(base, shared, variant["settings"], own)
            effective_settings(config)  # the files are there
        except ValueError as error:
            raise ValueError(f"variant {quote(variant['name'])}: {error}") from error
        runs.append(StudyRun(variant["name"], config))
    return runs


def _variant(given: Any, seeds: Sequence[int]) -> dict[str, Any]:
    _check_keys("a variant", given, VARIANT_KEYS, required=("name",))
    name = given["name"]
    if not isinstance(name, str) or not _folder_name(name):
        raise ValueError(f"a variant's name is a text with letters or digits; given {quote(name)}")
    settings = _settings(f"variant {quote(name)}", given.get("settings"))
    return {"name": name, "settings": settings, "seeds": _seeds(given.get("seeds", seeds))}


def _settings(where: str, given: Any) -> dict[str, Any]:
    """Return the given fields of a run, which `load_run_config` checks; refuse those that the study chooses."""
    if not isinstance(given, dict | None):
        raise ValueError(f"settings of {where} are a mapping of a run's fields; given {quote(given)}")
    if chosen := [name for name in OF_THE_STUDY if name in (given or {})]:
        raise ValueError(f"settings of {where}: {chosen} are chosen by the study; leave them out")
    return given or {}


def _seeds(given: Any) -> list[int]:
    if not all(type(seed) is int for seed in _list("seeds", given)):
        raise ValueError(f"seeds are whole numbers; given {quote(given)}")
    if len(set(given)) < len(given):
        raise ValueError(f"seeds must differ; given {quote(given)}")
    return given


def _scorings(given: Any) -> dict[str, list[str]]:
    if not isinstance(given, dict) or TRAINED in given:
        raise ValueError(
            f"scorings are a mapping of names (not {TRAINED!r}) to lists of arguments; given {quote(given)}"
        )
    return {str(name): [str(argument) for argument in _list(name, own)] for name, own in given.items()}


def _list(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"{name} is a list with at least one entry; given {quote(given)}")
    return given


def _check_keys(what: str, given: Any, allowed: Sequence[str], *, required: Sequence[str]) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{what} is a mapping with the keys {allowed}; given {quote(given)}")
    for key in given:
        if key not in allowed:
            raise ValueError(f"{what} has no key {quote(key)}; allowed are {allowed}.{did_you_mean(str(key), allowed)}")
    if missing := [key for key in required if key not in given]:
        raise ValueError(f"{what} needs {missing}")


def _folder_name(name: str) -> str:
    return "_".join(re.findall(r"\w+", name.lower()))
