"""Pictures as callers give them: every mode becomes upright RGB, and what is harmful or broken is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tiny import picture_bytes, png_that_claims, tiny_picture, white_png

from roc import processing_images_roc as processing_images_roc
from roc.dataset_scripts.building.raw_files import check_picture
from roc.processing_images_roc import open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def open_from_bytes(data: bytes, folder: Path) -> None:
    open_image(data, "here")


def check_file(data: bytes, folder: Path) -> None:
    (folder / "picture.png").write_bytes(data)
    check_picture(folder / "picture.png", "here")


def test_a_picture_may_be_an_image_or_the_bytes_of_its_file() -> None:
    picture = tiny_picture(RED)
    for given in (picture, picture_bytes(picture), picture_bytes(picture, "WEBP", lossless=True)):
        opened = open_image(given, "here")
        assert (opened.mode, opened.size, opened.getpixel((0, 0))) == ("RGB", (40, 24), RED)


@pytest.mark.parametrize("given", ["cat.png", "https://example.org/cat.png", "data:image/png;base64,", None, 5, []])
def test_names_and_addresses_are_never_opened(given: Any) -> None:
    with pytest.raises(TypeError, match=r"here: a picture must be a PIL image or the bytes .* never fetched"):
        open_image(given, "here")


def test_a_path_is_never_opened(tmp_path: Any) -> None:
    tiny_picture().save(tmp_path / "cat.png")
    with pytest.raises(TypeError, match="Open a file with"):
        open_image(tmp_path / "cat.png", "here")


def test_a_grey_picture_becomes_rgb() -> None:
    assert open_image(picture_bytes(tiny_picture(128, mode="L")), "here").getpixel((0, 0)) == (128, 128, 128)
    assert open_image(picture_bytes(tiny_picture(1, mode="1")), "here").getpixel((0, 0)) == WHITE


def test_a_palette_picture_becomes_rgb() -> None:
    assert open_image(picture_bytes(tiny_picture(RED).convert("P")), "here").getpixel((0, 0)) == RED


def test_a_cmyk_picture_becomes_rgb() -> None:
    given = picture_bytes(tiny_picture((0, 255, 255, 0), mode="CMYK"), "JPEG", quality=100)
    red, green, blue = open_image(given, "here").getpixel((0, 0))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_a_picture_of_16_bits_keeps_its_grey_instead_of_turning_white(mode: str) -> None:
    assert open_image(tiny_picture(0x8000, mode=mode), "here").getpixel((0, 0)) == (128, 128, 128)


def test_a_16_bit_file_keeps_its_grey() -> None:
    given = picture_bytes(tiny_picture(0x4000, mode="I;16"))
    assert open_image(given, "here").getpixel((0, 0)) == (64, 64, 64)


@pytest.mark.parametrize("picture", [tiny_picture((255, 0, 0, 0), mode="RGBA"), tiny_picture((0, 0), mode="LA")])
def test_transparent_pixels_lie_over_white(picture: Image.Image) -> None:
    assert open_image(picture_bytes(picture), "here").getpixel((0, 0)) == WHITE


def test_a_transparent_palette_colour_lies_over_white() -> None:
    given = picture_bytes(tiny_picture(0, mode="P"), transparency=0)
    assert open_image(given, "here").getpixel((0, 0)) == WHITE


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert open_image(tiny_picture((0, 0, 0, 128), mode="RGBA"), "here").getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("orientation", range(10))  # of which 1 to 8 have a meaning
def test_a_picture_of_every_orientation_comes_upright_as_pillow_has_it(orientation: int) -> None:
    picture = tiny_picture(RED, size=(5, 3))
    picture.putpixel((0, 0), WHITE)
    picture.putpixel((1, 2), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = picture_bytes(picture, exif=exif)
    assert open_image(given, "here").tobytes() == ImageOps.exif_transpose(Image.open(io.BytesIO(given))).tobytes()


def test_a_picture_that_the_camera_turned_comes_upright() -> None:
    picture = tiny_picture(RED)
    picture.putpixel((0, 0), WHITE)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right-hand side
    opened = open_image(picture_bytes(picture, exif=exif), "here")
    assert opened.size == (24, 40)
    assert opened.getpixel((23, 0)) == WHITE


def test_a_picture_of_one_pixel_is_a_picture() -> None:
    assert open_image(picture_bytes(tiny_picture(RED, size=(1, 1))), "here").size == (1, 1)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="here: the picture has 0 x 5 pixels"):
        open_image(Image.new("RGB", (0, 5)), "here")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animated_picture_is_refused(format: str) -> None:
    frames = [tiny_picture("red"), tiny_picture("blue")]
    given = picture_bytes(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"here: .*several frames; choose one"):
        open_image(given, "here")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "BMP"])
def test_a_still_picture_of_a_format_that_can_move_is_taken(format: str) -> None:
    assert open_image(picture_bytes(tiny_picture(RED), format), "here").size == (40, 24)


def test_further_views_in_a_camera_s_jpeg_do_not_make_it_animated() -> None:
    given = picture_bytes(tiny_picture(RED), "MPO", save_all=True, append_images=[tiny_picture("blue")])
    red, green, blue = open_image(given, "here").getpixel((0, 0))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("given", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_bytes_that_are_no_picture_are_refused(given: bytes) -> None:
    with pytest.raises(ValueError, match=rf"here: these {len(given)} bytes are no picture in one of the formats"):
        open_image(given, "here")


def test_formats_outside_the_list_are_refused() -> None:
    with pytest.raises(ValueError, match="no picture in one of the formats"):
        open_image(picture_bytes(tiny_picture(), "EPS"), "here")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_file_that_ends_too_early_is_refused(format: str) -> None:
    noise = Image.effect_noise((64, 64), 100)
    given = picture_bytes(noise, format)
    with pytest.raises(ValueError, match="here: "):
        open_image(given[: len(given) // 2], "here")


def test_a_damaged_file_is_refused() -> None:
    given = bytearray(picture_bytes(Image.effect_noise((64, 64), 100)))
    given[200:300] = bytes(100)
    with pytest.raises(ValueError, match="here: the picture cannot be decoded"):
        open_image(bytes(given), "here")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_but_value_errors_comes_out_of_damaged_files() -> None:
    files = [picture_bytes(Image.effect_noise((9, 7), 90), format) for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF")]
    for file in files:
        for place in range(0, len(file), 3):
            for value in (0, 255):
                broken = file[:place] + bytes([value]) + file[place + 1 :]
                try:
                    open_image(broken, "here")
                except ValueError as error:
                    assert str(error).startswith("here: ")  # noqa: PT017


@pytest.mark.parametrize("size", [(8_001, 8_000), (13_000, 13_000), (20_000, 20_000), (200_000, 200_000)])
@pytest.mark.parametrize("read", [open_from_bytes, check_file])
def test_a_decompression_bomb_is_refused_before_decoding(
    size: tuple[int, int], read: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=r"^here: .*the picture has (\d+ x \d+|too many) pixels.* 64,000,000 are de"
        ):
            read(png_that_claims(*size), tmp_path)


def test_refusing_a_real_bomb_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(white_png(20_000))
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    script = """
import resource, sys
from pathlib import Path
from roc.dataset_scripts.building.raw_files import check_picture
from roc.processing_images_roc import open_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
path, before, refused = Path(sys.argv[1]), peak(), 0
for read in (lambda: open_image(path.read_bytes(), "here"), lambda: check_picture(path, "here")):
    try: read()
    except ValueError: refused += 1
