"""What the Space's web server lets through: its pages, and questions that wait in the queue; nothing goes around it.

Gradio has many more addresses, which call functions at once, store files or fetch some. A request is measured and
looked at before Gradio reads it, so that what it makes of an odd one, and prints, is nobody's concern.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from roc.messages_roc import on_one_line, parse_json, quote

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_REQUEST_BYTES = 8_000_000  # a picture in base64, and relations
# What is read and thrown away of a larger one, so that its sender hears the answer; who sends more is cut off.
MAX_DRAINED_BYTES = 100_000_000
QUEUE = "/gradio_api/queue/join"  # where questions are asked
# Addresses for reading that write files, fetch other addresses or give the answers of calls around the queue.
CLOSED = re.compile(
    r"/(upload\w*|process_recording|deep_link|call|run|api|proxy=.*|vibe-\w+|component_server|openapi\.json|docs|redoc)(/|$)"
)
KEYS = ("fn_index", "data", "event_data", "trigger_id", "session_hash")  # of a question, as the page's script asks it
SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
MAX_EVENT_CHARACTERS = 1000


class Refused(Exception):
    """A request that gets a status and words for an answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class RefusingMiddleware:
    """An ASGI middleware that admits the page's own requests, and answers others with 4xx and words in JSON.

    Args:
        app: The application behind it.
        num_inputs: How many inputs each function takes that the page's script may ask for, by its number.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], num_inputs: Mapping[int, int]) -> None:
        self.app, self.num_inputs = app, num_inputs

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # answered 403 where it is not accepted yet
            return
        try:
            receive = await self._admit(scope, receive)
        except Refused as refused:
            await _answer(send, refused.status, str(refused))
        else:
            await self.app(scope, receive, send)

    async def _admit(self, scope: Message, receive: Receive) -> Receive:
        """Return what the application may receive.

        Raises:
            Refused: If the request is none of the page's, or too large.
        """
        path = scope["path"].rstrip("/")
        if scope["method"] in ("GET", "HEAD", "OPTIONS") and not CLOSED.search(path):
            return receive
        body = await _body(receive)
        if scope["method"] != "POST" or path != QUEUE:
            raise Refused(404, "This Space takes questions through its queue, from its page, and stores nothing.")
        question = json.dumps(self._question(body)).encode()
        messages = iter([{"type": "http.request", "body": question, "more_body": False}])

        async def receive_question() -> Message:
            return next(messages, None) or await receive()  # afterwards: that the client has gone

        return receive_question

    def _question(self, body: bytes) -> dict[str, Any]:
        """Check what the page's script asks of the queue; what else was sent with it is left out.

        Raises:
            Refused: If it is no JSON object, names no function of the page, or has not its inputs.
        """
        try:
            given = parse_json(body.decode())
        except ValueError as error:
            raise Refused(400, f"This is not JSON: {on_one_line(error)}") from error
        given = given if isinstance(given, dict) else {}
        question = {key: given[key] for key in KEYS if key in given}
        number, data, event = (question.get(key) for key in ("fn_index", "data", "event_data"))
        if type(number) is not int or number not in self.num_inputs:
            raise Refused(404, f"fn_index={quote(number)} is no function of this page.")
        if not isinstance(data, list) or len(data) != self.num_inputs[number]:
            raise Refused(422, f"data is a list of {self.num_inputs[number]} values for fn_index={number}.")
        if len(json.dumps(event)) > MAX_EVENT_CHARACTERS:
            raise Refused(422, f"event_data has at most {MAX_EVENT_CHARACTERS:,} characters; given {quote(event)}.")
        if question.get("trigger_id") is not None and type(question["trigger_id"]) is not int:
            raise Refused(422, f"trigger_id is a whole number; given {quote(question['trigger_id'])}.")
        session = question.get("session_hash")
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refused(422, f"session_hash is a short word; given {quote(session)}.")
        return question


async def _body(receive: Receive) -> bytes:
    """Read the body of a request; of one that is too large nothing is kept, but its sender has sent it.

    Raises:
        Refused: If it has more than `MAX_REQUEST_BYTES`.
    """
    parts: list[bytes] = []
    received, more = 0, True
    while more and received <= MAX_DRAINED_BYTES:
        message = await receive()
        part = message.get("body", b"")
        received, more = received + len(part), message.get("more_body", False)
        parts.append(part)
        if received > MAX_REQUEST_BYTES:
            parts.clear()
    if received > MAX_REQUEST_BYTES:
        raise Refused(413, f"This Space takes at most {MAX_REQUEST_BYTES:,} bytes at once.")
    return b"".join(parts)


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
