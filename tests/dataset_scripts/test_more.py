"""MORE from its raw files: tiny sets written here as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from raw_sets import MORE_LABELS, MORE_OBJECTS, MORE_TOKENS, more_instance, write_instances, write_more
from tiny import tiny_model, tiny_processor

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.more import MoreBuilder, read_captions, read_instances, read_labels, read_objects, to_xyxy
from roc.relations.files import read_relation_file
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples

CAPTIONS = {"a.jpg": {"[OBJ0]": "a man ", "[OBJ1]": "a ball"}, "b.jpg": {"[OBJ0]": "a crowd"}}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_more(tmp_path / "raw")
    return tmp_path / "raw"


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("more", raw, cache_dir=raw.parent / "cache", **options)


def rewrite(raw: Path, instance: Any, *, objects: dict[str, Any] | None = None) -> None:
    """Make the training split one good line and this one, with other boxes where they are given."""
    write_instances(raw / "txt" / "train.txt", [more_instance(), instance])
    if objects is not None:
        torch.save(objects, raw / "ent_train_dict.pth")


class TouchesAFile:
    """A pickle that runs code when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


# --- rows --------------------------------------------------------------------------------------------------------


def test_a_line_becomes_a_span_of_the_text_and_a_box_in_the_picture(raw: Path) -> None:
    row = load(raw)["train"][0]
    assert row["id"] == "train-00001"
    assert row["text"] == "Italy Storms Back Into the World Cup in Zürich"
    assert row["head"] == {"name": "World Cup", "start": 27, "end": 36, "type": None, "bbox": None}
    assert row["tail"]["bbox"] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    rest = {"name": "[OBJ0]", "start": None, "end": None, "type": None, "bbox": None}
    assert row["tail"] | {"bbox": None} == rest
    assert row["relation"] == "/per/misc/present_in"
    inside, outside = ((row["image"].getpixel(point)) for point in ((15, 20), (58, 38)))  # of 60 x 40 pixels
    assert inside[0] > 200 > 100 > max(inside[1:]), "the box is not where the object was drawn"
    assert max(outside) - min(outside) < 60


def test_the_published_valid_files_are_the_split_val(raw: Path) -> None:
    loaded = load(raw)
    assert {split: rows["id"][:] for split, rows in loaded.items()} == {
        "train": ["train-00001", "train-00002", "train-00003"],
        "val": ["val-00001"],
    }
    assert loaded["val"][0]["tail"]["name"] == "[OBJ1]"


@pytest.mark.parametrize("folder", [".", "txt"])
def test_the_files_may_lie_at_the_top_or_beside_the_lines(raw: Path, folder: str) -> None:
    before = load(raw)["train"].remove_columns("image").to_list()
    for path in (*raw.glob("*_dict.pth"), raw / "rel2id.json", raw / "txt" / "train.txt"):
        path.rename(raw / folder / path.name)
    assert load(raw, splits=["train"])["train"].remove_columns("image").to_list() == before


def test_two_files_of_one_name_must_be_the_same(raw: Path) -> None:
    (raw / "txt" / "rel2id.json").write_bytes((raw / "rel2id.json").read_bytes())
    load(raw)
    (raw / "txt" / "rel2id.json").write_text('{"none": 0}')
    with pytest.raises(ValueError, match=r"Several files that differ could be rel2id\.json"):
        load(raw)


def test_only_the_files_of_the_splits_that_are_asked_for_are_needed(raw: Path) -> None:
    (raw / "ent_valid_dict.pth").unlink()
    assert list(load(raw, splits=["train"])) == ["train"]
    with pytest.raises(FileNotFoundError, match=r"ent_valid_dict\.pth is not there: .* the boxes of the objects"):
        load(raw)
    with pytest.raises(FileNotFoundError, match="no split 'test'; it has"):
        load(raw, splits=["test"])


def test_a_folder_without_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No split found"):
        MoreBuilder(tmp_path)


