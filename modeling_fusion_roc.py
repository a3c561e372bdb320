"""From texts and pictures to pair vectors: what the model reads, how it is fused, and the head that joins a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_roc import RocConfig
from .modeling_backbones_roc import build_backbone
from .modeling_saving_roc import check_layers
from .modeling_vision_roc import RocImageEmbeddings, encode_patches

TEXT, IMAGE, REGION = 0, 1, 2  # rows of the modality embedding


@dataclass(frozen=True)
class PairInputs:
    """Texts, their pictures and entities, and the pairs to score, as `RocProcessor` gives them.

    Args:
        input_ids: `(batch, length)` int64, with marked entities.
        attention_mask: `(batch, length)`, 1 = real.
        entity_positions: `(batch, entities)` int64. For a text entity, the token of its opening marker; for an object,
            the number of its region.
        entity_is_region: `(batch, entities)` bool, True for objects.
        pair_index: `(batch, pairs, 2)` int64, head and tail as columns of `entity_positions`.
        pixel_values: `(images, channels, height, width)`, each distinct picture once; None without pictures.
        patch_features: `(images, rows, columns, vision_hidden)`, what `encode_patches` gives for a frozen vision
            encoder. They take the place of `pixel_values`.
        image_index: `(batch,)` int64, each sample's row of `pixel_values`, -1 for no picture.
        region_boxes: `(batch, regions, 4)`, `xyxy` in [0, 1], origin top left.
        region_mask: `(batch, regions)`, 1 = real.
        region_name_positions: `(batch, regions)` int64, the token of the opening marker of each region's name, -1 for
            a region whose name is not read.
        entity_type_ids: `(batch, entities)` int64, `type_id` of each entity's type, -1 for no type. Only
            `type_constraints` read them.
        marker_mask: `(batch, length)`, 1 = opening marker, entity type or closing marker. Only `token_dropout` reads
            it.
        whole_batch: `(batch, rows, images, digest, 0)` without an entry. Its shape states how many rows and pictures
            belong together, so that a batch of which only some rows are left is noticed.
    """

    input_ids: Tensor
    attention_mask: Tensor
    entity_positions: Tensor
    entity_is_region: Tensor
    pair_index: Tensor
    pixel_values: Tensor | None = None
    patch_features: Tensor | None = None
    image_index: Tensor | None = None
    region_boxes: Tensor | None = None
    region_mask: Tensor | None = None
    region_name_positions: Tensor | None = None
    entity_type_ids: Tensor | None = None
    marker_mask: Tensor | None = None
    whole_batch: Tensor | None = None

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> PairInputs:
        """Take the tensors above from a batch of the processor, and leave out what else it holds."""
        return cls(**{field.name: batch[field.name] for field in fields(cls) if field.name in batch})

    def pictures(self) -> Tensor | None:
        """Give the pixels or features of all pictures, where there are any.

        Raises:
            ValueError: If both were given, no row tells which of them it shows, or rows or pictures of the batch are
                missing: `image_index` would name other posts' pictures.
        """
        if self.pixel_values is not None and self.patch_features is not None:
            raise ValueError("Both pixel_values and patch_features were given. Give one: they are the same pictures.")
        given = self.pixel_values if self.patch_features is None else self.patch_features
        here = (len(self.input_ids), 0 if given is None else len(given))
        whole = None if self.whole_batch is None else tuple(self.whole_batch.shape[1:3])
        if self.image_index is None:
            if here[1] and (whole is None or whole[1]):  # training adds one to batches that have none
                raise ValueError(
                    f"{here[1]} pictures were given without image_index, which tells the rows that show them. Give the "
                    "model everything that the processor returns."
                )
            return given if here[1] else None
        if whole is not None and whole[1] and whole != here:
            raise ValueError(
                f"This batch was made of {whole[0]} texts and {whole[1]} pictures, but {here[0]} texts and {here[1]} "
                "pictures of it are here. Each picture is in a batch once, however many texts show it, so a batch "
                "cannot be sliced by rows, as nn.DataParallel and accelerate's dispatch_batches or split_batches do: "
                "have each process call the processor for its own posts."
            )
        return given if here[1] else None


class FusedPart(NamedTuple):
    """One modality's share of the fused sequence."""

    states: Tensor  # (batch, n, hidden)
    mask: Tensor  # (batch, n) bool, True = real
    modality: int  # TEXT, IMAGE or REGION


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out: `(batch, heads, length, head_dim)` in, `(batch, length, heads, head_dim)` out."""
    weights = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:  # added rather than filled in: nothing to undo in the backward pass
        hidden = torch.zeros_like(attention_mask, dtype=weights.dtype)
        weights = weights + hidden.masked_fill_(~attention_mask, torch.finfo(weights.dtype).min / 2)
    weights = functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = functional.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


class RocAttention(nn.Module):
    """Multi-head self-attention over the fused sequence."""

    is_causal = False

    def __init__(self, config: RocConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.fusion_num_heads
        self.head_dim = config.hidden_size // config.fusion_num_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None, positions: Tensor | None = None) -> Tensor:
        query, key, value = self.query_key_value(hidden_states).chunk(3, dim=-1)  # each (batch, length, hidden)
        if positions is not None:  # the projection is called as a whole: an adapter may be around it
            query = gather_rows(query, positions)
        query, key, value = (
            states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )  # each (batch, heads, length, head_dim)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.dropout if self.training else 0.0
        if dropout and query.device.type == "cpu":  # sdpa has no kernel for it, and falls back to a slower way
            attention = eager_attention_forward
        scaling = 1 / math.sqrt(self.head_dim)
        attended, _ = attention(self, query, key, value, attention_mask, scaling=scaling, dropout=dropout)
        return self.output(attended.flatten(2))


class RocFusionLayer(GradientCheckpointingLayer):
    """A pre-norm Transformer encoder layer: at the start of training it hands the backbones' features through."""

    def __init__(self, config: RocConfig) -> None:
        super().__init__()
        width = config.fusion_intermediate_size or 4 * config.hidden_size
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = RocAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, width), nn.GELU(), nn.Linear(width, config.hidden_size)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None, positions: Tensor | None = None) -> Tensor:
        """The states of the whole sequence, or of its `positions` `(batch, n)` alone: `(batch, n, hidden)`."""
        attended = self.attention(self.attention_norm(hidden_states), attention_mask, positions)
        if positions is not None:
            hidden_states = gather_rows(hidden_states, positions)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))


