"""Data sets that a model was not trained on: `python -m roc.studies.transfer --model DIR --data_dir DIR`.

Scores the relations, "none of these" included, of SciERC, CoNLL04, WebNLG and the domains of CrossRE with gold
entities, by their descriptions alone, and beside each what the untrained sentence encoder answers. Nothing of a set
chooses anything: the encoder's threshold, like the model's, comes from validation data of the model's own sources. A
set that the model was trained on is left out; with `--recipe FILE` a model is trained without each. Started again, it
trains only what has not finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from roc.dataset_scripts.crossre import DOMAINS
from roc.dataset_scripts.loading import load_dataset_splits
from roc.evaluation.scoring import relation_scores
from roc.messages_roc import did_you_mean
from roc.relations.files import RelationInventory, read_relation_file
from roc.studies.plan import StudyRun
from roc.studies.runs import Scorings, read_result, refuse_changed, run_all
from roc.support.files import atomic_write
from roc.support.markdown import code, prose, table
from roc.support.programs import run_program, shows_progress
from roc.training.data_settings import SourceConfig
from roc.training.settings import RUN_FILE, RunConfig, load_run_config

if TYPE_CHECKING:
    from torch import Tensor

    from roc.evaluation.untrained import UntrainedEncoder

MOST_ROWS = 2000  # of a source's validation rows, to choose the untrained encoder's threshold by
SCORES = {"macro_f1": "macro-F1", "micro_f1": "micro-F1", "precision": "P", "recall": "R"}

NOTE = """Validation splits, gold entities, in percent. A pair without a relation is right where none is found, and
macro-F1 is the mean over the relations. Beside the model stands the untrained sentence encoder, which finds none below
a cosine; that threshold was chosen on validation data of the model's own sources, as all of the model was, never on the
set itself."""

logger = logging.getLogger("roc.studies.transfer")


@dataclass(frozen=True)
class Target:
    """A data set to score: its builder, its folder in that of the data, its relation file, its split."""

    dataset: str
    folder: str
    relations: str
    split: str = "val"
    parts: tuple[str, ...] | None = None

    def is_in(self, source: SourceConfig) -> bool:
        """Tell whether a source of training has rows of it."""
        same = (self.dataset, self.folder) == (source.dataset, Path(source.data_dir).name)
        return same and (None in (self.parts, source.parts) or bool({*(self.parts or ())} & {*(source.parts or ())}))


TARGETS = {
    "SciERC": Target("joint", "scierc", "relations/scierc.yaml"),
    "CoNLL04": Target("joint", "conll04", "relations/conll04.yaml"),
    "WebNLG": Target("webnlg", "webnlg", "relations/webnlg.yaml"),
    **{f"CrossRE, {own}": Target("crossre", "crossre", "relations/crossre.yaml", parts=(own,)) for own in DOMAINS},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Score with the given command line; returns the exit code, 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m roc.studies.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", help="folder that train.py wrote: scores the sets that it was not trained on")
    add(
        "--recipe", help="a run's YAML file with sources: trains without each of the other sets, or all without --model"
    )
    add("--data_dir", required=True, help="folder of the folders scierc, conll04, webnlg, crossre, and of the sources'")
    add("--targets", nargs="+", metavar="NAME", help=f"only some of {', '.join(TARGETS)} (default: all)")
    add("--output_dir", default="outputs/transfer", help="folder of the table and of the runs")
    add("--jobs", type=int, default=1, help="trainings beside each other")
    add("--overwrite", action="store_true", help="run anew what has finished with other settings, or was under way")
    options = parser.parse_args(arguments)
    return run_program(lambda: _transfer(options), incomplete=lambda result: bool(result.get("failed")))


def _transfer(options: argparse.Namespace) -> dict[str, Any]:
    targets = _chosen_targets(options.targets)
    config = _settings(options)
    plan = {name: without(config, target) for name, target in targets.items()}
    own_model = {name for name, target in targets.items() if not any(map(target.is_in, config.data_sources))}
    if options.recipe is None:
        for name in targets.keys() - own_model:
            logger.warning("%s is left out: the model was trained on it. Give its --recipe to train without it.", name)
        targets = {name: target for name, target in targets.items() if name in own_model}
    runs = {
        name: _run_of(name if name not in own_model else "all", plan[name], options.output_dir)
        for name in targets
        if options.model is None or name not in own_model
    }
    failed = _train({run.variant: run for run in runs.values()}, options)
    results: dict[str, Any] = {}
    for name, target in tqdm(targets.items(), unit="set", disable=not shows_progress()):
        run = runs.get(name)
        if run is not None and run.variant in failed:
            continue
        model = options.model if run is None else str(run.folder)
        results[name] = _compare(model, target, plan[name], options.data_dir)
        logger.info("%s: macro-F1 %.4f", name, results[name]["model"]["macro_f1"])
        _write(results, failed, options)
    if not results:
        raise ValueError(f"There is nothing to score: of {[*TARGETS]} none is left. Give --recipe, or other --targets.")
    found = {who: mean(own[who]["macro_f1"] for own in results.values()) for who in ("model", "untrained")}
    scores = {name: {who: own[who]["macro_f1"] for who in found} for name, own in results.items()}
    return {"output_dir": options.output_dir, "failed": len(failed), "macro_f1": scores, "mean": found}


def _chosen_targets(names: Sequence[str] | None) -> dict[str, Target]:
    for name in names or ():
        if name not in TARGETS:
            raise ValueError(f"--targets {name!r} is not among {[*TARGETS]}.{did_you_mean(name, TARGETS)}")
    return {name: target for name, target in TARGETS.items() if names is None or name in names}


def _settings(options: argparse.Namespace) -> RunConfig:
    """Return the settings of the recipe, or else those that the model's run recorded."""
    file = options.recipe
    if file is None:
        if options.model is None:
            raise ValueError("Give --model, --recipe, or both.")
        if not (Path(options.model) / RUN_FILE).is_file():
            raise FileNotFoundError(f"{options.model!r} has no {RUN_FILE}, which says what it was trained on.")
        file = str(Path(options.model) / RUN_FILE)
    return load_run_config(file, {"data_dir": options.data_dir})


