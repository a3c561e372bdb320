"""Reviewing descriptions in the terminal, with typed lines from a pipe."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import pytest

from roc.relations.files import load_drafts, write_relation_file
from roc.relations.review import review_descriptions

NOTES = {"meaning": "One works for the other.", "examples": ["Ann works at Acme.", "Bob too."]}
BY_MODEL = {"model": "m", "written": ["descriptions", "tail_types"], "notes": NOTES}


def relation(name: str, **more: Any) -> dict[str, Any]:
    own = {"name": name, "descriptions": [f"{name} one.", f"{name} two."], "head_types": ["person"]}
    return {**own, "tail_types": ["location"], "provenance": BY_MODEL, "reviewed": False, **more}


PERSONS = {"name": "p", "descriptions": ["P."], "head_types": [], "tail_types": []}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    relations = [PERSONS, relation("a"), relation("b"), relation("done", reviewed=True), relation("c")]
    content = {"version": 1, "language": "en", "none_relation": None, "relations": relations}
    write_relation_file(tmp_path / "relations.yaml", content)
    return tmp_path / "relations.yaml"


def review(path: Path, typed: str) -> tuple[dict[str, Any], str, dict[str, dict[str, Any]]]:
    """What review gives, what it shows, and the relations by name afterwards."""
    screen = io.StringIO()
    result = review_descriptions(path, answers=io.StringIO(typed), screen=screen)
    return result, screen.getvalue(), {own["name"]: own for own in load_drafts(path)["relations"]}


def test_a_relation_is_shown_with_types_descriptions_and_the_models_notes(path: Path) -> None:
    before = path.read_bytes()
    result, screen, _ = review(path, "s\nq\n")
    assert "1 of 3\na (person -> location)\n  1. a one.\n  2. a two.\n" in screen
    assert "  meaning: One works for the other.\n  examples: Ann works at Acme.; Bob too.\n" in screen
    assert "2 of 3\nb" in screen
    assert "3 of 3" not in screen
    assert "P." not in screen
    assert "done" not in screen
    counts = {"accepted": 0, "edited": 0, "rejected": 0, "unreviewed": 3, "unwritten": 0}
    assert result == {"output": str(path), **counts}
    assert path.read_bytes() == before


def test_accepting_and_rejecting_change_that_relation_only(path: Path) -> None:
    result, _, after = review(path, "a\nreject\nA\n")
    assert (result["accepted"], result["rejected"], result["unreviewed"], result["unwritten"]) == (2, 1, 0, 1)
    assert after["a"] == relation("a", reviewed=True)
    assert after["b"] == {"name": "b", "descriptions": [], "head_types": ["person"], "tail_types": []}
    assert after["c"]["reviewed"] is True
    assert after["p"] == PERSONS
    assert list(after) == ["p", "a", "b", "done", "c"]
    assert review(path, "a\n")[1] == ""


def test_every_decision_is_saved_at_once(path: Path) -> None:
    class Typed(io.StringIO):
        def readline(self, *_: Any) -> str:  # type: ignore[override]
            seen.append([own.get("reviewed") for own in load_drafts(path)["relations"]])
            return super().readline()

    seen: list[list[Any]] = []
    review_descriptions(path, answers=Typed("a\na\n"), screen=io.StringIO())
    assert [reviewed[1:3] for reviewed in seen] == [[False, False], [True, False], [True, True]]


def test_the_end_of_the_input_quits_and_nonsense_is_asked_again(path: Path) -> None:
    result, screen, after = review(path, "\nwhat\na")
    assert "'what' is not known" in screen
    assert screen.count("[a]ccept") == 4
    assert (result["accepted"], result["unreviewed"]) == (1, 2)
    assert after["a"]["reviewed"] is True


def test_a_typed_line_replaces_or_adds_a_description_and_is_shown_again(path: Path) -> None:
    result, screen, after = review(path, "e 2 Two, mended.\ne 3  Three.\na\nq\n")
    assert (result["edited"], result["accepted"]) == (2, 1)
    assert after["a"]["descriptions"] == ["a one.", "Two, mended.", "Three."]
    assert after["a"]["provenance"] == BY_MODEL | {"edited": True}
    assert after["a"]["reviewed"] is True
    assert "  2. Two, mended.\n  3. Three.\n" in screen


@pytest.mark.parametrize("typed", ["e 0 x", "e 4 x", "e 1", "e one x", "e"])
def test_an_edit_that_cannot_be_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    before = path.read_bytes()
    result, screen, _ = review(path, f"{typed}\nq\n")
    assert "Nothing is changed: " in screen
    assert result["edited"] == 0
    assert path.read_bytes() == before


def editor(folder: Path, script: str) -> str:
    """A command that edits a file without a person."""
    program = folder / "my editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"'{program}' --wait"


def test_the_persons_editor_may_change_descriptions_and_types(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor(path.parent, 'sed -i "s/a one/A ONE/; s/location/organization/" "$2"'))
    result, _, after = review(path, "e\na\nq\n")
    assert (result["edited"], result["accepted"]) == (1, 1)
    assert after["a"]["descriptions"] == ["A ONE.", "a two."]
    assert (after["a"]["head_types"], after["a"]["tail_types"]) == (["person"], ["organization"])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "exit status 3"),
        ('echo "descriptions: []" > "$2"', "needs at least one description"),
        ('echo "[" > "$2"', "That is no YAML"),
        ('echo "name: x" > "$2"', "Keep the keys"),
        ('echo text > "$2"', "Keep the keys"),
        ('sed -i s/person/human/ "$2"', "head_types holds 'human'"),
    ],
)
def test_what_an_editor_spoils_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setenv("VISUAL", editor(path.parent, script))
    before = path.read_bytes()
    result, screen, _ = review(path, "e\nq\n")
    assert message in screen.split("Nothing is changed: ", 1)[1]
    assert result["edited"] == 0
    assert path.read_bytes() == before


def test_an_editor_that_is_not_there_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", str(path.parent / "nowhere"))
    assert "Nothing is changed: " in review(path, "e\nq\n")[1]


def test_a_file_that_is_missing_or_has_comments_is_not_reviewed(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        review(path.parent / "nowhere.yaml", "")
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(ValueError, match="comments would be lost"):
        review(path, "a\n")
