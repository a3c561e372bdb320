"""What a run is made of: its samples, processor and model, out of a `RunConfig`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerBase, ViTImageProcessorPil

from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.zero_shot import restrict_rows
from roc.messages_roc import shorten
from roc.modeling_backbones_roc import check_encoder, most_tokens, resolve_model, vision_config_of
from roc.modeling_roc import RocModel
from roc.modeling_vision_roc import picture_size
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory, read_relation_file
from roc.relations_bank_roc import descriptions_of
from roc.samples.grouping import GroupedSamples
from roc.samples.reading import leave_out_unreadable, settle_unreadable
from roc.samples.splitting import (
    check_relations_known,
    sample_rows,
    split_relations,
    split_rows,
    swap_none_pairs,
)
from roc.training.adapters import add_lora, freeze_lower_layers
from roc.training.competitors import resemblances
from roc.training.settings import RunConfig
from roc.training.sources import RunData, Source


def load_data(config: RunConfig, sources: Sequence[Source], processor: RocProcessor) -> RunData:
    """Load and group the training and the validation samples of a run.

    Rows that the processor cannot encode are left out and listed in `GroupedSamples.unreadable`. A dry run stops for
    them only when it has reported on the others (`roc.samples.report`).

    Raises:
        ValueError: If a row's relation is not in the inventory, or the model cannot read a row and `unreadable_rows`
            does not skip it.
    """
    splits = [load_samples(config, source, processor) for source in sources]
    data = RunData(sources, *zip(*splits))
    if not (config.dry_run and all(samples.samples for both in splits for samples in both)):
        settle_unreadable(data.splits, config.unreadable_rows)
    for source, both in zip(sources, splits):
        for samples in both if len(sources) > 1 else ():
            samples.rename(source.names, prefix=f"{source.name}: ")
    return data


def load_samples(config: RunConfig, source: Source, processor: RocProcessor) -> tuple[GroupedSamples, GroupedSamples]:
    """Load a source's samples to train on and to validate on, each without the rows that the processor cannot encode.

    Raises:
        ValueError: If a row's relation is not in the source's inventory.
    """
    training, validating = source.training, source.validating
    known = set(source.inventory.names)
    both = []
    for split, rows, inventory in zip(
        (source.settings.train_split, source.settings.val_split), _load_rows(config, source), (training, validating)
    ):
        where = f"{source.settings.data_dir}, split {split}"
        # a relation that is in no inventory stays, to be named
        kept = restrict_rows(rows, set(rows["relation"][:]) - (known - set(inventory.names)), where=where)
        both.append(GroupedSamples(kept, use_image=config.sees_pictures))
        check_relations_known(both[-1], inventory.names, where)
    train_set, val_set = both
    if config.max_train_samples is not None:
        train_set.samples = train_set.samples[: config.max_train_samples]
    for samples in both:
        leave_out_unreadable(samples, processor)
    if config.swap_none_pairs and training.none_relation is not None:
        swap_none_pairs(train_set, training.none_relation, seed=config.seed)
    return train_set, val_set


def _load_rows(config: RunConfig, source: Source) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Load the rows to train on and to validate on: two splits, or two parts of one."""
    own = source.settings
    splits = load_dataset_splits(
        own.dataset,
        own.data_dir,
        splits=list(dict.fromkeys([own.train_split, own.val_split])),
        missing_images=config.missing_images,
        entity_typer=config.entity_typer,
        parts=own.parts,
    )
    train_rows, val_rows = splits[own.train_split], splits[own.val_split]
    if own.train_split == own.val_split and own.eval_relations:
        none_relation = source.inventory.none_relation
        train_rows, val_rows = split_relations(train_rows, own.eval_relations, none_relation, own.val_share)
    elif own.train_split == own.val_split:
        train_rows, val_rows = split_rows(train_rows, own.val_share)
    return sample_rows(train_rows, own.train_share, seed=config.seed), val_rows


