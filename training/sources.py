"""The data sets of a run, its sources: which of their relations it trains and validates, and what it calls them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from roc.evaluation.zero_shot import restrict_inventory, unseen_relations
from roc.messages_roc import did_you_mean, quote, shorten
from roc.modeling_roc import RocModel
from roc.relations.files import RelationInventory, read_relation_file
from roc.relations_roc import PHRASES
from roc.samples.grouping import GroupedSamples
from roc.training.data_settings import SourceConfig
from roc.training.settings import RunConfig


@dataclass(frozen=True)
class Source:
    """One data set of a run, with its relations as their file has them."""

    settings: SourceConfig
    inventory: RelationInventory
    held_out: Collection[str] = ()  # relations that are neither trained nor validated
    names: Mapping[str, str] = field(default_factory=dict)  # what the model calls relations, where it is something else

    @property
    def name(self) -> str:
        """The source's name; empty for a run's only data set."""
        return self.settings.name

    @property
    def trained_names(self) -> list[str]:
        """What the model calls the relations that training sees."""
        return [self.names.get(name, name) for name in self.training.names]

    @property
    def validated_names(self) -> list[str]:
        """What the model calls the relations among which validation chooses."""
        return [self.names.get(name, name) for name in self.validating.names]

    @property
    def training(self) -> RelationInventory:
        """The relations that training sees."""
        unseen = {*self.held_out, *(self.settings.eval_relations or ())}
        return restrict_inventory(self.inventory, set(self.inventory.names) - unseen)

    @property
    def validating(self) -> RelationInventory:
        """The relations among which validation chooses; the one that means "none of these" is always one of them."""
        validating = self.settings.eval_relations
        if not validating:
            return self.training
        own = [name for name in self.inventory.names if name in validating or name == self.inventory.none_relation]
        return restrict_inventory(self.inventory, own)


@dataclass(frozen=True)
class RunData:
    """The relations and the samples of a run."""

    sources: Sequence[Source]
    train_sets: Sequence[GroupedSamples]  # of each source
    val_sets: Sequence[GroupedSamples]

    @functools.cached_property
    def training(self) -> RelationInventory:
        """The relations that the model learns and keeps."""
        return join_relations([(source, source.training) for source in self.sources])

    @functools.cached_property
    def validating(self) -> RelationInventory:
        """The relations of all validation samples."""
        return join_relations([(source, source.validating) for source in self.sources])

    @functools.cached_property
    def train_set(self) -> GroupedSamples:
        """The training samples of all sources."""
        return GroupedSamples.joined(self.train_sets)

    @property
    def splits(self) -> dict[str, GroupedSamples]:
        """The samples by what they are for, and of which source."""
        of = [f" of {source.name}" if source.name else "" for source in self.sources]
        pairs = zip(of, self.train_sets, self.val_sets)
        return {
            f"{what}{own}": samples for own, *both in pairs for what, samples in zip(("training", "validation"), both)
        }

    @property
    def val_set(self) -> GroupedSamples:
        """The validation samples of all sources."""
        return GroupedSamples.joined(self.val_sets)


def choose_sources(config: RunConfig, start: RocModel | None) -> list[Source]:
    """Read the relations of a run's data sets, and choose those that training does not see.

    Without a relation file they are those of `start`, the model that the run starts from.

    Raises:
        FileNotFoundError: If there is no such relation file.
        ValueError: If a relation file is malformed, or a relation that is to be held out, or to validate, cannot be.
    """
    found = []
    for own in config.data_sources:
        if own.relations is not None:
            inventory = read_relation_file(own.relations, entity_types=config.model.entity_types)
        else:
            assert start is not None
            inventory = RelationInventory(list(start.config.relations), start.config.none_relation)
        if config.described_by == "labels":
            inventory = inventory.described_by_labels()
        try:
            held_out = unseen_relations(
                inventory, held_out_relations=own.held_out_relations, num_unseen=config.num_unseen, seed=config.seed
            )
            found.append(Source(own, inventory, held_out))
            _check_validating(found[-1])
        except ValueError as error:
            raise ValueError(f"source {quote(own.name)}: {error}" if own.name else str(error)) from error
    return name_relations(found)


def name_relations(sources: Sequence[Source]) -> list[Source]:
    """Decide what a model calls the relations of several sources.

    A relation keeps its name where no source has another relation of that name; else its source's name is put before
    it. What means "none of these" is one relation, called as by the first source that has it.
    """
    none_relation = next((own.inventory.none_relation for own in sources if own.inventory.none_relation), None)
    meanings: dict[str, list[Any]] = {}
    for source in sources:
        for relation in source.inventory.relations:
            known = meanings.setdefault(relation["name"], [])
            if relation["name"] != source.inventory.none_relation and relation not in known:
                known.append(relation)
    named = []
    for source in sources:
        names = {}
        for name in source.inventory.names:
            if name == source.inventory.none_relation and none_relation is not None:
                names[name] = none_relation
            elif name == none_relation or len(meanings[name]) > 1:
                names[name] = f"{source.name}: {name}"
        named.append(replace(source, names=names))
    return named


def join_relations(inventories: Sequence[tuple[Source, RelationInventory]]) -> RelationInventory:
    """Join relations of several sources, under the names that the model gives them.

    A relation that several have is there once, with the descriptions of all, the types that all allow, and what the
    first that says it says of its head and its tail.
    """
    joined: dict[str, dict[str, Any]] = {}
    none_relation = None
    for source, inventory in inventories:
        for relation in inventory.relations:
            name = source.names.get(relation["name"], relation["name"])
            known = joined.setdefault(name, {**relation, "name": name})
            known |= {key: relation[key] for key in PHRASES if key in relation and key not in known}
            known["descriptions"] = [*dict.fromkeys([*known["descriptions"], *relation["descriptions"]])]
            for types in ("head_types", "tail_types"):  # an empty list allows all
                both = known[types] and relation[types]
                known[types] = [*dict.fromkeys([*known[types], *relation[types]])] if both else []
            if relation["name"] == inventory.none_relation:
                none_relation = name
    return RelationInventory([*joined.values()], none_relation)


def _check_validating(source: Source) -> None:
    """Raise a ValueError where the relations that are to validate cannot."""
    validating, none_relation = source.settings.eval_relations or [], source.inventory.none_relation
    allowed = [name for name in source.inventory.names if name != none_relation and name not in source.held_out]
    for name in validating:
        if name in source.held_out:
            raise ValueError(f"eval_relations: {name!r} is held out, so it cannot validate. Name it in one place.")
        if name not in allowed:
            near = did_you_mean(name, allowed)
            raise ValueError(f"eval_relations: {name!r} is not among {shorten(str(allowed), 400)}.{near}")
    if len(set(validating)) < len(validating):
        raise ValueError(f"eval_relations names a relation twice: {validating}.")
    for what, inventory in (("train on", source.training), ("validate on", source.validating)):
        if validating and len(inventory.names) < 2:
            raise ValueError(f"eval_relations={validating}: fewer than two relations are left to {what}.")
