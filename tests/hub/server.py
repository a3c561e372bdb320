"""The Hub over HTTP on the loopback interface."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from hub.faults import Fault
from hub.routes import HubError, Request, Response, State, answer
from hub.storage import Kind, Repository


class LocalHub:
    """A Hub with one user, who has a token.

    `requests` lists the method and path of each request that came; `faults` are what goes wrong with them.
    """

    def __init__(self, user: str = "user", token: str = "hf_SecretOfTheTests") -> None:
        self.state = State(user, token)
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.url = ""  # until it runs
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[LocalHub]:
        """Serve at `url`, a free port of the loopback interface, within the block."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = _Server(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def repository(self, name: str, kind: Kind = "model") -> Repository:
        """What is on the Hub under a name, which exists."""
        return self.state.repositories[kind, name]

    def fail(self, method: str, path: str, **what: Any) -> Fault:
        """Let something go wrong from now on; for the arguments see `Fault`."""
        fault = Fault(method, path, **what)
        self.faults.append(fault)
        return fault

    def environment(self, home: Path, *, token: str | Literal["own"] | None = "own") -> dict[str, str]:
        """The environment of a process that knows no Hub but this one. The clients read it when they are imported.

        Args:
            home: Where it keeps its caches; an empty folder for a machine that has downloaded nothing yet.
            token: Another one than the user's, or None for somebody who is not logged in.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # Xet has a server of its own
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "no_proxy": "127.0.0.1",
        }
        token = self.state.token if token == "own" else token
        return kept | settings | ({} if token is None else {"HF_TOKEN": token})

    def answer(self, request: Request) -> Response:
        """What a request gets where nothing goes wrong."""
        with self._lock:
            return answer(self.state, request)

    def fault_of(self, method: str, path: str) -> Fault | None:
        """Note a request that came; returns what goes wrong with it."""
        with self._lock:
            self.requests.append((method, path))
            hitting = [fault for fault in self.faults if fault.hits(method, path)]
        return hitting[0] if hitting else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a bug."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for the client's system to confirm its head
    hub: LocalHub

    def _handle(self) -> None:
        fault = self.hub.fault_of(self.command, self.path)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.drop and not fault.after and self.command in ("POST", "PUT"):
                self._cut(half_of_request=True)
                return
        try:
            response = self._answer(fault)
        except Exception:
            traceback.print_exc()
            response = HubError(500, "The local Hub has a bug: see what it printed").response
        self._send(response, half=fault is not None and fault.drop)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _answer(self, fault: Fault | None) -> Response:
        address = urlsplit(self.path)
        request = Request(self.command, address.path, parse_qs(address.query), self.headers, self._read())
        wrong = None if fault is None or fault.status is None else HubError(fault.status, fault.message).response
        if wrong is not None and fault is not None and not fault.after:
            return wrong
        right = self.hub.answer(request)
        return wrong or right

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, response: Response, *, half: bool) -> None:
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: len(response.body) // 2] if half else response.body)
        if half:
            self._cut()

    def _cut(self, *, half_of_request: bool = False) -> None:
        """Close the connection at once, perhaps with the request half read."""
        if half_of_request:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
