"""The Hub of the tests answers the real clients as the Hub does, and fails on purpose where it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from hub import LocalHub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tiny import scores, tiny_adapted_model, tiny_model, tiny_processor
from transformers import AutoModel

import roc.register  # noqa: F401
from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline

NAME = "user/roc"
WEIGHTS = bytes(range(256)) * 40

# Written as a user would: nothing in it knows that the Hub is another one.
PROGRAM = """
import json, sys
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import snapshot_download, whoami
from transformers import AutoModel, BertConfig, BertModel

size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
BertModel(BertConfig(**size)).push_to_hub("user/bert")
model = AutoModel.from_pretrained("user/bert", use_safetensors=True)
rows = {"text": ["ann kissed bob", "eve met tom"], "relation": ["couple", "None"]}
data = DatasetDict({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows).select([1])})
data.push_to_hub("user/posts", "v1", set_default=True, private=True)
data.push_to_hub("user/posts", "v2")
streamed = load_dataset("user/posts", "v2", split="test", streaming=True)
print(json.dumps({
    "name": whoami()["name"],
    "model": type(model).__name__,
    "rows": load_dataset("user/posts", split="train").to_list(),
    "streamed": list(streamed),
    "files": sorted(path.name for path in __import__("pathlib").Path(snapshot_download("user/bert")).iterdir()),
}))
"""


@pytest.fixture
def api(hub_api: HfApi) -> HfApi:
    """A client where the repository exists."""
    hub_api.create_repo(NAME)
    return hub_api


def upload(api: HfApi, *, message: str = "first", parent: str | None = None, **files: bytes) -> str:
    """One commit with files, `__` in their names for a dot; returns its name."""
    operations = [CommitOperationAdd(name.replace("__", "."), data) for name, data in files.items()]
    return api.create_commit(NAME, operations, commit_message=message, parent_commit=parent).oid


def test_transformers_and_datasets_upload_and_load_without_knowing_the_difference(
    local_hub: LocalHub, tmp_path: Path
) -> None:
    environment = local_hub.environment(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["name"] == "user"
    assert told["model"] == "BertModel"
    assert told["rows"] == [
        {"text": "ann kissed bob", "relation": "couple"},
        {"text": "eve met tom", "relation": "None"},
    ]
    assert told["streamed"] == told["rows"][1:]
    assert {"README.md", "config.json", "model.safetensors"} <= set(told["files"])
    assert local_hub.repository("user/posts", "dataset").private


def test_the_server_is_reached_from_this_machine_only(local_hub: LocalHub) -> None:
    assert local_hub.url.startswith("http://127.0.0.1:")


# ---------------------------------------------------------------------------------------------------------------------
# uploads


def test_a_folder_comes_back_as_it_was_uploaded(api: HfApi, local_hub: LocalHub, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "assets/a.png": b"\x89PNG", "empty.txt": b"", "model.safetensors": WEIGHTS}
    for path, data in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(data)
    api.upload_folder(repo_id=NAME, folder_path=tmp_path / "folder")
    assert local_hub.repository(NAME).files() == files
    assert sorted(api.list_repo_files(NAME)) == sorted([".gitattributes", *files])
    snapshot = Path(api.snapshot_download(NAME, cache_dir=tmp_path / "cache"))
    assert {path: (snapshot / path).read_bytes() for path in files} == files


def test_what_has_not_changed_is_neither_uploaded_nor_committed_again(api: HfApi, local_hub: LocalHub) -> None:
    first = upload(api, config__json=b"{}", model__safetensors=WEIGHTS)
    del local_hub.requests[:]
    assert upload(api, message="again", config__json=b"{}", model__safetensors=WEIGHTS) == first
    assert not [path for method, path in local_hub.requests if method == "PUT" or "/commit/" in path]


def test_files_and_folders_are_deleted_in_a_commit(api: HfApi, local_hub: LocalHub) -> None:
    for path in ("a.txt", "b.txt", "folder/c.txt", "folder/d/e.txt"):
        api.upload_file(path_or_fileobj=path.encode(), path_in_repo=path, repo_id=NAME)
    deletions = [CommitOperationDelete("a.txt"), CommitOperationDelete("folder/")]
    api.create_commit(NAME, deletions, commit_message="less")
    assert local_hub.repository(NAME).files() == {"b.txt": b"b.txt"}
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.create_commit(NAME, [CommitOperationDelete("a.txt")], commit_message="less still")


def test_a_commit_on_an_outdated_parent_is_refused(api: HfApi, local_hub: LocalHub) -> None:
    first = upload(api, a__txt=b"1")
    second = upload(api, a__txt=b"2", parent=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        upload(api, a__txt=b"3", parent=first)
    assert refused.value.response.status_code == 412
    assert local_hub.repository(NAME).branches["main"] == second


def test_a_commit_that_names_weights_which_did_not_arrive_changes_nothing(api: HfApi, local_hub: LocalHub) -> None:
    before = upload(api, a__txt=b"1")
    operation = CommitOperationAdd("model.safetensors", WEIGHTS)
    api.preupload_lfs_files(NAME, [operation], free_memory=False)
    local_hub.state.lfs_objects.clear()
    with pytest.raises(HfHubHTTPError, match="was not uploaded"):
        api.create_commit(NAME, [CommitOperationAdd("b.txt", b"2"), operation], commit_message="second")
    assert local_hub.repository(NAME).branches["main"] == before


def test_a_card_whose_metadata_do_not_end_is_refused(api: HfApi) -> None:
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        upload(api, README__md=b"---\nlicense: mit\n")


# ---------------------------------------------------------------------------------------------------------------------
# downloads


@pytest.mark.parametrize("path", ["regular.txt", "model.safetensors"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=10-19", WEIGHTS[10:20]), ("bytes=-7", WEIGHTS[-7:]), ("bytes=10000-", WEIGHTS[10000:])],
)
def test_a_range_of_a_file_is_that_part_of_it(api: HfApi, path: str, asked: str, expected: bytes) -> None:
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo=path, repo_id=NAME)
    url = huggingface_hub.hf_hub_url(NAME, path)
    response = huggingface_hub.get_session().get(url, headers={"Range": asked})
    assert (response.status_code, response.content) == (206, expected)
    beyond = huggingface_hub.get_session().get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    assert beyond.status_code == 416


def test_metadata_name_commit_content_and_size(api: HfApi) -> None:
    commit = upload(api, a__txt=b"hello\n", model__safetensors=WEIGHTS)
    small, large = (
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(NAME, path))
        for path in ("a.txt", "model.safetensors")
    )
    assert small.commit_hash == large.commit_hash == commit
    assert small.etag == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert (small.size, large.size) == (6, len(WEIGHTS))
    assert large.etag == api.get_paths_info(NAME, "model.safetensors")[0].lfs.sha256


def test_a_tree_is_listed_by_folder_or_whole(api: HfApi) -> None:
    for path in ("a.txt", "v1/train/0.txt", "v1/b.txt"):
        api.upload_file(path_or_fileobj=b"", path_in_repo=path, repo_id=NAME)
    assert {entry.path for entry in api.list_repo_tree(NAME)} == {".gitattributes", "a.txt", "v1"}
    assert {entry.path for entry in api.list_repo_tree(NAME, "v1")} == {"v1/train", "v1/b.txt"}
    whole = {".gitattributes", "a.txt", "v1", "v1/train", "v1/train/0.txt", "v1/b.txt"}
    assert {entry.path for entry in api.list_repo_tree(NAME, recursive=True)} == whole
    assert [entry.path for entry in api.get_paths_info(NAME, ["v1", "a.txt", "none"])] == ["v1", "a.txt"]


def test_tags_and_branches_keep_what_they_name(api: HfApi, tmp_path: Path) -> None:
    first = upload(api, a__txt=b"1")
    api.create_tag(NAME, tag="v1.0")
    api.create_branch(NAME, branch="feature/x", revision="v1.0")
    second = upload(api, a__txt=b"2", message="second")
    for revision, content in (("v1.0", "1"), ("feature/x", "1"), (first, "1"), ("main", "2"), (second, "2")):
        file = api.hf_hub_download(NAME, "a.txt", revision=revision, cache_dir=tmp_path)
        assert Path(file).read_text() == content
    refs = api.list_repo_refs(NAME)
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1.0", first)]
    assert {branch.name for branch in refs.branches} == {"main", "feature/x"}
    titles = [commit.title for commit in api.list_repo_commits(NAME)]
    assert titles == ["second", "first", "initial commit"]
    with pytest.raises(HfHubHTTPError, match="exists already"):
        api.create_tag(NAME, tag="v1.0")
    api.delete_tag(NAME, tag="v1.0")
    api.delete_branch(NAME, branch="feature/x")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(NAME, revision="v1.0")


# ---------------------------------------------------------------------------------------------------------------------
# errors


def test_what_is_missing_is_said_as_the_hub_says_it(api: HfApi, tmp_path: Path) -> None:
    upload(api, a__txt=b"1")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/other")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(NAME, "a.txt", revision="v9", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(NAME, "b.txt", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(NAME, "nowhere"))
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo(NAME)
    with pytest.raises(HfHubHTTPError, match="rights to create"):
        api.create_repo("somebody/roc")
    api.delete_repo(NAME)
    assert not api.repo_exists(NAME)


def test_strangers_see_neither_private_repositories_nor_may_they_write(api: HfApi) -> None:
    api.create_repo("user/secret", private=True)
    assert api.model_info("user/secret").private
    with pytest.raises(RepositoryNotFoundError, match="401"):
        api.model_info("user/secret", token=False)
    assert api.model_info(NAME, token=False).id == NAME
    with pytest.raises(HfHubHTTPError, match="401"):
        api.create_tag(NAME, tag="v1", token=False)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info(NAME, token="hf_wrong")


# ---------------------------------------------------------------------------------------------------------------------
# faults


def test_a_fault_hits_the_request_that_it_names_and_as_many_as_it_says(api: HfApi, local_hub: LocalHub) -> None:
    local_hub.fail("GET", r"/api/models/user/roc$", at=2, times=2, status=409)
    statuses = [huggingface_hub.get_session().get(f"{local_hub.url}/api/models/{NAME}").status_code for _ in range(4)]
    assert statuses == [200, 409, 409, 200]


def test_the_client_gets_over_a_connection_lost_in_the_middle_of_an_upload(api: HfApi, local_hub: LocalHub) -> None:
    lost = local_hub.fail("PUT", "/lfs/", drop=True)
    upload(api, model__safetensors=WEIGHTS)
    assert lost.seen == 2
    assert local_hub.repository(NAME).files()["model.safetensors"] == WEIGHTS


def test_the_client_gets_over_a_connection_lost_in_the_middle_of_a_download(
    api: HfApi, local_hub: LocalHub, tmp_path: Path
) -> None:
    upload(api, model__safetensors=WEIGHTS)
    lost = local_hub.fail("GET", "/resolve/", drop=True)
    file = api.hf_hub_download(NAME, "model.safetensors", cache_dir=tmp_path)
    assert lost.seen == 2
    assert Path(file).read_bytes() == WEIGHTS


def test_a_commit_may_happen_though_its_answer_is_an_error(api: HfApi, local_hub: LocalHub) -> None:
    local_hub.fail("POST", "/commit/", status=500, after=True)
    with pytest.raises(HfHubHTTPError, match="500"):
        upload(api, a__txt=b"1")
    assert local_hub.repository(NAME).files() == {"a.txt": b"1"}
    local_hub.fail("POST", "/commit/", drop=True, after=True)
    with pytest.raises(HTTPError):
        upload(api, a__txt=b"2")
    assert local_hub.repository(NAME).files() == {"a.txt": b"2"}


def test_a_slow_answer_comes_late(api: HfApi, local_hub: LocalHub) -> None:
    local_hub.fail("GET", "/api/models/", delay=0.3)
    with pytest.raises(HTTPError):
        api.model_info(NAME, timeout=0.1)
    assert api.model_info(NAME, timeout=5).id == NAME


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained", "pipeline"])
def test_a_model_with_an_adapter_comes_back_whole_from_the_hub(
    way: str, hub_api: HfApi, local_hub: LocalHub, tmp_path: Path
) -> None:
    processor = tiny_processor(vision=False)
    model = tiny_adapted_model(processor, vision=False)
    if way == "push_to_hub":
        model.push_to_hub("user/adapted")
    elif way == "save_pretrained":
        model.save_pretrained(tmp_path / "adapted", push_to_hub=True, repo_id="user/adapted")
    else:
        RocPipeline(model=model, processor=processor, device="cpu").push_to_hub("user/adapted")
        assert "processor_config.json" in local_hub.repository("user/adapted").files()
    for number, loader in enumerate((RocModel, AutoModel)):
        loaded = loader.from_pretrained("user/adapted", cache_dir=tmp_path / f"cache{number}")
        assert scores(loaded, processor) == pytest.approx(scores(model, processor), abs=1e-5)


def test_an_adapter_that_names_another_model_for_the_rest_of_a_whole_one_is_refused(
    hub_api: HfApi, tmp_path: Path
) -> None:
    processor = tiny_processor(vision=False)
    model = tiny_adapted_model(processor, vision=False)
    tiny_model(processor, vision=False, seed=4).push_to_hub("user/base")
    model.push_to_hub("user/adapted")
    file = hub_api.hf_hub_download("user/adapted", "adapter_config.json", cache_dir=tmp_path / "cache")
    config = json.loads(Path(file).read_text(encoding="utf-8")) | {"base_model_name_or_path": "user/base"}
    content = json.dumps(config).encode()
    hub_api.upload_file(path_or_fileobj=content, path_in_repo="adapter_config.json", repo_id="user/adapted")
    for number, loader in enumerate((RocModel, AutoModel)):
        with pytest.raises(ValueError, match="the rest of the model is in 'user/base'"):
            loader.from_pretrained("user/adapted", cache_dir=tmp_path / f"cache{number}")
