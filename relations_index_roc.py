"""Search in large inventories: a snapshot of a model's relations that finds the nearest ones of each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .relations_bank_roc import (
    descriptions_of,
    nearest_descriptions,
    nearest_similarities,
    pool_descriptions,
    relation_index_of,
    rows_of_relations,
)

MOST_EXACT = 10_000  # vectors up to which every one is compared with the pair
PAIRS_PER_BATCH = 256  # with 100,000 relations, their cosines fill 100 MB
VECTORS_PER_BATCH = 10_000
# Nodes of the graph that a search keeps in view: of the ten nearest to pairs of an untrained model among 100,000 MiniLM
# embeddings, 256 found 91 %, 512 found 97 % and 768 found 99 %, the last in the time of comparing with all.
EXPANSION = 512


@dataclass(frozen=True)
class RelationMatches:
    """What a search found.

    Args:
        scores: `(num_pairs, top_k)`, cosines in descending order; equal ones in the order of the names.
        names: The names of each pair's `top_k` relations.
        descriptions: The description of each of these relations that lies nearest to the pair.
    """

    scores: Tensor
    names: list[list[str]]
    descriptions: list[list[str]]


class RelationIndex:
    """A snapshot of the relations of a model as they are now, to be searched; `RocModel.index_relations` makes it.

    It keeps answering with the relations and vectors of that moment: a model that is trained or edited afterwards needs
    a new index. The order of the relations plays no part.

    Args:
        relations: The relations, in the form of `RocConfig.relations`.
        description_embeds: `(num_descriptions, dim)`, L2-normalised, in the order of `relations`.
        pooling: How several descriptions of a relation combine: see `RocConfig.description_pooling`.
        exact: True compares with every relation, False looks them up in an approximate index; None is exact up to
            10,000 vectors.

    Raises:
        ValueError: If there is no relation, or not one vector per description.
        ImportError: If an approximate index is needed and its library is not installed.
    """

    def __init__(
        self,
        relations: Sequence[Mapping[str, Any]],
        description_embeds: Tensor,
        *,
        pooling: Literal["mean", "max"] = "mean",
        exact: bool | None = None,
    ) -> None:
        relation_index = relation_index_of(relations)
        if not len(relations) or len(description_embeds) != len(relation_index):
            raise ValueError(
                f"{len(relations)} relations with {len(relation_index)} descriptions cannot be indexed with "
                f"{len(description_embeds)} vectors: give at least one relation, and one vector per description."
            )
        order = sorted(range(len(relations)), key=lambda number: relations[number]["name"])
        by_name = [relations[number] for number in order]
        rows = rows_of_relations(relation_index, order).to(description_embeds.device)
        self._names = [relation["name"] for relation in by_name]
        self._descriptions = descriptions_of(by_name)
        self._description_embeds = description_embeds.detach()[rows].float()
        self._relation_index = relation_index_of(by_name).to(description_embeds.device)
        self._relation_embeds: Tensor | None = None  # with "max", a relation has no vector of its own
        self._relation_of: Sequence[int] = self._relation_index.tolist()  # by the number of a vector
        if pooling == "mean":
            self._relation_embeds = pool_descriptions(self._description_embeds, self._relation_index, len(self))
            self._relation_of = range(len(self))
        self.exact = len(self._vectors) <= MOST_EXACT if exact is None else exact
        self._graph = None if self.exact else _build_graph(self._vectors)

    def __len__(self) -> int:
        """Count the relations."""
        return len(self._names)

    @property
    def _vectors(self) -> Tensor:
        """Vectors that pairs are compared with: those of the relations, or of each of their descriptions."""
        return self._description_embeds if self._relation_embeds is None else self._relation_embeds

    @torch.no_grad()
    def search(self, pair_embeds: Tensor, top_k: int = 10) -> RelationMatches:
        """Find the relations that lie nearest to each pair, as the model itself ranks them.

        Args:
            pair_embeds: `(num_pairs, dim)`, L2-normalised. For a batch, give `pair_embeds[pair_mask.bool()]`.
            top_k: How many relations to find for each pair, at most.

        Returns:
            The matches. Their scores are exact; an approximate index may miss a relation.

        Raises:
            ValueError: If `pair_embeds` has another shape, or `top_k` is below 1.
        """
        dim = self._vectors.shape[1]
        if pair_embeds.ndim != 2 or pair_embeds.shape[1] != dim:
            raise ValueError(
                f"pair_embeds has the shape {tuple(pair_embeds.shape)}; this index takes (num_pairs, {dim}). Select "
                "the real pairs of a batch with pair_embeds[pair_mask.bool()]."
            )
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is out of range: give a number >= 1.")
        pairs = pair_embeds.to(self._vectors.device, torch.float32)
        found = [self._search(batch, min(top_k, len(self))) for batch in pairs.split(PAIRS_PER_BATCH)]
        scores, relations, descriptions = (torch.cat(parts) for parts in zip(*found))
        return RelationMatches(
            scores.to(pair_embeds.device),
            [[self._names[number] for number in row] for row in relations.tolist()],
            [[self._descriptions[number] for number in row] for row in descriptions.tolist()],
        )

    def _search(self, pairs: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find for each pair scores, relations and descriptions, each `(num_pairs, top_k)`."""
        candidates = self._exact_candidates(pairs, top_k) if self.exact else self._likely_candidates(pairs, top_k)
        candidates = candidates.sort(dim=-1).values  # by name, so that the stable sort below decides ties by name
        scores, descriptions = nearest_descriptions(pairs, self._description_embeds, self._relation_index, candidates)
        if self._relation_embeds is not None:
            scores = (pairs[:, None] * self._relation_embeds[candidates]).sum(-1)
        scores, order = (part[:, :top_k] for part in scores.sort(dim=-1, descending=True, stable=True))
        return scores, candidates.gather(-1, order), descriptions.gather(-1, order)

    def _exact_candidates(self, pairs: Tensor, top_k: int) -> Tensor:
        """Find the nearest relations: `(num_pairs, top_k)`."""
        if self._relation_embeds is not None:
            cosines = pairs @ self._relation_embeds.T
        else:
            cosines = nearest_similarities(pairs, self._description_embeds, self._relation_index, len(self))
        return cosines.topk(top_k, dim=-1).indices

    def _likely_candidates(self, pairs: Tensor, top_k: int) -> Tensor:
        """Find relations that are likely to be the nearest, by the approximate index: `(num_pairs, top_k or more)`.

        Its own scores are rounded, and several descriptions of one relation count once: more are fetched than needed,
        until there are enough different relations.
        """
        fetch = 2 * top_k * -(-len(self._vectors) // len(self))
        while fetch < len(self._vectors):
            found = _search_graph(self._graph, pairs, fetch)
            distinct = [list(dict.fromkeys(self._relation_of[number] for number in numbers)) for numbers in found]
            width = min(map(len, distinct), default=top_k)
            if width >= top_k:
                flat = [relation for row in distinct for relation in row[:width]]
                return torch.tensor(flat, dtype=torch.long, device=pairs.device).view(len(pairs), width)
            fetch *= 2
        return self._exact_candidates(pairs, top_k)


def _build_graph(vectors: Tensor) -> Any:
    """Build an HNSW graph over `(num_vectors, dim)`, L2-normalised, which keeps them in bfloat16."""
    try:
        from usearch.index import Index
    except ImportError as error:
        raise ImportError(
            "An approximate index needs the package 'usearch'. Type `pip install 'roc[index]'`, or compare with every "
            "relation: exact=True."
        ) from error
    graph = Index(ndim=vectors.shape[1], metric="ip", dtype="bf16")
    batches = torch.arange(len(vectors)).split(VECTORS_PER_BATCH)
    for rows in tqdm(batches, desc="indexing relations", disable=None if len(batches) > 1 else True):
        # with more threads the graph differs from run to run, and a vector may be lost
        graph.add(rows.numpy(), vectors[rows.to(vectors.device)].cpu().numpy(), threads=1)
    return graph


def _search_graph(graph: Any, pairs: Tensor, count: int) -> list[list[int]]:
    """Find the vectors that lie nearest to each pair: `count`, or fewer where the graph leads to no more."""
    graph.expansion_search = max(EXPANSION, 2 * count)
    matches = graph.search(pairs.cpu().numpy(), count)
    return [own.keys.tolist() for own in ([matches] if len(pairs) == 1 else matches)]
