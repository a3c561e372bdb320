"""What a run is made of: its data, processor, model and optimizer groups, out of a `RunConfig`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, ViTImageProcessorPil
from transformers.utils import CONFIG_NAME

from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.zero_shot import restrict_rows
from roc.messages_roc import shorten
from roc.modeling_backbones_roc import PACKAGED_MODELS, resolve_model
from roc.modeling_roc import RocModel
from roc.modeling_vision_roc import picture_size
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory, load_relations
from roc.relations_bank_roc import descriptions_of
from roc.samples.grouping import GroupedSamples
from roc.samples.splitting import check_relations_known, sample_rows, split_rows, swap_none_pairs
from roc.support.resources import PACKAGE_ROOT
from roc.training.adapters import add_lora
from roc.training.checkpoints import checkpoint_folder, list_checkpoints
from roc.training.freezing import freeze_lower_layers
from roc.training.settings import METRICS_FILE, RUN_FILE, RunConfig

MAX_RESEMBLANCE = 0.4  # cosine of two descriptions in the description encoder; chosen on MNRE
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "safetensors", "tokenizers", "pillow")


def load_samples(
    config: RunConfig, inventory: RelationInventory, *, held_out: Collection[str] = ()
) -> tuple[GroupedSamples, GroupedSamples]:
    """The grouped training and validation samples.

    Args:
        config: The settings.
        inventory: The relations to train on.
        held_out: Relations whose rows are left out of both.

    Raises:
        ValueError: If a row's relation is neither in the inventory nor held out.
    """
    sees_pictures = config.use_image and config.vision_model is not None
    both = []
    for name, rows in zip((config.train_split, config.val_split), _load_rows(config)):
        where = f"{config.data_dir}, split {name}"
        kept = restrict_rows(rows, set(rows["relation"][:]) - set(held_out), where=where)
        both.append(GroupedSamples(kept, use_image=sees_pictures))
        check_relations_known(both[-1], inventory.names, where)
    train_set, val_set = both
    if config.max_train_samples is not None:
        train_set.samples = train_set.samples[: config.max_train_samples]
    if config.swap_none_pairs and inventory.none_relation is not None:
        swap_none_pairs(train_set, inventory.none_relation, seed=config.seed)
    return train_set, val_set


def _load_rows(config: RunConfig) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows to train on and to validate on: two splits, or two parts of one."""
    splits = load_dataset_splits(
        config.dataset,
        config.data_dir,
        splits=list(dict.fromkeys([config.train_split, config.val_split])),
        missing_images=config.missing_images,
        entity_typer=config.entity_typer,
    )
    train_rows, val_rows = splits[config.train_split], splits[config.val_split]
    if config.train_split == config.val_split:
        train_rows, val_rows = split_rows(train_rows, config.val_share)
    return sample_rows(train_rows, config.train_share, seed=config.seed), val_rows


