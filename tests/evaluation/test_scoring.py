"""Scores agree with closed forms, with scikit-learn and with the counting that published systems use."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from roc.evaluation.predictions import ABSTAINED, Predictions, score_predictions, score_relations
from roc.evaluation.scoring import confusion_matrix, macro_scores, relation_scores

METRIC = Path(__file__).resolve().parents[2] / "evaluation" / "metrics" / "roc_f1"
RELATIONS = ["None", "couple", "member_of", "peer", "siblings"]
NONE_RELATIONS = ["None", "member_of", "siblings", "absent", None]


def random_relations(seed: int) -> tuple[list[str], list[str]]:
    """Predictions and references that agree in about half of the pairs; small ones leave some relations out."""
    generator = random.Random(seed)
    references = [generator.choice(RELATIONS) for _ in range(generator.choice([1, 2, 5, 40, 200]))]
    predictions = [gold if generator.random() < 0.5 else generator.choice(RELATIONS) for gold in references]
    return predictions, references


def written_out_counts(predictions: list[str], references: list[str], none_relation: str | None) -> dict[str, float]:
    """The field's `eval_result`, pair by pair, so that our counters are checked against another way of counting."""
    correct = correct_positive = predicted_positive = gold_positive = 0
    for predicted, gold in zip(predictions, references, strict=True):
        if predicted == gold:
            correct += 1
            if gold != none_relation:
                correct_positive += 1
        if gold != none_relation:
            gold_positive += 1
        if predicted != none_relation:
            predicted_positive += 1
    precision = correct_positive / predicted_positive if predicted_positive else 0.0
    recall = correct_positive / gold_positive if gold_positive else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"accuracy": correct / len(references), "precision": precision, "recall": recall, "micro_f1": f1}


def test_a_small_case_has_the_scores_worked_out_by_hand():
    references = ["peer", "peer", "couple", "None", "None"]
    predictions = ["peer", "None", "peer", "peer", "None"]
    scores = relation_scores(predictions, references, none_relation="None")
    assert scores["n"] == 5
    assert scores["accuracy"] == pytest.approx(2 / 5)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == pytest.approx(1 / 3)
    assert scores["micro_f1"] == pytest.approx(1 / 3)
    # peer: precision 1/3, recall 1/2, F1 0.4; couple: never predicted, F1 0.
    assert scores["macro_f1"] == pytest.approx((0.4 + 0.0) / 2)
    assert scores["per_relation"]["peer"] == pytest.approx({"precision": 1 / 3, "recall": 0.5, "f1": 0.4, "support": 2})
    assert scores["per_relation"]["couple"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert scores["per_relation"]["None"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}


def test_perfect_predictions_score_one_everywhere():
    scores = relation_scores(RELATIONS, RELATIONS, none_relation="None")
    assert [scores[key] for key in ("accuracy", "precision", "recall", "micro_f1", "macro_f1")] == [1.0] * 5


def test_predicting_none_everywhere_scores_zero_and_does_not_divide_by_zero():
    scores = relation_scores(["None", "None"], ["None", "peer"], none_relation="None")
    assert scores["accuracy"] == 0.5
    assert [scores[key] for key in ("precision", "recall", "micro_f1", "macro_f1")] == [0.0] * 4


def test_pairs_that_are_all_none_have_no_relation_to_average_over():
    scores = relation_scores(["None"], ["None"], none_relation="None")
    assert (scores["accuracy"], scores["micro_f1"], scores["macro_f1"]) == (1.0, 0.0, 0.0)
    assert list(scores["per_relation"]) == ["None"]


def test_a_relation_that_is_only_predicted_lowers_the_macro_average():
    scores = relation_scores(["peer", "couple"], ["peer", "None"], none_relation="None")
    assert scores["per_relation"]["couple"]["support"] == 0
    assert scores["macro_f1"] == 0.5


def test_without_a_none_relation_micro_f1_is_the_accuracy():
    predictions, references = random_relations(seed=3)
    scores = relation_scores(predictions, references, none_relation=None)
    assert scores["micro_f1"] == pytest.approx(scores["accuracy"])


@pytest.mark.parametrize("none_relation", NONE_RELATIONS)
@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_scikit_learn(seed: int, none_relation: str | None):
    predictions, references = random_relations(seed)
    scores = relation_scores(predictions, references, none_relation=none_relation)
    occurring = sorted(set(predictions) | set(references))
    positive = [name for name in occurring if name != none_relation]

    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(references, predictions))
    if positive:
        expected = {
            average: sklearn_metrics.precision_recall_fscore_support(
                references, predictions, labels=positive, average=average, zero_division=0
            )
            for average in ("micro", "macro")
        }
        assert (scores["precision"], scores["recall"], scores["micro_f1"]) == pytest.approx(expected["micro"][:3])
        assert scores["macro_f1"] == pytest.approx(expected["macro"][2])
    per_relation = sklearn_metrics.precision_recall_fscore_support(
        references, predictions, labels=occurring, average=None, zero_division=0
    )
    assert list(scores["per_relation"]) == occurring
    for name, *values in zip(occurring, *per_relation, strict=True):
        assert list(scores["per_relation"][name].values()) == pytest.approx(values)


