"""The perceptual hash against imagehash, on images as their files hold them."""

from __future__ import annotations

import io
from functools import cache

import imagehash
import pytest
from PIL import Image

from rsdata.hashing import phash
from rsdata.scenes import draw

CLASSES = ["airplane", "ship", "storage tank", "building", "tennis court"]
SIZES = [(64, 64), (96, 200), (256, 256), (333, 251), (512, 400), (800, 800)]


@cache
def scene(index: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(draw(CLASSES, index, *size).pixels)


def stored(image: Image.Image, form: str) -> bytes:
    data = io.BytesIO()
    if form == "palette":
        image.quantize(32).save(data, "PNG")
    elif form in ("RGBA", "L", "LA"):
        image.convert(form).save(data, "PNG")
    elif form == "grey jpeg":
        image.convert("L").save(data, "JPEG", quality=90)
    elif form == "cmyk jpeg":
        image.convert("CMYK").save(data, "JPEG", quality=95)
    else:
        image.save(data, form.upper(), **({"quality": 85} if form == "jpeg" else {}))
    return data.getvalue()


def distance(data: bytes) -> int:
    reference = imagehash.phash(Image.open(io.BytesIO(data)))
    return (phash(Image.open(io.BytesIO(data))) ^ int(str(reference), 16)).bit_count()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "form", ["jpeg", "png", "L", "palette", "RGBA", "grey jpeg", "LA", "cmyk jpeg", "tiff", "bmp"]
)
def test_within_two_bits_of_imagehash(size: tuple[int, int], form: str) -> None:
    assert distance(stored(scene(0, size), form)) <= 2


@pytest.mark.parametrize("seed", range(1, 6))
def test_within_two_bits_of_imagehash_on_other_scenes(seed: int) -> None:
    assert distance(stored(scene(seed, (256, 256)), "jpeg")) <= 2
    assert distance(stored(scene(seed, (256, 256)), "png")) == 0


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (256, 256)])
def test_plain_images_have_one_hash(value: int, size: tuple[int, int]) -> None:
    data = stored(Image.new("RGB", size, (value, value, value)), "png")
    assert phash(Image.open(io.BytesIO(data))) == (0x8000000000000000 if value else 0)
    assert distance(data) == 0


def test_symmetric_images_have_no_noise() -> None:
    image = Image.new("L", (100, 100))
    image.paste(255, (25, 25, 75, 75))
    assert distance(stored(image, "png")) == 0


def test_another_image_has_another_hash() -> None:
    one, other = (phash(scene(seed, (256, 256)).copy()) for seed in (1, 2))
    assert (one ^ other).bit_count() > 10


def test_a_scaled_or_compressed_copy_stays_near() -> None:
    image = scene(0, (512, 400))
    copy = Image.open(io.BytesIO(stored(image.resize((256, 200)), "jpeg")))
    assert (phash(image.copy()) ^ phash(copy)).bit_count() <= 4


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_truncated_file_raises(form: str) -> None:
    data = stored(scene(0, (256, 256)), form)
    image = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(OSError, match="truncated"):
        phash(image)
