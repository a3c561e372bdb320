"""The generated set: the picture decides, nothing else does, and the same seed gives the same bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from roc.dataset_scripts.exporting.marker import read_marker
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.generating.common import check_text_only
from roc.dataset_scripts.generating.symbols import COLOURS, SYMBOLS, Canvas
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.schema import check_row
from roc.dataset_scripts.synthetic import (
    CUES,
    IMAGE_SIZE,
    OBJECTS,
    PICTURES_PER_SENTENCE,
    SENTENCE_KINDS,
    build_synthetic,
    generate_rows,
    main,
)
from roc.relations.files import read_relation_file

SMALL = {"num_train": 40, "num_val": 20, "num_test": 20}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(generate_rows(400, 13))


def pixels(row: dict) -> np.ndarray:
    """(height, width, 3), 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)


def is_text_text(row: dict) -> bool:
    return row["tail"]["bbox"] is None


def by_pair(rows: list[dict]) -> dict[tuple, list[dict]]:
    """The rows of the same pair of the same sentence: they differ in the picture only."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["text"], row["head"]["name"], row["tail"]["name"]].append(row)
    return groups


def test_every_row_obeys_the_schema(rows):
    for row in rows:
        check_row(row, "generated")
    assert datasets.Dataset.from_list(rows, features=FEATURES)[0]["image"].size == (IMAGE_SIZE, IMAGE_SIZE)
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_same_seed_gives_the_same_rows_and_bytes(rows):
    assert list(generate_rows(400, 13)) == rows


def test_another_seed_or_split_gives_other_sentences_and_pictures(rows):
    for others in (list(generate_rows(400, 14)), list(generate_rows(400, 13, split="val"))):
        assert [row["text"] for row in others] != [row["text"] for row in rows]
        assert not {row["image"]["bytes"] for row in others} & {row["image"]["bytes"] for row in rows}


def test_more_pictures_begin_with_the_same_ones(rows):
    assert list(generate_rows(40, 13)) == [row for row in rows if int(row["id"].split("-")[1]) < 40]


def test_both_pair_kinds_and_none_exist_with_all_their_relations(rows):
    assert {row["relation"] for row in rows if is_text_text(row)} == set(CUES)
    assert {row["relation"] for row in rows if not is_text_text(row)} == set(OBJECTS)
    assert {(row["head"]["type"], row["tail"]["type"]) for row in rows} == {("person", "person"), ("person", "object")}


def test_some_pictures_have_pairs_of_both_kinds(rows):
    kinds = defaultdict(set)
    for row in rows:
        kinds[row["image"]["bytes"]].add(is_text_text(row))
    assert Counter(map(frozenset, kinds.values())).keys() == {frozenset(k) for k in ({True}, {False}, {True, False})}


def test_one_sentence_is_enough_for_both_pair_kinds():
    few = list(generate_rows(PICTURES_PER_SENTENCE, 13))
    assert SENTENCE_KINDS[0] == "both"
    assert {is_text_text(row) for row in few} == {True, False}


def test_rows_of_a_picture_hold_the_identical_bytes_and_text(rows):
    pictures = defaultdict(set)
    for row in rows:
        pictures[row["id"].rsplit("-", 1)[0]].add((row["text"], row["image"]["bytes"]))
    assert len(pictures) == 400
    assert all(len(contents) == 1 for contents in pictures.values())


def test_the_same_pair_has_each_relation_once_in_as_many_different_pictures(rows):
    groups = by_pair(rows)
    assert len(groups) * PICTURES_PER_SENTENCE == len(rows)
    for group in groups.values():
        allowed = CUES if is_text_text(group[0]) else OBJECTS
        assert sorted(row["relation"] for row in group) == sorted(allowed)
        assert len({row["image"]["bytes"] for row in group}) == PICTURES_PER_SENTENCE


def test_the_same_pair_has_the_same_box_in_all_its_pictures(rows):
    for group in by_pair(rows).values():
        assert all(row["tail"] == group[0]["tail"] and row["head"] == group[0]["head"] for row in group)


def test_objects_of_one_picture_differ_in_relation_so_that_only_the_box_tells(rows):
    relations = defaultdict(list)
    for row in rows:
        if not is_text_text(row):
            relations[row["image"]["bytes"]].append(row["relation"])
    assert {len(found) for found in relations.values()} == {2, 3}
    assert all(len(set(found)) == len(found) for found in relations.values())


def test_no_name_or_id_tells_the_relation(rows):
    words = {word for word in (*CUES, *OBJECTS, *SYMBOLS) if word != "figure"}
    for row in rows:
        visible = " ".join([row["id"], row["text"], row["head"]["name"], row["tail"]["name"]]).lower().split()
        assert not words & {word.strip(".,:!?") for word in visible}


def test_none_is_the_majority_and_a_rule_without_the_picture_is_no_better(rows):
    share = 1 / PICTURES_PER_SENTENCE
    assert check_text_only(rows, "rows") == {
        "majority_share": pytest.approx(share),
        "text_only_accuracy": pytest.approx(share),
    }
    assert Counter(row["relation"] for row in rows).most_common(1)[0][0] == "none"


def test_a_word_that_tells_the_relation_is_found_by_the_check(rows):
    poisoned = [dict(row, text=f"{row['text']} {'#love' if row['relation'] == 'couple' else ''}") for row in rows]
    with pytest.raises(ValueError, match="train: a rule that does not see the picture is right on"):
        check_text_only(poisoned, "train")


def test_a_box_that_tells_the_relation_is_found_by_the_check(rows):
    def poison(row: dict) -> dict:
        if row["relation"] != "drives":
            return row
        x0, y0, x1, y1 = row["tail"]["bbox"]
        return dict(row, tail=dict(row["tail"], bbox=[x0, y0, x1, y1 + 1 / IMAGE_SIZE]))

    with pytest.raises(ValueError, match="boxes or row order"):
        check_text_only([poison(row) for row in rows], "train")


def test_an_order_of_rows_that_tells_the_relation_is_found_by_the_check(rows):
    ordered = sorted(rows, key=lambda row: (int(row["id"].split("-")[1]), row["relation"]))
    with pytest.raises(ValueError, match="row order"):
        check_text_only(ordered, "train")


def test_a_missing_row_that_tells_the_relation_is_found_by_the_check(rows):
    with pytest.raises(ValueError, match="does not see the picture"):
        check_text_only([row for row in rows if row["relation"] != "eats"], "train")


def test_no_rows_cannot_be_checked():
    with pytest.raises(ValueError, match="test: there are no rows"):
        check_text_only([], "test")


@pytest.mark.parametrize(("num_pictures", "nearest"), [(-5, 5), (0, 5), (7, 5), (13, 15)])
def test_a_number_of_pictures_that_cannot_be_balanced_is_refused_at_once(num_pictures, nearest):
    with pytest.raises(ValueError, match=rf"multiple of 5, got {num_pictures}.*Give {nearest}\."):
        generate_rows(num_pictures, 13)


def test_boxes_are_filled_by_their_objects_whatever_these_are(rows):
    filled = defaultdict(list)
    for row in rows[:300]:
        if is_text_text(row):
            continue
        picture = pixels(row)
        x0, y0, x1, y1 = (round(side * IMAGE_SIZE) for side in row["tail"]["bbox"])
        # Things cover less of a line than its background, which is of one colour.
        background = np.array([Counter(map(tuple, line)).most_common(1)[0][0] for line in picture])
        differs = np.abs(picture - background[:, None]).sum(-1)[y0:y1, x0:x1] > 40
        filled[row["relation"]].append(differs.mean())
        touched = np.argwhere(differs)
        assert (touched.min(0) <= 3).all()
        assert (touched.max(0) >= np.array(differs.shape) - 4).all()
    assert filled.keys() == set(OBJECTS)
    assert all(min(shares) > 0.2 for shares in filled.values())


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_stays_inside_its_box_and_reaches_about_its_edges(symbol):
    background = (200, 210, 220)
    canvas = Canvas(IMAGE_SIZE, background=(background, background), horizon=0.5)
    canvas.stamp(symbol, (20, 10, 40, 28), colour=COLOURS.get(symbol, (24, 150, 150)))
    touched = np.argwhere((np.asarray(canvas.finish()).astype(int) != background).any(-1))
    (top, left), (bottom, right) = touched.min(0), touched.max(0)
    assert 19 <= left <= 22
    assert 9 <= top <= 12
    assert 37 <= right <= 40
    assert 25 <= bottom <= 28


def test_four_thousand_pictures_take_seconds():
    start = time.process_time()
    assert sum(1 for _ in generate_rows(1000, 13)) > 1000
    assert time.process_time() - start < 2.5


def test_the_relation_file_describes_exactly_the_generated_relations(rows):
    relations = read_relation_file(Path(__file__).parents[2] / "relations" / "synthetic.yaml")
    types = {relation["name"]: (relation["head_types"], relation["tail_types"]) for relation in relations.relations}
    assert relations.none_relation == "none"
    assert types.keys() == {*CUES, *OBJECTS}
    assert all(len(relation["descriptions"]) >= 3 for relation in relations.relations)
    for row in rows:
        for entity, allowed in zip((row["head"], row["tail"]), types[row["relation"]], strict=True):
            assert not allowed or entity["type"] in allowed


def test_the_built_folder_loads_with_its_pictures_inside(tmp_path, rows):
    summary = build_synthetic(tmp_path / "set", **SMALL)
    loaded = load_dataset_splits("synthetic", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert {split: summary["splits"][split]["pictures"] for split in loaded} == {"train": 40, "val": 20, "test": 20}
    assert {split: summary["splits"][split]["rows"] for split in loaded} == {s: len(loaded[s]) for s in loaded}
    assert loaded["train"].features == FEATURES
    assert loaded["train"]["relation"][:] == [row["relation"] for row in rows[: len(loaded["train"])]]
    assert (np.asarray(loaded["train"][0]["image"]) == pixels(rows[0])).all()
    assert read_marker(tmp_path / "set")["options"] == {**SMALL, "seed": 13}


def test_building_twice_writes_the_same_files(tmp_path):
    for parent in ("a", "b"):
        build_synthetic(tmp_path / parent / "set", **SMALL)
    first, second = (
        {path.relative_to(tmp_path / parent): path.read_bytes() for path in (tmp_path / parent).rglob("*.*")}
        for parent in ("a", "b")
    )
    assert len(first) == 5
    assert first == second


def test_a_folder_that_is_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not replaced"):
        build_synthetic(tmp_path, **SMALL)


def test_a_number_that_cannot_be_balanced_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="num_val must be a positive multiple of 5, got 21"):
        build_synthetic(tmp_path / "set", num_train=40, num_val=21, num_test=20)
    assert not (tmp_path / "set").exists()


def test_the_command_line_prints_one_json_line(tmp_path):
    options = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "roc.dataset_scripts.synthetic", "--output_dir", "set", "--seed", "5", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["output_dir"] == "set"
    assert summary["seed"] == 5
    for split in ("train", "val", "test"):
        assert summary["splits"][split]["text_only_accuracy"] == summary["splits"][split]["majority_share"] == 0.2
    assert (tmp_path / "set" / "README.md").is_file()


def test_the_command_line_says_what_is_wrong_and_exits_with_one(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path / "set"), "--num_train", "3"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: num_train must be a positive multiple of 5, got 3")
