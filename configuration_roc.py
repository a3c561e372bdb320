"""Configuration of ROC: backbones, fusion, retrieval, and the relations that a model knows."""

# No `from __future__ import annotations`: @strict skips annotations that are strings, and would check no type at all.

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_fields_roc import ModelSettings, Number, setting
from .messages_roc import describe_error, did_you_mean, quote
from .relations_roc import normalise_relations

# What Transformers' `pipeline` reads: which file of a model's folder has the pipeline.
CUSTOM_PIPELINES = {
    "multimodal-relation-extraction": {"impl": "pipeline_roc.RocPipeline", "pt": ["AutoModel"], "type": "multimodal"}
}


# Settings of Transformers' configurations and processors that name a repository or folder to load more from.
PLACES = ("backbone", "repo_path", "audio_tokenizer", "audio_tokenizer_name_or_path")
# The most that an encoder's configuration may state.
MOST = {
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_000,
    "hidden_size": 100_000,
    "intermediate_size": 1_000_000,
    "vocab_size": 10_000_000,
    "image_size": 100_000,
    "patch_size": 100_000,
    "num_channels": 100,
}
MOST_PATCHES = 500  # in a row of a picture
# The parts of a model that `RocConfig.encoder_sources` may name.
ENCODERS = ("text_model", "vision_model", "relation_model")


@strict
class RocConfig(PretrainedConfig, ModelSettings):
    """Configuration of a `RocModel`.

    Its other fields say below what they mean: those of `ModelSettings`, which a run may choose, and two that `train.py`
    calibrates on the validation split.

    Args:
        text_config: Configuration of the text encoder (any `AutoModel` text encoder).
        vision_config: Configuration of the vision encoder (any ViT-like `AutoModel`); None for a text-only model.
        relation_config: Configuration of the description encoder, which is frozen, so that descriptions are
            encoded once and not at every step. None shares the text encoder, which then learns from both sides.
        encoder_sources: The encoders whose weights a small checkpoint lacks: for each of `text_model`, `vision_model`
            and `relation_model` its `name`, as for `resolve_model`, and the `sha256` of its weights. None for a whole
            checkpoint, and once a model has been loaded.
        relations: The relations, each a mapping of `name`, `descriptions` (one or more), and optionally `head`
            and `tail` (what they are, in words), `head_types` and `tail_types`; scores come in this order.
        none_relation: Name of the relation that means "none of these", or None where the inventory has none.

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
    relations: list[dict[str, Any]] | tuple[dict[str, Any], ...] = ()
    none_relation: str | None = None
    none_threshold: Number | None = setting(
        None,
        "For an inventory without a `none_relation`: a pair whose best relation has a lower cosine gets no relation. "
        "None to always give one. It is calibrated for relations that training has not seen.",
        at_least=-1,
        at_most=1,
    )
    probability_temperature: Number = setting(
        1.0, "Logits are divided by it before the softmax that gives probabilities.", more_than=0
    )
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_misspelt(kwargs)
        ModelSettings.__post_init__(self)
        self.relations = normalise_relations(self.relations, self.none_relation, self.entity_types)
        for derived in ("id2label", "label2id", "num_labels"):
            kwargs.pop(derived, None)
        if self.relations:
            kwargs["id2label"] = dict(enumerate(self.relation_names))
            kwargs["label2id"] = {name: i for i, name in enumerate(self.relation_names)}
        kwargs.setdefault("custom_pipelines", copy.deepcopy(CUSTOM_PIPELINES))
        super().__post_init__(**kwargs)
        self.validate_architecture()  # here too: @strict would wrap the ValueError in a class of its own

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """Build a configuration from what a `config.json` holds, as `PretrainedConfig.from_dict` does.

        Raises:
            ValueError: If it is malformed; the message is one short line.
        """
        refuse_places(config_dict)
        try:
            return super().from_dict(config_dict, **options)
        except Exception as error:  # Transformers and its checks raise many kinds
            raise ValueError(f"This configuration is not that of a ROC model: {describe_error(error)}") from error

    @property
    def hidden_size(self) -> int:
        """Width of the fused sequence: the text encoder's."""
        return self.text_config.hidden_size  # type: ignore[union-attr]

    @property
    def embed_dim(self) -> int:
        """Size of the vectors of pairs and relations that are compared."""
        return self.projection_dim if self.alignment == "projection" else self.feature_dim

    @property
    def feature_dim(self) -> int:
        """Size of what the bank holds of a description."""
        encoder: Any = self.relation_config or self.text_config  # an object once __post_init__ has run
        return encoder.hidden_size * self.texts_per_description

    @property
    def texts_per_description(self) -> int:
        """How many texts the bank holds of a description: itself, and with `entity_weight` also head and tail."""
        return 3 if self.entity_weight else 1

    @property
    def num_relations(self) -> int:
        """How many relations the model scores."""
        return len(self.relations)

    @property
    def relation_names(self) -> list[str]:
        """The relations' names, in the order of the scores."""
        return [relation["name"] for relation in self.relations]

    @property
    def num_descriptions(self) -> int:
        """How many descriptions the relations have together."""
        return sum(len(relation["descriptions"]) for relation in self.relations)

    def replace_relations(self, relations: Sequence[Mapping[str, Any]], none_relation: str | None) -> None:
        """Take other relations; labels follow. A model's bank follows by `RocModel.set_relations` only.

        Raises:
            ValueError: If relations are malformed, or `none_relation` is not among them.
        """
        self.relations = normalise_relations(relations, none_relation, self.entity_types)
        self.none_relation = none_relation
        self.id2label = dict(enumerate(self.relation_names))
        self.label2id = {name: i for i, name in self.id2label.items()}

    def validate_architecture(self) -> None:
        """Check ranges and what contradicts each other; run at construction and before saving."""
        self.check()
        self._check_sources()
        refuse_kernels(self)
        check_sizes(self)
        if self.fusion_num_layers and self.hidden_size % self.fusion_num_heads:
            raise ValueError(
                f"fusion_num_heads={self.fusion_num_heads} must divide the text encoder's hidden size "
                f"{self.hidden_size}. Set fusion_num_heads to a divisor of it."
            )
        describer: Any = self.relation_config or self.text_config
        if self.alignment == "residual" and describer.hidden_size != self.hidden_size:
            raise ValueError(
                f"alignment='residual' needs a description encoder as wide as the text encoder ({self.hidden_size}); "
                f"given {describer.hidden_size}. Use the same encoder for both, or alignment='projection'."
            )
        if self.entity_weight and self.alignment != "residual":
            raise ValueError(
                f"entity_weight={self.entity_weight} compares entities in the description encoder's own space: set "
                "alignment to 'residual', or entity_weight to 0."
            )
        if self.head == "classification" and not self.relations:
            raise ValueError("head='classification' needs `relations`: one output for each. Give them, or retrieve.")

    def _check_sources(self) -> None:
        for part, source in (self.encoder_sources or {}).items():
            if part not in ENCODERS or set(source) != {"name", "sha256"}:
                raise ValueError(
                    f"encoder_sources: {quote({part: source})} is not allowed: give for some of {ENCODERS} the name "
                    "and the sha256 of its encoder."
                )

    def _refuse_misspelt(self, unknown: Iterable[str]) -> None:
        """Refuse unknown keys that resemble a field: Transformers would keep them silently, and lose the setting."""
        fields = list(type(self).__dataclass_fields__)
        for key in unknown:
            if key not in fields and (hint := did_you_mean(key, fields)):
                raise ValueError(f"RocConfig has no field {quote(key)}.{hint}")


