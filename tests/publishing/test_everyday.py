"""Fifty everyday sentences, written before the open models were trained, and what the released ones make of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from roc.dataset_scripts.jsonl import JsonlBuilder
from roc.modeling_backbones_roc import check_encoder, resolve_model
from roc.relations.files import read_relation_file
from roc.score import main as score

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = ROOT / "tests" / "everyday"
RELATIONS = ROOT / "relations" / "everyday.yaml"
# They are a test: whoever changes them to raise a score has none.
SHA256 = "2ca0de3c39e23ac04cf83e770dd55d2e01f25a92666026a688de751de2d03790"


def test_there_are_fifty_sentences_and_a_third_of_them_has_no_relation(tmp_path: Path) -> None:
    rows = [*JsonlBuilder(SENTENCES, cache_dir=tmp_path).rows("test")]
    counts = Counter(row["relation"] for row in rows)
    inventory = read_relation_file(RELATIONS)
    assert len({row["text"] for row in rows}) == len(rows) == 50
    assert counts.pop(inventory.none_relation) == 17
    assert set(counts) < set(inventory.names)
    assert len(counts) >= 25


def test_the_order_of_head_and_tail_says_nothing_about_the_relation() -> None:
    rows = [json.loads(line) for line in (SENTENCES / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    for is_none in (False, True):
        own = [row["head"]["start"] > row["tail"]["start"] for row in rows if (row["relation"] == "none") == is_none]
        assert abs(sum(own) - len(own) / 2) <= 1


def test_the_sentences_stay_as_they_were_written() -> None:
    text = (SENTENCES / "test.jsonl").read_text(encoding="utf-8")  # whatever ends the lines
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("roc_open_small", 0.70), ("roc_open_base", 0.80)])
def test_a_released_model_knows_the_relations_of_everyday_sentences(
    name: str, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ROOT / "released" / name
    if not folder.is_dir():
        pytest.skip(f"there is no folder released/{name}: it has not been trained and released yet")
    sources = json.loads((folder / "config.json").read_text(encoding="utf-8"))["encoder_sources"]
    try:
        check_encoder(resolve_model(sources["text_model"]["name"]))
    except (ImportError, OSError) as error:
        pytest.skip(f"the encoder of released/{name} is not on this machine: {error}")
    data = ["--dataset", "jsonl", "--data_dir", str(SENTENCES), "--split", "test", "--relations", str(RELATIONS)]
    assert score(["--model", str(folder), *data]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] >= least
