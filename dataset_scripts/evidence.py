"""Which objects of a generated picture decide each relation: kept beside the rows, never in them.

`evidence.jsonl` has one line per row: its `id`, the `kind` of its pair, the `boxes` that decide its relation, and the
boxes of `distractors` that decide nothing, all (x0, y0, x1, y1) in [0, 1], origin top left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from roc.dataset_scripts.export import read_marker

EVIDENCE_FILE = "evidence.jsonl"

BBox = Sequence[float]  # (x0, y0, x1, y1) in [0, 1], origin top left


@dataclass(frozen=True)
class Evidence:
    """What decides the relation of one row.

    Args:
        kind: Kind of its pair, as the builder names it.
        boxes: Of the objects that decide it; empty where none does (the text decides, or that nothing is there).
        distractors: Boxes of objects that look as if they might.
    """

    kind: str
    boxes: Sequence[BBox] = ()
    distractors: Sequence[BBox] = ()


def evidence_lines(evidence: Mapping[str, Evidence]) -> str:
    """The content of the file, for evidence by id of the row."""
    return "".join(json.dumps({"id": row_id, **asdict(found)}) + "\n" for row_id, found in evidence.items())


def load_evidence(folder: str | Path) -> dict[str, Evidence]:
    """Read the evidence of a folder that a builder wrote.

    Args:
        folder: The folder.

    Returns:
        By id of the row, over all splits.

    Raises:
        FileNotFoundError: If the folder has no evidence.
        ValueError: If the file is not the one that the builder wrote.
    """
    marker, path = read_marker(folder), Path(folder) / EVIDENCE_FILE
    if marker is None or EVIDENCE_FILE not in marker.get("side_files", {}):
        raise FileNotFoundError(
            f"{str(folder)!r} holds no evidence. Type `python -m roc.dataset_scripts.scenes --output_dir {folder}`."
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != marker["side_files"][EVIDENCE_FILE]:
        raise ValueError(f"{path} is not the file that its marker lists: the sha256 differs. Build the folder again.")
    rows = [json.loads(line) for line in content.decode().splitlines()]
    return {row.pop("id"): Evidence(**row) for row in rows}
