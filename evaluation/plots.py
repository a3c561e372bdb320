"""Plots of a run: training curves, a confusion matrix, how far probabilities can be trusted, scores by condition.

Each is written to the PNG file `path`, whole or not at all. A file name that does not end in `.png`, or data that
cannot be plotted, is a ValueError, and an ImportError says what to type where matplotlib is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from roc.inference.drawing import set_fonts
from roc.support.figures import INK, MUTED, check_png, entity_color, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_training_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plot loss and learning rate, and beside them the validation scores, over the steps of a run.

    Args:
        history: Records in order. Each has `step` (or `epoch`, if no record has a step) and any of `loss`,
            `learning_rate`, `micro_f1`, `accuracy`; scores may also stand in a dict under `val`.
        path: PNG file to write.
    """
    records = [{**record, **record.get("val", {})} for record in history]
    axis = next((key for key in ("step", "epoch") if any(key in record for record in records)), None)
    if axis is None:
        raise ValueError(
            f"Among {len(records)} records none has a 'step' or an 'epoch'; give at least one, such as "
            "{'step': 10, 'loss': 1.2, 'learning_rate': 3e-5}."
        )
    with _plot(path, 11, 4, ncols=2) as (losses, scores):
        rates = losses.twinx()
        series = {"loss": losses, "learning_rate": rates, "micro_f1": scores, "accuracy": scores}
        for number, (key, axes) in enumerate(series.items()):
            points = [(own[axis], own[key]) for own in records if axis in own and own.get(key) is not None]
            values = [value if np.isfinite(value) else np.nan for _, value in points]  # a gap in the line
            # A line of one point can't be seen, and dots on hundreds of points hide the line.
            style: dict[str, Any] = {"marker": "o" if len(points) <= 30 else None}
            style |= {"linestyle": "--", "markersize": 3} if axes is rates else {}
            style |= {"color": entity_color(number), "label": key.replace("_", " ")}
            axes.plot([place for place, _ in points], values, **style)
        losses.set(title="Training", xlabel=axis, ylabel="loss")
        rates.set_ylabel("learning rate", color=entity_color(1))
        rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        scores.set(title="Validation", xlabel=axis, ylabel="score", ylim=(0, 1))
        scores.legend(frameon=False, loc="lower right")


def plot_confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]], labels: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Plot how true relations (rows) were predicted (columns); colours are shares of a row, numbers are counts.

    Args:
        matrix: Integer array (relations, relations), references in rows, as
            `roc.evaluation.scoring.confusion_matrix` gives it.
        labels: Names of the rows and columns.
        path: PNG file to write.
    """
    counts = np.asarray(matrix)
    if not labels or counts.shape != (len(labels), len(labels)):
        raise ValueError(
            f"The matrix has shape {counts.shape} for {len(labels)} labels; give one row and one column per label."
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 2.2 + 0.42 * len(labels))
    with _plot(path, side + 1, side) as axes:
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set(xlabel="predicted relation", ylabel="true relation")
        axes.grid(visible=False)
        for row, column in zip(*np.nonzero(counts)):
            ink = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7, color=ink)
        axes.figure.colorbar(picture, ax=axes, label="share of the true relation", shrink=0.6)


def plot_reliability(bins: Sequence[Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Plot how often predictions of like confidence are right, for the bins of `evaluation.calibration.reliability`."""
    if not bins:
        raise ValueError("There are no bins to plot: give at least one.")
    confidence, accuracy, share = ([own[key] for own in bins] for key in ("confidence", "accuracy", "share"))
    with _plot(path, 4.6, 5.4, nrows=2, sharex=True, height_ratios=(3, 1)) as (upper, lower):
        upper.plot([0, 1], [0, 1], color=MUTED, linestyle="--", label="perfect")
        upper.plot(confidence, accuracy, marker="o", color=entity_color(0), label="model")
        upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability")
        upper.legend(loc="upper left", frameon=False)
        lower.bar(confidence, share, width=0.04, color=entity_color(0))
        lower.set(xlabel="confidence", ylabel="share of pairs")


