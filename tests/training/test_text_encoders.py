"""Text encoders that a run is given: their tokenizers, how much they read, and what is none, said before training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny, tiny_byte_tokenizer, tiny_tokenizer
from tiny_runs import SIZE, arguments, error_of, main
from transformers import AutoConfig, AutoModel, AutoTokenizer

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

pytestmark = pytest.mark.usefixtures("fresh_state")

TEXT_ALONE = {"vision_model": "null", "missing_images": "no_image", "max_steps": 1}
UNSTATED = int(1e30)  # what Transformers makes of a length that a tokenizer does not state


def text_encoder(folder: Path, model_type: str, *, positions: int, stated: int | None) -> Path:
    """A random encoder with so many positions, and a tokenizer that states so many."""
    tokenizer = tiny_tokenizer() if model_type == "bert" else tiny_byte_tokenizer()
    tokenizer.model_max_length = UNSTATED if stated is None else stated
    tokenizer.save_pretrained(folder)
    sizes = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": positions}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(model_type, **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "positions", "stated"),
    [("bert", 64, None), ("roberta", 66, None), ("roberta", 66, 512), ("mpnet", 66, None)],
)
def test_a_tokenizer_that_states_no_length_or_a_wrong_one_reads_up_to_the_encoders_positions(
    model_type: str,
    positions: int,
    stated: int | None,
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = text_encoder(tmp_path / "text", model_type, positions=positions, stated=stated)
    if stated is None:
        assert AutoTokenizer.from_pretrained(encoder).model_max_length >= UNSTATED
    data = tmp_path / "data"
    shutil.copytree(inputs / "data", data)
    for split in ("train", "val"):  # texts that are longer than what is read, behind their entities
        file = data / f"{split}.jsonl"
        file.write_text(
            file.read_text(encoding="utf-8").replace(" in paris", " in paris" + " a" * 60), encoding="utf-8"
        )
    given = {"text_model": encoder, "data_dir": data, **TEXT_ALONE}
    assert main(arguments(inputs, tmp_path / "model", **given | {"max_length": 65}), step=pytest.fail) == 1
    assert "max_length=65 is more than the 64 tokens" in error_of(capsys)
    assert main(arguments(inputs, tmp_path / "model", **given | {"max_length": 64})) == 0
    processor = RocProcessor.from_pretrained(tmp_path / "model")
    assert (processor.max_length, processor.tokenizer.model_max_length) == (64, 64)
    assert processor.max_description_length == 64


@pytest.mark.parametrize("shared", [False, True], ids=["frozen descriptions", "shared"])
def test_mpnet_trains_an_adapter_and_reads_a_text_alike_alone_and_padded(
    shared: bool, inputs: Path, tmp_path: Path
) -> None:
    encoder = text_encoder(tmp_path / "text", "mpnet", positions=130, stated=None)
    flags = ["--share_description_encoder"] if shared else []
    given = {"text_model": encoder, **TEXT_ALONE, "lora_rank": 2, "adversarial_noise": 0.5}
    assert main(arguments(inputs, tmp_path / "model", *flags, **given)) == 0
    model, processor = (kind.from_pretrained(tmp_path / "model") for kind in (RocModel, RocProcessor))
    layer = model.text_model.encoder.layer[0]
    adapted = (*(getattr(layer.attention.attn, name) for name in "qkvo"), layer.intermediate.dense, layer.output.dense)
    assert all(own.lora_B["default"].weight.any() for own in adapted), "every linear layer has learnt a correction"
    texts = ["ann kissed bob", "ann kissed bob in paris today and tomorrow"]
    pairs = {"entities": [(0, 3), (11, 14)], "pairs": [(0, 1)]}
    with torch.no_grad():
        alone = [model(**processor(text, **pairs)).logits[0, 0] for text in texts]
        together = model(**processor(texts, entities=[pairs["entities"]] * 2, pairs=[pairs["pairs"]] * 2)).logits[:, 0]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)


def without_tokenizer(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def another_tokenizer(folder: Path) -> None:
    sizes = {**SIZE, "vocab_size": 2_000}
    AutoModel.from_config(AutoConfig.for_model("bert", **sizes)).save_pretrained(folder)


@pytest.mark.parametrize("damage", [without_tokenizer, broken_tokenizer, another_tokenizer])
def test_an_encoder_without_its_tokenizer_is_refused(
    damage: Any, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(inputs / "text", tmp_path / "text")
    damage(tmp_path / "text")
    assert main(arguments(inputs, tmp_path / "model", text_model=tmp_path / "text", max_steps=1)) == 1
    error = error_of(capsys)
    assert f"text_model='{tmp_path / 'text'}'" in error
    assert "Put its tokenizer.json and tokenizer_config.json beside the weights" in error


@pytest.mark.parametrize("setting", ["text_model", "vision_model"])
def test_a_trained_model_in_the_place_of_an_encoder_is_told_how_to_train_it_further(
    setting: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny(tmp_path / "trained")
    given = arguments(inputs, tmp_path / "model", "--dry_run", **{setting: tmp_path / "trained", "data_dir": "nowhere"})
    assert main(given) == 1
    error = error_of(capsys)
    assert f"{setting}='{tmp_path / 'trained'}' is a trained ROC model" in error
    assert f"`--start_from {tmp_path / 'trained'}`" in error
