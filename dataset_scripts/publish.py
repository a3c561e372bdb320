"""Publishes a dataset on the Hub: Parquet with the pictures inside, in several configurations, with its card.

The folder is built first, under `--output_dir`, and goes up in one commit. Then it is loaded back at that commit into
empty caches, map-style and streaming, and compared row by row and picture by picture with what was built.

Data without a known licence (MNRE, MORE, and JSON lines unless `--license` says otherwise) goes to a private
repository, and only with `--i_have_the_rights`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.exporting.folder import check_output_dir, export_dataset
from roc.dataset_scripts.exporting.provenance import NO_LICENSE, Provenance
from roc.dataset_scripts.exporting.read_back import check_published
from roc.dataset_scripts.exporting.sources import configurations, read_source
from roc.dataset_scripts.exporting.variants import DEFAULT, VARIANTS
from roc.dataset_scripts.loading import BUILDERS, DATASETS, GENERATED_LICENSE
from roc.dataset_scripts.schema import SPLITS
from roc.messages_roc import did_you_mean
from roc.support.hub_upload import check_login, check_names, explained, hub_files, publish_folder
from roc.support.programs import run_program

Built = Mapping[str, Mapping[str, Dataset]]

# What a user may state of data of their own.
STATED = ("license", "title", "description")


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What to publish, and where: the arguments of the command line, which explains them."""

    dataset: str
    data_dir: str
    repo_id: str
    output_dir: str | None = None
    configs: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    missing_images: MissingImages = "error"
    entity_typer: str | None = None
    private: bool | None = None
    i_have_the_rights: bool = False
    license: str | None = None
    title: str | None = None
    description: str | None = None
    tag: str | None = None
    dry_run: bool = False

    @property
    def folder(self) -> Path:
        """The folder to build."""
        return Path(self.output_dir or Path("outputs") / "publish" / self.repo_id.rpartition("/")[2])

    @property
    def flags(self) -> list[str]:
        """The configurations that are a flag of the builder."""
        return [name for name in dict.fromkeys(self.configs or ()) if name in _flags(self.dataset)]

    @property
    def variants(self) -> list[str] | None:
        """The configurations that follow from the rows; None for all that do."""
        if self.configs is None:
            return None
        return [name for name in dict.fromkeys(self.configs) if name in VARIANTS]


def publish(options: PublishOptions) -> dict[str, Any]:
    """Build the folder of a dataset, upload it in one commit, and check what arrived.

    Args:
        options: What to publish, and where.

    Returns:
        `repo_id`, `private`, `tag`, `output_dir`, `configs` with their rows by split, and `files` with their bytes;
        after an upload also `revision`, after a dry run also `refused`: why an upload would be, or None.

    Raises:
        ValueError: If the rights are missing, an option does not fit, the repository is not as private as was asked
            for, the tag is that of other rows, or other rows came back.
        FileNotFoundError: If the folder, a split or a picture is not there.
        FileExistsError: If the folder to write exists and is no dataset.
        OSError: If the Hub refuses or cannot be reached.
    """
    check_options(options)
    license = options.license or _license_of(options)
    private = license == NO_LICENSE if options.private is None else options.private
    refused = missing_rights(options, license, private=private)
    if refused and not options.dry_run:
        raise ValueError(f"{refused} Nothing was built or uploaded.")
    api = HfApi()
    if not options.dry_run:
        check_login(api, options.repo_id)
        check_visibility(api, options.repo_id, private=private)
    with tempfile.TemporaryDirectory() as cache_dir:
        marker, built = build_folder(options, cache_dir)
        tag = options.tag or f"v{marker['builder_version']}"
        result = _summary(options, built, private=private, tag=tag)
        if options.dry_run:
            return result | {"refused": refused}
        revision = publish_folder(
            api,
            options.folder,
            repo_id=options.repo_id,
            tag=tag,
            private=private,
            check=lambda commit, cache: check_published(options.repo_id, commit, built, hub_cache=cache),
            kind="dataset",
        )
    return result | {"revision": revision}


def check_options(options: PublishOptions) -> None:
    """Check what can be checked before anything is read.

    Args:
        options: What to publish, and where.

    Raises:
        ValueError: If a name is unknown, an option does not fit the dataset, or the raw files lie in the folder to
            write.
        FileNotFoundError: If there is no such description.
        FileExistsError: If the folder to write exists and is no dataset.
    """
    check_names(options.repo_id, options.tag or "v1.0.0")
    known = (DEFAULT, *VARIANTS, *_flags(options.dataset))
    for name in options.configs or ():
        if name not in known:
            raise ValueError(
                f"{options.dataset} has no configuration {name!r}; there are {list(known)}.{did_you_mean(name, known)}"
            )
    for name in STATED:
        if getattr(options, name) is not None and options.dataset != "jsonl":
            raise ValueError(f"--{name} is for data of your own (--dataset jsonl): {options.dataset} has its own.")
    if options.description is not None and not Path(options.description).is_file():
        raise FileNotFoundError(f"--description {options.description}: there is no such file.")
    check_output_dir(options.folder, source=Path(options.data_dir))


def missing_rights(options: PublishOptions, license: str, *, private: bool) -> str | None:
    """What stands against an upload.

    Args:
        options: What to publish, and where.
        license: Licence identifier of the Hub, or `NO_LICENSE`.
        private: Whether the repository is to be private.

    Returns:
        Why it is refused and what to type, or None if it may go.
    """
    if license != NO_LICENSE or options.i_have_the_rights:
        return None
    where = "even to a private repository" if private else "and a public repository hands them to everybody"
    return (
        f"No licence is known for {options.dataset}: its texts and pictures are their authors' alone, and an upload "
        f"passes copies of them on, {where}. If you have their authors' permission, "
        f"type {'' if private else '--no-private '}--i_have_the_rights."
        f"{' Or state the licence of your data: --license ID.' if options.dataset == 'jsonl' else ''}"
    )


