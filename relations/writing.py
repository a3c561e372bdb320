"""Descriptions of relations from a language model: asked for with a prompt template, checked, kept with provenance."""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from string import Template
from typing import Any

from tqdm.auto import tqdm

from roc.messages_roc import did_you_mean, shorten
from roc.processing_typing_roc import ENTITY_TYPES
from roc.relations.drafts import to_be_reviewed, to_be_written, without_model_text
from roc.relations.files import write_relation_file
from roc.relations.language_model import LanguageModel, Reply
from roc.relations_roc import normalise_relations
from roc.support.resources import find_file

PROMPT_FILE = "relations/prompts/describe_relation.txt"
PLACEHOLDERS = ("relation", "facts", "neighbours", "entity_types", "num_descriptions", "max_words", "language")
MAX_NEIGHBOURS = 60  # labels that a prompt lists, those that look most like the relation's own
# English has about 1.3 word pieces a word, so that both bounds keep below the 96 tokens that a processor reads
MAX_WORDS = 40
MAX_CHARACTERS = 300
ANSWER_KEYS = ("descriptions", "head_types", "tail_types")  # the relation's; an answer's other keys are notes on it
MAX_QUOTED = 2000  # characters of an unusable answer that go back to the model, with the reason

logger = logging.getLogger(__name__)

Describe = Callable[[dict[str, Any]], dict[str, Any]]


class UnusableAnswer(ValueError):
    """No answer about a relation was usable; the message says why the last one was not."""


@dataclass(frozen=True)
class Prompt:
    """A prompt template and where it comes from.

    Args:
        name: Name of its file.
        text: Its text, with placeholders: `$relation` (the label), `$facts` (what is known about it), `$neighbours`
            (other labels), `$entity_types`, `$num_descriptions`, `$max_words`, `$language`.
    """

    name: str
    text: str


def load_prompt(path: str | os.PathLike[str] | None = None) -> Prompt:
    """Read a prompt template, from the working folder or from what ROC brings; ROC's own if no path is given.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not name the relation, has an unknown placeholder, or a `$` that begins none.
    """
    file = find_file(PROMPT_FILE if path is None else path)
    text = file.read_text(encoding="utf-8")
    try:
        filled = [Template(text).substitute(dict.fromkeys(PLACEHOLDERS, ""), relation=label) for label in ("a", "b")]
    except KeyError as error:
        hint = did_you_mean(error.args[0], PLACEHOLDERS)
        raise ValueError(f"{file}: unknown placeholder ${error.args[0]}; allowed are {PLACEHOLDERS}.{hint}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}. Write $$ for a dollar sign.") from error
    if filled[0] == filled[1]:
        raise ValueError(f"{file} has no placeholder $relation: say which relation to describe.")
    return Prompt(file.name, text)


def parse_answer(reply: Reply, num_descriptions: int) -> dict[str, Any]:
    """Find and check the answer in what a model said.

    Args:
        reply: A JSON object with `descriptions`, `head_types`, `tail_types` and any other keys, also inside other text.
        num_descriptions: How many descriptions it has to hold.

    Returns:
        The object; white space in descriptions is one space.

    Raises:
        ValueError: If there is no such object, or not as many descriptions as asked for, or one is no text, too long,
            or there twice. The message is for the model that wrote the answer. Types are not checked.
    """
    answer = _last_object(reply.text)
    if answer is None:
        cut = "" if reply.complete else " (it was cut off: write less)"
        raise ValueError(f"it holds no JSON object with the keys {', '.join(ANSWER_KEYS)}{cut}")
    texts = answer["descriptions"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("`descriptions` is not a list of texts")
    texts = [" ".join(text.split()) for text in texts]
    if len(texts) != num_descriptions or len({text.casefold() for text in texts}) < len(texts):
        raise ValueError(f"`descriptions` holds {len(texts)} texts; write {num_descriptions} different ones")
    for text in texts:
        if not any(character.isalpha() for character in text):
            raise ValueError(f"the description {text!r} says nothing")
        if len(text.split()) > MAX_WORDS or len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"a description has {len(text.split())} words and {len(text)} characters, at most {MAX_WORDS} words "
                f"and {MAX_CHARACTERS} characters are allowed: {shorten(text)!r}"
            )
    json.dumps(answer, ensure_ascii=False).encode()  # half a surrogate pair is a ValueError here
    return {**answer, "descriptions": texts}


