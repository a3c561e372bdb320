"""The zero-shot protocol: `python -m roc.evaluation.zero_shot --recipe FILE --splits FILE --unseen 5 10 15`.

For each split of relations it trains on some, chooses the epoch on the `eval` relations and scores the `test` relations
once, among themselves and from the saved model. Beside it stands what the untrained sentence encoder answers, and what
the published habit would give, an epoch chosen on the test relations. Any setting of a run may follow, as train.py
takes it: `--data_dir DIR --train_share 0.3`. Started again, it runs only what has not finished, and goes on with what
was under way.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from roc.evaluation.zero_shot import RelationSplit, read_splits
from roc.messages_roc import quote, shorten
from roc.relations.files import RelationInventory, read_relation_file
from roc.studies.plan import StudyRun, effective_settings
from roc.studies.runs import (
    RunResult,
    Scorings,
    read_result,
    refuse_changed,
    run_all,
    score_command,
    train_command,
)
from roc.studies.zero_shot_report import TEST, draw_results, summarise, write_results
from roc.support.machine import available_cores
from roc.support.programs import run_program, shows_progress
from roc.training.settings import RunConfig, load_run_config, parse_command_line

# settings of a run that the splits decide about
OF_THE_PROTOCOL = ("held_out_relations", "eval_relations", "num_unseen", "resume")
GPU_BYTES_PER_RUN = 12 * 2**30  # a run at base size, 32 sentences in bf16, with room for longer ones

logger = logging.getLogger("roc.studies.zero_shot")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the protocol with the given command line; returns the exit code, 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.evaluation.zero_shot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--recipe", required=True, help="a run's YAML file, for example configs/fewrel_minilm.yaml")
    add("--splits", required=True, help='JSON file: {"NAME": {"train": [...], "eval": [...], "test": [...]}, ...}')
    add("--unseen", type=int, nargs="+", help="only the splits with so many test relations")
    add("--output_dir", help="folder of tables and runs; outputs/zero_shot/NAME_OF_RECIPE if not given")
    add("--untrained", help="sentence encoder to compare with (default: the recipe's text_model)")
    jobs = "runs beside each other (default: 1 on a CPU; on a GPU as many as have 12 GiB and two cores each)"
    add("--jobs", type=int, help=jobs)
    habit = "score the test relations after every epoch too, to tell what choosing on them would give"
    add("--published_habit", action=argparse.BooleanOptionalAction, default=True, help=habit)
    add("--overwrite", action="store_true", help="run anew what has finished with other settings, or was under way")
    add("--dry_run", action="store_true", help="check everything, list what would run, run nothing")
    options, settings = parser.parse_known_args(arguments)
    return run_program(lambda: _protocol(options, settings), incomplete=lambda result: bool(result.get("failed")))


def _protocol(options: argparse.Namespace, settings: Sequence[str]) -> dict[str, Any]:
    splits = read_splits(options.splits, options.unseen)
    output_dir = Path(options.output_dir or f"outputs/zero_shot/{Path(options.recipe).stem}")
    given = _given_settings(settings)
    base = load_run_config(options.recipe, given)
    inventory = check_recipe(base, splits, options.recipe)
    jobs = 1 if options.dry_run else _num_jobs(options.jobs, len(splits))
    if jobs > 1 and base.num_threads is None:
        base = dataclasses.replace(base, num_threads=max(1, available_cores() // jobs))
    planned = [_plan(split, inventory, base, output_dir, watch=options.published_habit) for split in splits]
    if not options.overwrite:
        refuse_changed([run for run, _ in planned])
    results = {run.variant: read_result(run, own) for run, own in planned}
    missing = [(run, own) for run, own in planned if results[run.variant].metrics is None]
    logger.info("%d of %d splits have finished already; %d jobs", len(planned) - len(missing), len(planned), jobs)
    if options.dry_run:
        for run, own in missing:
            commands = [train_command(run), *(score_command(run, given) for given in own.values())]
            print(f"{run.variant}:", *map(shlex.join, commands), sep="\n  ", file=sys.stderr)
        return {"dry_run": True, "finished": len(planned) - len(missing), "to_run": len(missing)}
    from roc.studies.untrained import untrained_scores  # here: PyTorch takes seconds

    encoder, unseen = options.untrained or base.text_model, {own.name: own.test for own in splits}
    untrained = untrained_scores(base, encoder, inventory, unseen, output_dir)
    with closing(run_all(missing, jobs=jobs, resume=not options.overwrite)) as running:
        for result in tqdm(running, total=len(missing), unit="split", disable=not shows_progress()):
            results[result.run.variant] = result
            write_results(summarise(options.recipe, splits, results, untrained), output_dir)
            _log(result)
    summary = summarise(options.recipe, splits, results, untrained)
    write_results(summary, output_dir)
    draw_results(summary, output_dir)
    return {"output_dir": str(output_dir), **_in_short(summary)}


def _in_short(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the command prints: how many splits have finished and failed, and the means of the macro-F1."""
    return {
        "finished": sum("trained" in own["scores"] for own in summary["splits"]),
        "failed": sum(own["failure"] is not None for own in summary["splits"]),
        "macro_f1": {
            m: {system: {key: own["macro_f1"][key] for key in ("mean", "std")} for system, own in systems.items()}
            for m, systems in summary["means"].items()
        },
    }


