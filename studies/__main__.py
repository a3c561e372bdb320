"""Compare variants of a run over seeds: `python -m roc.studies studies/mnre_ablations.yaml --data_dir DIR`.

Trains every variant with every seed, each as a run of train.py, and writes a table with mean and spread (`study.md`,
`study.json`) and a plot (`study.png`). Started again, it runs only what has not finished, and goes on with what was
under way.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from tqdm.auto import tqdm

from roc.studies.plan import TRAINED, Study, StudyRun, load_study
from roc.studies.report import draw_report, summarise, write_report
from roc.studies.runs import (
    RunResult,
    StudyRunner,
    changed_settings,
    is_finished,
    log_file,
    read_result,
    score_command,
    train_command,
)
from roc.support.programs import run_program

logger = logging.getLogger("roc.studies.__main__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study with the given command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    with _stopped_by_signals():
        return run_program(lambda: _study(options), incomplete=lambda result: bool(result.get("failed")))


def _study(options: argparse.Namespace) -> dict[str, Any]:
    study = load_study(options.study, data_dir=options.data_dir, output_dir=options.output_dir)
    runs = _chosen(study, options.seeds)
    if not options.overwrite:
        _refuse_changed(runs)
    missing = [run for run in runs if not is_finished(run, study.scorings)]
    if options.dry_run:
        return _plan(study, runs, missing)
    results = {str(run): read_result(run, study.scorings) for run in study.runs}
    num_finished = len(runs) - len(missing)
    logger.info("%d of %d runs have finished already", num_finished, len(runs))
    bar = tqdm(total=len(runs), initial=num_finished, unit="run", disable=not sys.stderr.isatty())
    runner = StudyRunner(study, jobs=options.jobs, resume=not options.overwrite)
    with bar, closing(runner.run(missing)) as ended:
        for result in ended:
            results[str(result.run)] = result
            write_report(study, summarise(study, [*results.values()]))
            _log_result(result)
            bar.update()
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


def _log_result(result: RunResult) -> None:
    if result.failure is not None:
        logger.warning("%s failed: %s (see %s)", result.run, result.failure, log_file(result.run))
    else:
        logger.info("%s: micro-F1 %.4f", result.run, result.scores[TRAINED]["micro_f1"])


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """As after Ctrl-C, what runs is stopped too, also when the study is asked to end or its terminal is closed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as `nohup` sets it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _chosen(study: Study, seeds: Sequence[int] | None) -> list[StudyRun]:
    chosen = [run for run in study.runs if seeds is None or run.seed in seeds]
    if not chosen:
        known = sorted({run.seed for run in study.runs})
        raise ValueError(f"--seeds {seeds}: the study has no run with one of them; its seeds are {known}.")
    return chosen


def _refuse_changed(runs: Sequence[StudyRun]) -> None:
    for run in runs:
        if changed := changed_settings(run):
            raise ValueError(
                f"{run.folder} holds a finished run with other settings: {', '.join(changed)}. Choose another "
                "--output_dir, or add --overwrite to run anew what has changed."
            )


def _plan(study: Study, runs: Sequence[StudyRun], missing: Sequence[StudyRun]) -> dict[str, Any]:
    """What would run, each with its command on stderr."""
    for run in missing:
        print(f"{run}: {shlex.join(train_command(run))}", file=sys.stderr)
        for arguments in study.scorings.values():
            print(f"  {shlex.join(score_command(run, arguments))}", file=sys.stderr)
    return {"dry_run": True, "finished": len(runs) - len(missing), "to_run": len(missing)}


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a whole number of at least 1, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m roc.studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("study", help="YAML file, for example studies/mnre_ablations.yaml")
    parser.add_argument("--data_dir", help="in place of the runs' own")
    parser.add_argument("--output_dir", help="folder of the table and of all runs; outputs/studies/NAME if not given")
    parser.add_argument("--seeds", type=int, nargs="+", help="only the runs with these of the study's seeds")
    parser.add_argument(
        "--jobs", type=_at_least_one, default=1, help="runs beside each other, which share the processor's cores"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="run anew what has finished with settings that have changed since, and what was under way",
    )
    parser.add_argument("--dry_run", action="store_true", help="check everything, list what would run, run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
