"""Pictures as callers give them, decoded safely."""

from __future__ import annotations

import io
import warnings
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000  # a decoded RGB picture of this size takes 192 MB


def open_image(image: Any, where: str) -> Image.Image:
    """Decode a picture to RGB, upright.

    Args:
        image: A PIL image or the bytes of a picture file.
        where: What to call it in an error.

    Returns:
        An RGB image with its EXIF orientation applied. CMYK, grey and palette pictures are converted; transparent
        pixels are laid over white.

    Raises:
        TypeError: If it is neither (strings are never opened).
        ValueError: If it cannot be decoded, has several frames, or more than `MAX_PIXELS` pixels.
    """
    if isinstance(image, bytes):
        image = _identify(image, where)
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"{where}: a picture must be a PIL image or the bytes of a picture file; given {type(image).__name__}. "
            "Open a file with `PIL.Image.open(path)`; addresses are never fetched."
        )
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{where}: the picture has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded. "
            "Scale it down first."
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(
            f"{where}: the picture is animated ({frames} frames). Choose one frame: "
            "`image.seek(0); frame = image.convert('RGB')`."
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises both for damaged files
        raise ValueError(f"{where}: the picture is damaged and cannot be decoded ({error}).") from error


def _identify(data: bytes, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # open_image checks the size itself
            return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError(f"{where}: {len(data)} bytes are no picture that Pillow can read.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where}: the picture has too many pixels: {error}") from error