def without(config: RunConfig, target: Target) -> RunConfig:
    """Return the settings of a run without the rows of a target: other parts of its sources, or none of them.

    Raises:
        ValueError: If no source is left.
    """
    if not any(map(target.is_in, config.data_sources)):
        return config
    left = []
    for given, source in zip(config.sources or [], config.data_sources, strict=config.sources is not None):
        if not target.is_in(source):
            left.append(given)
        elif target.parts is not None and (
            parts := [own for own in source.parts or DOMAINS if own not in target.parts]
        ):
            left.append({**given, "parts": parts})
    if not left:
        raise ValueError(f"Without {target.folder} no source is left to train on.")
    return dataclasses.replace(config, sources=left)


def _run_of(name: str, config: RunConfig, output_dir: str) -> StudyRun:
    variant = "all" if name == "all" else f"without_{'_'.join(name.lower().replace(',', '').split())}"
    return StudyRun(variant, dataclasses.replace(config, output_dir=str(Path(output_dir) / variant), resume=None))


def _train(runs: Mapping[str, StudyRun], options: argparse.Namespace) -> dict[str, str]:
    """Train what has not finished; return what failed, with its reason."""
    if not options.overwrite:
        refuse_changed([*runs.values()])
    missing: list[tuple[StudyRun, Scorings]] = [
        (run, {}) for run in runs.values() if read_result(run, {}).metrics is None
    ]
    failed = {}
    with closing(run_all(missing, jobs=options.jobs, resume=not options.overwrite)) as running:
        for result in tqdm(running, total=len(missing), unit="run", disable=not shows_progress()):
            if result.failure is not None:
                failed[result.run.variant] = result.failure
                logger.warning("%s failed: %s (see %s)", result.run.variant, result.failure, result.run.log_file)
    return failed


