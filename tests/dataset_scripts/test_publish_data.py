"""Publishing datasets: what is refused, what goes to the Hub, and that the same rows come back from it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
from hub import LocalHub, Repository
from huggingface_hub import HfApi
from raw_sets import mnre_instance, write_instances, write_more, write_picture

from roc.dataset_scripts import upload as program
from roc.dataset_scripts.exporting import to_hub
from roc.dataset_scripts.exporting.marker import MARKER, read_marker, read_side_file
from roc.dataset_scripts.exporting.row_digests import digest_rows
from roc.dataset_scripts.exporting.to_hub import check_published, folder_of, publish_dataset
from roc.dataset_scripts.exporting.variants import DEFAULT, VARIANTS
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.mnre import MnreBuilder
from roc.dataset_scripts.more import MoreBuilder
from roc.dataset_scripts.scenes import build_scenes

REPO = "user/posts"
SPLITS = ("train", "val")
BASH = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)

# Written as a user would, with nothing of ours: decoded pictures, from a machine that has downloaded nothing yet.
STRANGER = """
import hashlib, json, sys
from datasets import get_dataset_config_names, load_dataset

def seen(row):
    image = row["image"]
    return {**row, "image": image and [image.size, hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()]}

repo, revision, card = sys.argv[1:]
exec(card)  # what the card tells to do
found = {}
for config in [None, *get_dataset_config_names(repo, revision=revision)]:
    for streaming in (False, True):
        loaded = load_dataset(repo, config, revision=revision, streaming=streaming)
        rows = {split: [seen(row) for row in part] for split, part in loaded.items()}
        found.setdefault(config or "", []).append(rows)
print(json.dumps(found))
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two splits of MNRE; a picture of train is missing."""
    folder = tmp_path / "raw"
    lines = [mnre_instance(), mnre_instance(img_id="b.jpg", relation="None"), mnre_instance(relation="a | b `c` <b>")]
    write_instances(folder / "mnre_txt" / "mnre_train.txt", lines)
    write_instances(folder / "mnre_txt" / "mnre_val.txt", [mnre_instance()])
    write_picture(folder / "img_org" / "train" / "a.jpg")
    write_picture(folder / "img_org" / "val" / "a.jpg", width=30)
    return folder


@pytest.fixture
def hub(local_hub: LocalHub, hub_api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """The Hub that this process and those that it starts talk to."""
    for name, value in local_hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    return local_hub


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out reading back, which takes a process."""
    monkeypatch.setattr(to_hub, "check_published", lambda *_, **__: None)


def make_options(dataset: str, data_dir: Path, **changes: Any) -> Namespace:
    """What is typed, with changes."""
    typed = ["--dataset", dataset, "--data_dir", str(data_dir), "--repo_id", REPO]
    return Namespace(**{**vars(program.make_parser().parse_args(typed)), **changes})


def options_of(raw: Path, *, dataset: str = "mnre", **changes: Any) -> Namespace:
    """What somebody types who may publish MNRE."""
    made = {"output_dir": str(raw.parent / "out"), "missing_images": "no_image", "i_have_the_rights": True}
    return make_options(dataset, raw, **(made | changes))


def write_jsonl(folder: Path) -> None:
    folder.mkdir()
    head, tail = {"start": 0, "end": 3}, {"start": 10, "end": 14}
    line = {"text": "Ann leads Acme", "head": head, "tail": tail, "relation": "leads"}
    (folder / "train.jsonl").write_text(json.dumps(line))


def repository(hub: LocalHub) -> Repository:
    return hub.repository(REPO, "dataset")


