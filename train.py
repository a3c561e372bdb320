"""Train ROC: `accelerate launch train.py CONFIG.yaml [--field value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import roc.register  # noqa: F401  (AutoModel and AutoProcessor know ROC)
from roc.support.programs import run_program
from roc.training.loop import Parts, train
from roc.training.settings import parse_run_config


def main(arguments: Sequence[str] | None = None, parts: Parts | None = None) -> int:
    """Train with the given command line, and with other parts than the usual ones; returns the exit code."""
    return run_program(lambda: train(parse_run_config(arguments), parts))


if __name__ == "__main__":
    sys.exit(main())
