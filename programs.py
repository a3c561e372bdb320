"""What the command-line programs share."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)


def run_program(program: Callable[[], dict[str, Any]]) -> int:
    """Run a program: its result as one JSON line on stdout, logs on stderr, an expected error as one line there.

    Args:
        program: Returns what can be written as JSON.

    Returns:
        The exit code: 0, or 1 after an error (wrong usage exits with 2 in argparse).
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        result = program()
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result:
        print(json.dumps(result, ensure_ascii=False))
    return 0
