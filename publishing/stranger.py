"""What a stranger does with a published model: a program that runs by itself, in a process that cannot import `roc`.

It reads a request from stdin, `{"source": DIR_OR_REPO, "revision": COMMIT_OR_NULL, "posts": [...]}`, and prints the
model's answers as one JSON line. `check.py` starts it, and takes `answers` from here to know what is right.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TASK = "multimodal-relation-extraction"


def main() -> None:
    """Load everything as the model's card says, and answer the posts."""
    sys.modules["roc"] = None  # type: ignore[assignment]  # `import roc` fails, as where it is not installed
    import torch
    from huggingface_hub import snapshot_download
    from transformers import AutoModel, AutoProcessor, pipeline

    request = json.load(sys.stdin)
    source, revision = request["source"], request["revision"]
    options = {"trust_remote_code": True} | ({"revision": revision} if revision else {})
    processor = AutoProcessor.from_pretrained(source, **options)
    model = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **options).eval()
    pipe = pipeline(TASK, model=source, device="cpu", **options)
    folder = snapshot_download(source, revision=revision) if revision else source
    print(json.dumps(answers(request["posts"], model, processor, pipe, _load_handler(folder))))


def answers(
    posts: Sequence[Mapping[str, Any]],
    model: Any,
    processor: Any,
    pipe: Callable[..., Any],
    handler: Callable[[dict[str, Any]], Any],
) -> dict[str, Any]:
    """What model, pipeline and handler say about posts.

    Args:
        posts: Mappings of `text`, `entities` and perhaps `image`, in base64.
        model: The model.
        processor: Its processor.
        pipe: The pipeline.
        handler: That of the Inference Endpoints.

    Returns:
        `logits`: per post and pair a row; `pipeline` and `handler`: their results.
    """
    import torch

    logits = []
    for post in posts:
        batch = processor(text=post["text"], images=_picture(post.get("image")), entities=post["entities"])
        with torch.no_grad():
            logits.append(model(**batch).logits[batch["pair_mask"].bool()].tolist())
    given = [dict(post) for post in posts]
    return {"logits": logits, "pipeline": pipe(given), "handler": handler({"inputs": given})}


def _picture(encoded: str | None) -> Any:
    from PIL import Image

    return None if encoded is None else Image.open(io.BytesIO(base64.b64decode(encoded)))


def _load_handler(folder: str) -> Any:
    """As the Inference Endpoints do it: the folder is on the path, and the handler is given the folder."""
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(folder)


if __name__ == "__main__":
    main()