@pytest.mark.parametrize("seed", range(5))
def test_macro_scores_equal_scikit_learn_in_both_ways(seed: int):
    predictions, references = random_relations(seed)
    relations = [*sorted(set(predictions) | set(references)), "never"]
    per_relation = relation_scores(predictions, references, none_relation=None)["per_relation"]
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        references, predictions, labels=relations, average="macro", zero_division=0
    )
    scores = macro_scores(per_relation, relations)
    assert [*scores.values()][:3] == pytest.approx([precision, recall, f1])
    assert scores["f1_of_means"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores["f1_of_means"] >= scores["macro_f1"] - 1e-12


def test_macro_scores_of_no_relation_are_refused_and_of_nothing_right_are_zero():
    with pytest.raises(ValueError, match="nothing to average"):
        macro_scores({}, [])
    assert set(macro_scores({}, ["a"]).values()) == {0.0}


@pytest.mark.parametrize("none_relation", NONE_RELATIONS)
@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_the_counting_of_published_systems(seed: int, none_relation: str | None):
    predictions, references = random_relations(seed)
    scores = relation_scores(predictions, references, none_relation=none_relation)
    expected = written_out_counts(predictions, references, none_relation)
    assert {key: scores[key] for key in expected} == pytest.approx(expected)


def test_the_order_of_the_pairs_does_not_matter():
    predictions, references = random_relations(seed=4)
    shuffled = list(zip(predictions, references, strict=True))
    random.Random(0).shuffle(shuffled)
    assert relation_scores(*zip(*shuffled, strict=True), none_relation="None") == relation_scores(
        predictions, references, none_relation="None"
    )


@pytest.mark.parametrize("score", [lambda *pairs: relation_scores(*pairs, none_relation=None), confusion_matrix])
class TestWrongInput:
    """Both functions refuse the same wrong pairs; `extra` is the matrix's list of relations."""

    def call(self, score, predictions, references):
        extra = [RELATIONS] if score is confusion_matrix else []
        return score(predictions, references, *extra)

    def test_different_numbers_of_predictions_and_references_are_refused(self, score):
        with pytest.raises(ValueError, match="1 predictions for 2 references"):
            self.call(score, ["peer"], ["peer", "peer"])

    def test_nothing_to_score_is_refused(self, score):
        with pytest.raises(ValueError, match="nothing to score"):
            self.call(score, [], [])

    def test_label_ids_are_refused(self, score):
        with pytest.raises(TypeError, match="predictions hold 3, a int; give relation names"):
            self.call(score, [3], ["peer"])

    def test_one_string_for_all_pairs_is_refused(self, score):
        with pytest.raises(TypeError, match="references is one string"):
            self.call(score, ["peer"] * 4, "peer")


def test_the_confusion_matrix_has_references_in_rows():
    matrix = confusion_matrix(["couple", "couple", "peer"], ["peer", "peer", "peer"], ["peer", "couple", "None"])
    np.testing.assert_array_equal(matrix, [[1, 2, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("seed", range(5))
def test_the_confusion_matrix_equals_scikit_learn(seed: int):
    predictions, references = random_relations(seed)
    expected = sklearn_metrics.confusion_matrix(references, predictions, labels=RELATIONS)
    np.testing.assert_array_equal(confusion_matrix(predictions, references, RELATIONS), expected)


def test_the_confusion_matrix_refuses_a_relation_that_is_not_listed():
    with pytest.raises(ValueError, match=r"aren't listed: \['peer'\]"):
        confusion_matrix(["couple"], ["peer"], ["couple"])


def test_the_confusion_matrix_refuses_a_relation_listed_twice():
    with pytest.raises(ValueError, match=r"listed twice: \['peer'\]"):
        confusion_matrix(["peer"], ["peer"], ["peer", "peer"])


@pytest.fixture
def metric(tmp_path: Path) -> evaluate.EvaluationModule:
    return evaluate.load(str(METRIC), cache_dir=str(tmp_path))


def test_the_evaluate_metric_gives_the_same_scores(metric: evaluate.EvaluationModule):
    predictions, references = random_relations(seed=4)
    scores = metric.compute(predictions=predictions, references=references, none_relation="None")
    assert scores == relation_scores(predictions, references, none_relation="None")


@pytest.mark.parametrize("none_relation", NONE_RELATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_reported_is_what_evaluate_gives(
    seed: int, none_relation: str | None, metric: evaluate.EvaluationModule
):
    predicted, expected = random_relations(seed)
    reported = score_predictions(Predictions([], expected, predicted, torch.empty(0)), none_relation)
    if none_relation is None:
        none_relation = ABSTAINED
    assert reported == metric.compute(predictions=predicted, references=expected, none_relation=none_relation)


def test_scoring_leaves_no_files_and_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    score_relations(["peer"], ["peer"], none_relation="None")
    assert list(tmp_path.iterdir()) == []


def test_scoring_leaves_the_random_numbers_of_a_run():
    before = np.random.get_state()
    score_relations(["peer"], ["peer"], none_relation="None")
    np.testing.assert_equal(np.random.get_state(), before)


def test_the_evaluate_metric_collects_batches(metric: evaluate.EvaluationModule):
    predictions, references = random_relations(seed=4)
    for start in range(0, len(references), 7):
        batch = slice(start, start + 7)
        metric.add_batch(predictions=predictions[batch], references=references[batch])
    assert metric.compute(none_relation=None) == relation_scores(predictions, references, none_relation=None)


def test_the_evaluate_metric_asks_for_the_none_relation(metric: evaluate.EvaluationModule):
    with pytest.raises(TypeError, match="none_relation"):
        metric.compute(predictions=["peer"], references=["peer"])