def test_lines_may_be_json_and_their_escapes_are_those_of_json(tmp_path: Path) -> None:
    tokens = ["Zürich", "wins", "🏆"]
    made = more_instance(token=tokens, h={"name": "🏆", "pos": [2, 3]})
    path = tmp_path / "train.txt"
    path.write_text(json.dumps(made).replace("/", "\\/") + "\n")
    assert r"\ud83c" in path.read_text()
    [(_, _, read)] = read_instances(path, MORE_LABELS)
    assert read["token"] == tokens
    assert read["relation"] == "/per/misc/present_in"


# --- nothing but the label tells the label -----------------------------------------------------------------------


def test_how_a_line_is_written_and_what_else_it_holds_does_not_reach_the_row(raw: Path) -> None:
    expected = load(raw)["train"].remove_columns("image")[0]
    other = {"relation": "/per/misc/present_in", "text": "Italy wins", "is_negative": True}
    other |= {"t": {"box": ("0.25", "0.5", "0.3", "0.6"), "score": 0.1, "name": "[OBJ0]"}, "img_id": "a.jpg"}
    other |= {"h": {"pos": (5, 7), "name": ["World", "Cup"], "type": "misc"}, "token": MORE_TOKENS}
    write_instances(raw / "txt" / "train.txt", [other])
    builder = MoreBuilder(raw, splits=["train"], cache_dir=raw.parent / "cache")
    assert builder.build()["train"].remove_columns("image")[0] == expected
    assert builder.split_counts["train"]["other_names"] == 0


def test_the_other_objects_of_a_picture_and_their_order_do_not_reach_the_row(raw: Path) -> None:
    expected = load(raw)["train"].remove_columns("image")[0]
    boxes = MORE_OBJECTS["a.jpg"]
    changed = {"[OBJ7]": (0.5, 0.5, 0.1, 0.1), "[OBJ1]": boxes["[OBJ1]"], "[OBJ0]": boxes["[OBJ0]"]}
    torch.save({"b.jpg": MORE_OBJECTS["b.jpg"], "a.jpg": changed}, raw / "ent_train_dict.pth")
    assert load(raw)["train"].remove_columns("image")[0] == expected


def test_the_numbers_of_the_labels_do_not_reach_the_row(raw: Path) -> None:
    expected = load(raw)["train"].remove_columns("image").to_list()
    labels = {label: 100 - number for number, label in enumerate(sorted(MORE_LABELS))}
    (raw / "rel2id.json").write_text(json.dumps(labels))
    assert load(raw)["train"].remove_columns("image").to_list() == expected


