"""What each address of the Hub does, as `huggingface_hub` calls it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from hub.storage import Kind, Repository, StoredFile, is_stored_as_lfs

KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
JSON = {"Content-Type": "application/json"}
DATE = "2026-01-01T00:00:00.000Z"  # of everything: nothing here is read from a clock


@dataclass
class State:
    """All that the Hub knows. One user may write, with one token."""

    user: str
    token: str
    repositories: dict[tuple[Kind, str], Repository] = field(default_factory=dict)
    lfs_objects: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request, read whole."""

    method: str
    path: str  # as it was sent, quoted
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def base_url(self) -> str:
        return f"http://{self.headers['Host']}"

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def is_set(self, flag: str) -> bool:
        return self.query.get(flag, ["false"])[0].lower() in ("1", "true")


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class HubError(Exception):
    """An answer that the clients turn into an exception: by `X-Error-Code` where there is one."""

    def __init__(self, status: int, message: str, code: str = "", *, commit: str = "", **more: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        body = json.dumps({"error": message} | more).encode()
        self.response = Response(status, body, {name: value for name, value in headers.items() if value} | JSON)


Route = Callable[..., Response]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
PARTS = {
    "kind": r"(?P<kind>models|datasets|spaces)",
    "prefix": r"(?:(?P<kind>datasets|spaces)/)?",
    "name": r"(?P<name>[^/]+/[^/]+?)",
    "revision": r"(?P<revision>[^/]+)",  # clients quote its slashes
    "reference": r"(?P<reference>tag|branch)",
    "path": r"(?P<path>.+)",
    "sha256": r"(?P<sha256>[0-9a-f]{64})",
}


def route(method: str, address: str) -> Callable[[Route], Route]:
    """Let a function answer an address, whose `{parts}` become its arguments, unquoted."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", lambda part: PARTS[part[1]], address))

    def register(function: Route) -> Route:
        ROUTES.append((method, pattern, function))
        return function

    return register


def answer(state: State, request: Request) -> Response:
    """Do what is asked for."""
    method = "GET" if request.method == "HEAD" else request.method
    try:
        _check_token(state, request)
        for own_method, pattern, function in ROUTES:
            if own_method == method and (match := pattern.fullmatch(request.path)):
                parts = {name: unquote(part) for name, part in match.groupdict().items() if part is not None}
                return function(state, request, **parts)
        raise HubError(404, f"There is nothing at {request.method} {request.path}")
    except HubError as error:
        return error.response


# ---------------------------------------------------------------------------------------------------------------------
# users and repositories


@route("GET", "/api/whoami-v2")
def who_am_i(state: State, request: Request) -> Response:
    _check_may_write(state, request)
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return _json({"type": "user", "id": "1", "name": state.user, "fullname": state.user, "orgs": [], "auth": access})


@route("POST", "/api/repos/create")
def create_repository(state: State, request: Request) -> Response:
    kind, name = _named_in_body(state, request)
    url = f"{request.base_url}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in state.repositories:
        raise HubError(409, f"You already created this {kind} repo", url=url)
    asked = request.json()
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    state.repositories[kind, name] = Repository(kind, name, private)
    return _json({"url": url, "name": name, "id": "1"})


@route("DELETE", "/api/repos/delete")
def delete_repository(state: State, request: Request) -> Response:
    if state.repositories.pop(_named_in_body(state, request), None) is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return _json({})


@route("GET", "/api/{kind}/{name}")
def information(state: State, request: Request, kind: str, name: str) -> Response:
    return information_at(state, request, kind, name, "main")


@route("GET", "/api/{kind}/{name}/revision/{revision}")
def information_at(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    repository = _repository(state, request, kind, name)
    sha = _resolve(repository, revision)
    siblings: list[dict[str, Any]] = []
    for path, file in sorted(repository.commits[sha].files.items()):
        entry = _entry(path, file)
        more = {"size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
        siblings.append({"rfilename": path} | (more if request.is_set("blobs") else {}))
    about = {"id": name, "author": name.split("/")[0], "sha": sha, "private": repository.private, "siblings": siblings}
    dull = {"disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": [], "cardData": {}}
    return _json(about | dull | {"createdAt": DATE, "lastModified": DATE})


@route("PUT", "/api/{kind}/{name}/settings")
def change_settings(state: State, request: Request, kind: str, name: str) -> Response:
    repository, asked = _repository(state, request, kind, name, write=True), request.json()
    if "private" in asked or "visibility" in asked:
        repository.private = asked.get("private", asked.get("visibility") == "private")
    return _json({"private": repository.private})


@route("POST", "/api/validate-yaml")
def validate_card(state: State, request: Request) -> Response:
    """Only whether there is a block of metadata: without a YAML parser no more can be said."""
    content = request.json()["content"]
    if content.startswith("---\n") and "\n---\n" not in content:
        errors = [{"message": "the metadata at the top do not end with a line ---"}]
        return Response(400, json.dumps({"errors": errors, "warnings": []}).encode())
    missing = [] if content.startswith("---\n") else [{"message": "empty or missing yaml metadata in repo card"}]
    return _json({"errors": [], "warnings": missing})


# ---------------------------------------------------------------------------------------------------------------------
# branches, tags, commits


@route("GET", "/api/{kind}/{name}/refs")
def references(state: State, request: Request, kind: str, name: str) -> Response:
    repository = _repository(state, request, kind, name)

    def listed(references: Mapping[str, str], folder: str) -> list[dict[str, str]]:
        return [{"name": own, "ref": f"refs/{folder}/{own}", "targetCommit": sha} for own, sha in references.items()]

    branches, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
    return _json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("POST", "/api/{kind}/{name}/tag/{revision}")
def create_tag(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    repository, tag = _repository(state, request, kind, name, write=True), request.json()["tag"]
    if tag in repository.tags:
        raise HubError(409, "Tag reference exists already")
    repository.tags[tag] = _resolve(repository, revision)
    return _json({})


@route("POST", "/api/{kind}/{name}/branch/{revision}")
def create_branch(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    repository = _repository(state, request, kind, name, write=True)
    if revision in repository.branches:
        raise HubError(409, "Reference already exists")
    repository.branches[revision] = _resolve(repository, request.json().get("startingPoint") or "main")
    return _json({})


@route("DELETE", "/api/{kind}/{name}/{reference}/{revision}")
def delete_reference(state: State, request: Request, kind: str, name: str, reference: str, revision: str) -> Response:
    repository = _repository(state, request, kind, name, write=True)
    references = repository.tags if reference == "tag" else repository.branches
    if references.pop(revision, None) is None:
        raise HubError(404, f"There is no {reference} {revision}", "RevisionNotFound")
    return _json({})


@route("GET", "/api/{kind}/{name}/commits/{revision}")
def history(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    repository = _repository(state, request, kind, name)
    _resolve(repository, revision)
    dull = {"message": "", "authors": [{"user": state.user}], "date": DATE}
    return _json([{"id": commit.sha, "title": commit.title} | dull for commit in repository.history(revision)])


# ---------------------------------------------------------------------------------------------------------------------
# uploads: which files go through LFS, those files, then one commit


@route("POST", "/api/{kind}/{name}/preupload/{revision}")
def prepare_upload(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    repository = _repository(state, request, kind, name, write=True)
    present = repository.commits[_resolve(repository, revision)].files
    modes = []
    for file in request.json()["files"]:
        mode = "lfs" if is_stored_as_lfs(file["path"], file["size"]) else "regular"
        # with the name of what is there, a client leaves out what has not changed
        known = {"oid": present[file["path"]].oid} if file["path"] in present else {}
        modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | known)
    return _json({"files": modes})


@route("POST", "/{prefix}{name}.git/info/lfs/objects/batch")
def prepare_lfs(state: State, request: Request, name: str, kind: str = "models") -> Response:
    _repository(state, request, kind, name, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        upload = {"href": f"{request.base_url}/lfs/{wanted['oid']}?X-Signature=secret"}
        verify = {"href": f"{request.base_url}/lfs/{wanted['oid']}/verify"}
        missing = wanted["oid"] not in state.lfs_objects
        objects.append(wanted | ({"actions": {"upload": upload, "verify": verify}} if missing else {}))
    return _json({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/{sha256}")
def store_lfs(state: State, request: Request, sha256: str) -> Response:
    """Without a token: as on the Hub, the address is what was given to somebody who may write."""
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, f"What arrived is not {sha256}")
    state.lfs_objects[sha256] = request.body
    return Response()


@route("POST", "/lfs/{sha256}/verify")
def verify_lfs(state: State, request: Request, sha256: str) -> Response:
    if len(state.lfs_objects.get(sha256, b"")) != request.json()["size"]:
        raise HubError(404, f"The LFS object {sha256} did not arrive whole")
    return _json({})


@route("POST", "/api/{kind}/{name}/commit/{revision}")
def commit(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    """All of what is asked for, or nothing."""
    repository = _repository(state, request, kind, name, write=True)
    if revision not in repository.branches:
        raise HubError(404, f"There is no branch {revision}", "RevisionNotFound")
    head, *operations = [json.loads(line) for line in request.body.splitlines()]
    if not repository.branches[revision].startswith(head["value"].get("parentCommit") or ""):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.commits[repository.branches[revision]].files)
    for operation in operations:
        _apply(state, files, operation["key"], operation["value"])
    sha = repository.commit(revision, head["value"]["summary"], files)
    url = f"{request.base_url}/{'' if kind == 'models' else kind + '/'}{name}/commit/{sha}"
    return _json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _apply(state: State, files: dict[str, StoredFile], key: str, value: Mapping[str, Any]) -> None:
    path = value["path"]
    if key == "file":
        files[path] = StoredFile(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in state.lfs_objects:
            raise HubError(400, f"The LFS object of {path} was not uploaded")
        files[path] = StoredFile(state.lfs_objects[value["oid"]], lfs=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        for own in list(_below(files, path)):
            del files[own]
    else:
        raise HubError(400, f"What is a {key}?")


# ---------------------------------------------------------------------------------------------------------------------
# downloads


@route("GET", "/api/{kind}/{name}/tree/{revision}")
def tree(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    return tree_below(state, request, kind, name, revision, "")


@route("GET", "/api/{kind}/{name}/tree/{revision}/{path}")
def tree_below(state: State, request: Request, kind: str, name: str, revision: str, path: str) -> Response:
    repository = _repository(state, request, kind, name)
    sha = _resolve(repository, revision)
    files = repository.commits[sha].files
    below = sorted(files) if path == "" else sorted(_below(files, path))
    if path and not below:
        raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", commit=sha)
    depth = path.rstrip("/").count("/") + 1 if path else 0
    recursive = request.is_set("recursive")
    folders = {parent for own in below for parent in _parents(own) if parent.count("/") >= depth}
    entries = [_folder(folder) for folder in sorted(folders) if recursive or folder.count("/") == depth]
    return _json(entries + [_entry(own, files[own]) for own in below if recursive or own.count("/") == depth])


@route("POST", "/api/{kind}/{name}/paths-info/{revision}")
def paths_information(state: State, request: Request, kind: str, name: str, revision: str) -> Response:
    repository = _repository(state, request, kind, name)
    files = repository.commits[_resolve(repository, revision)].files
    is_json = "json" in request.headers.get("Content-Type", "")
    asked = request.json() if is_json else parse_qs(request.body.decode())
    entries = []
    for path in asked.get("paths", []):
        if path in files:
            entries.append(_entry(path, files[path]))
        elif any(_below(files, path)):
            entries.append(_folder(path.rstrip("/")))
    return _json(entries)


@route("GET", "/{prefix}{name}/resolve/{revision}/{path}")
def resolve(state: State, request: Request, name: str, revision: str, path: str, kind: str = "models") -> Response:
    """A file; of one that is stored as LFS, too, where the Hub would send on to another host."""
    repository = _repository(state, request, kind, name)
    sha = _resolve(repository, revision)
    file = repository.commits[sha].files.get(path)
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", commit=sha)
    headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"'}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
    return _bytes(file.data, request, headers)


def _bytes(data: bytes, request: Request, headers: Mapping[str, str]) -> Response:
    """Content, or the part of it that `Range` asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | dict(headers)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
    if asked is None:
        return Response(200, data, headers)
    if asked[1]:
        start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
    else:
        start, end = max(len(data) - int(asked[2]), 0), len(data) - 1
    if start > end:
        return Response(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return Response(206, data[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"})


# ---------------------------------------------------------------------------------------------------------------------
# what routes share


def _json(content: Any) -> Response:
    return Response(200, json.dumps(content).encode(), JSON)


def _check_token(state: State, request: Request) -> None:
    """A wrong token is refused even where none is needed."""
    if request.token not in (None, state.token):
        raise HubError(401, "Invalid credentials in Authorization header")


def _check_may_write(state: State, request: Request) -> None:
    if request.token is None:
        raise HubError(401, "Invalid username or password.")


def _named_in_body(state: State, request: Request) -> tuple[Kind, str]:
    _check_may_write(state, request)
    asked = request.json()
    namespace, kind = asked.get("organization") or state.user, asked.get("type") or "model"
    if namespace != state.user:
        raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    return kind, f"{namespace}/{asked['name']}"


def _repository(state: State, request: Request, kind: str, name: str, *, write: bool = False) -> Repository:
    """The repository, if the request may see it or, with `write`, change it."""
    if write:
        _check_may_write(state, request)
    repository = state.repositories.get((KINDS[kind], name))
    if repository is None or (repository.private and request.token is None):
        # the Hub does not tell strangers which of the two it is
        raise HubError(401 if request.token is None else 404, "Repository not found", "RepoNotFound")
    return repository


def _resolve(repository: Repository, revision: str) -> str:
    sha = repository.resolve(revision)
    if sha is None:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return sha


def _entry(path: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.git_oid, "size": len(file.data)}
    return entry | ({"lfs": {"oid": file.sha256, "size": len(file.data), "pointerSize": 130}} if file.lfs else {})


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _below(files: Mapping[str, StoredFile], folder: str) -> Iterator[str]:
    return (path for path in files if path.startswith(folder.rstrip("/") + "/"))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
