"""Servers with OpenAI's protocol for tests: `transformers serve` with tiny models, and one that plays a script."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

ANSWER = {
    "meaning": "One works for the other.",
    "direction": "The head is employed, the tail employs.",
    "is_not": ["founder: who starts a firm"],
    "examples": ["Ann (head) works at Acme (tail)."],
    "head_types": ["person"],
    "tail_types": ["organization"],
    "descriptions": ["The head entity is employed by the tail entity.", "A person has a job at a company or team."],
}

# ---------------------------------------------------------------------------------------------------------------------
# the real one


def save_untrained_model(folder: Path) -> MistralForCausalLM:
    """A causal language model with random weights, whose byte-level tokenizer knows `ANSWER` in a few pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<user>", "<assistant>", "<end>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, min_frequency=1, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([json.dumps(ANSWER)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}<assistant>"
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        sliding_window=16,  # so that it says the same after a long question as after the short ones of its training
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = MistralForCausalLM(config)
    fast.save_pretrained(folder)
    model.save_pretrained(folder)
    return model


def save_trained_model(folder: Path) -> None:
    """The same, trained for seconds to say `ANSWER`, whatever it is asked."""
    model = save_untrained_model(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    answer = torch.tensor(tokenizer("<assistant>" + json.dumps(ANSWER) + "<end>")["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        questions = torch.randint(3, len(tokenizer), (8, 20))
        input_ids = torch.cat([questions, answer.expand(8, -1)], dim=1)
        labels = input_ids.clone()
        labels[:, : questions.shape[1] + 1] = -100
        loss = model(input_ids=input_ids, labels=labels).loss
        if loss.item() < 0.005:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    model.save_pretrained(folder)


@contextmanager
def transformers_serve(log: Path) -> Iterator[str]:
    """Run `transformers serve` on the loopback interface; gives its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait_for(url: str, server: subprocess.Popen[Any], log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


# ---------------------------------------------------------------------------------------------------------------------
# the one that plays a script, for what a good server cannot be made to do


def completion(
    content: Any, *, finish_reason: str = "stop", usage: tuple[int, int] | None = (100, 10)
) -> dict[str, Any]:
    """The body of a chat completion with this message."""
    message = {
        "role": "assistant",
        "content": content if content is None or isinstance(content, str) else json.dumps(content),
    }
    choices = [{"index": 0, "finish_reason": finish_reason, "message": message}]
    counted = (
        {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}}
        if usage
        else {}
    )
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **counted}


class ScriptedServer:
    """Answers chat requests with the given (status, body, headers), one after the other; the last one again and again.

    A label in `by_relation` takes its answers instead from there. Requests are kept in `requests`, their headers in
    `headers` and their paths in `paths`; `models` is the body of `/v1/models`, or None for status 404.
    """

    def __init__(self, *script: Any, by_relation: dict[str, list[Any]] | None = None, models: Any = None) -> None:
        self.script, self.by_relation, self.models = list(script), by_relation or {}, models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self._lock = threading.Lock()

    def next_answer(self, request: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        label = re.search(r"label: (.*)", request["messages"][0]["content"])
        with self._lock:
            script = self.by_relation.get(label[1] if label else "", self.script)
            given = script.pop(0) if len(script) > 1 else script[0]
        status, body, headers = given if isinstance(given, tuple) else (200, given, {})
        return status, body() if callable(body) else body, headers

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on the loopback interface; gives the base URL."""
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                script.requests.append(request)
                script.headers.append(self.headers)
                script.paths.append(self.path)
                self.send(*script.next_answer(request))

            def do_GET(self) -> None:
                self.send(200 if script.models is not None else 404, script.models or {}, {})

            def send(self, status: int, body: Any, headers: dict[str, str]) -> None:
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (
                    {"content-type": "application/json", "content-length": str(len(data))} | headers
                ).items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(BrokenPipeError):  # who asked has given up
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
