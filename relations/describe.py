"""Have a language model describe relations: `python -m roc.relations.describe --relations IN.yaml ...`.

The model is on the server with OpenAI's protocol whose address and key stand in OPENAI_BASE_URL and OPENAI_API_KEY, or
among Hugging Face's Inference Providers. The output is a draft: read it, edit what you would say otherwise, set
`reviewed: true`, and delete descriptions that are no use. What a person wrote or reviewed stays, and the next run asks
for what is missing.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import functools
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from roc.messages_roc import did_you_mean, quote, shorten
from roc.processing_typing_roc import ENTITY_TYPES
from roc.relations.drafts import start_drafts, to_be_reviewed, without_model_text
from roc.relations.files import write_relation_file
from roc.relations_roc import OF_ENTITIES, normalise_relations
from roc.support.programs import run_program
from roc.support.resources import find_file

if TYPE_CHECKING:
    from roc.relations.language_model import LanguageModel

PROMPT_FILE = "relations/prompts/describe_relation.txt"
PLACEHOLDERS = ("relation", "facts", "neighbours", "entity_types", "num_descriptions", "max_words", "language")
MAX_NEIGHBOURS = 60  # labels that a prompt lists, those that look most like the relation's own
# English has about 1.3 word pieces a word, so that both bounds keep below the 96 tokens that a processor reads
MAX_WORDS = 40
MAX_CHARACTERS = 300
ANSWER_KEYS = ("descriptions", "head_types", "tail_types")  # the relation's; an answer's other keys are notes on it
MAX_QUOTED = 2000  # characters of an unusable answer that go back to the model, with the reason

logger = logging.getLogger("roc.relations.describe")


class UnusableAnswer(ValueError):
    """No answer about a relation was usable; the message says why the last one was not."""


class Prompt(NamedTuple):
    """The name of a prompt template's file, and its text, in which `$relation` and other `PLACEHOLDERS` stand."""

    name: str
    text: str


def load_prompt(path: str | os.PathLike[str] | None = None) -> Prompt:
    """Read a prompt template from the working folder, or from what ROC brings; no path means ROC's own.

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


def parse_answer(text: str, num_descriptions: int) -> dict[str, Any]:
    """Find and check the answer in what a model said.

    Args:
        text: A JSON object with `descriptions`, `head_types`, `tail_types` and any other keys, also inside other text.
        num_descriptions: How many descriptions it has to hold.

    Returns:
        The object; white space in descriptions is one space.

    Raises:
        ValueError: If there is no such object, or not as many descriptions as asked for, or one is no text, too long,
            or there twice. The message is for the model that wrote the answer. Types are not checked.
    """
    answer = _last_object(text)
    if answer is None:
        raise ValueError(f"it holds no JSON object with the keys {', '.join(ANSWER_KEYS)}")
    texts = answer["descriptions"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("`descriptions` is not a list of texts")
    texts = [" ".join(text.split()) for text in texts]
    if len(texts) != num_descriptions or len({text.casefold() for text in texts}) < len(texts):
        raise ValueError(f"`descriptions` holds {len(texts)} texts; write {num_descriptions} different ones")
    for text in texts:
        if not any(character.isalpha() for character in text):
            raise ValueError(f"the description {quote(text)} says nothing")
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
    """Return a relation with descriptions from a language model, `provenance` and `reviewed: false`; its types stay.

    The drafts are the file's content, of which the prompt shows other relations and the language. An unusable answer is
    asked for again, with the reason, up to the model's `max_retries` times.

    Raises:
        ConnectionError: If the server fails.
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
        said, complete = model.reply(messages)
        try:
            return _described(relation, parse_answer(said, num_descriptions), model, prompt)
        except ValueError as error:  # also types that do not exist
            problem = str(error) if complete else f"{error} (it was cut off: write less)"
        again = f"This answer cannot be used: {problem}. Answer again, with the JSON object alone."
        quoted = {"role": "assistant", "content": shorten(said, MAX_QUOTED) or "(nothing)"}
        messages = [messages[0], quoted, {"role": "user", "content": again}]
    raise UnusableAnswer(problem)


