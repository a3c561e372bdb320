"""Editing, saving and loading the relations of a model, without training."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_roc import RocConfig
from .messages_roc import did_you_mean, shorten
from .relations_bank_roc import (
    RelationBank,
    description_digests,
    rebind_forward,
    relation_index_of,
    rows_of_relations,
    text_digest,
    texts_of_rows,
)
from .relations_file_roc import SavedRelations, encoder_fingerprint, read_relations, write_relations
from .relations_roc import normalise_relations

logger = logging.get_logger(__name__)

DESCRIPTIONS_PER_BATCH = 256
SAMPLE_TOKENS = 8  # length of the fixed input by which a description encoder is told from another
# What half precision changes of its answer stays below this share of its length.
SAMPLE_TOLERANCE = 0.05
EMPTY = "relations is empty: give at least one relation with a name and a description."
NO_RELATIONS = "The model has no relations yet: call model.set_relations(relations, processor)."


@dataclass(frozen=True)
class CheckedRelations:
    """The relations of a configuration as they were when they were found to be sound, and what ties a bank to them."""

    relations: Any
    none_relation: str | None
    labels: dict[int, str]
    digests: Tensor
    relation_index: Tensor
    tensors: tuple[tuple[Tensor, int], ...] = ()  # those found to belong to them, and how often each had been changed


class WeightsState:
    """What a module's weights are now: `is_that_of` tells later whether they still are the same."""

    def __init__(self, module: nn.Module) -> None:
        self._kept = [tensor.detach() for tensor in _tensors(module)]  # so that no other gets their place in memory
        self._changes, self._sums = _changes(module), _sums(module)

    def is_that_of(self, module: nn.Module) -> bool:
        """Whether nothing was changed or replaced since; never for weights whose changes are not counted."""
        is_counted = self._changes is not None and self._changes == _changes(module)
        return is_counted and self._sums == _sums(module)  # the sums show edits through `.data`, which are not counted


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def _sums(module: nn.Module) -> list[float]:
    sums = [own.sum(dtype=torch.float64) for own in _tensors(module) if own.is_floating_point() and not own.is_meta]
    return torch.stack(sums).tolist() if sums else []


def _changes(module: nn.Module) -> list[Any] | None:
    tensors = _tensors(module)
    has_adapter = any(type(own).__module__.startswith("peft.") for own in module.modules())  # it has other switches too
    is_plain = all(type(own) in (Tensor, nn.Parameter) and not own.is_inference() for own in tensors)
    if has_adapter or not is_plain:
        return None
    return [(own.data_ptr(), own._version, own.dtype, own.device, own.shape) for own in tensors]


