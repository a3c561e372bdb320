"""Pictures in base64: pipeline and handler read the same ways to write it, and refuse the same others."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from tiny import picture_bytes

from roc.pipeline_posts_roc import PostLimits, read_image

PICTURE = picture_bytes(Image.effect_noise((24, 24), 90))
PLAIN = base64.b64encode(PICTURE).decode()
URL_SAFE = base64.urlsafe_b64encode(PICTURE).decode()
LIMITS = PostLimits(max_characters=10, max_entities=2, max_image_bytes=len(PICTURE), max_pixels=1_000)


def by_pipeline(given: Any) -> Any:
    return read_image(given, "here")


def by_handler(given: Any) -> Any:
    return read_image(given, "here", limits=LIMITS)


READERS = pytest.mark.parametrize("read", [by_pipeline, by_handler])

WRITTEN: dict[str, str] = {
    "plain": PLAIN,
    "lines of MIME": base64.encodebytes(PICTURE).decode(),
    "lines of PEM": "\r\n".join(textwrap.wrap(PLAIN, 64)) + "\r\n",
    "indented lines": textwrap.indent("\n".join(textwrap.wrap(PLAIN, 60)), "    "),
    "lines that a page has joined by blanks": " ".join(textwrap.wrap(PLAIN, 76)),
    "blanks around": f"  \t{PLAIN}\n ",
    "no padding": PLAIN.rstrip("="),
    "the alphabet of addresses": URL_SAFE,
    "the alphabet of addresses without padding": URL_SAFE.rstrip("="),
    "data URI": f"data:image/png;base64,{PLAIN}",
    "data URI without a type": f"data:;base64,{PLAIN}",
    "data URI with a charset": f"data:image/png;charset=utf-8;base64,{PLAIN}",
    "data URI with a name": f'data:image/png;name="a b.png";base64,{PLAIN}',
    "data URI in upper case": f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
    "data URI with blanks": f" data:image/png; base64, {PLAIN}",
    "data URI, percent-encoded": f"data:image/png;base64,{quote(PLAIN, safe='')}",
    "data URI, every sign percent-encoded": "data:image/png;base64," + "".join(f"%{ord(own):02X}" for own in PLAIN),
    "data URI in lines": "data:image/png;base64,\n" + base64.encodebytes(PICTURE).decode(),
    "data URI without padding": f"data:image/png;base64,{PLAIN.rstrip('=')}",
}


@READERS
@pytest.mark.parametrize("kind", WRITTEN)
def test_every_usual_way_to_write_base64_is_read(read: Callable[[Any], Any], kind: str) -> None:
    assert read(WRITTEN[kind]) == PICTURE


PLUS = PLAIN.index("+")
OTHER: dict[str, str] = {
    "a sign of no alphabet": PLAIN[:40] + "!" + PLAIN[41:],
    "a letter that only looks like one": PLAIN[:40] + "\u0410" + PLAIN[41:],
    "two alphabets": PLAIN[:PLUS] + "+-_/" + PLAIN[PLUS + 4 :],
    "a plus that a form has decoded": PLAIN.replace("+", " "),
    "one plus that a form has decoded": PLAIN[:PLUS] + " " + PLAIN[PLUS + 1 :],
    "padding in the middle": PLAIN[:40] + "==" + PLAIN[40:],
    "too much padding": PLAIN.rstrip("=") + "====",
    "one sign too many": PLAIN.rstrip("=")[: len(PLAIN) // 4 * 4 - 4] + "A",
    "percent-encoded without a data URI": quote(PLAIN, safe=""),
    "a data URI without base64": f"data:image/png,{PLAIN}",
    "a data URI of a data URI": f"data:image/png;base64,data:image/png;base64,{PLAIN}",
    "an address": f"https://example.org/{PLAIN}",
    "a path": "/etc/passwd",
    "a name": "picture",
    "a name with an ending": "picture.png",
    "a name that is base64": "picture1",
    "nothing": "",
    "blanks": "   ",
    "a data URI of nothing": "data:image/png;base64,",
    "a head without an end": "data:" + "a" * 100_000,
}


@READERS
@pytest.mark.parametrize("kind", OTHER)
def test_everything_else_is_refused(read: Callable[[Any], Any], kind: str) -> None:
    with pytest.raises(ValueError, match=r"^here(, image)?: "):
        read(OTHER[kind])


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_limit_is_that_of_the_picture_and_not_of_how_it_is_written(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = PostLimits(max_characters=10, max_entities=2, max_image_bytes=len(PICTURE) - 1, max_pixels=1_000)
    monkeypatch.setattr(base64, "b64decode", None)  # it is looked at before anything is decoded
    with pytest.raises(ValueError, match=r"here, image: the picture has more than [\d,]+ bytes"):
        read_image(WRITTEN[kind], "here", limits=smaller)
