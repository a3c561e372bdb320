"""A language model behind a server: what is sent, what comes back, and what is said when the server fails."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import huggingface_hub
import pytest
from language_server import ScriptedServer, completion

from roc.relations import language_model
from roc.relations.language_model import LanguageModel

KEY = "sk-not-to-be-shown"
QUESTION = [{"role": "user", "content": "hello"}]
HTML = {"content-type": "text/html"}
AT_ONCE = {"retry-after": "0"}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a server and has the environment name it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as running:

        def start(*script: Any, **options: Any) -> ScriptedServer:
            server = ScriptedServer(*script, **options)
            monkeypatch.setenv("OPENAI_BASE_URL", running.enter_context(server.running()))
            return server

        yield start


def test_a_reply_has_the_message(serve: Any) -> None:
    server = serve(completion("hi"))
    assert LanguageModel("m").reply(QUESTION) == ("hi", True)
    assert server.requests == [{"model": "m", "messages": QUESTION, "stream": False}]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (completion("hi", usage=None), ("hi", True)),
        (completion("cut", finish_reason="length"), ("cut", False)),
        (completion(None), ("", True)),
        (
            {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]},
            ("No.", True),
        ),
    ],
)
def test_what_servers_leave_out_is_no_error(serve: Any, body: Any, expected: tuple[str, bool]) -> None:
    serve(body)
    assert LanguageModel("m").reply(QUESTION) == expected


def test_a_server_at_its_limit_is_asked_again_when_it_says(serve: Any) -> None:
    server = serve((429, {}, {"retry-after": "1"}), (503, {}, AT_ONCE), completion("hi"))
    start = time.monotonic()
    assert LanguageModel("m", max_retries=2).reply(QUESTION) == ("hi", True)
    assert time.monotonic() - start >= 1
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "models", "message"),
    [
        (
            (401, {"error": {"message": f"wrong key {KEY}"}}, {}),
            None,
            r"refuses the key in OPENAI_API_KEY .*wrong key \*\*\*",
        ),
        (
            (403, {"error": {"message": "not yours"}}, {}),
            None,
            "refuses the key in OPENAI_API_KEY .status 403: not yours",
        ),
        (
            (404, {"error": {"message": "unknown"}}, {}),
            {"object": "list", "data": [{"id": "tiny-b"}, {"id": "tiny-a"}]},
            r"no model 'tiny-aa' .*unknown\)\. It has: tiny-a, tiny-b\. Did you mean 'tiny-a'\?",
        ),
        ((404, "nothing", {}), None, "does not tell which it has. Check that OPENAI_BASE_URL ends"),
        ((404, "nothing", {}), "<html>", "does not tell which it has. Check that OPENAI_BASE_URL ends"),
        ((404, "nothing", {}), [3], "does not tell which it has. Check that OPENAI_BASE_URL ends"),
        ((429, {"error": {"message": "too fast"}}, AT_ONCE), None, "limits, after 1 retries too .status 429: too fast"),
        ((400, {"detail": "pinned to another"}, {}), None, "fails .status 400: pinned to another"),
        ((500, "", AT_ONCE), None, "fails .status 500: no reason given"),
        ((200, "<html>hello</html>", HTML), None, "else than a chat completion: '<html>hello</html>'.*ends where"),
        ((200, "hello", {}), None, "else than a chat completion: 'hello'. Check that OPENAI_BASE_URL ends"),
        ((200, {"error": "no such route"}, {}), None, "else than a chat completion: .*no such route"),
        ((200, "[]", {}), None, "else than a chat completion"),
        ((200, "null", {}), None, "else than a chat completion"),
        ((200, {"choices": []}, {}), None, "else than a chat completion"),
        ((200, {"choices": [{"message": None}]}, {}), None, "else than a chat completion"),
        ((200, {"choices": ["hi"]}, {}), None, "else than a chat completion"),
    ],
)
def test_a_server_that_fails_is_named_with_what_to_do(serve: Any, answer: Any, models: Any, message: str) -> None:
    server = serve(answer, models=models)
    with pytest.raises(ConnectionError, match=f"The server 127.0.0.1:.* {message}") as caught:
        LanguageModel("tiny-aa", max_retries=1).reply(QUESTION)
    assert KEY not in str(caught.value)
    assert len(server.requests) == (2 if answer[0] in (429, 500) else 1)


def test_a_server_that_is_not_there_is_named(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:secret@{address}/v1")
        with pytest.raises(ConnectionError, match=f"{address} .OPENAI_BASE_URL. gives no answer: .*refused") as caught:
            LanguageModel("m", max_retries=0).reply(QUESTION)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OPENAI_BASE_URL", None, "OPENAI_BASE_URL is not set. Set it to the address.* `hf auth login`"),
        ("OPENAI_BASE_URL", "localhost:8000/v1", "OPENAI_BASE_URL is no address"),
        ("OPENAI_BASE_URL", "http:///v1", "OPENAI_BASE_URL is no address"),
        ("OPENAI_BASE_URL", "http://host:secret/v1", "OPENAI_BASE_URL is no address"),
        ("OPENAI_BASE_URL", "http://[host/v1", "OPENAI_BASE_URL is no address"),
        ("OPENAI_BASE_URL", "http://host/v1 secret", "OPENAI_BASE_URL is no address"),
        ("OPENAI_API_KEY", None, "OPENAI_API_KEY is not set"),
        ("OPENAI_API_KEY", " ", "OPENAI_API_KEY is not set"),
        ("OPENAI_API_KEY", "schlüssel", "OPENAI_API_KEY holds characters that no key has"),
        ("OPENAI_API_KEY", "two words", "OPENAI_API_KEY holds characters that no key has"),
    ],
)
def test_a_variable_that_is_missing_or_malformed_is_named_without_its_value(
    serve: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, message: str
) -> None:
    serve(completion("hi"))
    monkeypatch.setattr(language_model, "get_token", lambda: None)
    monkeypatch.delenv(variable)
    if value is not None:
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message) as caught:
        LanguageModel("m")
    assert not (value or "").strip() or value not in str(caught.value)


def test_a_negative_number_of_retries_is_refused(serve: Any) -> None:
    with pytest.raises(ValueError, match="max_retries=-1 is out of range"):
        LanguageModel("m", max_retries=-1)


def test_in_the_hubs_offline_mode_it_is_said_what_to_unset(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(completion("hi"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE forbids all requests.* unset it"):
        LanguageModel("m")
    assert not server.requests


def test_without_an_address_the_model_is_one_of_hugging_faces_providers(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve((401, {"error": "Invalid username or password."}, {}))
    monkeypatch.setattr(language_model, "INFERENCE_PROVIDERS", os.environ["OPENAI_BASE_URL"])
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setattr(language_model, "get_token", lambda: "hf_mine")
    with pytest.raises(ConnectionError, match=r"refuses the key in HF_TOKEN.*Invalid username or password"):
        LanguageModel("org/name:provider").reply(QUESTION)
    assert server.requests == [{"model": "org/name:provider", "messages": QUESTION, "stream": False}]
    assert server.headers[0]["authorization"] == "Bearer hf_mine"


def test_a_server_that_takes_too_long_is_named_without_the_password(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow() -> Any:
        time.sleep(0.5)
        return completion("hi")

    serve(slow)
    address = os.environ["OPENAI_BASE_URL"].replace("http://", "http://user:secret@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setattr(language_model, "TIMEOUT", 0.1)
    with pytest.raises(ConnectionError, match="gives no answer: Inference call timed out") as caught:
        LanguageModel("m", max_retries=0).reply(QUESTION)
    assert "secret" not in str(caught.value)


def test_the_hubs_token_is_not_sent_to_another_server(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(completion("hi"))
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    LanguageModel("m").reply(QUESTION)
    assert "hf_mine" not in str(server.headers[0])
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        LanguageModel("m")


@pytest.mark.parametrize("path", ["", "/", "/openai", "/v1/"])
def test_requests_go_below_the_address_as_it_is_given(serve: Any, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    server = serve(completion("hi"))
    root = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", root + path)
    assert LanguageModel("m").reply(QUESTION) == ("hi", True)
    assert server.paths == [path.rstrip("/") + "/chat/completions"]
