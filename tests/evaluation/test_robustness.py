"""The robustness suite: the program runs on tiny models and a tiny set, and what it reports is what was scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from tiny import RELATIONS, tiny_model, tiny_processor

from roc import score
from roc.benchmarks import robustness
from roc.modeling_roc import RocModel

NAMES = [relation["name"] for relation in RELATIONS]
OF_PICTURES = ["no picture", "wrong picture", "cropped", "blurred", "JPEG quality 10"]
OF_TEXT = ["wrong entity types", "typos"]
ORDER = "shuffled relation order"


def post(number: int, picture: str | None) -> dict[str, Any]:
    text = f"ann {'kissed' if number % 2 else 'visits'} bob {'today ' * (number % 3)}in paris {number}"
    starts = [text.index(name) for name in ("ann", "bob")]
    entities: list[dict[str, Any]] = [{"start": start, "end": start + 3, "type": "person"} for start in starts]
    relations = [{"head": 0, "tail": 1, "relation": NAMES[number % 2]}]
    if number % 5 == 0:
        relations.append({"head": 1, "tail": 0, "relation": NAMES[1]})
    made: dict[str, Any] = {"id": str(number), "text": text, "entities": entities, "relations": relations}
    if picture is not None:
        entities.append({"bbox": [0.0, 0.2, 0.15 * (1 + number), 0.9], "name": "thing"})
        relations.append({"head": 1, "tail": 2, "relation": NAMES[number % 4]})
        made["image"] = picture
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five posts with pictures; and, in `plain`, 41 of which two have one."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "plain").mkdir()
    for number in range(5):
        picture = Image.effect_noise((48, 36), 20 * (1 + number)).convert("RGB")
        for own in (folder, folder / "plain"):
            picture.save(own / f"{number}.png")
    for own, posts in {
        folder: [post(number, f"{number}.png") for number in range(5)],
        folder / "plain": [*(post(n, f"{n}.png") for n in range(2)), *(post(n, None) for n in range(2, 41))],
    }.items():
        lines = "".join(json.dumps(made) + "\n" for made in posts)
        (own / "val.jsonl").write_text(lines, encoding="utf-8")
    return folder


def save(folder: Path, *, vision: bool = True, **options: Any) -> str:
    processor = tiny_processor(vision=vision)
    tiny_model(processor, vision=vision, **options).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sees": save(folder / "sees"),
        "reads": save(folder / "reads", vision=False, seed=1),
        "classifies": save(folder / "classifies", head="classification"),
    }


Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    data: Path,
) -> Run:
    """Run the suite, or another program, on the data: exit code, the JSON line, stderr."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))

    def run_main(
        *models: str, more: Any = (), folder: Path = data, main: Any = robustness.main
    ) -> tuple[int, Any, str]:
        capsys.readouterr()
        named = [part for model in models for part in ("--model", model)]
        code = main([*named, "--dataset", "jsonl", "--data_dir", str(folder), *map(str, more)])
        printed = capsys.readouterr()
        assert printed.out.count("\n") <= 1
        return code, json.loads(printed.out or "null"), printed.err

    return run_main


