"""How scores grow with the training data, out of finished runs:
`python benchmarks/few_examples.py RUN_FOLDER ... --output CURVES.png`.

Each folder is a run of train.py, such as those of `studies/low_resource.yaml`; its head, `train_share` and seed are
read from the settings saved there. Prints one JSON line with the mean of the seeds, and draws micro-F1 over the share.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from roc.benchmarks.common import run_benchmark
from roc.evaluation.plots import plot_scores_by_share
from roc.training.settings import METRICS_FILE, RUN_FILE

LABELS = {"retrieval": "retrieval over descriptions", "classification": "classification"}
SCORES = ("micro_f1", "macro_f1")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Draw the runs' scores; return them by head and share."""
    found: dict[str, dict[float, list[dict[str, Any]]]] = {head: {} for head in LABELS}
    for folder in map(Path, options.runs):
        settings = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8"))
        val = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["val"]
        own = {"seed": settings["seed"]} | {score: round(val[score], 4) for score in SCORES}
        found[settings["model"]["head"]].setdefault(settings["train_share"], []).append(own)
    curves = {
        LABELS[head]: {share: [run["micro_f1"] for run in runs] for share, runs in shares.items()}
        for head, shares in found.items()
    }
    plot_scores_by_share(curves, options.output, score="validation micro-F1")
    tables = {head: {share: _row(runs) for share, runs in sorted(shares.items())} for head, shares in found.items()}
    return {"benchmark": "few_examples", **tables}


def _row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    means = {f"mean_{score}": round(mean(run[score] for run in runs), 4) for score in SCORES}
    return {**means, "runs": sorted(runs, key=lambda run: run["seed"])}


if __name__ == "__main__":
    runs = {"nargs": "+", "help": "folders that train.py wrote"}
    sys.exit(run_benchmark(measure, {"runs": runs, "--output": {"required": True, "help": "PNG file"}}))
