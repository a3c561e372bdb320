"""A folder to the Hub: one commit, verified, then a tag. What fails leaves nothing under the tag."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, XetDownloadError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils import validate_repo_id

from roc.support.locks import scratch_folder

Kind = Literal["model", "dataset"]

MARKER = ".made_by_publish"  # says that the folder may be replaced; not uploaded

HUB_TIMEOUT = 120.0  # seconds without a sign of life from the Hub; its client would wait for ever
CLIENT_ERRORS = (HTTPError, OSError, RuntimeError, XetDownloadError)
NOT_OURS = {".gitattributes", MARKER}  # the Hub's own, which says what is LFS; and what stays here
# Left out of its errors: a link to a dictionary of status codes, and the signature of an address that takes files.
NOISE = re.compile(r"For more information check: \S+|(?<=\w)\?[\w%-]+=[^\s']*")
WHAT_TO_DO = {
    401: "The Hub does not accept the token. Type `hf auth login`, or set HF_TOKEN to a token that may write.",
    403: "The token may not write there. Ask for access, or set HF_TOKEN to a token that may.",
    409: "Somebody else is changing it. See what is there now.",
    412: "Somebody else has changed it meanwhile. See what is there now.",
    413: "The Hub does not take that much. Free some of the account's storage; --dry_run shows the sizes.",
    429: "The Hub asks for a pause: too many requests.",
}


def hub_files(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Return what is uploaded from a folder: paths relative to it, with `/`, and sizes in bytes."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def check_names(repo_id: str, tag: str) -> None:
    """Raise a `ValueError` for names that the Hub would refuse later."""
    validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id={repo_id!r} has no user or organization. Give USER/NAME.")
    is_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag) and not tag.endswith((".", ".lock")) and ".." not in tag
    if not is_name or tag == "main" or re.fullmatch(r"[0-9a-f]{7,40}", tag):
        raise ValueError(f"tag={tag!r} does not name a version. Give letters, digits, dots and dashes, as in v0.1.0.")


def check_login(api: HfApi, what: str = "Your model") -> None:
    """Raise an `OSError` if there is no token, or the Hub does not accept it; `what` is then not published."""
    if get_token() is None:
        raise OSError(
            "Nobody is logged in to the Hub. Type `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    with explained(what):
        api.whoami()


def publish_folder(
    api: HfApi,
    folder: str | os.PathLike[str],
    *,
    repo_id: str,
    tag: str,
    private: bool = False,
    check: Callable[[str, Path], Any],
    kind: Kind = "model",
) -> str:
    """Upload a folder in one commit, after which the repository holds exactly its files, and tag it.

    If something fails, the tag is not set and a repository that was made for it is removed again: the same call may be
    repeated, and does what is left to do.

    Args:
        api: Client of the Hub.
        folder: A folder that `build_hub_folder` made, or `export_dataset` for a dataset.
        repo_id: USER/NAME. The repository is made if there is none.
        tag: Name of the version.
        private: Whether nobody else may see it.
        check: Called before the commit is tagged, with the commit and a cache into which it was downloaded; raises if
            what is there does not work.
        kind: What is in the repository.

    Returns:
        The commit.

    Raises:
        ValueError: If the tag exists and names something else, the repository is public though `private` is asked for,
            or what arrived is not what was sent.
        OSError: If the Hub refuses or fails; the message says what to do.
    """
    repository = HubRepository(api, repo_id, kind)
    with scratch_folder("check") as cache:
        with explained(f"{repo_id} {tag}"):
            get_session().timeout = HUB_TIMEOUT
            tagged = repository.same_version(folder, tag=tag, private=private)
            commit = tagged or repository.upload(folder, private=private, message=f"Publish {tag}")
            api.snapshot_download(repo_id, repo_type=kind, revision=commit, cache_dir=cache)
        check(commit, cache)
    if tagged is None:
        with explained(f"{repo_id} {tag}"):
            api.create_tag(repo_id, repo_type=kind, tag=tag, revision=commit)
    return commit


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what the Hub's client raises into an `OSError` that says what to do and that `what` was not published."""
    try:
        yield
    except CLIENT_ERRORS as error:
        again = "The same command can be repeated."
        raise OSError(f"{what} was not published. {hide_token(_explanation(error))} {again}") from error


