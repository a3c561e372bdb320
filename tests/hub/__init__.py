"""A Hub of our own for the tests: the clients of Hugging Face talk to it unchanged, over loopback.

It needs nothing but the standard library and keeps everything in memory:

- `storage.py`: repositories, commits, branches and tags.
- `routes.py`: what each address does.
- `faults.py`: what goes wrong on purpose.
- `server.py`: HTTP, and `LocalHub`, with which a test starts it.
"""

from __future__ import annotations

from hub.faults import Fault
from hub.server import LocalHub
from hub.storage import Repository

__all__ = ["Fault", "LocalHub", "Repository"]
