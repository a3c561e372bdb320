"""Pictures as callers give them, decoded safely."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import ExifTags, Image

MAX_PIXELS = 64_000_000  # a decoded RGB picture of this size takes 192 MB
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # among Pillow's others is PostScript, a programming language

# What makes a picture upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow raises for damaged files, found by feeding it half a million of them.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error),
    Image.DecompressionBombError,
)


def open_image(image: Any, where: str) -> Image.Image:
    """Decode a picture to RGB, upright by its EXIF orientation, with transparent pixels laid over white.

    Args:
        image: A PIL image or the bytes of a picture file in one of `FORMATS`. CMYK, grey, palette and 16-bit pictures
            are converted.
        where: The picture's name in an error.

    Raises:
        TypeError: If it is neither; strings are never opened.
        ValueError: If it cannot be decoded, has several frames, no pixel, or more than `MAX_PIXELS` pixels.
    """
    if isinstance(image, bytes):
        image = identify_image(image, where)
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"{where}: a picture must be a PIL image or the bytes of a picture file; given {type(image).__name__}. "
            "Open a file with `PIL.Image.open(path)`; addresses are never fetched."
        )
    _check_size(image, where, MAX_PIXELS)
    try:
        if is_animated(image):
            raise ValueError("it has several frames; choose one: `image.seek(0); frame = image.convert('RGB')`")
        return _to_rgb(_upright(image))
    except DECODING_ERRORS as error:
        raise ValueError(f"{where}: the picture cannot be decoded: {error}.") from error


def identify_image(
    data: bytes, where: str, *, formats: Sequence[str] = FORMATS, max_pixels: int | None = None
) -> Image.Image:
    """Read the head of a picture file; no pixel is decoded yet.

    Args:
        data: The bytes of a picture file.
        where: The picture's name in an error.
        formats: Pillow's names of the formats that are allowed.
        max_pixels: The most pixels that are allowed; None for `MAX_PIXELS`.

    Raises:
        ValueError: If it is no such file, or states no pixel or more than `max_pixels` pixels.
    """
    most = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            image = Image.open(io.BytesIO(data), formats=[*formats])
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{where}: the picture has too many pixels, at most {most:,} are decoded. Scale it first. ({error})"
        ) from error
    except DECODING_ERRORS as error:
        raise ValueError(
            f"{where}: these {len(data)} bytes are no picture in one of the formats {', '.join(formats)}."
        ) from error
    _check_size(image, where, most)
    return image


def _check_size(image: Image.Image, where: str, most: int) -> None:
    if not 0 < image.width * image.height <= most:
        raise ValueError(
            f"{where}: the picture has {image.width} x {image.height} pixels; between 1 and {most:,} are "
            "decoded. Scale it first."
        )


def is_animated(image: Image.Image) -> bool:
    """Tell whether a picture has several frames. `open_image` refuses it: it cannot know which one is meant."""
    # Further frames of an MPO file, a camera's JPEG, are previews or other views of the first
    return getattr(image, "is_animated", False) and image.format != "MPO"


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation.

    As `PIL.ImageOps.exif_transpose`, which also writes the other EXIF entries anew, and fails where one is malformed.
    """
    method = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip everything above 255 to white
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