def build_processor(config: RunConfig) -> RocProcessor:
    """The processor of a run, with the backbones' tokenizer and picture normalisation."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(config.text_model))
    return RocProcessor(
        _image_processor(config),
        tokenizer,
        markers=config.markers,
        max_length=config.max_length,
        max_regions=config.max_regions,
        entity_typer=config.entity_typer,
        object_names=config.object_names,
    )


def _image_processor(config: RunConfig) -> Any:
    """Scales the whole picture to a square, without cropping: boxes are shares of the whole picture."""
    if config.vision_model is None or not config.use_image:
        return None
    if isinstance(config.vision_model, str):
        folder = resolve_model(config.vision_model)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        vision_config = AutoConfig.from_pretrained(folder)
        vision_config = getattr(vision_config, "vision_config", vision_config)
        if vision_config.model_type == "siglip2_vision_model":  # its own processor cuts pictures into patches
            processor = ViTImageProcessorPil(image_mean=processor.image_mean, image_std=processor.image_std)
    else:
        processor, fields = ViTImageProcessorPil(), dict(config.vision_model)
        vision_config = AutoConfig.for_model(fields.pop("model_type", "vit"), **fields)
    side = config.image_size
    height, width = picture_size(vision_config) if side is None else (side, side)
    processor.size, processor.do_center_crop = {"height": height, "width": width}, False
    return processor


def build_model(config: RunConfig, processor: RocProcessor, inventory: RelationInventory) -> RocModel:
    """The model of a run, with its relations.

    Raises:
        ValueError: If `markers_like` is not a token, or as `freeze_lower_layers`.
    """
    vision = config.vision_model if config.use_image else None
    model = RocModel.from_backbones(
        resolve_model(config.text_model),
        resolve_model(vision) if isinstance(vision, str) else vision,
        vocab_size=len(processor.tokenizer),
        text_overrides=config.text_overrides,
        share_description_encoder=config.share_description_encoder,
        freeze_vision=config.freeze_vision,
        head=config.head,
        fusion_num_layers=config.fusion_num_layers,
        fusion_num_heads=config.fusion_num_heads,
        fusion_intermediate_size=config.fusion_intermediate_size,
        pair_representation=config.pair_representation,
        alignment=config.alignment,
        projection_dim=config.projection_dim,
        dropout=config.dropout,
        initial_temperature=config.initial_temperature,
        learn_temperature=config.learn_temperature,
        description_pooling=config.description_pooling,
        label_smoothing=config.label_smoothing,
        relation_dropout=config.relation_dropout,
        picture_dropout=config.picture_dropout,
        wrong_pictures=config.wrong_pictures,
        token_dropout=config.token_dropout,
        type_constraints=config.type_constraints,
        type_penalty=config.type_penalty,
        max_regions=config.max_regions,
        relations=inventory.relations,
        none_relation=inventory.none_relation,
    )
    if config.markers_like is not None:
        model.start_tokens_like(processor.marker_ids, _token_id(processor, config.markers_like))
    if config.head == "retrieval":
        model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    if config.activation_checkpointing:
        # its name before Transformers 5.23 was gradient_checkpointing_enable
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    if config.freeze_text_layers is not None:
        freeze_lower_layers(model.text_model, config.freeze_text_layers)
    if config.lora_rank is not None:
        add_lora(
            model,
            encoders=config.lora_encoders,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            marker_ids=processor.marker_ids,
        )
    return model


def encode_negatives(
    config: RunConfig, processor: RocProcessor, model: RocModel, inventory: RelationInventory
) -> Tensor | None:
    """The features of descriptions that hold for no pair.

    Descriptions that resemble one of the inventory's are left out: they may hold after all.

    Args:
        config: The settings.
        processor: The model's processor.
        model: The model; its bank holds the inventory.
        inventory: The relations to train on.

    Returns:
        `(num_negatives, feature_dim)`, or None where the settings name no file.

    Raises:
        ValueError: If the model classifies or its description encoder learns, or no description is left.
    """
    if config.negative_relations is None:
        return None
    if config.head != "retrieval" or config.share_description_encoder:
        raise ValueError("negative_relations needs --head retrieval and a frozen description encoder. Leave one out.")
    texts = descriptions_of(load_relations(config.negative_relations).relations)
    kept = unrelated_descriptions(texts, processor, model)
    if not kept:
        raise ValueError(
            f"negative_relations={config.negative_relations!r}: every description resembles one of "
            f"{shorten(str(inventory.names))}. Name a file with relations that are farther from them."
        )
    return torch.stack([*kept.values()])


def unrelated_descriptions(texts: Sequence[str], processor: RocProcessor, model: RocModel) -> dict[str, Tensor]:
    """Of descriptions those that resemble none of a model's own, each with its features `(feature_dim,)`."""
    encoded = model.encode_texts(texts, processor)
    features = torch.stack([encoded[text] for text in texts])
    own = functional.normalize(model.relation_bank.features, dim=-1)
    resemblance = (functional.normalize(features, dim=-1) @ own.T).amax(dim=-1).tolist()
    return {text: encoded[text] for text, cosine in zip(texts, resemblance) if cosine < MAX_RESEMBLANCE}


def _token_id(processor: RocProcessor, token: str) -> int:
    vocabulary = processor.tokenizer.get_vocab()
    if token not in vocabulary:
        raise ValueError(f"markers_like={token!r} is not a token of this tokenizer. Give one that is, such as ','.")
    return vocabulary[token]


