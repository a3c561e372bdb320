"""Files of strangers: whatever is wrong with one, its reader says so at once, in one short line."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model, tiny_processor

from roc.configuration_roc import RocConfig
from roc.dataset_scripts.crossre import parse_sentence
from roc.dataset_scripts.exporting.marker import MARKER, read_marker
from roc.dataset_scripts.fewrel import read_relations
from roc.dataset_scripts.joint import JointBuilder
from roc.dataset_scripts.jsonl import parse_line
from roc.dataset_scripts.more import read_captions, read_labels
from roc.dataset_scripts.webnlg import WebnlgBuilder
from roc.inference.posts import load_model
from roc.messages_roc import parse_json, quote
from roc.processing_roc import RocProcessor
from roc.relations.files import load_drafts, read_relation_file, write_relation_file
from roc.relations_file_roc import METADATA_KEY
from roc.relations_file_roc import read_relations as read_bank
from roc.studies.plan import load_study
from roc.support.reading import MAX_YAML_BYTES, format_yaml, parse_yaml, read_json, read_yaml
from roc.training.settings import load_run_config

ALLOWED = (ValueError, TypeError, OSError)
DEEP = 20_000
BOMB = "a0: &a0 [x, x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12))

YAML = {
    "alias_bomb": BOMB,
    "anchor": "relations: &a [b]",
    "alias": "relations: *a",
    "merge": "{<<: {relations: []}}",
    "tag_of_python": "relations: !!python/object/apply:os.getcwd []",
    "tag_of_yaml": "relations: !!binary aGk=",
    "tag_of_a_set": "!!set {relations, version}",
    "own_tag": "relations: !anything [a]",
    "key_of_a_number": "{1: a}",
    "key_of_a_truth": "no: a",
    "key_of_a_list": "[a, b]: c",
    "key_of_a_mapping": "? {a: b}\n: c",
    "key_twice": "relations: []\nrelations: []",
    "key_twice_below": "relations: [{name: a, name: b}]",
    "key_twice_in_other_words": '{seed: 1, "seed": 2}',
    "many_digits": f"version: {'1' * 500}",
    "thousands_of_digits": f"version: {'1' * 5_000}",
    "deep_list": "[" * DEEP,
    "deep_mapping": "{" * DEEP,
    "deep_items": "- " * DEEP,
    "impossible_date": "version: 2024-13-45",
    "null_character": "version: \0",
    "two_documents": "--- {}\n--- {}",
    "cut_short": "relations: [",
    "long_word": "x" * 50_000,
    "long_value": f"version: {'x' * 50_000}",
    "long_key": f"{{{'x' * 50_000}, version: 1}}",
    "not_utf8": b"version: \xff\xfe",
    "long_list": f"relations: [{', '.join(['1'] * 1_000)}]",
}
JSON = {
    "key_twice": '{"name": 1, "name": 2}',
    "key_twice_below": '{"name": [{"a": 1, "a": 1}]}',
    "many_digits": '{"name": ' + "1" * 500 + "}",
    "thousands_of_digits": "-" + "1" * 5_000,
    "infinite": '{"name": 1e999}',
    "not_a_number": '{"name": NaN}',
    "infinity": "[-Infinity]",
    "deep_list": "[" * DEEP,
    "deep_mapping": '{"name": ' * DEEP,
    "deep_and_whole": "[" * 60 + "]" * 60,
    "cut_short": '{"name": [',
    "empty": "",
    "not_utf8": b'{"name": "\xff"}',
    "long_word": json.dumps("x" * 1_000_000),
    "long_key": json.dumps({"x" * 1_000_000: None}),
    "long_list": json.dumps(["x"] * 100_000),
    "other_type": "7",
}


def from_file(read: Callable[[Path], Any], name: str) -> Callable[[bytes, Path], Any]:
    """A reader of what a file of that name holds."""

    def write_and_read(content: bytes, folder: Path) -> Any:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return write_and_read


def bank(content: bytes, folder: Path) -> Any:
    metadata = {METADATA_KEY: content.decode(errors="replace")}
    save_file({"features": torch.zeros(1, 4), "relation_index": torch.zeros(1)}, folder / "bank", metadata=metadata)
    return read_bank(folder / "bank", feature_dim=4, entity_types=["person"])


YAML_READERS: dict[str, Callable[[bytes, Path], Any]] = {
    "relation_file": from_file(read_relation_file, "relations.yaml"),
    "drafts": from_file(load_drafts, "relations.yaml"),
    "run": from_file(lambda file: load_run_config(str(file)), "run.yaml"),
    "study": from_file(lambda file: load_study(str(file)), "study.yaml"),
}
JSON_READERS: dict[str, Callable[[bytes, Path], Any]] = {
    "row": lambda content, _: parse_line(content.decode("latin-1"), "id", where="train.jsonl:1"),
    "fewrel": from_file(read_relations, "train.json"),
    "joint": from_file(lambda file: JointBuilder(file.parent), "train.json"),
    "webnlg": from_file(lambda file: WebnlgBuilder(file.parent), "train.json"),
    "crossre": lambda content, _: parse_sentence(content.decode("latin-1"), "id", where="ai-train.json:1"),
    "labels": from_file(read_labels, "rel2id.json"),
    "captions": from_file(read_captions, "caption_dict.json"),
    "marker": from_file(lambda file: read_marker(file.parent), MARKER),
    "bank": bank,
    "configuration": from_file(lambda file: load_model(str(file.parent)), "config.json"),
    "processor": from_file(lambda file: RocProcessor.from_pretrained(file.parent), "processor_config.json"),
}
READERS = {
    **{name: (own, YAML) for name, own in YAML_READERS.items()},
    **{n: (own, JSON) for n, own in JSON_READERS.items()},
}


def refused(read: Callable[[], Any], what: str) -> str | None:
    """Say what is wrong with how a reader refuses something."""
    start = time.perf_counter()
    try:
        read()
    except ALLOWED as error:
        words, seconds = str(error), time.perf_counter() - start
        if len(words) >= 1_000 or "\n" in words or seconds > 2:
            return f"{what}: {len(words)} characters, {seconds:.1f} s: {words[:150]!r}"
        return None
    except Exception as error:
        return f"{what}: {type(error).__name__}: {str(error)[:150]!r}"
    return f"{what}: it was read"


@pytest.mark.parametrize("reader", READERS)
def test_what_is_wrong_is_said_in_one_short_line(reader: str, tmp_path: Path) -> None:
    read, contents = READERS[reader]
    wrong = []
    for kind, content in contents.items():
        given = content if isinstance(content, bytes) else content.encode()
        if reader in ("row", "crossre") and kind == "not_utf8":  # the lines of a file are decoded before
            continue
        wrong.append(refused(partial(read, given, tmp_path), kind))
    assert [own for own in wrong if own] == []


def test_a_file_names_itself_and_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\nb: 2\na: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.yaml: line 3: the key 'a' is there twice"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.json").write_text('{"a": 1, "a": 2}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: the key 'a' is there twice in one JSON object"):
        read_json(tmp_path / "a.json")


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(MAX_YAML_BYTES + 1)
    with pytest.raises(ValueError, match=r"a\.yaml: it has 2,000,001 bytes; at most 2,000,000 are read"):
        read_yaml(tmp_path / "a.yaml")


def test_much_is_read_or_refused_in_seconds() -> None:
    keys = ",".join(f'"k{number}":0' for number in range(100_000))
    start = time.monotonic()
    with pytest.raises(ValueError, match="'k99999' is there twice"):
        parse_json(f'{{{keys},"k99999":0}}')
    assert len(parse_yaml("- a\n" * 50_000)) == 50_000
    assert time.monotonic() - start < 5


def test_plain_data_are_read_as_they_are() -> None:
    content = {"a": [1, -2.5, None, True, "no", "1"], "ä\n": {"b": [{"c": []}]}, "2024-01-01": ""}
    assert parse_yaml(format_yaml(content)) == parse_json(json.dumps(content)) == content
    assert parse_yaml("a: 0x10\nb: 1_000\nc: 3e-5\nd: !!str 1") == {"a": 16, "b": 1000, "c": "3e-5", "d": "1"}


def test_what_is_written_twice_is_read_again(tmp_path: Path) -> None:
    """YAML's own writer makes an alias of it."""
    types = ["person"]
    relations = [{"name": name, "descriptions": ["x"], "head_types": types, "tail_types": types} for name in "ab"]
    write_relation_file(tmp_path / "a.yaml", {"version": 1, "none_relation": None, "relations": relations})
    assert read_relation_file(tmp_path / "a.yaml").relations == relations


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a", "'a'"),
        (["a", {"b": (1, 2)}], "['a', {'b': (1, 2)}]"),
        ((1,), "(1,)"),
        ("x" * 100, "'" + "x" * 56 + "..."),
        (b"x" * 10**7, "b'" + "x" * 55 + "..."),
        pytest.param(10**5_000, "a whole number of about 5,000 digits", id="number"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16..."),
        (None, "None"),
    ],
)
def test_a_quote_is_short(value: Any, words: str) -> None:
    assert quote(value) == words


