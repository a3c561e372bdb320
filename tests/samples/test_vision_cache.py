"""The cache of vision features: what is encoded and when, near-equal scores, and files that must not be read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import RELATIONS, louder, picture_bytes, tiny_model, tiny_picture, tiny_processor
from tiny_samples import grouped
from torch import Tensor
from transformers import AutoConfig

import roc.processing_roc
import roc.samples.vision_cache
from roc.benchmarks.common import counting
from roc.dataset_scripts.schema import object_entity, text_entity
from roc.modeling_roc import RocModel
from roc.modeling_vision_roc import encode_patches
from roc.processing_roc import RocProcessor
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples
from roc.samples.vision_cache import backbone_revision, read_features, use_vision_cache, write_features

NAMES = [relation["name"] for relation in RELATIONS]
TEXTS = ["ann met bob", "eve loves bob", "bob kissed ann today", "ann visits bob in paris"]
BALL = object_entity("ball", [0.1, 0.2, 0.6, 0.9])


def noise(seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    picture = tiny_picture(size=(6, 4))
    picture.putdata([tuple(colour) for colour in torch.randint(256, (24, 3), generator=generator).tolist()])
    return picture_bytes(picture.resize((48, 32)))


PICTURES = [noise(0), noise(1), noise(2)]


def row(row_id: str, text: str, picture: bytes | None, *, with_object: bool = False) -> dict[str, Any]:
    head, tail = (word for word in text.split() if word in ("ann", "bob", "eve"))
    head_entity, tail_entity = (text_entity(text, text.index(name), text.index(name) + 3) for name in (head, tail))
    image = None if picture is None else {"bytes": picture, "path": None}
    tail_entity = BALL if with_object else tail_entity
    return {"id": row_id, "text": text, "image": image, "head": head_entity, "tail": tail_entity, "relation": NAMES[1]}


def two_splits() -> list[GroupedSamples]:
    """Six samples with three distinct pictures, one of which is in both splits, and one sample without."""
    train = [row(f"t{number}", text, PICTURES[number % 2]) for number, text in enumerate(TEXTS)]
    train.append(row("t4", "ann met eve", None))
    val = [row("v0", TEXTS[0], PICTURES[2], with_object=True), row("v1", TEXTS[1], PICTURES[0])]
    return [grouped(train), grouped(val)]


def alone(**changes: Any) -> Any:
    """An accelerator on the CPU, one of `num_processes` that never wait for each other."""
    settings = {"process_index": 0, "num_processes": 1, "device": torch.device("cpu")}
    return SimpleNamespace(**settings | changes, wait_for_everyone=lambda: None)


def collate(processor: RocProcessor, samples: GroupedSamples) -> Mapping[str, Tensor]:
    return SampleCollator(processor, NAMES)([samples[number] for number in range(len(samples))])[1]


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    return tiny_model(processor, freeze_vision=True)


# --- what is encoded ---------------------------------------------------------------------------------------------


def test_a_picture_shared_by_four_texts_is_encoded_once_and_with_the_cache_never_again(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    samples = grouped([row(str(number), text, PICTURES[0]) for number, text in enumerate(TEXTS)])
    with counting(model.vision_model, "pixel_values") as encoded:
        model(**collate(processor, samples))
    assert encoded == [1]
    with counting(model.vision_model, "pixel_values") as encoded:
        use_vision_cache(tmp_path, model, processor, [samples], alone())
        assert encoded == [1]
        batch = collate(processor, samples)
        model(**batch)
    assert encoded == [1]
    assert len(batch["patch_features"]) == 1
    assert batch["image_index"].tolist() == [0] * 4


def test_every_distinct_picture_of_all_splits_is_decoded_and_encoded_once_and_in_batches(
    model: RocModel, processor: RocProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    open_image = roc.processing_roc.open_image
    monkeypatch.setattr(roc.processing_roc, "open_image", lambda *given: decoded.append(given[0]) or open_image(*given))
    for expected in ([2, 1], []):
        decoded.clear()
        splits = two_splits()
        with counting(model.vision_model, "pixel_values") as encoded:
            use_vision_cache(tmp_path, model, processor, splits, alone(), batch_size=2)
            for split in splits:
                model(**collate(processor, split))
        assert encoded == expected
        assert sorted(decoded) == sorted(PICTURES if expected else [])


def test_only_pictures_that_the_cache_lacks_are_encoded(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    train, val = two_splits()
    use_vision_cache(tmp_path, model, processor, [train], alone())
    with counting(model.vision_model, "pixel_values") as encoded:
        use_vision_cache(tmp_path, model, processor, [train, val], alone())
    assert encoded == [1]


def test_each_process_encodes_its_share_and_all_read_all(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    shares = []
    for index in range(2):
        splits = two_splits()
        with counting(model.vision_model, "pixel_values") as encoded:
            if index == 0:  # the other's share is not there yet, and nothing here waits for it
                with pytest.raises(ValueError, match=r"1 of 3 pictures are not in .* a folder|share this folder"):
                    use_vision_cache(tmp_path, model, processor, splits, alone(num_processes=2))
            else:
                use_vision_cache(tmp_path, model, processor, splits, alone(num_processes=2, process_index=1))
        shares.append(sum(encoded))
    assert shares == [2, 1]
    assert all(len(split.features) == 3 for split in splits)


def test_encoding_that_fails_keeps_what_it_has_done(
    model: RocModel, processor: RocProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [2]

    def fails_later(*given: Any) -> Tensor:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return encode_patches(*given)

    monkeypatch.setattr(roc.samples.vision_cache, "encode_patches", fails_later)
    with pytest.raises(KeyboardInterrupt):
        use_vision_cache(tmp_path, model, processor, two_splits(), alone(), batch_size=1)
    monkeypatch.undo()
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]
    with counting(model.vision_model, "pixel_values") as encoded:
        use_vision_cache(tmp_path, model, processor, two_splits(), alone(), batch_size=1)
    assert encoded == [1, 1]


def test_random_numbers_do_not_depend_on_what_the_cache_holds(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        use_vision_cache(tmp_path, model, processor, two_splits(), alone())
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


# --- what features are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_features_score_almost_as_pictures_do(markers: str, tmp_path: Path) -> None:
    """float16 keeps three digits."""
    processor = tiny_processor(markers=markers)
    model = louder(tiny_model(processor, freeze_vision=True))
    splits = two_splits()
    expected = [model(**collate(processor, split)) for split in splits]
    use_vision_cache(tmp_path, model, processor, splits, alone())
    for split, output in zip(splits, expected, strict=True):
        batch = collate(processor, split)
        assert "pixel_values" not in batch
        assert batch["patch_features"].dtype == torch.float16
        torch.testing.assert_close(model(**batch).logits, output.logits, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(model(**batch).loss, output.loss, rtol=1e-3, atol=1e-3)
        other = model(**{**batch, "patch_features": -batch["patch_features"]})
        assert (other.logits - output.logits).abs().max() > 0.5, "pictures hardly matter"


@pytest.mark.parametrize("size", [(32, 32), (16, 32)])
def test_unrounded_features_score_exactly_as_their_pictures(processor: RocProcessor, size: tuple[int, int]) -> None:
    layers = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
    vision = AutoConfig.for_model("dinov2", image_size=32, patch_size=8, **layers)
    model = louder(tiny_model(processor, vision_config=vision, freeze_vision=True))
    batch = dict(collate(processor, two_splits()[1]))  # with an object, which needs the grid
    pixels = batch.pop("pixel_values")[..., : size[0], : size[1]]
    features = encode_patches(model.vision_model, pixels)
    assert features.shape == (2, size[0] // 8, size[1] // 8, 32)
    by_features, by_pixels = model(**batch, patch_features=features), model(**batch, pixel_values=pixels)
    assert torch.equal(by_features.logits, by_pixels.logits)
    assert torch.equal(by_features.loss, by_pixels.loss)


def test_pictures_are_given_in_one_way_only(model: RocModel, processor: RocProcessor) -> None:
    batch = collate(processor, two_splits()[0])
    features = encode_patches(model.vision_model, batch["pixel_values"])
    with pytest.raises(ValueError, match=r"Both pixel_values and patch_features were given. Give one"):
        model(**batch, patch_features=features)


def test_a_batch_has_features_of_all_its_pictures_or_of_none(processor: RocProcessor) -> None:
    features = torch.zeros(4, 4, 32)
    texts: dict[str, Any] = {"text": ["ann met bob", "bob met ann"], "entities": [[(0, 3), (8, 11)]] * 2}
    assert processor(**texts, patch_features=[features, features])["patch_features"].shape == (1, 4, 4, 32)
    for other, told in ((torch.zeros(4, 4, 16), "4, 4, 16"), (torch.zeros(16, 32), "16, 32"), (PICTURES[0], "bytes")):
        for given in ([features, other], [other, features]):
            with pytest.raises(ValueError, match=r"sample \d: its picture is .*features of a vision encoder"):
                processor(**texts, patch_features=given)
        with pytest.raises(ValueError, match=told):
            processor(**texts, patch_features=[features, other])
    with pytest.raises(ValueError, match=r"sample 1: its picture is bytes.*features of a vision encoder"):
        processor(**texts, images=[None, PICTURES[0]], patch_features=[features, None])
    with pytest.raises(ValueError, match=r"sample 0: give its picture or its patch_features, but not both"):
        processor(**texts, images=[PICTURES[0], None], patch_features=[features, None])


def test_features_are_never_taken_for_a_picture(processor: RocProcessor) -> None:
    with pytest.raises(ValueError, match=r"an array of the shape \(14, 14, 384\) .* is no picture"):
        processor("ann met bob", images=torch.rand(14, 14, 384), entities=[(0, 3), (8, 11)])


def test_a_model_of_text_alone_takes_no_features() -> None:
    with pytest.raises(ValueError, match="reads text only"):
        tiny_processor(vision=False)("ann met bob", patch_features=torch.zeros(4, 4, 32), entities=[(0, 3), (8, 11)])


def test_features_that_float16_cannot_hold_are_refused(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.vision_model.layernorm.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"not finite in float16.* Train without vision_cache"):
        use_vision_cache(tmp_path, model, processor, two_splits(), alone())
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_picture_that_cannot_be_decoded_is_named_by_its_row(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"row 'broken'.*these 3 bytes"):
        use_vision_cache(tmp_path, model, processor, [grouped([row("broken", TEXTS[0], b"abc")])], alone())


# --- never stale -------------------------------------------------------------------------------------------------


def other_weights(model: RocModel, processor: RocProcessor) -> None:
    with torch.no_grad():
        model.vision_model.layernorm.bias[0] += 1e-3


def other_encoder_setting(model: RocModel, processor: RocProcessor) -> None:
    model.vision_model.config.layer_norm_eps = 1e-6


def other_size(model: RocModel, processor: RocProcessor) -> None:
    processor.image_processor.size = {"height": 24, "width": 24}


def other_mean(model: RocModel, processor: RocProcessor) -> None:
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]


def test_the_revision_survives_saving(model: RocModel, processor: RocProcessor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    saved = RocModel.from_pretrained(tmp_path), RocProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert backbone_revision(*saved) == backbone_revision(model, processor)


@pytest.mark.parametrize("change", [other_weights, other_encoder_setting, other_size, other_mean])
def test_another_backbone_finds_nothing_in_the_cache(
    change: Callable[[RocModel, RocProcessor], None], model: RocModel, tmp_path: Path
) -> None:
    processor = tiny_processor()
    use_vision_cache(tmp_path, model, processor, two_splits(), alone())
    before = backbone_revision(model, processor)
    change(model, processor)
    assert backbone_revision(model, processor) != before
    assert not read_features(tmp_path / backbone_revision(model, processor))


def test_the_format_is_part_of_the_revision(
    model: RocModel, processor: RocProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = backbone_revision(model, processor)
    monkeypatch.setattr(roc.samples.vision_cache, "FORMAT", roc.samples.vision_cache.FORMAT + 1)
    assert backbone_revision(model, processor) != before


def test_what_else_is_trained_does_not_change_the_revision(model: RocModel, processor: RocProcessor) -> None:
    before = backbone_revision(model, processor)
    with torch.no_grad():
        model.text_model.embeddings.word_embeddings.weight.add_(1)
        model.image_embeddings.projection.weight.add_(1)
    assert backbone_revision(model, processor) == before


def test_a_changed_picture_is_another_picture(model: RocModel, processor: RocProcessor, tmp_path: Path) -> None:
    use_vision_cache(tmp_path, model, processor, [grouped([row("0", TEXTS[0], noise(7))])], alone())
    changed = grouped([row("0", TEXTS[0], noise(8))])
    with counting(model.vision_model, "pixel_values") as encoded:
        use_vision_cache(tmp_path, model, processor, [changed], alone())
    assert encoded == [1]
    expected = encode_patches(model.vision_model, processor.pixels(noise(8), "here"))[0]
    torch.testing.assert_close(changed[0][1].float(), expected, rtol=1e-3, atol=1e-3)


def test_a_picture_that_changes_while_it_is_read_is_not_stored_under_its_old_name(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    file = tmp_path / "1.png"
    file.write_bytes(noise(7))
    samples = grouped([row("0", TEXTS[0], None) | {"image": {"bytes": None, "path": str(file)}}])
    file.write_bytes(noise(8))
    with pytest.raises(ValueError, match=r"1 of 1 pictures are not in .* changed meanwhile: start again"):
        use_vision_cache(tmp_path / "cache", model, processor, [samples], alone())


# --- files -------------------------------------------------------------------------------------------------------

DIGESTS = [bytes([number]) * 32 for number in range(3)]
FEATURES_OF_THREE = torch.arange(3 * 2 * 2 * 4).reshape(3, 2, 2, 4) / 7


def test_what_is_written_is_read_rounded_to_float16(tmp_path: Path) -> None:
    write_features(tmp_path / "rev", DIGESTS, FEATURES_OF_THREE)
    read = read_features(tmp_path / "rev")
    assert list(read) == DIGESTS
    assert torch.equal(torch.stack(list(read.values())), FEATURES_OF_THREE.half())
    assert read_features(tmp_path / "other") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="memory maps are listed on Linux only")
def test_features_are_mapped_into_memory_not_loaded(tmp_path: Path) -> None:
    path = write_features(tmp_path / "rev", DIGESTS, FEATURES_OF_THREE)
    read = read_features(tmp_path / "rev")
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    starts_and_ends = [[int(border, 16) for border in line.split()[0].split("-")] for line in maps]
    assert all(any(low <= tensor.data_ptr() < high for low, high in starts_and_ends) for tensor in read.values())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def flip_a_digest(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(DIGESTS[1], b"\x09" * 32))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_text(path: Path) -> None:
    path.write_text("no such thing " * 99, encoding="utf-8")


@pytest.mark.parametrize("damage", [cut, flip, flip_a_digest, empty, fill_with_text])
def test_a_damaged_file_is_named_and_never_read(damage: Callable[[Path], None], tmp_path: Path) -> None:
    write_features(tmp_path / "rev", DIGESTS[:1], FEATURES_OF_THREE[:1])
    path = write_features(tmp_path / "rev", DIGESTS[1:], FEATURES_OF_THREE[1:])
    damage(path)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged.* Delete it: it will be written anew"):
        read_features(tmp_path / "rev")
    path.unlink()
    assert list(read_features(tmp_path / "rev")) == DIGESTS[:1]


def test_a_file_of_another_backbone_is_named_and_never_read(tmp_path: Path) -> None:
    path = write_features(tmp_path / "one", DIGESTS, FEATURES_OF_THREE)
    (tmp_path / "two").mkdir()
    path.rename(tmp_path / "two" / path.name)
    with pytest.raises(ValueError, match=rf"two/{path.name} holds features of another vision encoder .*\(one\)"):
        read_features(tmp_path / "two")


def test_a_run_stops_at_a_damaged_file(model: RocModel, processor: RocProcessor, tmp_path: Path) -> None:
    use_vision_cache(tmp_path, model, processor, two_splits(), alone())
    [path] = tmp_path.rglob("*.safetensors")
    cut(path)
    with pytest.raises(ValueError, match=r"is damaged or cut off .* Delete it"):
        use_vision_cache(tmp_path, model, processor, two_splits(), alone())


def test_runs_that_write_and_read_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    features = torch.randn(3, 14, 14, 64)

    def write_and_read(number: int) -> None:
        write_features(tmp_path / "rev", DIGESTS, features)
        write_features(tmp_path / "rev", [bytes([100 + number]) * 32], features[:1])
        read = read_features(tmp_path / "rev")
        assert torch.equal(read[DIGESTS[2]], features[2].half())

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_and_read, number) for number in range(40)]:
            done.result()
    assert len(read_features(tmp_path / "rev")) == 43
    assert len(list((tmp_path / "rev").iterdir())) == 41, "temporary files were left behind"
