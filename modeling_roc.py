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
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_roc import RocConfig
from .messages_roc import describe_error
from .modeling_backbones_roc import (
    NOT_OFFLOADED,
    build_backbone,
    fill_encoders,
    load_backbone,
    load_vision,
)
from .modeling_decisions_roc import constrain_types, rank_relations
from .modeling_explaining_roc import Explaining
from .modeling_fusion_roc import PairInputs, RocPairEncoder, mean_of_tokens
from .modeling_saving_roc import WholeModel, check_adapter, check_finite, check_index, check_loaded
from .modeling_training_roc import corrupt_inputs, drop_relations, retrieval_loss
from .modeling_vision_roc import UNUSED_PARTS, check_patches
from .relations_bank_roc import (
    RelationBank,
    nearest_similarities,
    pool_descriptions,
    relation_index_of,
    weigh_parts,
)
from .relations_editing_roc import RelationEditing, name_digests
from .relations_index_roc import RelationIndex

if TYPE_CHECKING:  # never run; but Transformers reads here which files to save beside a model
    from .pipeline_roc import RocPipeline  # noqa: F401


@dataclass
class RocOutput(ModelOutput):
    """What `RocModel` returns.

    Args:
        loss: Scalar, where labels were given.
        logits: `(batch, pairs, relations)`, cosine / temperature, or a classifier's logits, less what
            `type_constraints` subtract. Padded pairs hold numbers without meaning: select with `pair_mask`.
        pair_embeds: `(batch, pairs, embed_dim)`, L2-normalised. For the classification head it is the pair vector
            itself, `(batch, pairs, hidden_size)`, not normalised.
        relation_embeds: `(relations, embed_dim)`, L2-normalised; None for the classification head.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pair_embeds: Tensor | None = None
    relation_embeds: Tensor | None = None


class RocModel(RelationEditing, Explaining, RocPairEncoder, WholeModel):
    """Multimodal relation extraction by retrieval. Its backbones start with random weights: see `from_backbones`."""

    def __init__(self, config: RocConfig) -> None:
        super().__init__(config)
        if config.head == "classification":
            self.classifier = nn.Linear(config.hidden_size, config.num_relations)
            self.register_buffer("relation_digests", torch.zeros(config.num_relations, dtype=torch.long))
        else:
            self._build_retrieval(config)
        self.post_init()
        self._keys_to_ignore_on_load_missing |= {rf"^{part}\." for part in config.encoder_sources or ()}
        self._freeze()

    def _build_retrieval(self, config: RocConfig) -> None:
        self.relation_model = build_backbone(config.relation_config) if config.relation_config else None
        encoder: Any = config.relation_config or config.text_config
        is_residual = config.alignment == "residual"
        self.pair_projection = nn.Linear(config.hidden_size, config.hidden_size if is_residual else config.embed_dim)
        self.relation_projection = nn.Identity()
        if not is_residual:
            self.relation_projection = nn.Linear(encoder.hidden_size, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.relation_bank = RelationBank(config.num_descriptions, config.feature_dim, encoder.hidden_size)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RelationBank):
            for buffer in (module.features, module.digests, module.seals, module.encoder_sample):
                init.zeros_(buffer)
            init.copy_(module.relation_index, relation_index_of(self.config.relations))
        elif isinstance(module, RocModel) and module.config.head == "classification":
            init.copy_(module.relation_digests, name_digests(module.config.relations))
        elif isinstance(module, RocModel):
            init.constant_(module.logit_scale, -math.log(self.config.initial_temperature))
            if self.config.alignment == "residual":
                init.zeros_(module.pair_projection.weight)

    def _freeze(self) -> None:
        """Freeze what is not to be trained. Call it again after loading, which makes everything trainable."""
        if self.config.head == "retrieval":
            self.logit_scale.requires_grad_(self.config.learn_temperature)
        for encoder in self._frozen_encoders():
            encoder.requires_grad_(False).eval()
        if self.vision_model is not None:
            unused = UNUSED_PARTS.get(self.vision_model.config.model_type)
            for name, parameter in self.vision_model.named_parameters():
                if unused in name.split("."):
                    parameter.requires_grad_(False)

    def _frozen_encoders(self) -> list[PreTrainedModel]:
        encoders = [getattr(self, "relation_model", None), self.vision_model if self.config.freeze_vision else None]
        return [encoder for encoder in encoders if encoder is not None]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """Load a model as `PreTrainedModel.from_pretrained` does, and freeze what its configuration freezes.

        Weights are read from safetensors alone: the older formats are pickles, which can run any code. The encoders of
        a small checkpoint come from where its configuration says (`RocConfig.encoder_sources`). No weight is ever drawn
        at random: what is missing or does not fit is an error, with `ignore_mismatched_sizes=True` too.

        Raises:
            ImportError: If the model has an adapter and PEFT is not installed, or if the package that carries its
                encoders is not installed.
            OSError: If the weights of the model or of its adapter are not safetensors.
            ValueError: If weights are missing, superfluous, of another shape or not finite, the file is not a whole
                safetensors file, or the description encoder is not the one that gave the relation bank.
        """
        where, wants_info = pretrained_model_name_or_path, options.pop("output_loading_info", False)
        check_adapter(where, options)
        check_index(where, options)
        options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            model, loaded = super().from_pretrained(where, *arguments, **options)
        except SafetensorError as error:
            raise ValueError(f"{where}: its weights are no safetensors, or not all of them ({error}).") from error
        except (OSError, ImportError, ValueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # Transformers and PyTorch raise many kinds about what a configuration says
            if isinstance(error, KeyError) and "device_map" in options:  # the weights that go to the disk
                raise ValueError(NOT_OFFLOADED) from error
            raise ValueError(f"{where}: {describe_error(error)}") from error
        # with an adapter, Transformers hands out the report on the adapter alone
        check_loaded(where, loaded, *vars(model).pop("_loaded", ()))
        fill_encoders(model, vars(model).pop("_left_out", ()))
        check_finite(where, model)
        if model.config.head == "retrieval":
            model.check_encoder(where)
        model._freeze()
        return (model, loaded) if wants_info else model

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
        """Build a model from pretrained encoders. The weights that join them start at random.

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
            The model in float32. Its relation bank holds zeros until `set_relations`.

        Raises:
            ValueError: If the vision encoder gives no state for each patch, or an encoder lacks weights.
        """
        text = load_backbone(text_model, part="text_model", **(text_overrides or {}))
        vision = load_vision(vision_model)
        if vision is not None:
            check_patches(vision)
        retrieves = config_fields.get("head", "retrieval") == "retrieval"
        describer = load_backbone(text_model) if retrieves and not share_description_encoder else None
        encoders = {"text_config": text, "vision_config": vision, "relation_config": describer}
        configs: dict[str, Any] = {name: own and own.config for name, own in encoders.items()}
        model = cls(RocConfig(**configs, **config_fields))
        model.text_model, model.vision_model = text, vision
        if describer is not None:
            model.relation_model = describer
        model._freeze()
        if vocab_size is not None:
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
        return model

    def get_input_embeddings(self) -> nn.Module:
        """Give the text encoder's token embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text encoder's token embeddings."""
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def start_tokens_like(self, token_ids: Sequence[int], like: int) -> None:
        """Give tokens the embedding of the token `like`, to train from there.

        Markers that start as a comma disturb a sentence encoder less than markers that start at random.
        """
        embeddings = self.get_input_embeddings().weight
        embeddings[list(token_ids)] = embeddings[like].clone()

    def train(self, mode: bool = True) -> RocModel:
        """Enter or leave training mode. Frozen encoders stay in evaluation mode, without dropout."""
        super().train(mode)
        for encoder in self._frozen_encoders():
            encoder.eval()
        return self

    @property
    def temperature(self) -> float:
        """The clamped temperature that divides cosines; 1 for the classification head, which has none."""
        if self.config.head != "retrieval":
            return 1.0
        hook = getattr(self, "_hf_hook", None) if self.logit_scale.is_meta else None
        if hook is None:
            return 1 / self._clamped_scale().item()
        hook.pre_forward(self)  # accelerate has offloaded the scale, and brings it back for a call
        try:
            return 1 / self._clamped_scale().item()
        finally:
            hook.post_forward(self, None)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Bring the learnt temperature back into its range. Call this after each optimizer step.

        `forward` clamps it too, but the clamp has no gradient beyond a border, so the temperature would stay there.
        """
        if self.config.head == "retrieval":
            self.logit_scale.clamp_(-math.log(self.config.max_temperature), -math.log(self.config.min_temperature))

    @torch.no_grad()
    def rank_relations(self, output: RocOutput, pair_mask: Tensor, *, top_k: int = 3) -> list[list[dict[str, Any]]]:
        """Rank for each real pair of an output the relations from likely to unlikely.

        `output` is what `forward` returned, and `pair_mask` `(batch, pairs)` what the processor gave, 1 = real.

        Returns:
            A list per real pair, in order: at most `top_k` mappings of `relation` (its name), `score` (its probability
            among the model's relations) and `description` (the one nearest to the pair; the first one for the
            classification head).
        """
        self.check_relations()
        is_real = pair_mask.bool()
        logits, pair_embeds = output.logits[is_real], output.pair_embeds[is_real]  # type: ignore[index]
        descriptions = self.get_description_features() if self.config.head == "retrieval" else None
        return rank_relations(
            logits, self.config, pair_embeds=pair_embeds, description_embeds=descriptions, top_k=top_k
        )

    @torch.no_grad()
    def index_relations(self, *, exact: bool | None = None) -> RelationIndex:
        """Take a snapshot of the relations to search in, for inventories where scoring every relation is slow.

        The index's `search` takes what `get_pair_features` returns, without padded pairs. `RelationIndex` describes
        `exact`.

        Raises:
            ValueError: If the model has no relations, their descriptions have not been encoded, or the model
                classifies.
            ImportError: If an approximate index is needed and its library is not installed.
        """
        self._need_retrieval("index_relations")
        descriptions, pooling = self.get_description_features(), self.config.description_pooling
        return RelationIndex(self.config.relations, descriptions, pooling=pooling, exact=exact)

    def encode_descriptions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode descriptions, tokenised as for `get_relation_features`, before the projection.

        Returns:
            `(num_texts, hidden_size of the description encoder)`, the mean of the real tokens' last hidden states.
        """
        self._need_retrieval("encode_descriptions")
        encoder = self.relation_model if self.relation_model is not None else self.text_model
        states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return mean_of_tokens(states, attention_mask)

    def get_description_features(self) -> Tensor:
        """Give the bank's descriptions in the space of the pairs: `(num_descriptions, embed_dim)`, L2-normalised."""
        self._need_retrieval("get_description_features")
        self.check_relations()
        return self._project_descriptions(self.relation_bank()[0])

    def get_relation_features(
        self, relation_input_ids: Tensor | None = None, relation_attention_mask: Tensor | None = None
    ) -> Tensor:
        """Give each relation in the space of the pairs: the mean of its descriptions, normalised.

        Args:
            relation_input_ids: `(num_texts, length)` int64, the descriptions of the configured relations in order, and
                with `entity_weight` then the head of each description, and then the tail (`texts_of_rows`). They are
                encoded anew, with gradient where the encoder is trained. None for the bank's features.
            relation_attention_mask: `(num_texts, length)`, 1 = real.

        Returns:
            `(relations, embed_dim)`, L2-normalised.

        Raises:
            ValueError: If the model has no relations, or classifies.
        """
        self._need_retrieval("get_relation_features")
        embeds = self._description_embeds(relation_input_ids, relation_attention_mask)
        return pool_descriptions(embeds, self.relation_bank()[1], self.config.num_relations)

    def _description_embeds(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        self.check_relations(encoded=input_ids is None or attention_mask is None)
        if input_ids is None or attention_mask is None:
            return self._project_descriptions(self.relation_bank()[0])
        num_parts = self.config.texts_per_description
        if len(input_ids) != num_parts * self.config.num_descriptions:
            raise ValueError(
                f"relation_input_ids are {len(input_ids)} texts, but the relations have {self.config.num_descriptions} "
                f"descriptions, of {num_parts} texts each. Give all of them, in order; a launcher must not slice them "
                "with the batch's rows."
            )
        parts = self.encode_descriptions(input_ids, attention_mask).chunk(num_parts)
        return self._project_descriptions(torch.cat(parts, dim=-1))

    def get_pair_features(self, **inputs: Any) -> Tensor:
        """Encode the pairs of what the processor gave: `(batch, pairs, embed_dim)`, L2-normalised.

        Raises:
            ValueError: If the model classifies.
        """
        self._need_retrieval("get_pair_features")
        return self._project_pairs(*self._pair_vectors(PairInputs.from_batch(inputs)))

    def forward(  # noqa: D417  # `PairInputs` describes the others
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
        marker_mask: Tensor | None = None,
        whole_batch: Tensor | None = None,
        relation_input_ids: Tensor | None = None,
        relation_attention_mask: Tensor | None = None,
        negative_features: Tensor | None = None,
        competitors: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unused: Any,
    ) -> RocOutput:
        """Score every pair against every relation.

        The arguments from `input_ids` to `whole_batch` are those of `PairInputs`, which has their shapes.

        Args:
            relation_input_ids: See `get_relation_features`.
            relation_attention_mask: See `get_relation_features`.
            negative_features: `(num_negatives, feature_dim)`, features of descriptions that hold for no pair, as
                `encode_descriptions` gives them. Only the loss reads them.
            competitors: `(batch, pairs, relations)` bool, the relations with which the loss compares a pair besides its
                own; None for all.
            labels: `(batch, pairs)` int64, index of the relation, -100 for padding.
            num_items_in_batch: See `retrieval_loss`.
            **unused: What the processor adds for its caller, such as `pair_mask` and `truncated`.

        Raises:
            ValueError: If both `pixel_values` and `patch_features` are given, if the model has no relations, or if
                `marker_mask` is missing where `token_dropout` needs it.
        """
        needed = (input_ids, attention_mask, entity_positions, entity_is_region, pair_index)
        inputs = PairInputs(
            *needed,
            pixel_values=pixel_values,
            patch_features=patch_features,
            image_index=image_index,
            region_boxes=region_boxes,
            region_mask=region_mask,
            region_name_positions=region_name_positions,
            entity_type_ids=entity_type_ids,
            marker_mask=marker_mask,
            whole_batch=whole_batch,
        )
        descriptions, compared = (relation_input_ids, relation_attention_mask), (competitors, negative_features)
        return self._score(inputs, descriptions, labels, compared, num_items_in_batch)

    def _score(
        self,
        inputs: PairInputs,
        descriptions: tuple[Tensor | None, Tensor | None],
        labels: Tensor | None,
        compared: tuple[Tensor | None, Tensor | None],
        num_items_in_batch: Tensor | int | None,
    ) -> RocOutput:
        """Score what `forward` was given; `descriptions` are its relation tokens and their mask.

        `compared` are its `competitors` and `negative_features`.
        """
        if self.training:
            inputs, labels = corrupt_inputs(inputs, labels, self.config)
        vectors, start = self._pair_vectors(inputs)
        if self.config.head == "classification":
            self.check_relations()
            output = RocOutput(logits=self.classifier(vectors).float(), pair_embeds=vectors)
        else:
            output = self._retrieve(vectors, start, *descriptions)
        loss = None if labels is None else self._loss(output, labels, compared, num_items_in_batch)
        logits = constrain_types(
            output.logits, self.config, entity_type_ids=inputs.entity_type_ids, pair_index=inputs.pair_index
        )
        return RocOutput(loss, logits, output.pair_embeds, output.relation_embeds)

    def _retrieve(
        self, vectors: Tensor, start: Tensor | None, input_ids: Tensor | None, attention_mask: Tensor | None
    ) -> RocOutput:
        """Compare pairs with the bank's descriptions, or with those given as tokens."""
        pair_embeds = self._project_pairs(vectors, start)
        descriptions = self._description_embeds(input_ids, attention_mask)
        relation_index, num_relations = self.relation_bank()[1], self.config.num_relations
        relation_embeds = pool_descriptions(descriptions, relation_index, num_relations)
        with torch.autocast(pair_embeds.device.type, enabled=False):  # a temperature of 0.01 magnifies rounding
            if self.config.description_pooling == "mean":
                cosines = pair_embeds @ relation_embeds.T
            else:
                cosines = nearest_similarities(pair_embeds, descriptions, relation_index, num_relations)
        logits = cosines * self._clamped_scale()
        return RocOutput(logits=logits, pair_embeds=pair_embeds, relation_embeds=relation_embeds)

    def _loss(
        self,
        output: Any,
        labels: Tensor,
        compared: tuple[Tensor | None, Tensor | None],
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        """Compute the loss before `type_constraints`; relation dropout and label smoothing are for training."""
        logits, (competitors, negative_features) = output.logits, compared
        if competitors is not None:
            is_own = competitors.scatter(-1, labels.clamp(min=0)[..., None], True)  # whatever has become of the label
            logits = logits.masked_fill(~is_own, -torch.inf)
        if self.training and self.config.relation_dropout:
            logits, labels = drop_relations(logits, labels, self.config.relation_dropout)
        if negative_features is not None:
            with torch.autocast(logits.device.type, enabled=False):
                cosines = output.pair_embeds @ self._project_descriptions(negative_features).T
            logits = torch.cat([logits, cosines * self._clamped_scale()], dim=-1)
        label_smoothing = self.config.label_smoothing if self.training else 0.0
        return retrieval_loss(logits, labels, label_smoothing=label_smoothing, num_items_in_batch=num_items_in_batch)

    def _project_pairs(self, vectors: Tensor, start: Tensor | None) -> Tensor:
        projected, weight = self.pair_projection(vectors).float(), self.config.entity_weight
        if start is None:
            return functional.normalize(projected, dim=-1)
        start = start.float()
        whole = start[..., 0, :] + projected
        if not weight:
            return functional.normalize(whole, dim=-1)
        return weigh_parts(torch.cat([whole[..., None, :], start[..., 1:, :]], dim=-2), weight)

    def _project_descriptions(self, features: Tensor) -> Tensor:
        projected, weight = self.relation_projection(features).float(), self.config.entity_weight
        return (
            weigh_parts(projected.unflatten(-1, (3, -1)), weight) if weight else functional.normalize(projected, dim=-1)
        )

    def _clamped_scale(self) -> Tensor:
        lowest, highest = -math.log(self.config.max_temperature), -math.log(self.config.min_temperature)
        return self.logit_scale.float().clamp(lowest, highest).exp()


RocModel.register_for_auto_class("AutoModel")
