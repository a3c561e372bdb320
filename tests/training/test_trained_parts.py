"""Runs that train a part of the model, or train it at less cost: adapters, frozen layers, the 8-bit optimizer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import tiny_model, tiny_processor
from tiny_runs import arguments, main, weights
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
)

import roc.score
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter
from roc.training.adapters import freeze_lower_layers
from roc.training.learner import Learner, build_optimizer
from roc.training.run_folder import peak_memory_mib
from roc.training.settings import RunConfig, load_run_config

pytestmark = pytest.mark.usefixtures("fresh_state")

ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}
SIZE = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 2, "pad_token_id": 0}


def train(inputs: Path, folder: Path, *flags: str, **changes: Any) -> dict[str, Any]:
    assert main(arguments(inputs, folder, *flags, **({"max_steps": 3} | changes))) == 0
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


# --- adapters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
def test_a_run_with_an_adapter_scores_as_reported_whatever_is_saved(
    merged: bool,
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The shared encoder is the adapted one: it has encoded the bank that was saved."""
    flags = ["--share_description_encoder", *(["--merge_adapter"] if merged else [])]
    metrics = train(inputs, tmp_path / "model", *flags, lora_rank=4, lora_encoders="both", average_decay=0.9)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names & ADAPTER_FILES == (set() if merged else ADAPTER_FILES)
    assert names >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"}
    assert has_adapter(RocModel.from_pretrained(tmp_path / "model")) != merged
    capsys.readouterr()
    data = ["--dataset", "jsonl", "--data_dir", str(inputs / "data"), "--split", "val"]
    assert roc.score.main(["--model", str(tmp_path / "model"), *data]) == 0
    assert json.loads(capsys.readouterr().out) == metrics["val"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 0}, "lora_rank=0 is out of range: give a number >= 1"),
        ({"lora_rank": 4, "lora_alpha": 0}, "lora_alpha=0 is out of range: give a number >= 1"),
        ({"merge_adapter": True}, "merge_adapter needs an adapter: give a lora_rank"),
        ({"lora_rank": 4, "freeze_text_layers": 1}, "Leave freeze_text_layers out"),
        ({"lora_rank": 4, "lora_encoders": "vision"}, "needs a vision encoder that may learn: give a vision_model"),
        ({"lora_rank": 4, "lora_encoders": "both", "vision_model": "org/vit", "use_image": False}, "--use_image"),
        (
            {"lora_rank": 4, "lora_encoders": "both", "vision_model": "org/vit", "model": {"freeze_vision": True}},
            "--no-freeze",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run_config(None, changes)


# --- frozen layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "num_trained"),
    [
        (BertModel(BertConfig(num_hidden_layers=3, intermediate_size=64, **SIZE), add_pooling_layer=False), 16),
        (DistilBertModel(DistilBertConfig(n_layers=3, dim=32, hidden_dim=64, n_heads=2, vocab_size=50)), 16),
        (ModernBertModel(ModernBertConfig(num_hidden_layers=3, intermediate_size=64, **SIZE)), 7),
    ],
    ids=["BERT", "DistilBERT", "ModernBERT"],
)
def test_embeddings_and_first_layers_are_frozen_and_cost_no_backward_pass(
    encoder: PreTrainedModel, num_trained: int
) -> None:
    freeze_lower_layers(encoder, 2)
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert len(trained) == num_trained, "the last layer, and a norm behind it where there is one"
    assert not [name for name in trained if "embeddings" in name or ".0." in name or ".1." in name]
    states = encoder(input_ids=torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states
    assert [state.requires_grad for state in states] == [False, False, False, True]


def test_frozen_layers_keep_their_weights_in_a_run(inputs: Path, tmp_path: Path) -> None:
    train(inputs, tmp_path / "model", freeze_text_layers=0)
    before = BertModel.from_pretrained(inputs / "text").embeddings.word_embeddings.weight
    model = RocModel.from_pretrained(tmp_path / "model")
    assert torch.equal(model.get_input_embeddings().weight[: len(before)], before)
    layer = BertModel.from_pretrained(inputs / "text").encoder.layer[0].state_dict()
    assert all((tensor != layer[name]).any() for name, tensor in model.text_model.encoder.layer[0].state_dict().items())


def test_freezing_every_layer_or_layers_that_cannot_be_found_is_refused() -> None:
    encoder = tiny_model(tiny_processor(vision=False), vision=False).text_model
    with pytest.raises(ValueError, match=r"freeze_text_layers=2, but the text encoder has 2 layers\. Leave one"):
        freeze_lower_layers(encoder, 2)
    encoder.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match=r"does not know where the layers of a text encoder 'bert' are"):
        freeze_lower_layers(encoder, 1)
    with pytest.raises(ValueError, match=r"freeze_text_layers=-1 is out of range: give a number >= 0"):
        RunConfig(freeze_text_layers=-1)
    with pytest.raises(ValueError, match=r"all would stay copies of markers_like=','\. Leave one out"):
        RunConfig(freeze_text_layers=1, markers_like=",")