@pytest.mark.parametrize("box", [(0.9, 0.9, 0.1, 0.1), ("0.25", "0.5", "0.3", "0.5996"), None])
def test_the_box_is_the_pictures_and_never_the_lines(raw: Path, box: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = load(raw)["train"].remove_columns("image")[0]
    caplog.clear()
    write_instances(raw / "txt" / "train.txt", [more_instance(t={"name": "[OBJ0]", "box": box})])
    builder = MoreBuilder(raw, splits=["train"], cache_dir=raw.parent / "cache")
    assert builder.build()["train"].remove_columns("image")[0] == expected
    is_other = box is not None and box[0] == 0.9
    assert builder.split_counts["train"]["other_boxes"] == is_other
    warning = "1 lines have another box than ent_train_dict.pth (train.txt:1: (0.9, 0.9, 0.1, 0.1) for the box (0.25"
    assert (warning in caplog.text) == is_other


def test_the_name_of_an_object_does_not_reach_the_model(raw: Path) -> None:
    (raw / "caption_dict.json").write_text(json.dumps(CAPTIONS))
    batches = []
    for captions in (False, True):
        rows = MoreBuilder(raw, captions=captions, cache_dir=raw.parent / "cache").build()["train"]
        samples = GroupedSamples(rows)
        batches.append(SampleCollator(tiny_processor(), MORE_LABELS)([samples[0], samples[1]])[1])
    plain, captioned = batches
    assert plain.keys() == captioned.keys()
    assert all(torch.equal(plain[name], captioned[name]) for name in plain)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relation": "/per/misc/presents_in"}, r"not among the 21 labels .* Did you mean '/per/misc/present_in'"),
        ({"relation": 3}, "'relation' must be a string"),
        ({"token": "World Cup"}, "'token' must be a list"),
        ({"h": {"name": "World Cup", "pos": [5, 10]}}, r"'h': the span \(5, 10\) .* <= 9, the number of tokens"),
        ({"h": {"name": "World Cup", "pos": None}}, "'pos' must be"),
        ({"t": {"box": (0.5, 0.5, 0.1, 0.1)}}, "'t' must be a dict with the 'name' of an object"),
        ({"t": {"name": " ", "box": (0.5, 0.5, 0.1, 0.1)}}, "'t' must be a dict with the 'name' of an object"),
        ({"t": "[OBJ0]"}, "'t' must be a dict with the 'name' of an object"),
        ({"t": {"name": "[OBJ0]", "box": (0.5, 0.5)}}, r"'t': 'box' must be four finite numbers .* got \(0\.5, 0\.5\)"),
        ({"t": {"name": "[OBJ0]", "box": "here"}}, "'t': 'box' must be four finite numbers"),
        ({"t": {"name": "[OBJ2]"}}, r"'a\.jpg' has no object '\[OBJ2\]'; it has \['\[OBJ0\]', '\[OBJ1\]'\]"),
        ({"img_id": "c.jpg"}, r"the picture 'c\.jpg' has no objects in the ent_\*_dict\.pth of its split"),
        ({"img_id": "train/a.jpg"}, "plain file name"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line(raw: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(raw, more_instance(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        load(raw)
    assert str(caught.value).startswith("train.txt:2")


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("__import__('os').getcwd()", ValueError, "not a Python literal"),
        ("{'token': ", ValueError, "not a Python literal"),
        ("[" * 100_000, ValueError, "not a Python literal"),
        ("[1, 2]", ValueError, "must be a dict with the keys"),
        (repr(more_instance(h={"name": "a", "pos": ["5", 7]})), TypeError, "start and end must be integers"),
    ],
)
def test_a_line_of_another_kind_is_refused_and_never_run(
    tmp_path: Path, line: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "train.txt"
    path.write_text(f"{more_instance()!r}\n{line}\n", encoding="utf-8")
    with pytest.raises(error, match=message) as caught:
        list(read_instances(path, MORE_LABELS))
    assert str(caught.value).startswith("train.txt:2")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (None, r"the box of '\[OBJ0\]' in the picture 'b\.jpg' must be four finite numbers"),
        ((), "must be four finite numbers"),
        ((0.5, 0.5, 0.1), "must be four finite numbers"),
        ((0.5, float("nan"), 0.1, 0.1), "must be four finite numbers"),
        ((0.5, 0.5, 0.0, 0.1), "has no area"),
        ((0.5, 0.5, 0.1, 0.0), "has no area"),
        ((0.5, 0.5, 0.1, -0.1), "has no area"),
        ((0.5, 0.5, 1.01, 0.1), r"reaches outside .* \(-0\.005, 0\.45, 1\.005, 0\.55\)"),
        ((0.1, 0.2, 0.4, 0.8), "reaches outside the picture"),  # x0, y0, x1, y1 by mistake
        ((30.0, 20.0, 10.0, 10.0), "not pixels"),
    ],
)
def test_a_box_that_is_none_is_refused_with_file_and_line(raw: Path, box: Any, message: str) -> None:
    made = more_instance(img_id="b.jpg", t={"name": "[OBJ0]"})
    rewrite(raw, made, objects=MORE_OBJECTS | {"b.jpg": {"[OBJ0]": box}})
    with pytest.raises(ValueError, match=message) as caught:
        load(raw)
    assert str(caught.value).startswith("train.txt:2")


def test_a_box_that_no_line_asks_for_stops_nothing(raw: Path) -> None:
    torch.save(MORE_OBJECTS | {"z.jpg": {"[OBJ0]": None}}, raw / "ent_train_dict.pth")
    assert len(load(raw)["train"]) == 3


@pytest.mark.parametrize("share", [1 / 3, 0.123457, 0.999999])
def test_what_six_decimals_round_beyond_the_edge_is_clipped_and_no_more(share: float) -> None:
    edge = round(1 - share / 2, 6) + 5e-7
    sides = to_xyxy((edge, edge, round(share, 6), round(share, 6)), "here")
    assert sides[2:] == (1.0, 1.0)
    assert sides[:2] == pytest.approx((1 - share, 1 - share), abs=2e-6)
    with pytest.raises(ValueError, match=r"^here: the box .* reaches outside"):
        to_xyxy((edge + 2e-6, edge, round(share, 6), round(share, 6)), "here")


def test_a_whole_picture_is_a_box(raw: Path) -> None:
    assert load(raw)["train"][2]["tail"]["bbox"] == [0, 0, 1, 1]


@pytest.mark.parametrize("number", [10, 11])
def test_a_picture_has_at_most_ten_objects(raw: Path, number: int) -> None:
    boxes = {f"[OBJ{index}]": (0.5, 0.5, 0.1, 0.1) for index in range(number)}
    rewrite(raw, more_instance(img_id="b.jpg"), objects=MORE_OBJECTS | {"b.jpg": boxes})
    if number <= 10:
        assert len(load(raw)["train"]) == 2
        return
    with pytest.raises(ValueError, match=r"^train\.txt:2: the picture 'b\.jpg' has 11 objects; MORE has at most 10"):
        load(raw)


@pytest.mark.parametrize("old_format", [False, True])
def test_boxes_that_are_cut_short_or_hold_code_are_refused(tmp_path: Path, old_format: bool) -> None:
    path, touched = tmp_path / "ent_train_dict.pth", tmp_path / "touched"
    torch.save(MORE_OBJECTS, path, _use_new_zipfile_serialization=not old_format)
    whole = path.read_bytes()
    assert read_objects(path) == MORE_OBJECTS
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"ent_train_dict\.pth cannot be read as plain data"):
            read_objects(path)
    for content in (TouchesAFile(touched), {"a.jpg": {"[OBJ0]": TouchesAFile(touched)}}):
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
        with pytest.raises(ValueError, match="cannot be read as plain data"):
            read_objects(path)
    assert not touched.exists()


@pytest.mark.parametrize("content", [[1], {0: ["crop.png"]}, {"a.jpg": [(0.5, 0.5, 0.1, 0.1)]}, {1: {"[OBJ0]": ()}}])
def test_boxes_of_another_shape_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "ent_train_dict.pth")
    with pytest.raises(ValueError, match="expected a dict of picture names to"):
        read_objects(tmp_path / "ent_train_dict.pth")


