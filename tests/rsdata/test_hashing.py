"""The perceptual hash against imagehash, on images as their files hold them."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rsdata import hashing
from rsdata.hashing import SYMMETRIES, VIEWS, Hashes
from rsdata.scenes import draw

CLASSES = ["airplane", "ship", "storage tank", "building", "tennis court"]
SIZES = [(64, 64), (96, 200), (256, 256), (333, 251), (512, 400), (800, 800)]


def hashes(image: Image.Image | bytes) -> Hashes:
    if isinstance(image, bytes):
        return hashing.hashes(Image.open(io.BytesIO(image)), lambda: Image.open(io.BytesIO(image)))
    return hashing.hashes(image.copy())


def phash(image: Image.Image) -> int:
    return hashing.hashes(image).phash


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


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("number", range(1, len(SYMMETRIES)))
def test_symmetries_are_the_hashes_of_the_turned_image(number: int, form: str) -> None:
    name = SYMMETRIES[number].replace("flip-left-right", "FLIP_LEFT_RIGHT").replace("-", "_").upper()
    for seed in range(4):
        image = scene(seed, (256, 200))
        turned = image.transpose(Image.Transpose[name])
        mine, theirs = (hashes(stored(each, form)) for each in (image, turned))
        assert (mine.phashes[number] ^ theirs.phash).bit_count() <= 4
        assert (mine.phash ^ theirs.phash).bit_count() > 8


@pytest.mark.parametrize("number", [number for number, view in enumerate(VIEWS) if view.inset])
def test_views_are_the_hashes_of_the_cropped_image(number: int) -> None:
    for seed in range(4):
        image = scene(seed, (400, 320))
        cut = VIEWS[number].inset
        part = image.crop((int(400 * cut), int(320 * cut), int(400 * (1 - cut)), int(320 * (1 - cut))))
        variants = hashes(image).phashes
        assert (variants[number * len(SYMMETRIES)] ^ hashes(part).phash).bit_count() <= 6
        turned = hashes(part.transpose(Image.Transpose.ROTATE_90)).phash
        place = number * len(SYMMETRIES) + SYMMETRIES.index("rotate-90")
        assert (variants[place] ^ turned).bit_count() <= 6


@pytest.mark.parametrize("number", [number for number, view in enumerate(VIEWS) if view.gain != 1])
def test_views_are_the_hashes_of_the_brightened_image(number: int) -> None:
    plain, seen = [], []
    for seed in range(6):
        image = Image.fromarray((np.asarray(scene(seed, (256, 256))) // 2 + 100).astype(np.uint8))
        light = hashes(ImageEnhance.Brightness(image).enhance(VIEWS[number].gain)).phash
        found = hashes(image).phashes
        plain.append((found[0] ^ light).bit_count())
        seen.append((found[number * len(SYMMETRIES)] ^ light).bit_count())
    assert max(seen) <= 6
    assert sum(seen) < sum(plain)


def test_the_first_of_the_hashes_is_the_phash() -> None:
    found = hashes(scene(1, (300, 300)))
    assert found.phashes[0] == found.phash
    assert len(found.phashes) == len(VIEWS) * len(SYMMETRIES)
    assert len(found.dhash) == 4
    assert not found.low_info


def test_the_difference_hash_tells_left_from_right_by_quarters() -> None:
    ramp = Image.linear_gradient("L").rotate(90)  # dark on the left
    assert hashes(ramp).dhash == [2**64 - 1] * 4
    assert hashes(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).dhash == [0] * 4
    half = ramp.copy()
    half.paste(0, (0, 128, 256, 256))
    top, upper, _, bottom = hashes(half).dhash
    assert (top, upper, bottom) == (2**64 - 1, 2**64 - 1, 0)


def noise(seed: int, mean: float, sigma: float) -> Any:
    return np.random.default_rng(seed).normal(mean, sigma, (256, 256, 3))


@pytest.mark.parametrize(
    ("pixels", "flat"),
    [
        (np.full((256, 256, 3), 90.0), True),
        (noise(1, 60, 2), True),
        (noise(2, 60, 2) + np.linspace(0, 30, 256)[None, :, None], True),
        (np.where(np.arange(256)[None, :, None] < 128, 0, noise(3, 90, 9)), True),
        (90 + 40 * np.sin(np.arange(256) / 3)[:, None, None] + noise(4, 0, 3), True),
        (np.asarray(scene(1, (256, 256))), False),
        (np.asarray(scene(2, (256, 256))) / 4 + 60, False),
    ],
    ids=["constant", "sea", "gradient", "half no data", "rows", "scene", "pale scene"],
)
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_flat_images(pixels: Any, flat: bool, form: str) -> None:
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    found = hashes(stored(image, form))
    assert found.low_info is flat
    if form == "jpeg" and not flat:
        assert found.pixels is None
    else:
        assert found.pixels == hashing.digest(Image.open(io.BytesIO(stored(image, form))))


def test_digests_of_pixels_do_not_see_the_container() -> None:
    image = scene(3, (200, 150))
    forms = [stored(image, form) for form in ("png", "tiff", "bmp")]
    assert len({hashes(data).pixels for data in forms}) == 1
    assert hashes(forms[0]).pixels != hashes(stored(scene(4, (200, 150)), "png")).pixels
    grey = hashes(stored(image, "L"))
    assert grey.pixels == hashes(stored(image.convert("L").convert("RGB"), "png")).pixels
    assert grey.pixels != hashes(forms[0]).pixels


def test_digests_tell_size_colour_and_alpha() -> None:
    plain = [Image.new("RGB", size, colour) for size in ((8, 2), (2, 8)) for colour in ("red", "blue")]
    clear = Image.new("RGBA", (8, 2), (255, 0, 0, 7))
    assert len({hashing.digest(image) for image in [*plain, clear]}) == 5
    palette = scene(0, (64, 64)).quantize(16)
    assert hashing.digest(palette) == hashing.digest(palette.convert("RGB"))


def test_digests_of_large_images_are_those_of_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    image = scene(0, (96, 200))
    whole = hashing.digest(image)
    monkeypatch.setattr(hashing, "_BLOCK", 1000)
    assert hashing.digest(image) == whole


def test_a_flat_jpeg_of_another_colour_has_other_pixels() -> None:
    """Scaled decoding sees grey only: these two have one."""
    one, other = (Image.new("RGB", (256, 256), colour) for colour in ((200, 100, 50), (100, 151, 50)))
    first, second = (hashes(stored(image, "jpeg")) for image in (one, other))
    assert first.low_info
    assert first.phash == second.phash
    assert first.pixels != second.pixels
