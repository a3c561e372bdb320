"""FewRel from its raw files, and the relation file of its Wikidata properties."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from raw_sets import FEWREL_LINE

from roc.dataset_scripts import wikidata
from roc.dataset_scripts.fewrel import FewrelBuilder, to_row
from roc.dataset_scripts.loading import load_dataset_splits
from roc.relations.files import read_relation_file

TOKENS = ["Marie", "Curie", "wed", "Pierre", "Curie", "and", "Pierre", "smiled"]


def sentence(**changes: Any) -> dict[str, Any]:
    return {"tokens": TOKENS, "h": ["marie curie", "Q1", [[0, 1]]], "t": ["pierre", "Q2", [[3, 4], [6]]]} | changes


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "train_wiki.json").write_text(json.dumps({"P26": [sentence(), sentence()], "P25": [sentence()]}))
    (folder / "val_wiki.json").write_text(json.dumps({"P40": [sentence()]}))
    properties = {
        "P25": ["mother", "female parent"],
        "P26": ["spouse", "is: married to"],
        "P40": ["child", "offspring"],
    }
    (folder / "pid2name.json").write_text(json.dumps(properties))
    return folder


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("fewrel", raw, cache_dir=raw.parent / "cache", **options)


def test_a_sentence_becomes_a_row_with_the_first_mention_of_each_entity(raw: Path) -> None:
    rows = load(raw)["train"]
    assert rows["relation"][:] == ["P26", "P26", "P25"]
    assert rows["id"][:] == ["train-P26-0000", "train-P26-0001", "train-P25-0000"]
    row = rows[0]
    assert (row["head"]["name"], row["tail"]["name"]) == ("Marie Curie", "Pierre Curie")
    assert row["text"][row["tail"]["start"] : row["tail"]["end"]] == "Pierre Curie"
    assert row["image"] is None


def test_a_mention_reaches_from_its_first_token_to_its_last() -> None:
    row = to_row(sentence(t=["pierre", "Q2", [[4, 3]]]), "P26", "x", where="here")
    assert row["tail"]["name"] == "Pierre Curie"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h": ["a", "Q1", [[8]]]}, r"'h': the token positions \[8\] are outside the 8 tokens"),
        ({"h": ["a", "Q1", [[-1]]]}, "outside the 8 tokens"),
        ({"h": ["a", "Q1", []]}, r"must be \[name, id, \[\[token position"),
        ({"h": ["a", "Q1", [[]]]}, "must be"),
        ({"t": ["a", "Q1"]}, "'t' must be"),
        ({"t": {"name": "a"}}, "'t' must be"),
        ({"t": ["a", "Q1", [["0"]]]}, "'t' must be"),
    ],
)
def test_a_malformed_entity_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_row(sentence(**changes), "P26", "x", where="val_wiki.json: P26, sentence 0")


@pytest.mark.parametrize("tokens", [[], "text", ["a", ""], [1]])
def test_tokens_that_are_not_words_are_refused(tokens: Any) -> None:
    with pytest.raises(TypeError, match="here: 'tokens' must be a list of strings"):
        to_row(sentence(tokens=tokens), "P26", "x", where="here")


@pytest.mark.parametrize("instance", [[], {"tokens": TOKENS}])
def test_a_sentence_without_its_keys_is_refused(instance: Any) -> None:
    with pytest.raises(ValueError, match="here: a sentence must be a mapping with the keys"):
        to_row(instance, "P26", "x", where="here")


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[]", "expected a mapping")])
def test_a_file_that_is_not_fewrel_is_refused(content: str, message: str, raw: Path) -> None:
    (raw / "train_wiki.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(raw, splits=["train"])


def test_properties_become_a_relation_file(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "made" / "relations.yaml"
    assert wikidata.main(["--data_dir", str(raw), "--split", "train", "--output", str(output)]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(output), "num_relations": 2}
    inventory = read_relation_file(output)
    assert inventory.names == ["P25", "P26"]
    assert inventory.none_relation is None
    assert inventory.relations[1]["descriptions"] == ["spouse: is: married to", "spouse"]


def test_all_properties_can_be_written_in_parts_without_editors_rules(raw: Path, tmp_path: Path) -> None:
    properties = {f"P{number}": [f"label {number}", "words"] for number in range(7)}
    (raw / "pid2name.json").write_text(json.dumps(properties | {"P8": ["long", "a rule for editors " * 20]}))
    parts = []
    for part in ("1/2", "2/2"):
        output = tmp_path / "part.yaml"
        given = ["--data_dir", str(raw), "--split", "all", "--part", part, "--output", str(output)]
        assert wikidata.main(given) == 0
        parts.append(read_relation_file(output).names)
    assert parts == [["P0", "P2", "P4", "P6"], ["P1", "P3", "P5"]]


@pytest.mark.parametrize("part", ["0/2", "3/2", "1/9", "half"])
def test_a_part_that_there_is_not_is_refused(
    part: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "part.yaml"
    given = ["--data_dir", str(raw), "--split", "train", "--part", part, "--output", str(output)]
    assert wikidata.main(given) == 1
    assert f"--part '{part}' is out of range" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("properties", ['{"P25": ["mother", "female parent"]}', "[]", '{"P26": "spouse"}', "{"])
def test_a_property_that_is_not_listed_is_an_error_and_writes_nothing(
    properties: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "pid2name.json").write_text(properties)
    output = tmp_path / "relations.yaml"
    assert wikidata.main(["--data_dir", str(raw), "--split", "train", "--output", str(output)]) == 1
    assert "error: " in capsys.readouterr().err
    assert not output.exists()


def test_the_real_validation_set_has_its_published_counts(roc_data: Path, tmp_path: Path) -> None:
    rows = load_dataset_splits("fewrel", roc_data / "fewrel", cache_dir=tmp_path)["val"]
    names = rows["relation"][:]
    assert {names.count(name) for name in set(names)} == {700}
    assert len(set(names)) == 16


# --- the compact file ------------------------------------------------------------------------------------------------


def write_compact(folder: Path, *lines: Any, name: str = "fewrel80.jsonl.gz") -> Path:
    folder.mkdir(exist_ok=True)
    content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize("name", ["fewrel80.jsonl.gz", "fewrel80.jsonl"])
def test_the_compact_file_is_the_training_split(name: str, tmp_path: Path) -> None:
    lines = [FEWREL_LINE, FEWREL_LINE | {"relation": "P25"}, FEWREL_LINE | {"head": [10, 16], "tail": [0, 5]}]
    built = load(write_compact(tmp_path / "raw", *lines, name=name))
    assert list(built) == ["train"]
    rows = built["train"]
    assert rows["id"][:] == ["train-P26-0000", "train-P25-0000", "train-P26-0001"]
    assert rows["relation"][:] == ["P26", "P25", "P26"]
    assert [row["name"] for row in rows["head"]] == ["marie", "marie", "pierre"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "gz:2: a line must be a JSON object"),
        ("{", "gz:2: .*Write one JSON object a line"),
        (FEWREL_LINE | {"texts": ""}, "gz:2: unknown key 'texts'. Did you mean 'text'"),
        ({"text": "a"}, "gz:2: missing"),
        (FEWREL_LINE | {"text": 1}, "gz:2: 'text' and 'relation' must be strings"),
        (FEWREL_LINE | {"head": [0]}, r"gz:2: 'head' must be \[start, end\] in characters"),
        (FEWREL_LINE | {"tail": [0, 99]}, r"gz:2: 'tail': the span \(0, 99\) lies outside the text"),
        (FEWREL_LINE | {"tail": ["0", 5]}, "gz:2: 'tail': start and end must be integers"),
        (FEWREL_LINE | {"tail": [0, 5]}, "'head' and 'tail' are the same entity"),
    ],
)
def test_a_malformed_line_of_the_compact_file_is_named(line: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        load(write_compact(tmp_path / "raw", FEWREL_LINE, line))


def test_a_packed_file_that_is_cut_short_or_not_packed_is_refused(tmp_path: Path) -> None:
    file = write_compact(tmp_path / "raw", FEWREL_LINE) / "fewrel80.jsonl.gz"
    content = file.read_bytes()
    for broken in (content[:-9], b"not packed", content[:10] + b"\xff" * 20):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"fewrel80\.jsonl\.gz: cannot be unpacked after line [01] "):
            load(file.parent)


def test_published_files_beside_the_compact_one_are_refused(raw: Path) -> None:
    write_compact(raw, FEWREL_LINE)
    with pytest.raises(ValueError, match=r"train_wiki\.json, val_wiki\.json have the same sentences"):
        load(raw)


def test_the_real_compact_file_has_its_published_counts(roc_data: Path) -> None:
    builder = FewrelBuilder(roc_data / "fewrel80")
    counts = Counter(raw.row["relation"] for raw, _ in builder._rows["train"])
    assert len(counts) == 80
    assert counts.total() == 55_979
    assert set(counts.values()) <= {696, 697, 699, 700}