class RocPairHead(nn.Module):
    """The pair vector: a fully connected layer with a non-linearity over head and tail."""

    def __init__(self, config: RocConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, entity_states: Tensor, pair_index: Tensor) -> Tensor:
        head_and_tail = gather_pairs(entity_states, pair_index).flatten(2)  # (batch, pairs, 2 * hidden)
        return self.dropout(self.activation(self.dense(head_and_tail)))


class RocPairEncoder(PreTrainedModel):
    """Encodes text and picture, fuses them, and joins the entities of each pair to one vector."""

    config_class = RocConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # forward uses num_items_in_batch
    _supports_sdpa = True
    _no_split_modules = ["RocFusionLayer"]

    def __init__(self, config: RocConfig) -> None:
        super().__init__(config)
        self.text_model = build_backbone(config.text_config)
        self.vision_model = build_backbone(config.vision_config) if config.vision_config else None
        self.modality_embeddings = nn.Embedding(3, config.hidden_size)
        self.image_embeddings = RocImageEmbeddings(config)
        self.fusion_layers = nn.ModuleList(RocFusionLayer(config) for _ in range(config.fusion_num_layers))
        self.fusion_norm = nn.LayerNorm(config.hidden_size)
        self.pair_head = RocPairHead(config)

    @property
    def device(self) -> torch.device:
        """Where inputs belong: the weights' device, or that of the computation where accelerate has offloaded them."""
        device = super().device
        if device.type == "meta":
            hooks = (getattr(module, "_hf_hook", None) for module in self.modules())
            places = (getattr(hook, "execution_device", None) for hook in hooks)
            return next((torch.device(place) for place in places if place is not None), device)
        return device

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RocImageEmbeddings) and module.has_vision:
            init.normal_(module.no_image, std=self.config.initializer_range)

    def _pair_vectors(self, inputs: PairInputs) -> tuple[Tensor, Tensor | None]:
        """Fuse [text ; regions ; patches], pick the entities, join head and tail.

        Returns:
            `(batch, pairs, hidden)`, the pair vectors. For `alignment="residual"` also where each pair starts,
            `(batch, pairs, 3, hidden)`, before fusion: the whole, half the mean of the text's tokens plus half the mean
            of head and tail; the head; the tail.
        """
        check_layers(self)
        parts = self._fused_parts(inputs)
        text = parts[0].states
        positions = inputs.entity_positions + inputs.entity_is_region.long() * text.shape[1]
        if self.config.pair_representation == "sentence":
            positions = torch.zeros_like(positions)  # the text's first token
        vectors = self.pair_head(self._fuse(parts, positions), inputs.pair_index)
        if self.config.head == "classification" or self.config.alignment == "projection":
            return vectors, None
        unfused = torch.cat([part.states for part in parts if part.modality != IMAGE], dim=1)
        head_and_tail = gather_pairs(gather_rows(unfused, positions), inputs.pair_index)
        whole = (mean_of_tokens(text, inputs.attention_mask)[:, None] + head_and_tail.mean(dim=2)) / 2
        return vectors, torch.cat([whole[:, :, None], head_and_tail], dim=2)

    def _fused_parts(self, inputs: PairInputs) -> list[FusedPart]:
        """Encode the text, the regions if there are any, and the picture if the model reads one, in this order."""
        pictures, image_index = inputs.pictures(), inputs.image_index
        text = self.text_model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
        parts = [FusedPart(text, inputs.attention_mask.bool(), TEXT)]
        if image_index is None:
            image_index = inputs.input_ids.new_full((len(text),), -1)
        if self.vision_model is None:
            pictures = None
        elif pictures is not None and inputs.patch_features is None:
            pictures = encode_patches(self.vision_model, pictures)
        boxes = None if inputs.region_mask is None else inputs.region_boxes
        regions, patches = self.image_embeddings(pictures, image_index, boxes, text.dtype)
        if regions is not None and inputs.region_mask is not None:
            if inputs.region_name_positions is not None:
                names = gather_rows(text, inputs.region_name_positions.clamp(min=0))
                regions = regions + names * (inputs.region_name_positions >= 0)[..., None]
            parts.append(FusedPart(regions, inputs.region_mask.bool(), REGION))
        if patches is not None:
            parts.append(FusedPart(patches[0], patches[1], IMAGE))
        return parts

    def _fuse(self, parts: Sequence[FusedPart], positions: Tensor) -> Tensor:
        """Join the parts along the sequence, let the fusion layers mix them, and give `positions` `(batch, n)`.

        Every layer reads the patches, which come last, and none updates them: the vision encoder has related them to
        each other already, and they are many. Only `positions` of the last layer are read, so it computes nothing
        else. The paper updates everything in every layer; this is our choice, see RESULTS.md.
        """
        modalities = self.modality_embeddings(torch.arange(3, device=parts[0].states.device))
        states = torch.cat([part.states + modalities[part.modality] for part in parts], dim=1)
        attention_mask = torch.cat([part.mask for part in parts], dim=1)[:, None, None]  # (batch, 1, 1, length)
        if not self.fusion_layers:
            return self.fusion_norm(gather_rows(states, positions))
        num_updated = sum(part.states.shape[1] for part in parts if part.modality != IMAGE)
        patches, updated = states[:, num_updated:], torch.arange(num_updated, device=states.device)
        for layer in self.fusion_layers[:-1]:
            fused = layer(states, attention_mask, updated.expand(len(states), -1))
            states = torch.cat([fused, patches], dim=1)
        return self.fusion_norm(self.fusion_layers[-1](states, attention_mask, positions))


def gather_rows(states: Tensor, index: Tensor) -> Tensor:
    """Pick from each sample's rows `(batch, length, dim)` those that `index` `(batch, n)` names: `(batch, n, dim)`."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def gather_pairs(entity_states: Tensor, pair_index: Tensor) -> Tensor:
    """Pick each pair's head and tail out of `(batch, entities, dim)`: `(batch, pairs, 2, dim)`."""
    batch, pairs, _ = pair_index.shape
    return gather_rows(entity_states, pair_index.reshape(batch, 2 * pairs)).view(batch, pairs, 2, -1)


def mean_of_tokens(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Average the states `(batch, length, dim)` of the real tokens: `(batch, dim)`."""
    weights = attention_mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