def parameter_groups(model: RocModel, config: RunConfig) -> list[dict[str, Any]]:
    """Optimizer groups: a learning rate per part, no weight decay on biases, norms and single vectors.

    Args:
        model: The model.
        config: Learning rates and weight decay.

    Returns:
        Groups in which every trainable parameter is exactly once.
    """
    rates = {"text_model": config.learning_rate, "vision_model": config.vision_learning_rate}
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((part if part in rates else "head", decay), []).append(parameter)
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(trainable), "a parameter is in two groups, or in none"
    assert set(grouped) == trainable
    return [
        {
            "part": part,
            "params": parameters,
            "lr": rates.get(part, config.head_learning_rate),
            "weight_decay": decay,
        }
        for (part, decay), parameters in groups.items()
    ]


def build_optimizer(model: RocModel, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over `parameter_groups`; with 8-bit averages as in Dettmers et al. (2022).

    Raises:
        ImportError: If the 8-bit optimizer is not installed.
    """
    groups = parameter_groups(model, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ImportError("optimizer='adamw_8bit' needs bitsandbytes. Type `pip install 'roc[8bit]'`.") from error
    return AdamW8bit(groups)


def check_output_dir(config: RunConfig, *, resumed_from: Path | None = None) -> None:
    """Refuse to replace a folder that is not an earlier run's, and an earlier run's unless asked to.

    Args:
        config: The settings.
        resumed_from: The checkpoint that the run goes on from; None if it starts afresh. A run may replace its own
            folder.

    Raises:
        ValueError: If the folder must not be replaced.
        OSError: If it cannot be written.
    """
    if config.dry_run:
        return
    folder, checkpoints = Path(config.output_dir), checkpoint_folder(config)
    is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken and not (folder / RUN_FILE).is_file():
        raise ValueError(
            f"output_dir={config.output_dir!r} exists and holds something else than a run. Choose another folder."
        )
    goes_on = resumed_from is not None and resumed_from.parent == checkpoints
    # killed after it saved its first model and before its first checkpoint
    starts_again = config.resume == "auto" and not (folder / METRICS_FILE).is_file()
    if not (config.overwrite or goes_on or starts_again):
        if list_checkpoints(checkpoints):
            raise ValueError(
                f"{checkpoints} holds the checkpoints of a run that has not ended. Add --resume auto to go on with it, "
                "or --overwrite to start afresh, or choose another output_dir."
            )
        if is_taken:
            raise ValueError(
                f"output_dir={config.output_dir!r} holds an earlier run. Choose another folder, or add --overwrite."
            )
    try:  # fails now rather than after an epoch
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as probe:
            (Path(probe) / "probe").write_text("x", encoding="utf-8")
    except OSError as error:
        raise OSError(f"output_dir={config.output_dir!r} cannot be written ({error}). Choose another one.") from error


def environment(config: RunConfig) -> dict[str, Any]:
    """What a run is made with: the commit (None outside a checkout), versions, and `base_revisions`.

    Those are of `text_model` and `vision_model`: a commit of the Hub, the version of a package, or None where an
    encoder comes from a folder, starts at random or is not there.
    """
    versions = {library: version(library) for library in LIBRARIES}
    revisions = {name: _revision_of(getattr(config, name)) for name in ("text_model", "vision_model")}
    return {"commit": _commit(), "base_revisions": revisions, "python": sys.version.split()[0], **versions}


def _revision_of(encoder: str | dict[str, Any] | None) -> str | None:
    if encoder is None or isinstance(encoder, dict):
        return None
    if encoder in PACKAGED_MODELS:
        return version(encoder)
    if Path(encoder).is_dir():
        return None
    file = try_to_load_from_cache(encoder, CONFIG_NAME)  # .../snapshots/COMMIT/config.json
    return Path(file).parent.name if isinstance(file, str) else None


def _commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")
    return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def choose_precision(config: RunConfig) -> str:
    """`bf16` where the hardware multiplies it natively, unless the settings say otherwise."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"
