"""Which objects of a generated picture decide each relation: kept beside the rows, never in them.

`evidence.jsonl` has one line per row: its `id`, the `kind` of its pair, the `boxes` that decide its relation, and the
boxes of `distractors` that decide nothing, all (x0, y0, x1, y1) in [0, 1], origin top left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from roc.dataset_scripts.exporting.marker import read_side_file
from roc.messages_roc import parse_json

EVIDENCE_FILE = "evidence.jsonl"

BBox = Sequence[float]  # (x0, y0, x1, y1) in [0, 1], origin top left


@dataclass(frozen=True)
class Evidence:
    """What decides the relation of one row.

    Args:
        kind: Kind of its pair, as the builder names it.
        boxes: Boxes of the objects that decide it; empty where none does (the text decides, or that nothing is there).
        distractors: Boxes of objects that look as if they might.
    """

    kind: str
    boxes: Sequence[BBox] = ()
    distractors: Sequence[BBox] = ()


def evidence_lines(evidence: Mapping[str, Evidence]) -> str:
    """Return the content of the file for the evidence of each row, by the row's id."""
    return "".join(json.dumps({"id": row_id, **asdict(found)}) + "\n" for row_id, found in evidence.items())


def load_evidence(folder: str | Path) -> dict[str, Evidence]:
    """Read the evidence of all splits of a folder that a builder wrote, by id of the row.

    Raises:
        FileNotFoundError: If the folder has no evidence.
        ValueError: If the file is not the one that the builder wrote.
    """
    try:
        lines = read_side_file(folder, EVIDENCE_FILE).splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no evidence. Type `python -m roc.dataset_scripts.scenes --output_dir {folder}`."
        ) from error
    rows = [parse_json(line) for line in lines]
    return {row.pop("id"): Evidence(**row) for row in rows}