def describe_relation(
    relation: Mapping[str, Any],
    drafts: Mapping[str, Any],
    model: LanguageModel,
    prompt: Prompt,
    *,
    num_descriptions: int = 3,
) -> dict[str, Any]:
    """Have a language model describe one relation.

    Args:
        relation: As `roc.relations.files.load_drafts` gives it. Its types stay; the model's are taken where it has
            none.
        drafts: The file's content, for the other relations and the language.
        model: Which to ask; an unusable answer is asked for again, with the reason, up to `max_retries` times.
        prompt: How to ask.
        num_descriptions: How many descriptions to ask for.

    Returns:
        The relation, described, with `provenance` and `reviewed: false`.

    Raises:
        ConnectionError: As `LanguageModel.reply`.
        UnusableAnswer: If no answer was usable; the message is about the last one.
        ValueError: If `num_descriptions` is less than 1.
    """
    if num_descriptions < 1:
        raise ValueError(f"num_descriptions={num_descriptions} is out of range: give a number >= 1.")
    question = Template(prompt.text).substitute(
        relation=relation["name"],
        facts=_facts(relation, drafts["none_relation"]),
        neighbours=_neighbours(relation["name"], drafts["relations"]),
        entity_types=", ".join(ENTITY_TYPES),
        num_descriptions=num_descriptions,
        max_words=MAX_WORDS,
        language=drafts["language"],
    )
    messages = [{"role": "user", "content": question}]
    problem = ""
    for _ in range(model.max_retries + 1):
        reply = model.reply(messages)
        try:
            return _described(relation, parse_answer(reply, num_descriptions), model, prompt)
        except ValueError as error:  # also types that do not exist
            problem = str(error)
        again = f"This answer cannot be used: {problem}. Answer again, with the JSON object alone."
        said = shorten(reply.text, MAX_QUOTED) or "(nothing)"
        messages = [messages[0], {"role": "assistant", "content": said}, {"role": "user", "content": again}]
    raise UnusableAnswer(problem)


