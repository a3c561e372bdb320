"""The folder that a run writes: whether it may, and what it says there about where the run was made."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import CONFIG_NAME

from roc.modeling_backbones_roc import PACKAGED_MODELS
from roc.support.resources import PACKAGE_ROOT
from roc.training.checkpoints import checkpoint_folder, list_checkpoints
from roc.training.settings import METRICS_FILE, RUN_FILE, RunConfig

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "safetensors", "tokenizers", "pillow")


def check_output_dir(config: RunConfig, *, resumed_from: Path | None = None) -> None:
    """Refuse to replace a folder that is not an earlier run's, and an earlier run's unless asked to.

    Args:
        config: The settings.
        resumed_from: The checkpoint that the run goes on from; None if it starts afresh. A run may replace its own
            folder.

    Raises:
        ValueError: If the folder must not be replaced.
        OSError: If it cannot be written.
    """
    if config.dry_run:
        return
    folder, checkpoints = Path(config.output_dir), checkpoint_folder(config)
    is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken and not (folder / RUN_FILE).is_file():
        raise ValueError(
            f"output_dir={config.output_dir!r} exists and holds something else than a run. Choose another folder."
        )
    goes_on = resumed_from is not None and resumed_from.parent == checkpoints
    # killed after it saved its first model and before its first checkpoint
    starts_again = config.resume == "auto" and not (folder / METRICS_FILE).is_file()
    if not (config.overwrite or goes_on or starts_again):
        if list_checkpoints(checkpoints):
            raise ValueError(
                f"{checkpoints} holds the checkpoints of a run that has not ended. Add --resume auto to go on with it, "
                "or --overwrite to start afresh, or choose another output_dir."
            )
        if is_taken:
            raise ValueError(
                f"output_dir={config.output_dir!r} holds an earlier run. Choose another folder, or add --overwrite."
            )
    try:  # fails now rather than after an epoch
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as probe:
            (Path(probe) / "probe").write_text("x", encoding="utf-8")
    except OSError as error:
        raise OSError(f"output_dir={config.output_dir!r} cannot be written ({error}). Choose another one.") from error


def environment(config: RunConfig) -> dict[str, Any]:
    """What a run is made with: the commit (None outside a checkout), versions, and `base_revisions`.

    Those are of `text_model` and `vision_model`: a commit of the Hub, the version of a package, or None where an
    encoder comes from a folder, starts at random or is not there.
    """
    versions = {library: version(library) for library in LIBRARIES}
    revisions = {name: _revision_of(getattr(config, name)) for name in ("text_model", "vision_model")}
    return {"commit": _commit(), "base_revisions": revisions, "python": sys.version.split()[0], **versions}


def _revision_of(encoder: str | dict[str, Any] | None) -> str | None:
    if encoder is None or isinstance(encoder, dict):
        return None
    if encoder in PACKAGED_MODELS:
        return version(encoder)
    if Path(encoder).is_dir():
        return None
    file = try_to_load_from_cache(encoder, CONFIG_NAME)  # .../snapshots/COMMIT/config.json
    return Path(file).parent.name if isinstance(file, str) else None


def _commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")
    return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