def seen(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it compares: its picture as size and pixels."""
    image = row["image"]
    pixels = image and [list(image.size), hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()]
    return {**row, "image": pixels}


def test_what_is_published_loads_with_the_rows_that_were_built_map_style_and_streaming(
    hub: LocalHub, raw: Path, tmp_path: Path
) -> None:
    result = publish_dataset(options_of(raw))
    assert result["configs"] == {
        "default": {"train": 3, "val": 1},
        "text": {"train": 3, "val": 1},
        "pictures": {"train": 2, "val": 1},
    }
    assert [commit.sha for commit in repository(hub).history()][:-1] == [result["revision"]]
    environment = hub.environment(tmp_path / "another machine")
    [snippet] = re.findall(r"```python\n(.*?)```", repository(hub).files()["README.md"].decode(), re.S)
    command = [sys.executable, "-c", STRANGER, REPO, result["revision"], snippet]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    built = MnreBuilder(raw, missing_images="no_image", cache_dir=tmp_path / "cache").build()
    rows = {split: [seen(row) for row in part] for split, part in built.items()}
    with_pictures = {split: [row for row in part if row["image"]] for split, part in rows.items()}
    without = {split: [{**row, "image": None} for row in part] for split, part in rows.items()}
    expected = {"": rows, "default": rows, "text": without, "pictures": with_pictures}
    assert found == {config: [own, own] for config, own in expected.items()}


@pytest.mark.parametrize("dataset", ["mnre", "more", "jsonl"])
@pytest.mark.parametrize("private", [None, True, False])
def test_data_without_a_licence_is_refused_before_anything_is_built_or_asked(
    hub: LocalHub, raw: Path, dataset: str, private: bool | None
) -> None:
    options = options_of(raw, dataset=dataset, private=private, i_have_the_rights=False)
    with pytest.raises(ValueError, match=f"No licence is known for {dataset}") as caught:
        publish_dataset(options)
    typed = "type --no-private --i_have_the_rights" if private is False else "type --i_have_the_rights"
    assert typed in str(caught.value)
    assert ("--license ID" in str(caught.value)) == (dataset == "jsonl")
    assert hub.requests == []
    assert not folder_of(options).exists()


@pytest.mark.parametrize(("private", "is_private"), [(None, True), (True, True), (False, False)])
@pytest.mark.usefixtures("unread")
def test_data_without_a_licence_is_private_unless_told_otherwise(
    hub: LocalHub, raw: Path, private: bool | None, is_private: bool
) -> None:
    assert publish_dataset(options_of(raw, private=private))["private"] == is_private
    assert repository(hub).private == is_private


@pytest.mark.parametrize("is_private", [True, False])
def test_a_repository_that_is_not_as_private_as_asked_is_left_alone(
    hub: LocalHub, hub_api: HfApi, raw: Path, is_private: bool
) -> None:
    hub_api.create_repo(REPO, repo_type="dataset", private=is_private)
    with pytest.raises(ValueError, match="but the dataset is to be") as caught:
        publish_dataset(options_of(raw, private=not is_private))
    assert ("type --private" in str(caught.value)) == is_private  # nobody is told to make it public
    assert len(repository(hub).history()) == 1
    assert not folder_of(options_of(raw)).exists()


def test_a_dry_run_builds_the_folder_and_asks_nothing_of_the_hub(
    hub: LocalHub, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "out"
    arguments = ["--dataset", "mnre", "--data_dir", str(raw), "--repo_id", REPO, "--output_dir", str(out)]
    assert program.main([*arguments, "--missing_images", "no_image", "--dry_run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert hub.requests == []
    assert (told["private"], "revision" in told) == (True, False)
    assert "type --i_have_the_rights" in told["refused"]
    assert set(told["files"]) == {
        "README.md",
        MARKER,
        *(f"{folder}/{split}-00000-of-00001.parquet" for folder in ("data", "text", "pictures") for split in SPLITS),
    }
    assert all(told["files"][name] == (out / name).stat().st_size for name in told["files"])
    # It is a folder like any other that was written.
    assert len(load_dataset_splits("mnre", out, cache_dir=raw.parent / "cache")["train"]) == 3
    local = datasets.load_dataset(str(out), "text", cache_dir=str(raw.parent / "cache"))
    assert local["train"]["image"][:] == [None] * 3


def test_wrong_usage_ends_with_one_line(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--dataset", "mnre", "--data_dir", str(raw), "--repo_id", REPO]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: No licence is known for mnre")


FAULTS = [
    (("POST", r"/commit/main"), {"status": 500, "times": None}, "The Hub has a problem of its own"),
    (("POST", r"/commit/main"), {"status": 412}, "Somebody else has changed it meanwhile"),
    (("PUT", r"^/lfs/"), {"drop": True, "times": None}, "The connection to the Hub failed"),
    (("PUT", r"^/lfs/"), {"status": 413, "times": None}, "does not take that much"),
    (("POST", r"/preupload/"), {"status": 401}, "does not accept the token"),
    (("GET", r"/whoami"), {"status": 403}, "may not write there"),
]


@pytest.mark.parametrize(("where", "what", "message"), FAULTS)
@pytest.mark.usefixtures("unread")
def test_a_failed_upload_leaves_the_repository_as_it_was_and_can_be_repeated(
    hub: LocalHub, raw: Path, where: tuple[str, str], what: dict[str, Any], message: str
) -> None:
    first = publish_dataset(options_of(raw, configs=[], splits=["train"]))["revision"]
    options = options_of(raw, configs=[], tag="v2")
    fault = hub.fail(*where, **what)
    with pytest.raises(OSError, match=message) as caught:
        publish_dataset(options)
    assert fault.seen
    assert "\n" not in str(caught.value)
    assert repository(hub).history()[0].sha == first
    assert repository(hub).tags == {"v1.0.0": first}
    hub.faults.clear()
    second = publish_dataset(options)["revision"]
    assert [commit.sha for commit in repository(hub).history()][:2] == [second, first]
    assert repository(hub).tags == {"v1.0.0": first, "v2": second}


@pytest.mark.usefixtures("unread")
def test_a_first_upload_that_fails_leaves_no_repository(hub: LocalHub, raw: Path) -> None:
    hub.fail("PUT", r"^/lfs/", status=500, times=None)
    with pytest.raises(OSError, match="can be repeated"):
        publish_dataset(options_of(raw, configs=[]))
    assert hub.state.repositories == {}


@pytest.mark.usefixtures("unread")
def test_an_upload_whose_answer_got_lost_is_found_done_when_it_is_repeated(hub: LocalHub, raw: Path) -> None:
    hub.fail("POST", r"/commit/main", status=500, after=True, times=None)
    with pytest.raises(OSError, match="The Hub has a problem"):
        publish_dataset(options_of(raw))
    assert repository(hub).tags == {}
    hub.faults.clear()
    landed = repository(hub).history()[0].sha
    assert publish_dataset(options_of(raw))["revision"] == landed
    assert repository(hub).tags == {"v1.0.0": landed}


def test_rows_that_came_back_wrong_are_not_tagged(hub: LocalHub, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_hub, "_read_in_new_process", lambda *_, **__: {"streaming": {"default": {}}})
    with pytest.raises(ValueError, match="other rows in its configuration 'default'"):
        publish_dataset(options_of(raw, configs=[]))
    assert repository(hub).tags == {}


@pytest.mark.usefixtures("unread")
def test_a_version_that_is_there_is_not_another_one(hub: LocalHub, raw: Path) -> None:
    first = publish_dataset(options_of(raw, configs=[]))["revision"]
    with pytest.raises(ValueError, match=r"has a version v1\.0\.0 already, which is not this one"):
        publish_dataset(options_of(raw, configs=[], splits=["val"]))
    assert repository(hub).history()[0].sha == first


@pytest.mark.usefixtures("unread")
def test_files_of_an_older_upload_go_in_the_same_commit(hub: LocalHub, raw: Path) -> None:
    first = publish_dataset(options_of(raw))["revision"]
    result = publish_dataset(options_of(raw, configs=[], splits=["val"], tag="v2"))
    assert set(repository(hub).files()) == {"README.md", MARKER, "data/val-00000-of-00001.parquet"}
    assert set(repository(hub).files()) == set(result["files"])
    assert repository(hub).history()[0].parent == first


def test_no_token_is_asked_for_clearly_and_none_is_ever_printed(
    hub: LocalHub, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "out"
    arguments = ["--dataset", "mnre", "--data_dir", str(raw), "--repo_id", REPO, "--output_dir", str(out)]
    arguments += ["--missing_images", "no_image", "--i_have_the_rights"]
    monkeypatch.setenv("HF_TOKEN", "hf_WrongSecret")
    assert program.main(arguments) == 1
    captured = capsys.readouterr()
    assert "user/posts was not published. The Hub does not accept the token" in captured.err
    assert "hf_WrongSecret" not in captured.out + captured.err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(raw.parent / "no token"))
    assert program.main(arguments) == 1
    assert "Type `hf auth login`" in capsys.readouterr().err
    assert not out.exists()


def test_other_rows_on_the_hub_are_noticed(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = MnreBuilder(raw, missing_images="no_image", cache_dir=raw.parent / "cache").build()
    right = {split: digest_rows(rows) for split, rows in built.items()}
    found = {"map-style": {"default": right}, "streaming": {"default": right}}
    monkeypatch.setattr(to_hub, "_read_in_new_process", lambda *_, **__: found)
    check_published(REPO, "0" * 40, {"default": built}, hub_cache=raw)
    found["streaming"] = {"default": right | {"train": digest_rows(built["train"].select([0, 1]))}}
    with pytest.raises(ValueError, match="other rows in its configuration 'default', read streaming"):
        check_published(REPO, "0" * 40, {"default": built}, hub_cache=raw)


def test_rows_that_cannot_be_read_back_are_an_error_that_names_the_revision(hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"{REPO} was uploaded as {'0' * 40}, but cannot be read back: .*{REPO}"):
        check_published(REPO, "0" * 40, {"default": {}}, hub_cache=tmp_path)


def test_reading_back_that_does_not_end_is_ended_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_hub, "READING_SECONDS", 0.01)
    with pytest.raises(OSError, match=r"cannot be read back: there was no answer within 0\.01 seconds"):
        check_published(REPO, "0" * 40, {"default": {}}, hub_cache=tmp_path)


def test_a_digest_sees_every_value_every_pixel_and_the_order(raw: Path) -> None:
    rows = MnreBuilder(raw, missing_images="no_image", cache_dir=raw.parent / "cache").build()["train"]
    other_picture = rows.map(lambda row: {"image": row["image"] and PIL.Image.new("RGB", (60, 40))})
    other_span = rows.map(lambda row: {"head": {**row["head"], "start": 0}})
    same = datasets.Dataset.from_list([*rows.cast_column("image", datasets.Image(decode=False))], rows.features)
    others = (other_picture, other_span, rows.select([1, 0, 2]), rows.select([0]))
    assert len({digest_rows(made) for made in (rows, *others)}) == 5
    assert digest_rows(same) == digest_rows(rows)


def card_of(options: Namespace) -> str:
    publish_dataset(options)
    return (folder_of(options) / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_the_rows_are_what_is_missing_whose_it_is_and_what_leaks(raw: Path) -> None:
    card = card_of(options_of(raw, dry_run=True))
    digest = hashlib.sha256((raw / "mnre_txt" / "mnre_train.txt").read_bytes()).hexdigest()
    shard = hashlib.sha256((raw.parent / "out" / "data" / "train-00000-of-00001.parquet").read_bytes()).hexdigest()
    for expected in (
        "license: unknown",
        "- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet",
        'load_dataset("user/posts", split="train")',
        "one past its last character",
        "x0, y0, x1, y1 as shares of the picture's width and height",
        "| `text` | pairs of entities of the text, without pictures: a small download | train | 3 | 0 |",
        "| train | 3 | 2 | 6 | 6 | 0 | 0 | 1 | 0 |",
        "| `/per/loc/place_of_residence` | 1 | 1 |",
        "| `` a \\| b `c` <b> `` | 1 | 0 |",
        "| train | 1 | 0 | 1 |",
        "**No licence is known for this data.**",
        "**MNRE states none.**",
        '"visual objects" (crops)',
        "python -m roc.dataset_scripts.upload --dataset mnre --data_dir raw --repo_id user/posts "
        "--missing_images no_image --i_have_the_rights",
        "builder: `mnre` 1.0.0",
        f"| `mnre_txt/mnre_train.txt` | `{digest}` |",
        f"| `data/train-00000-of-00001.parquet` | `{shard}` |",
    ):
        assert expected in card
    assert str(raw) not in card
    headings = re.findall(r"^## (.*)$", card, re.M)
    assert headings == [
        "Rows",
        "Configurations",
        "Counts",
        "Missing pictures",
        "Licence",
        "What gives the relation away",
        "How it was built",
    ]


def test_the_card_says_so_where_every_picture_is_there(raw: Path) -> None:
    write_picture(raw / "img_org" / "train" / "b.jpg")
    options = options_of(raw, missing_images="error", dry_run=True)
    assert "None: every row has its picture." in card_of(options)
    assert set(publish_dataset(options)["configs"]) == {"default", "text"}


def test_objects_with_their_captions_are_a_configuration_of_more(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_more(raw)
    captions = {image: {f"[OBJ{number}]": f"a sign {number}" for number in (0, 1)} for image in ("a.jpg", "b.jpg")}
    (raw / "caption_dict.json").write_text(json.dumps(captions))
    options = options_of(raw, dataset="more", configs=["captions"], missing_images="error", dry_run=True)
    assert publish_dataset(options)["configs"] == {
        "default": {"train": 3, "val": 1},
        "captions": {"train": 3, "val": 1},
    }
    loaded = {
        config: datasets.load_dataset(str(folder_of(options)), config, split="train", cache_dir=str(tmp_path / "cache"))
        for config in ("default", "captions")
    }
    assert [row["tail"]["name"] for row in loaded["default"]] == ["[OBJ0]", "[OBJ1]", "[OBJ0]"]
    assert [row["tail"]["name"] for row in loaded["captions"]] == ["a sign 0", "a sign 1", "a sign 0"]
    assert [seen(row)["image"] for row in loaded["default"]] == [seen(row)["image"] for row in loaded["captions"]]
    assert "caption_dict.json" in (read_marker(folder_of(options)) or {})["source_files"]
    # Its text alone has no pairs, and all of its rows have a picture with an object.
    assert set(publish_dataset(options_of(raw, dataset="more", dry_run=True))["configs"]) == {"default"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "scenes"
    build_scenes(folder, num_train=24, num_val=24, num_test=24)
    return folder


@pytest.mark.usefixtures("unread")
def test_a_generated_set_is_public_and_keeps_its_evidence_beside_its_rows(
    hub: LocalHub, scenes: Path, tmp_path: Path
) -> None:
    options = make_options("scenes", scenes, output_dir=str(tmp_path / "out"))
    result = publish_dataset(options)
    assert set(result["configs"]) == {"default", "text", "objects"}
    assert not repository(hub).private
    published = repository(hub).files()
    assert published["evidence.jsonl"] == (scenes / "evidence.jsonl").read_bytes()
    before, after = read_marker(scenes) or {}, json.loads(published[MARKER])
    assert (after["splits"], after["options"]) == (before["splits"], before["options"])
    card = published["README.md"].decode()
    assert "license: apache-2.0" in card
    assert f"{before['command']}\npython -m roc.dataset_scripts.upload --dataset scenes" in card
    # Evidence tells of all splits.
    publish_dataset(Namespace(**{**vars(options), "splits": ["train"], "configs": [], "tag": "v2"}))
    assert "evidence.jsonl" not in repository(hub).files()


def test_a_folder_of_an_earlier_version_is_to_be_written_again(scenes: Path, tmp_path: Path) -> None:
    marker = json.loads((scenes / MARKER).read_text())
    old = {key: value for key, value in marker.items() if key not in ("title", "license")}
    (scenes / MARKER).write_text(json.dumps(old))
    options = make_options("scenes", scenes, output_dir=str(tmp_path / "out"))
    try:
        with pytest.raises(ValueError, match=r"lacks \['title', 'license'\].*python -m roc\.dataset_scripts\.scenes"):
            publish_dataset(Namespace(**{**vars(options), "dry_run": True}))
    finally:
        (scenes / MARKER).write_text(json.dumps(marker))


def test_generated_data_that_was_not_written_says_how_to_write_it(tmp_path: Path) -> None:
    options = make_options("scenes", tmp_path, dry_run=True)
    with pytest.raises(FileNotFoundError, match=r"python -m roc\.dataset_scripts\.scenes --output_dir"):
        publish_dataset(options)


def test_a_split_without_rows_is_left_out_of_a_configuration_and_the_card_loads_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    write_jsonl(raw)
    write_picture(raw / "1.png")
    sign = {"bbox": [0, 0.25, 0.5, 1], "name": "a sign"}
    line = {"text": "Ann", "image": "1.png", "head": {"start": 0, "end": 3}, "tail": sign, "relation": "sees"}
    (raw / "val.jsonl").write_text(json.dumps(line))
    options = options_of(raw, dataset="jsonl", dry_run=True)
    assert publish_dataset(options)["configs"] == {
        "default": {"train": 1, "val": 1},
        "text": {"train": 1},
        "pictures": {"val": 1},
        "objects": {"val": 1},
    }
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    [snippet] = re.findall(r"```python\n(.*?)```", (folder_of(options) / "README.md").read_text(), re.S)
    told: dict[str, Any] = {}
    exec(snippet.replace(REPO, str(folder_of(options))), told)
    assert [row["tail"]["bbox"] for row in told["rows"]] == [sign["bbox"]]


@pytest.mark.usefixtures("unread")
def test_data_of_ones_own_goes_with_the_licence_that_is_stated(hub: LocalHub, tmp_path: Path) -> None:
    write_jsonl(raw := tmp_path / "raw")
    (tmp_path / "about.md").write_text("Sentences that I wrote.")
    options = make_options(
        "jsonl",
        raw,
        output_dir=str(tmp_path / "out"),
        license="cc-by-4.0",
        title="Who leads whom",
        description=str(tmp_path / "about.md"),
    )
    assert publish_dataset(options)["configs"] == {"default": {"train": 1}}
    assert not repository(hub).private
    card = repository(hub).files()["README.md"].decode()
    about = "# Who leads whom\n\nSentences that I wrote."
    for expected in ("license: cc-by-4.0", about, "`cc-by-4.0`.", "None: the raw data name no picture for the 1 rows"):
        assert expected in card
    assert "No licence is known" not in card


def test_a_description_that_is_not_there_is_noticed_before_the_build(tmp_path: Path) -> None:
    options = options_of(tmp_path / "raw", dataset="jsonl", description=str(tmp_path / "about.md"))
    with pytest.raises(FileNotFoundError, match=r"about\.md: there is no such file"):
        publish_dataset(options)


def test_names_of_side_files_are_checked(scenes: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no side file 'README\.md'"):
        read_side_file(scenes, "README.md")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo_id": "posts"}, "Give USER/NAME"),
        ({"tag": "main"}, "does not name a version"),
        ({"repo_id": "user/po sts"}, "Repo id"),
        ({"configs": ["picture"]}, "no configuration 'picture'.*Did you mean 'pictures'"),
        ({"configs": ["captions"]}, "mnre has no configuration 'captions'"),
        ({"configs": ["objects"]}, "'objects' would be empty or the same as all rows"),
        ({"license": "mit"}, "--license is for data of your own"),
        ({"title": "Mine"}, "--title is for data of your own"),
    ],
)
def test_options_that_do_not_fit_are_refused(raw: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        publish_dataset(options_of(raw, dry_run=True, **changes))


def test_captions_of_a_folder_that_is_built_already_are_refused(tmp_path: Path) -> None:
    write_more(tmp_path / "raw")
    first = options_of(tmp_path / "raw", dataset="more", dry_run=True)
    publish_dataset(first)
    again = options_of(folder_of(first), dataset="more", dry_run=True, configs=["captions"])
    with pytest.raises(ValueError, match="'captions' is built from raw files"):
        publish_dataset(Namespace(**{**vars(again), "output_dir": str(tmp_path / "again")}))


def test_neither_the_raw_files_nor_a_strange_folder_are_replaced(raw: Path) -> None:
    with pytest.raises(ValueError, match="which would be replaced"):
        publish_dataset(options_of(raw, dry_run=True, output_dir=str(raw.parent)))
    (raw.parent / "thesis").mkdir()
    (raw.parent / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a dataset folder"):
        publish_dataset(options_of(raw, dry_run=True, output_dir=str(raw.parent / "thesis")))


def test_a_build_that_fails_leaves_the_older_folder(raw: Path) -> None:
    options = options_of(raw, dry_run=True)
    publish_dataset(options)
    before = {path.name: path.read_bytes() for path in folder_of(options).rglob("*") if path.is_file()}
    (raw / "img_org" / "val" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be decoded"):
        publish_dataset(options)
    assert {path.name: path.read_bytes() for path in folder_of(options).rglob("*") if path.is_file()} == before
    assert [path.name for path in raw.parent.iterdir() if path.name.startswith(".")] == []


def test_the_folder_is_named_after_the_repository_where_none_is_named(raw: Path) -> None:
    assert folder_of(options_of(raw, output_dir=None)) == Path("outputs/publish/posts")


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command", [line for block in BASH.findall(PAGE[PAGE.index("# Publishing") :]) for line in block.splitlines()]
)
def test_what_the_page_tells_to_type_works(
    command: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes, tmp_path / "outputs" / "scenes")
    write_jsonl(tmp_path / "data")
    (tmp_path / "about.md").write_text("Sentences that I wrote.")
    python, _, module, *arguments = shlex.split(command)
    assert (python, module) == ("python", "roc.dataset_scripts.upload")
    assert program.main([*arguments, "--dry_run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["output_dir"], "README.md").is_file()
    assert told["output_dir"] == f"outputs/publish/{told['repo_id'].removeprefix('USER/')}"


def test_the_page_has_all_configurations() -> None:
    table = PAGE[PAGE.index("| configuration |") :]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.M)
    assert rows == [DEFAULT, *VARIANTS, *MoreBuilder.FLAGS]
