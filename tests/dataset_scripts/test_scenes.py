"""The harder generated set: text and picture decide together, nothing else does, and what decides is kept apart."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roc.dataset_scripts.exporting.marker import read_marker
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.generating.evidence import EVIDENCE_FILE, Evidence, load_evidence
from roc.dataset_scripts.generating.symbols import COLOURS, DARK, SYMBOLS
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.scenes import (
    CUES,
    FIGURES,
    IMAGE_SIZE,
    KINDS,
    NONE,
    PICTURES_PER_SENTENCE,
    SHIRTS,
    STATEMENTS,
    Example,
    audit_examples,
    build_scenes,
    generate_examples,
    main,
)
from roc.dataset_scripts.schema import check_row
from roc.relations.files import read_relation_file

SMALL = {"num_train": 24, "num_val": 24, "num_test": 24}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(generate_examples(720, 13))


@pytest.fixture
def folder(tmp_path) -> Path:
    build_scenes(tmp_path / "set", **SMALL)
    return tmp_path / "set"


def of_kind(examples: list[Example], kind: str) -> list[Example]:
    return [example for example in examples if example.evidence.kind == kind]


def colour_word(example: Example) -> str:
    (word,) = [colour for colour in SHIRTS if colour in example.row["text"]]
    return word


def cut(example: Example, box: list[float]) -> np.ndarray:
    """The pixels of a box: (height, width, 3), 0 to 255."""
    x0, y0, x1, y1 = (round(side * IMAGE_SIZE) for side in box)
    return np.asarray(Image.open(io.BytesIO(example.row["image"]["bytes"]))).astype(int)[y0:y1, x0:x1]


def num_pixels(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have about that colour."""
    return int((np.abs(pixels - colour).sum(-1) < 110).sum())


def test_every_row_obeys_the_schema_and_holds_no_evidence(examples):
    for example in examples:
        check_row(example.row, "generated")
    assert len({example.row["id"] for example in examples}) == len(examples)
    assert {example.evidence.kind for example in examples} == set(KINDS)


def test_the_same_seed_gives_the_same_rows_another_seed_or_split_others(examples):
    assert list(generate_examples(48, 13)) == examples[: sum(_number(example) < 48 for example in examples)]
    for others in (generate_examples(48, 14), generate_examples(48, 13, split="val")):
        pictures = {example.row["image"]["bytes"] for example in others}
        assert not pictures & {example.row["image"]["bytes"] for example in examples}


def _number(example: Example) -> int:
    return int(example.row["id"].split("-")[1])


@pytest.mark.parametrize("kind", ["text-object", "text-text"])
def test_a_pair_has_each_relation_once_with_the_same_boxes(examples, kind):
    groups = defaultdict(list)
    for example in of_kind(examples, kind):
        groups[_number(example) // PICTURES_PER_SENTENCE, str(example.row["head"]), str(example.row["tail"])].append(
            example.row["relation"]
        )
    expected = sorted(FIGURES if kind == "text-object" else CUES)
    assert all(sorted(relations) == expected for relations in groups.values())


def test_a_misleading_sentence_states_one_relation_and_sees_each_cue_once(examples):
    groups = defaultdict(list)
    for example in of_kind(examples, "misleading"):
        groups[_number(example) // PICTURES_PER_SENTENCE].append(example)
    for group in groups.values():
        assert len({example.row["relation"] for example in group}) == 1
        assert sorted(example.seen for example in group) == sorted(CUES)
    assert len({example.row["relation"] for group in groups.values() for example in group}) == len(STATEMENTS)


def test_figures_of_one_picture_have_the_same_relation_by_chance_only(examples):
    relations = defaultdict(list)
    for example in of_kind(examples, "text-object"):
        relations[example.row["image"]["bytes"]].append(example.row["relation"])
    assert {len(found) for found in relations.values()} == {2, 3, 4}
    same = [first == second for first, second, *_ in relations.values()]
    assert np.mean(same) == pytest.approx(1 / len(FIGURES), abs=0.06)


def test_what_a_figure_wears_and_has_is_in_its_box(examples):
    for example in of_kind(examples, "text-object")[:200]:
        in_team, item = FIGURES[example.row["relation"]]
        assert example.evidence.boxes == [example.row["tail"]["bbox"]]
        pixels = cut(example, example.row["tail"]["bbox"])
        half, beyond_the_figure = pixels.shape[1] // 2, 2 * pixels.shape[1] // 3 + 1
        beside = pixels[:, beyond_the_figure:]
        assert (num_pixels(pixels[:, :half], SHIRTS[colour_word(example)]) >= 30) == in_team
        assert (num_pixels(beside, DARK) > 0) == (item is not None)  # both items have dark lines
        # A briefcase reaches into the corner of its box, a ball does not.
        assert (num_pixels(beside[-2:, -2:], COLOURS["briefcase"]) > 0) == (item == "briefcase")


def test_the_evidence_of_a_text_pair_is_the_cue_between_figures_of_the_named_colour(examples):
    for example in of_kind(examples, "text-text")[:100]:
        (symbol, *_), boxes = CUES[example.row["relation"]], example.evidence.boxes
        assert bool(boxes) == (example.row["relation"] != NONE)
        for box in boxes:
            assert num_pixels(cut(example, box), COLOURS[symbol]) >= 15
            # The figures of the pair stand left and right in the same third of the picture.
            grid_row = int((box[1] + box[3]) / 2 * 3)
            third = cut(example, [0, grid_row / 3, 1, (grid_row + 1) / 3])
            assert num_pixels(third, SHIRTS[colour_word(example)]) >= 50


def test_no_object_decides_where_the_picture_misleads(examples):
    misleading = of_kind(examples, "misleading")
    assert not any(example.evidence.boxes for example in misleading)
    assert any(len(example.evidence.distractors) == 2 for example in misleading)


def test_no_name_or_id_tells_the_relation(examples):
    words = {word for word in (*CUES, *FIGURES, *SYMBOLS) if word != "figure"}
    for example in examples:
        visible = [example.row["id"], example.row["head"]["name"], example.row["tail"]["name"]]
        if example.evidence.kind != "misleading":
            visible.append(example.row["text"])
        assert not words & {word.strip(".,:!?()") for word in " ".join(visible).lower().split()}


def test_the_audit_finds_what_either_side_alone_can_know(examples):
    audit = audit_examples(examples, "train")
    chance = pytest.approx(1 / PICTURES_PER_SENTENCE)
    for kind in ("text-object", "text-text"):
        assert audit[kind]["majority_share"] == audit[kind]["text_only_accuracy"] == chance
    assert audit["misleading"]["text_only_accuracy"] == 1
    assert audit["misleading"]["picture_only_accuracy"] == chance
    assert audit["text-object"]["picture_only_accuracy"] == 0.5
    assert 0.5 < audit["text-text"]["picture_only_accuracy"] < 0.7


def test_the_more_frequent_colour_of_a_picture_is_not_more_often_the_team_s(examples):
    figures = of_kind(examples, "text-object")
    shirts = defaultdict(list)
    for example in figures:
        shirts[example.row["image"]["bytes"]].append(FIGURES[example.row["relation"]][0])
    frequent = [np.mean(found) > 0.5 for found in shirts.values() if np.mean(found) != 0.5]
    assert len(frequent) > 60
    assert np.mean(frequent) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    ("kind", "poison", "message"),
    [
        ("text-text", lambda example: {"text": example.row["text"] + example.row["relation"]}, "does not see the pict"),
        ("text-object", lambda example: {"head": {"name": example.row["relation"]}}, "does not see the picture"),
        ("misleading", lambda example: {"relation": example.seen}, "sees the cue alone"),
    ],
)
def test_the_audit_refuses_what_gives_the_relation_away(examples, kind, poison, message):
    poisoned = [
        replace(example, row=example.row | poison(example)) if example.evidence.kind == kind else example
        for example in examples
    ]
    with pytest.raises(ValueError, match=rf"train, {kind}.*{message}"):
        audit_examples(poisoned, "train")


