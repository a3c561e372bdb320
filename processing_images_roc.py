"""Pictures as callers give them, decoded safely."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image

MAX_PIXELS = 64_000_000  # a decoded RGB picture of this size takes 192 MB
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # among Pillow's others is PostScript, a programming language
WHITES = (1, 255, 65_535)  # what numbers of a picture may mean by white
CHANNELS = (1, 3, 4)

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
        image: A PIL image, the bytes of a picture file in one of `FORMATS`, or an array or tensor of numbers, `(height,
            width)`, `(height, width, channels)` or `(channels, height, width)` with 1, 3 or 4 channels. Numbers that
            are no bytes are scaled: see `scale_to_bytes`.
        where: The picture's name in an error.

    Raises:
        TypeError: If it is none of these; strings are never opened.
        ValueError: If it cannot be decoded or scaled, has several frames, no pixel, or more than `MAX_PIXELS` pixels.
    """
    if isinstance(image, bytes):
        image = identify_image(image, where)
    if not isinstance(image, Image.Image) and not hasattr(image, "__array__"):
        raise TypeError(
            f"{where}: a picture must be a PIL image or the bytes of a picture file; given {type(image).__name__}. "
            "Open a file with `PIL.Image.open(path)`; addresses are never fetched."
        )
    with _decoding(where):
        image = image if isinstance(image, Image.Image) else _pixels_of_array(image)
    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    _check_size(width, height, where, MAX_PIXELS)
    with _decoding(where):
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image if image.dtype == np.uint8 else scale_to_bytes(image))
        if is_animated(image):
            raise ValueError("it has several frames; choose one: `image.seek(0); frame = image.convert('RGB')`")
        return to_rgb(_upright(image))


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    try:
        yield
    except (*DECODING_ERRORS, RuntimeError) as error:  # the last is PyTorch's
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
    _check_size(*image.size, where, most)
    return image


def _check_size(width: int, height: int, where: str, most: int) -> None:
    if not 0 < width * height <= most:
        raise ValueError(
            f"{where}: the picture has {width} x {height} pixels; between 1 and {most:,} are decoded. Scale it first."
        )


def is_animated(image: Image.Image) -> bool:
    """Tell whether a picture has several frames. `open_image` refuses it: it cannot know which one is meant."""
    # Further frames of an MPO file, a camera's JPEG, are previews or other views of the first
    return getattr(image, "is_animated", False) and image.format != "MPO"


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation.

    As `PIL.ImageOps.exif_transpose`, which also writes the other EXIF entries anew, and fails where one is malformed.
    """
    method = TURNS.get(image.getexif().get(ExifTags.Base.Orientation) or 1)
    return image if method is None else image.transpose(method)


def scale_to_bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale numbers of 16 or 32 bits, or with a point, to 0 to 255.

    Neither a file nor an array tells what its white is, so the brightest value tells: 1, 255 or 65,535, whichever is
    the least that is not below it. A picture whose brightest value is below a sixteenth of that would come out black
    whatever it shows, and is refused; one that is all 0 is black.

    Args:
        values: Any shape, any type of number.

    Returns:
        The same shape, uint8.

    Raises:
        ValueError: If a value is negative, above 65,535 or not finite, or all are too small for their white.
    """
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    white = next((white for white in WHITES if highest <= white), 0)
    if not 0 <= lowest <= highest <= WHITES[-1] or 0 < highest < white / 16:  # false for NaN
        raise ValueError(
            f"its values lie between {lowest:g} and {highest:g}. White must be 1, 255 or 65,535 and no value negative, "
            "and the brightest must not be below a sixteenth of it: scale the picture to 0 to 255 first"
        )
    scaled = values.astype(np.float32)
    return (scaled / 256 if white == WHITES[-1] else np.rint(scaled * (255 / white))).astype(np.uint8)


def _pixels_of_array(given: Any) -> np.ndarray[Any, Any]:
    """Give the numbers of an array or tensor as `(height, width)` or `(height, width, 3 or 4)`."""
    if str(getattr(given, "dtype", "")) == "torch.bfloat16":  # which NumPy does not have
        given = given.float()
    values = np.asarray(given)
    shape, is_number = values.shape, values.dtype.kind in "buif"
    channels_first = len(shape) == 3 and shape[0] in CHANNELS
    if not is_number or len(shape) not in (2, 3) or (len(shape) == 3 and channels_first == (shape[2] in CHANNELS)):
        raise ValueError(
            f"an array of the shape {shape} and the type {values.dtype} is no picture. Give numbers, (height, width), "
            "(height, width, channels) or (channels, height, width) with 1, 3 or 4 channels, or a PIL image"
        )
    values = values.transpose(1, 2, 0) if channels_first else values
    return np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded picture of any mode to RGB, with transparent pixels laid over white.

    Raises:
        ValueError: If it holds numbers that cannot be scaled.
    """
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips: all above 255 is white, all below 1 black
        image = Image.fromarray(scale_to_bytes(np.asarray(image)))
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
