from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from rsclip import model, step
from rsclip.config import AUGMENTATIONS, RESIZES
from rsclip.pixels import Pixels, crop, decode, reduced, shrunk, turned

PREPROCESS = {
    "size": 96,
    "mean": (0.5,) * 3,
    "std": (0.2,) * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def picture(width=300, height=260, seed=0):
    """Clouds with hard-edged fields: smooth and sharp, as a scene from above."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    image = np.asarray(coarse).astype(int)
    for _ in range(12):
        x, y = rng.integers(0, width - 30), rng.integers(0, height - 30)
        image[y : y + 25, x : x + 30] = rng.integers(0, 255, 3)
    return Image.fromarray(np.clip(image + rng.integers(-9, 9, image.shape), 0, 255).astype(np.uint8))


def encoded(image, form="PNG", **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def normalised(clip, pixels):
    """What the image tower is given."""
    seen = []
    clip.model.encode_image = lambda images, normalize: seen.append(images) or images
    clip.model.encode_text = lambda tokens, normalize: tokens
    step.Towers(clip, "fp32")(pixels[None], torch.zeros(1, 32, dtype=torch.long))
    return seen[0][0]


@pytest.mark.parametrize("is_train", [False, True])
def test_bytes_normalised_on_the_device_are_the_floats_of_open_clip(is_train, monkeypatch):
    clip = model.create("rsclip-tiny")
    made = Pixels(clip.preprocess, "crop" if is_train else "none", "pil")(encoded(picture()), seed=3)
    assert (made.dtype, made.shape) == (torch.uint8, (3, 64, 64))
    left, top, right, bottom = crop(picture().size, random.Random(3))
    drawn = top, left, bottom - top, right - left
    monkeypatch.setattr(RandomResizedCrop, "get_params", lambda *_: drawn)
    transform = image_transform_v2(PreprocessCfg(**clip.preprocess), is_train=is_train)
    assert torch.equal(normalised(clip, made), transform(picture()))


@pytest.mark.parametrize("size", [(300, 260), (90, 900), (900, 90), (1, 1), (3, 2)])
def test_crops_are_drawn_as_torchvision_draws_them(size):
    image = torch.empty(3, size[1], size[0])
    ours = np.array([crop(size, random.Random(seed)) for seed in range(2000)], float)
    drawn = [RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    theirs = np.array([(left, top, left + width, top + height) for top, left, height, width in drawn], float)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] <= size).all()
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.012 * max(size))
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.012 * max(size))


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_every_resize_mode_of_open_clip_is_kept_without_augmentation(mode):
    preprocess = {**PREPROCESS, "resize_mode": mode}
    made = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    expected = (made(picture()) * 0.2 + 0.5) * 255
    for resize in ("pil", "fast"):  # evaluation is on Pillow
        found = Pixels(preprocess, "none", resize)(encoded(picture()), 0)
        torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=0)


def test_the_fast_way_differs_from_pillow_by_rounding():
    differences = []
    for seed in range(8):
        data = encoded(picture(seed=seed), "JPEG", quality=92)
        one, other = (Pixels(PREPROCESS, "crop", resize)(data, seed).int() for resize in ("pil", "fast"))
        differences.append((one - other).abs())
    found = torch.stack(differences).float()
    assert found.mean() < 0.05
    assert found.max() <= 3


def test_a_large_jpeg_is_decoded_smaller_and_stays_alike():
    data = encoded(picture(1600, 1200), "JPEG", quality=95)
    small, whole = reduced(data, (96, 96))
    assert (small.shape, whole) == ((300, 400, 3), (1600, 1200))
    one, other = (Pixels(PREPROCESS, "crop", resize)(data, 5).float() for resize in ("pil", "fast"))
    assert (one - other).abs().mean() < 3  # of another crop: 9


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("resize", RESIZES)
def test_all_chance_comes_from_the_seed(augment, resize):
    pixels, data = Pixels(PREPROCESS, augment, resize), encoded(picture())
    first = pixels(data, 7)
    assert torch.equal(pixels(data, 7), first)
    assert torch.equal(pixels(data, 8), first) == (augment == "none")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_three_bytes_a_pixel(mode):
    form = "JPEG" if mode == "CMYK" else "PNG"
    image = picture().convert("L").convert("I;16") if mode == "I;16" else picture().convert(mode)
    assert Pixels(PREPROCESS, "remoteclip", "fast")(encoded(image, form), 0).shape == (3, 96, 96)


def test_turned_reaches_all_eight_symmetries_of_a_square_and_the_four_of_a_rectangle():
    def reached(shape):
        image, chance = torch.arange(np.prod(shape)).reshape(shape), random.Random(0)
        return {tuple(turned(image, chance).flatten().tolist()) for _ in range(200)}

    assert len(reached((3, 2, 2))) == 8
    assert len(reached((3, 2, 3))) == 4


@pytest.mark.parametrize("form", ["JPEG", "progressive", "gray", "PNG"])
def test_jpegs_are_decoded_as_pillow_decodes_them(form):
    image = picture().convert("L" if form == "gray" else "RGB")
    data = (
        encoded(image, "PNG") if form == "PNG" else encoded(image, "JPEG", progressive=form == "progressive")
    )
    found, whole = reduced(data, (300, 260))
    assert whole == (300, 260)
    assert np.array_equal(found, np.asarray(decode(data)))


def test_what_pillow_refuses_is_refused(monkeypatch):
    data = encoded(picture(), "JPEG")
    for broken in (data[: len(data) // 2], data[:300], b"\xff\xd8\xff", b"<html>404</html>"):
        with pytest.raises(OSError, match=r"truncated|cannot identify|Truncated"):
            reduced(broken, (96, 96))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    with pytest.raises(Image.DecompressionBombError):
        reduced(data, (96, 96))


def test_shrunk_makes_large_images_smaller_and_leaves_others_alone():
    large, small = encoded(picture(640, 480), "JPEG", quality=90), encoded(picture(640, 200))
    made = decode(shrunk(large, 256))
    assert made.size == (341, 256)
    whole = picture(640, 480).resize((341, 256), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(made).astype(int) - np.asarray(whole)).mean() < 6
    assert shrunk(small, 256) is small
    assert shrunk(b"no image", 256) == b"no image"
