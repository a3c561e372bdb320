"""What the command-line programs share."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import datasets
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging as transformers_logging

EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError, StrictDataclassError)


def run_program(program: Callable[[], dict[str, Any]], *, incomplete: Callable[[Any], bool] = lambda _: False) -> int:
    """Run a program: its result as one JSON line on stdout, logs on stderr, an expected error as one line there.

    Args:
        program: Returns what can be written as JSON; an empty result is not printed.
        incomplete: Whether a result, which is printed all the same, is not all that was asked for.

    Returns:
        The exit code: 0, or 1 after an error or an incomplete result (wrong usage exits with 2 in argparse).
    """
    _set_up_logging()
    try:
        result = program()
        line = json.dumps(result, ensure_ascii=False, allow_nan=False)
    except EXPECTED_ERRORS as error:
        where = "" if _is_main_process() else f" on process {os.environ['RANK']}"
        print(f"error{where}:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    if result:
        print(line)
    return int(incomplete(result))


def _set_up_logging() -> None:
    """Messages go to stderr, and progress bars too where somebody watches; of several processes, the main one's."""
    level = logging.INFO if _is_main_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not _is_main_process():
        transformers_logging.set_verbosity_error()
    for noisy in ("httpx", "httpx2", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not shows_progress():
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()


def shows_progress() -> bool:
    """Whether to draw progress bars: where somebody watches, on the main process."""
    return sys.stderr.isatty() and _is_main_process()


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0  # set by the launcher, before there is an `Accelerator`
