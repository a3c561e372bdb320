"""What the builders share: splits, pictures, entity types, caching and export.

A builder of one source says where its files are (`find_splits`) and how to read them (`read_split`); the rest is here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from tqdm.auto import tqdm

from roc.dataset_scripts.building.raw_files import check_picture, sha256_of_file
from roc.dataset_scripts.exporting.marker import Provenance, check_output_dir
from roc.dataset_scripts.schema import SPLITS, Entity, Row, check_row
from roc.messages_roc import did_you_mean, quote, shorten
from roc.processing_typing_roc import EntityTyper, Span, load_entity_typer, spacy_package
from roc.support.resources import PACKAGE_ROOT

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger("roc.dataset_scripts")

MissingImages = Literal["error", "skip", "no_image"]

TEXTS_PER_TYPING_BATCH = 256


@dataclass(frozen=True)
class RawRow:
    """One row as a source states it, before its picture is opened and its entities are typed.

    Args:
        row: A row of the schema; `image` is the picture's name in the source, or None where the row has none.
        where: Where it comes from, such as `train.txt:12`.
        image_paths: Where its picture may lie, the preferred path first; empty where the row has none.
    """

    row: Row
    where: str
    image_paths: tuple[Path, ...] = ()


class RocDatasetBuilder(ABC):
    """Builds the rows of one source.

    The raw files are read and checked when the builder is made; pictures are opened and entities typed by `build`.

    Args:
        data_dir: Folder of the raw files.
        splits: Splits to build; None for those that exist.
        missing_images: What to do where a row's picture is not there: `"error"` stops, `"skip"` drops the row,
            `"no_image"` keeps it without a picture (and drops it if one of its entities is an object in the picture).
        entity_typer: A typer, or the name of one, for text entities without a type; None leaves them untyped.
        cache_dir: Where built datasets are kept; None for the default of `datasets`.
        parts: Some of the builder's `PARTS`, such as domains; None for those that exist.

    Raises:
        FileNotFoundError: If `data_dir` or a split is not there, or a picture is missing and the policy is `"error"`.
        ValueError: If an option is unknown, a raw file is malformed, or a split has no row.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    DESCRIPTION: ClassVar[str]
    LICENSE: ClassVar[str]
    LICENSE_NOTE: ClassVar[str] = ""
    LEAK_NOTE: ClassVar[str] = ""
    PICTURES_HINT: ClassVar[str] = "Put the pictures there."
    FLAGS: ClassVar[Mapping[str, str]] = {}  # further yes/no arguments of the builder, with their help
    PARTS: ClassVar[Sequence[str]] = ()  # of which some can be read alone
    VERSION: ClassVar[str] = "1.0.0"

    def __init__(
        self,
        data_dir: str | Path,
        *,
        splits: Sequence[str] | None = None,
        missing_images: MissingImages = "error",
        entity_typer: str | EntityTyper | None = None,
        cache_dir: str | Path | None = None,
        parts: Sequence[str] | None = None,
    ) -> None:
        check_missing_images(missing_images)
        check_parts(self.NAME, parts, self.PARTS)
        self.parts = None if parts is None else [part for part in self.PARTS if part in parts]
        self.raw_dir = Path(data_dir).expanduser().resolve()
        if not self.raw_dir.is_dir():
            raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder. Give the folder of the raw files.")
        self.missing_images: MissingImages = missing_images
        self._entity_typer = entity_typer
        self.split_files = self._select_splits(splits)
        self.split_counts: dict[str, Counter[str]] = {split: Counter() for split in self.split_files}
        self._rows = {split: self._read(split) for split in self.split_files}
        self.cache_dir = cache_dir

    @abstractmethod
    def find_splits(self) -> dict[str, list[Path]]:
        """Find the annotation files, below `self.raw_dir`, of each split that exists."""

    @abstractmethod
    def read_split(self, split: str) -> Iterable[RawRow]:
        """Read the rows of one split from `self.split_files[split]`; may add to `self.split_counts[split]`."""

    @cached_property
    def entity_typer(self) -> EntityTyper | None:
        """The typer, loaded at first use."""
        return load_entity_typer(self._entity_typer) if isinstance(self._entity_typer, str) else self._entity_typer

    def build(self) -> datasets.DatasetDict:
        """Build the splits, or load them from the cache if nothing has changed since.

        Raises:
            ValueError: If a picture cannot be decoded.
        """
        from roc.dataset_scripts.building.cached import CachedRows  # here: `datasets` takes seconds to import

        built = CachedRows(self).build()
        for split, counts in self.split_counts.items():
            counted = {"rows": len(self._rows[split]), **counts}
            logger.info("%s, split %s: %s", self.NAME, split, ", ".join(f"{key} {n}" for key, n in counted.items()))
        return built

    def export(self, output_dir: str | Path, *, command: str = "") -> dict[str, Any]:
        """Build the splits and write them as a folder of Parquet files with the pictures inside.

        Args:
            output_dir: The folder to write.
            command: The command that the card names.

        Returns:
            The content of the folder's marker file.

        Raises:
            FileExistsError: If `output_dir` exists and is not such a folder.
            ValueError: If the raw files lie in `output_dir`, which is replaced, or a picture cannot be decoded.
        """
        from roc.dataset_scripts.exporting.folder import export_dataset  # here: as in `build`

        check_output_dir(output_dir, source=self.raw_dir)
        return export_dataset(self.build(), output_dir, provenance=self.provenance(command))

    def provenance(self, command: str = "") -> Provenance:
        """Return what card and marker say of the rows; the card names the command."""
        return Provenance(
            builder=self.NAME,
            builder_version=self.VERSION,
            title=self.TITLE,
            description=self.DESCRIPTION,
            license=self.LICENSE,
            license_note=self.LICENSE_NOTE,
            leak_note=self.LEAK_NOTE,
            options=self._options(),
            entity_typer=None if self.entity_typer is None else self.entity_typer.name,
            source_files={
                path.relative_to(self.raw_dir).as_posix(): sha256_of_file(path)
                for files in self.split_files.values()
                for path in files
            },
            split_counts=self.split_counts,
            command=command,
        )

    def _options(self) -> dict[str, Any]:
        named: dict[str, Any] = {"missing_images": self.missing_images, "entity_typer": _typer_name(self._entity_typer)}
        named |= {"parts": self.parts} if self.PARTS else {}
        return named | {flag: getattr(self, flag) for flag in self.FLAGS}

    def _select_splits(self, wanted: Sequence[str] | None) -> dict[str, list[Path]]:
        found = self.find_splits()
        if not found:
            raise FileNotFoundError(f"No split found in {self.raw_dir}: looked for raw files of {', '.join(SPLITS)}.")
        if missing := [split for split in wanted or () if split not in found]:
            raise FileNotFoundError(
                f"{self.raw_dir} has no split {missing[0]!r}; it has {list(found)}. Ask for those with splits=."
            )
        return {split: found[split] for split in SPLITS if split in (found if wanted is None else wanted)}

    def _read(self, split: str) -> list[tuple[RawRow, Path | None]]:
        """Return the checked rows of a split that are kept, each with the path of its picture."""
        rows = list(self.read_split(split))
        seen: dict[str, str] = {}
        for raw in rows:
            check_row(raw.row, raw.where)
            first = seen.setdefault(raw.row["id"], raw.where)
            if first != raw.where:
                raise ValueError(
                    f"{raw.where}: the id {quote(raw.row['id'])} is also the id of {first}. Ids must differ."
                )
        kept = self._apply_picture_policy(rows, split)
        if not kept:
            what = f" with a picture (missing_images={self.missing_images!r})" if rows else ""
            raise ValueError(f"Split {split!r} of {self.raw_dir} has no row{what}.")
        return kept

    def _apply_picture_policy(self, rows: Sequence[RawRow], split: str) -> list[tuple[RawRow, Path | None]]:
        found = [(raw, next(filter(_is_there, raw.image_paths), None)) for raw in rows]
        missing = [raw for raw, path in found if raw.image_paths and path is None]
        if missing and self.missing_images == "error":
            raise FileNotFoundError(self._missing_message(missing, split=split, total=len(rows)))
        skips = self.missing_images == "skip"
        lost = {id(raw) for raw in missing if skips or any(raw.row[role]["bbox"] for role in ("head", "tail"))}
        self.split_counts[split].update(missing_images=len(missing), dropped_rows=len(lost))
        if missing:
            logger.warning(
                "%s, split %s: %d of %d rows lack their picture; missing_images=%r drops %d of them and keeps %d.",
                *(self.NAME, split, len(missing), len(rows), self.missing_images, len(lost), len(missing) - len(lost)),
            )
        return [(raw, path) for raw, path in found if id(raw) not in lost]

    def _missing_message(self, missing: Sequence[RawRow], *, split: str, total: int) -> str:
        first = missing[0]
        tried = shorten(", ".join(map(str, first.image_paths)), 300)
        return (
            f"{first.where}: the picture {quote(first.row['image'])} of row {quote(first.row['id'])} is not "
            f"there; tried {tried}. {len(missing)} of {total} rows of split "
            f"{split!r} lack their picture. {self.PICTURES_HINT} Or choose missing_images='skip' (drop those rows) or "
            "missing_images='no_image' (keep them without a picture); on the command line: --missing_images no_image."
        )

    def fingerprint(self) -> str:
        """Return a hash of all that the built rows depend on: `datasets` would else serve old rows after a change."""
        pictures = [dict.fromkeys(path for _, path in rows if path) for rows in self._rows.values()]
        parts = [
            [str(self.raw_dir), self._options()],
            [sha256_of_file(path) for path in self._code_files()],
            [[split, *map(str, files), *map(sha256_of_file, files)] for split, files in self.split_files.items()],
            [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for paths in pictures for path in paths],
            # by content: installers set the time that a package states, and retrained weights are as large as before
            [[str(path), sha256_of_file(path)] for path in _typer_files(self._entity_typer)],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _code_files(self) -> list[Path]:
        """Return the code that decides the rows: the builders, and what types entities and opens pictures."""
        own = [*(PACKAGE_ROOT / "dataset_scripts").rglob("*.py"), *PACKAGE_ROOT.glob("processing_*_roc.py")]
        return sorted({*own, Path(inspect.getfile(type(self)))})

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split, whose pictures are checked and entities typed.

        Raises:
            ValueError: If a picture cannot be decoded.
        """
        rows = self._rows[split]
        first_row = {path: raw for raw, path in reversed(rows) if path is not None}
        for path, raw in tqdm(first_row.items(), desc=f"checking pictures of {split}", disable=None):
            check_picture(path, f"{raw.where} (row {quote(raw.row['id'])})")
        types = {} if self.entity_typer is None else predict_types((raw.row for raw, _ in rows), self.entity_typer)
        for raw, path in rows:
            row = dict(raw.row, image=None if path is None else str(path))
            for role in ("head", "tail"):
                if row[role]["type"] is None:
                    row[role] = dict(row[role], type=types.get((row["text"], _span(row[role]))))
            check_row(row, raw.where)
            yield row


def predict_types(rows: Iterable[Row], entity_typer: EntityTyper) -> dict[tuple[str, Span | None], str | None]:
    """Predict the types of text entities that have none, by text and span; a text is tagged once, for all its rows."""
    spans: dict[str, dict[Span, None]] = {}
    for row in rows:
        for entity in (row["head"], row["tail"]):
            if entity["type"] is None and (span := _span(entity)) is not None:
                spans.setdefault(row["text"], {})[span] = None
    types: dict[tuple[str, Span | None], str | None] = {}
    texts = list(spans)
    for start in tqdm(range(0, len(texts), TEXTS_PER_TYPING_BATCH), desc="typing entities", disable=None):
        batch = texts[start : start + TEXTS_PER_TYPING_BATCH]
        for text, predicted in zip(batch, entity_typer(batch, [list(spans[text]) for text in batch]), strict=True):
            types.update({(text, span): word for span, word in zip(spans[text], predicted, strict=True)})
    return types


def check_missing_images(missing_images: str) -> None:
    """Raise a `ValueError` if there is no picture policy of that name."""
    allowed = get_args(MissingImages)
    if missing_images not in allowed:
        raise ValueError(
            f"missing_images must be one of {list(allowed)}, got {missing_images!r}."
            f"{did_you_mean(str(missing_images), allowed)}"
        )


def check_parts(name: str, parts: Sequence[str] | None, allowed: Sequence[str]) -> None:
    """Raise a `ValueError` if a data set of that name has no such parts, or none are named."""
    if parts is None:
        return
    if not allowed:
        raise ValueError(f"The data set {name!r} has no parts, but parts={quote(list(parts))} are asked for.")
    unknown = [part for part in parts if part not in allowed]
    if isinstance(parts, str) or not parts or unknown:
        hint = did_you_mean(str(unknown[0]), allowed) if unknown and not isinstance(parts, str) else ""
        raise ValueError(f"parts must list some of {list(allowed)}, got {quote(parts)}.{hint}")


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _span(entity: Entity) -> Span | None:
    return None if entity["start"] is None else (entity["start"], entity["end"])


def _typer_name(entity_typer: str | EntityTyper | None) -> str | None:
    return entity_typer if entity_typer is None or isinstance(entity_typer, str) else entity_typer.name


def _typer_files(entity_typer: str | EntityTyper | None) -> list[Path]:
    """Return the files of the model that a typer's name stands for, if they lie on this machine under that name."""
    name = _typer_name(entity_typer)
    if name is None:
        return []
    package = spacy_package(name)
    spec = None if package is None else importlib.util.find_spec(package)
    folder = Path(name) if package is None else Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not folder.name or not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
