"""What goes wrong on the way to the Hub: a clear message, nothing under the tag, and the same call works afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub import LocalHub
from huggingface_hub import CommitOperationAdd, HfApi

import roc.support.hub_upload
from roc.support.hub_upload import HubRepository, check_login, check_names, publish_folder

NAME, TAG = "user/roc", "v0.1.0"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# ROC\n",
    "config.json": b"{}",
    "assets/a.png": b"\x89PNG",
    "model.safetensors": bytes(range(256)) * 40,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is to be published."""
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def publish(api: HfApi, folder: Path, **changes: Any) -> str:
    return publish_folder(api, folder, **({"repo_id": NAME, "tag": TAG, "check": lambda *_: None} | changes))


def check_published(hub: LocalHub, commit: str) -> None:
    """The whole folder, and nothing else, is on `main` and under the tag."""
    repository = hub.repository(NAME)
    assert repository.tags[TAG] == commit
    assert repository.branches == {"main": commit}
    assert repository.files(TAG) == FILES


def add_older_version(api: HfApi) -> None:
    """What may be on the Hub before."""
    api.create_repo(NAME)
    old = [CommitOperationAdd("config.json", b'{"old": 1}'), CommitOperationAdd("pytorch_model.bin", b"old")]
    api.create_commit(NAME, old, commit_message="old")
    api.create_tag(NAME, tag="v0.0.1")


def state(hub: LocalHub) -> dict[str, Any] | None:
    """All that can be seen of the repository, or None."""
    repository = hub.state.repositories.get(("model", NAME))
    if repository is None:
        return None
    return {"branches": dict(repository.branches), "tags": dict(repository.tags), "files": repository.files()}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "500 before anything": ({"method": "POST", "path": "/preupload/", "status": 500}, "problem of its own.*500"),
    "500 in the middle": ({"method": "POST", "path": "/info/lfs/", "status": 500}, "problem of its own.*500"),
    "500 for the second file": ({"method": "PUT", "path": "/lfs/", "at": 2, "status": 500}, "problem of its own.*500"),
    "500 for the commit": ({"method": "POST", "path": "/commit/", "status": 500}, "problem of its own.*500"),
    "a lost connection": ({"method": "PUT", "path": "/lfs/", "drop": True}, "connection to the Hub failed"),
    "a lost connection at the commit": ({"method": "POST", "path": "/commit/", "drop": True}, "connection to the Hub"),
    "a full Hub": ({"method": "PUT", "path": "/lfs/", "status": 413}, "does not take that much.*storage.*413"),
    "a commit too large": ({"method": "POST", "path": "/commit/", "status": 413}, "does not take that much.*413"),
    "a token that has expired": ({"method": "POST", "path": "/commit/", "status": 401}, "hf auth login.*HF_TOKEN.*401"),
    "a token that may not write": ({"method": "POST", "path": "/preupload/", "status": 403}, "may not write.*HF_TOKEN"),
    "somebody else at work": ({"method": "POST", "path": "/commit/", "status": 409}, "Somebody else.*409"),
    # the proxy in front of it gives up later than we do, and nothing has been done by then
    "a slow Hub": (
        {"method": "POST", "path": "/commit/", "delay": 1.0, "status": 504},
        "connection to the Hub.*[Tt]ime",
    ),
}
INTO_A_NEW_ONE = ("500 in the middle", "a lost connection", "a full Hub", "a slow Hub")


