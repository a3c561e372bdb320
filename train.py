"""Train ROC: `accelerate launch train.py CONFIG.yaml [--field value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from roc.training.settings import load_run_config, parse_command_line


def main(arguments: Sequence[str] | None = None, parts: Any = None) -> int:
    """Train with the given command line, and with other `roc.training.loop.Parts` if given; return the exit code."""
    path, given = parse_command_line(arguments)
    import roc.register  # noqa: F401  (AutoModel and AutoProcessor know ROC; here: --help needs no PyTorch)
    from roc.support.programs import run_program
    from roc.training.loop import train

    return run_program(lambda: train(load_run_config(path, given), parts))


if __name__ == "__main__":
    sys.exit(main())