def build_processor(config: RunConfig) -> RocProcessor:
    """Build the processor of a run, with the backbones' tokenizer and picture normalisation.

    Raises:
        ValueError: If the text encoder has no tokenizer.
    """
    return RocProcessor(
        _image_processor(config),
        _tokenizer(config),
        markers=config.markers,
        max_length=config.max_length,
        max_regions=config.max_regions,
        entity_typer=config.entity_typer,
        object_names=config.object_names,
        entity_types=config.model.entity_types,
    )


def check_encoders(config: RunConfig) -> None:
    """Raise a ValueError where `text_model` or `vision_model` names something else than an encoder of its kind."""
    if config.start_from is not None:  # which has its encoders
        return
    if config.text_model is not None:
        check_encoder(resolve_model(config.text_model), part="text_model")
    if config.sees_pictures and isinstance(config.vision_model, str):
        check_encoder(resolve_model(config.vision_model), part="vision_model")


def _tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    """Load the text encoder's tokenizer; without its files, Transformers makes up one that knows hardly a word."""
    assert config.text_model is not None  # else the run starts from a model with its processor
    folder = resolve_model(config.text_model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, KeyError) as error:
        reason = shorten(str(error).partition("\n")[0], 200)
        raise ValueError(
            f"text_model={config.text_model!r} has no tokenizer that can be loaded ({reason}). Put its tokenizer.json "
            "and tokenizer_config.json beside the weights."
        ) from error
    num_tokens = AutoConfig.from_pretrained(folder, trust_remote_code=False).vocab_size
    if 2 * len(tokenizer) < num_tokens:
        raise ValueError(
            f"text_model={config.text_model!r} reads {num_tokens} tokens, but its tokenizer knows {len(tokenizer)}: "
            "its files are missing, or another model's. Put its tokenizer.json and tokenizer_config.json beside the "
            "weights."
        )
    return tokenizer


def _image_processor(config: RunConfig) -> Any:
    """Build what scales the whole picture to a square, without cropping: boxes are shares of the whole picture."""
    if config.vision_model is None or not config.use_image:
        return None
    if isinstance(config.vision_model, str):
        folder = resolve_model(config.vision_model)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        vision_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        vision_config = getattr(vision_config, "vision_config", vision_config)
        if vision_config.model_type == "siglip2_vision_model":  # its own processor cuts pictures into patches
            processor = ViTImageProcessorPil(image_mean=processor.image_mean, image_std=processor.image_std)
    else:
        processor = ViTImageProcessorPil()
        vision_config = vision_config_of(config.vision_model)
    height, width = [config.image_size] * 2 if config.image_size else picture_size(vision_config)
    processor.size, processor.do_center_crop = {"height": height, "width": width}, False
    return processor


def build_model(
    config: RunConfig, processor: RocProcessor, inventory: RelationInventory, start: RocModel | None = None
) -> RocModel:
    """Build the model of a run, with its relations, out of pretrained encoders or out of a trained model, `start`.

    Raises:
        ValueError: If `max_length` is more than the text encoder reads, `markers_like` is not a token,
            `freeze_text_layers` leaves no layer to train, or `start` classifies other relations.
    """
    model = _new_model(config, processor, inventory) if start is None else start
    _fit_lengths(config, processor, model)
    if config.model.head == "retrieval":
        model.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    elif start is not None:
        if inventory.names != model.config.relation_names:
            raise ValueError(
                f"start_from={config.start_from!r} classifies {shorten(str(model.config.relation_names))}: each is an "
                "output, and others need other weights. Leave out --relations and relations that are held out, or "
                "start from a model that retrieves."
            )
        model.config.replace_relations(inventory.relations, inventory.none_relation)
    if config.activation_checkpointing:
        # its name before Transformers 5.23 was gradient_checkpointing_enable
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    if config.freeze_text_layers is not None:
        freeze_lower_layers(model.text_model, config.freeze_text_layers)
    if config.lora_rank is not None:
        alpha, marker_ids = config.lora_alpha, processor.marker_ids
        add_lora(model, encoders=config.lora_encoders, rank=config.lora_rank, alpha=alpha, marker_ids=marker_ids)
    return model