print(refused, peak() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "bomb.png")]
    refused, mebibytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(refused) == 2
    assert int(mebibytes) < 20  # its pixels would take at least 380


def test_the_pictures_of_a_data_set_have_the_processor_s_limit(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "picture.png"
    tiny_picture().save(path)
    monkeypatch.setattr(processing_images_roc, "MAX_PIXELS", 40 * 24 - 1)
    with pytest.raises(ValueError, match=r"row 1: the picture .*picture.png .* 40 x 24 pixels.*Replace the file"):
        check_picture(path, "row 1")
    monkeypatch.setattr(processing_images_roc, "MAX_PIXELS", 40 * 24)
    check_picture(path, "row 1")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_pictures_of_a_data_set_are_decoded_to_their_end(format: str, tmp_path: Path) -> None:
    data = picture_bytes(Image.effect_noise((64, 64), 100), format)
    (tmp_path / "picture").write_bytes(data)
    check_picture(tmp_path / "picture", "row 1")
    for broken in (data[: len(data) // 2], b"", b"no picture"):
        (tmp_path / "picture").write_bytes(broken)
        with pytest.raises(ValueError, match=r"row 1: the picture .* cannot be decoded"):
            check_picture(tmp_path / "picture", "row 1")


def test_the_limit_of_pixels_holds_for_images_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(processing_images_roc, "MAX_PIXELS", 40 * 24 - 1)
    with pytest.raises(ValueError, match="between 1 and 959 are decoded"):
        open_image(tiny_picture(), "here")
    monkeypatch.setattr(processing_images_roc, "MAX_PIXELS", 40 * 24)
    assert open_image(tiny_picture(), "here").size == (40, 24)


def test_the_given_image_is_not_changed() -> None:
    picture = tiny_picture((255, 0, 0, 0), mode="RGBA")
    open_image(picture, "here").putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) == (255, 0, 0, 0)
    rgb = tiny_picture(RED)
    open_image(rgb, "here").putpixel((0, 0), (1, 2, 3))
    assert rgb.getpixel((0, 0)) == RED


def test_a_file_object_that_was_opened_but_not_read_is_decoded() -> None:
    lazy = Image.open(io.BytesIO(picture_bytes(tiny_picture(RED))))
    assert open_image(lazy, "here").getpixel((0, 0)) == RED


# --- numbers that are no bytes

GREYS = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (8, 1))
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
MODES += ["I;16", "I;16L", "I;16B", "I;16N"]


def in_mode(mode: str) -> Image.Image:
    grey = Image.fromarray(GREYS)
    for given in (grey.convert("RGB"), grey, grey.convert("I")):
        try:
            return given.convert(mode)
        except ValueError:
            continue
    raise AssertionError(f"Pillow cannot make {mode}")


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_shows_what_it_showed(mode: str) -> None:
    found = np.asarray(open_image(in_mode(mode), "here")).astype(int)
    assert np.abs(found.mean(axis=(0, 2)) - GREYS[0]).max() <= (2 if mode not in ("1", "P", "PA") else 75)
    assert np.abs(found.mean() - GREYS.mean()) < 4  # Pillow dithers where there are few colours


NUMBERS: dict[str, Any] = {
    "int32 to 255": GREYS.astype(np.int32),
    "int32 to 65,535": GREYS.astype(np.int32) * 257,
    "int64": GREYS.astype(np.int64),
    "uint16 to 255": GREYS.astype(np.uint16),
    "uint16": GREYS.astype(np.uint16) * 257,
    "float32 to 1": (GREYS / 255).astype(np.float32),
    "float64 to 1": GREYS / 255,
    "float16 to 1": (GREYS / 255).astype(np.float16),
    "float32 to 255": GREYS.astype(np.float32),
    "float32 to 65,535": GREYS.astype(np.float32) * 257,
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_scaled_by_their_brightest(kind: str) -> None:
    given = NUMBERS[kind]
    forms: list[Any] = [given, np.stack([given] * 3), np.stack([given] * 3, axis=-1), given[..., None]]
    if kind.split()[0] in ("int32", "float32", "uint16"):
        picture = Image.fromarray(given)
        forms += [picture, picture_bytes(picture, "TIFF")]
    if kind == "uint16":
        forms.append(picture_bytes(Image.fromarray(given)))
    if kind.split()[0] != "uint16":
        forms.append(torch.from_numpy(given))
    for form in forms:
        found = np.asarray(open_image(form, "here")).astype(int)
        assert np.abs(found - GREYS[..., None]).max() <= 1


@pytest.mark.parametrize(
    "given",
    [
        *(GREYS.astype(np.int32) * 1000, GREYS.astype(np.float32) - 3, (GREYS / 255 * 1.05).astype(np.float32)),
        *(GREYS.astype(np.float32) * 1.2, (GREYS // 50).astype(np.int32), GREYS.astype(np.uint16) * 16),
        *(np.where(GREYS > 200, np.nan, GREYS).astype(np.float32), (GREYS / 255 / 255).astype(np.float32)),
        np.where(GREYS > 200, np.inf, GREYS).astype(np.float32),
    ],
    ids=["too large", "negative", "beyond 1", "beyond 255", "labels", "12 bits", "nan", "divided twice", "infinite"],
)
def test_numbers_that_would_come_out_black_or_white_are_refused(given: Any, tmp_path: Path) -> None:
    for form in (given, Image.fromarray(given), picture_bytes(Image.fromarray(given), "TIFF")):
        with pytest.raises(ValueError, match=r"here: .*its values lie between .* White must be 1, 255 or 65,535"):
            open_image(form, "here")
    Image.fromarray(given).save(tmp_path / "picture.tiff")
    with pytest.raises(ValueError, match=r"row 1: .*its values lie between"):  # as training would
        check_picture(tmp_path / "picture.tiff", "row 1")


def test_a_black_picture_is_black() -> None:
    for given in (np.zeros((8, 32), np.float32), Image.new("I", (32, 8)), Image.new("F", (32, 8)), np.zeros((8, 32))):
        assert not np.asarray(open_image(given, "here")).any()


@pytest.mark.parametrize(
    "given",
    [
        *(np.zeros((8, 32, 2)), np.zeros((3, 3, 3)), np.zeros((2, 3, 8, 8)), np.zeros(5), np.float32(3)),
        *(np.array([["a"]]), np.array([[None]]), np.zeros((4, 4), complex), np.zeros((0, 5)), np.zeros((3, 0, 5))),
        *(torch.rand(14, 14, 384), torch.ones(4, 4, requires_grad=True), torch.zeros(3, 4, 4, device="meta")),
    ],
    ids=lambda given: f"{given.shape} {given.dtype}",
)
def test_an_array_that_is_no_picture_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^here: the picture (cannot be decoded: |has \d+ x 0 pixels)"):
        open_image(given, "here")


def test_the_limit_of_pixels_holds_for_arrays_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(processing_images_roc, "MAX_PIXELS", 8 * 32 - 1)
    monkeypatch.setattr(processing_images_roc, "scale_to_bytes", None)
    with pytest.raises(ValueError, match="here: the picture has 32 x 8 pixels; between 1 and 255 are decoded"):
        open_image(GREYS.astype(np.float32), "here")