@pytest.mark.parametrize(
    ("fault", "is_new"), [*((fault, False) for fault in FAULTS), *((fault, True) for fault in INTO_A_NEW_ONE)]
)
def test_a_failed_upload_leaves_the_remote_as_it_was_and_can_be_repeated(
    fault: str, is_new: bool, hub_api: HfApi, local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_new:
        add_older_version(hub_api)
    before = state(local_hub)
    what, message = FAULTS[fault]
    local_hub.fail(**({"times": None} | what))
    expected = rf"user/roc v0\.1\.0 was not published.*{message}.*can be repeated"
    with monkeypatch.context() as patch:
        patch.setattr(roc.support.hub_upload, "HUB_TIMEOUT", 0.5 if "slow" in fault else 60.0)
        with pytest.raises(OSError, match=expected):
            publish(hub_api, folder)
    assert state(local_hub) == before
    del local_hub.faults[:]
    check_published(local_hub, publish(hub_api, folder))


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "PUT", "path": "/lfs/", "status": 500, "times": 2},
        {"method": "PUT", "path": "/lfs/", "drop": True},
        {"method": "POST", "path": "/preupload/", "status": 503},
        {"method": "POST", "path": "/commit/", "delay": 0.2},
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
def test_what_passes_does_not_fail_the_upload(
    fault: dict[str, Any], hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    passing = local_hub.fail(**fault)
    check_published(local_hub, publish(hub_api, folder))
    assert passing.seen, "nothing went wrong"


@pytest.mark.parametrize("answer", [{"status": 500}, {"drop": True}])
def test_a_commit_whose_answer_is_lost_is_found_by_the_next_call(
    answer: dict[str, Any], hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    local_hub.fail("POST", "/commit/", after=True, **answer)
    with pytest.raises(OSError, match="was not published"):
        publish(hub_api, folder)
    repository = local_hub.repository(NAME)
    assert repository.tags == {}
    assert repository.files() == FILES, "half a commit"
    commit = repository.branches["main"]
    assert publish(hub_api, folder) == commit
    check_published(local_hub, commit)


@pytest.mark.parametrize("after", [False, True])
def test_a_tag_that_was_not_confirmed_is_set_or_found_by_the_next_call(
    after: bool, hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    local_hub.fail("POST", "/tag/", status=500, after=after)
    with pytest.raises(OSError, match="was not published"):
        publish(hub_api, folder)
    commit = local_hub.repository(NAME).branches["main"]
    assert local_hub.repository(NAME).tags == ({TAG: commit} if after else {})
    assert publish(hub_api, folder) == commit
    check_published(local_hub, commit)


def test_what_cannot_be_downloaded_again_is_not_tagged(hub_api: HfApi, local_hub: LocalHub, folder: Path) -> None:
    local_hub.fail("GET", "/resolve/.*safetensors", status=500, times=None)
    with pytest.raises(OSError, match="was not published"):
        publish(hub_api, folder)
    assert local_hub.repository(NAME).tags == {}
    del local_hub.faults[:]
    check_published(local_hub, publish(hub_api, folder))


def test_the_hub_cannot_lose_a_new_repository_that_somebody_has_filled_meanwhile(
    hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    local_hub.fail("POST", "/commit/", status=500, after=True)
    with pytest.raises(OSError, match="was not published"):
        publish(hub_api, folder)
    assert ("DELETE", "/api/repos/delete") not in local_hub.requests


# ---------------------------------------------------------------------------------------------------------------------
# where all goes well


def test_a_folder_is_one_commit_after_which_nothing_else_is_there(
    hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    add_older_version(hub_api)
    commit = publish(hub_api, folder)
    check_published(local_hub, commit)
    repository = local_hub.repository(NAME)
    assert [own.title for own in repository.history()] == ["Publish v0.1.0", "old", "initial commit"]
    assert repository.files("v0.0.1").keys() == {"config.json", "pytorch_model.bin"}
    assert ".gitattributes" in hub_api.list_repo_files(NAME)


def test_a_version_is_tagged_only_after_its_check(hub_api: HfApi, local_hub: LocalHub, folder: Path) -> None:
    def check(commit: str, cache: Path) -> None:
        snapshot = Path(hub_api.snapshot_download(NAME, revision=commit, cache_dir=cache, local_files_only=True))
        assert {path: (snapshot / path).read_bytes() for path in FILES} == FILES
        assert local_hub.repository(NAME).tags == {}
        raise ValueError("it does not load")

    with pytest.raises(ValueError, match="it does not load"):
        publish(hub_api, folder, check=check)
    assert local_hub.repository(NAME).tags == {}
    check_published(local_hub, publish(hub_api, folder))


def test_what_arrived_otherwise_than_it_was_sent_is_not_tagged(
    hub_api: HfApi, local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_commit = HfApi.create_commit

    def lose_the_config(self: HfApi, name: str, operations: list[Any], **options: Any) -> Any:
        kept = [operation for operation in operations if operation.path_in_repo != "config.json"]
        return create_commit(self, name, kept, **options)

    monkeypatch.setattr(HfApi, "create_commit", lose_the_config)
    with pytest.raises(ValueError, match=r"does not hold what was sent: see \['config.json'\]"):
        publish(hub_api, folder)
    assert local_hub.repository(NAME).tags == {}


def test_a_tag_that_names_something_else_is_refused_before_anything_is_uploaded(
    hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    publish(hub_api, folder)
    before = state(local_hub)
    (folder / "config.json").write_bytes(b'{"new": 1}')
    del local_hub.requests[:]
    with pytest.raises(
        ValueError, match=r"has a version v0.1.0 already.*another --tag.*hf repos tag delete user/roc v0"
    ):
        publish(hub_api, folder)
    assert {method for method, _ in local_hub.requests} == {"GET"}, "something was uploaded"
    assert state(local_hub) == before
    publish(hub_api, folder, tag="v0.2.0")
    assert local_hub.repository(NAME).files("v0.2.0")["config.json"] == b'{"new": 1}'
    assert local_hub.repository(NAME).files(TAG) == FILES


def test_the_same_version_published_again_changes_nothing(hub_api: HfApi, local_hub: LocalHub, folder: Path) -> None:
    commit = publish(hub_api, folder)
    assert publish(hub_api, folder) == commit
    check_published(local_hub, commit)


def test_an_old_version_published_again_does_not_replace_a_newer_one(
    hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    old = publish(hub_api, folder)
    (folder / "config.json").write_bytes(b'{"new": 1}')
    new = publish(hub_api, folder, tag="v0.2.0")
    (folder / "config.json").write_bytes(FILES["config.json"])
    assert publish(hub_api, folder) == old
    assert local_hub.repository(NAME).branches["main"] == new


def test_private_means_that_strangers_see_nothing(hub_api: HfApi, local_hub: LocalHub, folder: Path) -> None:
    publish(hub_api, folder, private=True)
    assert local_hub.repository(NAME).private


def test_a_private_version_does_not_go_into_a_public_repository(
    hub_api: HfApi, local_hub: LocalHub, folder: Path
) -> None:
    hub_api.create_repo(NAME)
    before = state(local_hub)
    with pytest.raises(ValueError, match=r"user/roc is public.*--private"):
        publish(hub_api, folder, private=True)
    assert state(local_hub) == before


def test_a_commit_of_somebody_else_in_the_middle_is_not_overwritten(
    hub_api: HfApi, local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_api.create_repo(NAME)
    preupload = HfApi.preupload_lfs_files

    def interfere(self: HfApi, *arguments: Any, **options: Any) -> None:
        preupload(self, *arguments, **options)
        monkeypatch.setattr(HfApi, "preupload_lfs_files", preupload)
        self.upload_file(path_or_fileobj=b"mine", path_in_repo="theirs.txt", repo_id=NAME)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", interfere)
    with pytest.raises(OSError, match=r"Somebody else has changed it meanwhile.*412"):
        publish(hub_api, folder)
    assert local_hub.repository(NAME).files() == {"theirs.txt": b"mine"}


def test_differences_are_by_content(hub_api: HfApi, local_hub: LocalHub, folder: Path) -> None:
    commit = publish(hub_api, folder)
    repository = HubRepository(hub_api, NAME, "model")
    assert repository.differences(folder, commit) == []
    (folder / "config.json").write_bytes(b"[]")  # as long as it was
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"][::-1])
    (folder / "new.txt").write_bytes(b"")
    (folder / "README.md").unlink()
    expected = ["README.md", "config.json", "model.safetensors", "new.txt"]
    assert repository.differences(folder, commit) == expected


# ---------------------------------------------------------------------------------------------------------------------
# names and tokens


@pytest.mark.parametrize("name", ["roc", "a/b/c", "user/", "user/ro c", "../roc"])
def test_a_name_that_the_hub_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"USER/NAME|[Rr]epo id"):
        check_names(name, TAG)


@pytest.mark.parametrize("tag", ["", "main", "v 1", "v1..2", "-v1", "v1.lock", "a/b", "0123abc", "v1."])
def test_a_tag_that_names_no_version_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="does not name a version"):
        check_names(NAME, tag)
    check_names(NAME, TAG)


def test_nobody_publishes_without_a_login(
    hub_api: HfApi, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_login(hub_api)
    monkeypatch.setenv("HF_TOKEN", "hf_AnotherSecret")
    with pytest.raises(OSError, match=r"does not accept the token.*hf auth login") as refused:
        check_login(hub_api)
    assert "hf_AnotherSecret" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(OSError, match=r"Nobody is logged in.*hf auth login"):
        check_login(hub_api)


def test_an_error_has_no_signature_in_it(hub_api: HfApi, local_hub: LocalHub, folder: Path) -> None:
    local_hub.fail("PUT", "/lfs/", status=413, times=None)
    with pytest.raises(OSError, match=r"for url 'http://\S+/lfs/[0-9a-f]{64}'") as refused:
        publish(hub_api, folder)
    assert "secret" in str(refused.value.__cause__.__cause__), "there was no signature"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 413}, {"drop": True, "after": True}])
def test_an_error_has_no_token_in_it_even_if_the_hub_says_it(
    fault: dict[str, Any], hub_api: HfApi, local_hub: LocalHub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = local_hub.state.token
    local_hub.fail("POST", "/commit/", message=f"the token {token} is not liked", **fault)
    with caplog.at_level("INFO"), pytest.raises(OSError, match="was not published") as refused:
        publish(hub_api, folder)
    assert token not in str(refused.value)
    assert token not in caplog.text
    assert ("the token <token> is not liked" in str(refused.value)) == ("status" in fault)