def _compare(model: str, target: Target, config: RunConfig, data_dir: str) -> dict[str, Any]:
    """Score a model, and the encoder that it started from, on a set that it was not trained on."""
    from roc.evaluation.predictions import (
        load_split,
        predict_relations,
        score_predictions,
    )  # here: PyTorch takes seconds
    from roc.inference.posts import load_model

    inventory, folder = read_relation_file(target.relations), str(Path(data_dir) / target.folder)
    trained, processor = load_model(model)
    trained.set_relations(inventory.relations, processor, none_relation=inventory.none_relation)
    where = (target.dataset, folder, target.split)
    samples = load_split(trained, processor, *where, unreadable_rows="skip", parts=target.parts)
    scores = score_predictions(predict_relations(trained, processor, samples), trained.config.none_relation)
    untrained, threshold = _untrained(config, target, inventory, folder)
    return {
        "model": {name: scores[name] for name in SCORES},
        "untrained": {name: untrained[name] for name in SCORES},
        "threshold": threshold,
        "n": scores["n"],
        "num_relations": len(inventory.names) - (inventory.none_relation is not None),
        "trained": model,
    }


def _untrained(
    config: RunConfig, target: Target, inventory: RelationInventory, folder: str
) -> tuple[dict[str, Any], float | None]:
    """Score the untrained encoder; its threshold is the best on validation rows of sources with unrelated pairs."""
    from roc.evaluation.untrained import choose_threshold, nearest

    seen = []
    for source in config.data_sources:
        own = read_relation_file(str(source.relations))
        if own.none_relation is not None:
            rows = _rows(source.dataset, source.data_dir, source.val_split, source.parts)
            rows = random.Random(0).sample(rows, min(len(rows), MOST_ROWS))
            seen.append(_asked(str(config.text_model), rows, own))
    threshold = choose_threshold(seen) if seen else None
    rows = _rows(target.dataset, folder, target.split, target.parts)
    similarities, names, expected = _asked(str(config.text_model), rows, inventory)
    return relation_scores(nearest(similarities, names, threshold=threshold), expected, none_relation=""), threshold


@functools.cache
def _encoder(name: str) -> UntrainedEncoder:
    """Return the encoder, which keeps what it has embedded."""
    from roc.evaluation.untrained import UntrainedEncoder

    return UntrainedEncoder(name)


def _rows(dataset: str, data_dir: str, split: str, parts: Sequence[str] | None) -> list[dict[str, Any]]:
    loaded = load_dataset_splits(dataset, data_dir, splits=[split], parts=parts)[split]
    return loaded.remove_columns(["image"]).to_list()


def _asked(
    encoder: str, rows: Sequence[Mapping[str, Any]], inventory: RelationInventory
) -> tuple[Tensor, list[str], list[str]]:
    """Compare rows with all relations but "none of these"; also return the names, and what the rows state."""
    among = [relation for relation in inventory.relations if relation["name"] != inventory.none_relation]
    expected = ["" if row["relation"] == inventory.none_relation else row["relation"] for row in rows]
    return _encoder(encoder).similarities(rows, among), [own["name"] for own in among], expected


def _write(results: Mapping[str, Any], failed: Mapping[str, str], options: argparse.Namespace) -> None:
    """Write `transfer.json` and the table, `transfer.md`."""
    folder = Path(options.output_dir)
    with atomic_write(folder / "transfer.json") as file:
        content = {"model": options.model, "recipe": options.recipe, "sets": results, "failed": failed}
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    rows = []
    for name, own in results.items():
        cells = [f"{100 * own[who][score]:.1f}" for score in SCORES for who in ("model", "untrained")]
        rows.append([prose(name), str(own["num_relations"]), f"{own['n']:,}", *cells, _difference([own])])
    means = [
        f"{100 * mean(own[who][score] for own in results.values()):.1f}"
        for score in SCORES
        for who in ("model", "untrained")
    ]
    rows.append(["mean", "", "", *means, _difference([*results.values()])])
    columns = [f"{score}{who}" for score in SCORES.values() for who in ("", ", untrained")]
    trained = ", ".join(code(own) for own in dict.fromkeys(own["trained"] for own in results.values()))
    with atomic_write(folder / "transfer.md") as file:
        header = ["set", "relations", "pairs", *columns, "Δ macro-F1"]
        file.write(f"# Sets that training has not seen\n\n{NOTE}\n\nScored: {trained}.\n\n{table(header, rows)}\n")


def _difference(results: Sequence[Mapping[str, Any]]) -> str:
    return f"{100 * mean(own['model']['macro_f1'] - own['untrained']['macro_f1'] for own in results):+.1f}"


if __name__ == "__main__":
    sys.exit(main())
