"""With which relations a pair of one source is compared: others' are negatives unless they may mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from roc.modeling_roc import RocModel
from roc.relations_bank_roc import pool_descriptions
from roc.support.reading import format_yaml
from roc.training.sources import RunData

SHOWN = 5  # pairs of relations that the log names
HEADER = "# Relations of different sources with descriptions that are alike: no pair of one is pushed from the other.\n"


@dataclass(frozen=True)
class Competitors:
    """With which relations the pairs of each source are compared, and what a person should review of it.

    Args:
        table: `(sources, relations, relations)` bool; a row is that of a source and of the relation of its pair.
        left_out: Relations of different sources that are not compared, most alike first: their `cosine`, and of both
            the `relations`, `sources` and first `descriptions`.
    """

    table: Tensor
    left_out: list[dict[str, Any]]

    def to_yaml(self) -> str:
        """Return what is left out as a file for review."""
        return HEADER + format_yaml(self.left_out)

    def summary(self) -> str:
        """Say in one line how much is left out, and name the first."""
        named = ", ".join(f"{' ~ '.join(own['relations'])} ({own['cosine']})" for own in self.left_out[:SHOWN])
        what = f"{len(self.left_out)} pairs of relations of different sources may mean the same and are not compared"
        return f"{what}: {named}{', ...' if len(self.left_out) > SHOWN else ''}" if named else what


def find_competitors(data: RunData, model: RocModel, *, max_resemblance: float) -> Competitors | None:
    """Decide with which relations the pairs of several sources are compared; None for one source, where all compete.

    A pair is compared with the relations of its own source, with "none of these", and with every other source's
    relation whose cosine with its own one is below `max_resemblance`. A pair without a relation is compared with its
    own source's alone, because a relation of another source may well hold for it, or with all where its source
    `annotates_all`.

    Args:
        data: The relations of the run, and of each source.
        model: The model before training, with the relations of `data.training`.
        max_resemblance: The cosine from which on two relations may mean the same.
    """
    if len(data.sources) == 1:
        return None
    names = data.training.names
    cosines = resemblances(pooled_relations(model), model).cpu()
    is_none = torch.tensor([name == data.training.none_relation for name in names])
    trained = [source.trained_names for source in data.sources]
    own = torch.tensor([[name in known for name in names] for known in trained])  # (sources, relations)
    is_same = torch.eye(len(names), dtype=torch.bool)
    may_differ = (cosines < max_resemblance) & ~is_none[:, None]
    annotates_all = torch.tensor([source.settings.annotates_all for source in data.sources])
    none_of_all = annotates_all[:, None, None] & is_none[:, None]
    table = own[:, None] | is_none | is_same | may_differ | none_of_all
    asked = own[:, :, None] & ~is_none[:, None] & ~table  # what a label of the source itself leaves out
    pairs = {tuple(sorted(pair)) for pair in asked.any(dim=0).nonzero().tolist()}
    left_out = [_for_review(data, first, second, cosines[first, second].item()) for first, second in pairs]
    return Competitors(table, sorted(left_out, key=lambda entry: (-entry["cosine"], entry["relations"])))


def pooled_relations(model: RocModel) -> Tensor:
    """Pool the descriptions of a model's relations, as its description encoder gives them: `(relations, dim)`."""
    features, relation_index = model.relation_bank()
    features = features[:, : len(model.relation_bank.encoder_sample)]  # of the descriptions, without head and tail
    return pool_descriptions(functional.normalize(features, dim=-1), relation_index, model.config.num_relations)


def resemblances(features: Tensor, model: RocModel) -> Tensor:
    """Compare features `(n, dim)` of descriptions with a model's relations: cosines, `(n, relations)`."""
    return functional.normalize(features, dim=-1) @ pooled_relations(model).T


def _for_review(data: RunData, first: int, second: int, cosine: float) -> dict[str, Any]:
    relations = [data.training.relations[number] for number in (first, second)]
    sources = [[own.name for own in data.sources if relation["name"] in own.trained_names] for relation in relations]
    return {
        "cosine": round(cosine, 3),
        "relations": [relation["name"] for relation in relations],
        "sources": [", ".join(own) for own in sources],
        "descriptions": [relation["descriptions"][0] for relation in relations],
    }
