"""The files of a model: saved whole, and refused where they are not whole, not sound, or not ROC's."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file, is_peft_available

from .messages_roc import few, quote, read_settings

# What an `adapter_config.json` may set: what `training/adapters.py` sets, and what neither runs nor opens anything.
ADAPTER_SETTINGS = (
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "target_modules", "trainable_token_indices"),
)
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
            f"{adapted} holds an adapter, which says that the rest of the model is in "
            f"{quote(settings.get('base_model_name_or_path'))}. Name a folder that has both, or a repository whose "
            "adapter_config.json names that repository, as model.push_to_hub writes it."
        )
    cached_file(adapted, "adapter_model.safetensors", **where)  # raises where there is none


def _adapter_settings(path: Any, file: str) -> dict[str, Any]:
    """Read an adapter's settings; refuse those that ROC never makes: some import modules or load other models.

    Raises:
        ValueError: If it is not of the kind LoRA, or a setting is neither PEFT's default nor in `ADAPTER_SETTINGS`.
    """
    settings = read_settings(file)
    _check_adapter_settings(settings, str(path), "not loaded")
    return settings


def _check_adapter_settings(settings: Mapping[str, Any], who: str, fate: str) -> None:
    from peft import LoraConfig

    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{who} has an adapter of the kind {quote(kind)}; ROC's are of the kind 'LORA'.")
    usual = LoraConfig().to_dict()
    for name, value in settings.items():
        is_pattern = name == "target_modules" and not isinstance(value, (list, set))  # a pattern may take for ever
        if is_pattern or (name not in ADAPTER_SETTINGS and value not in (usual.get(name), None, {}, [])):
            raise ValueError(
                f"{who} has an adapter with the setting {quote(name)}: {quote(value)}. ROC's adapters have no such "
                f"setting, and it is {fate}."
            )


def check_index(path: Any, options: Mapping[str, Any]) -> None:
    """Refuse, with a ValueError, an index in a folder that names files outside of it; arguments as `check_adapter`."""
    file = Path(str(path)) / (options.get("subfolder") or "") / INDEX
    if not file.is_file():
        return
    try:
        names = [str(name) for name in read_settings(str(file))["weight_map"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no index of weights: restore it, or save the model again.") from error
    for name in names:
        if Path(name).name != name or "\\" in name:
            raise ValueError(f"{file} names the file {quote(name)}; only files of its own folder are read.")


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
                    f"{path} {problem} {few(names)}. Nothing is filled in at random: restore the files that were "
                    "saved together, or save the model again with this version of ROC."
                )


def check_finite(path: Any, model: PreTrainedModel) -> None:
    """Raise a ValueError that names the weights and buffers of a model that hold numbers which are not finite."""
    unsound = [name for name, tensor in model.state_dict().items() if not _is_finite(tensor)]
    if unsound:
        raise ValueError(f"{path} has weights that are not finite: {few(unsound)}. Restore them.")


@torch.no_grad()
def _is_finite(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.dtype not in FLOATS:
        return True
    if type(tensor) not in (Tensor, torch.nn.Parameter) and hasattr(tensor, "dequantize"):
        tensor = tensor.dequantize()
    # a sum takes a tenth of the time, and is not finite where a number is not; it may overflow by itself
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def check_layers(model: PreTrainedModel) -> None:
    """Raise a ValueError where an adapter is around layers that PyTorch has quantised, which it cannot work with."""
    if has_adapter(model) and any(type(own).__module__.startswith("torch.ao.") for own in model.modules()):
        raise ValueError(
            "An adapter cannot work around layers that torch.ao has quantised. Merge it before you quantise the model: "
            "roc.training.adapters.without_adapter(model, merge=True)."
        )


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether a model has an adapter, trained or loaded."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def _without_adapter(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick from a model's weights those that it has without its adapter, under the names that they have then."""
    plain = {plain_name(name): tensor for name, tensor in weights.items()}
    return {name: plain[name] for name in _names_without_adapter(model)}


def _names_without_adapter(model: PreTrainedModel) -> list[str]:
    with torch.device("meta"):
        return [*type(model)(copy.deepcopy(model.config)).state_dict()]


def plain_name(name: str) -> str:
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
        [name] = model.active_adapters()
        _check_adapter_settings(model.peft_config[name].to_dict(), "The model", "not saved. Merge it")
    elif not is_quantized and (foreign := set(model.state_dict()) ^ set(_names_without_adapter(model))):
        raise ValueError(
            f"The model's weights are not those that its configuration has a place for: {few(foreign)}. Save the "
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
