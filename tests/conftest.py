"""What all tests share: no network, few threads, and the real data where it is present."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors, and pytest-xdist already has a process per core
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import huggingface_hub
import pytest
import torch
from accelerate.state import AcceleratorState
from hub import LocalHub
from tiny import tiny_model, tiny_processor
from tiny_runs import write_inputs
from torch import Tensor

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fuzz N`, which `test_fuzzing.py` describes."""
    parser.addoption(
        "--fuzz", type=int, default=0, metavar="N", help="try N random inputs of each kind in test_fuzzing.py"
    )


def pytest_runtest_setup() -> None:
    """Undo what a run of another test left: two threads in a process per core are slow with tiny tensors."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def roc_data() -> Path:
    """The folder with real development data; the test is skipped where there is none."""
    folder = Path(os.environ.get("ROC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set ROC_DATA to a folder with mnre/ (looked at {folder})")
    return folder


@pytest.fixture
def processor() -> RocProcessor:
    """A tiny one for text alone; files that need pictures have their own."""
    return tiny_processor(vision=False)


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    """A tiny one for text alone, in evaluation mode."""
    return tiny_model(processor, vision=False)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of a description encoder encodes from now on."""
    counts: list[int] = []
    encode = RocModel.encode_descriptions

    def spy(self: RocModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        counts.append(len(input_ids))
        return encode(self, input_ids, attention_mask)

    monkeypatch.setattr(RocModel, "encode_descriptions", spy)
    return counts


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, relations and a random text encoder."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def fresh_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each run as in a process of its own: no data cache outside the tests, no precision left from another run."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    AcceleratorState._reset_state(True)


@pytest.fixture
def local_hub() -> Iterator[LocalHub]:
    """An empty Hub on the loopback interface; `local_hub.environment(home)` is that of a process that uses it."""
    with LocalHub().running() as hub:
        yield hub


@pytest.fixture
def hub_api(local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[huggingface_hub.HfApi]:
    """The real client in this process: what it read from the environment when it was imported is set anew."""
    settings = {
        "ENDPOINT": local_hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": local_hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
    monkeypatch.setenv("HF_TOKEN", local_hub.state.token)
    impatient = SimpleNamespace(**vars(time) | {"sleep": lambda _: None})  # between tries
    monkeypatch.setattr("huggingface_hub.utils._http.time", impatient)
    yield huggingface_hub.HfApi()
    huggingface_hub.get_session().timeout = None  # as it was: a test may have set one
