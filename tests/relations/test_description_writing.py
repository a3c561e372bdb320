"""Descriptions from a language model: the question, the checked answer, and a file that loses nothing."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from language_server import ANSWER, ScriptedServer, completion

from roc.relations.describe import (
    MAX_CHARACTERS,
    MAX_WORDS,
    PROMPT_FILE,
    UnusableAnswer,
    describe_relation,
    load_prompt,
    parse_answer,
    write_descriptions,
)
from roc.relations.drafts import without_model_text
from roc.relations.files import load_drafts, write_relation_file
from roc.relations.language_model import LanguageModel


def relation(name: str, *descriptions: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "descriptions": list(descriptions), "head_types": [], "tail_types": [], **more}


def drafts(*relations: dict[str, Any], none_relation: str | None = None) -> dict[str, Any]:
    return {"version": 1, "language": "en", "none_relation": none_relation, "relations": list(relations)}


Describe = Callable[..., Any]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a server; gives it and a function that asks it for a relation."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as running:

        def start(*script: Any, max_retries: int = 0, **options: Any) -> tuple[ScriptedServer, Describe]:
            server = ScriptedServer(*script, **options)
            monkeypatch.setenv("OPENAI_BASE_URL", running.enter_context(server.running()))
            model = LanguageModel("m", max_retries=max_retries)
            return server, functools.partial(describe_relation, model=model, prompt=load_prompt(), num_descriptions=2)

        yield start


# ---------------------------------------------------------------------------------------------------------------------
# the prompt


def test_the_question_names_the_relation_its_facts_and_its_neighbours(serve: Any) -> None:
    server, describe = serve(completion(ANSWER))
    own = relation("owner of", head_types=["person", "organization"])
    others = [relation("none", "Nothing holds."), relation("maker of", "Made it.", "Built it."), own]
    describe(own, drafts=drafts(*others, none_relation="none"))
    [message] = server.requests[0]["messages"]
    question = message["content"]
    assert message["role"] == "user"
    assert "label: owner of\nTypes of its head entity: person, organization.\n" in question
    assert "\n- maker of: Made it.\n- none: Nothing holds.\n" in question
    assert "exactly 2 descriptions" in question
    assert f"at most {MAX_WORDS} words" in question
    assert "person, organization, location, miscellaneous, object" in question
    assert 'the code "en"' in question
    for point in ("meaning", "direction", "head_types", "tail_types", "is_not", "examples", "descriptions"):
        assert f'"{point}"' in question
    assert "$" not in question


def test_the_relation_that_means_none_is_told_apart_and_one_without_neighbours_can_be_asked(serve: Any) -> None:
    server, describe = serve(completion(ANSWER))
    describe(relation("none"), drafts=drafts(relation("none"), none_relation="none"))
    question = server.requests[0]["messages"][0]["content"]
    assert "none of the other relations holds" in question
    assert "\n(none)\n" in question


def test_a_long_inventory_is_cut_to_the_labels_that_look_alike(serve: Any) -> None:
    server, describe = serve(completion(ANSWER))
    names = [f"q{number}" for number in range(500)] + ["place of birth"]
    describe(relation("place of death"), drafts=drafts(*map(relation, names)))
    question = server.requests[0]["messages"][0]["content"]
    assert question.count("\n- ") == 60 + 5  # the five points of the prompt itself
    assert "\n- place of birth\n" in question


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$relatoin", "unknown placeholder .relatoin; allowed are .*Did you mean 'relation'?"),
        ("$relation for $5", "Invalid placeholder .* Write .. for a dollar sign"),
        ("Describe something", "has no placeholder .relation"),
    ],
)
def test_a_prompt_that_cannot_be_filled_in_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        load_prompt(file)


def test_a_prompt_that_is_nowhere_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no file 'no\.txt'"):
        load_prompt("no.txt")


def test_a_prompt_of_ones_own_says_which_in_the_provenance(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("label: $relation, a $$")
    server, describe = serve(completion(ANSWER))
    prompt = load_prompt(tmp_path / "mine.txt")
    answer = describe(relation("a"), drafts=drafts(relation("a")), prompt=prompt)
    assert server.requests[0]["messages"][0]["content"] == "label: a, a $"
    assert answer["provenance"]["prompt"] == "mine.txt"
    assert answer["provenance"]["prompt_sha256"] == hashlib.sha256(prompt.text.encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# the answer


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ANSWER),
        f"```json\n{json.dumps(ANSWER, indent=2)}\n```",
        f'<think>{{"descriptions"}} or {json.dumps(ANSWER | {"descriptions": ["x"]})}?</think>{json.dumps(ANSWER)}',
        json.dumps(ANSWER | {"descriptions": [" " + text.replace(" ", " \n") for text in ANSWER["descriptions"]]}),
        json.dumps(ANSWER).replace("employed by", "employed\nby"),
    ],
)
def test_the_answer_is_found_in_what_a_model_says_around_it(text: str) -> None:
    assert parse_answer(text if isinstance(text, str) else json.dumps(text), 2) == ANSWER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no JSON object with the keys descriptions, head_types, tail_types$"),
        (json.dumps(ANSWER)[:-1], "it holds no JSON object"),
        (json.dumps([1]), "it holds no JSON object"),
        ({"descriptions": ["a", "b"]}, "it holds no JSON object"),
        ('{"a":' * 100_000, "it holds no JSON object"),
        (ANSWER | {"descriptions": "one"}, "`descriptions` is not a list of texts"),
        (ANSWER | {"descriptions": ["one", 2]}, "`descriptions` is not a list of texts"),
        (ANSWER | {"descriptions": ["one"]}, "holds 1 texts; write 2 different ones"),
        (ANSWER | {"descriptions": ["One is.", "one  is."]}, "holds 2 texts; write 2 different ones"),
        (ANSWER | {"descriptions": ["one", " "]}, "the description '' says nothing"),
        (ANSWER | {"descriptions": ["one", "..."]}, "the description '...' says nothing"),
        (ANSWER | {"descriptions": ["one", "a " * (MAX_WORDS + 1)]}, f"a description has {MAX_WORDS + 1} words"),
        (
            ANSWER | {"descriptions": ["one", "a" * (MAX_CHARACTERS + 1)]},
            f"1 words and {MAX_CHARACTERS + 1} characters",
        ),
        (ANSWER | {"descriptions": ["one", "\ud800"]}, "surrogates not allowed|says nothing"),
        (ANSWER | {"meaning": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_an_answer_that_is_no_use_is_refused_with_the_reason(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_answer(text if isinstance(text, str) else json.dumps(text), 2)


def test_a_cut_off_answer_is_told_so(serve: Any) -> None:
    _, describe = serve(completion('{"descriptions": [', finish_reason="length"))
    with pytest.raises(UnusableAnswer, match=r"no JSON object .*cut off: write less"):
        describe(relation("a"), drafts=drafts(relation("a")))


def test_an_unusable_answer_is_asked_for_again_with_the_reason(serve: Any) -> None:
    wrong_type = ANSWER | {"head_types": ["martian"]}
    script = [completion(said) for said in ("x" * 5000, None, wrong_type, ANSWER)]
    server, describe = serve(*script, max_retries=3)
    answer = describe(relation("a"), drafts=drafts(relation("a")))
    assert answer["descriptions"] == ANSWER["descriptions"]
    questions = [request["messages"] for request in server.requests]
    assert [len(messages) for messages in questions] == [1, 3, 3, 3]
    assert all(messages[0] == questions[0][0] for messages in questions)
    assert [message["role"] for message in questions[1]] == ["user", "assistant", "user"]
    assert questions[1][1]["content"].startswith("xxx")
    assert len(questions[1][1]["content"]) == 2000
    assert "cannot be used: it holds no JSON object" in questions[1][2]["content"]
    assert questions[2][1]["content"] == "(nothing)"
    assert "head_types holds 'martian', which is none of" in questions[3][2]["content"]


def test_after_the_last_retry_the_last_reason_is_given(serve: Any) -> None:
    server, describe = serve(completion("no"), completion(ANSWER | {"descriptions": []}), max_retries=1)
    with pytest.raises(UnusableAnswer, match=r"^`descriptions` holds 0 texts; write 2 different ones$"):
        describe(relation("a"), drafts=drafts(relation("a")))
    assert len(server.requests) == 2


def test_a_number_out_of_range_is_refused(serve: Any) -> None:
    server, describe = serve(completion(ANSWER))
    with pytest.raises(ValueError, match="num_descriptions=0 is out of range"):
        describe(relation("a"), drafts=drafts(relation("a")), num_descriptions=0)
    assert not server.requests


def test_a_description_says_where_it_comes_from_and_types_that_were_given_stay(serve: Any) -> None:
    _, describe = serve(completion(ANSWER))
    own = relation("a", tail_types=["object"])
    described = describe(own, drafts=drafts(own))
    assert (described["head_types"], described["tail_types"]) == (["person"], ["object"])
    assert described["reviewed"] is False
    provenance = described["provenance"]
    assert provenance["model"] == "m"
    assert provenance["host"].startswith("127.0.0.1:")
    assert provenance["prompt"] == Path(PROMPT_FILE).name
    assert provenance["prompt_sha256"] == hashlib.sha256(load_prompt().text.encode()).hexdigest()
    assert provenance["date"] == provenance["date"][:10]
    assert provenance["written"] == ["descriptions", "head_types"]
    assert "head" not in described
    assert provenance["notes"] == {key: ANSWER[key] for key in ("meaning", "direction", "is_not", "examples")}


def test_what_a_person_said_of_head_and_tail_stays_and_is_not_the_models_to_take_out(serve: Any) -> None:
    _, describe = serve(completion(ANSWER))
    own = relation("a", head="a person", tail="the employer")
    described = describe(own, drafts=drafts(own))
    assert described["descriptions"] == ANSWER["descriptions"]
    bare = without_model_text(described)
    for kept in (described, bare):
        assert (kept["head"], kept["tail"]) == ("a person", "the employer")
    assert bare["descriptions"] == []


# ---------------------------------------------------------------------------------------------------------------------
# the file

BY_MODEL = {"provenance": {"model": "m", "written": ["descriptions", "head_types"]}, "reviewed": False}


def test_only_what_is_missing_is_asked_for_and_a_models_earlier_types_do_not_bind_it(
    serve: Any, tmp_path: Path
) -> None:
    server, describe = serve(completion(ANSWER))
    before = drafts(
        relation("by a person", "P."),
        relation("reviewed", "R.", **BY_MODEL | {"reviewed": True}),
        relation("unreviewed", "U.", head_types=["location"], **{key: BY_MODEL[key] for key in BY_MODEL}),
        relation("from elsewhere", "E.", provenance="Wikidata", reviewed=False),
        relation("missing"),
    )

    result = write_descriptions(tmp_path / "out.yaml", before, describe)
    after = load_drafts(tmp_path / "out.yaml")["relations"]
    assert (result["written"], result["kept"], result["failed"]) == (1, 4, 0)
    assert result["unreviewed"] == 3
    assert after[:4] == before["relations"][:4]
    assert after[4]["descriptions"] == ANSWER["descriptions"]

    for own in after[2:4]:  # a person deletes what is no use
        own["descriptions"] = []
    server.requests.clear()
    result = write_descriptions(tmp_path / "out.yaml", before | {"relations": after}, describe)
    after = load_drafts(tmp_path / "out.yaml")["relations"]
    assert (result["written"], result["kept"]) == (2, 3)
    assert after[:2] == before["relations"][:2]
    assert [own["descriptions"] for own in after[2:]] == [ANSWER["descriptions"]] * 3
    assert after[2]["head_types"] == ["person"]
    assert after[2]["provenance"]["written"] == ["descriptions", "head_types", "tail_types"]


def test_a_relation_that_fails_does_not_stop_the_others(serve: Any, tmp_path: Path, caplog: Any) -> None:
    server, describe = serve(completion(ANSWER), by_relation={"b": [completion("no")]}, max_retries=2)
    before = drafts(relation("a"), relation("b"), relation("c"))
    result = write_descriptions(tmp_path / "out.yaml", before, describe)
    assert (result["written"], result["kept"], result["failed"], len(server.requests)) == (2, 0, 1, 5)
    assert list(result["failures"]) == ["b"]
    assert "b: no usable answer: it holds no JSON object" in caplog.text
    after = load_drafts(tmp_path / "out.yaml")["relations"]
    assert [own["descriptions"] for own in after] == [ANSWER["descriptions"], [], ANSWER["descriptions"]]


def test_when_the_server_fails_midway_the_answers_that_came_are_kept_and_the_next_run_goes_on(
    serve: Any, tmp_path: Path
) -> None:
    out_of_credit = (402, {"error": {"message": "out of credit"}}, {})
    server, describe = serve(completion(ANSWER), out_of_credit, completion(ANSWER))
    before = drafts(*map(relation, "abcd"))
    with pytest.raises(ConnectionError, match=r"status 402: out of credit.*\(1 of 4 relations are written, and kept"):
        write_descriptions(tmp_path / "out.yaml", before, describe)
    assert len(server.requests) == 2
    after = load_drafts(tmp_path / "out.yaml")
    assert [own["name"] for own in after["relations"] if own["descriptions"]] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.yaml"]
    result = write_descriptions(tmp_path / "out.yaml", after, describe)
    assert (result["written"], result["kept"], len(server.requests)) == (3, 1, 5)


def test_an_error_that_is_none_of_the_servers_comes_through(tmp_path: Path) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        write_descriptions(tmp_path / "out.yaml", drafts(relation("a")), broken)


def test_notes_of_any_form_can_be_written(serve: Any, tmp_path: Path) -> None:
    notes = {"a: b": {"#": [None, 1.5, "- x\ny: 'z'", "ü 中"]}, "yes": True}
    _, describe = serve(completion(ANSWER | notes))
    described = describe(relation("a"), drafts=drafts(relation("a")))
    write_relation_file(tmp_path / "out.yaml", drafts(described))
    [read] = load_drafts(tmp_path / "out.yaml")["relations"]
    assert read == described
