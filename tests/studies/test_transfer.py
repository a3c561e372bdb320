"""Scores on data sets that a model was not trained on: what is trained without them, chosen elsewhere and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import NAMES, line, run_here, run_settings, write_lines

from roc.evaluation.predictions import ABSTAINED
from roc.studies import runs as study_runs
from roc.studies import transfer
from roc.studies.transfer import TARGETS, Target, without
from roc.support.resources import find_file
from roc.training.settings import load_run_config

pytestmark = pytest.mark.usefixtures("fresh_state")


@pytest.fixture
def made(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with two sources, `a` and `b`, and a third set, `c`; runs are made in this process."""
    for name in "abc":
        (tmp_path / name).mkdir()
        for split, number in (("train", 6), ("val", 4)):
            texts = [line(own, f"{name}-{split}") for own in range(number)]
            for text in texts:
                text.pop("image", None)
                text["entities"] = text["entities"][:3]
                text["relations"] = text["relations"][:2]
            write_lines(tmp_path / name / f"{split}.jsonl", texts)
    sources = [
        {"name": name, "dataset": "jsonl", "data_dir": name, "relations": str(inputs / "relations.yaml")}
        for name in "ab"
    ]
    own = run_settings(inputs) | {"sources": sources, "data_dir": str(tmp_path), "vision_model": None, "num_epochs": 1}
    del own["relations"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    relations = str(inputs / "relations.yaml")
    monkeypatch.setattr(
        transfer, "TARGETS", {"B": Target("jsonl", "b", relations), "C": Target("jsonl", "c", relations)}
    )
    monkeypatch.setattr(study_runs, "_call", run_here)
    return tmp_path


def run(made: Path, *more: str) -> int:
    return transfer.main(["--data_dir", str(made), "--output_dir", str(made / "out"), *more])


def test_each_set_is_scored_by_a_model_that_has_not_seen_it(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(made, "--recipe", str(made / "recipe.yaml")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["macro_f1"].keys() == {"B", "C"}
    content = json.loads((made / "out" / "transfer.json").read_text(encoding="utf-8"))["sets"]
    assert [own["trained"] for own in content.values()] == [str(made / "out" / name) for name in ("without_b", "all")]
    sources = {
        name: [own.name for own in load_run_config(str(made / "out" / name / "run_config.yaml")).data_sources]
        for name in ("without_b", "all")
    }
    assert sources == {"without_b": ["a"], "all": ["a", "b"]}
    assert all(own["n"] == 6 and own["num_relations"] == len(NAMES) - 1 for own in content.values())
    assert all(isinstance(own["threshold"], float) for own in content.values())
    mean = sum(own["model"]["macro_f1"] for own in content.values()) / 2
    assert told["mean"]["model"] == pytest.approx(mean)
    table = (made / "out" / "transfer.md").read_text(encoding="utf-8")
    assert "| B | 3 | 6 |" in table
    assert f"| mean |  |  | {100 * mean:.1f} |" in table

    monkeypatch.setattr(study_runs, "_call", lambda *given: pytest.fail("a finished run ran again"))
    assert run(made, "--recipe", str(made / "recipe.yaml")) == 0
    capsys.readouterr()
    # a model alone: what it was trained on is left out
    assert run(made, "--model", str(made / "out" / "all")) == 0
    assert json.loads(capsys.readouterr().out)["macro_f1"].keys() == {"C"}


def test_the_threshold_of_the_untrained_encoder_is_chosen_without_the_set(
    made: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = transfer.load_dataset_splits

    def watched(name: str, data_dir: str, **options: Any) -> Any:
        asked.append(Path(data_dir).name)
        return load(name, data_dir, **options)

    chosen: list[Any] = []

    def threshold(seen: Any) -> float:
        chosen.append((list(asked), [expected for _, _, expected in seen]))
        return 2.0  # more than any cosine

    monkeypatch.setattr(transfer, "load_dataset_splits", watched)
    monkeypatch.setattr("roc.evaluation.untrained.choose_threshold", threshold)
    target = transfer.TARGETS["B"]
    config = without(load_run_config(str(made / "recipe.yaml")), target)
    inventory = transfer.read_relation_file(target.relations)
    scores, used = transfer._untrained(config, target, inventory, str(made / "b"))
    assert chosen[0][0] == ["a"]
    assert ABSTAINED in chosen[0][1][0]
    assert used == 2.0
    assert scores["recall"] == 0
    assert 0 < scores["accuracy"] < 1


def test_a_domain_is_left_out_of_its_source() -> None:
    source = {"name": "crossre", "dataset": "crossre", "data_dir": "crossre", "relations": "relations/crossre.yaml"}
    other = {"name": "news", "dataset": "joint", "data_dir": "conll04", "relations": "relations/conll04.yaml"}
    config = load_run_config(None, {"data_dir": "data", "sources": [source, other]})
    left = without(config, TARGETS["CrossRE, music"]).data_sources
    assert left[0].parts == ["ai", "literature", "news", "politics", "science"]
    assert left[1] == config.data_sources[1]
    assert [own.name for own in without(config, TARGETS["CoNLL04"]).data_sources] == ["crossre"]
    assert without(config, TARGETS["SciERC"]) is config
    only = load_run_config(None, {"data_dir": "data", "sources": [{**source, "parts": ["ai"]}]})
    assert without(only, TARGETS["CrossRE, music"]) is only
    with pytest.raises(ValueError, match="Without crossre no source is left"):
        without(only, TARGETS["CrossRE, ai"])


def test_the_relation_files_of_the_sets_are_there_and_describe_none() -> None:
    for target in TARGETS.values():
        assert transfer.read_relation_file(find_file(target.relations)).none_relation is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "Give --model, --recipe, or both"),
        (["--model", "nowhere"], "'nowhere' has no run_config.yaml"),
        (["--recipe", "RECIPE", "--targets", "D"], "--targets 'D' is not among"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    made: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made, *(str(made / "recipe.yaml") if own == "RECIPE" else own for own in more)) == 1
    assert message in capsys.readouterr().err
    assert not (made / "out").exists()
