"""Plots of a run: training curves, a confusion matrix, how far probabilities can be trusted, scores by condition.

Each is written to a PNG file, whole or not at all. A file name that does not end in `.png` is a ValueError, and an
ImportError says what to type where matplotlib is missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from roc.inference.drawing import INK, MUTED, check_png, entity_color, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_training_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plot loss and learning rate, and beside them the validation scores, over the steps of a run.

    Args:
        history: Records in order. Each has `step` (or `epoch`, if no record has a step) and any of `loss`,
            `learning_rate`, `micro_f1`, `accuracy`; scores may also stand in a dict under `val`.
        path: PNG file to write.

    Raises:
        ValueError: If there are no records, or none has a step or an epoch.
    """
    records = [{**record, **record.get("val", {})} for record in history]
    axis = next((key for key in ("step", "epoch") if any(key in record for record in records)), None)
    if axis is None:
        raise ValueError(
            f"Among {len(records)} records none has a 'step' or an 'epoch'; give at least one, such as "
            "{'step': 10, 'loss': 1.2, 'learning_rate': 3e-5}."
        )
    figure = _new_figure(path, 11, 4)
    losses, scores = figure.subplots(1, 2)
    _plot_series(losses, records, axis, "loss", 0)
    losses.set(title="Training", ylabel="loss")
    rates = losses.twinx()
    _plot_series(rates, records, axis, "learning_rate", 1, linestyle="--", markersize=3)
    if rates.get_lines():
        rates.set_ylabel("learning rate", color=entity_color(1))
        rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    else:
        rates.remove()
    _plot_series(scores, records, axis, "micro_f1", 2, label="micro F1")
    _plot_series(scores, records, axis, "accuracy", 4, label="accuracy")
    scores.set(title="Validation", ylabel="score", ylim=(0, 1))
    if scores.get_lines():
        scores.legend(frameon=False, loc="lower right")
    for axes in (losses, scores):
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
    for axes in figure.axes:
        axes.spines["top"].set_visible(False)
    save_figure(figure, path)


def _plot_series(
    axes: Axes, records: Sequence[Mapping[str, Any]], axis: str, key: str, color: int, **style: Any
) -> None:
    """Draw one value over the records that have it; values that aren't finite leave a gap."""
    points = [(record[axis], record[key]) for record in records if axis in record and record.get(key) is not None]
    if points:
        x, y = zip(*((x, y if math.isfinite(y) else math.nan) for x, y in points), strict=True)
        # A line of one point can't be seen, and dots on hundreds of points hide the line.
        axes.plot(x, y, color=entity_color(color), marker="o" if len(points) <= 30 else None, **style)


def plot_confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]], labels: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Plot how true relations (rows) were predicted (columns); colours are shares of a row, numbers are counts.

    Args:
        matrix: Integer array (relations, relations), references in rows, as
            `roc.evaluation.scoring.confusion_matrix` gives it.
        labels: Names of the rows and columns.
        path: PNG file to write.

    Raises:
        ValueError: If the matrix isn't square with one row per label.
    """
    counts = np.asarray(matrix)
    if not labels or counts.shape != (len(labels), len(labels)):
        raise ValueError(
            f"The matrix has shape {counts.shape} for {len(labels)} labels; give one row and one column per label."
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 2.2 + 0.42 * len(labels))
    figure = _new_figure(path, side + 1, side)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(xlabel="predicted relation", ylabel="true relation")
    for row, column in zip(*np.nonzero(counts)):
        ink = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(picture, ax=axes, label="share of the true relation", shrink=0.6)
    save_figure(figure, path)


def plot_reliability(bins: Sequence[Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Plot how often predictions of like confidence are right, over how many of them there are.

    Args:
        bins: Dicts with `confidence`, `accuracy` and `share` in [0, 1], as
            `roc.evaluation.calibration.reliability` gives them.
        path: PNG file to write.

    Raises:
        ValueError: If there is no bin.
    """
    if not bins:
        raise ValueError("There are no bins to plot: give at least one.")
    confidence, accuracy, share = ([own[key] for own in bins] for key in ("confidence", "accuracy", "share"))
    figure = _new_figure(path, 4.6, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=MUTED, linestyle="--", label="perfect")
    upper.plot(confidence, accuracy, marker="o", color=entity_color(0), label="model")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    upper.legend(loc="upper left", frameon=False)
    lower.bar(confidence, share, width=0.04, color=entity_color(0))
    lower.set(xlabel="confidence", ylabel="share of pairs")
    save_figure(figure, path)


