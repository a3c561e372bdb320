"""Configuration of ROC: backbones, fusion, retrieval, and the relations that a model knows."""

# No `from __future__ import annotations`: @strict skips annotations that are strings, and would check no type at all.

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .messages_roc import did_you_mean
from .processing_typing_roc import ENTITY_TYPES
from .relations_roc import normalise_relations

# What Transformers' `pipeline` reads: which file of a model's folder has the pipeline.
CUSTOM_PIPELINES = {
    "multimodal-relation-extraction": {
        "impl": "pipeline_roc.RocPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
PROBABILITIES = ("dropout", "label_smoothing", "relation_dropout", "picture_dropout", "wrong_pictures", "token_dropout")


@strict
class RocConfig(PretrainedConfig):
    """Configuration of a `RocModel`.

    Numbers without a source are our choice: the paper (Hei et al., EMNLP 2025) leaves them open.

    Args:
        text_config: Configuration of the text encoder (any `AutoModel` text encoder).
        vision_config: Configuration of the vision encoder (any ViT-like `AutoModel`); None for a text-only model.
        relation_config: Configuration of the description encoder, which is frozen, so that descriptions are
            encoded once and not at every step. None shares the text encoder, which then learns from both sides.
        encoder_sources: Of a small checkpoint, the encoders whose weights are not in it: for each of `text_model`,
            `vision_model` and `relation_model` its `name`, as for `resolve_model`, and the `sha256` of its weights.
            None for a checkpoint that is whole, as a model is once it has been loaded.
        freeze_vision: Whether the vision encoder keeps its weights in training.
        head: `"retrieval"` ranks relations by the similarity of their descriptions; `"classification"` is a softmax
            over label ids on the same pair vector, for comparison.
        fusion_num_layers: Layers in which tokens and regions attend to each other and to the patches; 0 for none.
        fusion_num_heads: Attention heads of a fusion layer; divides the text encoder's hidden size.
        fusion_intermediate_size: Width of a fusion layer's feed-forward part; None for 4 x the hidden size.
        pair_representation: Where a pair reads the fused sequence. `"entities"`: at the positions of head and tail.
            `"sentence"`, for comparison: at the text's first token ([CLS]) for both, so that only the markers tell what
            the pair is, and the processor must have `markers="pair"`. These are the "entity start" and "[CLS]"
            variants of Soares et al., "Matching the Blanks" (ACL 2019), section 3.
        alignment: How pairs and descriptions meet. `"projection"`: both are projected into a space that is learnt from
            nothing. `"residual"`: in the description encoder's own space; a pair is the mean of the text's and of its
            entities' states in the text encoder plus a correction that starts at zero, so that a sentence encoder
            starts from what it knows already, and keeps it for relations that training has not seen. Our choice.
        projection_dim: Size of that space for `"projection"`.
        dropout: Dropout probability of the fusion layers and of the pair vector, in [0, 1).
        initial_temperature: Temperature at the start of training; logits are cosine / temperature.
        min_temperature: The learnt temperature is clamped to [min_temperature, max_temperature].
        max_temperature: See min_temperature.
        learn_temperature: Whether the temperature is trained.
        description_pooling: How several descriptions of a relation combine: `"mean"` averages and normalises them,
            `"max"` takes the nearest to the pair.
        label_smoothing: Label smoothing of the loss, in [0, 1).
        relation_dropout: Probability with which a training step leaves a relation out that none of its pairs has, in
            [0, 1): the pairs of each step choose among another part of the inventory.
        picture_dropout: Probability with which a training step leaves out a sample's picture, in [0, 1).
        wrong_pictures: Probability with which a training step shows a sample another one's picture, in [0, 1). Pairs of
            two text entities keep their relation; pairs with an object have none (`none_relation`), or are left out of
            the loss where the inventory has no such relation.
        token_dropout: Probability with which a training step hides a token of the text from attention, in [0, 1);
            entities' markers stay.
        max_regions: Most object regions of one picture.
        entity_types: Words that head and tail types of relations may use.
        relations: The relations, each a mapping of `name`, `descriptions` (one or more), and optionally `head_types`
            and `tail_types`; scores come in this order.
        none_relation: Name of the relation that means "none of these", or None where the inventory has none.
        none_threshold: For an inventory without such a relation: a pair whose best relation has a lower cosine gets no
            relation. None to always give one. `train.py` calibrates it on the validation split, for relations that
            training has not seen.
        probability_temperature: Logits are divided by it before the softmax that gives probabilities; `train.py`
            calibrates it on the validation split.
        type_constraints: What happens to relations whose `head_types` or `tail_types` leave out the type of the head or
            tail: nothing (`"off"`), a penalty (`"soft"`), or they come after all others (`"hard"`). An entity without a
            type fits all. The loss is not changed.
        type_penalty: For `"soft"`, what is subtracted from the logit for each of head and tail that does not fit.

    Raises:
        ValueError: If a value is out of range, relations are malformed, or an unknown key resembles a field.
        StrictDataclassFieldValidationError: If a value has the wrong type.
    """

    model_type = "roc"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
        "relation_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
    }

    text_config: dict[str, Any] | PretrainedConfig | None = None
    vision_config: dict[str, Any] | PretrainedConfig | None = None
    relation_config: dict[str, Any] | PretrainedConfig | None = None
    encoder_sources: dict[str, dict[str, str]] | None = None
    freeze_vision: bool = False
    head: Literal["retrieval", "classification"] = "retrieval"
    fusion_num_layers: int = 2
    fusion_num_heads: int = 8
    fusion_intermediate_size: int | None = None
    pair_representation: Literal["entities", "sentence"] = "entities"
    alignment: Literal["projection", "residual"] = "projection"
    projection_dim: int = 256
    dropout: float | int = 0.1
    initial_temperature: float | int = 0.07  # CLIP's start (Radford et al., 2021, section 2.5)
    min_temperature: float | int = 0.01
    max_temperature: float | int = 1.0
    learn_temperature: bool = True
    description_pooling: Literal["mean", "max"] = "mean"
    label_smoothing: float | int = 0.0
    relation_dropout: float | int = 0.0
    picture_dropout: float | int = 0.0
    wrong_pictures: float | int = 0.0
    token_dropout: float | int = 0.0
    max_regions: int = 10  # MORE's limit
    entity_types: list[str] | tuple[str, ...] = ENTITY_TYPES
    relations: list[dict[str, Any]] | tuple[dict[str, Any], ...] = ()
    none_relation: str | None = None
    none_threshold: float | int | None = None
    probability_temperature: float | int = 1.0
    type_constraints: Literal["off", "soft", "hard"] = "off"
    type_penalty: float | int = 1.0
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_misspelt(kwargs)
        self.entity_types = list(self.entity_types)
        self.relations = normalise_relations(self.relations, self.none_relation, self.entity_types)
        for derived in ("id2label", "label2id", "num_labels"):
            kwargs.pop(derived, None)
        if self.relations:
            kwargs["id2label"] = {i: relation["name"] for i, relation in enumerate(self.relations)}
            kwargs["label2id"] = {relation["name"]: i for i, relation in enumerate(self.relations)}
        kwargs.setdefault("custom_pipelines", copy.deepcopy(CUSTOM_PIPELINES))
        super().__post_init__(**kwargs)
        self.validate_architecture()  # here too: @strict would wrap the ValueError in a class of its own

    @property
    def hidden_size(self) -> int:
        """Width of the fused sequence: the text encoder's."""
        return self.text_config.hidden_size  # type: ignore[union-attr]

    @property
    def embed_dim(self) -> int:
        """Size of the vectors of pairs and relations that are compared."""
        if self.alignment == "projection":
            return self.projection_dim
        encoder = self.relation_config or self.text_config
        return encoder.hidden_size  # type: ignore[union-attr]  # mappings are objects once __post_init__ has run

    @property
    def num_relations(self) -> int:
        """How many relations the model scores."""
        return len(self.relations)

    @property
    def relation_names(self) -> list[str]:
        """Their names, in the order of the scores."""
        return [relation["name"] for relation in self.relations]

    @property
    def num_descriptions(self) -> int:
        """How many descriptions the relations have together."""
        return sum(len(relation["descriptions"]) for relation in self.relations)

    def replace_relations(self, relations: Sequence[Mapping[str, Any]], none_relation: str | None) -> None:
        """Take other relations; labels follow. A model's bank follows by `RocModel.set_relations` only.

        Raises:
            ValueError: As `normalise_relations`.
        """
        self.relations = normalise_relations(relations, none_relation, self.entity_types)
        self.none_relation = none_relation
        self.id2label = {i: relation["name"] for i, relation in enumerate(self.relations)}
        self.label2id = {name: i for i, name in self.id2label.items()}

    def validate_architecture(self) -> None:
        """Check ranges; run at construction and before saving."""
        self._check_ranges()
        if self.fusion_num_layers and self.hidden_size % self.fusion_num_heads:
            raise ValueError(
                f"fusion_num_heads={self.fusion_num_heads} must divide the text encoder's hidden size "
                f"{self.hidden_size}. Set fusion_num_heads to a divisor of it."
            )
        if self.alignment == "residual" and self.embed_dim != self.hidden_size:
            raise ValueError(
                f"alignment='residual' needs a description encoder as wide as the text encoder ({self.hidden_size}); "
                f"given {self.embed_dim}. Use the same encoder for both, or alignment='projection'."
            )
        if self.head == "classification" and not self.relations:
            raise ValueError("head='classification' needs `relations`: one output for each. Give them, or retrieve.")
        if not 0 < self.min_temperature <= self.initial_temperature <= self.max_temperature:
            raise ValueError(
                "Temperatures must satisfy 0 < min_temperature <= initial_temperature <= max_temperature; given "
                f"{self.min_temperature}, {self.initial_temperature}, {self.max_temperature}."
            )

    def _check_ranges(self) -> None:
        at_least = {"fusion_num_layers": 0, "fusion_num_heads": 1, "fusion_intermediate_size": 1, "projection_dim": 1}
        at_least |= {"max_regions": 0, "initializer_range": 0, "type_penalty": 0, "none_threshold": -1}
        for field, least in at_least.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise ValueError(f"{field}={value} is out of range: give a number >= {least}.")
        for field in PROBABILITIES:
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is out of range: give a number in [0, 1).")
        if self.none_threshold is not None and self.none_threshold > 1:
            raise ValueError(f"none_threshold={self.none_threshold} is out of range: give a cosine <= 1, or None.")
        if self.probability_temperature <= 0:
            raise ValueError(
                f"probability_temperature={self.probability_temperature} is out of range: give a number > 0."
            )

    def _refuse_misspelt(self, unknown: Iterable[str]) -> None:
        """Transformers keeps unknown keys silently, so a misspelt field would be lost without this check."""
        fields = list(type(self).__dataclass_fields__)
        for key in unknown:
            if key not in fields and (hint := did_you_mean(key, fields)):
                raise ValueError(f"RocConfig has no field {key!r}.{hint}")


RocConfig.register_for_auto_class()
