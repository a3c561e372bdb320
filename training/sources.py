"""The data sets of a run, its sources: which of their relations it trains and validates, and what it calls them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from roc.evaluation.zero_shot import restrict_inventory, unseen_relations
from roc.messages_roc import did_you_mean, shorten
from roc.modeling_roc import RocModel
from roc.relations.files import RelationInventory, read_relation_file
from roc.samples.grouping import GroupedSamples
from roc.training.settings import DataSettings, RunConfig


@dataclass(frozen=True)
class Source:
    """One data set of a run, with its relations as their file has them."""

    settings: DataSettings
    inventory: RelationInventory
    held_out: Collection[str] = ()  # relations that are neither trained nor validated
    name: str = ""  # empty for a run's only data set

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

    training: RelationInventory  # the relations that the model learns and keeps
    validating: RelationInventory  # those among which it is validated
    train_set: GroupedSamples
    val_sets: Mapping[str, GroupedSamples]  # by the name of their source

    @property
    def val_set(self) -> GroupedSamples:
        """The validation samples of all sources."""
        return GroupedSamples.joined([*self.val_sets.values()])


def choose_sources(config: RunConfig, start: RocModel | None) -> list[Source]:
    """Read the relations of a run, and choose those that training does not see.

    Without a relation file they are those of `start`, the model that the run starts from.

    Raises:
        FileNotFoundError: If there is no such relation file.
        ValueError: If a relation file is malformed, or a relation that is to be held out, or to validate, cannot be.
    """
    if config.relations is not None:
        inventory = read_relation_file(config.relations, entity_types=config.model.entity_types)
    else:
        assert start is not None
        inventory = RelationInventory(list(start.config.relations), start.config.none_relation)
    if config.described_by == "labels":
        inventory = inventory.described_by_labels()
    held_out = unseen_relations(
        inventory, held_out_relations=config.held_out_relations, num_unseen=config.num_unseen, seed=config.seed
    )
    source = Source(config, inventory, held_out)
    _check_validating(source)
    return [source]


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
