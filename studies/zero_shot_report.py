"""What the zero-shot protocol found: scores per split, mean and spread, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roc.evaluation.scoring import macro_scores
from roc.evaluation.zero_shot import RelationSplit
from roc.studies.report import percent, spread
from roc.studies.runs import RunResult
from roc.support.files import atomic_write
from roc.support.markdown import code, prose, table

TEST = "test relations"  # the scoring of a run's saved model
WATCHED = "test_"  # what `roc.studies.watch` puts before scores in a run's history
SCORES = {
    "macro_precision": "macro-P",
    "macro_recall": "macro-R",
    "macro_f1": "macro-F1 (mean of F1)",
    "f1_of_means": "F1 of macro-P and macro-R",
    "accuracy": "accuracy",
}
SYSTEMS = {
    "trained": "ROC, epoch chosen on the eval relations",
    "untrained": "untrained sentence encoder",
    "chosen_on_test": "ROC, epoch chosen on the test relations (published habit)",
}
NOTES = """Each test relation has sentences that training has not seen, and is answered among the test relations alone,
by its descriptions. A mean is over the splits, ± their sample standard deviation. Macro scores are in both ways that
papers give: the mean of each relation's F1, and the F1 of mean precision and mean recall, which is never less.

Only the first line of each number of unseen relations is a result: epoch and everything else were chosen on the eval
relations. The published habit looks at the test relations to choose, and stands here to compare like with like. A
classification head cannot answer: it has one output per relation of training."""

logger = logging.getLogger("roc.studies.zero_shot")


def summarise(
    recipe: str,
    splits: Sequence[RelationSplit],
    results: Mapping[str, RunResult],
    untrained: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Compute the scores of each split, and their means over the splits of each number of unseen relations.

    Returns:
        `recipe`, `commits` (of the finished runs), `splits` and `means`. A split has `name`, `num_unseen`, `failure`
        (None, or why it failed just now), `epochs` (of `trained` and `chosen_on_test`), `eval_macro_f1`, and `scores`:
        for each of `SYSTEMS` that is known what `SCORES` names. `means` has, by the number of unseen relations and
        the system, a spread of each score, as `roc.studies.report.spread` gives it. `classification` is None: it cannot
        answer.
    """
    own = [_of_split(split, results[split.name], untrained[split.name]) for split in splits]
    means = {}
    for m in dict.fromkeys(split["num_unseen"] for split in own):
        scored = [split["scores"] for split in own if split["num_unseen"] == m]
        by_system = {system: [scores[system] for scores in scored if system in scores] for system in SYSTEMS}
        means[str(m)] = {
            system: {name: spread([scores[name] for scores in found]) for name in SCORES}
            for system, found in by_system.items()
            if found
        }
    commits = sorted({result.commit or "unknown" for result in results.values() if result.metrics is not None})
    return {"recipe": recipe, "commits": commits, "splits": own, "means": means, "classification": None}


def _of_split(split: RelationSplit, result: RunResult, untrained: Mapping[str, float]) -> dict[str, Any]:
    told: dict[str, Any] = {"name": split.name, "num_unseen": len(split.test), "failure": result.failure}
    scores: dict[str, Any] = {"untrained": dict(untrained)}
    told |= {"epochs": {}, "eval_macro_f1": None, "scores": scores}
    if result.metrics is None:
        return told
    tested = result.scores[TEST]
    trained = {"accuracy": tested["accuracy"], **macro_scores(tested["per_relation"], split.test)}
    scores["trained"], told["epochs"]["trained"] = trained, result.metrics["best_epoch"]
    told["eval_macro_f1"] = result.metrics["val"]["macro_f1"]
    if (chosen := chosen_on_test(result.metrics["history"], trained)) is not None:
        told["epochs"]["chosen_on_test"], scores["chosen_on_test"] = chosen
    return told


def chosen_on_test(
    history: Sequence[Mapping[str, Any]], trained: Mapping[str, float]
) -> tuple[int, Mapping[str, float]] | None:
    """Return the epoch that scores best on the test relations, and its scores there.

    Args:
        history: The records of a run's epochs.
        trained: The scores of the saved model, which are those of the only validated epoch where there is but one.

    Returns:
        None where the test relations were not scored after each of several epochs.
    """
    validated = [record for record in history if "val" in record]
    if len(validated) == 1:
        return validated[0]["epoch"], trained
    if not all(WATCHED + "macro_f1" in record["val"] for record in validated):
        return None
    best = max(validated, key=lambda record: record["val"][WATCHED + "macro_f1"])
    return best["epoch"], {name: best["val"][WATCHED + name] for name in SCORES}


def write_results(summary: Mapping[str, Any], output_dir: Path) -> None:
    """Write `results.json` and the tables, `results.md`."""
    with atomic_write(output_dir / "results.json") as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    with atomic_write(output_dir / "results.md") as file:
        file.write(_markdown(summary))


def draw_results(summary: Mapping[str, Any], output_dir: Path) -> None:
    """Draw the mean macro-F1 by number of unseen relations as `results.png`, if matplotlib is there."""
    from roc.evaluation.plots import plot_scores_by_condition  # here: `--help` needs no drawing

    means = summary["means"]
    scores = {
        label: {f"{m} unseen": own[system]["macro_f1"]["mean"] if system in own else None for m, own in means.items()}
        for system, label in SYSTEMS.items()
    }
    try:
        plot_scores_by_condition(scores, output_dir / "results.png", score="macro-F1", title="Unseen relations")
    except ImportError as error:
        logger.warning("no plot: %s", error)


def _markdown(summary: Mapping[str, Any]) -> str:
    failed = [own for own in summary["splits"] if own["failure"] is not None]
    parts = [
        "# Relations that training has not seen",
        f"Recipe {code(summary['recipe'])}, in percent. Commit: {', '.join(summary['commits'])}.",
        NOTES,
        _means(summary),
        "## Each split",
        _splits(summary["splits"]),
    ]
    if failed:
        parts += ["Failed:", "\n".join(f"- {prose(own['name'])}: {prose(own['failure'])}" for own in failed)]
    return "\n\n".join(parts) + "\n"


def _means(summary: Mapping[str, Any]) -> str:
    rows = []
    for m, systems in summary["means"].items():
        planned = sum(str(own["num_unseen"]) == m for own in summary["splits"])
        for system, label in SYSTEMS.items():
            found = systems.get(system)
            count = 0 if found is None else len(found["macro_f1"]["values"])
            cells = [""] * len(SCORES) if found is None else [percent(found[name]) for name in SCORES]
            rows.append([m, f"{count} of {planned}", label, *cells])
        rows.append([m, "", "classification head", "cannot answer", *[""] * (len(SCORES) - 1)])
    return table(["unseen", "splits", "", *SCORES.values()], rows)


def _splits(splits: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for own in splits:
        for system, label in SYSTEMS.items():
            scores = own["scores"].get(system)
            cells = [f"{100 * scores[name]:.1f}" for name in SCORES] if scores else [""] * len(SCORES)
            rows.append([prose(own["name"]), label, str(own["epochs"].get(system, "")), *cells])
    return table(["split", "", "epoch", *SCORES.values()], rows)
