"""Building the folder of a dataset, uploading it, and checking what arrived.

The folder goes up as it is, by `publish_folder`, and not by `DatasetDict.push_to_hub`: that commits one configuration
after the other, so that an upload which stops between two would leave half of a version, and it keeps the files of
configurations that are gone.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi

from roc.dataset_scripts.building.command_line import command_of
from roc.dataset_scripts.exporting import row_digests
from roc.dataset_scripts.exporting.folder import export_dataset
from roc.dataset_scripts.exporting.marker import (
    NO_LICENSE,
    Provenance,
    check_output_dir,
    provenance_of_marker,
    read_marker,
    read_side_file,
)
from roc.dataset_scripts.exporting.row_digests import digest_rows
from roc.dataset_scripts.exporting.variants import DEFAULT, VARIANTS, derive
from roc.dataset_scripts.loading import BUILDERS, GENERATED_LICENSE, load_dataset_splits
from roc.messages_roc import did_you_mean
from roc.support.hub_upload import HubRepository, check_login, check_names, explained, hub_files, publish_folder
from roc.support.locks import scratch_folder
from roc.support.strangers import ask_stranger

Configs = dict[str, Mapping[str, Dataset]]  # rows by configuration and split, `default` first

# What a user may state of data of their own.
STATED = ("license", "title", "description")

READING_SECONDS = 4 * 3600.0  # all pictures come twice over the network, once of them in a stream


def publish_dataset(options: Namespace) -> dict[str, Any]:
    """Build the folder of a dataset, upload it in one commit, and check what arrived.

    Args:
        options: The arguments of `python -m roc.dataset_scripts.upload`, which explains them.

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
    private = _license(options) == NO_LICENSE if options.private is None else options.private
    refused = _missing_rights(options, private=private)
    if refused and not options.dry_run:
        raise ValueError(f"{refused} Nothing was built or uploaded.")
    api = HfApi()
    if not options.dry_run:
        check_login(api, options.repo_id)
        _check_visibility(api, options.repo_id, private=private)
    with scratch_folder("build") as cache_dir:
        version, built = _build_folder(options, cache_dir)
        result = {
            "repo_id": options.repo_id,
            "private": private,
            "tag": options.tag or f"v{version}",
            "output_dir": str(folder_of(options)),
            "configs": {name: {split: len(rows) for split, rows in splits.items()} for name, splits in built.items()},
            "files": hub_files(folder_of(options)),
        }
        if options.dry_run:
            return result | {"refused": refused}
        revision = publish_folder(
            api,
            folder_of(options),
            repo_id=options.repo_id,
            tag=result["tag"],
            private=private,
            check=lambda commit, cache: check_published(options.repo_id, commit, built, hub_cache=cache),
            kind="dataset",
        )
    return result | {"revision": revision}


def folder_of(options: Namespace) -> Path:
    """Return the folder to build."""
    return Path(options.output_dir or Path("outputs") / "publish" / options.repo_id.rpartition("/")[2])


def _check_options(options: Namespace) -> None:
    """Check what can be checked before anything is read."""
    check_names(options.repo_id, options.tag or "v1.0.0")
    known = (DEFAULT, *VARIANTS, *_builder_flags(options))
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
    check_output_dir(folder_of(options), source=Path(options.data_dir))


def _builder_flags(options: Namespace) -> Mapping[str, str]:
    return BUILDERS[options.dataset].FLAGS if options.dataset in BUILDERS else {}


def _license(options: Namespace) -> str:
    """Return the licence, which is known before anything is built."""
    return options.license or (BUILDERS[options.dataset].LICENSE if options.dataset in BUILDERS else GENERATED_LICENSE)


def _missing_rights(options: Namespace, *, private: bool) -> str | None:
    """Say why an upload is refused and what to type; None if it may go."""
    if _license(options) != NO_LICENSE or options.i_have_the_rights:
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


def _build_folder(options: Namespace, cache_dir: Path) -> tuple[str, Configs]:
    """Write the folder that is uploaded; returns the builder's version, and the rows, which `cache_dir` keeps."""
    configs, provenance, side_files = _read_source(options, cache_dir)
    splits = configs.pop(DEFAULT)
    configs = _variants(splits, options.configs) | configs
    export_dataset(
        splits,
        folder_of(options),
        provenance=_with_statements(provenance, options),
        variants=configs,
        side_files=side_files,
        repo_id=options.repo_id,
    )
    return provenance.builder_version, {DEFAULT: splits, **configs}