def _new_model(config: RunConfig, processor: RocProcessor, inventory: RelationInventory) -> RocModel:
    """Build a model out of pretrained encoders."""
    assert config.text_model is not None
    vision = config.vision_model if config.use_image else None
    model = RocModel.from_backbones(
        resolve_model(config.text_model),
        resolve_model(vision) if isinstance(vision, str) else vision,
        vocab_size=len(processor.tokenizer),
        text_overrides=config.text_overrides,
        share_description_encoder=config.share_description_encoder,
        **dataclasses.asdict(config.model),
        relations=inventory.relations,
        none_relation=inventory.none_relation,
    )
    if config.markers_like is not None:
        vocabulary = processor.tokenizer.get_vocab()
        if config.markers_like not in vocabulary:
            raise ValueError(
                f"markers_like={config.markers_like!r} is not a token of this tokenizer. Give one that is, such as ','."
            )
        model.start_tokens_like(processor.marker_ids, vocabulary[config.markers_like])
    return model


def _fit_lengths(config: RunConfig, processor: RocProcessor, model: RocModel) -> None:
    """Give the processor the limit of the text encoder's positions, which tokenizers often do not state.

    Raises:
        ValueError: If `max_length` is more than that.
    """
    limit = most_tokens(model.text_model)
    if limit is not None and config.max_length > limit:
        raise ValueError(
            f"max_length={config.max_length} is more than the {limit} tokens that the text encoder has positions for. "
            f"Lower --max_length to {limit} or less."
        )
    processor.tokenizer.model_max_length = min(processor.tokenizer.model_max_length, limit or math.inf)
    describer = getattr(model, "relation_model", None)
    limits = [most_tokens(encoder) for encoder in (model.text_model, describer) if encoder is not None]
    processor.max_description_length = min([processor.max_description_length, *(own for own in limits if own)])


def read_negatives(config: RunConfig) -> RelationInventory | None:
    """Read the relations that hold for no pair, where the run has any."""
    if config.negative_relations is None:
        return None
    return read_relation_file(config.negative_relations, entity_types=config.model.entity_types)


def encode_negatives(
    config: RunConfig, processor: RocProcessor, model: RocModel, negatives: RelationInventory | None
) -> Tensor | None:
    """Encode the descriptions that hold for no pair.

    Descriptions that resemble one in the model's bank are left out: they may hold after all.

    Returns:
        `(num_negatives, feature_dim)`, or None without negatives.

    Raises:
        ValueError: If the model classifies or its description encoder learns, or no description is left.
    """
    if negatives is None:
        return None
    if config.model.head != "retrieval" or config.share_description_encoder:
        raise ValueError("negative_relations needs --head retrieval and a frozen description encoder. Leave one out.")
    texts = descriptions_of(negatives.relations)
    kept = unrelated_descriptions(texts, processor, model, max_resemblance=config.max_resemblance)
    rows = model.texts_of_rows(negatives.relations)
    encoded = model.encode_texts([text for row in rows for text in row[1:]], processor) | kept
    if not kept:
        raise ValueError(
            f"negative_relations={config.negative_relations!r}: every description resembles one of "
            f"{shorten(str(model.config.relation_names))}. Name a file with relations that are farther from them, or "
            f"raise --max_resemblance ({config.max_resemblance})."
        )
    return torch.stack([torch.cat([encoded[text] for text in row]) for row in rows if row[0] in kept])


def unrelated_descriptions(
    texts: Sequence[str], processor: RocProcessor, model: RocModel, *, max_resemblance: float
) -> dict[str, Tensor]:
    """Return the descriptions that resemble no relation of a model, each with its features `(feature_dim,)`."""
    encoded = model.encode_texts(texts, processor)
    nearest = resemblances(torch.stack([encoded[text] for text in texts]), model).amax(dim=-1).tolist()
    return {text: encoded[text] for text, cosine in zip(texts, nearest) if cosine < max_resemblance}
