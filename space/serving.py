"""What the Space's web server refuses: files, which would be stored, and requests that are too large."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_REQUEST_BYTES = 8_000_000  # a picture in base64, and relations
STORING = ("/upload", "/process_recording", "/deep_link")  # Gradio's addresses that write files


class TooLarge(Exception):
    """A request without a stated length went on for too long."""


class RefusingMiddleware:
    """An ASGI middleware: 403 for a request that would store a file, 413 for one above `MAX_REQUEST_BYTES`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/").endswith(STORING):
            await _refuse(send, 403, "This Space stores nothing: a picture comes with the question.")
        elif int(dict(scope["headers"]).get(b"content-length", 0)) > MAX_REQUEST_BYTES:
            await _refuse(send, 413, f"This Space takes at most {MAX_REQUEST_BYTES:,} bytes at once.")
        else:
            await self.app(scope, _counting(receive), send)


def _counting(receive: Receive) -> Receive:
    """Receive as before, until more than `MAX_REQUEST_BYTES` have come."""
    received = 0

    async def receive_some() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_REQUEST_BYTES:
            raise TooLarge(f"more than {MAX_REQUEST_BYTES:,} bytes in one request")
        return message

    return receive_some


async def _refuse(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
