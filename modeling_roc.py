"""The ROC model: text and picture in, a vector per entity pair out, compared with descriptions of relations.

"Retrieval over Classification: Integrating Relation Semantics for Multimodal Relation Extraction", Hei et al.,
EMNLP 2025. One encoding serves all pairs: every entity is a position in the fused sequence, and a pair is two of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, cached_file, find_adapter_config_file, is_peft_available, logging

from .configuration_roc import RocConfig
from .loss_roc import drop_relations, retrieval_loss
from .modeling_backbones_roc import build_backbone, fill_encoders, load_backbone, load_vision
from .modeling_dropout_roc import corrupt_inputs
from .modeling_explaining_roc import Explaining
from .modeling_vision_roc import UNUSED_PARTS, RocImageEmbeddings, check_patches, encode_patches
from .relations_bank_roc import (
    RelationBank,
    descriptions_of,
    nearest_descriptions,
    nearest_similarities,
    pool_descriptions,
    relation_index_of,
    type_mismatches,
)
from .relations_editing_roc import RelationEditing
from .relations_index_roc import RelationIndex

if TYPE_CHECKING:  # never run; but Transformers reads here which files to save beside a model
    from .pipeline_roc import RocPipeline  # noqa: F401

logger = logging.get_logger(__name__)

TEXT, IMAGE, REGION = 0, 1, 2  # rows of the modality embedding

HARD_PENALTY = 1e4  # on logits: behind all others, still in order
NO_RELATION = -1  # in place of a relation's number
LOOKUP_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")  # which file of which repository


@dataclass
class RocOutput(ModelOutput):
    """What `RocModel` returns.

    Args:
        loss: Scalar, where labels were given.
        logits: `(batch, pairs, relations)`: cosine / temperature, or a classifier's logits, less what
            `type_constraints` subtract. Padded pairs hold numbers without meaning: select with `pair_mask`.
        pair_embeds: `(batch, pairs, embed_dim)`, L2-normalised; the pair vector itself for the
            classification head, `(batch, pairs, hidden_size)`, not normalised.
        relation_embeds: `(relations, embed_dim)`, L2-normalised; None for the classification head.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pair_embeds: Tensor | None = None
    relation_embeds: Tensor | None = None


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
        attended, _ = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=1 / math.sqrt(self.head_dim),
            dropout=dropout,
        )
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


