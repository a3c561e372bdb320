"""MNRE from its raw files: tiny sets written here in the published layouts, and the real text where it is present."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from raw_sets import MNRE_TOKENS, mnre_instance, write_instances, write_picture

from roc import processing_typing_roc
from roc.dataset_scripts import mnre
from roc.dataset_scripts.building import builder as base
from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.mnre import MnreBuilder, find_text_file, read_instances, to_row
from roc.processing_typing_roc import SPACY_MODEL, spacy_package
from roc.support.resources import PACKAGE_ROOT


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two splits in the layout of the zjunlp package; the second picture of train is missing."""
    folder = tmp_path / "raw"
    write_instances(
        folder / "txt" / "ours_train.txt", [mnre_instance(), mnre_instance(img_id="b.jpg", relation="None")]
    )
    write_instances(folder / "txt" / "ours_val.txt", [mnre_instance()])
    write_picture(folder / "img_org" / "train" / "a.jpg")
    write_picture(folder / "img_org" / "val" / "a.jpg", width=30)
    return folder


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("mnre", raw, cache_dir=raw.parent / "cache", **options)


class NameTyper:
    """Says `person` for each span that starts with B, and remembers what it was asked."""

    def __init__(self, name: str = "names", word: str = "person") -> None:
        self.name, self.word, self.asked = name, word, []

    def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[str | None]]:
        self.asked += list(zip(texts, spans))
        return [
            [self.word if text[start] == "B" and end - start > 6 else None for start, end in row]
            for text, row in zip(texts, spans)
        ]


def test_token_positions_become_character_spans(raw: Path) -> None:
    row = load(raw, splits=["val"])["val"][0]
    assert row["id"] == "val-00001"
    assert row["text"] == "RT @zoë : Bill Cosby in Bremen"
    assert row["head"] == {"name": "Bremen", "start": 24, "end": 30, "type": None, "bbox": None}
    assert row["tail"] == {"name": "Bill Cosby", "start": 10, "end": 20, "type": None, "bbox": None}
    assert row["relation"] == "/per/loc/place_of_residence"
    assert row["image"].size == (30, 40)


def test_the_picture_of_the_own_split_is_taken_where_two_splits_share_a_name(raw: Path) -> None:
    loaded = load(raw, missing_images="skip")
    assert (loaded["train"][0]["image"].width, loaded["val"][0]["image"].width) == (60, 30)


@pytest.mark.parametrize(
    "name", ["mnre_txt/mnre_val .txt", "mnre_txt/mnre_val.txt", "txt/ours_val.txt", "ours_val.txt", "val.txt"]
)
@pytest.mark.parametrize(
    "pictures",
    ["img_org/val", "mnre_image/img_org/val", "mnre_image/val", "images/val", "sample_images/val", "img_org"],
)
def test_every_published_layout_is_found_and_one_split_is_enough(tmp_path: Path, name: str, pictures: str) -> None:
    write_instances(tmp_path / "raw" / name, [mnre_instance()])
    write_picture(tmp_path / "raw" / pictures / "a.jpg")
    builder = MnreBuilder(tmp_path / "raw", cache_dir=tmp_path / "cache")
    assert list(builder.split_files) == ["val"]
    assert builder.split_counts["val"]["missing_images"] == 0


def test_only_the_splits_that_are_asked_for_are_opened(raw: Path) -> None:
    (raw / "txt" / "ours_test.txt").write_text("not a literal\n")
    assert list(load(raw, splits=["val"])) == ["val"]
    with pytest.raises(ValueError, match=r"ours_test\.txt:1"):
        load(raw, splits=["test"])


