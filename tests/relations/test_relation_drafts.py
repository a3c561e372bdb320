"""Unfinished relation files: what is kept, what is added, and what is still to be written or reviewed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roc.relations.drafts import start_drafts, to_be_reviewed, without_model_text
from roc.relations.files import load_drafts, write_relation_file

WRITTEN = {"model": "m", "written": ["descriptions", "tail_types"]}
BY_PERSON = {"name": "p", "descriptions": ["P."], "head_types": ["person"], "tail_types": []}
UNREVIEWED = {"name": "u", "descriptions": ["U."], "head_types": ["person"], "tail_types": ["object"]}
UNREVIEWED |= {"provenance": WRITTEN, "reviewed": False}
REVIEWED = UNREVIEWED | {"name": "r", "reviewed": True}
ELSEWHERE = {
    "name": "e",
    "descriptions": ["E."],
    "head_types": [],
    "tail_types": [],
    "provenance": "W",
    "reviewed": False,
}
MISSING: dict[str, Any] = {"name": "m", "descriptions": [], "head_types": [], "tail_types": ["location"]}


def write(path: Path, *relations: dict[str, Any], **header: Any) -> Path:
    content = {"version": 1, "language": "en", "none_relation": None, "relations": list(relations)}
    write_relation_file(path, {**content, **header})
    return path


def test_what_is_to_be_reviewed() -> None:
    every = [BY_PERSON, UNREVIEWED, REVIEWED, ELSEWHERE, MISSING]
    assert [own["name"] for own in every if to_be_reviewed(own)] == ["u", "e"]


def test_what_a_model_wrote_can_be_taken_out_and_nothing_else() -> None:
    bare = {"name": "u", "descriptions": [], "head_types": ["person"], "tail_types": []}
    assert without_model_text(UNREVIEWED) == bare
    assert without_model_text(ELSEWHERE) == {key: ELSEWHERE[key] for key in bare}
    assert without_model_text(BY_PERSON) == BY_PERSON


def test_names_and_lists_of_names_become_relations_without_descriptions(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("b of\n\n /a/b \n")
    listed = start_drafts(tmp_path / "out.yaml", relations=tmp_path / "names.txt", language="de")
    named = start_drafts(tmp_path / "out.yaml", names=["b of", "/a/b"], language="de")
    assert listed == named
    assert (named["language"], named["none_relation"]) == ("de", None)
    assert named["relations"][1] == {"name": "/a/b", "descriptions": [], "head_types": [], "tail_types": []}
    assert start_drafts(tmp_path / "out.yaml", names=["a"])["language"] == "en"


def test_a_given_relation_file_is_started_from(tmp_path: Path) -> None:
    given = write(tmp_path / "in.yaml", BY_PERSON, MISSING, none_relation="p", language="fr")
    assert start_drafts(tmp_path / "out.yaml", relations=given) == load_drafts(given)


def test_the_output_keeps_what_it_has_and_takes_what_it_lacks(tmp_path: Path, caplog: Any) -> None:
    output = write(tmp_path / "out.yaml", REVIEWED, MISSING, BY_PERSON, {**MISSING, "name": "only here"})
    changed = [BY_PERSON | {"descriptions": ["Other."]}, MISSING | {"tail_types": ["object"]}, ELSEWHERE]
    given = write(tmp_path / "in.yaml", *changed, none_relation="e")
    merged = start_drafts(output, relations=given)
    assert merged["relations"] == [REVIEWED, changed[1], BY_PERSON, {**MISSING, "name": "only here"}, ELSEWHERE]
    assert merged["none_relation"] == "e"
    assert "p: the output's descriptions stay" in caplog.text
    assert start_drafts(output) == load_drafts(output)


@pytest.mark.parametrize("header", [{"language": "de"}, {"none_relation": "m"}])
def test_two_files_that_do_not_agree_are_refused(tmp_path: Path, header: dict[str, str]) -> None:
    output = write(tmp_path / "out.yaml", BY_PERSON, MISSING, none_relation="p")
    given = write(tmp_path / "in.yaml", BY_PERSON, MISSING, **{"none_relation": "p"} | header)
    with pytest.raises(
        ValueError, match=f"{next(iter(header))} is .* in the file, but '{next(iter(header.values()))}'"
    ):
        start_drafts(output, relations=given)
    if "language" in header:
        with pytest.raises(ValueError, match="language is 'en' in the file, but 'de' is given"):
            start_drafts(output, language="de")


def test_a_start_that_cannot_be_is_refused(tmp_path: Path) -> None:
    output, names = tmp_path / "out.yaml", tmp_path / "names.txt"
    with pytest.raises(FileNotFoundError, match=r"There is no .*out\.yaml' yet: give --relations"):
        start_drafts(output)
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.yaml'"):
        start_drafts(output, relations="nowhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        start_drafts(output, relations=tmp_path / "nowhere.txt")
    names.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=f"{names}: Relation names must differ"):
        start_drafts(output, relations=names)
    names.write_text("\n")
    with pytest.raises(ValueError, match=f"{names}: .*`relations` is not empty"):
        start_drafts(output, relations=names)
    with pytest.raises(ValueError, match="needs a non-empty name; given ' '"):
        start_drafts(output, names=["a", " "])
    write(output, MISSING)
    with pytest.raises(ValueError, match="is read, so it is not written to"):
        start_drafts(output, relations=tmp_path / "." / "out.yaml")


def test_a_file_with_comments_is_not_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / "out.yaml", BY_PERSON | {"descriptions": ["A #tag\n# and more."]}, MISSING)
    assert start_drafts(path) == load_drafts(path)
    own = path.read_text()
    for commented in (f"# mine\n{own}", f"{own}# mine\n", own.replace("language: en", "language: en # mine")):
        path.write_text(commented)
        with pytest.raises(ValueError, match="comments would be lost"):
            start_drafts(path)