def table(folder: Path) -> list[list[str]]:
    """The cells of the rows of the written table."""
    lines = (folder / "robustness.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]


def test_the_suite_scores_every_condition_and_writes_a_table_and_a_plot(
    run: Run, models: dict[str, str], tmp_path: Path
) -> None:
    code, result, _ = run(models["sees"], models["reads"], more=["--output_dir", tmp_path / "out"])
    assert code == 0
    assert {key: result[key] for key in ("benchmark", "dataset", "split", "seed")} == {
        "benchmark": "robustness",
        "dataset": "jsonl",
        "split": "val",
        "seed": 0,
    }
    assert list(result["models"]) == ["sees", "reads"]
    for label, own in result["models"].items():
        assert own["n"] == 11
        assert list(own["conditions"]) == ["clean", *OF_PICTURES, *OF_TEXT, ORDER]
        clean = own["conditions"]["clean"]
        for name, measured in own["conditions"].items():
            if label == "reads" and name in OF_PICTURES:
                assert measured == {"skipped": "the model reads no pictures", "difference": {}}
                continue
            assert {kind: part["n"] for kind, part in measured["pair_kinds"].items()} == {
                "text-text": 6,
                "text-object": 5,
            }
            assert measured["difference"] == {
                score: measured[score] - clean[score] for score in ("micro_f1", "macro_f1", "accuracy")
            }
            right = sum(part["n"] * part["accuracy"] for part in measured["pair_kinds"].values())
            assert measured["accuracy"] == pytest.approx(right / 11)
            assert measured.get("share_changed", 1) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["robustness.md", "robustness.png"]
    with Image.open(tmp_path / "out" / "robustness.png") as image:
        assert image.format == "PNG"
    rows = table(tmp_path / "out")
    assert [row[:2] for row in rows[:4]] == [
        ["clean", "sees"],
        ["clean", "reads"],
        *(["no picture", m] for m in ("sees", "reads")),
    ]
    assert len(rows) == 18
    by_name = {(condition, model): cells for condition, model, *cells in rows}
    assert by_name["typos", "sees"][4] == f"{100 * result['models']['sees']['conditions']['typos']['accuracy']:.1f}"
    assert by_name["cropped", "reads"][0] == "not scored: the model reads no pictures"


def test_the_scores_are_those_of_score_py(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    _, result, _ = run(models["sees"], more=["--output_dir", tmp_path])
    conditions = result["models"]["sees"]["conditions"]
    for name, more in (("clean", []), ("no picture", ["--no-use_image"]), (ORDER, [])):
        _, scored, _ = run(models["sees"], more=more, main=score.main)
        assert {key: conditions[name][key] for key in ("micro_f1", "macro_f1", "accuracy")} == {
            key: scored[key] for key in ("micro_f1", "macro_f1", "accuracy")
        }


def test_the_order_of_relations_changes_no_prediction(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    _, result, _ = run(models["sees"], models["reads"], more=["--output_dir", tmp_path])
    for own in result["models"].values():
        assert own["conditions"][ORDER]["predictions_changed"] == 0
        assert own["conditions"][ORDER]["largest_logit_difference"] < 1e-4
        assert own["conditions"][ORDER]["difference"] == {"micro_f1": 0, "macro_f1": 0, "accuracy": 0}


def test_an_order_that_matters_is_found(
    run: Run, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def names_only(model: RocModel, *, seed: int) -> Iterator[None]:
        model.config.replace_relations(model.config.relations[::-1], model.config.none_relation)
        model.relation_bank.replace(model.relation_bank.features, model.config.relations)
        yield

    monkeypatch.setattr(robustness, "shuffled_relations", names_only)
    code, result, _ = run(models["sees"], more=["--output_dir", tmp_path])
    assert code == 1
    assert result["models"]["sees"]["conditions"][ORDER]["predictions_changed"] > 0


def test_the_same_seed_gives_the_same_result_and_another_one_other_pictures(
    run: Run, models: dict[str, str], tmp_path: Path
) -> None:
    first, again, other = (
        run(models["sees"], more=["--output_dir", tmp_path, "--seed", seed])[1] for seed in (0, 0, 1)
    )
    assert first == again
    assert other["seed"] == 1


def test_where_hardly_a_pair_has_a_picture_its_conditions_are_not_scored(
    run: Run, models: dict[str, str], data: Path, tmp_path: Path
) -> None:
    _, result, _ = run(models["sees"], folder=data / "plain", more=["--output_dir", tmp_path])
    conditions = result["models"]["sees"]["conditions"]
    for name in OF_PICTURES:
        assert conditions[name]["skipped"] == "it would change only 9.6% of the pairs"
    assert all("micro_f1" in conditions[name] for name in ("clean", *OF_TEXT, ORDER))
    assert [row[2] for row in table(tmp_path) if row[0] in OF_PICTURES] == [
        "not scored: it would change only 9.6% of the pairs"
    ] * len(OF_PICTURES)


def test_a_model_that_classifies_has_no_other_order(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    code, result, _ = run(models["classifies"], more=["--output_dir", tmp_path])
    assert code == 0
    assert "classifies" in result["models"]["classifies"]["conditions"][ORDER]["skipped"]


def test_cropping_says_how_much_of_the_boxes_is_left(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    _, result, _ = run(models["reads"], more=["--output_dir", tmp_path])
    # boxes from 0 to 0.15, 0.3, .. 0.75 across, and from 0.2 to 0.9 down, where a tenth is cut away at each side
    across = [(width - 0.1) / width for width in (0.15, 0.3, 0.45, 0.6, 0.75)]
    assert result["models"]["reads"]["mean_share_of_box_left_when_cropped"] == pytest.approx(sum(across) / 5, abs=1e-4)


def test_models_of_one_name_are_told_apart_and_one_model_twice_is_refused(
    run: Run, models: dict[str, str], tmp_path: Path
) -> None:
    others = [save(tmp_path / parent / "model", vision=False) for parent in ("a", "b")]
    _, result, _ = run(*others, more=["--output_dir", tmp_path / "out"])
    assert list(result["models"]) == others
    code, result, error = run(models["sees"], models["sees"], more=["--output_dir", tmp_path / "out2"])
    assert (code, result) == (1, None)
    assert "A model is given twice" in error
    assert not (tmp_path / "out2").exists()
