"""The trained model that a run starts from: what it fixes of the settings, and its weights, processor and record.

Its code is never run: the weights are read into ROC's own classes, and the settings as data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.configuration_fields_roc import ModelSettings
from roc.messages_roc import quote, read_settings, shorten
from roc.support.reading import read_yaml

if TYPE_CHECKING:
    from roc.modeling_roc import RocModel
    from roc.processing_roc import RocProcessor
    from roc.training.settings import RunConfig

CONFIG, PROCESSOR = "config.json", "processor_config.json"
RUN_FILE = "run_config.yaml"  # in the folder of a run, beside the weights
ENVIRONMENT_FILE = "environment.json"  # in that folder: versions and commit
RECORD = "start_from"  # in that file: where the run started

# Settings of the model that its weights have fixed; others, such as dropout, may be given anew.
FIXED_OF_MODEL = (
    *("head", "fusion_num_layers", "fusion_num_heads", "fusion_intermediate_size"),
    *("pair_representation", "alignment", "projection_dim"),
)
# Settings of the run that are fixed, and those that the processor has.
FIXED_OF_RUN = (
    *("markers", "markers_like", "text_model", "text_overrides", "share_description_encoder"),
    *("vision_model", "image_size"),
)
OF_PROCESSOR = ("markers", "max_length", "max_regions", "object_names", "entity_typer")
OF_RECORD = ("text_model", "vision_model", "text_overrides", "markers_like")  # no file but a run's tells these
TYPERS = (None, "spacy")  # others must be named by the user: a typer is code or a model from elsewhere
MOST_STARTS = 20  # of which the record of a run tells: a start may have had a start itself


@dataclass(frozen=True)
class Start:
    """A trained model to train further, its processor, and `record`: which model it is, for the run's record."""

    model: RocModel
    processor: RocProcessor
    record: dict[str, Any]


def settings_from_start(start: str, of_run: dict[str, Any], of_model: dict[str, Any]) -> tuple[dict, dict]:
    """Complete the settings of a run by those of the model that it starts from.

    Args:
        start: The model: a folder or a Hub id.
        of_run: The run's settings that are given.
        of_model: The model's settings that are given.

    Returns:
        Both, with what the start has where nothing is given.

    Raises:
        OSError: If there is no such model.
        ValueError: If it is no ROC model, or a given setting contradicts it; the message names all that do.
    """
    config, processor = _read(start, CONFIG), _read(start, PROCESSOR)
    record = _read_record(start)
    sees_pictures = config.get("vision_config") is not None
    kept_run = {name: processor[name] for name in OF_PROCESSOR if name in processor}
    kept_run |= {name: record[name] for name in OF_RECORD if name in record}
    kept_run |= {
        "share_description_encoder": config.get("head") == "retrieval" and config.get("relation_config") is None,
        "vision_model": (record.get("vision_model") or config["vision_config"]) if sees_pictures else None,
        "image_size": _side(processor) if sees_pictures else None,
    }
    kept_model = {name: config[name] for name in ModelSettings.__dataclass_fields__ if name in config}
    if kept_run.get("entity_typer") not in TYPERS and "entity_typer" not in of_run:
        raise ValueError(
            f"start_from={start!r} has entity types predicted by {quote(kept_run['entity_typer'])}. Name it "
            "with --entity_typer if you trust it, or choose another one, such as spacy."
        )
    of_run = _without_unseen_pictures(start, of_run, sees_pictures=sees_pictures)
    wrong = [
        f"{name}={quote(given[name])} ({_readable(name, kept)})"
        for names, given, kept in ((FIXED_OF_MODEL, of_model, kept_model), (FIXED_OF_RUN, of_run, kept_run))
        for name in names
        if given.get(name) is not None and given[name] != kept.get(name)
    ]
    if wrong:
        raise ValueError(
            f"These settings contradict start_from={start!r}, of which the weights are made for others: "
            f"{'; '.join(wrong)}. Leave them out, or give null in their place."
        )
    given_run = {name: value for name, value in of_run.items() if value is not None or name not in FIXED_OF_RUN}
    given_model = {name: value for name, value in of_model.items() if value is not None or name not in FIXED_OF_MODEL}
    defaults = {"relations": None, "text_model": None}
    return defaults | kept_run | given_run | {"markers_like": None}, kept_model | given_model


