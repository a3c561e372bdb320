"""The settings of a model that a run may choose, declared once: type, default, range, meaning. Needs no PyTorch."""

# No `from __future__ import annotations`: @strict skips annotations that are strings, and would check no type at all.

import operator
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from .processing_typing_roc import ENTITY_TYPES

Number = float | int  # @strict takes no whole number where a float is asked for
# of a limit: what must hold for a value and the limit, its sign, and its bracket where there are two
LIMITS = {
    "at_least": (operator.ge, ">=", "["),
    "more_than": (operator.gt, ">", "("),
    "at_most": (operator.le, "<=", "]"),
    "less_than": (operator.lt, "<", ")"),
}


def setting(default: Any, about: str, **known: Any) -> Any:
    """A dataclass field with what is known about it.

    Args:
        default: Its default.
        about: What it means, as `train.py --help` shows it.
        **known: Its range, `at_least` or `more_than`, and `at_most` or `less_than`; and what else its class tells
            about a field, see `RunConfig`.
    """
    return field(default=default, metadata={"about": about, **known})


def describe_range(own: Field[Any]) -> str:
    """The range of a field in words, such as ">= 1" or "in [0, 1)"; empty where it has none."""
    limits = [
        (own.metadata[name], sign, bracket) for name, (_, sign, bracket) in LIMITS.items() if name in own.metadata
    ]
    if len(limits) == 2:
        (low, _, opening), (high, _, closing) = limits
        return f"in {opening}{low}, {high}{closing}"
    return "".join(f"{sign} {limit}" for limit, sign, _ in limits)


def check_ranges(settings: Any) -> None:
    """Refuse a field that is out of its range.

    Args:
        settings: A dataclass, with fields made by `setting` among its fields. A field that is None passes.

    Raises:
        ValueError: If a field is out of its range.
    """
    for own in fields(settings):
        value = getattr(settings, own.name)
        limits = [(holds, own.metadata[name]) for name, (holds, _, _) in LIMITS.items() if name in own.metadata]
        if value is not None and not all(holds(value, limit) for holds, limit in limits):
            raise ValueError(f"{own.name}={value} is out of range: give a number {describe_range(own)}.")


@dataclass
class ModelSettings:
    """The section `model` of a run's settings, and fields of `RocConfig`.

    Numbers without a source are our choice: the paper (Hei et al., EMNLP 2025) leaves them open.

    Raises:
        ValueError: If a value is out of range.
    """

    freeze_vision: bool = setting(False, "Whether the vision encoder keeps its weights in training.")
    head: Literal["retrieval", "classification"] = setting(
        "retrieval",
        "`retrieval` ranks relations by the similarity of their descriptions; `classification` is a softmax over label "
        "ids on the same pair vector, for comparison.",
    )
    fusion_num_layers: int = setting(
        2, "Layers in which tokens and regions attend to each other and to the patches; 0 for none.", at_least=0
    )
    fusion_num_heads: int = setting(
        8, "Attention heads of a fusion layer; they divide the text encoder's hidden size.", at_least=1
    )
    fusion_intermediate_size: int | None = setting(
        None, "Width of a fusion layer's feed-forward part; null for 4 x the hidden size.", at_least=1
    )
    # the "entity start" and "[CLS]" variants of Soares et al., "Matching the Blanks" (ACL 2019), section 3
    pair_representation: Literal["entities", "sentence"] = setting(
        "entities",
        "Where a pair reads the fused sequence. `entities`: at the positions of head and tail. `sentence`, for "
        "comparison: at the text's first token ([CLS]) for both, so that only the markers tell what the pair is, and "
        "the processor must have `markers: pair`.",
    )
    alignment: Literal["projection", "residual"] = setting(
        "projection",
        "How pairs and descriptions meet. `projection`: both are projected into a space that is learnt from nothing. "
        "`residual`: in the description encoder's own space; a pair is the mean of the text's and of its entities' "
        "states in the text encoder plus a correction that starts at zero, so that a sentence encoder starts from what "
        "it knows already, and keeps it for relations that training has not seen.",
    )
    projection_dim: int = setting(256, "Size of the space of `alignment: projection`.", at_least=1)
    dropout: Number = setting(
        0.1, "Dropout probability of the fusion layers and of the pair vector.", at_least=0, less_than=1
    )
    # CLIP's start (Radford et al., 2021, section 2.5)
    initial_temperature: Number = setting(
        0.07, "Temperature at the start of training; logits are cosine / temperature."
    )
    min_temperature: Number = setting(0.01, "The learnt temperature is never below it.")
    max_temperature: Number = setting(1.0, "The learnt temperature is never above it.")
    learn_temperature: bool = setting(True, "Whether the temperature is trained.")
    description_pooling: Literal["mean", "max"] = setting(
        "mean",
        "How several descriptions of a relation combine: `mean` averages and normalises them, `max` takes the nearest "
        "to the pair.",
    )
    label_smoothing: Number = setting(0.0, "Label smoothing of the loss.", at_least=0, less_than=1)
    relation_dropout: Number = setting(
        0.0,
        "Probability with which a training step leaves a relation out that none of its pairs has: the pairs of each "
        "step choose among another part of the inventory.",
        at_least=0,
        less_than=1,
    )
    picture_dropout: Number = setting(
        0.0, "Probability with which a training step leaves out a sample's picture.", at_least=0, less_than=1
    )
    wrong_pictures: Number = setting(
        0.0,
        "Probability with which a training step shows a sample another one's picture. Pairs of two text entities keep "
        "their relation; pairs with an object have none (`none_relation`), or are left out of the loss where the "
        "inventory has no such relation.",
        at_least=0,
        less_than=1,
    )
    token_dropout: Number = setting(
        0.0,
        "Probability with which a training step hides a token of the text from attention. The markers of entities and "
        "the types in them stay.",
        at_least=0,
        less_than=1,
    )
    entity_types: list[str] | tuple[str, ...] = setting(
        ENTITY_TYPES, "Words that head and tail types of relations may use."
    )
    type_constraints: Literal["off", "soft", "hard"] = setting(
        "off",
        "What happens to relations whose `head_types` or `tail_types` leave out the type of the head or tail: nothing "
        "(`off`), a penalty (`soft`), or they come after all others (`hard`). An entity without a type fits all. The "
        "loss is not changed.",
    )
    type_penalty: Number = setting(
        1.0,
        "For `type_constraints: soft`, what is subtracted from the logit for each of head and tail that does not fit.",
        at_least=0,
    )
    initializer_range: Number = setting(0.02, "Standard deviation of the weights that start at random.", at_least=0)

    def __post_init__(self) -> None:
        self.entity_types = list(self.entity_types)
        self.check()

    def check(self) -> None:
        """Check each range, and that the temperatures are in order.

        Raises:
            ValueError: If one is not as it must be.
        """
        check_ranges(self)
        if not 0 < self.min_temperature <= self.initial_temperature <= self.max_temperature:
            raise ValueError(
                "Temperatures must satisfy 0 < min_temperature <= initial_temperature <= max_temperature; given "
                f"{self.min_temperature}, {self.initial_temperature}, {self.max_temperature}."
            )