class RocPreTrainedModel(PreTrainedModel):
    """Initialisation and the declarations that Transformers reads."""

    config_class = RocConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # forward uses num_items_in_batch
    _supports_sdpa = True
    _no_split_modules = ["RocFusionLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RelationBank):
            init.zeros_(module.features)
            init.copy_(module.relation_index, relation_index_of(self.config.relations))
        elif isinstance(module, RocImageEmbeddings) and module.has_vision:
            init.normal_(module.no_image, std=self.config.initializer_range)
        elif isinstance(module, RocModel) and module.config.head == "retrieval":
            init.constant_(module.logit_scale, -math.log(self.config.initial_temperature))
            if self.config.alignment == "residual":
                init.zeros_(module.pair_projection.weight)


class RocModel(RelationEditing, Explaining, RocPreTrainedModel):
    """Multimodal relation extraction by retrieval.

    Args:
        config: The configuration; backbones are built with random weights (see `from_backbones`).
    """

    def __init__(self, config: RocConfig) -> None:
        super().__init__(config)
        self.text_model = build_backbone(config.text_config)
        self.vision_model = build_backbone(config.vision_config) if config.vision_config else None
        self.modality_embeddings = nn.Embedding(3, config.hidden_size)
        self.image_embeddings = RocImageEmbeddings(config)
        self.fusion_layers = nn.ModuleList(RocFusionLayer(config) for _ in range(config.fusion_num_layers))
        self.fusion_norm = nn.LayerNorm(config.hidden_size)
        self.pair_head = RocPairHead(config)
        if config.head == "classification":
            self.classifier = nn.Linear(config.hidden_size, config.num_relations)
        else:
            self._build_retrieval(config)
        self.post_init()
        self._keys_to_ignore_on_load_missing |= {rf"^{part}\." for part in config.encoder_sources or ()}
        self._freeze()

    def _build_retrieval(self, config: RocConfig) -> None:
        self.relation_model = None
        if config.relation_config is not None:
            self.relation_model = build_backbone(config.relation_config)
        feature_dim = (config.relation_config or config.text_config).hidden_size
        self.pair_projection = nn.Linear(config.hidden_size, config.embed_dim)
        self.relation_projection = nn.Identity()
        if config.alignment == "projection":
            self.relation_projection = nn.Linear(feature_dim, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.relation_bank = RelationBank(config.num_descriptions, feature_dim)

    def _freeze(self) -> None:
        """Freeze what is not to be trained; again after loading, which makes all parameters trainable."""
        if self.config.head == "retrieval":
            self.logit_scale.requires_grad_(self.config.learn_temperature)
        for encoder in self._frozen_encoders():
            encoder.requires_grad_(False).eval()
        if self.vision_model is not None:
            unused = UNUSED_PARTS.get(self.vision_model.config.model_type, ())
            for name, parameter in self.vision_model.named_parameters():
                if any(part in unused for part in name.split(".")):
                    parameter.requires_grad_(False)

    def _frozen_encoders(self) -> list[PreTrainedModel]:
        encoders = [getattr(self, "relation_model", None), self.vision_model if self.config.freeze_vision else None]
        return [encoder for encoder in encoders if encoder is not None]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`; what the configuration freezes is frozen.

        Weights are read from safetensors alone: the older formats are pickles, which can run any code. Of a small
        checkpoint, the encoders come from where its configuration says (`RocConfig.encoder_sources`).

        Raises:
            ImportError: If the model has an adapter, which PEFT would have to put on, and PEFT is not installed; or if
                its encoders come with a package that is not.
            OSError: If there are no safetensors, of the model or of its adapter.
        """
        _check_adapter(pretrained_model_name_or_path, options)
        options["use_safetensors"] = True
        loaded = super().from_pretrained(pretrained_model_name_or_path, *arguments, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        fill_encoders(model)
        model._freeze()
        return loaded

    @classmethod
    def from_backbones(
        cls,
        text_model: str,
        vision_model: str | Mapping[str, Any] | None = None,
        *,
        vocab_size: int | None = None,
        text_overrides: Mapping[str, Any] | None = None,
        share_description_encoder: bool = False,
        **config_fields: Any,
    ) -> RocModel:
        """Build a model from pretrained encoders; what joins them starts at random.

        Args:
            text_model: Hub id or folder of a text encoder.
            vision_model: Hub id or folder of a ViT-like encoder; a configuration with `model_type` for one with
                random weights; None for a text-only model.
            vocab_size: Number of tokens with the processor's markers: `len(processor.tokenizer)`.
            text_overrides: Configuration values of the text encoder to change, for example
                `{"num_hidden_layers": 2}` for its first two layers.
            share_description_encoder: Encode descriptions with the trained text encoder instead of a frozen copy.
            **config_fields: Fields of `RocConfig`.

        Returns:
            The model in training precision float32. Its relation bank is empty of content until `set_relations`.

        Raises:
            ValueError: If the vision encoder gives no state for each patch.
        """
        text = load_backbone(text_model, **(text_overrides or {}))
        vision = load_vision(vision_model)
        if vision is not None:
            check_patches(vision)
        retrieves = config_fields.get("head", "retrieval") == "retrieval"
        describer = load_backbone(text_model) if retrieves and not share_description_encoder else None
        config = RocConfig(
            text_config=text.config,
            vision_config=vision.config if vision is not None else None,
            relation_config=describer.config if describer is not None else None,
            **config_fields,
        )
        model = cls(config)
        model.text_model, model.vision_model = text, vision
        if describer is not None:
            model.relation_model = describer
        model._freeze()
        if vocab_size is not None:
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
        return model

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's token embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text encoder's token embeddings."""
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def start_tokens_like(self, token_ids: Sequence[int], like: int) -> None:
        """Give tokens the embedding of another one, to train from there.

        Markers that start as a comma disturb a sentence encoder less than markers that start at random.

        Args:
            token_ids: The tokens to change.
            like: The token to take the embedding of.
        """
        embeddings = self.get_input_embeddings().weight
        embeddings[list(token_ids)] = embeddings[like].clone()

    def train(self, mode: bool = True) -> RocModel:
        """As usual, but frozen encoders stay in evaluation mode: no dropout in them."""
        super().train(mode)
        for encoder in self._frozen_encoders():
            encoder.eval()
        return self

    @property
    def temperature(self) -> float:
        """The clamped temperature that divides cosines."""
        return 1 / self._clamped_scale().item()

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Bring the learnt temperature back into its range; to be called after each optimizer step.

        `forward` clamps it too, but beyond a border the clamp has no gradient: the temperature would stay there.
        """
        if self.config.head == "retrieval":
            self.logit_scale.clamp_(-math.log(self.config.max_temperature), -math.log(self.config.min_temperature))

    @torch.no_grad()
    def rank_relations(self, output: RocOutput, pair_mask: Tensor, *, top_k: int = 3) -> list[list[dict[str, Any]]]:
        """Read an output: for every pair the relations from likely to unlikely.

        Args:
            output: What `forward` returned.
            pair_mask: `(batch, pairs)`, 1 = real, as the processor gave it.
            top_k: How many relations per pair.

        Returns:
            Per real pair, in order, mappings of `relation` (its name), `score` (its probability among the model's
            relations) and `description` (the one nearest to the pair; the first one for the classification head).
        """
        chosen = pair_mask.bool()
        probabilities = self.probabilities(output.logits[chosen])  # type: ignore[index]  # (pairs, relations)
        scores, numbers = probabilities.topk(min(top_k, self.config.num_relations), dim=-1)
        nearest = self._nearest_descriptions(output.pair_embeds[chosen], numbers)  # type: ignore[index]
        names = self.config.relation_names
        descriptions = descriptions_of(self.config.relations)
        return [
            [
                {"relation": names[number], "score": score, "description": descriptions[description]}
                for score, number, description in zip(*row)
            ]
            for row in zip(scores.tolist(), numbers.tolist(), nearest.tolist())
        ]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities of the relations.

        Args:
            logits: `(..., relations)`, as `forward` gives them.

        Returns:
            `(..., relations)`: softmax of logits / `probability_temperature`.
        """
        return (logits / self.config.probability_temperature).softmax(dim=-1)

    def decide_relations(self, logits: Tensor) -> Tensor:
        """The relation of each pair, or none.

        Where the inventory describes "none of these", it competes like every other relation. Where it does not, a pair
        whose best relation stays below `none_threshold` gets none.

        Args:
            logits: `(..., relations)`, as `forward` gives them.

        Returns:
            `(...)` int64: the number of the relation, -1 for none.
        """
        best = logits.max(dim=-1)
        threshold = self.config.none_threshold
        if self.config.head == "classification" or self.config.none_relation is not None or threshold is None:
            return best.indices
        return best.indices.masked_fill(best.values * self.temperature < threshold, NO_RELATION)

    def _nearest_descriptions(self, pair_embeds: Tensor, relations: Tensor) -> Tensor:
        """`(pairs, k)`: of the relations `(pairs, k)`, the number of the description to show for a pair."""
        if self.config.head == "classification":
            return torch.searchsorted(relation_index_of(self.config.relations).to(relations.device), relations)
        descriptions, relation_index = self.get_description_features(), self.relation_bank.relation_index
        return nearest_descriptions(pair_embeds, descriptions, relation_index, relations)[1]

    @torch.no_grad()
    def index_relations(self, *, exact: bool | None = None) -> RelationIndex:
        """Take a snapshot of the relations to search in, for inventories where scoring every relation is slow.

        Args:
            exact: See `RelationIndex`.

        Returns:
            The index; its `search` takes what `get_pair_features` returns, real pairs only.

        Raises:
            ValueError: If the model has no relations, their descriptions have not been encoded, or it classifies.
            ImportError: As `RelationIndex`.
        """
        self._need_retrieval("index_relations")
        self._need_encoded()
        descriptions, pooling = self.get_description_features(), self.config.description_pooling
        return RelationIndex(self.config.relations, descriptions, pooling=pooling, exact=exact)

    def encode_descriptions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode descriptions, before the projection.

        Args:
            input_ids: `(num_descriptions, length)` int64.
            attention_mask: `(num_descriptions, length)`, 1 = real.

        Returns:
            `(num_descriptions, feature_dim)`: the mean of the real tokens' last hidden states.
        """
        self._need_retrieval("encode_descriptions")
        encoder = self.relation_model if self.relation_model is not None else self.text_model
        states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return mean_of_tokens(states, attention_mask)

    def get_description_features(self) -> Tensor:
        """The bank's descriptions in the space of the pairs: `(num_descriptions, embed_dim)`, L2-normalised."""
        self._need_retrieval("get_description_features")
        return self._project_descriptions(self.relation_bank.features)

    def get_relation_features(
        self, relation_input_ids: Tensor | None = None, relation_attention_mask: Tensor | None = None
    ) -> Tensor:
        """The relations in the space of the pairs: of each the mean of its descriptions, normalised.

        Args:
            relation_input_ids: `(num_descriptions, length)`, the configured relations' descriptions in order, to
                encode them anew (with gradient, for a shared encoder); None for the bank's.
            relation_attention_mask: `(num_descriptions, length)`, 1 = real.

        Returns:
            `(relations, embed_dim)`, L2-normalised.

        Raises:
            ValueError: If the model has no relations, or classifies.
        """
        self._need_retrieval("get_relation_features")
        embeds = self._description_embeds(relation_input_ids, relation_attention_mask)
        return pool_descriptions(embeds, self.relation_bank.relation_index, self.config.num_relations)

    def _description_embeds(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        if not self.config.num_relations:
            raise ValueError("The model has no relations yet: call model.set_relations(relations, processor).")
        if input_ids is None or attention_mask is None:
            return self._project_descriptions(self.relation_bank.features)
        return self._project_descriptions(self.encode_descriptions(input_ids, attention_mask))

    def get_pair_features(self, **inputs: Tensor | None) -> Tensor:
        """Encode pairs.

        Args:
            **inputs: What the processor gave, the arguments of `forward`.

        Returns:
            `(batch, pairs, embed_dim)`, L2-normalised.

        Raises:
            ValueError: If the model classifies.
        """
        self._need_retrieval("get_pair_features")
        return self._project_pairs(*self._pair_vectors(**inputs))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        entity_positions: Tensor,
        entity_is_region: Tensor,
        pair_index: Tensor,
        pixel_values: Tensor | None = None,
        patch_features: Tensor | None = None,
        image_index: Tensor | None = None,
        region_boxes: Tensor | None = None,
        region_mask: Tensor | None = None,
        region_name_positions: Tensor | None = None,
        entity_type_ids: Tensor | None = None,
        relation_input_ids: Tensor | None = None,
        relation_attention_mask: Tensor | None = None,
        negative_features: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unused: Any,
    ) -> RocOutput:
        """Score every pair against every relation.

        Args:
            input_ids: `(batch, length)` int64, with marked entities.
            attention_mask: `(batch, length)`, 1 = real.
            entity_positions: `(batch, entities)` int64: the opening marker's token of a text entity, the region's
                number of an object.
            entity_is_region: `(batch, entities)` bool.
            pair_index: `(batch, pairs, 2)` int64, head and tail as columns of `entity_positions`.
            pixel_values: `(images, channels, height, width)`, each distinct picture once; None without pictures.
            patch_features: In place of `pixel_values`, what a frozen vision encoder made of them, as `encode_patches`
                gives it: `(images, rows, columns, vision_hidden)`.
            image_index: `(batch,)` int64, each sample's row of `pixel_values`, -1 for no picture.
            region_boxes: `(batch, regions, 4)`, `xyxy` in [0, 1], origin top left.
            region_mask: `(batch, regions)`, 1 = real.
            region_name_positions: `(batch, regions)` int64: the opening marker's token of each region's name, or -1.
            entity_type_ids: `(batch, entities)` int64, `type_id` of each entity's type, -1 for none. Only
                `type_constraints` read them.
            relation_input_ids: See `get_relation_features`.
            relation_attention_mask: See `get_relation_features`.
            negative_features: `(num_negatives, feature_dim)`, as `encode_descriptions` gives them: of descriptions that
                hold for no pair. Only the loss reads them.
            labels: `(batch, pairs)` int64, index of the relation, -100 for padding.
            num_items_in_batch: See `retrieval_loss`.
            **unused: What the processor adds for its caller, such as `pair_mask` and `truncated`.

        Returns:
            A `RocOutput`.

        Raises:
            ValueError: If both `pixel_values` and `patch_features` are given.
        """
        if self.training:
            attention_mask, image_index, labels = corrupt_inputs(
                self.config, attention_mask, image_index, labels, entity_positions, entity_is_region, pair_index
            )
        vectors, start = self._pair_vectors(
            input_ids=input_ids,
            attention_mask=attention_mask,
            entity_positions=entity_positions,
            entity_is_region=entity_is_region,
            pair_index=pair_index,
            pixel_values=pixel_values,
            patch_features=patch_features,
            image_index=image_index,
            region_boxes=region_boxes,
            region_mask=region_mask,
            region_name_positions=region_name_positions,
        )
        if self.config.head == "classification":
            pair_embeds, relation_embeds, logits = vectors, None, self.classifier(vectors).float()
        else:
            pair_embeds = self._project_pairs(vectors, start)
            descriptions = self._description_embeds(relation_input_ids, relation_attention_mask)
            relation_index, num_relations = self.relation_bank.relation_index, self.config.num_relations
            relation_embeds = pool_descriptions(descriptions, relation_index, num_relations)
            with torch.autocast(pair_embeds.device.type, enabled=False):  # a temperature of 0.01 magnifies rounding
                if self.config.description_pooling == "mean":
                    cosines = pair_embeds @ relation_embeds.T
                else:
                    cosines = nearest_similarities(pair_embeds, descriptions, relation_index, num_relations)
            logits = cosines * self._clamped_scale()
        loss = None
        if labels is not None:
            candidates, numbers = logits, labels
            if self.training and self.config.relation_dropout:
                candidates, numbers = drop_relations(logits, labels, self.config.relation_dropout)
            if negative_features is not None:
                candidates = self._with_negatives(candidates, pair_embeds, negative_features)
            loss = retrieval_loss(
                candidates,
                numbers,
                label_smoothing=self.config.label_smoothing if self.training else 0.0,
                num_items_in_batch=num_items_in_batch,
            )
        if entity_type_ids is not None and self.config.type_constraints != "off":
            penalty = self.config.type_penalty if self.config.type_constraints == "soft" else HARD_PENALTY
            mismatches = type_mismatches(entity_type_ids, pair_index, self.config.relations)
            logits = logits - penalty * mismatches
        return RocOutput(loss=loss, logits=logits, pair_embeds=pair_embeds, relation_embeds=relation_embeds)

    def _pair_vectors(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        entity_positions: Tensor,
        entity_is_region: Tensor,
        pair_index: Tensor,
        pixel_values: Tensor | None = None,
        patch_features: Tensor | None = None,
        image_index: Tensor | None = None,
        region_boxes: Tensor | None = None,
        region_mask: Tensor | None = None,
        region_name_positions: Tensor | None = None,
        **unused: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Fuse [text ; regions ; patches], pick the entities, join head and tail.

        Returns:
            `(batch, pairs, hidden)`; and for `alignment="residual"` where pairs start, likewise: half the mean of the
            text's tokens, half the mean of head and tail, before fusion.
        """
        text = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if image_index is None:
            image_index = input_ids.new_full((len(input_ids),), -1)
        parts = [(text, attention_mask.bool(), TEXT)]
        patches, grid = self._encode_images(pixel_values, patch_features)
        if region_boxes is not None and region_mask is not None:
            regions = self.image_embeddings.regions(region_boxes, patches, image_index, grid)
            if region_name_positions is not None:
                names = gather_rows(text, region_name_positions.clamp(min=0))
                regions = regions + names * (region_name_positions >= 0)[..., None]
            parts.append((regions, region_mask.bool(), REGION))
        if self.vision_model is not None:
            parts.append((*self.image_embeddings.scatter(patches, image_index), IMAGE))
        positions = entity_positions + entity_is_region.long() * text.shape[1]
        if self.config.pair_representation == "sentence":
            positions = torch.zeros_like(positions)  # the text's first token
        vectors = self.pair_head(self._fuse(parts, positions), pair_index)
        if self.config.head == "classification" or self.config.alignment == "projection":
            return vectors, None
        unfused = torch.cat([states for states, _, modality in parts if modality != IMAGE], dim=1)
        head_and_tail = gather_pairs(gather_rows(unfused, positions), pair_index)
        return vectors, (mean_of_tokens(text, attention_mask)[:, None] + head_and_tail.mean(dim=2)) / 2

    def _fuse(self, parts: Sequence[tuple[Tensor, Tensor, int]], positions: Tensor) -> Tensor:
        """Join (states, mask, modality) along the sequence, let the fusion layers mix them, and pick `positions`.

        Every layer reads the patches, which come last, and none updates them: the vision encoder has related them to
        each other already, and they are many. Of the last layer nothing but `positions` is read, so it computes
        nothing else. The paper updates everything in every layer; this is our choice, see RESULTS.md.

        Returns:
            `(batch, n, hidden)`.
        """
        states = torch.cat([part + self.modality_embeddings.weight[modality] for part, _, modality in parts], dim=1)
        mask = torch.cat([part_mask for _, part_mask, _ in parts], dim=1)
        attention_mask = mask[:, None, None]  # (batch, 1, 1, length)
        if not self.fusion_layers:
            return self.fusion_norm(gather_rows(states, positions))
        num_updated = sum(part.shape[1] for part, _, modality in parts if modality != IMAGE)
        patches, updated = states[:, num_updated:], torch.arange(num_updated, device=states.device)
        for layer in self.fusion_layers[:-1]:
            fused = layer(states, attention_mask, updated.expand(len(states), -1))
            states = torch.cat([fused, patches], dim=1)
        return self.fusion_norm(self.fusion_layers[-1](states, attention_mask, positions))

    def _encode_images(
        self, pixel_values: Tensor | None, patch_features: Tensor | None = None
    ) -> tuple[Tensor | None, tuple[int, int]]:
        """`(images, rows * columns, hidden)` patches in the fused space, and (rows, columns)."""
        if pixel_values is not None and patch_features is not None:
            raise ValueError("Both pixel_values and patch_features were given. Give one: they are the same pictures.")
        given = pixel_values if patch_features is None else patch_features
        if self.vision_model is None or given is None or not len(given):
            return None, (0, 0)
        states = encode_patches(self.vision_model, given) if patch_features is None else given.to(self.dtype)
        return self.image_embeddings.projection(states.flatten(1, 2)), (states.shape[1], states.shape[2])

    def _with_negatives(self, logits: Tensor, pair_embeds: Tensor, features: Tensor) -> Tensor:
        """The logits, and behind them those of descriptions that hold for no pair."""
        with torch.autocast(pair_embeds.device.type, enabled=False):
            cosines = pair_embeds @ self._project_descriptions(features).T
        return torch.cat([logits, cosines * self._clamped_scale()], dim=-1)

    def _project_pairs(self, vectors: Tensor, start: Tensor | None) -> Tensor:
        projected = self.pair_projection(vectors).float()
        return functional.normalize(projected if start is None else start.float() + projected, dim=-1)

    def _project_descriptions(self, features: Tensor) -> Tensor:
        return functional.normalize(self.relation_projection(features).float(), dim=-1)

    def _clamped_scale(self) -> Tensor:
        lowest, highest = -math.log(self.config.max_temperature), -math.log(self.config.min_temperature)
        return self.logit_scale.float().clamp(lowest, highest).exp()

    def _need_retrieval(self, method: str) -> None:
        if self.config.head != "retrieval":
            raise ValueError(
                f"{method} needs head='retrieval'; this model has head={self.config.head!r}, which knows relations "
                "only as numbers. Train with --head retrieval."
            )


def _check_adapter(path: Any, options: Mapping[str, Any]) -> None:
    """Refuse to load a model without its adapter, or an adapter out of a pickle: Transformers would do both."""
    options = {**options, **(options.get("adapter_kwargs") or {})}  # where AutoModel has seen an adapter
    path = options.get("_adapter_model_path", path)
    where = {key: options[key] for key in LOOKUP_OPTIONS if key in options}
    if find_adapter_config_file(path, **where) is None:
        return
    if not is_peft_available():
        raise ImportError(f"{path} has an adapter. Type `pip install peft`.")
    cached_file(path, "adapter_model.safetensors", **where)  # raises where there is none


def gather_rows(states: Tensor, index: Tensor) -> Tensor:
    """`(batch, n, dim)`: of each sample's rows `(batch, length, dim)` those that `index` `(batch, n)` names."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def mean_of_tokens(states: Tensor, attention_mask: Tensor) -> Tensor:
    """`(batch, dim)`: the mean of the real tokens' states `(batch, length, dim)`."""
    weights = attention_mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def gather_pairs(entity_states: Tensor, pair_index: Tensor) -> Tensor:
    """`(batch, pairs, 2, dim)`: head and tail of each pair `(batch, pairs, 2)` out of `(batch, entities, dim)`."""
    batch, pairs, _ = pair_index.shape
    return gather_rows(entity_states, pair_index.reshape(batch, 2 * pairs)).view(batch, pairs, 2, -1)


RocModel.register_for_auto_class("AutoModel")
