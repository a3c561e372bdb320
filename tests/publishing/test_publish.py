"""From a trained folder to a model on the Hub, which works where `roc` is not installed."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from elsewhere import ENTITIES, TEXT, WITH_ROC, WITHOUT_ROC, printed_by
from hub import LocalHub
from hub.storage import StoredFile
from huggingface_hub import HfApi
from safetensors.torch import load, load_file, save
from tiny import picture_bytes, tiny_model, tiny_picture, tiny_processor
from tiny_runs import arguments, error_of, main
from transformers.dynamic_module_utils import get_relative_import_files

import roc.publish
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline
from roc.publishing import check as hub_check
from roc.publishing.check import check_in_clean_process, expected_answers
from roc.publishing.folder import build_hub_folder, check_safe, code_files, pinned
from roc.relations.files import read_relation_file
from roc.support.hub_upload import MARKER, hub_files
from roc.support.resources import PACKAGE_ROOT
from roc.training.adapters import add_lora, save_model

NAME, TAG = "user/roc-tiny", "v0.1.0"
# Written as a user would: nothing in it knows the classes.
PROGRAM = """
import json, sys
import PIL.Image
import torch
from transformers import AutoModel, AutoProcessor, pipeline

name, text, entities, *revisions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), *sys.argv[4:]
image = PIL.Image.new("RGB", (40, 24), "red")
for revision in revisions:
    processor = AutoProcessor.from_pretrained(name, revision=revision, **options)
    model = AutoModel.from_pretrained(name, revision=revision, use_safetensors=True, **options)
    pipe = pipeline("multimodal-relation-extraction", name, revision=revision, **options)
    with torch.no_grad():
        logits = model(**processor(text=text, images=image, entities=entities)).logits
    print(json.dumps({
        "logits": logits.tolist(),
        "found": pipe({"text": text, "image": image, "entities": entities}),
        "modules": [type(part).__module__.split(".")[0] for part in (model, processor, pipe)],
    }))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub().running() as hub:
        yield hub


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `train.py`."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "datasets"))
        AcceleratorState._reset_state(True)
        assert main(arguments(inputs, folder / "model")) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def published(trained: Path, hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `publish.py`, run as a program, printed; `build_dir` is the folder that it built."""
    folder = tmp_path_factory.mktemp("published")
    command = [sys.executable, "-m", "roc.publish", "--model", str(trained), "--repo_id", NAME, "--tag", TAG]
    done = subprocess.run(
        [*command, "--build_dir", str(folder / "build_hub")],
        env=hub.environment(folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout), "printed": done.stdout + done.stderr, "lines": done.stdout.splitlines()}


def run_program(start: str, environment: dict[str, str], cwd: Path, *revisions: str, name: str = NAME) -> list[Any]:
    """What a user's program says about each revision; and, behind that, all that it printed."""
    arguments = [name, TEXT, json.dumps(ENTITIES), *revisions]
    printed = printed_by(start + PROGRAM, arguments, environment, cwd, timeout=200)
    return [*(json.loads(line) for line in printed.splitlines() if line.startswith("{")), printed]


Answers = tuple[torch.Tensor, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def expected(trained: Path) -> Answers:
    """What the trained model says here: logits, and the pipeline's result."""
    model, processor = load_model(str(trained))
    image = tiny_picture(size=(40, 24))
    with torch.no_grad():
        logits = model(**processor(text=TEXT, images=image, entities=ENTITIES)).logits
    pipe = RocPipeline(model=model, processor=processor)
    return logits, pipe({"text": TEXT, "image": image, "entities": ENTITIES})


def check_same(told: dict[str, Any], expected: Answers) -> None:
    logits, found = expected
    torch.testing.assert_close(torch.tensor(told["logits"]), logits, rtol=1e-5, atol=1e-5)
    assert len(found) == 6, "three entities make six ordered pairs"
    assert [own | {"score": pytest.approx(own["score"], abs=1e-5)} for own in found] == told["found"]


# ---------------------------------------------------------------------------------------------------------------------
# on the Hub


def test_a_published_model_answers_as_the_trained_one_where_roc_is_not_installed_then_offline_then_with_roc(
    expected: Answers, published: dict[str, Any], hub: LocalHub, tmp_path: Path
) -> None:
    environment = hub.environment(tmp_path / "an empty cache", token=None)
    told, _ = run_program(WITHOUT_ROC, environment, tmp_path, TAG)
    assert told["modules"] == ["transformers_modules"] * 3
    check_same(told, expected)

    requests = len(hub.requests)
    told, _ = run_program(WITHOUT_ROC, environment | {"HF_HUB_OFFLINE": "1"}, tmp_path, TAG)
    check_same(told, expected)
    assert len(hub.requests) == requests, "something was asked for offline"

    told, _ = run_program(WITH_ROC, environment | {"HF_HUB_OFFLINE": "1"}, tmp_path, TAG)
    assert told["modules"] == ["roc"] * 3
    check_same(told, expected)


def test_a_pinned_revision_runs_neither_later_code_nor_later_weights(
    expected: Answers, published: dict[str, Any], hub: LocalHub, tmp_path: Path
) -> None:
    later = copy.deepcopy(hub.repository(NAME))
    later.name = "user/later"
    hub.state.repositories["model", later.name] = later
    files = dict(later.commits[later.branches["main"]].files)
    files["modeling_roc.py"] = StoredFile(files["modeling_roc.py"].data + b'\nprint("the later code ran")\n')
    weights = load(files["model.safetensors"].data)
    weights |= {name: -tensor for name, tensor in weights.items() if name.startswith("pair_")}
    files["model.safetensors"] = StoredFile(save(weights, {"format": "pt"}), lfs=True)
    later.commit("main", "later", files)

    pinned_to, moved_on, pinned_again = TAG, "main", published["commit"]
    environment = hub.environment(tmp_path / "home", token=None)
    *told, printed = run_program(WITHOUT_ROC, environment, tmp_path, pinned_to, moved_on, pinned_again, name=later.name)
    check_same(told[0], expected)
    check_same(told[2], expected)
    assert not torch.allclose(torch.tensor(told[1]["logits"]), expected[0], atol=1e-2), "there were no later weights"
    before, ran, after = printed.partition("the later code ran")
    assert ran, "there was no later code"
    assert [part.count('"logits"') for part in (before, after)] == [1, 2], "it ran for the pinned one, too"


def test_a_version_is_the_built_folder_in_one_commit(published: dict[str, Any], hub: LocalHub) -> None:
    build_dir, repository = Path(published["build_dir"]), hub.repository(NAME)
    assert repository.files(TAG) == {path: (build_dir / path).read_bytes() for path in hub_files(build_dir)}
    assert repository.tags == {TAG: published["commit"]}
    assert [commit.title for commit in repository.history()] == ["Publish v0.1.0", "initial commit"]
    assert not repository.private


def test_the_result_is_one_line_that_says_where_the_model_is(published: dict[str, Any], hub: LocalHub) -> None:
    assert len(published["lines"]) == 1
    assert published["repo_id"] == NAME
    assert published["tag"] == TAG
    assert published["url"] == f"{hub.url}/{NAME}/tree/{TAG}"


def test_neither_output_nor_folder_has_the_token(published: dict[str, Any], hub: LocalHub) -> None:
    assert hub.state.token not in published["printed"]
    for path in hub_files(published["build_dir"]):
        assert hub.state.token.encode() not in Path(published["build_dir"], path).read_bytes(), path


# ---------------------------------------------------------------------------------------------------------------------
# the program


@pytest.fixture
def publish(
    trained: Path, hub_api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[Any]]]:
    """Run `publish.py` in this process, without its checks, which take a process each; returns what they were given."""
    checked: list[Any] = []
    monkeypatch.setattr(hub_check, "expected_answers", lambda model, processor: {})
    monkeypatch.setattr(
        hub_check, "check_in_clean_process", lambda source, _, **options: checked.append(options.get("revision"))
    )

    def run(*more: str, model: Path = trained) -> tuple[int, list[Any]]:
        given = ["--model", str(model), "--repo_id", NAME, "--build_dir", str(tmp_path / "build_hub"), *more]
        return roc.publish.main(given), checked

    return run


def test_a_dry_run_tells_what_would_go_and_asks_nothing_of_the_hub(
    publish: Callable[..., Any], local_hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish("--dry_run") == (0, [None])
    told = json.loads(capsys.readouterr().out)
    assert local_hub.requests == []
    files = {path.name: path.stat().st_size for path in (tmp_path / "build_hub").iterdir() if path.name != MARKER}
    assert told["files"] == files
    assert told["bytes"] == sum(files.values())
    assert re.fullmatch(r"v\d+\.\d+\.\d+", told["tag"]), "the version of the package"


def test_both_checks_come_before_the_tag_and_the_second_is_of_the_commit(
    publish: Callable[..., Any], local_hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, checked = publish("--private")
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert checked == [None, told["commit"]]
    assert local_hub.repository(NAME).tags == {told["tag"]: told["commit"]}
    assert local_hub.repository(NAME).private


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"method": "GET", "path": "whoami", "status": 401}, "does not accept the token"),
        ({"method": "POST", "path": "/commit/", "status": 500}, "problem of its own"),
        ({"method": "PUT", "path": "/lfs/", "drop": True, "times": None}, "connection to the Hub failed"),
    ],
)
def test_a_failure_is_one_line_without_the_token_and_exit_code_1(
    fault: dict[str, Any],
    message: str,
    publish: Callable[..., Any],
    local_hub: LocalHub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    local_hub.fail(**fault)
    assert publish()[0] == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(f"error: .*{message}", printed.err.splitlines()[-1])
    assert local_hub.state.token not in printed.err


def test_without_a_login_nothing_is_built(
    publish: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert publish()[0] == 1
    assert "hf auth login" in error_of(capsys)
    assert not (tmp_path / "build_hub").exists()


def test_weights_that_are_a_pickle_are_refused(
    publish: Callable[..., Any], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in trained.glob("*.*"):
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(trained / "model.safetensors"), folder / "pytorch_model.bin")
    assert publish(model=folder)[0] == 1
    assert "safetensors" in error_of(capsys)
    assert not (tmp_path / "build_hub").exists()


def test_examples_bring_their_pictures(publish: Callable[..., Any], local_hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Blue.PNG").write_bytes(picture_bytes(tiny_picture("blue")))
    posts = [{"text": TEXT, "head": "ann", "tail": "bob"}, {"text": TEXT, "head": "ann", "tail": "paris"}]
    posts[1]["image"] = "Blue.PNG"
    (tmp_path / "mine" / "posts.json").write_text(json.dumps(posts), encoding="utf-8")
    assert publish("--examples", str(tmp_path / "mine" / "posts.json"))[0] == 0
    files = local_hub.repository(NAME).files()
    assert files["assets/1.png"] == (tmp_path / "mine" / "Blue.PNG").read_bytes()
    assert b"assets/1.png" in files["README.md"]


# ---------------------------------------------------------------------------------------------------------------------
# the folder


def test_a_folder_has_what_a_stranger_needs_and_nothing_of_this_machine(
    published: dict[str, Any], trained: Path
) -> None:
    folder = Path(published["build_dir"])
    names = {path.name for path in folder.iterdir()}
    settings = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names - {
        path.name for path in code_files(["modeling_roc", "processing_roc", "pipeline_roc", "handler"])
    } == {
        *settings,
        *("README.md", "LICENSE", "relations.yaml", "requirements.txt", MARKER),
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["auto_map"] == {"AutoConfig": "configuration_roc.RocConfig", "AutoModel": "modeling_roc.RocModel"}
    assert config["custom_pipelines"]["multimodal-relation-extraction"]["impl"] == "pipeline_roc.RocPipeline"
    assert read_relation_file(folder / "relations.yaml").relations == load_model(str(trained))[0].config.relations
    for path in folder.iterdir():
        assert str(trained.parents[1]).encode() not in path.read_bytes(), path.name


def test_requirements_are_pinned_to_what_is_installed(published: dict[str, Any]) -> None:
    lines = Path(published["build_dir"], "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == torch.__version__.partition("+")[0]
    assert {"transformers", "pillow", "safetensors", "huggingface_hub"} <= pins.keys()
    assert not {"roc", "peft", "datasets", "accelerate"} & pins.keys(), "a model needs none of the training's"


def test_requirements_leave_out_the_standard_library_and_what_is_optional(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(
        "import json\nimport yaml\nfrom .x_roc import y\ntry:\n    import datasets\nexcept ImportError:\n    pass\n"
    )
    assert [line.split("==")[0].lower() for line in pinned([file]) if "spacy" not in line] == ["pyyaml"]


def test_the_code_that_travels_is_found_from_the_imports_as_transformers_finds_it() -> None:
    found = set(code_files(["modeling_roc", "processing_roc"]))
    seen = [PACKAGE_ROOT / "modeling_roc.py", PACKAGE_ROOT / "processing_roc.py"]
    needed = {Path(name) for path in seen for name in get_relative_import_files(path)}
    assert found == needed | set(seen)
    with pytest.raises(FileNotFoundError, match="nowhere_roc"):
        code_files(["nowhere_roc"])


def build(output_dir: Path, model: RocModel | None = None, **changes: Any) -> dict[str, int]:
    processor = changes.pop("processor", None) or tiny_processor()
    return build_hub_folder(
        output_dir, model or tiny_model(processor), processor, **({"add": lambda folder: None} | changes)
    )


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    processor = tiny_processor()
    model = tiny_model(processor)
    add_lora(model, encoders="both", rank=4, alpha=8, marker_ids=processor.marker_ids)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_model(model, tmp_path / "trained")
    files = build(tmp_path / "build_hub", RocModel.from_pretrained(tmp_path / "trained"), processor=processor)
    assert not [path for path in files if "adapter" in path]
    batch = processor(text=TEXT, images=tiny_picture(), entities=ENTITIES)
    with torch.no_grad():
        merged = RocModel.from_pretrained(tmp_path / "build_hub").eval()(**batch).logits
        torch.testing.assert_close(merged, model.eval()(**batch).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(merged, tiny_model(processor)(**batch).logits, atol=1e-2), "the adapter did nothing"


def test_a_folder_is_replaced_as_a_whole_if_it_was_made_here_and_else_refused(tmp_path: Path) -> None:
    build(tmp_path / "build_hub", add=lambda folder: (folder / "old.txt").write_text("old"))
    files = build(tmp_path / "build_hub")
    assert "old.txt" not in files
    assert MARKER not in files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"was not made by publish\.py, and is not deleted"):
        build(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(NotADirectoryError, match="is a file"):
        build(tmp_path / "mine" / "thesis.txt")
    (tmp_path / "empty").mkdir()
    assert build(tmp_path / "empty") == files


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "assets/model.ckpt", "data.npy", "a"])
def test_a_file_that_could_run_code_when_it_is_loaded_is_not_published(name: str, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    for path in ("config.json", "model.safetensors", "LICENSE", "assets/1.png"):
        (tmp_path / path).write_bytes(b"")
    check_safe(tmp_path)
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=rf"\['{name}'\] may not be published"):
        check_safe(tmp_path)


def test_a_folder_that_could_not_be_built_is_as_it_was(tmp_path: Path) -> None:
    before = build(tmp_path / "build_hub")
    with pytest.raises(ValueError, match=r"model\.pt.*may not be published"):
        build(tmp_path / "build_hub", add=lambda folder: (folder / "model.pt").write_bytes(b"\x80\x04"))
    assert hub_files(tmp_path / "build_hub") == before
    assert [path.name for path in tmp_path.iterdir()] == ["build_hub"]


def test_a_model_that_needs_a_folder_of_this_machine_is_not_published(tmp_path: Path) -> None:
    processor = tiny_processor()
    processor.entity_typer = str(tmp_path)
    with pytest.raises(ValueError, match="Nobody could load what is published"):
        build(tmp_path / "build_hub", processor=processor)


# ---------------------------------------------------------------------------------------------------------------------
# the check


@pytest.mark.slow
def test_code_that_needs_the_package_does_not_pass_the_check(
    published: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "build_hub"
    folder.mkdir()
    for path in Path(published["build_dir"]).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with (folder / "modeling_vision_roc.py").open("a", encoding="utf-8") as file:
        file.write("\nimport roc.support.programs\n")
    expected = expected_answers(*load_model(str(trained)))
    with pytest.raises(ValueError, match=r"does not work where roc is not installed: \w+Error: .*roc"):
        check_in_clean_process(folder, expected)


@pytest.mark.parametrize(
    ("settings", "options", "num_posts", "num_pairs"),
    [
        ({}, {}, 3, 2 + 6 + 6),
        ({"vision": False}, {}, 2, 2 + 6),
        ({}, {"max_regions": 0}, 3, 2 + 6 + 2),
        ({"head": "classification"}, {"markers": "pair"}, 3, 2 + 6 + 6),
    ],
    ids=["pictures", "text alone", "no objects", "classification of marked pairs"],
)
def test_every_kind_of_model_answers_the_posts_of_the_check(
    settings: dict[str, Any], options: dict[str, Any], num_posts: int, num_pairs: int
) -> None:
    processor = tiny_processor(vision=settings.get("vision", True), **options)
    expected = expected_answers(tiny_model(processor, **settings), processor)
    assert len(expected["posts"]) == num_posts
    assert [len(rows) for rows in (expected["logits"], expected["pipeline"], expected["handler"])] == [num_posts] * 3
    assert sum(map(len, expected["logits"])) == sum(map(len, expected["pipeline"])) == num_pairs
    assert expected["handler"] == expected["pipeline"]


@pytest.mark.parametrize("part", ["logits", "pipeline", "handler"])
def test_other_answers_do_not_pass_the_check(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"posts": [], "logits": [[1.0, 2.0]], "pipeline": [[{"score": 0.5}]], "handler": [[{"score": 0.5}]]}
    given = copy.deepcopy(expected)
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=f"a warning\n{json.dumps(given)}\n", stderr=""),
    )
    check_in_clean_process("here", expected)
    given[part] = [[1.0, 2.1]] if part == "logits" else [[{"score": 0.6}]]
    with pytest.raises(ValueError, match=f"here answers otherwise than the trained model: see {part}"):
        check_in_clean_process("here", expected)


def test_the_code_that_is_checked_sees_neither_token_nor_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    def run(*_: Any, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(env)
        return subprocess.CompletedProcess([], 1, stdout="", stderr="stopped\n")

    monkeypatch.setenv("HF_TOKEN", "hf_Secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # where a login is kept
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ValueError, match="stopped"):
        check_in_clean_process(NAME, {"posts": []}, revision="0" * 40, cache=tmp_path / "cache")
    assert not [name for name, value in seen.items() if "hf_Secret" in value or value == str(tmp_path)]
    assert seen["HF_HUB_CACHE"] == str(tmp_path / "cache")
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_a_check_that_does_not_end_is_ended_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(hub_check, "STRANGER", endless)
    monkeypatch.setattr(hub_check, "CHECK_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"here does not work where roc is not installed: .* within 0\.5 seconds"):
        check_in_clean_process("here", {"posts": []})


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ([[1.0, 2.0]], [[1.0, 2.00001]], True),
        ([[1.0, 2.0]], [[1.0, 2.01]], False),
        ([[1.0]], [[1.0, 2.0]], False),
        ({"relation": "couple", "score": 0.5, "box": None}, {"relation": "couple", "score": 0.5, "box": None}, True),
        ({"relation": "couple", "score": 0.5}, {"relation": "None", "score": 0.5}, False),
        ({"relation": "couple"}, {"relation": "couple", "score": 0.5}, False),
        ([1.0], "1.0", False),
        ({"span": [0, 3]}, {"span": (0, 3)}, True),
        (None, {"span": 1}, False),
        (float("nan"), 1.0, False),
    ],
)
def test_answers_agree_up_to_rounding(given: Any, expected: Any, same: bool) -> None:
    assert hub_check._agree(given, expected) is same


# ---------------------------------------------------------------------------------------------------------------------
# docs/publishing.md


def test_the_guide_names_flags_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        roc.publish.main(["--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    guide = (PACKAGE_ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", "").splitlines() if "publish.py" in line]
    assert len(commands) > 2
    assert {flag for line in commands for flag in re.findall(r"--\w+", line)} <= known
    mentioned = set(re.findall(r"`(--\w+)", guide))
    assert mentioned <= known
    assert known - {"--help"} <= mentioned | set(re.findall(r"--\w+", " ".join(commands))), "a flag is not explained"
