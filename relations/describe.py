"""Have a language model describe relations: `python -m roc.relations.describe --relations IN.yaml ...`.

The model is on a server with OpenAI's protocol, whose address and key are read from OPENAI_BASE_URL and OPENAI_API_KEY.
What a person wrote or reviewed stays, and a second run asks for what is missing. `--review --output OUT.yaml` shows
what the model wrote, to accept, edit or reject it.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

from roc.relations.drafts import start_drafts
from roc.relations.language_model import LanguageModel
from roc.relations.review import review_descriptions
from roc.relations.writing import PROMPT_FILE, Expense, describe_relation, load_prompt, write_descriptions
from roc.support.programs import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe or review with the given command line; returns the exit code, 1 if a relation could not be described."""
    options = _parser().parse_args(arguments)
    program = _review if options.review else _describe
    return run_program(lambda: program(options), incomplete=lambda result: result.get("failed", 0) > 0)


def _describe(options: argparse.Namespace) -> dict[str, Any]:
    if options.model is None:
        raise ValueError("Name the language model with --model, or give --review to review what one wrote.")
    expense = Expense(options.input_price, options.output_price)
    prompt = load_prompt(options.prompt)
    drafts = start_drafts(options.output, relations=options.relations, names=options.names, language=options.language)
    describe = functools.partial(
        describe_relation,
        drafts=drafts,
        model=LanguageModel(options.model, max_retries=options.max_retries),
        prompt=prompt,
        num_descriptions=options.num_descriptions,
        max_retries=options.max_retries,
    )
    return write_descriptions(
        options.output,
        drafts,
        describe,
        expense=expense,
        overwrite_unreviewed=options.overwrite_unreviewed,
        concurrency=options.concurrency,
    )


def _review(options: argparse.Namespace) -> dict[str, Any]:
    return review_descriptions(options.output, answers=sys.stdin, screen=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m roc.relations.describe", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", required=True, help="relation file to write or to go on with (YAML)")
    parser.add_argument("--relations", help="relation file to start from (YAML), or text file with one name a line")
    parser.add_argument("--names", nargs="+", help="instead, the names of the relations")
    parser.add_argument("--model", help="language model, as the server names it")
    parser.add_argument("--num_descriptions", type=int, default=3, help="descriptions per relation")
    parser.add_argument("--language", help="code of their language; as the relation file says if not given, or en")
    parser.add_argument("--prompt", default=PROMPT_FILE, help="file with the prompt template")
    parser.add_argument("--max_retries", type=int, default=3, help="for an unusable answer, and for a failed request")
    parser.add_argument("--concurrency", type=int, default=2, help="requests under way at a time")
    parser.add_argument("--input_price", type=float, help="price of a million input tokens, to show the cost")
    parser.add_argument("--output_price", type=float, help="price of a million output tokens, in the same currency")
    parser.add_argument("--overwrite_unreviewed", action="store_true", help="write unreviewed ones of a model anew")
    parser.add_argument("--review", action="store_true", help="review the output's descriptions in the terminal")
    return parser


if __name__ == "__main__":
    sys.exit(main())
