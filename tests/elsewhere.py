"""Run programs in another process and another folder, where `roc` is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENTITIES = [{"start": 0, "end": 3, "type": "person"}, {"start": 11, "end": 14}, {"bbox": [0.1, 0.2, 0.6, 0.9]}]
TEXT = "ann kissed bob in paris today"
OTHER_RELATIONS = [{"name": "visits", "descriptions": ["the head visits the tail", "the head met the tail"]}]

WITHOUT_ROC = """
import sys
sys.modules["roc"] = None  # `import roc` fails, as where it is not installed
options = {"trust_remote_code": True}
"""
WITH_ROC = """
import roc.register
options = {}
"""
# Written as a user would: nothing in it knows the classes.
PROGRAM = """
import json, sys
import PIL.Image
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

folder, out, text, entities, relations = sys.argv[1], sys.argv[2], sys.argv[3], *map(json.loads, sys.argv[4:])
torch.set_num_threads(1)
config = AutoConfig.from_pretrained(folder, **options)
processor = AutoProcessor.from_pretrained(folder, **options)
model = AutoModel.from_pretrained(folder, use_safetensors=True, **options)
inputs = processor(text=text, images=PIL.Image.new("RGB", (40, 24), "red"), entities=entities)
with torch.no_grad():
    logits = model(**inputs).logits
    model.set_relations(relations, processor)
    other = model(**inputs).logits
save_file({"logits": logits, "other": other}, out)
model.save_pretrained(out + "-again")
processor.save_pretrained(out + "-again")
print(json.dumps({
    "module": type(model).__module__,
    "relations": [relation["name"] for relation in config.relations],
    "markers": processor.markers,
    "roc": sys.modules.get("roc") is not None,
}))
"""


def run_elsewhere(start: str, folder: Path, tmp_path: Path, *, program: str = PROGRAM) -> tuple[dict[str, Any], Path]:
    """Run the program in an empty folder, with a fresh cache for the copied code."""
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    out = tmp_path / "logits.safetensors"
    arguments = [str(folder), str(out), TEXT, json.dumps(ENTITIES), json.dumps(OTHER_RELATIONS)]
    return json.loads(printed_by(start + program, arguments, environment, cwd).splitlines()[-1]), out


def printed_by(
    program: str, arguments: Sequence[str], environment: dict[str, str], cwd: Path, *, timeout: float = 120
) -> str:
    """What a Python program prints in a process of its own, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,  # a question whether to run remote code would fail, not wait
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
