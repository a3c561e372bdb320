"""What to publish of a dataset, and where: the options of `python -m roc.dataset_scripts.publish`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.builder import MissingImages
from roc.dataset_scripts.exporting.variants import VARIANTS
from roc.dataset_scripts.loading import BUILDERS, GENERATED_LICENSE


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
    def builder_flags(self) -> Mapping[str, str]:
        """The flags of the dataset's builder, with their help."""
        return BUILDERS[self.dataset].FLAGS if self.dataset in BUILDERS else {}

    @property
    def flags(self) -> list[str]:
        """The configurations that are a flag of the builder."""
        return [name for name in dict.fromkeys(self.configs or ()) if name in self.builder_flags]

    @property
    def variants(self) -> list[str] | None:
        """The configurations that follow from the rows; None for all that do."""
        return None if self.configs is None else [name for name in dict.fromkeys(self.configs) if name in VARIANTS]

    @property
    def known_license(self) -> str:
        """The licence, known before anything is built."""
        return self.license or (BUILDERS[self.dataset].LICENSE if self.dataset in BUILDERS else GENERATED_LICENSE)

    def command(self) -> str:
        """What to type to publish the same, with names of folders instead of this machine's paths."""
        words = ["python", "-m", "roc.dataset_scripts.publish"]
        for field in fields(self):
            value = getattr(self, field.name)
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
