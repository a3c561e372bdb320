"""Relations that hold for no pair: only the loss knows them, and they push pairs away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import RELATIONS
from torch import Tensor
from torch.nn import functional
from transformers import BatchFeature

from roc.configuration_fields_roc import ModelSettings
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import read_relation_file
from roc.training.building import encode_negatives
from roc.training.settings import RunConfig


@pytest.fixture
def batch(processor: RocProcessor) -> BatchFeature:
    return processor("ann met bob in paris", entities=[(0, 3), (8, 11)], labels=[1, 2])


def features_of(texts: list[str], model: RocModel, processor: RocProcessor) -> Tensor:
    encoded = model.encode_texts(texts, processor)
    return torch.stack([encoded[text] for text in texts])


def test_the_loss_is_that_of_more_relations_and_the_scores_are_not(
    model: RocModel, processor: RocProcessor, batch: BatchFeature
) -> None:
    texts = ["the head was in the post", "today and the two"]
    plain = model(**batch)
    output = model(**batch, negative_features=features_of(texts, model, processor))
    torch.testing.assert_close(output.logits, plain.logits)
    model.add_relations([{"name": text, "descriptions": [text]} for text in texts], processor)
    torch.testing.assert_close(output.loss, model(**batch).loss)
    assert output.loss > plain.loss


def test_pairs_move_away_from_them(model: RocModel, processor: RocProcessor, batch: BatchFeature) -> None:
    negatives = features_of(["the head was in the post"], model, processor)

    def nearness() -> float:
        target = functional.normalize(model.relation_projection(negatives), dim=-1)
        return (model.get_pair_features(**batch) @ target.T).mean().item()

    before = nearness()
    optimizer = torch.optim.SGD(model.pair_projection.parameters(), lr=1e-3)
    labels = batch.pop("labels")
    loss_without = model(**batch, labels=labels).loss
    (model(**batch, labels=labels, negative_features=negatives).loss - loss_without).backward()
    optimizer.step()
    assert nearness() < before


def written(folder: Path, descriptions: list[str]) -> str:
    relations = [{"name": text, "descriptions": [text]} for text in descriptions]
    content = {"version": 1, "language": "en", "none_relation": None, "relations": relations}
    (folder / "negatives.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(folder / "negatives.yaml")


def test_descriptions_that_resemble_an_own_one_are_left_out(
    model: RocModel, processor: RocProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = "paris berlin paris"
    own = RELATIONS[2]["descriptions"][0]
    vectors = {far: -model.relation_bank.features.mean(dim=0), own: model.relation_bank.features[3] * 2}
    monkeypatch.setattr(model, "encode_texts", lambda texts, processor: {text: vectors[text] for text in texts})
    config = RunConfig(negative_relations=written(tmp_path, [own, far]))
    negatives = encode_negatives(config, processor, model, read_relation_file(str(config.negative_relations)))
    assert negatives is not None
    torch.testing.assert_close(negatives, vectors[far][None])
    config = RunConfig(negative_relations=written(tmp_path, [own]))
    with pytest.raises(ValueError, match="every description resembles one of"):
        encode_negatives(config, processor, model, read_relation_file(str(config.negative_relations)))


@pytest.mark.parametrize(
    "settings", [{"model": ModelSettings(head="classification")}, {"share_description_encoder": True}], ids=str
)
def test_they_need_a_frozen_description_encoder(
    settings: dict[str, Any], model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    config = RunConfig(negative_relations=written(tmp_path, ["words"]), **settings)
    with pytest.raises(ValueError, match="frozen description encoder"):
        encode_negatives(config, processor, model, read_relation_file(str(config.negative_relations)))


def test_without_a_file_there_are_none(model: RocModel, processor: RocProcessor) -> None:
    assert encode_negatives(RunConfig(), processor, model, None) is None
