"""Compare variants of a run over seeds: `python -m roc.studies studies/mnre_ablations.yaml --data_dir DIR`.

Trains every variant with every seed, each as a run of train.py, and writes a table with mean and spread (`study.md`,
`study.json`) and a plot (`study.png`). Started again, it runs only what has not finished, and goes on with what was
under way. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from tqdm.auto import tqdm

from roc.studies.plan import TRAINED, Study, StudyRun, load_study
from roc.studies.report import draw_report, summarise, write_report
from roc.studies.runs import read_result, refuse_changed, run_all, score_command, train_command
from roc.support.programs import run_program, shows_progress

logger = logging.getLogger("roc.studies.__main__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study with the given command line; returns the exit code, 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m roc.studies", description=__doc__, allow_abbrev=False)
    parser.add_argument("study", help="YAML file, for example studies/mnre_ablations.yaml")
    parser.add_argument("--data_dir", help="folder of the data; if not given, what the runs' settings say")
    parser.add_argument("--output_dir", help="folder of the table and of all runs; outputs/studies/NAME if not given")
    parser.add_argument("--seeds", type=int, nargs="+", help="only the runs with these of the study's seeds")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="run anew what has finished with settings that have changed since, and what was under way",
    )
    parser.add_argument("--dry_run", action="store_true", help="check everything, list what would run, run nothing")
    options = parser.parse_args(arguments)
    return run_program(lambda: _study(options), incomplete=lambda result: bool(result.get("failed")))


def _study(options: argparse.Namespace) -> dict[str, Any]:
    study = load_study(options.study, data_dir=options.data_dir, output_dir=options.output_dir)
    runs = _chosen(study, options)
    results = {str(run): read_result(run, study.scorings) for run in study.runs}
    missing = [run for run in runs if results[str(run)].metrics is None]
    if options.dry_run:
        for run in missing:
            print(f"{run}: {shlex.join(train_command(run))}", file=sys.stderr)
            for arguments in study.scorings.values():
                print(f"  {shlex.join(score_command(run, arguments))}", file=sys.stderr)
        return {"dry_run": True, "finished": len(runs) - len(missing), "to_run": len(missing)}
    logger.info("%d of %d runs have finished already", len(runs) - len(missing), len(runs))
    planned = [(run, study.scorings) for run in missing]
    with closing(run_all(planned, resume=not options.overwrite)) as running:
        for result in tqdm(running, total=len(missing), unit="run", disable=not shows_progress()):
            results[str(result.run)] = result
            write_report(study, summarise(study, [*results.values()]))
            if result.failure is not None:
                logger.warning("%s failed: %s (see %s)", result.run, result.failure, result.run.log_file)
            else:
                logger.info("%s: micro-F1 %.4f", result.run, result.scores[TRAINED]["micro_f1"])
    summary = summarise(study, [*results.values()])
    write_report(study, summary)
    draw_report(study, summary)
    variants = [own for own in summary["variants"] if own["finished"]]
    return {
        "output_dir": str(study.output_dir),
        "finished": sum(len(own["finished"]) for own in variants),
        "failed": sum(len(own["failed"]) for own in summary["variants"]),
        "micro_f1": {own["name"]: own["scorings"][TRAINED]["micro_f1"] for own in variants},
    }


def _chosen(study: Study, options: argparse.Namespace) -> list[StudyRun]:
    """Return the runs with the given seeds; refuse those that would replace a finished run with other settings."""
    chosen = [run for run in study.runs if options.seeds is None or run.seed in options.seeds]
    if not chosen:
        known = sorted({run.seed for run in study.runs})
        raise ValueError(f"--seeds {options.seeds}: the study has no run with one of them; its seeds are {known}.")
    if not options.overwrite:
        refuse_changed(chosen)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
