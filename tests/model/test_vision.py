"""The picture's part of the model: patches by their share in a box, regions, grids, encoders that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_processor
from transformers import AutoConfig, AutoModel, BertConfig, BertModel
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from roc.modeling_roc import RocModel
from roc.modeling_vision_roc import (
    _naflex_inputs,
    box_features,
    check_patches,
    patch_coverage,
    patch_grid,
    picture_size,
)
from roc.processing_roc import RocProcessor

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "window_size": 4, "depths": [1, 1], "num_heads": [1, 2]}


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor: RocProcessor) -> RocModel:
    return tiny_model(processor)


def test_a_patch_counts_by_the_share_of_it_that_the_box_covers() -> None:
    # 2 rows x 4 columns: a box over the right half of column 0, all of column 1 and a fifth of column 2,
    # and over the lower half of row 0 and the upper quarter of row 1
    box = torch.tensor([0.125, 0.25, 0.55, 0.625])
    across, down = torch.tensor([0.5, 1.0, 0.2, 0.0]), torch.tensor([0.5, 0.25])
    expected = torch.outer(down, across) / (1.7 * 0.75)
    torch.testing.assert_close(patch_coverage(box, (2, 4)), expected.flatten())


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (7, 2), (14, 14)])
def test_coverage_of_any_box_sums_to_one(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    corners = torch.rand(50, 2, 2).sort(dim=1).values  # (boxes, corner, side)
    corners[:, 1] += 1e-3
    boxes = corners.clamp(max=1).flatten(1)
    coverage = patch_coverage(boxes, grid)
    assert coverage.shape == (50, grid[0] * grid[1])
    assert coverage.min() >= 0
    torch.testing.assert_close(coverage.sum(-1), torch.ones(50), rtol=1e-4, atol=1e-4)


def test_the_whole_picture_covers_all_patches_alike_and_no_area_covers_none() -> None:
    torch.testing.assert_close(patch_coverage(torch.tensor([0.0, 0, 1, 1]), (3, 5)), torch.full((15,), 1 / 15))
    assert not patch_coverage(torch.zeros(2, 4), (3, 5)).any()


def test_a_box_on_patch_borders_covers_exactly_these_patches() -> None:
    coverage = patch_coverage(torch.tensor([[[0.25, 0.5, 0.75, 1.0]]]), (4, 4)).view(4, 4)
    expected = torch.zeros(4, 4)
    expected[2:, 1:3] = 0.25
    torch.testing.assert_close(coverage, expected)


def test_the_gradient_of_a_region_reaches_exactly_the_patches_that_its_box_covers(model: RocModel) -> None:
    patches = torch.randn(2, 16, 32, requires_grad=True)  # two pictures of 4 x 4 patches
    boxes = torch.tensor([[[0.3, 0.0, 0.7, 0.25]]])  # columns 1 and 2 of row 0, four fifths of each
    region = model.image_embeddings.regions(boxes, patches, torch.tensor([1]), (4, 4))
    region.sum().backward()
    touched = patches.grad.abs().sum(-1)
    assert touched.nonzero().tolist() == [[1, 1], [1, 2]]
    torch.testing.assert_close(patches.grad[1, 1:3], torch.full((2, 32), 0.5))


def test_a_region_is_its_patches_mean_plus_an_embedding_of_its_box(model: RocModel) -> None:
    patches = torch.randn(1, 8, 32)  # 2 rows x 4 columns
    boxes = torch.tensor([[[0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0]]])
    regions = model.image_embeddings.regions(boxes, patches, torch.tensor([0]), (2, 4))
    embedded = model.image_embeddings.box_embedding(torch.tensor([[0.75, 0.25, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]))
    expected = embedded + torch.stack([patches[0, 2:4].mean(0), patches[0].mean(0)])
    torch.testing.assert_close(regions[0], expected)


def test_a_box_is_embedded_by_its_centre_and_size() -> None:
    torch.testing.assert_close(box_features(torch.tensor([0.1, 0.2, 0.5, 0.9])), torch.tensor([0.3, 0.55, 0.4, 0.7]))


@pytest.mark.parametrize(("patch", "grid"), [(8, (4, 6)), ([16, 8], (2, 6))])
def test_the_grid_has_height_over_patch_rows(patch: Any, grid: tuple[int, int]) -> None:
    config = AutoConfig.for_model("vit")
    config.patch_size = patch
    assert patch_grid(config, 32, 48) == grid


def test_pictures_are_cut_as_siglip_2s_own_processor_cuts_them() -> None:
    pixels = torch.randn(2, 3, 16, 24)
    inputs = _naflex_inputs(pixels, (2, 3), 8)
    expected = [torch.from_numpy(convert_image_to_patches(picture.numpy(), 8)) for picture in pixels]
    torch.testing.assert_close(inputs["pixel_values"], torch.stack(expected))
    assert inputs["pixel_attention_mask"].shape == (2, 6)
    assert inputs["spatial_shapes"].tolist() == [[2, 3], [2, 3]]


def test_a_vision_encoder_without_patches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'resnet' has no patch_size. ROC needs a ViT-like encoder"):
        patch_grid(AutoConfig.for_model("resnet"), 32, 32)


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        (
            "vit_mae",
            {"image_size": 32, "patch_size": 8, **SIZE},
            "'vit_mae' gave .*5, 32.* for a grid of 4 x 4 patches",
        ),
        (
            "swin",
            SWIN,
            "'swin'",
        ),
        (
            "convnext",
            {"image_size": 32, "hidden_sizes": [64, 80], "depths": [1, 1], "num_stages": 2},
            "'convnext' gave",
        ),
        ("resnet", {"image_size": 32, "hidden_sizes": [16], "depths": [1]}, "'resnet' has no patch_size"),
    ],
)
def test_an_encoder_without_a_state_per_patch_is_refused_before_training(
    model_type: str, fields: dict[str, Any], message: str
) -> None:
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, **fields))
    with pytest.raises(ValueError, match=f"{message}.* ROC needs a ViT-like encoder"):
        check_patches(encoder)


def test_a_model_is_not_built_on_an_encoder_without_a_state_per_patch(processor: RocProcessor, tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=len(processor.tokenizer), **SIZE)).save_pretrained(tmp_path)
    swin = {"model_type": "swin", **SWIN}
    with pytest.raises(ValueError, match="ROC needs a ViT-like encoder"):
        RocModel.from_backbones(str(tmp_path), swin)


def test_checking_an_encoder_leaves_its_mode() -> None:
    encoder = AutoModel.from_config(AutoConfig.for_model("vit", image_size=32, patch_size=8, **SIZE)).train()
    check_patches(encoder)
    assert encoder.training


@pytest.mark.parametrize(
    ("model_type", "fields", "size"),
    [
        ("vit", {"image_size": 48}, (48, 48)),
        ("vit", {"image_size": [32, 48]}, (32, 48)),
        ("siglip2_vision_model", {"num_patches": 64, "patch_size": 16}, (128, 128)),
    ],
)
def test_an_encoder_tells_the_size_of_its_pictures(model_type: str, fields: dict[str, Any], size: Any) -> None:
    assert picture_size(AutoConfig.for_model(model_type, **fields)) == size


def test_an_encoder_that_does_not_tell_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'bert' has no image_size. Give one"):
        picture_size(AutoConfig.for_model("bert"))
