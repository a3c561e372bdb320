"""What goes wrong on purpose: wrong answers, lost connections, slowness."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass
class Fault:
    """What happens to some requests in place of, or before, the right answer.

    Args:
        method: Of the requests that it hits, e.g. `"POST"`.
        path: Regular expression that their path contains, e.g. `r"/commit/"`.
        at: Which of these is hit first, counted from 1.
        times: How many are hit, from there on; None for all.
        status: Answer this status.
        message: The error that goes with the status.
        drop: Cut the connection: in the middle of what the client sends, or else of the answer.
        delay: Seconds to wait before anything else.
        after: Do what was asked for first, so that only the answer is wrong.
    """

    method: str
    path: str
    at: int = 1
    times: int | None = 1
    status: int | None = None
    message: str = "this went wrong on purpose"
    drop: bool = False
    delay: float = 0.0
    after: bool = False
    seen: int = 0

    def hits(self, method: str, path: str) -> bool:
        """Whether the fault happens to this request, which is counted if it is of the right kind."""
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.at <= self.seen and (self.times is None or self.seen < self.at + self.times)
