"""Parts of the method taken away for comparison: entity positions, and descriptions."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from posts import POSTS, encode
from tiny import RELATIONS, louder, tiny_model, tiny_processor
from tiny_runs import NAMES, arguments, main
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from roc import score
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory
from roc.training.settings import load_run_config

PAIRS = [(0, 1), (1, 0), (0, 2)]


def pair_vectors(model: RocModel, processor: RocProcessor) -> Tensor:
    """`(3, embed_dim)`: of the pairs of one text."""
    entities = [(0, 3), (11, 14), (18, 23)]
    batch = processor("ann kissed bob in paris today", entities=entities, pairs=PAIRS)
    with torch.no_grad():
        return model.get_pair_features(**batch)[batch["pair_mask"].bool()]


# --- one sentence vector instead of entity positions -------------------------------------------------------------


@pytest.mark.parametrize("alignment", ["projection", "residual"])
@pytest.mark.parametrize("fusion_num_layers", [0, 2])
def test_a_sentence_vector_knows_pairs_by_their_markers_alone(fusion_num_layers: int, alignment: str) -> None:
    settings: dict[str, Any] = {"vision": False, "fusion_num_layers": fusion_num_layers, "alignment": alignment}
    reading, marking = tiny_processor(vision=False), tiny_processor("pair", vision=False)
    model = louder(tiny_model(reading, pair_representation="sentence", **settings))
    torch.nn.init.normal_(model.pair_projection.weight)  # which for `residual` starts at zero
    first, *others = pair_vectors(model, reading)
    for other in others:
        torch.testing.assert_close(first, other)
    model = louder(tiny_model(marking, pair_representation="sentence", **settings))
    torch.nn.init.normal_(model.pair_projection.weight)
    first, *others = pair_vectors(model, marking)
    assert all((first - other).abs().max() > 1e-4 for other in others)


def test_a_sentence_vector_does_not_read_positions_and_entity_vectors_do() -> None:
    processor = tiny_processor("pair")
    batch = encode(processor, POSTS)
    elsewhere = {
        **batch,
        "entity_positions": batch["entity_positions"].clamp(max=1) + 1 - batch["entity_is_region"] * 1,
    }
    real = batch["pair_mask"].bool()
    moved = {}
    for kind in ("entities", "sentence"):
        model = louder(tiny_model(processor, pair_representation=kind))
        with torch.no_grad():
            moved[kind] = (model(**batch).logits - model(**elsewhere).logits)[real].abs().max().item()
    assert moved["sentence"] == 0
    assert moved["entities"] > 0.01


def test_a_model_with_a_sentence_vector_trains_all_its_parameters_and_loads_as_it_was(tmp_path: Path) -> None:
    processor = tiny_processor("pair")
    model = tiny_model(processor, pair_representation="sentence")
    batch = encode(processor, POSTS)
    output = model(**batch)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path).eval()
    assert loaded.config.pair_representation == "sentence"
    assert torch.equal(loaded(**batch).logits, output.logits)


def test_a_run_with_a_sentence_vector_needs_one_encoding_per_pair() -> None:
    with pytest.raises(ValueError, match=r"all pairs of a text would be the same\. Set markers to 'pair'"):
        load_run_config(None, {"model": {"pair_representation": "sentence"}})
    assert load_run_config(None, {"model": {"pair_representation": "sentence"}, "markers": "pair"}).markers == "pair"


# --- labels instead of descriptions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/per/org/member_of", "per org member of"),
        ("/org/org/alternate_names", "org org alternate names"),
        ("opposing coach", "opposing coach"),
        ("None", "None"),
        ("né à", "né à"),
        ("/_/", "/_/"),
    ],
)
def test_labels_are_the_words_of_the_whole_name(name: str, words: str) -> None:
    relation = {"name": name, "descriptions": ["a", "b"], "head_types": ["person"], "tail_types": None}
    inventory = RelationInventory([relation], None)
    assert inventory.described_by_labels().relations == [{**relation, "descriptions": [words]}]
    assert inventory.relations == [relation]


# --- both, trained and scored ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize(
    "changes", [{"pair_representation": "sentence", "markers": "pair"}, {"described_by": "labels"}]
)
def test_what_was_trained_without_a_part_is_saved_and_scores_as_reported(
    changes: dict[str, str], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for least in ("MIN_PAIRS", "MIN_OF_A_KIND"):  # there are nine pairs
        monkeypatch.setattr(f"roc.evaluation.calibration.{least}", 1)
    model = tmp_path / "model"
    assert main(arguments(inputs, model, **changes)) == 0
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        data = ["--dataset", "jsonl", "--data_dir", str(inputs / "data"), "--split", "val"]
        assert score.main(["--model", str(model), *data]) == 0
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(told.getvalue()) == metrics["val"]
    config = AutoModel.from_pretrained(tmp_path / "model").config
    assert AutoProcessor.from_pretrained(tmp_path / "model").markers == changes.get("markers", "entities")
    assert config.pair_representation == changes.get("pair_representation", "entities")
    by_labels = "described_by" in changes
    described = [relation["descriptions"] for relation in config.relations]
    assert config.relation_names == NAMES
    assert (described == [["None"], ["per per couple"], ["per loc place of birth"], ["per misc holds"]]) == by_labels
    assert len(RELATIONS[1]["descriptions"]) == 2