def test_a_kind_without_pairs_cannot_be_audited(examples):
    with pytest.raises(ValueError, match="test, text-object: there are no rows"):
        audit_examples(of_kind(examples, "text-text"), "test")


def test_a_number_of_pictures_that_cannot_be_balanced_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"multiple of 6, got 7.*Give 6\."):
        generate_examples(7, 13)
    with pytest.raises(ValueError, match="num_val must be a positive multiple of 6, got 25"):
        build_scenes(tmp_path / "set", num_val=25)
    assert not (tmp_path / "set").exists()


def test_the_relation_file_describes_exactly_the_generated_relations(examples):
    relations = read_relation_file(Path(__file__).parents[2] / "relations" / "scenes.yaml")
    types = {relation["name"]: (relation["head_types"], relation["tail_types"]) for relation in relations.relations}
    assert relations.none_relation == NONE
    assert types.keys() == {*CUES, *FIGURES}
    for example in examples:
        for role, allowed in zip(("head", "tail"), types[example.row["relation"]], strict=True):
            assert not allowed or example.row[role]["type"] in allowed


def test_the_built_folder_loads_and_its_evidence_is_beside_it(folder, tmp_path):
    loaded = load_dataset_splits("scenes", folder, cache_dir=tmp_path / "cache")
    assert loaded["train"].features == FEATURES
    evidence = load_evidence(folder)
    assert evidence.keys() == {row_id for split in loaded.values() for row_id in split["id"]}
    generated = {example.row["id"]: example.evidence for example in generate_examples(24, 13)}
    assert {row_id: evidence[row_id] for row_id in generated} == generated
    assert isinstance(evidence["test-0-0"], Evidence)
    assert read_marker(folder)["side_files"].keys() == {EVIDENCE_FILE}
    assert "picture" in (folder / "README.md").read_text()


def test_a_folder_without_evidence_or_with_another_file_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no evidence"):
        load_evidence(tmp_path)
    with (folder / EVIDENCE_FILE).open("a") as file:
        file.write("{}\n")
    with pytest.raises(ValueError, match="not the file that its marker lists"):
        load_evidence(folder)


def test_a_folder_that_is_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not replaced"):
        build_scenes(tmp_path, **SMALL)


def test_building_twice_writes_the_same_files(folder, tmp_path):
    build_scenes(tmp_path / "again" / "set", **SMALL)
    paths = [path.relative_to(folder) for path in folder.rglob("*.*")]
    assert len(paths) == 6
    assert all((folder / path).read_bytes() == (tmp_path / "again" / "set" / path).read_bytes() for path in paths)


def test_the_command_line_prints_one_json_line(tmp_path):
    options = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "roc.dataset_scripts.scenes", "--output_dir", "set", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["splits"]["val"]["pictures"] == 24
    assert list(summary["audit"]["test"]) == list(KINDS)


def test_the_command_line_says_what_is_wrong_and_exits_with_one(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path / "set"), "--num_train", "3"]) == 1
    assert capsys.readouterr().err.startswith("error: num_train must be a positive multiple of 6, got 3")
