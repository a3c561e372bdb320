"""Editing, saving and loading the relations of a model, without training."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_roc import RocConfig
from .messages_roc import did_you_mean, shorten
from .relations_bank_roc import RelationBank, descriptions_of, rebind_forward, rows_of_relations
from .relations_file_roc import SavedRelations, encoder_fingerprint, read_relations, write_relations
from .relations_roc import normalise_relations

logger = logging.get_logger(__name__)

DESCRIPTIONS_PER_BATCH = 256


class RelationEditing:
    """The part of `RocModel` that changes its relations: configuration and bank together, or neither.

    `relations` are mappings of `name`, `descriptions`, and optionally `head_types` and `tail_types`; `processor` is the
    model's `RocProcessor`, which tokenises the descriptions. Where a method raises, the model stays as it was.
    """

    # What it needs of the model.
    config: RocConfig
    relation_bank: RelationBank
    relation_model: PreTrainedModel | None
    device: torch.device
    training: bool
    train: Callable[[bool], Any]
    encode_descriptions: Callable[[Tensor, Tensor], Tensor]

    @torch.no_grad()
    def set_relations(
        self, relations: Sequence[Mapping[str, Any]], processor: Any, *, none_relation: str | None = None
    ) -> None:
        """Give the model other relations, without training; `none_relation` names the one that means "none of these".

        With a frozen description encoder, descriptions that the bank holds already are not encoded again.

        Raises:
            ValueError: If the list is empty or malformed, a description is too long, or the model classifies.
        """
        self._need_retrieval("set_relations")
        if not relations:
            raise ValueError("relations is empty: give at least one relation with a name and a description.")
        checked = normalise_relations(relations, none_relation, self.config.entity_types)
        features = self._known_features()
        texts = descriptions_of(checked)
        features |= self.encode_texts([text for text in dict.fromkeys(texts) if text not in features], processor)
        self.relation_bank.replace(torch.stack([features[text] for text in texts]), checked)
        self.config.replace_relations(checked, none_relation)

    def add_relations(self, relations: Sequence[Mapping[str, Any]], processor: Any) -> None:
        """Add relations after those that the model has.

        Raises:
            ValueError: If the model has a relation of that name already, or as `set_relations`.
        """
        self.set_relations([*self.config.relations, *relations], processor, none_relation=self.config.none_relation)

    def update_relations(self, relations: Sequence[Mapping[str, Any]], processor: Any) -> None:
        """Give relations other descriptions or types; their names tell which.

        Raises:
            ValueError: If the model has no relation of that name, or as `set_relations`.
        """
        checked = normalise_relations(relations, None, self.config.entity_types)
        new = {relation["name"]: relation for relation in checked}
        self._need_known(new)
        changed = [new.get(relation["name"], relation) for relation in self.config.relations]
        self.set_relations(changed, processor, none_relation=self.config.none_relation)

    def remove_relations(self, names: Sequence[str]) -> None:
        """Forget the relations of these names, the one that means "none of these" too where it is named.

        Raises:
            ValueError: If the model has no relation of a name, or if no relation would be left.
        """
        self._need_known(names)
        removed = set(names)
        self.subset_relations([name for name in self.config.relation_names if name not in removed])

    def with_relations(
        self, relations: Sequence[Mapping[str, Any]], processor: Any, *, none_relation: str | None = None
    ) -> Any:
        """Make a second model that has other relations and shares all weights with this one.

        The second model has a configuration and a bank of its own. Without `none_relation`, the relation that has the
        name of this model's own means "none of these", if there is one.

        Raises:
            ValueError: As `set_relations`.
        """
        self._need_retrieval("with_relations")
        own_none = self.config.none_relation
        if none_relation is None and own_none is not None:
            checked = normalise_relations(relations, None, self.config.entity_types)
            none_relation = own_none if any(relation["name"] == own_none for relation in checked) else None
        other: Any = copy.copy(self)
        other.config = copy.deepcopy(self.config)
        other._modules = {**other._modules}
        other.relation_bank = copy.copy(self.relation_bank)
        other.relation_bank._buffers = {**other.relation_bank._buffers}
        rebind_forward(other)
        rebind_forward(other.relation_bank)
        other.set_relations(relations, processor, none_relation=none_relation)
        return other

    @torch.no_grad()
    def subset_relations(self, names: Sequence[str]) -> None:
        """Keep the relations of these names, in the given order, and forget the others.

        Raises:
            ValueError: If the model has no relation of a name, a name is given twice, no name is given, or the model
                classifies.
        """
        self._need_retrieval("subset_relations")
        self._need_known(names)
        if not names:
            raise ValueError("No relation would be left: keep at least one.")
        numbers = {name: number for number, name in enumerate(self.config.relation_names)}
        kept = [self.config.relations[numbers[name]] for name in names]
        none_relation = self.config.none_relation if self.config.none_relation in names else None
        self.config.replace_relations(kept, none_relation)  # refuses names that are given twice
        bank = self.relation_bank
        bank.replace(bank.features[rows_of_relations(bank.relation_index, [numbers[name] for name in names])], kept)

    def save_relations(self, path: str | os.PathLike[str]) -> None:
        """Save the relations and their features by themselves, as one safetensors file, which is overwritten.

        Raises:
            ValueError: If the model has no relations, their descriptions have not been encoded, or it classifies.
        """
        self._need_retrieval("save_relations")
        self._need_encoded()
        features, encoder = self.relation_bank.features, self._encoder_of_bank()
        write_relations(path, SavedRelations([*self.config.relations], self.config.none_relation, features, encoder))

    @torch.no_grad()
    def load_relations(self, path: str | os.PathLike[str], processor: Any) -> None:
        """Replace the model's relations by those that `save_relations` wrote.

        Where this model's frozen description encoder is the one that gave the saved features, they are taken as they
        are. Otherwise, and where the encoder is shared with the text and may have learnt since, the descriptions are
        encoded anew, with a warning.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, has another version or does not fit the model, or as `set_relations`.
        """
        self._need_retrieval("load_relations")
        feature_dim = self.relation_bank.features.shape[1]
        saved = read_relations(path, feature_dim=feature_dim, entity_types=self.config.entity_types)
        if saved.encoder is not None and saved.encoder == self._encoder_of_bank():
            self.relation_bank.replace(saved.features, saved.relations)
            self.config.replace_relations(saved.relations, saved.none_relation)
            return
        why = "its features may not be those of this model's description encoder, so all descriptions are encoded anew."
        logger.warning("%s: %s", os.fspath(path), why)
        self.set_relations(saved.relations, processor, none_relation=saved.none_relation)

    def _encoder_of_bank(self) -> str | None:
        """Fingerprint the encoder that gave the bank's features; None for an encoder that may have learnt since."""
        return encoder_fingerprint(self.relation_model) if self.relation_model is not None else None

    def _need_retrieval(self, method: str) -> None:
        if self.config.head != "retrieval":
            raise ValueError(
                f"{method} needs head='retrieval'; this model has head={self.config.head!r}, which knows relations "
                "only as numbers. Train with --head retrieval."
            )

    def _need_encoded(self) -> None:
        features = self.relation_bank.features
        if not len(features) or len(features) != self.config.num_descriptions or not features.any(dim=-1).all():
            raise ValueError("The bank holds no encoded descriptions yet: call model.set_relations first.")

    def _need_known(self, names: Iterable[str]) -> None:
        known = dict.fromkeys(self.config.relation_names)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"The model has no relation {name!r}.{did_you_mean(name, known)} It has {shorten(str([*known]))}."
                )

    def _known_features(self) -> dict[str, Tensor]:
        """Give each description's features in the bank, without those that may be out of date or were never made."""
        features, _ = self.relation_bank()
        if self.relation_model is None or len(features) != self.config.num_descriptions:
            return {}
        filled = features.any(dim=-1).tolist()
        rows = zip(descriptions_of(self.config.relations), features, filled)
        return {text: row for text, row, is_filled in rows if is_filled}

    def encode_texts(self, texts: Sequence[str], processor: Any) -> dict[str, Tensor]:
        """Encode descriptions to `(feature_dim,)` each, before the projection and without dropout.

        Texts of like length are encoded together.

        Raises:
            ValueError: If a description is too long.
        """
        if not texts:
            return {}
        tokens = processor.tokenize_descriptions(texts).to(self.device)
        lengths = tokens["attention_mask"].sum(dim=1)
        features: dict[str, Tensor] = {}
        batches = lengths.argsort().split(DESCRIPTIONS_PER_BATCH)
        was_training = self.training
        self.train(False)
        try:
            for rows in tqdm(batches, desc="encoding descriptions", disable=None if len(batches) > 1 else True):
                width = int(lengths[rows].max())
                ids, mask = tokens["input_ids"][rows, :width], tokens["attention_mask"][rows, :width]
                features |= {texts[n]: row for n, row in zip(rows.tolist(), self.encode_descriptions(ids, mask))}
        finally:
            self.train(was_training)
        return features
