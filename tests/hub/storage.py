"""What a Hub keeps: repositories with their commits, branches and tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["model", "dataset", "space"]

LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".png", ".jpg")  # as the Hub's own .gitattributes
ATTRIBUTES = ".gitattributes"
LFS_SIZE = 10 * 2**20  # above it the Hub takes any file as LFS


def is_stored_as_lfs(path: str, size: int) -> bool:
    """Whether the Hub asks for a file through LFS rather than within the commit."""
    return size > LFS_SIZE or (size > 0 and path.endswith(LFS_SUFFIXES))


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit.

    Args:
        data: Its content.
        lfs: Whether Git has a pointer to it only.
    """

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        """The name of Git's blob: of the content, or of the pointer to it."""
        blob = self.data
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(blob)}\n"
            blob = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def oid(self) -> str:
        """The name by which a client knows the content."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """A state of a repository: its files by path."""

    sha: str
    title: str
    parent: str | None
    files: Mapping[str, StoredFile]


@dataclass
class Repository:
    """A repository. `main` has a first commit with nothing but `.gitattributes`, which the Hub brings itself.

    Args:
        kind: What is in it.
        name: `USER/NAME`.
        private: Whether only its user sees it.
    """

    kind: Kind
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = self._add_commit("initial commit", None, {ATTRIBUTES: _attributes()})

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit's own name stands for; None where there is none."""
        known = self.branches.get(revision) or self.tags.get(revision)
        return known or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Paths and contents at a revision, which exists, but for `.gitattributes`."""
        sha = self.resolve(revision)
        assert sha is not None, f"{self.name} has no revision {revision!r}"
        return {path: file.data for path, file in self.commits[sha].files.items() if path != ATTRIBUTES}

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits up to a revision, the newest first."""
        commits, sha = [], self.resolve(revision)
        while sha is not None:
            commits.append(self.commits[sha])
            sha = self.commits[sha].parent
        return commits

    def commit(self, branch: str, title: str, files: Mapping[str, StoredFile]) -> str:
        """Put a commit with exactly these files on a branch; returns its name."""
        sha = self._add_commit(title, self.branches[branch], files)
        self.branches[branch] = sha
        return sha

    def _add_commit(self, title: str, parent: str | None, files: Mapping[str, StoredFile]) -> str:
        content = [self.kind, self.name, len(self.commits), title, sorted((path, f.oid) for path, f in files.items())]
        sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, parent, dict(files))
        return sha


def _attributes() -> StoredFile:
    lines = [f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES]
    return StoredFile("".join(lines).encode())
