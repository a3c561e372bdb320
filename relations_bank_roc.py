"""The relation bank: encoded descriptions, and how pairs are compared with them."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .processing_typing_roc import type_id
from .relations_roc import PHRASES

NUM_SEALS = 8  # numbers that tell a row of features from another: two that differ agree in all with odds below 1e-6
# What rounding to bfloat16 changes of them stays below this share of a row's length.
SEAL_TOLERANCE = 0.02


class RelationBank(nn.Module):
    """Encoded descriptions of relations, kept as persistent buffers so that a saved model answers at once.

    The buffers hold what the description encoder gave, before the model's projection: the projection is trained,
    the encoder's output (for a frozen encoder) is not, so training needs no second look at the descriptions. Each row
    is tied to the relation and the description that it was made from: `holds` tells which rows still belong to them.

    Attributes:
        features: `(num_descriptions, feature_dim)` float, one row per description, relation by relation; a row joins
            the features of its texts (`texts_of_rows`).
        relation_index: `(num_descriptions,)` int64, the relation that each description belongs to.
        digests: `(num_descriptions,)` int64, `description_digests` of what each row was made from; 0 before that.
        seals: `(num_descriptions, NUM_SEALS)` float, `feature_seals` of each row.
        encoder_sample: `(encoder_dim,)` float, what the frozen description encoder that gave the features gives for a
            fixed input; zeros for an encoder that learns.
    """

    features: Tensor
    relation_index: Tensor
    digests: Tensor
    seals: Tensor
    encoder_sample: Tensor

    def __init__(self, num_descriptions: int, feature_dim: int, encoder_dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(num_descriptions, feature_dim))
        self.register_buffer("relation_index", torch.zeros(num_descriptions, dtype=torch.long))
        self.register_buffer("digests", torch.zeros(num_descriptions, dtype=torch.long))
        self.register_buffer("seals", torch.zeros(num_descriptions, NUM_SEALS))
        self.register_buffer("encoder_sample", torch.zeros(encoder_dim))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Give features and relation index: where they are offloaded, this call brings them back."""
        return self.features, self.relation_index

    def replace(
        self, features: Tensor, relations: Sequence[Mapping[str, Any]], encoder_sample: Tensor | None = None
    ) -> None:
        """Take other features.

        Args:
            features: `(num_descriptions, feature_dim)`, a row for each description of `relations`, in order.
            relations: The relations.
            encoder_sample: See the class; None keeps the bank's own.

        Raises:
            ValueError: If there is not one row per description, or the buffers are offloaded.
        """
        self.check_is_here()
        with torch.inference_mode(False):  # tensors of that mode could not be trained with later
            features = features.clone() if features.is_inference() else features.detach()
            relation_index = relation_index_of(relations)
        if len(features) != len(relation_index):
            raise ValueError(
                f"The relations have {len(relation_index)} descriptions, but {len(features)} features were given. "
                "Encode every description once, in order."
            )
        device = self.features.device
        self.features = features.to(device)
        self.relation_index = relation_index.to(device)
        self.digests = description_digests(relations).to(device)
        self.seals = feature_seals(self.features, self.digests)
        if encoder_sample is not None:
            self.encoder_sample = encoder_sample.detach().to(device)

    def check_is_here(self) -> None:
        """Raise a ValueError where the buffers are offloaded: they cannot be replaced then."""
        if self.features.is_meta:
            raise ValueError(
                "The relations cannot be changed while their features are offloaded. Load the model without "
                "offload_buffers, or change its relations before it is offloaded."
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Take a bank of another number of descriptions too; whose they are is looked at when it is used."""
        for name, own in self.named_buffers():
            given = state_dict.get(prefix + name)
            if isinstance(given, Tensor) and given.shape != own.shape and given.ndim == own.ndim:
                setattr(self, name, own.new_zeros(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def is_encoded(self) -> bool:
        """Whether the bank has ever been given features."""
        return bool(self.digests.any())

    def holds(self, digests: Tensor) -> Tensor:
        """Tell for each description whether its row was made from it and is as it was then.

        `digests` are the `description_digests` of all descriptions, in order.

        Returns:
            `(num_descriptions,)` bool, on the CPU.
        """
        if not len(digests) == len(self.digests) == len(self.features):
            return torch.zeros(len(digests), dtype=torch.bool)
        is_sealed = rows_are_sealed(self.features, self.seals, self.digests)
        return (is_sealed & (digests.to(self.digests.device) == self.digests)).cpu()


def description_digests(relations: Sequence[Mapping[str, Any]]) -> Tensor:
    """Compute 8 bytes of the SHA-256 of each description with its relation's name, head and tail.

    Returns:
        `(num_descriptions,)` int64.
    """
    texts = ["\0".join([own["name"], text, *_entities(own)]) for own in relations for text in own["descriptions"]]
    return torch.tensor([*map(text_digest, texts)], dtype=torch.long, device="cpu")


def _entities(relation: Mapping[str, Any]) -> list[str]:
    given = [relation.get(key, "") for key in PHRASES]
    return given if any(given) else []


def text_digest(text: str) -> int:
    """Compute the first 8 bytes of a text's SHA-256, as a signed number."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


def feature_seals(features: Tensor, digests: Tensor) -> Tensor:
    """Compute sums of each row with fixed signs, and turn their signs by the last bits of the row's digest.

    Args:
        features: `(rows, feature_dim)`.
        digests: `(rows,)` int64, `description_digests` of what the rows were made from.

    Returns:
        `(rows, NUM_SEALS)`, in the dtype of the features.
    """
    bits = digests.to(features.device)[:, None] >> torch.arange(NUM_SEALS, device=features.device) & 1
    sums = features.float() @ _signs(features.shape[-1]).to(features.device)
    return (sums * (1 - 2 * bits)).to(features.dtype)


def rows_are_sealed(features: Tensor, seals: Tensor, digests: Tensor) -> Tensor:
    """Tell for each row whether it still has these `feature_seals`: `(rows,)` bool, false for what is not finite."""
    allowed = SEAL_TOLERANCE * features.float().norm(dim=-1, keepdim=True)
    return ((feature_seals(features.float(), digests) - seals.float()).abs() <= allowed).all(dim=-1)


@functools.cache
def _signs(feature_dim: int) -> Tensor:
    """`(feature_dim, NUM_SEALS)` of 1 and -1, the same on every machine."""
    given = hashlib.shake_256(b"ROC relation bank").digest(feature_dim * NUM_SEALS)
    return torch.tensor([1.0 - 2 * (byte & 1) for byte in given], device="cpu").view(feature_dim, NUM_SEALS)


def rebind_forward(module: nn.Module) -> None:
    """Have a copy of a module run itself where something, such as accelerate, has put a call in place of `forward`.

    That call is bound to the module that was copied, which would answer in the copy's name.
    """
    for name in ("forward", "_old_forward"):
        if isinstance(call := vars(module).get(name), functools.partial):
            setattr(module, name, functools.partial(call.func, module, *call.args[1:], **call.keywords))
        elif call is not None:
            setattr(module, name, types.MethodType(call.__func__, module))


def descriptions_of(relations: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the descriptions of all relations in the order of the bank's rows, relation by relation."""
    return [text for relation in relations for text in relation["descriptions"]]


def texts_of_rows(relations: Sequence[Mapping[str, Any]], *, match_entities: bool) -> list[tuple[str, ...]]:
    """List what each row of the bank is made of, relation by relation.

    Args:
        relations: The relations.
        match_entities: Whether a row also says what head and tail are. Where a relation does not say it, its
            description does.

    Returns:
        A tuple per description: itself, or with `match_entities` itself, the head and the tail.
    """
    if not match_entities:
        return [(text,) for text in descriptions_of(relations)]
    return [
        (text, *(relation.get(key, text) for key in PHRASES))
        for relation in relations
        for text in relation["descriptions"]
    ]


def relation_index_of(relations: Sequence[Mapping[str, Any]]) -> Tensor:
    """Number the relation that each description belongs to: `(num_descriptions,)` int64."""
    counts = torch.tensor([len(relation["descriptions"]) for relation in relations], dtype=torch.long)
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def rows_of_relations(relation_index: Tensor, relations: Sequence[int]) -> Tensor:
    """Find the bank's rows of some relations, which are given by their numbers, each once.

    Returns:
        `(descriptions of these relations,)` int64, relation by relation in the given order.
    """
    place = relation_index.new_full((max(int(relation_index.max()), *relations) + 1,), len(relations))
    place[list(relations)] = torch.arange(len(relations), device=place.device)
    places = place[relation_index]
    return places.argsort(stable=True)[: int((places < len(relations)).sum())]


def weigh_parts(parts: Tensor, entity_weight: float) -> Tensor:
    """Join the parts of a vector to one whose cosine with another is the weighted mean of the parts' cosines.

    The whole weighs 1, head and tail `entity_weight / 2` each.

    Args:
        parts: `(..., 3, dim)`: the whole, the head, the tail.
        entity_weight: See `ModelSettings`.

    Returns:
        `(..., 3 * dim)`, L2-normalised.

    Source:
        Zhao et al., "RE-Matching: A Fine-Grained Semantic Matching Method for Zero-Shot Relation Extraction" (ACL
        2023). They encode each pair by itself; here one encoding serves all.
    """
    shares = parts.new_tensor([1.0, entity_weight / 2, entity_weight / 2]) / (1 + entity_weight)
    return (functional.normalize(parts, dim=-1) * shares.sqrt()[:, None]).flatten(-2)


def pool_descriptions(description_embeds: Tensor, relation_index: Tensor, num_relations: int) -> Tensor:
    """Join the descriptions of each relation: take their mean and normalise it again.

    Args:
        description_embeds: `(num_descriptions, dim)`, L2-normalised.
        relation_index: See `RelationBank`.
        num_relations: Number of relations.

    Returns:
        `(num_relations, dim)`, L2-normalised.

    Source:
        The several prompts per class of CLIP (Radford et al., 2021, section 3.1.4).
    """
    sums = description_embeds.new_zeros(num_relations, description_embeds.shape[-1])
    return functional.normalize(sums.index_add(0, relation_index, description_embeds), dim=-1)


def nearest_similarities(
    pair_embeds: Tensor, description_embeds: Tensor, relation_index: Tensor, num_relations: int
) -> Tensor:
    """Compare each pair `(..., dim)`, L2-normalised, with the nearest description of each relation.

    The other arguments are those of `pool_descriptions`.

    Returns:
        `(..., num_relations)`, cosines.
    """
    cosines = pair_embeds @ description_embeds.T  # (..., descriptions)
    lowest = cosines.new_full((*cosines.shape[:-1], num_relations), -torch.inf)
    return lowest.scatter_reduce(-1, relation_index.expand_as(cosines), cosines, "amax")


def nearest_descriptions(
    pair_embeds: Tensor, description_embeds: Tensor, relation_index: Tensor, relations: Tensor
) -> tuple[Tensor, Tensor]:
    """Find for each pair, and for each of some relations, the description that lies nearest to the pair.

    Args:
        pair_embeds: `(num_pairs, dim)`, L2-normalised.
        description_embeds: `(num_descriptions, dim)`, L2-normalised.
        relation_index: See `RelationBank`; the relations are in non-decreasing order.
        relations: `(num_pairs, k)` int64, the relations to look at for each pair.

    Returns:
        `(num_pairs, k)`, cosines, and `(num_pairs, k)` int64, rows of `description_embeds`.
    """
    counts = torch.bincount(relation_index)
    last = counts.cumsum(0)[relations] - 1
    first = last - counts[relations] + 1
    best, nearest = torch.full_like(first, -torch.inf, dtype=pair_embeds.dtype), first
    for step in range(int(counts.max())):  # one description of each at a time: few have many
        rows = torch.minimum(first + step, last)
        cosines = (pair_embeds[:, None] * description_embeds[rows]).sum(-1)
        is_nearer = cosines > best
        best, nearest = torch.where(is_nearer, cosines, best), torch.where(is_nearer, rows, nearest)
    return best, nearest


def type_mismatches(type_ids: Tensor, pair_index: Tensor, relations: Sequence[Mapping[str, Any]]) -> Tensor:
    """Count for each pair and relation how many of head and tail have a type that the relation does not take.

    Args:
        type_ids: See `entity_type_ids` of `PairInputs`. An entity without a type fits all relations.
        pair_index: See `PairInputs`.
        relations: Mappings of `head_types` and `tail_types`; an empty list takes all types.

    Returns:
        `(batch, pairs, relations)` int64: 0, 1 or 2.
    """
    total = type_ids.new_zeros(())
    for side, key in enumerate(("head_types", "tail_types")):
        ids = [[type_id(word) for word in relation[key]] for relation in relations]
        width = max(map(len, ids), default=0) or 1
        asked = torch.tensor([[*own, *[-1] * (width - len(own))] for own in ids], device=type_ids.device)
        given = type_ids.gather(1, pair_index[..., side])[..., None]  # (batch, pairs, 1)
        fits = (given[..., None] == asked).any(-1)  # (batch, pairs, relations)
        total = total + ~(fits | (asked.amax(-1) < 0) | (given < 0))
    return total