def test_a_split_that_is_not_there_names_those_that_are(raw: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no split 'test'; it has \['train', 'val'\]"):
        load(raw, splits=["val", "test"])


def test_a_folder_without_any_split_or_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No split found"):
        MnreBuilder(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        MnreBuilder(tmp_path / "nowhere")


def test_two_files_for_one_split_must_be_the_same(raw: Path) -> None:
    write_instances(raw / "val.txt", [mnre_instance()])
    assert find_text_file(raw, "val") == raw / "val.txt"
    write_instances(raw / "val.txt", [mnre_instance(), mnre_instance()])
    with pytest.raises(ValueError, match="Several files that differ"):
        find_text_file(raw, "val")


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("__import__('os').getcwd()", ValueError, "not a Python literal"),
        ("{'token': ", ValueError, "not a Python literal"),
        ("[" * 10_000, ValueError, "not a Python literal"),
        ("['a']", ValueError, "must be a dict with the keys"),
        (repr({"token": ["a"]}), ValueError, "must be a dict with the keys"),
        (repr(mnre_instance(token=[])), ValueError, "'token' must be a list"),
        (repr(mnre_instance(token=["a", ""])), ValueError, "'token' must be a list"),
        (
            repr(mnre_instance(h={"name": "x", "pos": [6, 8]})),
            ValueError,
            r"'h': the span \(6, 8\) lies outside .* <= 7, the number of tokens",
        ),
        (repr(mnre_instance(t={"name": "x", "pos": [2, 2]})), ValueError, r"'t': the span \(2, 2\) is empty"),
        (repr(mnre_instance(t={"name": "x", "pos": [2]})), ValueError, "'pos' must be"),
        (repr(mnre_instance(t={"name": "x", "pos": ["2", 3]})), TypeError, "start and end must be integers"),
        (repr(mnre_instance(h={"pos": [0, 1]})), ValueError, "'h' must be a dict with the keys 'name' and 'pos'"),
        (repr(mnre_instance(relation="")), ValueError, "'relation' must be a string that is not empty"),
        (repr(mnre_instance(img_id="../a.jpg")), ValueError, "plain file name"),
        (repr(mnre_instance(img_id="")), ValueError, "plain file name"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line(
    tmp_path: Path, line: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "train.txt"
    path.write_text(f"{mnre_instance()!r}\n{line}\n", encoding="utf-8")
    with pytest.raises(error, match=message) as caught:
        list(read_instances(path))
    assert str(caught.value).startswith("train.txt:2")


def test_types_come_from_the_typer_and_never_from_the_label(raw: Path) -> None:
    typer = NameTyper()
    loaded = load(raw, entity_typer=typer, missing_images="no_image")
    assert [row["tail"]["type"] for row in loaded["train"]] == ["person", "person"]
    assert [row["head"]["type"] for row in loaded["train"]] == [None, None]
    # One text in two rows is tagged once, per split.
    assert typer.asked == [("RT @zoë : Bill Cosby in Bremen", [(24, 30), (10, 20)])] * 2


def test_typing_in_small_batches_gives_the_same(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = [mnre_instance(token=[*MNRE_TOKENS, str(index)]) for index in range(5)]
    write_instances(raw / "txt" / "ours_val.txt", instances)
    whole = load(raw, splits=["val"], entity_typer=NameTyper("whole"))["val"]["tail"][:]
    monkeypatch.setattr(base, "TEXTS_PER_TYPING_BATCH", 2)
    assert load(raw, splits=["val"], entity_typer=NameTyper("parts"))["val"]["tail"][:] == whole
    assert [entity["type"] for entity in whole] == ["person"] * 5


def test_a_missing_picture_stops_and_says_what_to_do(raw: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(raw)
    message = str(caught.value)
    assert message.startswith("ours_train.txt:2: the picture 'b.jpg' of row 'train-00002' is not there; tried ")
    assert str(raw / "img_org" / "train" / "b.jpg") in message
    assert "1 of 2 rows of split 'train' lack their picture" in message
    assert "--missing_images no_image" in message


def test_a_missing_picture_can_be_skipped_or_kept_without_and_is_counted(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skipped = load(raw, missing_images="skip")
    assert skipped["train"]["id"][:] == ["train-00001"]
    assert "missing_images='skip' drops 1 of them and keeps 0" in caplog.text
    kept = load(raw, missing_images="no_image")
    assert kept["train"]["id"][:] == ["train-00001", "train-00002"]
    assert [row["image"] is None for row in kept["train"]] == [False, True]
    builder = MnreBuilder(raw, missing_images="skip", cache_dir=raw.parent / "cache")
    assert builder.split_counts["train"] == {"other_names": 0, "missing_images": 1, "dropped_rows": 1}


def test_a_split_of_which_no_row_is_left_is_refused(raw: Path) -> None:
    (raw / "img_org" / "val" / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"'val' of .* has no row with a picture"):
        load(raw, splits=["val"], missing_images="skip")
    (raw / "txt" / "ours_val.txt").write_text("")
    with pytest.raises(ValueError, match=r"'val' of .* has no row"):
        load(raw, splits=["val"])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
@pytest.mark.parametrize("policy", ["error", "skip", "no_image"])
def test_a_truncated_or_broken_picture_is_an_error_under_every_policy(raw: Path, suffix: str, policy: str) -> None:
    path = raw / "img_org" / "val" / f"c.{suffix}"
    write_instances(raw / "txt" / "ours_val.txt", [mnre_instance(), mnre_instance(img_id=path.name)])
    write_picture(path)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"<html>404</html>", b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"ours_val\.txt:2 \(row 'val-00002'\): the picture .*c\.{suffix}"):
            load(raw, splits=["val"], missing_images=policy)
    path.write_bytes(whole)
    assert len(load(raw, splits=["val"], missing_images=policy)["val"]) == 2


def test_names_that_differ_from_the_tokens_are_counted_and_the_span_wins(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_instances(raw / "txt" / "ours_val.txt", [mnre_instance(h={"name": "bremen", "pos": [6, 7]})])
    builder = MnreBuilder(raw, splits=["val"], cache_dir=raw.parent / "cache")
    assert builder.split_counts["val"]["other_names"] == 1
    assert "1 entity names are not the tokens at their position (ours_val.txt:1: 'bremen'" in caplog.text
    assert builder.build()["val"][0]["head"]["name"] == "Bremen"


def test_another_file_than_the_official_one_is_a_warning(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(raw, splits=["val"])
    assert "is not the official val file of MNRE version 2: 1 instances (official: 1624), other sha256" in caplog.text


def test_leaky_crops_are_ignored_with_a_warning(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    (raw / "txt" / "mre_train_dict.pth").write_bytes(b"")
    (raw / "img_vg").mkdir()
    load(raw, splits=["val"])
    assert "Ignoring txt/mre_train_dict.pth, img_vg" in caplog.text


def test_a_changed_line_is_not_served_from_the_cache(raw: Path) -> None:
    assert load(raw, splits=["val"])["val"]["relation"][:] == ["/per/loc/place_of_residence"]
    write_instances(raw / "txt" / "ours_val.txt", [mnre_instance(relation="None"), mnre_instance()])
    assert load(raw, splits=["val"])["val"]["relation"][:] == ["None", "/per/loc/place_of_residence"]


def test_a_changed_or_new_picture_is_not_served_from_the_cache(raw: Path) -> None:
    assert load(raw, missing_images="no_image")["train"][1]["image"] is None
    write_picture(raw / "img_org" / "train" / "b.jpg")
    loaded = load(raw, missing_images="no_image")
    assert loaded["train"][1]["image"].width == 60
    (raw / "img_org" / "train" / "b.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be decoded"):
        load(raw, missing_images="no_image")


def test_changed_options_are_not_served_from_the_cache(raw: Path) -> None:
    assert len(load(raw, missing_images="no_image")["train"]) == 2
    assert len(load(raw, missing_images="skip")["train"]) == 1
    for typer, expected in ((None, None), (NameTyper("a"), "person"), (NameTyper("b", "group"), "group")):
        assert load(raw, splits=["val"], entity_typer=typer)["val"][0]["tail"]["type"] == expected


def test_changed_builder_code_is_not_served_from_the_cache(
    raw: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fingerprint() -> str:
        return MnreBuilder(raw, splits=["val"]).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    code = tmp_path / "code.py"
    code.write_text("changed")
    monkeypatch.setattr(MnreBuilder, "_code_files", lambda _: [code])
    assert fingerprint() != before


def test_unchanged_files_are_served_from_the_cache(raw: Path) -> None:
    typer = NameTyper()
    for _ in range(2):
        load(raw, splits=["val"], entity_typer=typer)
    assert len(typer.asked) == 1


def test_a_retrained_typer_in_the_same_folder_builds_anew(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "typer"
    folder.mkdir()
    names = []
    for size in (1, 2):
        (folder / "model.safetensors").write_bytes(b"0" * size)
        names.append(MnreBuilder(raw, splits=["val"], entity_typer=NameTyper(str(folder))).fingerprint())
    assert names[0] != names[1]


@pytest.mark.parametrize("spelling", ["spacy", f"spacy:{SPACY_MODEL}", NameTyper(f"spacy:{SPACY_MODEL}")])
def test_a_changed_tagger_is_not_served_from_the_cache(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: Any
) -> None:
    package = tmp_path / "site" / SPACY_MODEL
    (package / "model").mkdir(parents=True)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, SPACY_MODEL, raising=False)  # the real one, where another test has loaded it

    def fingerprint(weights: bytes) -> str:
        for path, content in ((package / "__init__.py", b""), (package / "model" / "weights", weights)):
            path.write_bytes(content)
            os.utime(path, (0, 0))  # as installers of reproducible packages set it
        return MnreBuilder(raw, splits=["val"], entity_typer=spelling).fingerprint()

    before = fingerprint(b"old")
    assert fingerprint(b"new") != before
    assert fingerprint(b"old") == before
    assert MnreBuilder(raw, splits=["val"]).fingerprint() != before


def test_the_typer_that_is_loaded_is_the_one_whose_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(processing_typing_roc, "SpacyEntityTyper", asked.append)
    monkeypatch.setattr(processing_typing_roc, "TokenClassificationEntityTyper", asked.append)
    for name in ("spacy", "spacy:", "spacy:some_package", "user/model"):
        processing_typing_roc.load_entity_typer.__wrapped__(name)
        assert asked.pop() == (spacy_package(name) or name)


def test_all_code_that_decides_rows_is_in_the_fingerprint(raw: Path) -> None:
    code = {path.relative_to(PACKAGE_ROOT).as_posix() for path in MnreBuilder(raw, splits=["val"])._code_files()}
    builders = {path.relative_to(PACKAGE_ROOT).as_posix() for path in Path(mnre.__file__).parent.rglob("*.py")}
    assert "dataset_scripts/building/instance_files.py" in builders
    assert builders | {"processing_typing_roc.py", "processing_images_roc.py"} <= code


def test_an_unknown_policy_is_refused_with_a_hint(raw: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'no_image'"):
        MnreBuilder(raw, missing_images="no_images")


def test_the_command_line_writes_a_folder_that_loads(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    arguments = ["--data_dir", str(raw), "--output_dir", str(out)]
    assert main(MnreBuilder, [*arguments, "--missing_images", "no_image"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["builder"], result["output_dir"]) == ("mnre", str(out))
    assert result["splits"]["train"]["rows"] == 2
    assert result["splits"]["train"]["missing_images"] == 1
    marker = json.loads((out / "roc_dataset.json").read_text())
    assert marker["options"] == {"missing_images": "no_image", "entity_typer": None}
    assert list(marker["source_files"]) == ["txt/ours_train.txt", "txt/ours_val.txt"]
    assert "MNRE states none" in (out / "README.md").read_text()
    assert str(raw) not in (out / "README.md").read_text() + (out / "roc_dataset.json").read_text()
    written, built = load(out), load(raw, missing_images="no_image")
    for split in ("train", "val"):
        for mine, theirs in zip(written[split], built[split], strict=True):
            assert {**mine, "image": None} == {**theirs, "image": None}
            assert (mine["image"] is None) == (theirs["image"] is None)
            assert mine["image"] is None or mine["image"].tobytes() == theirs["image"].tobytes()


def test_the_command_line_fails_with_one_line_and_leaves_no_folder(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "out"
    assert main(MnreBuilder, ["--data_dir", str(raw), "--output_dir", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line for line in captured.err.splitlines() if line.startswith("error: ours_train.txt:2")]
    assert not out.exists()
    with pytest.raises(SystemExit) as caught:
        main(MnreBuilder, ["--data_dir", str(raw)])
    assert caught.value.code == 2


def test_the_raw_folder_is_never_replaced(raw: Path) -> None:
    builder = MnreBuilder(raw, splits=["val"], cache_dir=raw.parent / "cache")
    for folder in (raw, raw.parent):
        with pytest.raises(ValueError, match="would be replaced"):
            builder.export(folder)
    (raw.parent / "other").mkdir()
    (raw.parent / "other" / "file").write_text("")
    with pytest.raises(FileExistsError, match="not a dataset folder"):
        builder.export(raw.parent / "other")


def test_the_real_text_has_its_published_counts_and_pictures(
    roc_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_dataset_splits("mnre", roc_data / "mnre", missing_images="no_image", cache_dir=tmp_path)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 12247, "val": 1624}
    assert "is not the official" not in caplog.text
    pictures = {
        split: {os.path.basename(image["path"]) for image in images if image}  # noqa: PTH119
        for split, rows in loaded.items()
        for images in [rows.cast_column("image", datasets.Image(decode=False))["image"]]
    }
    assert {split: len(names) for split, names in pictures.items()} == {"train": 5, "val": 2}
    assert sum(row is not None for rows in loaded.values() for row in rows["image"]) == 12
    assert len(set(loaded["train"]["relation"])) == 23


def test_every_real_span_is_its_stated_name(roc_data: Path) -> None:
    for split in ("train", "val"):
        path = find_text_file(roc_data / "mnre", split)
        assert path is not None
        for number, where, made in read_instances(path):
            row = to_row(made, str(number))
            assert (row["head"]["name"], row["tail"]["name"]) == (made["h"]["name"], made["t"]["name"]), where


def test_the_file_name_of_the_module_is_not_taken_for_a_dataset_script() -> None:
    # `datasets` refuses to load a folder that holds a script of the folder's own name.
    assert not (Path(mnre.__file__).parent / "dataset_scripts.py").exists()
    assert logging.getLogger("roc.dataset_scripts") is base.logger