def refuse_places(settings: Any) -> None:
    """Raise a ValueError where settings, or some in them, have Transformers load something from another place."""
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if name in PLACES and isinstance(value, (str, Mapping)):
            raise ValueError(f"The setting {quote({name: value})} would be loaded from elsewhere. Take it out.")
        refuse_places(value)


def refuse_kernels(config: PretrainedConfig) -> None:
    """Raise a ValueError where a configuration, or one in it, names a repository of code for its attention."""
    for own in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if "/" in str(kernels := getattr(own, "_attn_implementation", None)):
            raise ValueError(
                f"attn_implementation={quote(kernels)} would fetch code from the Hub. Leave it out of the "
                "configuration; call `model.set_attn_implementation` if you trust it."
            )


def check_sizes(config: PretrainedConfig) -> None:
    """Raise a ValueError where a configuration, or one in it, states a size that no encoder has.

    Otherwise a model of that size would be built before anybody sees that its weights are not those.
    """
    for own in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for name, most in MOST.items():
            given = getattr(own, name, None)
            for size in given if isinstance(given, (list, tuple)) else [given]:
                least = 0 if name == "num_hidden_layers" else 1
                if isinstance(size, int) and not least <= size <= most:
                    raise ValueError(
                        f"{name}={quote(given)} is out of range: give whole numbers in [{least}, {most:,}]."
                    )
        image, patch = (getattr(own, name, None) for name in ("image_size", "patch_size"))
        if isinstance(image, int) and isinstance(patch, int) and image > MOST_PATCHES * patch:
            raise ValueError(
                f"image_size={image} with patch_size={patch} makes more than {MOST_PATCHES} patches a side."
            )


RocConfig.register_for_auto_class()
