"""The settings of a model that a run may choose, declared once: type, default, range, meaning. Needs no PyTorch."""

# No `from __future__ import annotations`: @strict skips annotations that are strings, and would check no type at all.

import operator
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from .processing_typing_roc import ENTITY_TYPES

Number = float | int  # @strict takes no whole number where a float is asked for
PROBABILITY = {"at_least": 0, "less_than": 1}  # the range of one that leaves something to chance
# for each limit: what must hold for a value and the limit, its sign, and its bracket where there are two
LIMITS = {
    "at_least": (operator.ge, ">=", "["),
    "more_than": (operator.gt, ">", "("),
    "at_most": (operator.le, "<=", "]"),
    "less_than": (operator.lt, "<", ")"),
}


def setting(default: Any, about: str, **known: Any) -> Any:
    """Declare a dataclass field with what is known about it.

    Args:
        default: Its default.
        about: What it means, as `train.py --help` shows it.
        **known: Its range, `at_least` or `more_than`, and `at_most` or `less_than`; and what else its class tells
            about a field, see `RunConfig`.
    """
    return field(default=default, metadata={"about": about, **known})


def describe_range(own: Field[Any]) -> str:
    """Return the range of a field in words, such as ">= 1" or "in [0, 1)"; empty where it has none."""
    limits = [(own.metadata[name], *LIMITS[name][1:]) for name in LIMITS if name in own.metadata]
    if len(limits) == 2:
        (low, _, opening), (high, _, closing) = limits
        return f"in {opening}{low}, {high}{closing}"
    return "".join(f"{sign} {limit}" for limit, sign, _ in limits)


def check_ranges(settings: Any) -> None:
    """Raise a ValueError where a field of a dataclass, declared by `setting`, is out of its range; None passes."""
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
        "retrieval", "Rank relations by their descriptions or, for comparison, by a softmax over label ids."
    )
    fusion_num_layers: int = setting(
        2, "Layers in which text, regions and patches attend to each other.", at_least=0, at_most=100
    )
    fusion_num_heads: int = setting(
        8, "Attention heads; they divide the text encoder's hidden size.", at_least=1, at_most=1000
    )
    fusion_intermediate_size: int | None = setting(
        None,
        "Width of a fusion layer's feed-forward part; null for 4 x the hidden size.",
        at_least=1,
        at_most=1_000_000,
    )
    # the "entity start" and "[CLS]" variants of Soares et al., "Matching the Blanks" (ACL 2019), section 3
    pair_representation: Literal["entities", "sentence"] = setting(
        "entities",
        "Where a pair reads the fused sequence: at head and tail or, for comparison, at the first token ([CLS]) for "
        "both, which needs `markers: pair`.",
    )
    # with "residual", a sentence encoder starts from what it knows, and keeps it for relations not seen in training
    alignment: Literal["projection", "residual"] = setting(
        "projection",
        "How pairs and descriptions meet: in a learnt space (`projection`), or in the description encoder's own, where "
        "a pair is the mean of its text's and entities' states plus a correction that starts at zero (`residual`).",
    )
    # RE-Matching (Zhao et al., ACL 2023) compares head, tail and the rest of a sentence one by one
    entity_weight: Number = setting(
        0.0,
        "Weight of what a relation says that its head and its tail are (`head`, `tail`), which are compared with the "
        "pair's entities, beside 1 for its descriptions; it needs `alignment: residual`.",
        at_least=0,
        at_most=100,
    )
    projection_dim: int = setting(256, "Size of the space of `alignment: projection`.", at_least=1, at_most=100_000)
    dropout: Number = setting(0.1, "Dropout probability of the fusion layers and of the pair vector.", **PROBABILITY)
    # CLIP's start (Radford et al., 2021, section 2.5)
    initial_temperature: Number = setting(0.07, "Temperature at the start; logits are cosine / temperature.")
    min_temperature: Number = setting(0.01, "The learnt temperature is never below it.")
    max_temperature: Number = setting(1.0, "The learnt temperature is never above it.")
    learn_temperature: bool = setting(True, "Whether the temperature is trained.")
    description_pooling: Literal["mean", "max"] = setting(
        "mean", "How several descriptions of a relation combine: their normalised `mean`, or the nearest to the pair."
    )
    label_smoothing: Number = setting(0.0, "Label smoothing of the loss.", **PROBABILITY)
    relation_dropout: Number = setting(0.0, "Probability that a step leaves out a relation no pair has.", **PROBABILITY)
    picture_dropout: Number = setting(0.0, "Probability that training leaves out a sample's picture.", **PROBABILITY)
    # pairs of two text entities keep their relation
    wrong_pictures: Number = setting(
        0.0,
        "Probability that training shows a sample another one's picture, where pairs with an object have no relation.",
        **PROBABILITY,
    )
    token_dropout: Number = setting(0.0, "Probability that a step hides a word piece of the text.", **PROBABILITY)
    entity_types: list[str] | tuple[str, ...] = setting(ENTITY_TYPES, "Entity types that relations may name.")
    type_constraints: Literal["off", "soft", "hard"] = setting(
        "off",
        "What predictions do with relations whose types leave out the head's or tail's: nothing, lower their logits "
        "(`soft`), or rank them last (`hard`). An entity without a type fits all.",
    )
    type_penalty: Number = setting(1.0, "What `soft` constraints subtract per type that does not fit.", at_least=0)
    initializer_range: Number = setting(0.02, "Standard deviation of the weights that start at random.", at_least=0)

    def __post_init__(self) -> None:
        self.entity_types = list(self.entity_types)
        self.check()

    def check(self) -> None:
        """Raise a ValueError where a value is out of range, or the temperatures are not in order."""
        check_ranges(self)
        if not 0 < self.min_temperature <= self.initial_temperature <= self.max_temperature:
            raise ValueError(
                "Temperatures must satisfy 0 < min_temperature <= initial_temperature <= max_temperature; given "
                f"{self.min_temperature}, {self.initial_temperature}, {self.max_temperature}."
            )
