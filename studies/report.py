"""What a study found: per variant the mean and spread over seeds, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from roc.studies.plan import TRAINED, Study, Variant
from roc.studies.runs import RunResult
from roc.support.files import atomic_write
from roc.support.markdown import table

logger = logging.getLogger("roc.studies.__main__")

# What a run costs, as `metrics.json` has it: column, divisor, format.
COSTS = {
    "seconds": ("minutes", 60, "{:.1f}"),
    "trainable_parameters": ("trainable parameters", 1e6, "{:.2f} M"),
    "peak_memory_mib": ("memory", 1, "{:,.0f} MiB"),
}
SCORES = {"accuracy": "accuracy", "micro_f1": "micro-F1", "macro_f1": "macro-F1"}


def summarise(study: Study, results: Sequence[RunResult]) -> dict[str, Any]:
    """Mean and spread of every variant.

    Args:
        study: The study.
        results: What is known about its runs.

    Returns:
        `study`, `base`, `commits` (of the finished runs) and `variants`, in the order of the file. A variant has
        `name`, `settings`, `seeds`, of these `finished` and `failed` (per seed the reason); and where a seed has
        finished, spreads of what `COSTS` names (if recorded), and `scorings`: per scoring spreads of `accuracy`,
        `micro_f1`, `macro_f1` and `difference`, the micro-F1 less that of the first variant with the same seed. A
        spread has `mean`, `std` (sample standard deviation; None for one seed) and `values`.
    """
    finished = [result for result in results if result.metrics is not None]
    firsts = {result.run.seed: result for result in finished if result.run.variant == study.variants[0].name}
    variants = []
    for variant in study.variants:
        own = [result for result in results if result.run.variant == variant.name]
        variants.append(_of_variant(variant, study, own, firsts))
    commits = sorted({result.commit or "unknown" for result in finished})
    return {"study": study.name, "base": study.base, "commits": commits, "variants": variants}


def write_report(study: Study, summary: Mapping[str, Any]) -> None:
    """Write the table, `study.md` and `study.json`, into the study's folder."""
    with atomic_write(study.output_dir / "study.json") as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    with atomic_write(study.output_dir / "study.md") as file:
        file.write(_markdown(study, summary))


def draw_report(study: Study, summary: Mapping[str, Any]) -> None:
    """Draw the micro-F1 of what has finished as `study.png`, where there is something to draw, and matplotlib."""
    variants = [own for own in summary["variants"] if own["finished"]]
    scores = {own["name"]: own["scorings"][TRAINED]["micro_f1"]["values"] for own in variants}
    if not scores:
        return
    from roc.evaluation.plots import plot_scores_by_variant  # here: `--help` needs no drawing

    try:
        plot_scores_by_variant(scores, study.output_dir / "study.png", score="validation micro-F1")
    except ImportError as error:
        logger.warning("no plot: %s", error)


def _of_variant(
    variant: Variant, study: Study, results: Sequence[RunResult], firsts: Mapping[int, RunResult]
) -> dict[str, Any]:
    finished = sorted((own for own in results if own.metrics is not None), key=lambda own: own.run.seed)
    summary: dict[str, Any] = {
        "name": variant.name,
        "settings": variant.settings,
        "seeds": list(variant.seeds),
        "finished": [own.run.seed for own in finished],
        "failed": {own.run.seed: own.failure for own in results if own.failure is not None},
    }
    if not finished:
        return summary
    for name in COSTS:
        costs = [(own.metrics or {}).get(name) for own in finished]
        if None not in costs:
            summary[name] = _spread(costs)
    summary["scorings"] = {scoring: _scores(finished, firsts, scoring) for scoring in (TRAINED, *study.scorings)}
    return summary


def _scores(finished: Sequence[RunResult], firsts: Mapping[int, RunResult], scoring: str) -> dict[str, Any]:
    spreads = {score: _spread([own.scores[scoring][score] for own in finished]) for score in SCORES}
    pairs = [(own, firsts[own.run.seed]) for own in finished if own.run.seed in firsts]
    differences = [own.scores[scoring]["micro_f1"] - first.scores[scoring]["micro_f1"] for own, first in pairs]
    return {**spreads, "difference": _spread(differences)}


def _spread(values: Sequence[Any]) -> dict[str, Any]:
    spread = stdev(values) if len(values) > 1 else None
    return {"mean": mean(values) if values else None, "std": spread, "values": list(values)}


def _markdown(study: Study, summary: Mapping[str, Any]) -> str:
    variants = summary["variants"]
    parts = [
        f"# {study.name}",
        f"Variants of `{study.base}`, validation, in percent: mean ± sample standard deviation over seeds.\n"
        f"Δ is the micro-F1 less that of {study.variants[0].name!r} with the same seed.\n"
        f"Commit: {', '.join(summary['commits'])}.",
    ]
    for scoring in (TRAINED, *study.scorings):
        arguments = "" if scoring == TRAINED else f" (`{' '.join(study.scorings[scoring])}`)"
        parts += [f"## Scored {scoring}{arguments}", _table(variants, scoring)]
    failures = [(own["name"], seed, reason) for own in variants for seed, reason in own["failed"].items()]
    if failures:
        parts += ["Failed:", "\n".join(f"- {name}, seed {seed}: {reason}" for name, seed, reason in failures)]
    return "\n\n".join(parts) + "\n"


def _table(variants: Sequence[Mapping[str, Any]], scoring: str) -> str:
    costs = [name for name in COSTS if any(name in own for own in variants)]
    columns = [*SCORES.values(), "Δ micro-F1", *(COSTS[name][0] for name in costs)]
    rows = []
    for own in variants:
        cells = [""] * len(columns)
        if own["finished"]:
            scores = own["scorings"][scoring]
            difference = "" if own is variants[0] else _percent(scores["difference"], signed=True)
            cells = [*(_percent(scores[score]) for score in SCORES), difference, *(_cost(own, name) for name in costs)]
        rows.append([own["name"].replace("|", "\\|"), _seeds(own), *cells])
    return table(["variant", "seeds", *columns], rows)


def _cost(own: Mapping[str, Any], name: str) -> str:
    _, divisor, layout = COSTS[name]
    return layout.format(own[name]["mean"] / divisor) if name in own else ""


def _seeds(own: Mapping[str, Any]) -> str:
    """How many seeds, and where some lack, of how many and why."""
    finished, failed, planned = len(own["finished"]), len(own["failed"]), len(own["seeds"])
    if finished == planned:
        return str(finished)
    return f"{finished} of {planned}" + (f", {failed} failed" if failed else "")


def _percent(spread: Mapping[str, Any], *, signed: bool = False) -> str:
    if spread["mean"] is None:
        return ""
    text = f"{100 * spread['mean']:{'+' if signed else ''}.1f}"
    return text if spread["std"] is None else f"{text} ± {100 * spread['std']:.1f}"
