"""ROC in a browser: `python space/app.py --model FOLDER_OR_HUB_ID`, or as a Space on the Hub."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roc.support.programs import run_program
from roc.support.reading import parse_yaml
from roc.support.resources import find_default_model

HERE = Path(__file__).resolve().parent
MODEL_VARIABLE = "ROC_MODEL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the app until it is stopped; returns the exit code."""
    parser = argparse.ArgumentParser(prog="app.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", help=f"folder or Hub id; else {MODEL_VARIABLE}, README.md's model, or ROC's own")
    options = parser.parse_args(arguments)
    return run_program(lambda: _serve(options.model))


def _serve(model: str | None) -> dict[str, Any]:
    from answers import SharedModel  # here, as the next two: they bring PyTorch and Gradio, which take seconds
    from interface import build_app, launch

    from roc.inference.posts import load_model

    logging.getLogger().setLevel(logging.WARNING)  # nothing is logged of what visitors do
    launch(build_app(SharedModel(*load_model(model or default_model()))))
    return {}


def default_model() -> str:
    """Find the model that the environment names, or else the front matter of the Space's README, or else ROC's own.

    Raises:
        FileNotFoundError: If neither names one, and ROC's own is not there.
    """
    if name := os.environ.get(MODEL_VARIABLE):
        return name
    _, front_matter, _ = (HERE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    models = parse_yaml(front_matter).get("models") or []
    return models[0] if models else find_default_model()


if __name__ == "__main__":
    sys.exit(main())
