"""Small checkpoints: `python -m roc.publishing.small_checkpoints --model RUN --output_dir FOLDER`.

A run with an adapter leaves its encoders as they were, so a checkpoint need not hold them: they come from where the run
had them. What is left, the adapter and what joins the encoders, is written in half precision, a few MB.
`AutoModel.from_pretrained` loads it like every other folder where `roc` is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roc.support.programs import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a small checkpoint with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.publishing.small_checkpoints", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder of a run with an adapter")
    parser.add_argument("--output_dir", required=True, help="where to write the checkpoint")
    parser.add_argument("--data_note", help="file with Markdown about the data, for the card")
    options = parser.parse_args(arguments)
    return run_program(lambda: _save(options))


def _save(options: argparse.Namespace) -> dict[str, Any]:
    from roc.publishing.small_folder import save_small_checkpoint  # here: PyTorch takes seconds to import

    note = None if options.data_note is None else Path(options.data_note).read_text(encoding="utf-8")
    return save_small_checkpoint(options.model, options.output_dir, data_note=note)


if __name__ == "__main__":
    sys.exit(main())
