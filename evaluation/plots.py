"""Plots of a run: training curves, a confusion matrix, how far probabilities can be trusted, scores by condition."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from roc.inference.drawing import Color, check_png, entity_color
from roc.support.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _MUTED = "#18202f", "#5c6779"


def plot_training_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plot loss and learning rate, and beside them the validation scores, over the steps of a run.

    Args:
        history: Records in order. Each has `step` (or `epoch`, if no record has a step) and any of `loss`,
            `learning_rate`, `micro_f1`, `accuracy`; scores may also stand in a dict under `val`.
        path: PNG file to write, whole or not at all.

    Raises:
        ValueError: If there are no records, none has a step or an epoch, or `path` is no `.png`.
        ImportError: If matplotlib isn't installed.
    """
    check_png(path)
    records = [{**record, **record.get("val", {})} for record in history]
    axis = next((key for key in ("step", "epoch") if any(key in record for record in records)), None)
    if axis is None:
        raise ValueError(
            f"Among {len(records)} records none has a 'step' or an 'epoch'; give at least one, such as "
            "{'step': 10, 'loss': 1.2, 'learning_rate': 3e-5}."
        )
    figure = _new_figure(11, 4)
    losses, scores = figure.subplots(1, 2)
    _plot_series(losses, records, axis, {"loss": "loss"}, colors=[0])
    losses.set(title="Training", xlabel=axis, ylabel="loss")
    if any("learning_rate" in record for record in records):
        rates = losses.twinx()
        _plot_series(rates, records, axis, {"learning_rate": "learning rate"}, colors=[1], linestyle="--", markersize=3)
        rates.set_ylabel("learning rate", color=_web_color(entity_color(1)))
        rates.spines["top"].set_visible(False)
        rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _plot_series(scores, records, axis, {"micro_f1": "micro F1", "accuracy": "accuracy"}, colors=[2, 4])
    scores.set(title="Validation", xlabel=axis, ylabel="score", ylim=(0, 1))
    if scores.get_lines():
        scores.legend(frameon=False, loc="lower right")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.spines["top"].set_visible(False)
    _save_figure(figure, path)


def plot_confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]], labels: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Plot how true relations (rows) were predicted (columns); colours are shares of a row, numbers are counts.

    Args:
        matrix: Integer array (relations, relations), references in rows, as
            `roc.evaluation.scoring.confusion_matrix` gives it.
        labels: Names of the rows and columns.
        path: PNG file to write, whole or not at all.

    Raises:
        ValueError: If the matrix isn't square with one row per label, or `path` is no `.png`.
        ImportError: If matplotlib isn't installed.
    """
    check_png(path)
    counts = np.asarray(matrix)
    if not labels or counts.shape != (len(labels), len(labels)):
        raise ValueError(
            f"The matrix has shape {counts.shape} for {len(labels)} labels; give one row and one column per label."
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 2.2 + 0.42 * len(labels))
    figure = _new_figure(side + 1, side)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(xlabel="predicted relation", ylabel="true relation")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if shares[row, column] > 0.5 else _INK
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(picture, ax=axes, label="share of the true relation", shrink=0.6)
    _save_figure(figure, path)


def plot_reliability(bins: Sequence[Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Plot how often predictions of like confidence are right, over how many of them there are.

    Args:
        bins: Dicts with `confidence`, `accuracy` and `share` in [0, 1], as
            `roc.evaluation.calibration.reliability` gives them.
        path: PNG file to write, whole or not at all.

    Raises:
        ValueError: If there is no bin, or `path` is no `.png`.
        ImportError: If matplotlib isn't installed.
    """
    check_png(path)
    if not bins:
        raise ValueError("There are no bins to plot: give at least one.")
    confidence, accuracy, share = ([own[key] for own in bins] for key in ("confidence", "accuracy", "share"))
    figure = _new_figure(4.6, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=_MUTED, linestyle="--", label="perfect")
    upper.plot(confidence, accuracy, marker="o", color=_web_color(entity_color(0)), label="model")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    upper.legend(loc="upper left", frameon=False)
    lower.bar(confidence, share, width=0.04, color=_web_color(entity_color(0)))
    lower.set(xlabel="confidence", ylabel="share of pairs")
    _save_figure(figure, path)


def plot_scores_by_share(
    scores: Mapping[str, Mapping[float, Sequence[float]]], path: str | os.PathLike[str], *, score: str
) -> None:
    """Plot how a score grows with the share of the training data: the mean of the seeds, and each of them as a dot.

    Args:
        scores: Per line its label, and per share in (0, 1] the scores of the seeds.
        path: PNG file to write, whole or not at all.
        score: What is on the y axis.

    Raises:
        ValueError: If there is no score, or `path` is no `.png`.
        ImportError: If matplotlib isn't installed.
    """
    check_png(path)
    if not any(seeds for own in scores.values() for seeds in own.values()):
        raise ValueError("There are no scores to plot: give at least one.")
    figure = _new_figure(6.0, 4.2)
    axes = figure.subplots()
    for number, (label, own) in enumerate(scores.items()):
        color = _web_color(entity_color(number))
        shares = sorted(share for share in own if own[share])
        axes.plot(shares, [np.mean(own[share]) for share in shares], color=color, label=label)
        for share in shares:
            axes.scatter([share] * len(own[share]), own[share], color=color, s=14)
    ticks = sorted({share for own in scores.values() for share in own})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
    axes.minorticks_off()
    axes.set(xlabel="share of the training data", ylabel=score)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    _save_figure(figure, path)