def _read_source(options: Namespace, cache_dir: Path) -> tuple[Configs, Provenance, dict[str, str]]:
    """Build the rows from raw files, or load those of a written folder.

    Returns:
        All rows, once more for each flag of the builder that is asked for; where they come from; and side files.
    """
    reading = {
        "splits": options.splits,
        "missing_images": options.missing_images,
        "entity_typer": options.entity_typer,
        "cache_dir": cache_dir,
    }
    command = command_of("upload", vars(options) | {"output_dir": None, "dry_run": None})
    if options.private is False:
        command += " --no-private"
    flags = [name for name in dict.fromkeys(options.configs or ()) if name in _builder_flags(options)]
    marker = read_marker(options.data_dir)
    if marker is None and options.dataset in BUILDERS:
        make: Any = partial(BUILDERS[options.dataset], options.data_dir, **reading)
        builders = {DEFAULT: make(), **{flag: make(**{flag: True}) for flag in flags}}
        configs = {name: builder.build() for name, builder in builders.items()}
        files = {name: sha for each in builders.values() for name, sha in each.provenance().source_files.items()}
        return configs, replace(builders[DEFAULT].provenance(command), source_files=files), {}
    if flags:
        raise ValueError(
            f"The configuration {flags[0]!r} is built from raw files, but the rows of {options.data_dir} are "
            "built already. Name the folder of the raw files with --data_dir."
        )
    splits = load_dataset_splits(options.dataset, options.data_dir, **reading)
    assert marker is not None  # else there was nothing to load
    provenance = provenance_of_marker(marker)
    # Side files tell of all splits: they stay behind where only some are published.
    names = marker["side_files"] if set(splits) == set(marker["splits"]) else ()
    side_files = {name: read_side_file(options.data_dir, name) for name in names}
    return {DEFAULT: splits}, replace(provenance, command=f"{provenance.command}\n{command}".strip()), side_files


def _variants(splits: Mapping[str, Dataset], names: Sequence[str] | None) -> Configs:
    """Make the configurations that follow from the rows: those that are asked for, or all that differ from all rows."""
    made: Configs = {}
    for name in VARIANTS if names is None else [name for name in names if name in VARIANTS]:
        config = derive(name, splits)
        if config is not None:
            made[name] = config
        elif names is not None:
            raise ValueError(
                f"The configuration {name!r} would be empty or the same as all rows. Leave it out of --configs."
            )
    return made


def _with_statements(provenance: Provenance, options: Namespace) -> Provenance:
    """Return the provenance with what the user says of data of their own."""
    stated = {name: getattr(options, name) for name in STATED if getattr(options, name) is not None}
    if "description" in stated:
        stated["description"] = Path(stated["description"]).read_text(encoding="utf-8")
    if "license" in stated:
        stated["license_note"] = "Stated by whoever published this."
    return replace(provenance, **stated)


def check_published(
    repo_id: str, revision: str, built: Mapping[str, Mapping[str, Dataset]], *, hub_cache: Path
) -> None:
    """Load a published dataset where none was built, map-style and streaming, and compare it with what was built.

    Args:
        repo_id: The dataset's repository.
        revision: The commit to read.
        built: The built rows, by configuration and split.
        hub_cache: The folder into which this commit, and nothing else, was downloaded.

    Raises:
        ValueError: If its rows are others.
        OSError: If it cannot be read.
    """
    expected = {name: {split: digest_rows(rows) for split, rows in splits.items()} for name, splits in built.items()}
    for style, digests in _read_in_new_process(repo_id, revision, list(built), hub_cache=hub_cache).items():
        for name, splits in expected.items():
            if digests.get(name) != splits:
                raise ValueError(
                    f"{repo_id} at {revision} has other rows in its configuration {name!r}, read {style}, than were "
                    f"built: {digests.get(name)} instead of {splits}. Do not use this revision; publish again."
                )


def _read_in_new_process(repo_id: str, revision: str, configs: Sequence[str], *, hub_cache: Path) -> dict[str, Any]:
    """Return digests of the rows of a published dataset, by style, configuration and split."""
    caches = {"HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "0"}
    try:
        return ask_stranger(
            Path(row_digests.__file__),
            {"repo_id": repo_id, "revision": revision, "configs": configs},
            environment=lambda empty: os.environ | caches | {"HF_DATASETS_CACHE": empty},
            timeout=READING_SECONDS,
        )
    except RuntimeError as error:
        raise OSError(f"{repo_id} was uploaded as {revision}, but cannot be read back: {error}") from error
