"""Run a program as a stranger's machine would: in a process of its own that has nothing of ours."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from roc.support.hub_upload import hide_token
from roc.support.locks import scratch_folder

logger = logging.getLogger("roc.support.strangers")


def ask_stranger(
    program: Path, request: Mapping[str, Any], *, environment: Callable[[str], Mapping[str, str]], timeout: float
) -> Any:
    """Run a program that reads a request from stdin and prints its answer, both as JSON.

    Args:
        program: A Python file that imports nothing of ROC.
        request: What it reads.
        environment: Takes the path of an empty folder; returns the environment variables of the process.
        timeout: Seconds after which the process is ended.

    Raises:
        RuntimeError: If the program fails, with the last line of what it said (all is logged), or takes too long.
    """
    with scratch_folder("check") as empty:
        try:
            done = subprocess.run(
                # as text: a file would have ROC's own files beside it
                [sys.executable, "-c", program.read_text(encoding="utf-8")],
                input=json.dumps(request),
                env=dict(environment(str(empty))),
                cwd=empty,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"there was no answer within {timeout:g} seconds, after which it was ended") from error
    if done.returncode != 0:
        said = hide_token(done.stderr.strip())
        logger.error("%s", said[-5000:])
        raise RuntimeError((said.splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
