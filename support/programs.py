"""What the command-line programs share, so that their results, errors and logs look alike."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from roc.messages_roc import on_one_line

ENTITY_TYPER_HELP = "typer in place of the model's own: `spacy`, a token-classification model, or `null` for none"
MAX_ERROR_CHARACTERS = 1000  # an error that lists rows and what to do is shorter
EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError)


def run_program(program: Callable[[], dict[str, Any]], *, incomplete: Callable[[Any], bool] = lambda _: False) -> int:
    """Run a program; print its result as one JSON line on stdout, logs and an expected error on stderr.

    Args:
        program: Returns what can be written as JSON; an empty result is not printed. It imports what takes seconds
            itself, so that `--help`, which comes before it, answers at once.
        incomplete: Tells whether a result, which is printed all the same, is not all that was asked for.

    Returns:
        The exit code: 0, or 1 after an error or an incomplete result (wrong usage exits with 2 in argparse).
    """
    try:
        _set_up_logging()
        result = program()
        line = _one_line(result)
    except Exception as error:
        if not _is_expected(error):
            raise
        where = "" if is_main_process() else f" on process {os.environ['RANK']}"
        print(f"error{where}:", on_one_line(error, MAX_ERROR_CHARACTERS), file=sys.stderr)
        return 1
    if result:
        print(line)
    return int(incomplete(result))


def _one_line(result: dict[str, Any]) -> str:
    """Write a result as JSON, with escapes for all characters but ASCII where stdout cannot show one of them."""
    line = json.dumps(result, ensure_ascii=False, allow_nan=False)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(result, allow_nan=False)
    return line


def _is_expected(error: Exception) -> bool:
    """Tell whether an error is for the user to read, and not a defect of the program."""
    from huggingface_hub.errors import StrictDataclassError  # here: its import takes longer than most `--help`

    return isinstance(error, (*EXPECTED_ERRORS, StrictDataclassError))


def _set_up_logging() -> None:
    """Send messages to stderr, and progress bars too where a person watches; of several processes, the main one's."""
    from transformers.utils import logging as transformers_logging  # here: `--help` need not wait for it

    level = logging.INFO if is_main_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not is_main_process():
        transformers_logging.set_verbosity_error()
    for noisy in ("httpx", "httpx2", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not shows_progress():
        transformers_logging.disable_progress_bar()
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when, and if, `datasets` is imported


def shows_progress() -> bool:
    """Tell whether to draw progress bars: on the main process, where a person watches."""
    return sys.stderr.isatty() and is_main_process()


def is_main_process() -> bool:
    """Tell whether this is the first of the processes that a launcher has started together, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0  # set by the launcher, before there is an `Accelerator`
