"""Plots of a run show what they claim, and are written whole or not at all."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixels import extent, longest_run, where

pytest.importorskip("matplotlib")

from roc.evaluation.plots import (
    plot_confusion_matrix,
    plot_reliability,
    plot_scores_by_condition,
    plot_scores_by_share,
    plot_scores_by_variant,
    plot_training_curves,
)
from roc.support.figures import entity_color


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


HISTORY = [{"step": step, "loss": 2.0 / step, "learning_rate": 1e-4 / step} for step in range(1, 50)] + [
    {"step": 25, "val": {"micro_f1": 0.3, "accuracy": 0.5}},
    {"step": 50, "val": {"micro_f1": 0.5, "accuracy": 0.6}},
]
PLOTS = {
    "curves": lambda path: plot_training_curves(HISTORY, path),
    "confusion": lambda path: plot_confusion_matrix([[8, 2], [1, 9]], ["peer", "None"], path),
    "by share": lambda path: plot_scores_by_share({"model": {0.1: [0.3, 0.4]}}, path, score="micro F1"),
    "by variant": lambda path: plot_scores_by_variant({"all": [0.5, 0.6], "less": [0.4]}, path, score="micro F1"),
    "by condition": lambda path: plot_scores_by_condition(
        {"model": {"clean": 0.8, "typos": 0.5}}, path, score="micro F1", title="Robustness"
    ),
    "reliability": lambda path: plot_reliability([{"confidence": 0.5, "accuracy": 0.4, "share": 1.0}], path),
}


def written_by(plot: Any, folder: Path) -> Image.Image:
    path = folder / "plot.png"
    plot(path)
    assert list(folder.iterdir()) == [path]
    with Image.open(path) as image:
        return image.convert("RGB")


def test_a_run_of_one_epoch_shows_its_points(tmp_path: Path):
    record = {"step": 9, "loss": 1.0, "learning_rate": 1e-5, "val": {"micro_f1": 0.5, "accuracy": 0.7}}
    curves = written_by(lambda path: plot_training_curves([record], path), tmp_path)
    assert all(where(curves, entity_color(index)).sum() > 10 for index in range(4))


def test_training_curves_show_every_series_in_its_color(tmp_path: Path):
    curves = written_by(PLOTS["curves"], tmp_path)
    assert curves.width > 2 * curves.height > 600
    for index in range(4):  # loss, learning rate, micro F1, accuracy
        assert where(curves, entity_color(index)).any()


@pytest.mark.parametrize(
    "history",
    [
        [{"step": 1, "loss": 1.0}],
        [{"epoch": 1, "micro_f1": 0.5}, {"epoch": 2, "micro_f1": 0.6, "loss": None}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 1.0}],
        [{"step": 1}],
    ],
    ids=["one point", "by epoch", "not finite", "nothing to show"],
)
def test_training_curves_of_incomplete_records_are_drawn(history: list[dict[str, Any]], tmp_path: Path):
    assert written_by(lambda path: plot_training_curves(history, path), tmp_path).height > 300


@pytest.mark.parametrize("history", [[], [{"loss": 1.0}]])
def test_training_curves_without_steps_are_refused(history: list[dict[str, Any]], tmp_path: Path):
    with pytest.raises(ValueError, match="none has a 'step' or an 'epoch'"):
        plot_training_curves(history, tmp_path / "curves.png")


@pytest.mark.parametrize("matrix", [[[7, 0], [5, 0]], [[1000, 0], [1, 0]]], ids=["frequent", "rare"])
def test_a_confusion_matrix_is_darkest_where_a_whole_row_goes(matrix: list[list[int]], tmp_path: Path):
    image = written_by(lambda path: plot_confusion_matrix(matrix, ["peer", "None"], path), tmp_path)
    darkest_of_blues = "#08306b"
    # The left half holds the left column of cells, but not the colour bar.
    left, top, right, bottom = extent(where(image, darkest_of_blues)[:, : image.width // 2])
    assert bottom - top == pytest.approx(2 * (right - left), rel=0.05)


def test_a_confusion_matrix_of_23_relations_is_large_enough_to_read(tmp_path: Path):
    labels = [f"/per/misc/relation_{i}" for i in range(23)]
    matrix = np.arange(23 * 23).reshape(23, 23)
    image = written_by(lambda path: plot_confusion_matrix(matrix, labels, path), tmp_path)
    assert min(image.size) > 1000


def test_labels_of_any_script_are_drawn_or_their_missing_font_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("roc.inference.drawing._families", lambda: ["DejaVu Sans", "DejaVu Serif"])
    plot_confusion_matrix([[1, 0], [0, 1]], ["γεννήθηκε", "$\\frac$"], tmp_path / "a.png")
    assert not caplog.text
    plot_confusion_matrix([[1, 0], [0, 1]], ["𐎀𐎁", "None"], tmp_path / "b.png")
    plot_scores_by_variant({"without 𐎀": [0.5], "all": [0.6]}, tmp_path / "c.png", score="micro-F1")
    assert caplog.text.count("No font here for: Ugaritic (shown as an empty box). Install the Noto fonts.") == 2


def test_a_relation_without_references_has_an_empty_row(tmp_path: Path):
    assert written_by(lambda path: plot_confusion_matrix(np.zeros((1, 1), int), ["peer"], path), tmp_path).height > 300


@pytest.mark.parametrize(("matrix", "labels"), [([[1, 2]], ["peer"]), ([[1]], ["peer", "None"]), ([], [])])
def test_a_matrix_that_does_not_fit_its_labels_is_refused(matrix: list[Any], labels: list[str], tmp_path: Path):
    with pytest.raises(ValueError, match="one row and one column per label"):
        plot_confusion_matrix(matrix, labels, tmp_path / "confusion.png")


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_a_file_that_is_not_png_is_refused(plot: Any, tmp_path: Path):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        plot(tmp_path / "plot.jpg")


@pytest.mark.usefixtures("without_matplotlib")
@pytest.mark.parametrize("name", PLOTS)
def test_plots_without_matplotlib_say_what_to_install(name: str, tmp_path: Path):
    with pytest.raises(ImportError, match=r"pip install 'roc\[plots\]'"):
        PLOTS[name](tmp_path / "plot.png")


def test_a_reliability_plot_has_its_points_where_the_bins_are(tmp_path: Path):
    bins = [{"confidence": 0.25, "accuracy": 0.5, "share": 0.4}, {"confidence": 0.75, "accuracy": 0.5, "share": 0.6}]
    low = where(written_by(lambda path: plot_reliability(bins, path), tmp_path), entity_color(0))
    higher = [{**own, "accuracy": 0.9} for own in bins]
    high = where(written_by(lambda path: plot_reliability(higher, path), tmp_path), entity_color(0))
    assert low.sum() > 100
    top_right = (slice(low.shape[0] // 5), slice(low.shape[1] // 2, None))  # the legend is on the left
    assert not low[top_right].any()
    assert high[top_right].any()


def test_a_reliability_plot_needs_a_bin(tmp_path: Path):
    with pytest.raises(ValueError, match="no bins"):
        plot_reliability([], tmp_path / "calibration.png")


def test_scores_by_share_have_a_colour_for_each_line_and_more_score_is_higher(tmp_path: Path):
    scores = {"none yet": {}, "low": {0.01: [0.1, 0.12], 0.1: [0.2]}, "high": {0.01: [0.7], 0.1: [0.8, 0.9], 1.0: []}}
    plot = written_by(lambda path: plot_scores_by_share(scores, path, score="micro F1"), tmp_path)
    below_legend = plot.crop((0, plot.height // 4, *plot.size))
    rows = [np.flatnonzero(where(below_legend, entity_color(n)).any(1)) for n in (1, 2)]
    assert rows[1].mean() < rows[0].mean()


def test_scores_by_share_need_a_score(tmp_path: Path):
    with pytest.raises(ValueError, match="no scores"):
        plot_scores_by_share({"model": {0.1: []}}, tmp_path / "curves.png", score="micro F1")


def test_scores_by_variant_have_the_mean_in_the_middle_and_spread_around_it(tmp_path: Path):
    scores = {"wide": [0.2, 0.8], "narrow": [0.49, 0.51], "better": [0.8]}
    plot = written_by(lambda path: plot_scores_by_variant(scores, path, score="micro F1"), tmp_path)
    drawn = where(plot, entity_color(0))[: int(plot.height * 0.8)]  # without the label of the axis
    rows = np.flatnonzero([longest_run(line[None]) > 4 for line in drawn])
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert len(groups) == 3
    columns = [np.flatnonzero(drawn[group].sum(axis=0) > 1) for group in groups]
    wide, narrow, better = (own.max() - own.min() for own in columns)
    assert wide > 10 * narrow
    assert narrow < 40
    assert abs(np.mean([columns[0].min(), columns[0].max()]) - columns[1].mean()) < 4
    assert columns[2].mean() > columns[1].mean() + better


@pytest.mark.parametrize("scores", [{}, {"all": [0.5], "less": []}])
def test_scores_by_variant_need_a_score_of_each(scores: dict[str, list[float]], tmp_path: Path):
    with pytest.raises(ValueError, match="without a score"):
        plot_scores_by_variant(scores, tmp_path / "study.png", score="micro F1")


def bars(plot: Image.Image, number: int) -> list[int]:
    """Lengths in pixels of the bars of one model, from top to bottom."""
    lengths = [longest_run(line[None]) for line in where(plot, entity_color(number))[: int(plot.height * 0.85)]]
    starts = [row for row in range(1, len(lengths)) if lengths[row] > 4 >= lengths[row - 1]]
    return [lengths[row + 3] for row in starts]


def test_scores_by_condition_have_a_bar_for_each_model_as_long_as_its_score(tmp_path: Path):
    scores = {"one": {"clean": 0.8, "blurred": 0.4, "typos": 0.2}, "two": {"clean": 0.6, "blurred": None, "typos": 0.3}}
    plot = written_by(lambda path: plot_scores_by_condition(scores, path, score="micro F1", title="Demo"), tmp_path)
    first, second = bars(plot, 0), bars(plot, 1)
    assert [length / first[0] for length in first] == pytest.approx([1, 0.5, 0.25], abs=0.02)
    assert [length / first[0] for length in second] == pytest.approx([0.75, 0.375], abs=0.02)  # nothing for None


def test_many_conditions_and_models_get_room(tmp_path: Path):
    def plot_of(models: int, conditions: int, name: str) -> Image.Image:
        scores = {f"model {m}": {f"condition {c}": 0.5 for c in range(conditions)} for m in range(models)}
        (tmp_path / name).mkdir()
        return written_by(
            lambda path: plot_scores_by_condition(scores, path, score="micro F1", title="Demo"), tmp_path / name
        )

    small, more, most = plot_of(1, 2, "a"), plot_of(1, 9, "b"), plot_of(5, 9, "c")
    assert small.height + 200 < more.height
    assert more.height + 200 < most.height


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no scores"),
        ({"model": {"clean": None}}, "no scores"),
        ({"one": {"clean": 0.5}, "two": {"clean": 0.5, "typos": 0.4}}, r"different conditions.*those of the first"),
    ],
)
def test_scores_by_condition_need_scores_of_the_same_conditions(scores: Any, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        plot_scores_by_condition(scores, tmp_path / "plot.png", score="micro F1", title="Demo")