def write_descriptions(
    output: str | os.PathLike[str],
    drafts: Mapping[str, Any],
    describe: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Have relations without descriptions described, and write the relation file anew after every answer.

    Args:
        output: The file, which may exist.
        drafts: The file's content so far, as `roc.relations.drafts.start_drafts` gives it.
        describe: Describes one relation, given that and the drafts, as `describe_relation` does.

    Returns:
        `output`; how many relations were `written`, `kept` and `failed`; how many are `unreviewed` now; `failures`,
        reasons by relation.

    Raises:
        ConnectionError: If `describe` raises it. The answers that came before are in the file.
    """
    relations = list(drafts["relations"])
    todo = [index for index, relation in enumerate(relations) if not relation["descriptions"]]
    failures: dict[str, str] = {}
    for number, index in enumerate(tqdm(todo, desc="describing", disable=not sys.stderr.isatty())):
        name = relations[index]["name"]
        try:
            relations[index] = describe(without_model_text(relations[index]), drafts)
        except UnusableAnswer as error:
            failures[name] = str(error)
            logger.warning("%s: no usable answer: %s", name, error)
        except ConnectionError as error:
            written = number - len(failures)
            raise ConnectionError(f"{error} ({written} of {len(todo)} relations are written, and kept.)") from error
        else:
            write_relation_file(output, {**drafts, "relations": relations})
    if any(relation["descriptions"] for relation in relations):
        write_relation_file(output, {**drafts, "relations": relations})
    return {
        "output": os.fspath(output),
        "written": len(todo) - len(failures),
        "kept": len(relations) - len(todo),
        "failed": len(failures),
        "unreviewed": sum(map(to_be_reviewed, relations)),
        "failures": failures,
    }


def _facts(relation: Mapping[str, Any], none_relation: str | None) -> str:
    """Return what is known about a relation beside its label, one fact a line."""
    facts = []
    if relation["name"] == none_relation:
        facts.append("It means that none of the other relations holds between the two entities: any type can be.")
    for part in ("head", "tail"):
        if types := relation[f"{part}_types"]:
            facts.append(f"Types of its {part} entity: {', '.join(types)}.")
    return "\n".join(facts)


def _neighbours(name: str, relations: Sequence[Mapping[str, Any]]) -> str:
    """Return the labels that look most like this one, one a line, each with its first description if it has one."""
    others = {other["name"]: other["descriptions"] for other in relations if other["name"] != name}
    nearest = difflib.get_close_matches(name, others, n=MAX_NEIGHBOURS, cutoff=0)
    lines = [": ".join([label, *others[label][:1]]) for label in nearest]
    return "\n".join(f"- {line}" for line in lines) or "(none)"


def _last_object(text: str) -> dict[str, Any] | None:
    """Return the last JSON object that has all of `ANSWER_KEYS`: models think aloud, quote the form, add fences."""
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
    """Return the relation with the answer's descriptions and, where it has none, its types, and with provenance."""
    kept = {key: relation[key] for key in OF_ENTITIES if relation.get(key)}
    written = [key for key in ANSWER_KEYS if key not in kept]
    own = {"name": relation["name"], **{key: answer[key] for key in written}, **kept}
    [described] = normalise_relations([own], None)
    provenance = {
        "model": model.name,
        "host": model.host,
        "prompt": prompt.name,
        "prompt_sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "written": written,
        "notes": {key: value for key, value in answer.items() if key not in ANSWER_KEYS},
    }
    return {**described, "provenance": provenance, "reviewed": False}


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe with the given command line; returns the exit code, 1 if a relation could not be described."""
    parser = argparse.ArgumentParser(prog="python -m roc.relations.describe", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", required=True, help="relation file to write or to go on with (YAML)")
    parser.add_argument("--model", required=True, help="language model, as the server names it")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--relations", help="relation file to start from (YAML), or text file with one name a line")
    given.add_argument("--names", nargs="+", help="names of the relations to start from")
    parser.add_argument("--num_descriptions", type=int, default=3, help="descriptions per relation")
    parser.add_argument("--language", help="code of their language; if not given, that of the relation file, or en")
    parser.add_argument("--prompt", help="file with a prompt template, used in place of ROC's own")
    parser.add_argument("--max_retries", type=int, default=3, help="for an unusable answer, and for a failed request")
    options = parser.parse_args(arguments)
    return run_program(lambda: _describe(options), incomplete=lambda result: result["failed"] > 0)


def _describe(options: argparse.Namespace) -> dict[str, Any]:
    from roc.relations.language_model import LanguageModel  # here: huggingface_hub takes long to import

    prompt = load_prompt(options.prompt)
    drafts = start_drafts(options.output, relations=options.relations, names=options.names, language=options.language)
    model = LanguageModel(options.model, max_retries=options.max_retries)
    describe = functools.partial(
        describe_relation, model=model, prompt=prompt, num_descriptions=options.num_descriptions
    )
    return write_descriptions(options.output, drafts, describe)


if __name__ == "__main__":
    sys.exit(main())