def plot_scores_by_variant(scores: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, score: str) -> None:
    """Plot a score of several variants: mean and sample standard deviation over seeds, and each seed as a small dot.

    Args:
        scores: Per variant its label, and the scores of its seeds, at least one, in [0, 1]; a line marks the first.
        path: PNG file to write, whole or not at all.
        score: What is on the x axis.

    Raises:
        ValueError: If there is no score, or `path` is no `.png`.
        ImportError: If matplotlib isn't installed.
    """
    check_png(path)
    if not scores or not all(scores.values()):
        raise ValueError("There are variants without a score to plot, or none: give each at least one score.")
    figure = _new_figure(8.0, 1.3 + 0.36 * len(scores))
    axes = figure.subplots()
    color = _web_color(entity_color(0))
    for place, values in enumerate(scores.values()):
        percent = [100 * value for value in values]
        spread = np.std(percent, ddof=1) if len(percent) > 1 else 0.0
        axes.errorbar(np.mean(percent), place, xerr=spread, color=color, marker="o", capsize=3)
        axes.scatter(percent, [place + 0.22] * len(percent), color=_MUTED, s=9)
    axes.axvline(100 * float(np.mean(next(iter(scores.values())))), color=color, linestyle="--", linewidth=1, alpha=0.6)
    axes.set(xlabel=f"{score} in percent (dashed: {next(iter(scores))})")
    _name_rows(axes, list(scores))
    _save_figure(figure, path)


def plot_scores_by_condition(
    scores: Mapping[str, Mapping[str, float | None]], path: str | os.PathLike[str], *, score: str, title: str
) -> None:
    """Plot a score of several models under several conditions as bars, with a line at the first for comparison.

    Args:
        scores: Per model its label, and per condition the score in [0, 1]; None where it was not scored. All models
            have the same conditions.
        path: PNG file to write, whole or not at all.
        score: What is on the x axis.
        title: What was scored.

    Raises:
        ValueError: If there is no score, the models have different conditions, or `path` is no `.png`.
        ImportError: If matplotlib isn't installed.
    """
    check_png(path)
    if not any(value is not None for own in scores.values() for value in own.values()):
        raise ValueError("There are no scores to plot: give at least one.")
    conditions = list(next(iter(scores.values())))
    if any(list(own) != conditions for own in scores.values()):
        raise ValueError(f"The models have different conditions: give each those of the first, {conditions}.")
    thickness = 0.8 / len(scores)
    figure = _new_figure(8.0, 1.6 + len(conditions) * max(0.4, 0.24 * len(scores)))
    axes = figure.subplots()
    for number, (label, own) in enumerate(scores.items()):
        color = _web_color(entity_color(number))
        places = [place - 0.4 + (number + 0.5) * thickness for place in range(len(conditions))]
        axes.barh(places, [own[name] or 0 for name in conditions], thickness * 0.9, color=color, label=label)
        for place, name in zip(places, conditions):
            value = own[name]
            text, ink = ("not scored", _MUTED) if value is None else (f"{100 * value:.1f}", _INK)
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # hides the lines, not the bars
            axes.text((value or 0) + 0.008, place, text, va="center", fontsize=8, color=ink, bbox=behind)
        first = own[conditions[0]]
        if first is not None:
            axes.axvline(first, color=color, linestyle="--", linewidth=1, alpha=0.6, zorder=0)
    axes.set(xlabel=f"{score} in percent (dashed: {conditions[0]})", xlim=(0, 1.08), title=title)
    axes.set_xticks([percent / 100 for percent in range(0, 101, 20)], [*map(str, range(0, 101, 20))])
    _name_rows(axes, conditions)
    figure.legend(frameon=False, loc="outside lower center", ncols=min(3, len(scores)))
    _save_figure(figure, path)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Rows from top to bottom, at 0, 1, 2 and so on, with lines to read their values by."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _new_figure(width: float, height: float) -> Figure:
    """A figure of its own (inches), without pyplot's global state and without a display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: type `pip install 'roc[plots]'`.") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def _save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _plot_series(
    axes: Any,
    records: Sequence[Mapping[str, Any]],
    axis: str,
    names: Mapping[str, str],
    *,
    colors: list[int],
    **style: Any,
) -> None:
    """Draw each named value over the records that have it; values that aren't finite leave a gap."""
    for (key, label), color in zip(names.items(), colors, strict=True):
        points = [(record[axis], record[key]) for record in records if axis in record and record.get(key) is not None]
        if points:
            x, y = zip(*((x, y if math.isfinite(y) else math.nan) for x, y in points), strict=True)
            # A line of one point can't be seen, and dots on hundreds of points hide the line.
            marker = "o" if len(points) <= 30 else None
            axes.plot(x, y, label=label, color=_web_color(entity_color(color)), marker=marker, **style)


def _web_color(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
