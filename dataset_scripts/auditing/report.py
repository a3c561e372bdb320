"""An audit in words, as JSON, as a table and as a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roc.dataset_scripts.auditing.audit import (
    MAX_P_VALUE,
    MIN_BALANCED_ACCURACY,
    MIN_GAIN,
    Audit,
    Finding,
    Tells,
    Verdict,
)
from roc.dataset_scripts.auditing.lookup import NUM_FOLDS
from roc.messages_roc import quote
from roc.support.figures import INK, MUTED, check_png, new_figure, save_figure
from roc.support.files import atomic_write
from roc.support.markdown import code, fence, prose, table

COLORS: dict[Verdict, str] = {"LEAKS": "#b91c1c", "cue": "#2563eb", "clean": "#94a3b8"}
MEANINGS: dict[Verdict, str] = {
    "LEAKS": "tells it, and no model should see it",
    "cue": "tells it, and may honestly do so",
    "clean": "does not tell it",
}


def summary(audit: Audit) -> dict[str, Any]:
    """Return the audit as it is written as JSON; its shares are of 1."""
    return {
        "rows": audit.rows,
        "none_relation": audit.none_relation,
        "grouped_by": audit.grouped_by,
        "groups": audit.num_groups,
        "verdict": "LEAKS" if audit.found("LEAKS") else "no leak found",
        "leaks": [sentence(own) for own in audit.found("LEAKS")],
        "cues": [sentence(own) for own in audit.found("cue")],
        "max_p_value": audit.max_p_value,
        **audit.repeats,
        "same_for_all_rows": audit.unread,
        "probes": [_entry(own) for own in audit.findings],
    }


def _entry(finding: Finding) -> dict[str, Any]:
    score = finding.score
    return {
        "probe": finding.probe,
        "read": finding.what,
        "tells": finding.tells,
        "verdict": finding.verdict,
        "rows": score.num_rows,
        "accuracy": score.accuracy,
        "interval": [score.low, score.high],
        "baseline": score.baseline,
        "gain": score.gain,
        "errors_removed": score.errors_removed,
        "p_value": score.p_value,
        "balanced_accuracy": score.balanced_accuracy,
        "balanced_p_value": None if score.balanced_accuracy is None else score.balanced_p_value,
        "none_precision": score.precision,
        "none_recall": score.recall,
        "note": finding.extra or None,
    }


def sentence(finding: Finding) -> str:
    """Say what was read, what it tells, how well, and against what."""
    score = finding.score
    read = finding.what[0].upper() + finding.what[1:]
    if finding.tells == "type in the label":
        return (
            f"{read} is the one that the label names for {_percent(score.accuracy)} of {score.num_rows:,} entities; "
            f"a tagger that reads the text finds at most {_percent(score.baseline)}."
        )
    asked = "the relation" if finding.tells == "relation" else "whether there is a relation"
    told = [
        f"{read} tells {asked} in {_percent(score.accuracy)} of {score.num_rows:,} rows; always answering "
        f"{quote(finding.usual)} is right in {_percent(score.baseline)}."
    ]
    if score.balanced_accuracy is not None:
        told.append(f"Where both answers count alike: {_percent(score.balanced_accuracy)}, by chance 50 %.")
    if score.precision is not None:
        told.append(f"As a detector of none: precision {score.precision:.3f}, recall {score.recall:.3f}.")
    return " ".join([*told, finding.extra]).rstrip()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-16 else "< 1e-16"


def to_markdown(audit: Audit, *, title: str, command: str) -> str:
    """Write the audit as Markdown: the verdict in sentences, the table, and how it was measured."""
    leaks, cues = audit.found("LEAKS"), audit.found("cue")
    copies = [own for own in audit.findings if own.extra]
    sections = {
        "What leaks": leaks,
        "What tells something, and may honestly do so": cues,
        "What other splits share with train": copies,
    }
    lists = "\n\n".join(f"## {name}\n\n{_listed(found)}" for name, found in sections.items() if found)
    header = (
        *("probe", "tells", "verdict", "accuracy, %", "95 % interval", "most frequent answer, %", "gain, points"),
        *("errors removed, %", "p", "balanced accuracy, %", "its p"),
    )
    repeats = audit.repeats
    rows = ", ".join(f"{split} {count:,}" for split, count in audit.rows.items())
    none = "no relation means none" if audit.none_relation is None else f"none is {code(audit.none_relation)}"
    parts = [
        f"# Leak audit of {prose(title)}",
        fence(command, "bash"),
        f"Rows: {rows}; {none}. {repeats['repeated_rows']:,} rows repeat the text, picture and pair of another; "
        f"{repeats['contradictory_pairs']:,} pairs are there with several relations, in "
        f"{repeats['contradictory_rows']:,} rows.",
        *([] if leaks else ["**No leak was found.**"]),
        *([lists] if lists else []),
        "## All probes",
        table(header, [_cells(own) for own in audit.findings]),
        f"The same for all rows, so nothing to read: {', '.join(audit.unread) or 'nothing'}.",
        "## How it was measured",
        f"Each probe looks up one reading, and nothing else, in the other folds of a {NUM_FOLDS}-fold "
        f"cross-validation, in which rows of one {audit.grouped_by} stay together ({audit.num_groups:,} groups); "
        "those named `... in train` look up in the training rows and answer the other splits. A probe tells something "
        f"if it is right on at least {100 * MIN_GAIN:.0f} rows of a hundred more than the most frequent answer, or "
        f"tells none or not with a balanced accuracy of at least {100 * MIN_BALANCED_ACCURACY:.0f} %, and if chance "
        f"would do so in at most {MAX_P_VALUE:.0%} of audits: p, of a one-sided sign-flip test over the groups, is "
        f"compared with {MAX_P_VALUE:g} over the number of tests ({audit.max_p_value:.1e}). "
        + "; ".join(f"{verdict}: {meaning}" for verdict, meaning in MEANINGS.items())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(found: Sequence[Finding]) -> str:
    return "\n".join(f"- {prose(sentence(own))}" for own in found)


def _cells(finding: Finding) -> list[str]:
    score = finding.score
    verdict = finding.verdict if finding.verdict != "LEAKS" else "**LEAKS**"
    return [
        finding.probe,
        finding.tells,
        verdict,
        f"{100 * score.accuracy:.1f}",
        f"{100 * score.low:.1f} to {100 * score.high:.1f}",
        f"{100 * score.baseline:.1f}",
        f"{100 * score.gain:+.1f}",
        f"{100 * score.errors_removed:.1f}",
        _p(score.p_value),
        "" if score.balanced_accuracy is None else f"{100 * score.balanced_accuracy:.1f}",
        "" if score.balanced_accuracy is None else _p(score.balanced_p_value),
    ]


def plot_audit(audit: Audit, path: str | os.PathLike[str], *, title: str) -> None:
    """Draw a bar for each probe: its accuracy with a confidence interval, and a mark where the baseline is.

    Args:
        audit: The audit.
        path: PNG file to write.
        title: The title.

    Raises:
        ValueError: If `path` does not end in `.png`.
        ImportError: If matplotlib is not installed.
    """
    check_png(path)
    panels: list[tuple[str, tuple[Tells, ...]]] = [("the relation", ("relation", "type in the label"))]
    if any(own.tells == "none or not" for own in audit.findings):
        panels.append(("none or not", ("none or not",)))
    names = list(dict.fromkeys(own.probe for own in audit.findings))
    figure = new_figure(2.6 + 4.4 * len(panels), 1.6 + 0.24 * len(names), layout="constrained", dpi=110)
    grid = figure.subplots(ncols=len(panels), sharey=True, squeeze=False)
    for axes, (asked, tells) in zip(grid[0], panels):
        for own in (own for own in audit.findings if own.tells in tells):
            place, score = names.index(own.probe), own.score
            percent, low, high = (100 * share for share in (score.accuracy, score.low, score.high))
            reach = [[max(0.0, percent - low)], [max(0.0, high - percent)]]
            color = COLORS[own.verdict]
            axes.barh(place, percent, 0.7, color=color, xerr=reach, ecolor=INK, error_kw={"elinewidth": 1}, gid="bar")
            baseline = 100 * score.baseline
            axes.plot([baseline] * 2, [place - 0.45, place + 0.45], color=INK, linewidth=1.6, gid="baseline")
            axes.text(
                101.5,
                place,
                f"{percent:.1f}",
                va="center",
                fontsize=8,
                color=INK if color != COLORS["clean"] else MUTED,
            )
        axes.set(xlim=(0, 112), xlabel="accuracy in percent", title=f"tells {asked}")
        axes.set_xticks(range(0, 101, 20))
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.grid(visible=True, axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylim(len(names) - 0.4, -0.6)
    _add_legend(figure)
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def _add_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=COLORS[verdict], label=f"{verdict}: {meaning}") for verdict, meaning in MEANINGS.items()
    ]
    mark = Line2D([], [], color=INK, linewidth=1.6, marker="|", linestyle="", markersize=10)
    mark.set_label("most frequent answer")
    figure.legend(handles=[*handles, mark], frameon=False, loc="outside lower center", ncols=2)


def write_report(audit: Audit, folder: str | Path, *, title: str, command: str) -> dict[str, str]:
    """Write `audit.json`, `audit.md` and `audit.png` into a folder, each whole or not at all.

    Returns:
        Their paths.
    """
    paths = {kind: Path(folder) / f"audit.{kind}" for kind in ("png", "md", "json")}
    plot_audit(audit, paths["png"], title=title)
    with atomic_write(paths["md"]) as file:
        file.write(to_markdown(audit, title=title, command=command))
    with atomic_write(paths["json"]) as file:
        json.dump({"command": command, **summary(audit)}, file, ensure_ascii=False, indent=2)
    return {kind: str(path) for kind, path in paths.items()}
