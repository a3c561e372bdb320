"""Measures what gives a relation away although no model should see it, in any data set.

    python -m roc.dataset_scripts.leak_audit --dataset mnre --data_dir PATH_TO_MNRE --splits train val \
        --side_inputs train=mre_train_dict.pth val=mre_dev_dict.pth --output_dir outputs/audit

Each probe reads one thing of a row, such as the number of its crops, a file name, or the order of head and tail, and
predicts the relation, and whether there is one, from that alone. `auditing/audit.py` has the rule by which it leaks.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

from roc.dataset_scripts.loading import DATASETS
from roc.dataset_scripts.schema import SPLITS
from roc.messages_roc import quote
from roc.support.programs import run_program

if TYPE_CHECKING:
    from roc.dataset_scripts.auditing.rows import AuditedRow


def main(argv: Sequence[str] | None = None) -> int:
    """Audit a data set with the given command line; the exit code is 0 if the audit ran, whatever it found."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(given)
    return run_program(lambda: _audit(options, shlex.join(["python", "-m", "roc.dataset_scripts.leak_audit", *given])))


def _audit(options: argparse.Namespace, command: str) -> dict[str, Any]:
    from roc.dataset_scripts.auditing.audit import audit_rows  # here, as the next: --help need not wait for them
    from roc.dataset_scripts.auditing.report import summary, write_report
    from roc.dataset_scripts.auditing.rows import load_audited_rows

    files = _side_input_files(options.side_inputs)
    rows = load_audited_rows(
        options.dataset,
        options.data_dir,
        splits=options.splits,
        missing_images=options.missing_images,
        complete=bool(files),
    )
    side_inputs = _side_inputs(files, rows) if files else None
    audit = audit_rows(rows, side_inputs=side_inputs, none_relation=options.none_relation)
    result = {"dataset": options.dataset, "data_dir": options.data_dir, **summary(audit)}
    if options.output_dir is not None:
        title = f"{options.dataset} ({', '.join(audit.rows)})"
        result["files"] = write_report(audit, options.output_dir, title=title, command=command)
    return result


def _side_input_files(given: Sequence[str]) -> dict[str, str]:
    """Return the file of each split of the options `SPLIT=FILE`."""
    files: dict[str, str] = {}
    for option in given:
        split, equals, file = option.partition("=")
        if split not in SPLITS or not equals or not file or split in files:
            raise ValueError(
                f"--side_inputs takes SPLIT=FILE, one for each split, with a split of {list(SPLITS)}; got "
                f"{quote(option)}. Type `--side_inputs train=crops.pth`."
            )
        files[split] = file
    return files


def _side_inputs(files: dict[str, str], rows: Sequence[AuditedRow]) -> list[Sized]:
    """Return the side inputs of all rows; each split that is audited must have its file."""
    from roc.dataset_scripts.auditing.side_inputs import read_side_inputs

    splits = list(dict.fromkeys(row.split for row in rows))
    if set(splits) != set(files):
        raise ValueError(
            f"--side_inputs has files for {sorted(files)}, but the audited splits are {splits}. Give a file for each "
            f"of them, or audit fewer: `--splits {' '.join(files)}`."
        )
    return [own for split in splits for own in read_side_inputs(files[split], [r for r in rows if r.split == split])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m roc.dataset_scripts.leak_audit",
        description="Measure what gives the relation away although no model should see it: side inputs, file names, "
        "order, sizes, types, duplicates. Prints one JSON line.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS, help="which builder; jsonl for JSON lines of your own")
    add("--data_dir", required=True, help="folder of the raw files, or of what a builder wrote")
    add("--splits", nargs="+", choices=SPLITS, help="splits to audit together (default: those that are there)")
    side_inputs = (
        "what else is handed out with the rows of a split: rows by number, id or picture to lists (.json, .pth)"
    )
    add("--side_inputs", nargs="+", default=[], metavar="SPLIT=FILE", help=side_inputs)
    add("--none_relation", help="the relation that means none (default: its usual names)")
    policy = "where a picture of raw files is missing: go on without (default), stop, or drop the row"
    add("--missing_images", choices=("no_image", "error", "skip"), default="no_image", help=policy)
    add("--output_dir", help="folder for audit.json, audit.md (a table) and audit.png (a plot)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
