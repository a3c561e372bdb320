"""SemEval-2010 task 8 from JSON lines and from the official files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from raw_sets import SEMEVAL_SENTENCE

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.semeval import LABELS, SemevalBuilder

OFFICIAL = """8001\t"The <e1>storm</e1> broke <e2>roof tiles</e2>, he said: "look"."
Cause-Effect(e1,e2)
Comment: a made sentence.

8002\t"A <e1>door</e1> of the <e2>house</e2>."
Component-Whole(e1,e2)
Comment:

8003\t"A <e1>house</e1> and its <e2>door</e2>."
Component-Whole(e2,e1)
"""


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("semeval", raw, cache_dir=raw.parent / "cache", **options)


def write(folder: Path, name: str, *sentences: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(f"{json.dumps(sentence)}\n" for sentence in sentences), encoding="utf-8")
    return folder


def test_the_head_is_the_first_in_the_text_whatever_the_label_says(tmp_path: Path) -> None:
    labels = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other"]
    raw = write(tmp_path / "raw", "train.txt", *(SEMEVAL_SENTENCE | {"relation": label} for label in labels))
    write(raw, "dev.txt", SEMEVAL_SENTENCE)
    built = load(raw)
    assert list(built) == ["train", "val"]
    rows = built["train"].to_list()
    assert [row["relation"] for row in rows] == labels
    assert {(row["head"]["name"], row["tail"]["name"]) for row in rows} == {("storm", "roof tiles")}
    assert [row["id"] for row in rows] == ["train-00001", "train-00002", "train-00003"]


def test_the_official_form_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "SemEval2010_task8_training"
    folder.mkdir(parents=True)
    (folder / "TRAIN_FILE.TXT").write_bytes(OFFICIAL.replace("\n", "\r\n").encode())
    rows = load(tmp_path / "raw")["train"].to_list()
    assert [(row["head"]["name"], row["relation"], row["tail"]["name"]) for row in rows] == [
        ("storm", "Cause-Effect(e1,e2)", "roof tiles"),
        ("door", "Component-Whole(e1,e2)", "house"),
        ("house", "Component-Whole(e2,e1)", "door"),
    ]
    assert rows[0]["text"] == 'The storm broke roof tiles, he said: "look".'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"relation": "Cause-Effect(e1,e3)"},
            r"txt:2: there is no relation .* Did you mean 'Cause-Effect\(e1,e2\)'",
        ),
        ({"relation": 1}, r"train\.txt:2: there is no relation 1"),
        ({"h": SEMEVAL_SENTENCE["t"], "t": SEMEVAL_SENTENCE["h"]}, r"train\.txt:2: 't' comes before 'h' in the text"),
        ({"t": {"name": "x", "pos": [3, 9]}}, r"train\.txt:2: 't': the span \(3, 9\) lies outside the text"),
        ({"t": {"name": "x"}}, r"train\.txt:2: 't' must be a dict with the keys 'name' and 'pos'"),
        ({"token": []}, r"train\.txt:2: 'tokens' must be a list"),
        ({"tokens": []}, r"train\.txt:2: unknown key 'tokens'. Did you mean 'token'"),
    ],
)
def test_a_malformed_line_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", "train.txt", SEMEVAL_SENTENCE, SEMEVAL_SENTENCE | changes)
    with pytest.raises((ValueError, TypeError), match=message):
        load(raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no sentence\nOther\n", "TXT:1: expected a numbered sentence in quotes"),
        ('1\t"<e2>a</e2> <e1>b</e1>"\nOther\n', "TXT:1: expected .*<e1>...</e1> before <e2>...</e2>"),
        (f'{OFFICIAL}9\t"<e1>a</e1> <e2>b</e2>"\n', "TXT:11: the file ends before the label"),
        (OFFICIAL.replace("Component-Whole(e1,e2)\n", ""), "there is no relation '8003"),
    ],
)
def test_a_malformed_official_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "TRAIN_FILE.TXT").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", "train.txt", SEMEVAL_SENTENCE)
    (raw / "TRAIN_FILE.TXT").write_text(OFFICIAL, encoding="utf-8")
    with pytest.raises(ValueError, match="Several files that differ could be the split 'train'"):
        load(raw)


def test_the_card_names_source_and_licence(tmp_path: Path) -> None:
    raw, output = write(tmp_path / "raw", "train.txt", SEMEVAL_SENTENCE), tmp_path / "built"
    assert main(SemevalBuilder, ["--data_dir", str(raw), "--output_dir", str(output)]) == 0
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "`cc-by-3.0`" in card
    assert "Hendrickx et al." in card


def test_the_real_files_have_their_counts(roc_data: Path) -> None:
    builder = SemevalBuilder(roc_data / "text_relations" / "semeval2010_8", splits=["train", "val"])
    rows = {split: [raw.row for raw, _ in own] for split, own in builder._rows.items()}
    assert {split: len(own) for split, own in rows.items()} == {"train": 6507, "val": 1493}
    counts = Counter(row["relation"] for own in rows.values() for row in own)
    assert set(counts) == set(LABELS)
    assert counts["Other"] == 1146 + 264
    assert all(row["head"]["end"] <= row["tail"]["start"] for own in rows.values() for row in own)