def check_recipe(config: RunConfig, splits: Sequence[RelationSplit], recipe: str) -> RelationInventory:
    """Return the relations of a recipe; refuse one that cannot be trained by splits of them.

    Raises:
        ValueError: If it has several sources, names no relation file or one that lacks relations of the splits, or its
            model classifies or reads labels in place of descriptions.
        FileNotFoundError: If there is no such relation file.
    """
    if config.sources is not None:
        raise ValueError(f"{recipe} has several sources; the splits part the relations of one data set.")
    if config.relations is None:
        raise ValueError(f"{recipe} names no relation file. Add --relations FILE, such as relations/fewrel.yaml.")
    if config.model.head != "retrieval":
        raise ValueError(
            f"{recipe}: head={config.model.head!r} cannot answer about unseen relations; take --head retrieval."
        )
    if config.described_by != "descriptions":
        raise ValueError(
            f"{recipe}: described_by={config.described_by!r}; unseen relations are scored by descriptions."
        )
    inventory = read_relation_file(config.relations, entity_types=config.model.entity_types)
    known = set(inventory.names) - {inventory.none_relation}
    for split in splits:
        if unknown := sorted({*split.train, *split.eval, *split.test} - known):
            raise ValueError(
                f"{config.relations} does not describe {shorten(str(unknown))} of the split {split.name!r}. Name the "
                "file that does with --relations."
            )
    return inventory


def _given_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read the settings of a run from the rest of the command line; refuse those that the splits decide about."""
    path, given = parse_command_line(settings)
    if path is not None:
        raise ValueError(f"{quote(path)} belongs to no option. The recipe is given by --recipe.")
    if chosen := [name for name in OF_THE_PROTOCOL if name in given]:
        raise ValueError(f"{chosen} are chosen by the protocol; leave them out.")
    return given


def _plan(
    split: RelationSplit, inventory: RelationInventory, config: RunConfig, output_dir: Path, *, watch: bool
) -> tuple[StudyRun, Scorings]:
    """Return the run of a split, and how its model is scored: on the test relations alone, among themselves."""
    seen = {*split.train, *split.eval, inventory.none_relation}
    own = dataclasses.replace(
        config,
        output_dir=str(output_dir / split.name),
        held_out_relations=[name for name in inventory.names if name not in seen],
        eval_relations=split.eval,
        num_unseen=0,
    )
    effective_settings(own)  # the files are there
    # where one epoch is all there is, there is none to choose
    watched = tuple(split.test) if watch and (own.num_epochs > 1 or own.max_steps is not None) else ()
    scoring = ["--relations", str(own.relations), "--held_out_relations", *split.test]
    scoring += ["--batch_size", str(own.eval_batch_size)]
    return StudyRun(split.name, own, watched), {TEST: scoring}


def _num_jobs(given: int | None, num_splits: int) -> int:
    """Return how many runs go beside each other.

    Raises:
        ValueError: If the given number is less than 1.
    """
    if given is not None and given < 1:
        raise ValueError(f"--jobs {given} is out of range: give 1 or more.")
    if given is None:
        import torch  # here: it takes seconds

        given = 1
        if torch.cuda.is_available():
            free, _ = torch.cuda.mem_get_info()
            given = max(1, min(free // GPU_BYTES_PER_RUN, available_cores() // 2))
    return min(given, num_splits)


def _log(result: RunResult) -> None:
    if result.failure is not None:
        logger.warning("%s failed: %s (see %s)", result.run.variant, result.failure, result.run.log_file)
    else:
        logger.info("%s: macro-F1 %.4f", result.run.variant, result.scores[TEST]["macro_f1"])


if __name__ == "__main__":
    sys.exit(main())