class RelationEditing:
    """The part of `RocModel` that changes its relations: configuration and bank together, or neither.

    `relations` are mappings of `name`, `descriptions`, and optionally `head`, `tail` (what they are, in words),
    `head_types` and `tail_types`; `processor` is the
    model's `RocProcessor`, which tokenises the descriptions. Where a method raises, the model stays as it was.
    """

    # What it needs of the model.
    config: RocConfig
    relation_bank: RelationBank
    relation_model: PreTrainedModel | None
    relation_digests: Tensor  # of a classifier
    device: torch.device
    training: bool
    train: Callable[[bool], Any]
    encode_descriptions: Callable[[Tensor, Tensor], Tensor]
    _checked: CheckedRelations | None = None

    @torch.compiler.disable
    def check_relations(self, *, encoded: bool = True) -> None:
        """Make sure that the scores are those of the configured relations; every call of the model does.

        Files and attributes can be edited: relations given another order, a description another wording, the bank other
        rows. Unless something has changed since the last check, this only compares strings.

        Args:
            encoded: Whether the bank's features are read; otherwise the descriptions are given as tokens.

        Raises:
            ValueError: If relations are malformed, or what the model has learnt or encoded was made for others. The
                message names the first of them.
        """
        checked = self._checked_texts()
        tensors = self._tied_tensors(encoded)
        known = {id(tensor): version for tensor, version in checked.tensors}
        is_known = all(known.get(id(tensor)) == version for tensor, version in tensors)
        # edits through `.data` are not counted; on a GPU, looking for them would have each call wait
        if is_known and (self.training or tensors[0][0].device.type != "cpu"):
            return
        if self.config.head == "classification":
            self._check_classifier(checked)
        else:
            self._check_bank(checked, encoded)
            if encoded and not is_known:
                self.check_encoder()
        vars(self)["_checked"] = replace(checked, tensors=tensors)

    def match_relations(self, processor: Any) -> None:
        """Encode the configured relations anew, with a warning, where the bank was made from others.

        Raises:
            ValueError: As `check_relations`, if the model classifies, or has no relations; or as `set_relations`.
        """
        try:
            self.check_relations()
        except ValueError as error:
            if self.config.head != "retrieval" or not self.config.relations:
                raise
            logger.warning("%s It is done now.", error)
            self.set_relations(self.config.relations, processor, none_relation=self.config.none_relation)

    def _checked_texts(self) -> CheckedRelations:
        """Return what is known of the configured relations, which are looked at again where they have changed."""
        config, last = self.config, self._checked
        if (
            last is not None
            and last.relations == config.relations
            and last.none_relation == config.none_relation
            and last.labels == config.id2label
        ):
            return last
        if not config.relations:
            raise ValueError(NO_RELATIONS)
        relations = normalise_relations(config.relations, config.none_relation, config.entity_types)
        if relations != [*config.relations] or config.id2label != dict(enumerate(config.relation_names)):
            raise ValueError(
                "model.config.relations or its labels (id2label) were assigned in another form than that of RocConfig. "
                "Restore them; model.set_relations(relations, processor) keeps them together."
            )
        labels, digests, relation_index = dict(config.id2label), self._digests(relations), relation_index_of(relations)
        kept: Any = copy.deepcopy(config.relations)
        checked = CheckedRelations(kept, config.none_relation, labels, digests, relation_index)
        vars(self)["_checked"] = checked
        return checked

    def _digests(self, relations: Sequence[Mapping[str, Any]]) -> Tensor:
        if self.config.head == "classification":
            return name_digests(relations)
        return description_digests(relations)

    def _tied_tensors(self, encoded: bool) -> tuple[tuple[Tensor, int], ...]:
        """Return the tensors that belong to the relations, each with its count of changes."""
        if self.config.head == "classification":
            tensors = [self.relation_digests]
        else:
            bank = self.relation_bank
            tensors = [bank.relation_index]
            if encoded:
                encoder = [] if self.relation_model is None else _tensors(self.relation_model)
                tensors += [bank.features, bank.digests, bank.seals, bank.encoder_sample, *encoder]
        return tuple((own, -1 if own.is_inference() else own._version) for own in tensors)

    def _check_classifier(self, checked: CheckedRelations) -> None:
        held = self.relation_digests.cpu()
        for number, relation in enumerate(checked.relations):
            if len(held) != len(checked.digests) or held[number] != checked.digests[number]:
                raise ValueError(
                    f"Output {number} of the classifier was not trained for relation {relation['name']!r}: its outputs "
                    "have the order and the names of its training. Restore model.config.relations."
                )

    def _check_bank(self, checked: CheckedRelations, encoded: bool) -> None:
        bank = self.relation_bank
        if bank.features.is_meta:  # offloaded: it is looked at where it is used
            return
        if encoded and not bank.digests.any():
            raise ValueError(
                "The bank holds no encoded descriptions yet: call model.set_relations(relations, processor) first."
            )
        held = torch.tensor([bank.relation_index.tolist() == checked.relation_index.tolist()])
        if encoded and held.all():
            held = bank.holds(checked.digests)
        if not held.all():
            relation = checked.relations[int(checked.relation_index[held.tolist().index(False)])]["name"]
            raise ValueError(
                f"The model's bank was not made from model.config.relations as they are now; relation {relation!r} is "
                "the first that differs, by its name, description, place or features. Call "
                "model.set_relations(relations, processor), which encodes them."
            )

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
        checked = normalise_relations(relations, none_relation, self.config.entity_types)
        if not checked:
            raise ValueError(EMPTY)
        self._take(checked, none_relation, processor)

    def _take(
        self,
        checked: list[dict[str, Any]],
        none_relation: str | None,
        processor: Any,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take relations that are in the form of `RocConfig.relations`; `known` are descriptions' features."""
        bank, rows, features = self.relation_bank, self.texts_of_rows(checked), {**(known or {})}
        bank.check_is_here()
        texts = dict.fromkeys(text for row in rows for text in row)
        if any(text not in features for text in texts):
            features = self._known_features([text for text in texts if text not in features]) | features
        new = self.encode_texts([text for text in texts if text not in features], processor)
        features |= new
        sample = self._encoder_sample() if new or not bank.is_encoded else None
        bank.replace(torch.stack([torch.cat([features[text] for text in row]) for row in rows]), checked, sample)
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

    @torch.no_grad()
    def with_relations(
        self,
        relations: Sequence[Mapping[str, Any]],
        processor: Any,
        *,
        none_relation: str | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Make a second model that has other relations and shares all weights with this one.

        The second model has a configuration and a bank of its own. Without `none_relation`, the relation that has the
        name of this model's own means "none of these", if there is one.

        Args:
            relations: The relations.
            processor: The model's processor.
            none_relation: Name of the relation that means "none of these".
            known: Features `(encoder_dim,)` of texts that need not be encoded again, as `features_of_texts` gives them.

        Raises:
            ValueError: As `set_relations`.
        """
        self._need_retrieval("with_relations")
        checked = normalise_relations(relations, none_relation, self.config.entity_types)
        if not checked:
            raise ValueError(EMPTY)
        own_none = self.config.none_relation
        if none_relation is None and any(relation["name"] == own_none for relation in checked):
            none_relation = own_none
        other: Any = copy.copy(self)
        other.config = copy.copy(self.config)
        other._modules = {**other._modules}
        other.relation_bank = copy.copy(self.relation_bank)
        other.relation_bank._buffers = {**other.relation_bank._buffers}
        rebind_forward(other)
        rebind_forward(other.relation_bank)
        other._take(checked, none_relation, processor, known)
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
        self.check_relations()
        numbers = {name: number for number, name in enumerate(self.config.relation_names)}
        kept = [self.config.relations[numbers[name]] for name in names]
        none_relation = self.config.none_relation if self.config.none_relation in names else None
        self.config.replace_relations(kept, none_relation)  # refuses names that are given twice
        bank = self.relation_bank
        bank.replace(bank.features[rows_of_relations(bank.relation_index, [numbers[name] for name in names])], kept)

    def save_relations(self, path: str | os.PathLike[str]) -> None:
        """Save the relations and their features by themselves, as one safetensors file, which is overwritten.

        Raises:
            ValueError: As `check_relations`, or if the model classifies.
        """
        self._need_retrieval("save_relations")
        self.check_relations()
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
            self.relation_bank.replace(saved.features, saved.relations, self._encoder_sample())
            self.config.replace_relations(saved.relations, saved.none_relation)
            return
        why = "its features may not be what this model makes of its descriptions, so all of them are encoded anew."
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

    def _need_known(self, names: Iterable[str]) -> None:
        known = dict.fromkeys(self.config.relation_names)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"The model has no relation {name!r}.{did_you_mean(name, known)} It has {shorten(str([*known]))}."
                )

    def texts_of_rows(self, relations: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
        """List the texts that each row of the bank would be made of, for other relations: see `texts_of_rows` there."""
        return texts_of_rows(relations, match_entities=self.config.texts_per_description > 1)

    def features_of_texts(self, wanted: set[str] | None = None) -> dict[str, Tensor]:
        """Give the features in the bank, `(encoder_dim,)` each, by the text that each was made from.

        Args:
            wanted: The texts to look for; None for all.

        Raises:
            ValueError: If the model has no relations, or they are malformed.
        """
        checked, bank = self._checked_texts(), self.relation_bank
        rows = zip(self.texts_of_rows(checked.relations), bank.features, bank.holds(checked.digests).tolist())
        found: dict[str, Tensor] = {}
        for texts, row, is_held in rows:
            if is_held and (wanted is None or not wanted.isdisjoint(texts)):
                found |= zip(texts, row.chunk(len(texts)))
        return found

    def _known_features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Give features of these texts, and others, that are in the bank; none where they may be out of date."""
        if self.relation_model is None or not self.bank_has_own_encoder():
            return {}
        try:
            return self.features_of_texts(set(texts))
        except ValueError:
            return {}

    def check_encoder(self, where: Any = "The model") -> None:
        """Refuse, with a ValueError, a bank that another encoder made: new descriptions would not fit the old ones."""
        if self._bank_is_comparable() and not self.bank_has_own_encoder():
            raise ValueError(
                f"{where}: relation_model is not the description encoder that gave the features in relation_bank. "
                "Restore the weights that were saved together, or call model.set_relations(relations, processor) to "
                "encode the descriptions."
            )

    def _bank_is_comparable(self) -> bool:
        """Whether this process has the whole description encoder, as it was when it gave the bank's features."""
        if self.relation_model is None or hasattr(self, "hf_quantizer"):
            return False
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # it may have a part of it
            return False
        is_quantized = any(type(own).__module__.startswith("torch.ao.") for own in self.relation_model.modules())
        tensors = [*_tensors(self.relation_model), *self.relation_bank.buffers()]
        return not is_quantized and not any(own.is_meta for own in tensors) and self.relation_bank.is_encoded

    @torch.no_grad()
    def bank_has_own_encoder(self) -> bool:
        """Whether the model's frozen description encoder is the one that gave the bank's features."""
        sample = self._encoder_sample().float()
        return bool((self.relation_bank.encoder_sample.float() - sample).norm() <= SAMPLE_TOLERANCE * sample.norm())

    def _encoder_sample(self) -> Tensor:
        """Encode a fixed input by the frozen description encoder: `(encoder_dim,)`; zeros for one that learns."""
        encoder = self.relation_model
        if encoder is None:
            return torch.zeros_like(self.relation_bank.encoder_sample)
        encoder.eval()
        ids = torch.arange(1, 1 + SAMPLE_TOKENS, device=self.device)[None] % encoder.config.vocab_size
        return encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(dim=0)

    def encode_texts(self, texts: Sequence[str], processor: Any) -> dict[str, Tensor]:
        """Encode descriptions to `(encoder_dim,)` each, before the projection and without dropout.

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


def name_digests(relations: Sequence[Mapping[str, Any]]) -> Tensor:
    """Compute 8 bytes of the SHA-256 of each relation's name: `(relations,)` int64."""
    return torch.tensor([text_digest(own["name"]) for own in relations], dtype=torch.long, device="cpu")
