"""Use a published model as a stranger does: a program of its own, in a process that cannot import `roc`.

It reads a request from stdin, `{"source": DIR_OR_REPO, "revision": COMMIT_OR_NULL, "posts": [...]}`, and prints the
model's answers as one JSON line. `check.py` starts it, and takes `answers` from here to know what is right.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


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
    pipe = pipeline("multimodal-relation-extraction", model=source, device="cpu", **options)
    folder = snapshot_download(source, revision=revision) if revision else source
    print(json.dumps(answers(request["posts"], model, processor, pipe, _load_handler(folder))))


def answers(
    posts: Sequence[Mapping[str, Any]],
    model: Any,
    processor: Any,
    pipe: Callable[..., Any],
    handler: Callable[[dict[str, Any]], Any],
) -> dict[str, Any]:
    """Ask model, pipeline and Inference Endpoints' handler about posts.

    Args:
        posts: Mappings of `text`, `entities` and perhaps `image`, in base64.
        model: The model.
        processor: The model's processor.
        pipe: The pipeline.
        handler: The handler of the Inference Endpoints.

    Returns:
        `logits`, a row for each pair of each post, and the results of `pipeline` and `handler`.
    """
    import torch
    from PIL import Image

    logits = []
    for post in posts:
        picture = Image.open(io.BytesIO(base64.b64decode(post["image"]))) if "image" in post else None
        batch = processor(text=post["text"], images=picture, entities=post["entities"])
        with torch.no_grad():
            logits.append(model(**batch).logits[batch["pair_mask"].bool()].tolist())
    given = [dict(post) for post in posts]
    return {"logits": logits, "pipeline": pipe(given), "handler": handler({"inputs": given})}


def _load_handler(folder: str) -> Any:
    """Load the handler as Inference Endpoints do: its folder is on the path, and the handler is given that folder."""
    sys.path.insert(0, folder)
    return importlib.import_module("handler").EndpointHandler(folder)


if __name__ == "__main__":
    main()