def test_a_quote_of_what_would_fill_the_memory_is_short() -> None:
    bomb: Any = ["x"]
    for _ in range(100):
        bomb = [bomb] * 10
    round_trip: dict[str, Any] = {}
    round_trip["again"] = round_trip
    start = time.perf_counter()
    assert {len(quote(value, 60)) for value in (bomb, round_trip, {"a": bomb}, (bomb, bomb))} == {60}
    assert time.perf_counter() - start < 0.5


# --- a model's settings ----------------------------------------------------------------------------------------------

ODD: list[Any] = [[], {"a": {"b": 1}}, "x" * 10_000, -1, 1e300, [None] * 10_000]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def with_setting(folder: Path, name: str, key: str, value: Any) -> Path:
    settings = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(settings | {key: value}), encoding="utf-8")
    return folder


def test_odd_settings_of_a_model_are_refused_or_mean_something(model_dir: Path) -> None:
    settings = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    wrong = [
        refused(partial(RocConfig.from_dict, settings | {name: value}), f"{name}={value!r:.30}")
        for name in [*RocConfig.__dataclass_fields__, "custom_pipelines", "id2label", "dtype"]
        for value in ODD
    ]
    assert [own for own in wrong if own and "it was read" not in own] == []


def test_odd_settings_of_a_processor_are_refused_or_mean_something(model_dir: Path, tmp_path: Path) -> None:
    names = ("markers", "max_length", "max_description_length", "max_regions", "entity_typer", "entity_types")
    wrong = []
    for name in (*names, "reads_images", "object_names", "image_processor"):
        for number, value in enumerate(ODD):
            folder = shutil.copytree(
                model_dir, tmp_path / f"{name}{number}", ignore=shutil.ignore_patterns("*.safetensors")
            )
            with_setting(folder, "processor_config.json", name, value)
            wrong.append(refused(partial(RocProcessor.from_pretrained, folder), f"{name}={value!r:.30}"))
    assert [own for own in wrong if own and "it was read" not in own] == []


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"model": 7}', "[" * DEEP, "\0" * 100])
def test_a_processors_broken_files_are_refused(name: str, content: str, model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_dir, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / name).write_text(content, encoding="utf-8")
    problem = refused(lambda: RocProcessor.from_pretrained(folder), name)
    assert problem is None or "it was read" in problem or "OSError" in problem
