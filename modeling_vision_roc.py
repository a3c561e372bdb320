"""How the model reads pictures: patches of any ViT-like encoder, and regions pooled from the patches in a box."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .configuration_roc import RocConfig

# Parts of vision encoders that do not reach their token states: no loss would train them.
UNUSED_PARTS = {
    "clip_vision_model": "post_layernorm",
    **dict.fromkeys(("siglip_vision_model", "siglip2_vision_model"), "head"),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit"), "mask_token"),
}


class RocImageEmbeddings(nn.Module):
    """Patches in the fused space, and region tokens pooled from the patches that a box covers."""

    def __init__(self, config: RocConfig) -> None:
        super().__init__()
        self.box_embedding = nn.Linear(4, config.hidden_size)
        vision: Any = config.vision_config
        self.has_vision = vision is not None
        if self.has_vision:
            self.no_image = nn.Parameter(torch.zeros(config.hidden_size))
            self.projection = nn.Linear(vision.hidden_size, config.hidden_size)

    def forward(
        self, pictures: Tensor | None, image_index: Tensor, boxes: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Bring pictures and regions into the fused space.

        All weights are used in here: where some are offloaded, it is this call that brings them back.

        Args:
            pictures: `(images, rows, columns, vision_hidden)`, what `encode_patches` gives; None without pictures.
            image_index: See `scatter`.
            boxes: See `regions`; None without regions.
            dtype: What the text's states have. A quantised weight has a type that nothing can be computed in.

        Returns:
            The regions, or None without boxes; and what `scatter` returns, or None for a model without a vision
            encoder.
        """
        patches = grid = None
        if pictures is not None:
            patches, grid = self.projection(pictures.to(dtype).flatten(1, 2)), pictures.shape[1:3]
        regions = None if boxes is None else self.regions(boxes, patches, image_index, grid or (0, 0), dtype)
        return regions, self.scatter(patches, image_index) if self.has_vision else None

    def scatter(self, patches: Tensor | None, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Give every sample its picture's patches, or one "no picture" token where it has none.

        Args:
            patches: `(images, num_patches, hidden)`, or None where no sample has a picture.
            image_index: `(batch,)` int64, each sample's row of `patches`, -1 for no picture.

        Returns:
            `(batch, max(num_patches, 1), hidden)` and its mask, `(batch, max(num_patches, 1))` bool, True = real.
        """
        if patches is None:
            batch = len(image_index)
            return self.no_image.expand(batch, 1, -1), image_index.new_ones(batch, 1, dtype=torch.bool)
        missing = (image_index < 0)[:, None]  # (batch, 1)
        first = torch.arange(patches.shape[1], device=patches.device)[None] == 0  # (1, num_patches)
        own = patches[image_index.clamp(min=0)]  # (batch, num_patches, hidden)
        states = torch.where((missing & first)[..., None], self.no_image.to(own.dtype), own)
        return states, ~missing | first

    def regions(
        self,
        boxes: Tensor,
        patches: Tensor | None,
        image_index: Tensor,
        grid: tuple[int, int],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Make region tokens: the mean of the covered patches plus an embedding of the box.

        Args:
            boxes: `(batch, regions, 4)`, `xyxy` in [0, 1].
            patches: See `scatter`.
            image_index: See `scatter`.
            grid: Rows and columns of the patches.
            dtype: See `forward`.

        Returns:
            `(batch, regions, hidden)`.
        """
        embedded = self.box_embedding(box_features(boxes.float()).to(dtype))
        if not self.has_vision:
            return embedded
        if patches is None:
            return embedded + self.no_image
        weights = patch_coverage(boxes, grid).to(patches.dtype)  # (batch, regions, num_patches)
        pooled = weights @ patches[image_index.clamp(min=0)]
        has_image = (image_index >= 0)[:, None, None]
        return embedded + torch.where(has_image, pooled, self.no_image.to(pooled.dtype))


def encode_patches(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Encode pictures `(images, channels, height, width)` with any ViT-like encoder to one state per patch.

    Returns:
        `(images, rows, columns, vision_hidden)`.

    Raises:
        ValueError: If the encoder has no patches, or does not give at least one token for each patch.
    """
    grid = patch_grid(encoder.config, *pixel_values.shape[-2:])
    pixel_values = pixel_values.to(encoder.dtype)
    inputs: dict[str, Any] = {"pixel_values": pixel_values}
    if encoder.config.model_type == "siglip2_vision_model":
        inputs = _naflex_inputs(pixel_values, grid, encoder.config.patch_size)
    states = encoder(**inputs).last_hidden_state
    num_other = states.shape[1] - grid[0] * grid[1]  # class and register tokens come first
    if states.dim() != 3 or num_other < 0:
        raise ValueError(
            f"The vision encoder {encoder.config.model_type!r} gave states of the shape {tuple(states.shape)} for a "
            f"grid of {grid[0]} x {grid[1]} patches. ROC needs a ViT-like encoder that keeps one token per patch."
        )
    return states[:, num_other:].unflatten(1, grid)


@torch.no_grad()
def check_patches(encoder: PreTrainedModel) -> None:
    """Encode a blank picture, so that an encoder that `encode_patches` refuses is refused before training."""
    was_training = encoder.training
    num_channels = getattr(encoder.config, "num_channels", 3)
    blank = torch.zeros(1, num_channels, *picture_size(encoder.config), device=encoder.device)
    encode_patches(encoder.eval(), blank)
    encoder.train(was_training)


def _naflex_inputs(pixel_values: Tensor, grid: tuple[int, int], patch_size: int) -> dict[str, Tensor]:
    """Cut pictures into patches, which is what SigLIP 2's NaFlex encoders take."""
    images, channels, _, _ = pixel_values.shape
    rows, columns = grid
    pixel_values = pixel_values[..., : rows * patch_size, : columns * patch_size]
    cut = pixel_values.reshape(images, channels, rows, patch_size, columns, patch_size)
    patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(images, rows * columns, -1)
    return {
        "pixel_values": patches,  # (images, rows * columns, patch_size * patch_size * channels)
        "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.int32),
        "spatial_shapes": torch.tensor([grid], device=patches.device).expand(images, 2),
    }


def picture_size(vision_config: PretrainedConfig) -> tuple[int, int]:
    """Tell for which pictures an encoder was made: height and width in pixels.

    Raises:
        ValueError: If the configuration does not tell.
    """
    size = getattr(vision_config, "image_size", None)
    if size is None and hasattr(vision_config, "num_patches"):  # SigLIP 2's NaFlex: any grid; here a square one
        size = math.isqrt(vision_config.num_patches) * vision_config.patch_size
    if size is None:
        raise ValueError(f"The vision encoder {vision_config.model_type!r} has no image_size. Give one (--image_size).")
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height, width


def patch_grid(vision_config: PretrainedConfig, height: int, width: int) -> tuple[int, int]:
    """Count the rows and columns of patches in pictures of `height` x `width` pixels."""
    size = getattr(vision_config, "patch_size", None)
    if size is None:
        raise ValueError(
            f"The vision encoder {vision_config.model_type!r} has no patch_size. ROC needs a ViT-like encoder."
        )
    rows, columns = size if isinstance(size, (list, tuple)) else (size, size)
    return height // rows, width // columns


def patch_coverage(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weigh the patches for each box: by the share of each patch that the box covers, with a sum of 1 over all patches.

    Args:
        boxes: `(..., 4)`, `xyxy` in [0, 1].
        grid: Rows and columns of the patches.

    Returns:
        `(..., rows * columns)`, row by row; all weights of a box without area are 0.
    """
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    across, down = _overlap(x0, x1, grid[1]), _overlap(y0, y1, grid[0])  # (..., columns), (..., rows)
    area = (down[..., :, None] * across[..., None, :]).flatten(-2)
    return area / area.sum(-1, keepdim=True).clamp(min=torch.finfo(area.dtype).eps)


def _overlap(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """Measure the length that [start, end] shares with each of `cells` equal parts of [0, 1]: `(..., cells)`."""
    edges = torch.linspace(0, 1, cells + 1, device=start.device)
    return (torch.minimum(end[..., None], edges[1:]) - torch.maximum(start[..., None], edges[:-1])).clamp(min=0)


def box_features(boxes: Tensor) -> Tensor:
    """Give the centre and size `(cx, cy, w, h)` of `xyxy` boxes, `(..., 4)`."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)
