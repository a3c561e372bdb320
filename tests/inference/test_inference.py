"""One post from the command line, and a data set scored: the programs run as they are, on a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from raw_sets import CROSSRE_SENTENCE
from tiny import RELATIONS, tiny_model, tiny_picture, tiny_processor, tiny_tokenizer
from transformers import BertConfig, BertModel

from roc import predict, score
from roc.inference.posts import find_entities, load_model
from roc.training.settings import RUN_FILE, RunConfig

TEXT = "Ann kissed Bob in Paris"
NAMES = [relation["name"] for relation in RELATIONS]


def save(folder: Path, *, vision: bool = True, **options: Any) -> str:
    processor = tiny_processor(vision=vision)
    tiny_model(processor, vision=vision, **options).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("text_model"), vision=False)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    tiny_picture().save(tmp_path / "post.png")
    return str(tmp_path / "post.png")


Run = Any  # called with a program's main and its arguments, gives (exit code, the JSON line, stderr)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_main(main: Any, *arguments: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        assert printed.out.count("\n") == (1 if code == 0 else 0)
        return code, json.loads(printed.out or "null"), printed.err

    return run_main


# ---------------------------------------------------------------------------------------------------------------------
# predict.py


def test_head_and_tail_by_name_give_ranked_relations(run: Run, model: str) -> None:
    code, result, _ = run(predict.main, "--model", model, "--text", TEXT, "--head", "Bob", "--tail", "Ann")
    assert code == 0
    assert (result["text"], result["truncated"]) == (TEXT, False)
    assert [(entity["name"], entity["start"], entity["end"]) for entity in result["entities"]] == [
        ("Bob", 11, 14),
        ("Ann", 0, 3),
    ]
    [pair] = result["predictions"]
    assert (pair["head"], pair["tail"], len(pair["relations"])) == (0, 1, 3)
    scores = [relation["score"] for relation in pair["relations"]]
    assert scores == sorted(scores, reverse=True)
    assert {relation["relation"] for relation in pair["relations"]} < set(NAMES)
    described = {relation["name"]: relation["descriptions"] for relation in RELATIONS}
    assert all(relation["description"] in described[relation["relation"]] for relation in pair["relations"])


def test_all_relations_have_probabilities(run: Run, model: str) -> None:
    _, result, _ = run(
        predict.main, "--model", model, "--text", TEXT, "--head", "Ann", "--tail", "Bob", "--top_k", "99"
    )
    [pair] = result["predictions"]
    assert len(pair["relations"]) == len(RELATIONS)
    assert sum(relation["score"] for relation in pair["relations"]) == pytest.approx(1)


def test_names_and_spans_of_the_same_words_predict_the_same(run: Run, model: str) -> None:
    by_name = run(predict.main, "--model", model, "--text", TEXT, "--head", "Ann", "--tail", "Paris")
    by_span = run(predict.main, "--model", model, "--text", TEXT, "--head", "0:3", "--tail", "18:23")
    assert by_name == by_span


def test_an_object_in_the_picture_is_a_box(run: Run, model: str, picture: str) -> None:
    arguments = ["--text", TEXT, "--image", picture, "--head", "Ann", "--tail", "box:0.1,0.2,0.5,1"]
    code, result, _ = run(predict.main, "--model", model, *arguments)
    assert code == 0
    assert result["entities"][1] == {
        "name": "object 1",
        "start": None,
        "end": None,
        "type": None,
        "bbox": [0.1, 0.2, 0.5, 1.0],
    }


def test_several_entities_give_every_ordered_pair(run: Run, model: str) -> None:
    arguments = ["--entity", "Ann", "--entity", "Bob", "--entity", "18:23"]
    _, result, _ = run(predict.main, "--model", model, "--text", TEXT, *arguments)
    pairs = [(pair["head"], pair["tail"]) for pair in result["predictions"]]
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_without_entities_a_typer_finds_them(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(find=lambda texts: [[(0, 3, "person"), (18, 23, "location")] for _ in texts])
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: {"spacy": found}[name])
    _, result, _ = run(predict.main, "--model", model, "--text", TEXT)
    assert [entity["name"] for entity in result["entities"]] == ["Ann", "Paris"]
    assert len(result["predictions"]) == 2
    assert [entity["type"] for entity in result["entities"]] == [None, None]  # this model was trained without types
    assert find_entities(TEXT, tiny_processor(entity_typer="spacy"))[1] == {"start": 18, "end": 23, "type": "location"}


def test_a_text_with_fewer_than_two_named_entities_says_what_to_do(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(find=lambda texts: [[(0, 3, "person")] for _ in texts])
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: found)
    code, _, errors = run(predict.main, "--model", model, "--text", TEXT)
    assert code == 1
    assert "found ['Ann'] in the text: a relation needs two entities. Name them with --head and --tail" in errors


def test_the_picture_changes_the_prediction_and_is_drawn(run: Run, model: str, picture: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--model", model, "--text", TEXT, "--head", "Ann", "--tail", "Bob"]
    out = tmp_path / "drawn" / "prediction.png"
    _, without, _ = run(predict.main, *arguments)
    _, result, _ = run(predict.main, *arguments, "--image", picture, "--picture", str(out))
    assert result["predictions"] != without["predictions"]
    assert result["picture"] == str(out)
    with Image.open(out) as drawn:
        assert (drawn.format, drawn.mode) == ("PNG", "RGBA")


def test_an_answer_that_cannot_be_drawn_is_printed_all_the_same(
    run: Run,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = ["--model", model, "--text", TEXT, "--head", "Ann", "--tail", "Bob"]
    _, plain, _ = run(predict.main, *arguments)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert predict.main([*arguments, "--picture", str(tmp_path / "out.png")]) == 1
    assert json.loads(capsys.readouterr().out) == {**plain, "picture": None}
    assert "pip install 'roc[plots]'" in caplog.text


def test_an_explanation_covers_the_text_and_the_picture_and_is_drawn(
    run: Run, model: str, picture: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--model", model, "--text", TEXT, "--head", "Ann", "--tail", "Bob", "--image", picture]
    _, plain, _ = run(predict.main, *arguments, "--picture", str(tmp_path / "plain.png"))
    _, result, _ = run(predict.main, *arguments, "--explain", "--picture", str(tmp_path / "explained.png"))
    explanation = result.pop("explanation")
    assert explanation["relation"] == result["predictions"][0]["relations"][0]["relation"]
    assert explanation["description"] == result["predictions"][0]["relations"][0]["description"]
    assert [TEXT[token["start"] : token["end"]] for token in explanation["tokens"]][:3] == ["Ann", "kissed", "Bob"]
    assert any(token["relevance"] for token in explanation["tokens"])
    assert (len(explanation["patches"]), len(explanation["patches"][0])) == (4, 4)
    assert result["predictions"] == plain["predictions"]
    assert (tmp_path / "explained.png").read_bytes() != (tmp_path / "plain.png").read_bytes()
    _, without, _ = run(predict.main, *arguments[:-2], "--explain")
    assert without["explanation"]["patches"] is None


def test_other_relations_replace_the_model_s(run: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "relations.yaml"
    file.write_text("relations: [{name: visits, descriptions: [the head visits the tail]}]", encoding="utf-8")
    arguments = ["--text", TEXT, "--head", "Ann", "--tail", "Bob", "--relations", str(file)]
    _, result, _ = run(predict.main, "--model", model, *arguments)
    [pair] = result["predictions"]
    assert pair["relations"] == [{"relation": "visits", "score": 1.0, "description": "the head visits the tail"}]


def test_a_text_only_model_predicts_and_refuses_a_picture(run: Run, text_model: str, picture: str) -> None:
    arguments = ["--model", text_model, "--text", TEXT, "--head", "Ann", "--tail", "Bob"]
    assert run(predict.main, *arguments)[0] == 0
    code, _, errors = run(predict.main, *arguments, "--image", picture)
    assert code == 1
    assert f"error: The model {text_model!r} reads text only: leave --image out" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "Ann"], "Give both --head and --tail, or neither for all pairs."),
        (["--tail", "Ann"], "Give both --head and --tail, or neither for all pairs."),
        (["--head", "Ann", "--tail", "Bob", "--entity", "Eve"], "or --entity for all pairs, but not both"),
        (["--head", "Ann", "--tail", "Eve"], "The entity 'Eve' does not occur in the text 'Ann kissed Bob in Paris'"),
        (["--head", "Ann", "--tail", ""], "The entity '' does not occur"),
        (["--head", "Ann", "--tail", "20:99"], "entity 1: the span (20, 99) lies outside the text"),
        (["--head", "Ann", "--tail", "box:0,0,2,1"], "is not a box in the picture"),
        (["--head", "Ann", "--tail", "box:0,0,1"], "'box:0,0,1' is not a box. Type box:X0,Y0,X1,Y1"),
        (["--entity", "Ann"], "The post has no pair: give it two entities"),
        (["--head", "Ann", "--tail", "Bob", "--top_k", "0"], "top_k=0 is out of range: give a number >= 1"),
        (["--head", "Ann", "--tail", "Bob", "--image", "no.png"], "There is no picture 'no.png'"),
        (["--head", "Ann", "--tail", "Bob", "--relations", "no.yaml"], "There is no file 'no.yaml'"),
        (["--head", "Ann", "--tail", "Bob", "--picture", "out.jpg"], ".png"),
        (["--entity", "Ann", "--entity", "Bob", "--explain"], "--explain explains one pair: name it with --head"),
    ],
)
def test_a_wrong_request_is_one_line_on_stderr(run: Run, model: str, arguments: list[str], message: str) -> None:
    code, result, errors = run(predict.main, "--model", model, "--text", TEXT, *arguments)
    assert (code, result) == (1, None)
    assert errors.splitlines()[-1].startswith("error: ")
    assert message in errors.splitlines()[-1]


def test_a_file_that_is_no_picture_is_named(run: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "post.png"
    file.write_bytes(b"no picture")
    code, _, errors = run(
        predict.main, "--model", model, "--text", TEXT, "--head", "Ann", "--tail", "Bob", "--image", str(file)
    )
    assert code == 1
    assert f"error: {file}: these 10 bytes are no picture" in errors


@pytest.mark.parametrize("arguments", [[], ["--text", TEXT], ["--model", "x", "--text", TEXT, "--hed", "Ann"]])
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str]) -> None:
    code, _, errors = run(predict.main, *arguments)
    assert code == 2
    assert "usage: predict.py" in errors


def test_a_model_that_is_nowhere_is_named(run: Run) -> None:
    code, _, errors = run(predict.main, "--model", "nowhere", "--text", TEXT)
    assert code == 1
    assert "There is no model folder 'nowhere' (and a Hub id has the form USER/NAME)" in errors


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert', not a ROC model"):
        load_model(str(tmp_path))


def test_a_loaded_model_is_in_evaluation_mode(model: str) -> None:
    loaded, processor = load_model(model)
    assert not loaded.training
    assert processor.reads_images


@pytest.mark.parametrize("is_there", [True, False])
def test_a_model_is_loaded_onto_whatever_accelerator_there_is(
    model: str, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device `meta` stands in for an accelerator that is not CUDA's, such as MPS or XPU."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: is_there)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("meta"))
    assert load_model(model)[0].device.type == ("meta" if is_there else "cpu")


# ---------------------------------------------------------------------------------------------------------------------
# score.py


def write_data(folder: Path, relations: Sequence[str], *, images: Sequence[str | None] = ()) -> str:
    folder.mkdir(exist_ok=True)
    tiny_picture().save(folder / "there.png")
    images = images or [None] * len(relations)
    rows = [
        {
            "id": f"row-{number}",
            "text": TEXT,
            "head": {"start": 0, "end": 3},
            "tail": {"start": 11, "end": 14},
            "relation": relation,
            **({} if image is None else {"image": image}),
        }
        for number, (relation, image) in enumerate(zip(relations, images))
    ]
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


@pytest.fixture
def scored(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `score.py` on JSON lines, with a cache of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def run_score(model: str, data: str, *arguments: str) -> tuple[int, Any, str]:
        return run(score.main, "--model", model, "--dataset", "jsonl", "--data_dir", data, *arguments)

    return run_score


def test_scores_are_one_json_line_and_predictions_a_file(scored: Run, model: str, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", NAMES)
    out = tmp_path / "out" / "predictions.jsonl"
    code, scores, _ = scored(model, data, "--predictions", str(out), "--batch_size", "2")
    assert code == 0
    assert {"accuracy", "precision", "recall", "micro_f1", "macro_f1", "per_relation", "n"} <= scores.keys()
    assert scores["n"] == len(NAMES)
    assert scores["accuracy"] == pytest.approx(1 / len(NAMES))  # one text, so one prediction, and it is right once
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["relation"]) for row in rows] == [(f"row-{i}", name) for i, name in enumerate(NAMES)]
    assert len({row["predicted"] for row in rows}) == 1


def test_parts_of_a_data_set_are_scored_alone(scored: Run, model: str, tmp_path: Path) -> None:
    for domain in ("ai", "news"):
        relations = [[0, 1, 3, 3, NAMES[1], "", False, False]]
        sentence = CROSSRE_SENTENCE | {"ner": [[0, 1, "x"], [3, 3, "y"]], "relations": relations}
        (tmp_path / f"{domain}-dev.json").write_text(json.dumps(sentence), encoding="utf-8")
    for parts, expected in (([], 2), (["--parts", "news"], 1)):
        code, scores, _ = scored(model, str(tmp_path), "--dataset", "crossre", *parts)
        assert (code, scores["n"]) == (0, expected)
    code, _, errors = scored(model, str(tmp_path), "--dataset", "crossre", "--parts", "newss")
    assert code == 1
    assert "Did you mean 'news'?" in errors


def test_a_relation_that_the_model_does_not_know_is_named(scored: Run, model: str, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", ["None", "/per/per/coupel"])
    code, _, errors = scored(model, data)
    assert code == 1
    assert "['/per/per/coupel'] are not in the inventory" in errors
    assert "row 'row-1'. Did you mean '/per/per/couple'?" in errors


def test_a_missing_picture_is_treated_as_the_training_run_did(scored: Run, tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    data = write_data(tmp_path / "data", ["None", "None"], images=["there.png", "missing.png"])
    code, _, errors = scored(model, data)
    assert code == 1
    assert "'missing.png'" in errors
    run_file = Path(model) / RUN_FILE
    for policy, rows in (("no_image", 2), ("skip", 1)):
        run_file.write_text(RunConfig(missing_images=policy).to_yaml(), encoding="utf-8")  # type: ignore[arg-type]
        assert scored(model, data)[1]["n"] == rows
    assert scored(model, data, "--missing_images", "no_image")[1]["n"] == 2
    assert scored(model, data, "--missing_images", "error")[0] == 1


def test_pictures_can_be_hidden_and_a_text_only_model_never_opens_them(
    scored: Run, model: str, text_model: str, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", ["None"], images=["there.png"])
    assert scored(model, data, "--no-use_image")[0] == 0
    assert scored(text_model, data)[0] == 0


def test_a_split_that_is_not_there_is_named(scored: Run, model: str, tmp_path: Path) -> None:
    code, _, errors = scored(model, write_data(tmp_path / "data", ["None"]), "--split", "test")
    assert code == 1
    assert "test" in errors.splitlines()[-1]


def test_wrong_usage_of_score_exits_with_2(scored: Run, model: str, tmp_path: Path) -> None:
    code, _, errors = scored(model, str(tmp_path), "--missing_images", "ignore")
    assert code == 2
    assert "usage: score.py" in errors
