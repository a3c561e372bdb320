"""The rows of a source as `datasets` keeps them on disk: built once, and anew when anything they depend on changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets.exceptions import DatasetGenerationError

from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.schema import Row
from roc.support.locks import try_lock, unlock

if TYPE_CHECKING:
    from roc.dataset_scripts.building.builder import RocDatasetBuilder


class CachedRows(datasets.GeneratorBasedBuilder):
    """The builder of `datasets` behind a builder of ROC, which reads the raw files."""

    VERSION = datasets.Version("1.0.0")

    def __init__(self, source: RocDatasetBuilder) -> None:
        self._source = source
        cache_dir = None if source.cache_dir is None else str(source.cache_dir)
        super().__init__(cache_dir=cache_dir, dataset_name=source.NAME, hash=source.fingerprint())

    def build(self) -> datasets.DatasetDict:
        """Build the splits, or load them from the cache."""
        self._remove_leftovers()
        try:
            self.download_and_prepare()
        except DatasetGenerationError as error:
            # The wrapper says only "An error occurred"; what happened is its cause.
            raise error.__cause__ or error from None
        return self.as_dataset()

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left half built, of other rows too; what is locked is being built now."""
        for half_built in Path(self._output_dir).parent.glob("*.incomplete"):
            lock = half_built.with_name(f"{half_built.stem}_builder.lock")  # the one that `datasets` takes
            with suppress(OSError):  # nobody can tell
                if lock.is_file() and (descriptor := try_lock(lock)) is not None:
                    shutil.rmtree(half_built, ignore_errors=True)
                    unlock(descriptor)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self._source.DESCRIPTION, features=FEATURES)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in self._source.split_files]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Row]]:
        yield from enumerate(self._source.rows(split))
