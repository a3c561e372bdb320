"""What a study found: mean and spread over the seeds of every variant, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from roc.studies.plan import TRAINED, Study
from roc.studies.runs import RunResult
from roc.support.files import atomic_write
from roc.support.markdown import table

logger = logging.getLogger("roc.studies.__main__")

# What a run costs, by its name in `metrics.json`: column, divisor, format.
COSTS = {
    "seconds": ("minutes", 60, "{:.1f}"),
    "trainable_parameters": ("trainable parameters", 1e6, "{:.2f} M"),
    "peak_memory_mib": ("memory", 1, "{:,.0f} MiB"),
}
SCORES = {"accuracy": "accuracy", "micro_f1": "micro-F1", "macro_f1": "macro-F1"}


def summarise(study: Study, results: Sequence[RunResult]) -> dict[str, Any]:
    """Compute mean and spread of every variant.

    Returns:
        `study`, `base`, `commits` (of the finished runs) and `variants`, in the order of the file. A variant has
        `name`, `settings`, `seeds`, the `finished` and the `failed` of them (the latter with reasons); and if a seed
        has finished, spreads of what `COSTS` names (if recorded), and `scorings`: spreads of `accuracy`, `micro_f1`,
        `macro_f1` and `difference`, the micro-F1 less that of the first variant with the same seed. A spread has
        `mean`, `std` (sample standard deviation; None for one seed) and `values`.
    """
    finished = [result for result in results if result.metrics is not None]
    firsts = {result.run.seed: result for result in finished if result.run.variant == study.variants[0]["name"]}
    return {
        "study": study.name,
        "base": study.base,
        "commits": sorted({result.commit or "unknown" for result in finished}),
        "variants": [_summary(variant, study, results, firsts) for variant in study.variants],
    }


def write_report(study: Study, summary: Mapping[str, Any]) -> None:
    """Write the table, `study.md` and `study.json`, into the study's folder."""
    with atomic_write(study.output_dir / "study.json") as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    with atomic_write(study.output_dir / "study.md") as file:
        file.write(_markdown(study, summary))


def draw_report(study: Study, summary: Mapping[str, Any]) -> None:
    """Draw the micro-F1 of the variants that have finished as `study.png`, if there are any and matplotlib is there."""
    finished = [own for own in summary["variants"] if own["finished"]]
    if not finished:
        return
    from roc.evaluation.plots import plot_scores_by_variant  # here: `--help` needs no drawing

    scores = {own["name"]: own["scorings"][TRAINED]["micro_f1"]["values"] for own in finished}
    try:
        plot_scores_by_variant(scores, study.output_dir / "study.png", score="validation micro-F1")
    except ImportError as error:
        logger.warning("no plot: %s", error)


def _summary(
    variant: Mapping[str, Any], study: Study, results: Sequence[RunResult], firsts: Mapping[int, RunResult]
) -> dict[str, Any]:
    own = sorted((own for own in results if own.run.variant == variant["name"]), key=lambda own: own.run.seed)
    finished = {result.run.seed: result for result in own if result.metrics is not None}
    failed = {result.run.seed: result.failure for result in own if result.failure is not None}
    summary: dict[str, Any] = {**variant, "finished": [*finished], "failed": failed}
    if not finished:
        return summary
    for name in COSTS:
        costs = [(result.metrics or {}).get(name) for result in finished.values()]
        if None not in costs:
            summary[name] = spread(costs)
    summary["scorings"] = {}
    for scoring in (TRAINED, *study.scorings):
        scores = {seed: result.scores[scoring] for seed, result in finished.items()}
        base = {seed: firsts[seed].scores[scoring]["micro_f1"] for seed in scores.keys() & firsts.keys()}
        summary["scorings"][scoring] = {
            **{score: spread([given[score] for given in scores.values()]) for score in SCORES},
            "difference": spread([scores[seed]["micro_f1"] - base[seed] for seed in sorted(base)]),
        }
    return summary


def spread(values: Sequence[Any]) -> dict[str, Any]:
    """Return `mean` (None for no value), `std` (sample standard deviation; None for fewer than two) and `values`."""
    deviation = stdev(values) if len(values) > 1 else None
    return {"mean": mean(values) if values else None, "std": deviation, "values": list(values)}


def _markdown(study: Study, summary: Mapping[str, Any]) -> str:
    variants = summary["variants"]
    parts = [
        f"# {study.name}",
        f"Variants of `{study.base}`, validation, in percent: mean ± sample standard deviation over seeds.\n"
        f"Δ is the micro-F1 less that of {study.variants[0]['name']!r} with the same seed.\n"
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
    costs = {name: cost for name, cost in COSTS.items() if any(name in own for own in variants)}
    columns = [*SCORES.values(), "Δ micro-F1", *(column for column, *_ in costs.values())]
    rows = []
    for own in variants:
        seeds = len(own["finished"])
        of_planned = "" if seeds == len(own["seeds"]) else f" of {len(own['seeds'])}"
        failed = f", {len(own['failed'])} failed" if own["failed"] else ""
        cells = [""] * len(columns)
        if seeds:
            scores = own["scorings"][scoring]
            difference = "" if own is variants[0] else percent(scores["difference"], "+.1f")
            cells = [*(percent(scores[score]) for score in SCORES), difference]
            for name, (_, divisor, layout) in costs.items():
                cells.append(layout.format(own[name]["mean"] / divisor) if name in own else "")
        rows.append([own["name"].replace("|", "\\|"), f"{seeds}{of_planned}{failed}", *cells])
    return table(["variant", "seeds", *columns], rows)


def percent(values: Mapping[str, Any], layout: str = ".1f") -> str:
    """Write a spread in percent, "50.5 ± 0.7"; nothing for one of no value."""
    if values["mean"] is None:
        return ""
    return f"{100 * values['mean']:{layout}}" + ("" if values["std"] is None else f" ± {100 * values['std']:.1f}")
