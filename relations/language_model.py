"""A language model behind a server that speaks OpenAI's protocol: one place for its address, key and errors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from roc.messages_roc import did_you_mean, shorten


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Args:
        text: Its message; empty where it sent none.
        complete: False if the server cut the message off at its limit.
        input_tokens: Of the request, as the server counts them; 0 where it does not tell.
        output_tokens: The same of the message.
    """

    text: str
    complete: bool
    input_tokens: int
    output_tokens: int


class LanguageModel:
    """A chat model on a server whose address and key stand in `OPENAI_BASE_URL` and `OPENAI_API_KEY`.

    The key is never shown or written, and of the address only the host. No sampling settings and no `response_format`
    are sent: not every server takes them.

    Args:
        name: Of the model, as the server knows it.
        max_retries: How often a request is sent again that could not be sent, or that the server answered with status
            408, 409, 429 or 500 and above. Before it the client waits as the server asks (`Retry-After`, up to two
            minutes), else 0.5 s, doubled each time up to 8 s.

    Raises:
        ImportError: If the package `openai` is not installed.
        ValueError: If a variable is not set or malformed, or `max_retries` is negative.
    """

    def __init__(self, name: str, *, max_retries: int = 3) -> None:
        if max_retries < 0:
            raise ValueError(f"max_retries={max_retries} is out of range: give a number >= 0.")
        try:
            import openai
        except ImportError as error:
            raise ImportError("Language models are asked through 'openai'. Type `pip install 'roc[llm]'`.") from error
        base_url, self._key = _endpoint(os.environ)
        self.name, self.max_retries = name, max_retries
        self.host = urlsplit(base_url).netloc.rpartition("@")[2]
        self._openai = openai
        self._client = openai.OpenAI(base_url=base_url, api_key=self._key, max_retries=max_retries)

    def reply(self, messages: list[dict[str, str]]) -> Reply:
        """The model's next message.

        Args:
            messages: The chat so far: mappings with `role` (`"user"`, `"assistant"`) and `content`.

        Raises:
            ConnectionError: If the server cannot be reached, refuses, or does not speak the protocol; the message says
                what to do.
        """
        try:
            completion: Any = self._client.chat.completions.create(model=self.name, messages=messages)  # type: ignore[arg-type]
        except self._openai.OpenAIError as error:
            raise self._failure(self._explain(error)) from error
        except ValueError as error:  # the client decodes what calls itself JSON
            raise self._failure(f"answers something else than JSON: {error}. {_CHECK_ADDRESS}") from error
        try:  # the client does not check an answer against the protocol
            choice = completion.choices[0]
            text, finish_reason = choice.message.content or choice.message.refusal, choice.finish_reason
        except (AttributeError, IndexError, TypeError) as error:
            given = completion.to_dict(warnings=False) if isinstance(completion, self._openai.BaseModel) else completion
            problem = f"answers something else than a chat completion: {shorten(str(given), 200)!r}"
            raise self._failure(f"{problem}. {_CHECK_ADDRESS}") from error
        usage = getattr(completion, "usage", None)
        tokens = (getattr(usage, key, None) or 0 for key in ("prompt_tokens", "completion_tokens"))
        return Reply(str(text or ""), finish_reason != "length", *tokens)

    def _failure(self, problem: str) -> ConnectionError:
        message = f"The server {self.host} (OPENAI_BASE_URL) {problem}"
        return ConnectionError(message.replace(self._key, "***"))  # some servers repeat the key that they refuse

    def _explain(self, error: Exception) -> str:
        """What an error of the client means, and what to do about it."""
        openai = self._openai
        if isinstance(error, openai.APIConnectionError):
            return f"gives no answer: {error.__cause__}. Is it running, and is the address right?"
        if not isinstance(error, openai.APIStatusError):
            return f"gives no usable answer: {error}"
        said = f"status {error.status_code}: {_message(error.body)}"
        if error.status_code in (401, 403):
            return f"refuses the key in OPENAI_API_KEY ({said}). Set the key that belongs to this server."
        if error.status_code == 404:
            return f"has no model {self.name!r} at this address ({said}). {self._models()}"
        if error.status_code == 429:
            return f"refuses because of its limits, after {self.max_retries} retries too ({said}). Go on later."
        return f"fails ({said})."

    def _models(self) -> str:
        """The models that the server tells of."""
        try:
            names = sorted(str(model.id) for model in self._client.with_options(max_retries=0).models.list().data)
        except (self._openai.OpenAIError, ValueError, TypeError, AttributeError):
            return f"It does not tell which it has. {_CHECK_ADDRESS}"
        return f"It has: {shorten(', '.join(names), 1000)}.{did_you_mean(self.name, names)}"


_CHECK_ADDRESS = "Check that OPENAI_BASE_URL ends where the server's paths begin, mostly in /v1."


def _endpoint(environment: Mapping[str, str]) -> tuple[str, str]:
    """Base URL and key."""
    base_url, key = (environment.get(name, "").strip() for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    if not base_url:
        raise ValueError(
            "OPENAI_BASE_URL is not set. Set it to the address of a server with OpenAI's protocol, such as "
            "http://localhost:8000/v1 for one of your own, or https://api.openai.com/v1."
        )
    if not _is_address(base_url):
        raise ValueError("OPENAI_BASE_URL is no address: give http:// or https://, a host, maybe :PORT, and a path.")
    if not key:
        raise ValueError("OPENAI_API_KEY is not set. Set it to your key; for a server of your own, any word may do.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("OPENAI_API_KEY holds characters that no key has, such as a space. Copy it once more.")
    return base_url, key


def _is_address(base_url: str) -> bool:
    try:
        parts = urlsplit(base_url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or brackets around no IPv6 address
        return False
    return named and base_url.isprintable() and " " not in base_url


def _message(body: Any) -> str:
    """What the server says in an error's body, in the forms that servers use."""
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return shorten(" ".join(str(body).split()) or "no reason given", 300)