def load_start(config: RunConfig) -> Start | None:
    """Load the model that a run starts from, with the run's settings; None where it starts from pretrained encoders.

    An adapter is merged into the weights: the run may put another one on.

    Raises:
        OSError: If there is no such model, or a part of it is missing.
        ValueError: If it is no ROC model, or is to be written over by the run itself.
    """
    name = config.start_from
    if name is None:
        return None
    import torch  # here, as below: settings are read without PyTorch

    from roc.configuration_roc import RocConfig
    from roc.modeling_roc import RocModel
    from roc.modeling_saving_roc import has_adapter
    from roc.processing_roc import RocProcessor
    from roc.training.adapters import without_adapter

    if Path(name).is_dir() and Path(name).resolve() == Path(config.output_dir).resolve():
        raise ValueError(f"start_from={name!r} is the output_dir too. Choose another output_dir.")
    model_config = RocConfig.from_pretrained(name)
    initial_temperature = model_config.initial_temperature
    for field, value in asdict(config.model).items():
        setattr(model_config, field, value)
    model_config.probability_temperature = 1.0  # as long as the run has not calibrated it
    if config.relations is not None or config.sources is not None:
        model_config.none_threshold = None
    model = RocModel.from_pretrained(name, config=model_config, dtype=torch.float32)
    if has_adapter(model):
        model = without_adapter(model, merge=True)
    if model_config.head == "retrieval" and model_config.initial_temperature != initial_temperature:
        torch.nn.init.constant_(model.logit_scale, -math.log(model_config.initial_temperature))
    processor = _with_settings(RocProcessor.from_pretrained(name), config)
    if len(processor.tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise ValueError(f"start_from={name!r} is not whole: its tokenizer has more tokens than its text encoder.")
    return Start(model, processor, _record(name))


def _with_settings(own: RocProcessor, config: RunConfig) -> RocProcessor:
    """Make a processor with the parts of a start's and the settings of a run."""
    return type(own)(
        own.image_processor if own.reads_images else None,
        own.tokenizer,
        markers=own.markers,
        max_length=config.max_length,
        max_description_length=own.max_description_length,
        max_regions=config.max_regions,
        entity_typer=config.entity_typer,
        entity_types=config.model.entity_types,
        reads_images=own.reads_images,
        object_names=config.object_names,
    )


def _without_unseen_pictures(start: str, of_run: dict[str, Any], *, sees_pictures: bool) -> dict[str, Any]:
    """Return the given settings without those of pictures that neither start nor run sees."""
    use_image = of_run.get("use_image", True)
    if sees_pictures and not use_image:
        raise ValueError(
            f"use_image=False contradicts start_from={start!r}, which reads pictures. Leave it out: it takes posts "
            "without a picture too."
        )
    if not sees_pictures and use_image and of_run.get("vision_model") is not None:
        raise ValueError(
            f"vision_model={quote(of_run['vision_model'])} contradicts start_from={start!r}, which reads text "
            "only. Leave it out, or start from a model that reads pictures."
        )
    unseen = () if sees_pictures else ("vision_model", "image_size")
    return {name: value for name, value in of_run.items() if name not in unseen}


def _readable(name: str, kept: Mapping[str, Any]) -> str:
    return f"it has {quote(kept[name])}" if name in kept else "which it has is not recorded"


def _side(processor: Mapping[str, Any]) -> int | None:
    """Return how many pixels a square picture has per side, as a processor's settings say."""
    part = processor.get("image_processor")
    size = part.get("size") if isinstance(part, dict) else None
    return size.get("height") if isinstance(size, dict) and size.get("height") == size.get("width") else None


def _read(start: str, name: str) -> dict[str, Any]:
    """Read a JSON file of the start.

    Raises:
        OSError: If there is no such model or file.
        ValueError: If the file is damaged, or the model is not ROC's.
    """
    file = _find(start, name)
    if file is None:
        raise FileNotFoundError(f"start_from={start!r} has no {name}. {_what_to_give(start)}")
    content = _read_json(start, file)
    if name == CONFIG and content.get("model_type") != "roc":
        kind = shorten(str(content.get("model_type", "unknown")))
        raise ValueError(
            f"start_from={start!r} is a model of type {kind}, not a ROC model. To train a new ROC model with it, give "
            "it as text_model or vision_model."
        )
    return content


def _read_json(start: str, file: Path) -> dict[str, Any]:
    try:
        return read_settings(str(file))
    except ValueError as error:
        raise ValueError(f"start_from={start!r}: {shorten(str(error), 200)}") from error


def _what_to_give(start: str) -> str:
    folder = Path(start)
    if (folder / "best" / CONFIG).is_file():
        return f"It is a checkpoint; its model is {folder / 'best'}."
    if (folder / "adapter_config.json").is_file():
        return "It is an adapter without its model. Give the folder that has both."
    return "Give the folder of a run of train.py, a published ROC model's, or its Hub id USER/NAME."


def _find(start: str, name: str) -> Path | None:
    """Return the path of a file of the start, which is downloaded where the start is a Hub id; None without one.

    Raises:
        OSError: If there is no such folder, or the Hub cannot be reached.
    """
    if Path(start).is_dir():
        return Path(start) / name if (Path(start) / name).is_file() else None
    if start.count("/") != 1 or Path(start).exists():
        raise FileNotFoundError(f"start_from={start!r} is no folder (and a Hub id has the form USER/NAME).")
    from transformers.utils import cached_file

    try:
        found = cached_file(start, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise OSError(f"start_from={start!r} could not be loaded from the Hub: {error}") from error
    return None if found is None else Path(found)


def _read_record(start: str) -> dict[str, Any]:
    """Return the settings of the run that trained the start, where it has them, as they stand there."""
    file = _find(start, RUN_FILE)
    if file is None:
        return {}
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise ValueError(f"start_from={start!r}: {shorten(str(error), 200)}") from error
    return content if isinstance(content, dict) else {}


def _record(start: str) -> dict[str, Any]:
    """Return what is recorded of a start: its name, commit, checksums, the data it was trained on, its own start."""
    from roc.dataset_scripts.building.raw_files import sha256_of_file

    file = _find(start, CONFIG)
    assert file is not None  # `settings_from_start` has read it
    run, environment_file = _read_record(start), _find(start, ENVIRONMENT_FILE)
    environment = {} if environment_file is None else _read_json(start, environment_file)
    for weights in ("model.safetensors", "adapter_model.safetensors"):  # a Hub's, before they are looked for
        _find(start, weights)
    files = sorted([file, *file.parent.glob("*.safetensors")])
    revisions = environment.get("base_revisions")
    return {
        "name": start,
        "revision": None if Path(start).is_dir() else file.parent.name,  # .../snapshots/COMMIT/config.json
        "sha256": {path.name: sha256_of_file(path) for path in files},
        "dataset": _data_of(run),
        "base_revisions": revisions if isinstance(revisions, dict) else {},
        RECORD: _earlier(environment.get(RECORD)),
    }


def _data_of(run: Mapping[str, Any]) -> str | None:
    """Return the names of the data that a run was trained on; None where they are not recorded."""
    sources = run.get("sources")
    recorded = [own for own in sources if isinstance(own, Mapping)] if isinstance(sources, list) else [run]
    return ", ".join(dict.fromkeys(own["dataset"] for own in recorded if isinstance(own.get("dataset"), str))) or None


def _earlier(record: Any, depth: int = 1) -> dict[str, Any] | None:
    """Return of the record of a start's start what is one."""
    if not isinstance(record, Mapping) or depth > MOST_STARTS:
        return None
    texts = {name: record[name] for name in ("name", "revision", "dataset") if isinstance(record.get(name), str)}
    checksums = record["sha256"] if isinstance(record.get("sha256"), Mapping) else {}
    return texts | {
        "sha256": {file: own for file, own in checksums.items() if isinstance(own, str)},
        RECORD: _earlier(record.get(RECORD), depth + 1),
    }
