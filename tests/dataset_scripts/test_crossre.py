"""CrossRE from its raw files, whole and by domain."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from raw_sets import CROSSRE_SENTENCE

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.crossre import CrossreBuilder, parse_sentence
from roc.dataset_scripts.loading import load_dataset_splits


def line(**changes: Any) -> str:
    return json.dumps(CROSSRE_SENTENCE | changes)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("ai-train", "ai-dev", "news-train", "music-train", "music-test"):
        (folder / f"{name}.json").write_text(f"{line(doc_key=name)}\n")
    return folder


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("crossre", raw, cache_dir=raw.parent / "cache", **options)


def test_a_sentence_becomes_rows_of_its_relations_and_unrelated_pairs(raw: Path) -> None:
    rows = load(raw)["val"].to_list()
    assert [row["relation"] for row in rows] == ["related-to", "usage", "none", "none"]
    assert rows[0]["text"] == "Ada Byron used Lisp in Rome"
    assert (rows[0]["head"]["name"], rows[0]["tail"]["name"]) == ("Ada Byron", "Lisp")
    assert {rows[2]["head"]["name"], rows[2]["tail"]["name"]} == {"Ada Byron", "Rome"}
    assert all(row[role]["type"] is None for row in rows for role in ("head", "tail"))


def test_the_domains_that_exist_are_read_or_those_that_are_asked_for(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def domains(**options: Any) -> dict[str, list[str]]:
        built = load(raw, **options)
        return {split: list(dict.fromkeys(row_id.split("-")[1] for row_id in built[split]["id"])) for split in built}

    assert domains() == {"train": ["ai", "music", "news"], "val": ["ai"], "test": ["music"]}
    assert "has no ai-test.json, literature-test.json" in caplog.text
    assert domains(parts=["news", "ai"], splits=["train"]) == {"train": ["ai", "news"]}
    assert domains(parts=["music"]) == {"train": ["music"], "test": ["music"]}


def test_a_domain_that_is_asked_for_but_not_there_is_an_error(raw: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no literature-train\.json, which parts=\['ai', 'literature'\]"):
        load(raw, parts=["literature", "ai"])
    with pytest.raises(FileNotFoundError, match="has no split 'val'"):
        load(raw, parts=["music"], splits=["val"])


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("crossre", ["poltics"], r"some of \['ai', .*got \['poltics'\]\. Did you mean 'politics'\?"),
        ("crossre", [], "some of"),
        ("crossre", "ai", "got 'ai'"),
        ("fewrel", ["ai"], r"'fewrel' has no parts, but parts=\['ai'\]"),
        ("synthetic", ["ai"], "'synthetic' has no parts"),
    ],
)
def test_parts_that_there_are_not_are_refused(name: str, parts: Any, message: str, raw: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset_splits(name, raw, parts=parts)


def test_a_written_folder_keeps_its_parts(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "built"
    given = ["--data_dir", str(raw), "--output_dir", str(output), "--splits", "train", "--parts", "news", "ai"]
    assert main(CrossreBuilder, given) == 0
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "--parts news ai" in card
    assert "`gpl-3.0`" in card
    assert load(output, parts=["ai", "news"])["train"].num_rows == 8
    with pytest.raises(ValueError, match=r"written with parts=\['ai', 'news'\], but parts=\['ai'\] are asked for"):
        load(output, parts=["ai"])
    assert main(CrossreBuilder, [*given[:-2], "newss"]) == 1
    assert "Did you mean 'news'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ner": [[3, 6, "x"]]}, r"here: entity 0: the span \(3, 7\) lies outside the text"),
        ({"ner": [[3, 2, "x"]]}, r"here: entity 0: the span \(3, 3\) is empty"),
        ({"ner": [[3, "3", "x"]]}, "here: entity 0: start and end must be integers"),
        ({"ner": [[3, 3]]}, "here: entity 0 must be a list of 3 values"),
        ({"ner": {}}, "here: 'ner' must be a list"),
        ({"relations": [[0, 1, 3, 3, "usage"]]}, "here: relation 0 must be a list of 8 values"),
        ({"relations": [[0, 0, 3, 3, "usage", "", False, False]]}, "here: relation 0: the tokens 0 to 0 are no entity"),
        ({"sentence": "Ada"}, "here: 'tokens' must be a list"),
        ({"relation": []}, "here: unknown key 'relation'. Did you mean 'relations'"),
    ],
)
def test_a_malformed_sentence_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        parse_sentence(line(**changes), "x", where="here")


def test_the_real_files_have_their_published_counts(roc_data: Path) -> None:
    builder = CrossreBuilder(roc_data / "text_relations" / "crossre", splits=["train", "val"])
    rows = {split: [raw.row for raw, _ in builder._rows[split]] for split in ("train", "val")}
    counts = {split: Counter(row["relation"] for row in own) for split, own in rows.items()}
    texts = {split: own["texts"] for split, own in builder.split_counts.items()}
    assert texts == {"train": 668, "val": 2151}
    assert {split: own.total() - own["none"] for split, own in counts.items()} == {"train": 2391, "val": 8198}
    assert {split: own["none"] for split, own in counts.items()} == {"train": 7222, "val": 26_140}
    assert {len(own) for own in counts.values()} == {18}
    left_out = ("repeated_relations", "relations_to_itself", "contradicted_pairs")
    assert [builder.split_counts["train"][key] for key in left_out] == [2, 1, 5]
    for own in rows.values():
        relations: dict[Any, set[str]] = {}
        for row in own:
            pair = (row["text"], *sorted((row[role]["start"], row[role]["end"]) for role in ("head", "tail")))
            relations.setdefault(pair, set()).add(row["relation"])
        assert all(own == {"none"} for own in relations.values() if "none" in own)


def test_a_sentence_that_is_annotated_twice_makes_no_unrelated_pair_of_what_one_of_them_relates(raw: Path) -> None:
    (raw / "news-train.json").write_text(f"{line()}\n{line(relations=[])}\n")
    rows = load(raw, parts=["news"])["train"].to_list()
    assert [row["relation"] for row in rows] == ["related-to", "usage", "none", "none", "none", "none"]
