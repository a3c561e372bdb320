"""A run's settings from YAML and the command line, and what the programs share."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from roc.configuration_fields_roc import LIMITS, ModelSettings
from roc.dataset_scripts.loading import DATASETS
from roc.support.resources import PACKAGE_ROOT
from roc.training.data_settings import DatasetName
from roc.training.settings import (
    DEFAULTS,
    FILE_SETTINGS,
    LOCAL_SETTINGS,
    MODEL_FIELDS,
    RUN_FIELDS,
    WITHOUT_EFFECT,
    RunConfig,
    load_run_config,
    parse_command_line,
    settings_by_name,
)

CONFIGS = sorted(path for path in (PACKAGE_ROOT / "configs").glob("**/*.yaml") if path.parent.name != "accelerate")


def write(tmp_path: Path, content: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    return str(path)


def parse_run_config(arguments: Sequence[str]) -> RunConfig:
    return load_run_config(*parse_command_line(arguments))


def value_of(config: RunConfig, name: str) -> Any:
    return getattr(config.model if name in MODEL_FIELDS else config, name)


def given(name: str, value: Any) -> dict[str, Any]:
    """One setting where it belongs."""
    return {"model": {name: value}} if name in MODEL_FIELDS else {name: value}


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def test_a_run_can_be_of_every_data_set() -> None:
    assert set(get_args(DatasetName)) == set(DATASETS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_file_is_a_valid_run(path: Path) -> None:
    config = load_run_config(str(path))
    is_shipped = (PACKAGE_ROOT / config.relations).is_file()
    is_made = f"--output {config.relations}\n" in path.read_text(encoding="utf-8")  # by a command that the file names
    assert is_shipped or is_made


def test_there_are_shipped_files() -> None:
    assert "demo.yaml" in {path.name for path in CONFIGS}


def test_without_a_file_the_defaults_hold() -> None:
    assert load_run_config(None) == parse_run_config([]) == RunConfig()


def test_an_empty_file_leaves_the_defaults(tmp_path: Path) -> None:
    assert load_run_config(write(tmp_path, "# nothing")) == RunConfig()


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "batch_size: 8\nseed: 5\nuse_image: true")
    config = parse_run_config([path, "--batch_size", "16", "--no-use_image", "--overwrite"])
    assert (config.batch_size, config.seed, config.use_image, config.overwrite) == (16, 5, False, True)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--learning_rate", "3e-5"], "learning_rate", 3e-5),
        (["--learning_rate", "1"], "learning_rate", 1.0),
        (["--learning_rate=.5"], "learning_rate", 0.5),
        (["--seed", "7"], "seed", 7),
        (["--max_steps", "null"], "max_steps", None),
        (["--max_steps", "10"], "max_steps", 10),
        (["--mixed_precision", "no"], "mixed_precision", "no"),
        (["--data_dir", "2024"], "data_dir", "2024"),
        (["--data_dir", "null"], "data_dir", "null"),
        (["--output_dir", "a: b #c"], "output_dir", "a: b #c"),
        (["--entity_typer", "spacy"], "entity_typer", "spacy"),
        (["--entity_typer", "null"], "entity_typer", None),
        (["--vision_model", "org/vit"], "vision_model", "org/vit"),
        (
            ["--vision_model", "{model_type: vit, patch_size: 8}"],
            "vision_model",
            {"model_type": "vit", "patch_size": 8},
        ),
        (["--text_overrides", '{"num_hidden_layers": 2}'], "text_overrides", {"num_hidden_layers": 2}),
        (["--learn_temperature"], "learn_temperature", True),
        (["--no-learn_temperature"], "learn_temperature", False),
        (["--no-model.learn_temperature"], "learn_temperature", False),
        (["--head", "classification"], "head", "classification"),
        (["--dropout", "0.2"], "dropout", 0.2),
        (["--model.dropout", "0.2"], "dropout", 0.2),
        (["--held_out_relations", "A", "1"], "held_out_relations", ["A", "1"]),
        (["--held_out_relations", "A", "B", "--seed", "1"], "held_out_relations", ["A", "B"]),
        (["--held_out_relations", "null"], "held_out_relations", None),
        (["--trackers", "tensorboard", "trackio"], "trackers", ["tensorboard", "trackio"]),
        (["--entity_types", "person", "animal"], "entity_types", ["person", "animal"]),
    ],
)
def test_values_of_the_command_line(arguments: list[str], field: str, value: Any) -> None:
    parsed = value_of(parse_run_config(arguments), field)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("content", "field", "value"),
    [
        ("learning_rate: 3e-5", "learning_rate", 3e-5),  # a text for YAML 1.1
        ("learning_rate: 3.0e-5", "learning_rate", 3e-5),
        ("model: {dropout: 0}", "dropout", 0.0),
        ("model:", "dropout", 0.1),
        ("held_out_relations: [A, B]", "held_out_relations", ["A", "B"]),
        ("mixed_precision: no", "mixed_precision", "no"),  # false for YAML 1.1
        ("vision_model: {model_type: vit}", "vision_model", {"model_type": "vit"}),
        ("max_train_samples: null", "max_train_samples", None),
    ],
)
def test_values_of_a_file(tmp_path: Path, content: str, field: str, value: Any) -> None:
    parsed = value_of(load_run_config(write(tmp_path, content)), field)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_misspelt_key_of_a_file_is_refused_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no setting 'leraning_rate'\. Did you mean 'learning_rate'\?"):
        load_run_config(write(tmp_path, "leraning_rate: 1"))
    with pytest.raises(ValueError, match=r"no setting 'colour'\. `--help` lists all settings"):
        load_run_config(write(tmp_path, "colour: red"))
    with pytest.raises(ValueError, match=r"no setting 'dropot'\. Did you mean 'dropout'\?"):
        load_run_config(write(tmp_path, "model: {dropot: 0}"))


def test_a_key_in_the_wrong_place_is_refused_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'head' is a setting of the model: write it in the section `model:`"):
        load_run_config(write(tmp_path, "head: classification"))
    with pytest.raises(ValueError, match="'seed' is a setting of the run: write it outside of the section `model:`"):
        load_run_config(write(tmp_path, "model: {seed: 1}"))
    with pytest.raises(ValueError, match=r"model=\[1\] is not allowed: give a mapping"):
        load_run_config(write(tmp_path, "model: [1]"))


def test_a_misspelt_option_is_refused_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    for option, near in {
        "--leraning_rate=1": "learning_rate",
        "--model.dropot": "dropout",
        "--no-use_imag": "use_image",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            parse_run_config([option])
        assert stopped.value.code == 2
        assert f"there is no option {option}. Did you mean '{near}'?" in capsys.readouterr().err


def test_a_word_too_many_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_run_config(["configs/demo.yaml", "--data_dir", "my", "data"])
    assert stopped.value.code == 2
    assert "'data' belongs to no option" in capsys.readouterr().err


def test_the_file_may_come_after_options() -> None:
    config = parse_run_config(["--seed", "3", "configs/demo.yaml"])
    assert (config.seed, config.dataset) == (3, "synthetic")


def test_of_several_overrides_the_last_wins_field_by_field(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\nmodel: {dropout: 0.2, projection_dim: 8, head: classification}")
    config = load_run_config(path, {"seed": 2, "model": {"dropout": 0.3, "projection_dim": 9}}, given("dropout", 0.4))
    model = config.model
    assert (config.seed, model.dropout, model.projection_dim, model.head) == (2, 0.4, 9, "classification")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("batch_size", "large", "int"),
        ("batch_size", 2.5, "int"),
        ("batch_size", True, "int"),
        ("batch_size", None, "int"),
        ("learning_rate", "fast", "float"),
        ("learning_rate", False, "float"),
        ("dropout", "nan", "float"),
        ("dropout", float("inf"), "float"),
        ("dropout", [0.1], "float"),
        ("use_image", "yes", "bool"),
        ("use_image", 1, "bool"),
        ("head", "softmax", '"retrieval" or "classification"'),
        ("dataset", "mrne", '"mnre" or'),
        ("mixed_precision", True, '"auto" or "no" or "bf16"'),
        ("max_steps", "all", "int or null"),
        ("vision_model", 5, "str or dict or null"),
        ("text_overrides", "{}", "dict or null"),
        ("data_dir", 2024, "str"),
        ("held_out_relations", "A", "list of str or null"),
        ("held_out_relations", ["A", 1], "list of str or null"),
        ("trackers", ["wandb"], 'list of "tensorboard" or "trackio" or null'),
        ("entity_types", "person", "list of str"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r} is not allowed: give {allowed}")):
        load_run_config(None, given(field, value))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *((name, 0, "give a number >= 1") for name in ("batch_size", "eval_batch_size", "num_epochs", "max_steps")),
        *((name, 0, "give a number >= 1") for name in ("gradient_accumulation_steps", "max_train_samples")),
        ("early_stopping_patience", 0, "give a number >= 1"),
        ("checkpoint_steps", 0, "give a number >= 1"),
        ("keep_checkpoints", 0, "give a number >= 1"),
        ("image_size", 7, "give a number >= 8"),
        ("max_length", 7, "give a number >= 8"),
        *(
            (name, -1, "give a number >= 0")
            for name in ("max_regions", "weight_decay", "adversarial_noise", "type_loss")
        ),
        ("start_seed", -1, "give a number in [0, 4294967295]"),
        ("num_workers", -1, "give a number in [0, 256]"),
        ("seed", -1, "give a number in [0, 4294967295]"),
        *((name, 0.0, "give a number > 0") for name in ("learning_rate", "vision_learning_rate", "head_learning_rate")),
        ("max_grad_norm", 0.0, "give a number > 0"),
        ("warmup_ratio", 1.0, "give a number in [0, 1)"),
        ("warmup_ratio", -0.1, "give a number in [0, 1)"),
        *((name, 0, "give a number in (0, 1") for name in ("val_share", "train_share", "average_decay")),
        ("train_share", 1.5, "give a number in (0, 1]"),
        ("max_regions", -1, "give a number >= 0"),
        ("dropout", 1, "give a number in [0, 1)"),
        ("projection_dim", 0, "give a number in [1, 100000]"),
        ("max_temperature", 0.01, "Temperatures must satisfy"),
        ("val_split", "test", "nothing is ever trained or chosen on the test split"),
        ("train_split", "test", "nothing is ever trained or chosen on the test split"),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    named = "" if message.startswith("Temp") else f"{field}=.*"
    with pytest.raises(ValueError, match=f"{named}{re.escape(message)}"):
        load_run_config(None, given(field, value))


@pytest.mark.parametrize(
    "lacking", [{"model": {"freeze_vision": False}}, {"vision_model": None}, {"use_image": False}], ids=str
)
def test_a_vision_cache_needs_a_frozen_vision_encoder(lacking: dict[str, Any]) -> None:
    settings = {"vision_cache": "cache", "model": {"freeze_vision": True}, "vision_model": "org/vit"}
    assert load_run_config(None, settings).vision_cache == "cache"
    with pytest.raises(ValueError, match=r"vision_cache='cache' needs a vision encoder .* add --freeze_vision"):
        load_run_config(None, settings | lacking)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "a run's settings are a mapping of fields; given a list"),
        ("a: [", "while parsing"),
        ("just text", "a str"),
    ],
)
def test_a_malformed_file_is_refused_and_named(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s){path}: .*{message}"):
        load_run_config(path)


def test_a_file_that_is_nowhere_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file 'configs/nothing\.yaml'"):
        parse_run_config(["configs/nothing.yaml"])


def test_a_mapping_that_cannot_be_read_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_run_config(["--text_overrides", "{a"])
    assert stopped.value.code == 2
    assert "'{a' cannot be read" in capsys.readouterr().err


def test_all_settings_survive_writing_and_reading(tmp_path: Path) -> None:
    config = RunConfig(
        output_dir="outputs/ü: #1",
        vision_model={"model_type": "vit", "patch_size": 8},
        mixed_precision="no",
        max_steps=3,
        learning_rate=3e-5,
        entity_typer="null",
        use_image=False,
        model=ModelSettings(max_temperature=0.5, entity_types=("person", "animal")),
    )
    assert load_run_config(write(tmp_path, config.to_yaml())) == config
    assert list(yaml.safe_load(config.to_yaml())) == [field.name for field in dataclasses.fields(RunConfig)]


def test_a_run_is_not_changed_after_it_was_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]


def test_every_setting_says_what_it_means_and_help_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_run_config(["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--use_image, --no-use_image" in shown
    for name, own in {**RUN_FIELDS, **MODEL_FIELDS}.items():
        assert f"--{name} " in shown or f"--{name}, " in shown
        first_words = " ".join(own.metadata["about"].split()[:3])
        assert first_words in shown
        assert own.metadata.keys() <= {"about", *LIMITS, "effect", "local", "file"}, "a mark that nothing reads"
    assert "Label smoothing of the loss. (float in [0, 1); default: 0.0)" in shown


def test_help_needs_no_pytorch() -> None:
    code = "import sys, roc.train\ntry:\n roc.train.main(['--help'])\nfinally:\n print([*sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "--learning_rate" in done.stdout
    loaded = done.stderr.splitlines()[-1]
    assert "'roc.training.settings'" in loaded
    assert not [name for name in ("torch", "transformers", "datasets", "accelerate") if f"'{name}'" in loaded]


def test_no_setting_of_the_model_is_one_of_the_run_too() -> None:
    assert not RUN_FIELDS.keys() & MODEL_FIELDS.keys()
    assert settings_by_name(dataclasses.asdict(RunConfig())) == DEFAULTS
    assert DEFAULTS.keys() == RUN_FIELDS.keys() | MODEL_FIELDS.keys()


def test_what_settings_do_is_told_where_they_are_declared() -> None:
    assert {"output_dir", "num_threads", "resume", "dry_run"} <= WITHOUT_EFFECT < LOCAL_SETTINGS
    assert {"data_dir", "vision_cache"} == LOCAL_SETTINGS - WITHOUT_EFFECT
    assert {"relations", "negative_relations"} == FILE_SETTINGS
    assert not {"seed", "batch_size", "learning_rate", "mixed_precision"} & LOCAL_SETTINGS