def plot_scores_by_share(
    scores: Mapping[str, Mapping[float, Sequence[float]]], path: str | os.PathLike[str], *, score: str
) -> None:
    """Plot how a score grows with the share of the training data: the mean of the seeds, and each of them as a dot.

    Args:
        scores: Per line its label, and per share in (0, 1] the scores of the seeds.
        path: PNG file to write.
        score: What is on the y axis.

    Raises:
        ValueError: If there is no score.
    """
    if not any(seeds for own in scores.values() for seeds in own.values()):
        raise ValueError("There are no scores to plot: give at least one.")
    figure = _new_figure(path, 6.0, 4.2)
    axes = figure.subplots()
    for number, (label, own) in enumerate(scores.items()):
        points = [(share, value) for share in sorted(own) for value in own[share]]
        means = {share: np.mean(own[share]) for share, _ in points}
        axes.plot([*means], [*means.values()], color=entity_color(number), label=label)
        axes.scatter([share for share, _ in points], [value for _, value in points], color=entity_color(number), s=14)
    ticks = sorted({share for own in scores.values() for share in own})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
    axes.minorticks_off()
    axes.set(xlabel="share of the training data", ylabel=score)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    save_figure(figure, path)


def plot_scores_by_variant(scores: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, score: str) -> None:
    """Plot a score of several variants: mean and sample standard deviation over seeds, and each seed as a small dot.

    Args:
        scores: Per variant its label, and the scores of its seeds, at least one, in [0, 1]; a line marks the first.
        path: PNG file to write.
        score: What is on the x axis.

    Raises:
        ValueError: If there is no variant, or one without a score.
    """
    if not scores or not all(scores.values()):
        raise ValueError("There are variants without a score to plot, or none: give each at least one score.")
    figure = _new_figure(path, 8.0, 1.3 + 0.36 * len(scores))
    axes, color = figure.subplots(), entity_color(0)
    for place, values in enumerate(scores.values()):
        percent = 100 * np.asarray(values)
        spread = percent.std(ddof=1) if len(percent) > 1 else 0.0
        axes.errorbar(percent.mean(), place, xerr=spread, color=color, marker="o", capsize=3)
        axes.scatter(percent, [place + 0.22] * len(percent), color=MUTED, s=9)
    first = next(iter(scores))
    axes.axvline(float(100 * np.mean(scores[first])), color=color, linestyle="--", linewidth=1, alpha=0.6)
    axes.set(xlabel=f"{score} in percent (dashed: {first})")
    _name_rows(axes, list(scores))
    save_figure(figure, path)


def plot_scores_by_condition(
    scores: Mapping[str, Mapping[str, float | None]], path: str | os.PathLike[str], *, score: str, title: str
) -> None:
    """Plot a score of several models under several conditions as bars, with a line at the first for comparison.

    Args:
        scores: Per model its label, and per condition the score in [0, 1]; None where it was not scored. All models
            have the same conditions.
        path: PNG file to write.
        score: What is on the x axis.
        title: What was scored.

    Raises:
        ValueError: If there is no score, or the models have different conditions.
    """
    if not any(value is not None for own in scores.values() for value in own.values()):
        raise ValueError("There are no scores to plot: give at least one.")
    conditions = list(next(iter(scores.values())))
    if any(list(own) != conditions for own in scores.values()):
        raise ValueError(f"The models have different conditions: give each those of the first, {conditions}.")
    figure = _new_figure(path, 8.0, 1.6 + len(conditions) * max(0.4, 0.24 * len(scores)))
    axes, thickness = figure.subplots(), 0.8 / len(scores)
    for number, (label, own) in enumerate(scores.items()):
        color, places = entity_color(number), np.arange(len(conditions)) - 0.4 + (number + 0.5) * thickness
        percent = [100 * (value or 0) for value in own.values()]
        bars = axes.barh(places, percent, thickness * 0.9, color=color, label=label)
        texts = ["not scored" if value is None else f"{100 * value:.1f}" for value in own.values()]
        for text in axes.bar_label(bars, texts, padding=3, fontsize=8):  # its ground hides the lines, not the bars
            text.set(color=MUTED if text.get_text() == "not scored" else INK)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        if own[conditions[0]] is not None:
            axes.axvline(percent[0], color=color, linestyle="--", linewidth=1, alpha=0.6, zorder=0)
    axes.set(xlabel=f"{score} in percent (dashed: {conditions[0]})", xlim=(0, 108), title=title)
    _name_rows(axes, conditions)
    figure.legend(frameon=False, loc="outside lower center", ncols=min(3, len(scores)))
    save_figure(figure, path)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows from top to bottom, at 0, 1, 2 and so on, with lines to read their values by."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _new_figure(path: str | os.PathLike[str], width: float, height: float) -> Figure:
    """A figure (in inches) for a file that must be a PNG."""
    check_png(path)
    return new_figure(width, height, layout="constrained", dpi=110)