# --- costs -------------------------------------------------------------------------------------------------------


def test_the_records_tell_what_the_run_cost(inputs: Path, tmp_path: Path) -> None:
    whole = train(inputs, tmp_path / "whole", max_steps=1)
    adapter = train(inputs, tmp_path / "adapter", max_steps=1, lora_rank=2)
    model = RocModel.from_pretrained(tmp_path / "whole")
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()}
    assert whole["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert whole["trainable_parameters"] == whole["parameters"] - counts["relation_model"]
    # A and B of four 32 x 32 layers and two of 32 x 64, and two markers
    added = 2 * (4 * (32 + 32) + 2 * (32 + 64)) + 2 * 32
    assert adapter["parameters"] == whole["parameters"] + added
    assert adapter["trainable_parameters"] == whole["trainable_parameters"] - counts["text_model"] + added
    assert 50 < whole["peak_memory_mib"] < 50_000
    assert whole["seconds"] > 0


@pytest.mark.parametrize("counts", [True, False])
def test_memory_is_the_accelerators_where_it_counts_it(counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA and XPU count; MPS, which shares the machine's memory, does not."""
    counting = {"is_initialized": lambda: True, "max_memory_allocated": lambda: 7 * 2**20}
    monkeypatch.setattr(torch, "get_device_module", lambda: SimpleNamespace(**(counting if counts else {})))
    memory = peak_memory_mib()
    assert memory is not None
    assert (memory == 7) == counts


def test_the_8_bit_optimizer_goes_on_where_it_was(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    given: dict[str, Any] = {"optimizer": "adamw_8bit", "num_epochs": 2, "checkpoint_steps": 1}
    assert main(arguments(inputs, tmp_path / "whole", **given)) == 0
    AcceleratorState._reset_state(True)

    def killed(learner: Learner, batches: list[Any]) -> float:
        if learner.progress.step == 2:
            raise KeyboardInterrupt
        return learner.step(batches)

    parts = arguments(inputs, tmp_path / "parts", "--resume", "auto", **given)
    with pytest.raises(KeyboardInterrupt):
        main(parts, step=killed)
    AcceleratorState._reset_state(True)
    assert main(parts) == 0
    whole, resumed = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_the_8_bit_optimizer_trains_with_a_quarter_of_the_state(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    train(inputs, tmp_path / "model", optimizer="adamw_8bit")
    sizes = {}
    for optimizer in ("adamw", "adamw_8bit"):
        weight = torch.nn.Parameter(torch.randn(64, 128))
        model = torch.nn.ModuleDict({"text_model": torch.nn.ParameterList([weight])})
        built = build_optimizer(model, RunConfig(optimizer=optimizer))
        weight.grad = torch.randn_like(weight)
        before = weight.detach().clone()
        built.step()
        assert (weight != before).any()
        state = built.state[weight]
        sizes[optimizer] = sum(
            tensor.nbytes for tensor in state.values() if getattr(tensor, "shape", None) == weight.shape
        )
    assert sizes["adamw"] == 4 * sizes["adamw_8bit"] == 2 * 4 * weight.numel()


def test_the_8_bit_optimizer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    model = tiny_model(tiny_processor(vision=False), vision=False)
    with pytest.raises(ImportError, match=r"needs bitsandbytes\. Type `pip install 'roc\[8bit\]'`"):
        build_optimizer(model, RunConfig(optimizer="adamw_8bit"))