def hide_token(text: str) -> str:
    """Return the text without the token, should the Hub or its client have put it there."""
    token = get_token()
    return text.replace(token, "<token>") if token else text


def _explanation(error: BaseException) -> str:
    """Say what to do, and what happened."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # the client wraps what happens to a file
    message = " ".join(NOISE.sub("", str(error)).split())
    response = getattr(error, "response", None)
    if response is None:
        what = "The connection to the Hub" if isinstance(error, (HTTPError, ConnectionError)) else "The upload"
        return f"{what} failed ({type(error).__name__}: {message})."
    otherwise = "The Hub has a problem of its own." if response.status_code >= 500 else "The Hub refused."
    return f"{WHAT_TO_DO.get(response.status_code, otherwise)} ({message})"


@dataclass(frozen=True)
class HubRepository:
    """A repository on the Hub, named USER/NAME, which may not be there yet."""

    api: HfApi
    name: str
    kind: Kind

    def look(self) -> ModelInfo | DatasetInfo | None:
        """Return what the Hub says about it; None if it is not there."""
        try:
            return self.api.repo_info(self.name, repo_type=self.kind, timeout=HUB_TIMEOUT)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:  # the token, and not the name
                raise
            return None

    def files(self, revision: str) -> set[str]:
        """Return the paths at a revision without the Hub's own."""
        return {*self.api.list_repo_files(self.name, repo_type=self.kind, revision=revision)} - NOT_OURS

    def differences(self, folder: str | os.PathLike[str], revision: str) -> list[str]:
        """Return the paths in which a revision differs from the folder, by content."""
        found = self.api.verify_repo_checksums(self.name, repo_type=self.kind, revision=revision, local_dir=folder)
        changed = {mismatch["path"] for mismatch in found.mismatches}
        return sorted(changed.union(found.missing_paths, found.extra_paths) - NOT_OURS)

    def same_version(self, folder: str | os.PathLike[str], *, tag: str, private: bool) -> str | None:
        """Return the commit of the tag, if the folder was published under it before; None if there is no such tag."""
        there = self.look()
        if there is None:
            return None
        if private and not there.private:
            raise ValueError(f"{self.name} is public. Make it private in its settings first, or leave out --private.")
        tags = self.api.list_repo_refs(self.name, repo_type=self.kind).tags
        tagged = next((own.target_commit for own in tags if own.name == tag), None)
        if tagged is not None and self.differences(folder, tagged):
            raise ValueError(
                f"{self.name} has a version {tag} already, which is not this one. Give another --tag, or delete that "
                f"one if nobody relies on it: `hf repos tag delete {self.name} {tag} --type {self.kind}`."
            )
        return tagged

    def upload(self, folder: str | os.PathLike[str], *, private: bool, message: str) -> str:
        """Commit the folder to the repository, which is made if it is not there yet; returns the commit."""
        with self._made(private=private) if self.look() is None else nullcontext():
            commit = self._commit(folder, message)
        if changed := self.differences(folder, commit):
            raise ValueError(
                f"{self.name} does not hold what was sent: see {changed}. Nothing was tagged; run it again."
            )
        return commit

    @contextmanager
    def _made(self, *, private: bool) -> Iterator[None]:
        """Make the repository, and remove it again if nothing comes into it."""
        self.api.create_repo(self.name, repo_type=self.kind, private=private)
        try:
            yield
        except BaseException:
            with suppress(*CLIENT_ERRORS):  # what has gone wrong before is what counts
                if not self.files("main"):
                    self.api.delete_repo(self.name, repo_type=self.kind)
            raise

    def _commit(self, folder: str | os.PathLike[str], message: str) -> str:
        """Commit at once, and not by `upload_folder`, which makes several commits and may stop after the first."""
        head = self.api.repo_info(self.name, repo_type=self.kind, timeout=HUB_TIMEOUT).sha
        files = hub_files(folder)
        operations: list[Any] = [CommitOperationAdd(path, str(Path(folder, path))) for path in files]
        operations += [CommitOperationDelete(path) for path in sorted(self.files(head) - files.keys())]
        done = self.api.create_commit(
            self.name, operations, repo_type=self.kind, commit_message=message, parent_commit=head
        )
        return done.oid
