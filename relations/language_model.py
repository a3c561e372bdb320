"""A language model behind a server that speaks OpenAI's protocol: one place for its address, key and errors."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import InferenceClient, constants, get_session, get_token
from huggingface_hub.errors import HTTPError  # of httpx or httpx2, as this version has it

from roc.messages_roc import did_you_mean, shorten

INFERENCE_PROVIDERS = "https://router.huggingface.co/v1"
TIMEOUT = 600  # seconds; a model that thinks before it answers may take minutes
LONGEST_PAUSE = 120  # seconds that a server may have us wait before the next try
ADDRESS = re.compile(r"https?://(\S+@)?(\[[\d:A-Fa-f.]+\]|[^\s/@:\[\]]+)(:\d+)?(/\S*)?")  # with [...], an IPv6 address
CHECK_ADDRESS = "Check that OPENAI_BASE_URL ends where the server's paths begin, mostly in /v1."


class LanguageModel:
    """A chat model on a server.

    The server is the one whose address and key stand in `OPENAI_BASE_URL` and `OPENAI_API_KEY`. Without an address it
    is Hugging Face's Inference Providers, with the token of `HF_TOKEN` or `hf auth login`. The key is never shown or
    written, and of the address only the host. No sampling settings and no `response_format` are sent, because some
    servers refuse them.

    Args:
        name: Name of the model, as the server knows it.
        max_retries: How often a request is sent again that got no answer, or status 408, 409, 429 or at least 500.
            Before it the client waits as the server asks (`Retry-After`), else 0.5 s, doubled each time up to 8 s.
            Callers may ask as often for an answer again that is no use.

    Raises:
        ValueError: If a variable is not set or malformed, the Hub's offline mode forbids requests, or `max_retries` is
            negative.
    """

    def __init__(self, name: str, *, max_retries: int = 3) -> None:
        if max_retries < 0:
            raise ValueError(f"max_retries={max_retries} is out of range: give a number >= 0.")
        if constants.HF_HUB_OFFLINE:
            raise ValueError("HF_HUB_OFFLINE forbids all requests of huggingface_hub: unset it to ask a server.")
        self._base_url, self._key, self._key_source = _endpoint(os.environ)
        self.name, self.max_retries = name, max_retries
        # without password and path
        self.host = urlsplit(self._base_url).netloc.rpartition("@")[2]
        # with its last part, to which the client adds nothing: not every address has a /v1
        address = f"{self._base_url}/chat/completions"
        self._client = InferenceClient(base_url=address, api_key=self._key, timeout=TIMEOUT)

    def reply(self, messages: list[dict[str, str]]) -> tuple[str, bool]:
        """Send the chat so far and return the model's next message.

        Args:
            messages: Mappings with `role` (`"user"`, `"assistant"`) and `content`.

        Returns:
            The message, empty where the model sent none, and whether it is complete, not cut off at the server's limit.

        Raises:
            ConnectionError: If the server cannot be reached, refuses, or does not speak the protocol; the message says
                what to do.
        """
        completion: Any = None
        try:  # the client does not check an answer against the protocol
            completion = self._send(messages)
            [choice, *_] = completion.choices
            text = choice.message.content or choice.message.get("refusal") or ""
            return str(text), choice.finish_reason != "length"
        except (ValueError, TypeError, AttributeError) as error:
            said = shorten(str(getattr(error, "doc", completion)), 200)
            raise self._failure(f"answers something else than a chat completion: {said!r}. {CHECK_ADDRESS}") from error

    def _send(self, messages: list[dict[str, str]], attempt: int = 0) -> Any:
        try:
            return self._client.chat_completion(messages, model=self.name)
        except (HTTPError, OSError) as error:
            response = getattr(error, "response", None)
            may_pass = response is None or response.status_code in (408, 409, 429) or response.status_code >= 500
            if attempt == self.max_retries or not may_pass:
                raise self._failure(self._explain(error, response)) from error
            asked = "" if response is None else response.headers.get("retry-after", "")
        time.sleep(min(int(asked), LONGEST_PAUSE) if asked.isdecimal() else min(0.5 * 2**attempt, 8))
        return self._send(messages, attempt + 1)

    def _failure(self, problem: str) -> ConnectionError:
        message = f"The server {self.host} (OPENAI_BASE_URL) {problem}"
        # an address may have a password, and some servers repeat the key that they refuse
        return ConnectionError(message.replace(self._base_url, self.host).replace(self._key, "***"))

    def _explain(self, error: Exception, response: Any) -> str:
        """Say what an error means, and what to do about it."""
        if response is None:
            return f"gives no answer: {error}. Is it running, and is the address right?"
        status = response.status_code
        said = f"status {status}: {_message(response)}"
        if status in (401, 403):
            return f"refuses the key in {self._key_source} ({said}). Set the key that belongs to this server."
        if status == 404:
            return f"has no model {self.name!r} at this address ({said}). {self._models()}"
        if status == 429:
            return f"refuses because of its limits, after {self.max_retries} retries too ({said}). Go on later."
        return f"fails ({said})."

    def _models(self) -> str:
        """Say which models the server has."""
        try:
            headers = {"authorization": f"Bearer {self._key}"}
            listed = get_session().get(f"{self._base_url}/models", headers=headers, timeout=30).json()
            names = sorted(str(model["id"]) for model in listed["data"])
        except (HTTPError, OSError, ValueError, TypeError, LookupError):
            return f"It does not tell which it has. {CHECK_ADDRESS}"
        return f"It has: {shorten(', '.join(names), 1000)}.{did_you_mean(self.name, names)}"


def _endpoint(environment: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the server's address, the key, and the name of the variable that has the key."""
    base_url, key = (environment.get(name, "").strip() for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    if not base_url:
        token = get_token()
        if token is None:
            raise ValueError(
                "OPENAI_BASE_URL is not set. Set it to the address of a server with OpenAI's protocol, such as "
                "http://localhost:8000/v1 for one of your own. Or type `hf auth login`, to ask Hugging Face's "
                "Inference Providers."
            )
        return INFERENCE_PROVIDERS, token, "HF_TOKEN, or of `hf auth login`,"
    if not ADDRESS.fullmatch(base_url):
        raise ValueError("OPENAI_BASE_URL is no address: give http:// or https://, a host, maybe :PORT, and a path.")
    if not key:
        raise ValueError("OPENAI_API_KEY is not set. Set it to your key; for a server of your own, any word may do.")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("OPENAI_API_KEY holds characters that no key has, such as a space. Copy it once more.")
    return base_url.rstrip("/"), key, "OPENAI_API_KEY"


def _message(response: Any) -> str:
    """Return what the server says in an error's body, in the forms that servers use."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    for key in ("error", "message", "detail"):
        body = body.get(key) or body if isinstance(body, dict) else body
    return shorten(" ".join(str(body).split()) or "no reason given", 300)