@pytest.mark.parametrize("content", ["[]", "{}", '{"none": "0"}', '{"none": '])
def test_labels_of_another_shape_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rel2id.json").write_text(content)
    with pytest.raises(ValueError, match=r"rel2id\.json: (expected an object of labels|not JSON)"):
        read_labels(tmp_path / "rel2id.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (read_labels, read_objects, read_captions):
        with pytest.raises(FileNotFoundError, match=r"some\.file is not there: MORE needs it for the"):
            read(tmp_path / "some.file")


# --- captions ----------------------------------------------------------------------------------------------------


def test_captions_name_the_objects_where_they_are_asked_for(raw: Path) -> None:
    (raw / "caption_dict.json").write_text(json.dumps(CAPTIONS))
    cache = raw.parent / "cache"
    assert [entity["name"] for entity in MoreBuilder(raw, cache_dir=cache).build()["train"]["tail"]] == [
        *("[OBJ0]", "[OBJ1]", "[OBJ0]")
    ]
    captioned = MoreBuilder(raw, captions=True, cache_dir=cache).build()
    assert [entity["name"] for entity in captioned["train"]["tail"]] == ["a man", "a ball", "a crowd"]


@pytest.mark.parametrize("caption", [None, "", " ", 3])
def test_an_object_without_the_caption_that_was_asked_for_is_refused(raw: Path, caption: Any) -> None:
    (raw / "caption_dict.json").write_text(json.dumps(CAPTIONS | {"b.jpg": {"[OBJ0]": caption}}))
    with pytest.raises(
        ValueError, match=r"^train\.txt:3: caption_dict\.json has no caption for '\[OBJ0\]' in .*'b\.jpg'"
    ):
        MoreBuilder(raw, captions=True)
    (raw / "caption_dict.json").write_text(json.dumps({"a.jpg": CAPTIONS["a.jpg"]}))
    with pytest.raises(ValueError, match="has no caption"):
        MoreBuilder(raw, captions=True)


@pytest.mark.parametrize("content", ["[]", '{"a.jpg": "a man"}', "{"])
def test_captions_of_another_shape_are_refused(raw: Path, content: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"caption_dict\.json is not there"):
        MoreBuilder(raw, captions=True)
    (raw / "caption_dict.json").write_text(content)
    with pytest.raises(ValueError, match=r"caption_dict\.json: (expected an object of picture|not JSON)"):
        MoreBuilder(raw, captions=True)


# --- pictures, counts and the command line -----------------------------------------------------------------------


def test_a_missing_picture_stops_or_takes_its_rows_with_it(raw: Path) -> None:
    (raw / "img_org" / "train" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"^train\.txt:3: the picture 'b\.jpg' .* img_org/valid and") as caught:
        load(raw)
    assert str(raw / "img_org" / "train" / "b.jpg") in str(caught.value)
    for policy in ("skip", "no_image"):  # an object without its picture cannot be kept
        assert load(raw, missing_images=policy)["train"]["id"][:] == ["train-00001", "train-00002"]


def test_a_broken_picture_is_refused_with_file_and_line(raw: Path) -> None:
    path = raw / "img_org" / "train" / "b.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"^train\.txt:3 \(row 'train-00003'\): the picture .* cannot be decoded"):
        load(raw)


def test_other_names_and_other_sizes_than_the_published_are_warnings(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(raw, more_instance(h={"name": "FIFA", "pos": [5, 7]}))
    builder = MoreBuilder(raw, splits=["train"], cache_dir=raw.parent / "cache")
    assert builder.split_counts["train"]["other_names"] == 1
    assert "1 entity names are not the tokens at their position (train.txt:2: 'FIFA'" in caplog.text
    assert "train.txt is not the official train file of MORE: 2 instances (official: 15486). Figures" in caplog.text


def test_changed_boxes_labels_or_captions_are_not_served_from_the_cache(raw: Path) -> None:
    assert load(raw)["train"][2]["tail"]["bbox"] == [0, 0, 1, 1]
    torch.save(MORE_OBJECTS | {"b.jpg": {"[OBJ0]": (0.5, 0.5, 0.5, 0.5)}}, raw / "ent_train_dict.pth")
    assert load(raw)["train"][2]["tail"]["bbox"] == [0.25, 0.25, 0.75, 0.75]
    for caption in ("a crowd", "many people"):
        (raw / "caption_dict.json").write_text(json.dumps(CAPTIONS | {"b.jpg": {"[OBJ0]": caption}}))
        built = MoreBuilder(raw, captions=True, cache_dir=raw.parent / "cache").build()
        assert built["train"][2]["tail"]["name"] == caption


@pytest.mark.parametrize("captions", [False, True])
def test_the_command_line_writes_a_folder_that_loads(
    raw: Path, captions: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "caption_dict.json").write_text(json.dumps(CAPTIONS))
    out = raw.parent / "out"
    flags = ["--captions"] if captions else []
    assert main(MoreBuilder, ["--data_dir", str(raw), "--output_dir", str(out), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["builder"], result["splits"]["train"]["objects"]) == ("more", 3)
    marker = json.loads((out / "roc_dataset.json").read_text())
    assert marker["options"] == {"missing_images": "error", "entity_typer": None, "captions": captions}
    assert marker["command"].endswith("--missing_images error --captions" if captions else "--missing_images error")
    files = ["txt/train.txt", "rel2id.json", "ent_train_dict.pth", "txt/valid.txt", "ent_valid_dict.pth"]
    assert set(marker["source_files"]) == {*files, *(["caption_dict.json"] if captions else [])}
    assert "The head is always the entity in the text" in (out / "README.md").read_text()
    written, built = load(out), MoreBuilder(raw, captions=captions, cache_dir=raw.parent / "cache").build()
    for split in ("train", "val"):
        for mine, theirs in zip(written[split], built[split], strict=True):
            assert {**mine, "image": None} == {**theirs, "image": None}
            assert mine["image"].tobytes() == theirs["image"].tobytes()


def test_the_command_line_fails_with_one_line(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(raw, more_instance(relation="friend"))
    out = raw.parent / "out"
    assert main(MoreBuilder, ["--data_dir", str(raw), "--output_dir", str(out)]) == 1
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: train.txt:2: 'relation'")]
    assert not out.exists()


# --- relations and the model -------------------------------------------------------------------------------------


def test_the_shipped_descriptions_have_the_names_of_the_published_labels(raw: Path) -> None:
    inventory = read_relation_file("relations/more.yaml")
    assert inventory.names == read_labels(raw / "rel2id.json") == MORE_LABELS
    assert len(MORE_LABELS) == 21
    assert inventory.none_relation == "none"


def test_a_text_and_an_object_become_a_token_and_a_region_and_their_picture_moves_the_score(raw: Path) -> None:
    processor = tiny_processor()
    relations = read_relation_file("relations/more.yaml")
    model = tiny_model(processor, relations=relations.relations, none_relation=relations.none_relation)
    samples = GroupedSamples(load(raw)["train"])
    assert [len(sample.pairs) for sample in samples.samples] == [2, 1]
    ids, batch = SampleCollator(processor, relations.names)([samples[0], samples[1]])
    assert ids == ["train-00001", "train-00002", "train-00003"]
    assert batch["entity_is_region"].tolist() == [[False, True, True], [False, True, False]]
    assert batch["region_mask"].tolist() == [[True, True], [True, False]]
    assert batch["pair_index"].tolist() == [[[0, 1], [0, 2]], [[0, 1], [0, 0]]]
    assert batch["region_boxes"][0].flatten().tolist() == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.55, 0.2, 0.95, 0.6])
    with torch.no_grad():
        logits = model(**batch).logits
        batch["region_boxes"][0] = batch["region_boxes"][0].flip(0)
        exchanged = model(**batch).logits
    assert logits.shape == (2, 2, 21)
    assert torch.allclose(exchanged[0], logits[0].flip(0), atol=1e-5), "the box alone tells the two objects apart"
    assert not torch.allclose(logits[0, 0], logits[0, 1], atol=1e-3)


def test_an_object_of_unknown_type_excludes_no_relation(raw: Path) -> None:
    processor, relations = tiny_processor(), read_relation_file("relations/more.yaml")
    settings = {"relations": relations.relations, "none_relation": relations.none_relation}
    free, constrained = (
        tiny_model(processor, type_constraints=constraints, **settings) for constraints in ("off", "hard")
    )
    samples = GroupedSamples(load(raw)["train"])
    _, batch = SampleCollator(processor, relations.names)([samples[0]])
    with torch.no_grad():
        assert torch.equal(constrained(**batch).logits, free(**batch).logits)
