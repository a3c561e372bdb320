"""Building the folder of a dataset, uploading it, and checking what arrived.

The folder goes up as it is, by `publish_folder`, and not by `DatasetDict.push_to_hub`: that commits one configuration
after the other, so that an upload which stops between two would leave half of a version, and it keeps the files of
configurations that are gone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi

from roc.dataset_scripts.exporting.folder import export_dataset
from roc.dataset_scripts.exporting.marker import check_output_dir
from roc.dataset_scripts.exporting.options import PublishOptions
from roc.dataset_scripts.exporting.provenance import NO_LICENSE, Provenance
from roc.dataset_scripts.exporting.read_back import check_published
from roc.dataset_scripts.exporting.sources import configurations, read_source
from roc.dataset_scripts.exporting.variants import DEFAULT, VARIANTS
from roc.messages_roc import did_you_mean
from roc.support.hub_upload import HubRepository, check_login, check_names, explained, hub_files, publish_folder

Built = Mapping[str, Mapping[str, Dataset]]

# What a user may state of data of their own.
STATED = ("license", "title", "description")


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
    _check_options(options)
    private = options.known_license == NO_LICENSE if options.private is None else options.private
    refused = _missing_rights(options, private=private)
    if refused and not options.dry_run:
        raise ValueError(f"{refused} Nothing was built or uploaded.")
    api = HfApi()
    if not options.dry_run:
        check_login(api, options.repo_id)
        _check_visibility(api, options.repo_id, private=private)
    with tempfile.TemporaryDirectory() as cache_dir:
        marker, built = _build_folder(options, cache_dir)
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


def _check_options(options: PublishOptions) -> None:
    """Check what can be checked before anything is read."""
    check_names(options.repo_id, options.tag or "v1.0.0")
    known = (DEFAULT, *VARIANTS, *options.builder_flags)
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


def _missing_rights(options: PublishOptions, *, private: bool) -> str | None:
    """Why an upload is refused and what to type, or None if it may go."""
    if options.known_license != NO_LICENSE or options.i_have_the_rights:
        return None
    where = "even to a private repository" if private else "and a public repository hands them to everybody"
    return (
        f"No licence is known for {options.dataset}: its texts and pictures are their authors' alone, and an upload "
        f"passes copies of them on, {where}. If you have their authors' permission, "
        f"type {'' if private else '--no-private '}--i_have_the_rights."
        f"{' Or state the licence of your data: --license ID.' if options.dataset == 'jsonl' else ''}"
    )


def _check_visibility(api: HfApi, repo_id: str, *, private: bool) -> None:
    """Check that a repository, where there is one, is as private as it should be."""
    with explained(repo_id):
        there = HubRepository(api, repo_id, "dataset").look()
    if there is not None and there.private != private:
        is_now, wanted = ("private", "public") if there.private else ("public", "private")
        raise ValueError(
            f"{repo_id} exists and is {is_now}, but the dataset is to be {wanted}. Nothing was uploaded. Change it in "
            f"the repository's settings, {'type --private, ' if there.private else ''}or take another --repo_id."
        )


def _build_folder(options: PublishOptions, cache_dir: str) -> tuple[dict[str, Any], Built]:
    """Write the folder that is uploaded; returns its marker, and its rows, kept in `cache_dir`, by configuration."""
    source = read_source(options, cache_dir)
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
    return {
        "repo_id": options.repo_id,
        "private": private,
        "tag": tag,
        "output_dir": str(options.folder),
        "configs": {name: {split: len(rows) for split, rows in splits.items()} for name, splits in built.items()},
        "files": hub_files(options.folder),
    }


def _with_statements(provenance: Provenance, options: PublishOptions) -> Provenance:
    """The provenance with what the user says of data of their own."""
    stated = {name: getattr(options, name) for name in STATED if getattr(options, name) is not None}
    if "description" in stated:
        stated["description"] = Path(stated["description"]).read_text(encoding="utf-8")
    if "license" in stated:
        stated["license_note"] = "Stated by whoever published this."
    return replace(provenance, **stated)