def check_visibility(api: HfApi, repo_id: str, *, private: bool) -> None:
    """Check that a repository, where there is one, is as private as it should be.

    Args:
        api: Client of the Hub.
        repo_id: The dataset's repository.
        private: Whether it is to be private.

    Raises:
        ValueError: If it is not.
        OSError: If the Hub refuses or cannot be reached.
    """
    with explained(repo_id):
        try:
            is_private = api.dataset_info(repo_id).private
        except RepositoryNotFoundError:
            return
    if is_private != private:
        is_now, wanted = ("private", "public") if is_private else ("public", "private")
        raise ValueError(
            f"{repo_id} exists and is {is_now}, but the dataset is to be {wanted}. Nothing was uploaded. Change it in "
            f"the repository's settings, {'type --private, ' if is_private else ''}or take another --repo_id."
        )


def build_folder(options: PublishOptions, cache_dir: str) -> tuple[dict[str, Any], Built]:
    """Write the folder that is uploaded; an older one is replaced when it is complete.

    Args:
        options: What to publish, and where.
        cache_dir: Where built rows are kept; they must not be removed while the result is in use.

    Returns:
        The content of the folder's marker file, and the built rows by configuration and split.
    """
    source = read_source(
        options.dataset,
        options.data_dir,
        splits=options.splits,
        missing_images=options.missing_images,
        entity_typer=options.entity_typer,
        flags=options.flags,
        command=command_of(options),
        cache_dir=cache_dir,
    )
    configs = configurations(source, options.variants)
    marker = export_dataset(
        source.splits,
        options.folder,
        provenance=_with_statements(source.provenance, options),
        variants={name: config for name, config in configs.items() if name != DEFAULT},
        side_files=source.side_files,
        repo_id=options.repo_id,
    )
    return marker, {name: config.splits for name, config in configs.items()}


def _summary(options: PublishOptions, built: Built, *, private: bool, tag: str) -> dict[str, Any]:
    folder = options.folder
    return {
        "repo_id": options.repo_id,
        "private": private,
        "tag": tag,
        "output_dir": str(folder),
        "configs": {name: {split: len(rows) for split, rows in splits.items()} for name, splits in built.items()},
        "files": hub_files(folder),
    }


def command_of(options: PublishOptions) -> str:
    """What to type to publish the same, with names of folders instead of this machine's paths."""
    words = ["python", "-m", "roc.dataset_scripts.publish"]
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name in ("dry_run", "output_dir"):
            continue
        if field.name in ("data_dir", "description"):
            value = Path(value).resolve().name
        words += _argument(field.name, value)
    return shlex.join(words)


def _argument(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *([value] if isinstance(value, str) else value)]


def _with_statements(provenance: Provenance, options: PublishOptions) -> Provenance:
    """The provenance with what the user says of data of their own."""
    stated = {name: getattr(options, name) for name in STATED if getattr(options, name) is not None}
    if "description" in stated:
        stated["description"] = Path(stated["description"]).read_text(encoding="utf-8")
    if "license" in stated:
        stated["license_note"] = "Stated by whoever published this."
    return replace(provenance, **stated)


def _flags(dataset: str) -> Mapping[str, str]:
    return BUILDERS[dataset].FLAGS if dataset in BUILDERS else {}


def _license_of(options: PublishOptions) -> str:
    """The licence, known before anything is built."""
    return BUILDERS[options.dataset].LICENSE if options.dataset in BUILDERS else GENERATED_LICENSE


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: publish a dataset and print what went, or would go, as one JSON line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        Exit code: 0 for success, 1 for a failure (2, for wrong usage, is raised by argparse).
    """
    options = PublishOptions(**vars(_parser().parse_args(argv)))
    return run_program(lambda: publish(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m roc.dataset_scripts.publish",
        description="Publish a dataset on the Hub: Parquet with the pictures inside, and its card.",
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS, help="what is in data_dir")
    add("--data_dir", required=True, help="folder of the raw files, or one that a builder or a generator wrote")
    add("--repo_id", required=True, metavar="USER/NAME", help="the dataset's repository, made where there is none")
    add("--output_dir", help="folder to build first (default: outputs/publish/NAME); an older one is replaced")
    about = "; ".join(f"{name}: {variant.about}" for name, variant in VARIANTS.items())
    add("--configs", nargs="*", metavar="NAME", help=f"besides all rows (default: those that differ). {about}")
    add("--splits", nargs="+", choices=SPLITS, help="splits to publish (default: those that exist)")
    add("--missing_images", choices=get_args(MissingImages), default="error", help="if a row's picture is not there")
    add("--entity_typer", help="'spacy' or a token-classification model; default: leave types null")
    yes_no = argparse.BooleanOptionalAction
    add("--private", action=yes_no, help="who sees it (default: private where no licence is known)")
    add("--i_have_the_rights", action="store_true", help="the authors of texts and pictures allow this upload")
    add("--license", metavar="ID", help="jsonl: licence of your data, as the Hub names it, such as cc-by-4.0")
    add("--title", help="jsonl: heading of the card")
    add("--description", metavar="FILE", help="jsonl: Markdown for the card: what it is, where it comes from")
    add("--tag", help="name of this version (default: v and the version of the builder)")
    add("--dry_run", action="store_true", help="build the folder and say what would go; the Hub is not asked")
    return parser


if __name__ == "__main__":
    sys.exit(main())
