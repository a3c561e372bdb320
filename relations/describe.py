"""Have a language model describe relations: `python -m roc.relations.describe --relations IN.yaml ...`.

The model is on the server with OpenAI's protocol whose address and key stand in OPENAI_BASE_URL and OPENAI_API_KEY, or
among Hugging Face's Inference Providers. The output is a draft: read it, edit what you would say otherwise, set
`reviewed: true`, and delete descriptions that are no use. What a person wrote or reviewed stays, and the next run asks
for what is missing.
"""

from __future__ import annotations

import argparse
import functools
import operator
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roc.relations.language_model import Reply


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe with the given command line; returns the exit code, 1 if a relation could not be described."""
    options = _parser().parse_args(arguments)
    from roc.support.programs import run_program  # here: `--help` answers at once

    return run_program(lambda: _describe(options), incomplete=lambda result: result["failed"] > 0)


def _describe(options: argparse.Namespace) -> dict[str, Any]:
    from roc.relations.drafts import start_drafts
    from roc.relations.language_model import LanguageModel
    from roc.relations.writing import describe_relation, load_prompt, write_descriptions

    prices = [price for price in (options.input_price, options.output_price) if price is not None]
    if len(prices) == 1 or not all(price >= 0 for price in prices):
        raise ValueError(f"Give two prices, --input_price and --output_price, from 0 on, or none; given {prices}.")
    prompt = load_prompt(options.prompt)
    drafts = start_drafts(options.output, relations=options.relations, names=options.names, language=options.language)
    model = LanguageModel(options.model, max_retries=options.max_retries)
    describe = functools.partial(
        describe_relation,
        drafts=drafts,
        model=model,
        prompt=prompt,
        num_descriptions=options.num_descriptions,
    )
    return write_descriptions(
        options.output,
        drafts,
        describe,
        expense=lambda: _expense(model.replies, prices),
        overwrite_unreviewed=options.overwrite_unreviewed,
        concurrency=options.concurrency,
    )


def _expense(replies: Sequence[Reply], prices: Sequence[float]) -> dict[str, Any]:
    """Tokens that were read and written, and where prices are known their cost."""
    tokens = [sum(reply.input_tokens for reply in replies), sum(reply.output_tokens for reply in replies)]
    cost = {"cost": round(sum(map(operator.mul, tokens, prices)) / 1e6, 6)} if prices else {}
    return {"input_tokens": tokens[0], "output_tokens": tokens[1], **cost}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m roc.relations.describe", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", required=True, help="relation file to write or to go on with (YAML)")
    parser.add_argument("--model", required=True, help="language model, as the server names it")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--relations", help="relation file to start from (YAML), or text file with one name a line")
    given.add_argument("--names", nargs="+", help="instead, the names of the relations")
    parser.add_argument("--num_descriptions", type=int, default=3, help="descriptions per relation")
    parser.add_argument("--language", help="code of their language; as the relation file says if not given, or en")
    parser.add_argument("--prompt", help="file with the prompt template, in place of ROC's own")
    parser.add_argument("--max_retries", type=int, default=3, help="for an unusable answer, and for a failed request")
    parser.add_argument("--concurrency", type=int, default=2, help="requests under way at a time")
    parser.add_argument("--input_price", type=float, help="price of a million input tokens, to show the cost")
    parser.add_argument("--output_price", type=float, help="price of a million output tokens, in the same currency")
    parser.add_argument("--overwrite_unreviewed", action="store_true", help="write unreviewed ones of a model anew")
    return parser


if __name__ == "__main__":
    sys.exit(main())
