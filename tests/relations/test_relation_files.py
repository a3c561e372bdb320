"""Relation files: read, checked, and found."""

from __future__ import annotations

from pathlib import Path

import pytest

from roc.relations.files import load_drafts, read_relation_file, write_relation_file
from roc.support.resources import find_file

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
    inventory = read_relation_file(write(tmp_path, FILE))
    assert inventory.names == ["None", "/per/loc/place_of_birth"]
    assert inventory.none_relation == "None"
    assert inventory.relations[1] == {
        "name": "/per/loc/place_of_birth",
        "descriptions": ["The head was born in the tail.", "The tail is where the head comes from."],
        "head_types": ["person"],
        "tail_types": ["location"],
    }


ENTITIES = FILE.replace("  head_types", "  head: ' a person '\n  tail: a town or country\n  head_types")


def test_what_head_and_tail_are_is_read_and_written_and_gone_where_labels_describe(tmp_path: Path) -> None:
    path = write(tmp_path, ENTITIES)
    inventory = read_relation_file(path)
    assert "head" not in inventory.relations[0]
    assert (inventory.relations[1]["head"], inventory.relations[1]["tail"]) == ("a person", "a town or country")
    by_labels = inventory.described_by_labels().relations[1]
    assert by_labels["descriptions"] == ["per loc place of birth"]
    assert not {"head", "tail"} & {*by_labels}
    write_relation_file(tmp_path / "copy.yaml", load_drafts(path))
    assert read_relation_file(tmp_path / "copy.yaml") == inventory
    assert load_drafts(tmp_path / "copy.yaml") == load_drafts(path)


def test_an_inventory_may_have_no_relation_that_means_none(tmp_path: Path) -> None:
    inventory = read_relation_file(write(tmp_path, "relations: [{name: a, descriptions: about a}]"))
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
        (FILE.replace("[person]", "[martian]"), "head_types holds 'martian', which is none of"),
        (FILE.replace("name: /per", "names: /per"), "has an unknown key 'names'"),
        (ENTITIES.replace("' a person '", "' '"), "'/per/loc/place_of_birth': head says in a few words .* given ' '"),
        (ENTITIES.replace("a town or country", "[town]"), r"tail says in a few words what the tail is, .*\['town'\]"),
        (ENTITIES.replace("a town or country", "no"), "tail says in a few words .* given False"),
        (ENTITIES.replace("  tail: ", "  tails: "), "unknown key 'tails'.*Did you mean 'tail'?"),
        (FILE.replace("/per/loc/place_of_birth", '"None"'), "Relation names must differ"),
        (FILE.replace("- The head was born in the tail.", '- ""'), "at least one description and no empty one"),
        ("relations: [", "while parsing a flow"),
        *(
            (FILE.replace("/per/loc/place_of_birth", word), "needs quotes")
            for word in ("no", "null", "1", "2024-01-01")
        ),
        (FILE.replace("The head was born in the tail.", "no"), "put a number or a single word in quotes"),
    ],
)
def test_a_malformed_file_is_refused_and_named(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s){path}: .*{message}"):
        read_relation_file(path)


def test_a_draft_may_lack_descriptions_and_keeps_where_they_come_from(tmp_path: Path) -> None:
    path = write(tmp_path, FILE + "- name: /per/loc/live\n  head_types: person\n- {name: other, descriptions: []}\n")
    drafts = load_drafts(path)
    assert (drafts["version"], drafts["language"], drafts["none_relation"]) == (1, "en", "None")
    assert drafts["relations"][1]["provenance"] == "written by hand"
    assert drafts["relations"][1]["reviewed"] is True
    unwritten = {"name": "/per/loc/live", "descriptions": [], "head_types": ["person"], "tail_types": []}
    assert drafts["relations"][2:] == [unwritten, {**unwritten, "name": "other", "head_types": []}]
    with pytest.raises(ValueError, match="'/per/loc/live' needs at least one description"):
        read_relation_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILE.replace("reviewed: true", "reviewed: maybe"), "reviewed is true or false; given 'maybe'"),
        (
            FILE.replace("language: en", "language: no"),
            "language is a code such as 'en'; given False. In YAML, quote it",
        ),
        ("relations: [{name: a, reviewed: true}]", "'a' is marked as reviewed, but has no description"),
        (FILE.replace("[person]", "[martian]"), "head_types holds 'martian', which is none of"),
        (FILE.replace("- The head was born in the tail.", '- ""'), "at least one description and no empty one"),
        ("relations: [{names: a}]", "has an unknown key 'names'"),
        ("relations: [a]", "a relation is a mapping with the keys .* given 'a'"),
        ("relations: [", "while parsing a flow"),
        ("", "a relation file is a mapping with the keys"),
    ],
)
def test_a_malformed_draft_is_refused_and_named(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s){path}: .*{message}"):
        load_drafts(path)


def test_a_draft_that_is_nowhere_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file 'nowhere\.yaml'"):
        load_drafts("nowhere.yaml")


def test_a_written_file_reads_as_it_was_with_each_description_on_one_line(tmp_path: Path) -> None:
    drafts = load_drafts(write(tmp_path, FILE))
    long = "- Großes: \"中\" # 'x'" + " long" * 100
    drafts["relations"][0]["descriptions"] = ["no", long]
    copy = tmp_path / "new" / "copy.yaml"
    write_relation_file(copy, drafts)
    assert load_drafts(copy) == drafts
    [line] = [line for line in copy.read_text(encoding="utf-8").splitlines() if "Großes" in line]
    assert line.count("long") == 100


def test_a_file_that_is_not_utf_8_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "relations.yaml"
    path.write_bytes(FILE.encode().replace(b"hand", b"h\xe4nd"))
    with pytest.raises(ValueError, match=f"{path}: 'utf-8' codec can't decode"):
        read_relation_file(path)


def test_a_file_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'nowhere.yaml', neither in .* nor among ROC's own"):
        read_relation_file("nowhere.yaml")


def test_rocs_own_files_are_found_from_any_folder_and_the_working_folder_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_relation_file("relations/mnre.yaml").none_relation == "None"
    (tmp_path / "relations").mkdir()
    (tmp_path / "relations" / "mnre.yaml").write_text("relations: [{name: a, descriptions: about a}]", encoding="utf-8")
    assert read_relation_file("relations/mnre.yaml").names == ["a"]
    assert find_file("relations/mnre.yaml") == Path("relations/mnre.yaml")
