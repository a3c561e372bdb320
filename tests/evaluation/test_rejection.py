"""Measuring how well a model says "none of these": closed forms, drawn inventories, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from tiny import RELATIONS, save_tiny, tiny_model, tiny_processor
from tiny_runs import error_of, line, write_lines
from torch import Tensor

from roc.evaluation.drawn import DrawnInventory, area_under_curve, draw_inventories, even_f1
from roc.evaluation.predictions import Predictions
from roc.evaluation.rejection import main, measure_rejection, roc_curve, share_accepted
from roc.modeling_decisions_roc import HARD_PENALTY, NO_RELATION, decide_relations

NAMES = [relation["name"] for relation in RELATIONS]


def random_scores(num_pairs: int = 60) -> tuple[Tensor, Tensor]:
    """Scores with ties, and which of the pairs are inside."""
    generator = torch.Generator().manual_seed(0)
    is_inside = torch.rand(num_pairs, generator=generator) < 0.4
    return torch.randint(0, 9, (num_pairs,), generator=generator) / 8 + is_inside / 4, is_inside


def test_the_area_is_that_of_scikit_learn() -> None:
    scores, is_inside = random_scores()
    expected = roc_auc_score(is_inside, scores)
    assert area_under_curve(scores[is_inside], scores[~is_inside]) == pytest.approx(expected)
    outside, inside = roc_curve(scores[is_inside], scores[~is_inside])
    assert np.trapezoid(inside, outside) == pytest.approx(expected)
    assert (outside[0], inside[0], outside[-1], inside[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("inside", "others", "area"), [([2], [1], 1), ([1], [2], 0), ([1, 1], [1], 0.5), ([], [1], 0.5)]
)
def test_the_area_by_hand(inside: list[float], others: list[float], area: float) -> None:
    assert area_under_curve(torch.tensor(inside), torch.tensor(others)) == area


def test_the_share_at_a_recall_by_hand() -> None:
    inside, others = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1]), torch.tensor([0.65, 0.6, 0.5, 0.0])
    assert share_accepted(inside, others) == 0.5  # four of five reach 0.6
    assert share_accepted(inside, others, recall=1.0) == 0.75


def test_even_f1_is_that_of_as_many_pairs_outside_as_inside() -> None:
    is_inside = torch.tensor([True] * 4 + [False] * 2)
    is_right = torch.tensor([True, True, False, True, False, False])
    accepted = torch.tensor([True, True, True, False, True, False])
    drawn = DrawnInventory(torch.zeros(6), None, is_right, is_inside, ~is_inside, torch.zeros(6, dtype=torch.bool))
    expected, predicted = [1, 1, 2, 1, *[0] * 4], [1, 1, 1, 0, 1, 1, 0, 0]  # the pairs outside twice
    assert even_f1(drawn, accepted) == pytest.approx(f1_score(expected, predicted, labels=[1, 2], average="micro"))
    assert even_f1(drawn, accepted, is_inside) == pytest.approx(4 / 7)


def predictions_of(cosines: Tensor, labels: Tensor, names: list[str] = NAMES) -> Predictions:
    expected = [names[number] for number in labels.tolist()]
    return Predictions([str(number) for number in range(len(labels))], expected, expected, cosines)


@pytest.mark.parametrize("described", [True, False])
def test_drawn_inventories_are_decided_as_the_model_decides(described: bool) -> None:
    """A model that knows the drawn relations alone gives the same pairs a relation."""
    processor = tiny_processor(vision=False)
    model = tiny_model(processor, vision=False, none_threshold=0.3)
    if not described:
        model.set_relations(RELATIONS, processor)
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(200, len(NAMES), generator=generator) / model.temperature
    predictions = predictions_of(logits, torch.arange(200) % len(NAMES))
    [drawn] = draw_inventories(model, predictions, size=2, num_draws=1, seed=3)
    kept = [number for number in range(len(NAMES)) if drawn.is_inside[number]]
    assert len(kept) == 2
    own = [0, *kept] if described else kept
    model.set_relations([RELATIONS[number] for number in own], processor, none_relation="None" if described else None)
    decided = decide_relations(logits[:, own], model.config, temperature=model.temperature)
    is_accepted = decided > 0 if described else decided != NO_RELATION
    scores = drawn.best - (drawn.none if described else 0.3)
    assert is_accepted.equal(scores >= 0)
    assert 0 < is_accepted.sum() < 200
    places = torch.tensor([own.index(number % 4) if number % 4 in own else -9 for number in range(200)])
    assert drawn.is_right[is_accepted].equal((decided == places)[is_accepted])


def test_draws_differ_by_the_seed_alone_and_leave_pairs_outside() -> None:
    model = tiny_model(tiny_processor())
    predictions = predictions_of(torch.rand(40, len(NAMES)), torch.arange(40) % len(NAMES))

    def inside(seed: int) -> list[list[bool]]:
        draws = draw_inventories(model, predictions, size=1, num_draws=6, seed=seed)
        assert all(int(own.is_inside.sum()) == 10 and int(own.is_outside.sum()) == 20 for own in draws)
        assert all(own.is_unrelated.tolist() == [number % 4 == 0 for number in range(40)] for own in draws)
        return [own.is_inside.tolist() for own in draws]

    assert inside(0) == inside(0) != inside(1)
    [whole] = draw_inventories(model, predictions, size=9, num_draws=1, seed=0)
    assert not whole.is_outside.any()


def test_what_the_data_cannot_tell_is_none() -> None:
    model = tiny_model(tiny_processor())
    drawn = DrawnInventory(
        torch.tensor([0.9, 0.1, 0.2]),
        torch.tensor([0.0, 0.5, 0.0]),
        torch.tensor([True, False, False]),
        torch.tensor([True, False, False]),
        torch.tensor([False, False, True]),
        torch.tensor([False, True, False]),
    )
    measured = measure_rejection([drawn, drawn], model.config)
    assert measured["auc"] == {"mean": 1, "stdev": 0}
    assert measured["micro_f1"]["mean"] == pytest.approx(2 / 3)  # the third is accepted
    assert measured["unrelated_accepted"] == {"mean": 0, "stdev": 0}
    model.config.none_relation = None
    everyone = replace(drawn, none=None, is_outside=~drawn.is_inside, is_unrelated=~drawn.is_right & drawn.is_right)
    measured = measure_rejection([everyone], model.config)
    assert (measured["micro_f1"], measured["unrelated_accepted"]) == (None, None)
    model.config.none_threshold = 0.15
    assert measure_rejection([everyone], model.config)["micro_f1"]["mean"] == pytest.approx(4 / 5)


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    save_tiny(tmp_path / "model", vision=False)
    (tmp_path / "data").mkdir()
    posts = [{key: own for key, own in line(number, "val").items() if key != "image"} for number in range(12)]
    for post in posts:
        post["entities"], post["relations"] = post["entities"][:3], post["relations"][:2]
    write_lines(tmp_path / "data" / "val.jsonl", posts)
    file = {"version": 1, "language": "en", "none_relation": "None", "relations": RELATIONS}
    (tmp_path / "relations.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    paths = {"model": "model", "data_dir": "data", "relations": "relations.yaml"}
    return ["--dataset", "jsonl", *(part for key, own in paths.items() for part in (f"--{key}", str(tmp_path / own)))]


@pytest.mark.usefixtures("fresh_state")
def test_the_command_prints_one_line_and_draws_the_curves(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curve.png"
    assert main([*given, "--inventory_size", "1", "--num_draws", "5", "--output", str(plot)]) == 0
    [printed] = capsys.readouterr().out.splitlines()
    measured = json.loads(printed)
    assert (measured["inventory_size"], measured["num_draws"]) == (1, 5)
    assert all(0 <= measured[key]["mean"] <= 1 for key in ("auc", "micro_f1", "unrelated_accepted"))
    with Image.open(plot) as drawn:
        assert min(drawn.size) > 100
    assert main([*given, "--only", NAMES[1], "--num_draws", "2"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["auc"] is None  # nothing is left out
    assert measured["unrelated_accepted"] is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "coupl"], "--only 'coupl' is not a relation of"),
        (["--inventory_size", "0"], "are at least 1"),
        (["--num_draws", "0"], "are at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    given: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, *more]) == 1
    assert message in error_of(capsys)


def test_pairs_that_all_relations_of_an_inventory_are_ruled_out_for_say_nothing() -> None:
    """As those of one source where the inventory has relations of another alone."""
    model = tiny_model(tiny_processor())
    labels = torch.arange(40) % len(NAMES)
    ruled_out = (labels[:, None] == 1) != (torch.arange(len(NAMES)) == 1)
    logits = torch.rand(40, len(NAMES)) - HARD_PENALTY * ruled_out
    for drawn in draw_inventories(model, predictions_of(logits, labels), size=1, num_draws=8, seed=0):
        inside, outside, unrelated = (int(own.sum()) for own in (drawn.is_inside, drawn.is_outside, drawn.is_unrelated))
        is_own_source = bool(drawn.is_inside[1])
        assert (inside, outside, unrelated) == ((10, 0, 0) if is_own_source else (10, 10, 10))
        assert drawn.best[drawn.is_other].gt(-1).all()