def write_descriptions(
    output: str | os.PathLike[str],
    drafts: dict[str, Any],
    describe: Describe,
    *,
    expense: Callable[[], dict[str, Any]],
    overwrite_unreviewed: bool = False,
    concurrency: int = 1,
) -> dict[str, Any]:
    """Have relations described, and write the relation file anew after every answer.

    Args:
        output: The file.
        drafts: Its content so far, as `roc.relations.drafts.start_drafts` gives it.
        describe: Asks for one relation, as `describe_relation`; several threads call it.
        expense: What the answers have cost so far, for the result.
        overwrite_unreviewed: Whether descriptions that have a provenance and no review are written anew too.
        concurrency: How many relations are asked for at a time.

    Returns:
        `output`; how many relations were `written`, `kept` and `failed`; how many are `unreviewed` now; `failures`,
        reasons by relation; the expense.

    Raises:
        ConnectionError: From `describe`. The answers that came are in the file.
        ValueError: If `concurrency` is less than 1.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} is out of range: give a number >= 1.")
    relations = list(drafts["relations"])
    todo = {
        index: without_model_text(relation)
        for index, relation in enumerate(relations)
        if to_be_written(relation, overwrite_unreviewed=overwrite_unreviewed)
    }
    failures: dict[str, str] = {}
    num_written = 0
    bar = tqdm(total=len(todo), desc="describing", disable=not sys.stderr.isatty())
    try:
        for index, answer in _as_they_come(describe, todo, concurrency):
            if isinstance(answer, UnusableAnswer):
                failures[relations[index]["name"]] = str(answer)
                logger.warning("%s: no usable answer: %s", relations[index]["name"], answer)
            else:
                relations[index] = answer
                num_written += 1
                write_relation_file(output, {**drafts, "relations": relations})
            bar.set_postfix(expense(), refresh=False)
            bar.update()
    except ConnectionError as error:
        logger.info("used so far: %s", expense())
        raise ConnectionError(f"{error} ({num_written} of {len(todo)} relations are written, and kept.)") from error
    finally:
        bar.close()
    if any(relation["descriptions"] for relation in relations):
        write_relation_file(output, {**drafts, "relations": relations})
    return {
        "output": os.fspath(output),
        "written": num_written,
        "kept": len(relations) - len(todo),
        "failed": len(failures),
        "unreviewed": sum(map(to_be_reviewed, relations)),
        "failures": failures,
        **expense(),
    }


def _as_they_come(
    describe: Describe, relations: Mapping[int, dict[str, Any]], concurrency: int
) -> Iterator[tuple[int, dict[str, Any] | UnusableAnswer]]:
    """Indices and answers as they come; after another error no more are asked for, and those under way still come."""
    waiting = [*relations][::-1]
    running: dict[Future[dict[str, Any]], int] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(concurrency) as pool:
        while running or (waiting and failure is None):
            while waiting and failure is None and len(running) < concurrency:
                index = waiting.pop()
                running[pool.submit(describe, relations[index])] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index, error = running.pop(future), future.exception()
                if error is None or isinstance(error, UnusableAnswer):
                    yield index, error or future.result()
                else:
                    failure = failure or error
    if failure is not None:
        raise failure


def _facts(relation: Mapping[str, Any], none_relation: str | None) -> str:
    """What is known about a relation beside its label, one fact a line."""
    facts = []
    if relation["name"] == none_relation:
        facts.append("It means that none of the other relations holds between the two entities: any type can be.")
    for part in ("head", "tail"):
        if types := relation[f"{part}_types"]:
            facts.append(f"Types of its {part} entity: {', '.join(types)}.")
    facts.extend(f"Described so far as: {text}" for text in relation["descriptions"])
    return "\n".join(facts)


def _neighbours(name: str, relations: Sequence[Mapping[str, Any]]) -> str:
    """The other labels that look most like this one, with a description where there is one, one a line."""
    others = {other["name"]: other["descriptions"] for other in relations if other["name"] != name}
    nearest = difflib.get_close_matches(name, others, n=MAX_NEIGHBOURS, cutoff=0)
    lines = [": ".join([label, *others[label][:1]]) for label in nearest]
    return "\n".join(f"- {line}" for line in lines) or "(none)"


def _last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in a text that has all of `ANSWER_KEYS`: models think aloud, quote the form, add fences."""
    decoder, found, start = json.JSONDecoder(strict=False), None, text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
            if all(key in value for key in ANSWER_KEYS):
                found = value
        except ValueError:
            pass
        except RecursionError:  # thousands of braces, none of which can be the answer's
            break
        start = text.find("{", end)
    return found


def _described(
    relation: Mapping[str, Any], answer: dict[str, Any], model: LanguageModel, prompt: Prompt
) -> dict[str, Any]:
    """The relation with the answer's descriptions, its types where it has none, and where they come from.

    Raises:
        ValueError: If a type does not exist.
    """
    kept = {key: relation[key] for key in ("head_types", "tail_types") if relation[key]}
    written = [key for key in ANSWER_KEYS if key not in kept]
    own = {"name": relation["name"], **{key: answer[key] for key in written}, **kept}
    [described] = normalise_relations([own], None)
    provenance = {
        "model": model.name,
        "host": model.host,
        "prompt": prompt.name,
        "prompt_sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "written": written,
        "notes": {key: value for key, value in answer.items() if key not in ANSWER_KEYS},
    }
    return {**described, "provenance": provenance, "reviewed": False}