def plot_roc_curves(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]], path: str | os.PathLike[str], *, title: str
) -> None:
    """Plot curves of right against wrong acceptance, each thin, and their mean as a thick line.

    Args:
        curves: What `roc.evaluation.rejection.roc_curve` gives of each draw: the shares of sentences outside of the
            inventory that are accepted, from 0 to 1, and of those inside.
        path: PNG file to write.
        title: The title.
    """
    if not curves:
        raise ValueError("There are no curves to plot: give at least one.")
    grid = np.linspace(0, 1, 101)
    with _plot(path, 4.8, 4.8) as axes:
        for outside, inside in curves:
            axes.plot(outside, inside, color=entity_color(0), linewidth=0.6, alpha=0.35)
        mean = np.mean([np.interp(grid, outside, inside) for outside, inside in curves], axis=0)
        axes.plot([0, *grid], [0, *mean], color=entity_color(0), linewidth=2, label="mean of the draws")
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", label="by chance")
        axes.set(xlabel="accepted of the sentences outside", ylabel="accepted of the sentences inside", title=title)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right", frameon=False)


def plot_scores_by_share(
    scores: Mapping[str, Mapping[float, Sequence[float]]], path: str | os.PathLike[str], *, score: str
) -> None:
    """Plot how a score grows with the share of the training data: the mean of the seeds, and each of them as a dot.

    Args:
        scores: The label of each line, and for each share in (0, 1] the scores of the seeds.
        path: PNG file to write.
        score: The name on the y axis.
    """
    if not any(seeds for own in scores.values() for seeds in own.values()):
        raise ValueError("There are no scores to plot: give at least one.")
    ticks = sorted({share for own in scores.values() for share in own})
    with _plot(path, 6.0, 4.2) as axes:
        for number, (label, own) in enumerate(scores.items()):
            points = [(share, value) for share in sorted(own) for value in own[share]]
            means = {share: np.mean(own[share]) for share, _ in points}
            axes.plot([*means], [*means.values()], color=entity_color(number), label=label)
            axes.scatter([own for own, _ in points], [own for _, own in points], color=entity_color(number), s=14)
        axes.set(xlabel="share of the training data", ylabel=score, xscale="log")
        axes.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, loc="upper left")


def plot_scores_by_variant(scores: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, score: str) -> None:
    """Plot a score of several variants: mean and sample standard deviation over seeds, and each seed as a small dot.

    Args:
        scores: The label of each variant, and the scores of its seeds in [0, 1]; a line marks the first variant's mean.
        path: PNG file to write.
        score: The name on the x axis.
    """
    if not scores or not all(scores.values()):
        raise ValueError("There are variants without a score to plot, or none: give each at least one score.")
    first, color = next(iter(scores)), entity_color(0)
    with _plot(path, 8.0, 1.3 + 0.36 * len(scores)) as axes:
        for place, values in enumerate(scores.values()):
            percent = 100 * np.asarray(values)
            spread = percent.std(ddof=1) if len(percent) > 1 else 0.0
            axes.errorbar(percent.mean(), place, xerr=spread, color=color, marker="o", capsize=3)
            axes.scatter(percent, [place + 0.22] * len(percent), color=MUTED, s=9)
        axes.axvline(float(100 * np.mean(scores[first])), color=color, linestyle="--", linewidth=1, alpha=0.6)
        axes.set_xlabel(f"{score} in percent (dashed: {first})")
        _name_rows(axes, list(scores))


def plot_scores_by_condition(
    scores: Mapping[str, Mapping[str, float | None]], path: str | os.PathLike[str], *, score: str, title: str
) -> None:
    """Plot a score of several models under several conditions as bars, with a line at the first for comparison.

    Args:
        scores: The label of each model, and its score in [0, 1] under each condition, or None if it was not scored.
        path: PNG file to write.
        score: The name on the x axis.
        title: The title.

    Raises:
        ValueError: If the models have different conditions.
    """
    if not any(value is not None for own in scores.values() for value in own.values()):
        raise ValueError("There are no scores to plot: give at least one.")
    conditions = list(next(iter(scores.values())))
    if any(list(own) != conditions for own in scores.values()):
        raise ValueError(f"The models have different conditions: give each those of the first, {conditions}.")
    thickness = 0.8 / len(scores)
    with _plot(path, 8.0, 1.6 + len(conditions) * max(0.4, 0.24 * len(scores))) as axes:
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
        axes.figure.legend(frameon=False, loc="outside lower center", ncols=min(3, len(scores)))


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name rows from top to bottom, at 0, 1, 2 and so on."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def _plot(path: str | os.PathLike[str], width: float, height: float, **subplots: Any) -> Iterator[Any]:
    """Give the axes of a new figure (in inches), with a grid; write it as PNG when the block succeeds."""
    check_png(path)
    figure = new_figure(width, height, layout="constrained", dpi=110)
    grid = figure.subplots(**subplots)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    yield grid
    set_fonts(figure)
    save_figure(figure, path)
