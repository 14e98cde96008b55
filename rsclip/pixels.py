"""Encoded images to what the image tower takes, as unsigned bytes: they become floats on the device.

Two ways. "pil" is the reference: open_clip's own transforms, on Pillow. "fast" draws the same crops and
resizes with torchvision's kernel for bytes, the same antialiased bicubic with another rounding, after
decoding JPEGs that are far too large at half, a quarter or an eighth of their size.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
from typing import Any

import numpy as np
import open_clip
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)
"""Of a crop's area to the image's, and of its width to its height: open_clip's."""
SPARE = 2
"""How many times larger than the result a JPEG stays when it is decoded scaled."""

Size = tuple[int, int]
"""Width and height."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge."""


def mix(*parts: int | str) -> int:
    """A 64-bit seed from `parts`, the same on every machine; parts that differ give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def decode(data: bytes) -> Image.Image:
    """An encoded image as RGB. Raises what Pillow raises on bytes it cannot read."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def reduced(data: bytes, least: Size) -> tuple[NDArray[np.uint8], Size]:
    """An encoded image as uint8 [height, width, 3], and its size as encoded.

    A JPEG of much more than SPARE times `least` is decoded at a half, a quarter or an eighth of its size.
    Raises what Pillow raises on bytes it cannot read.
    """
    if data.startswith(b"\xff\xd8"):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if width * height <= (Image.MAX_IMAGE_PIXELS or math.inf):  # above, Pillow warns or refuses
                across, down = (SPARE * side for side in least)
                return simplejpeg.decode_jpeg(data, "RGB", False, False, down, across, 2), (width, height)
        except ValueError:  # damaged, or of a kind that Pillow may know
            pass
    picture = decode(data)
    return np.array(picture), picture.size


def shrunk(data: bytes, edge: int) -> bytes:
    """An image whose shorter side is longer than `edge` as a JPEG (quality 95) where it is `edge`.

    Others, and what cannot be read, as they are.
    """
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
        if min(width, height) <= edge:
            return data
        size = round(width * edge / min(width, height)), round(height * edge / min(width, height))
        small = io.BytesIO()
        whole = Image.fromarray(reduced(data, size)[0])
        whole.resize(size, Image.Resampling.BICUBIC).save(small, "JPEG", quality=95)
    except Exception:  # Pillow's plugins raise almost anything on broken bytes
        return data
    return small.getvalue()


class Pixels:
    """What an epoch sees of an image: bytes to uint8 [3, height, width].

    preprocess: open_clip's preprocess_cfg of the image tower (size, interpolation, resize_mode, fill_color).
    augment: "none", as in evaluation; "crop", open_clip's random crop; "remoteclip", and mirrored and turned.
    resize: "fast" or "pil"; without augmentation always "pil", which is what evaluation uses.
    """

    def __init__(self, preprocess: dict[str, Any], augment: str = "none", resize: str = "pil") -> None:
        size = preprocess["size"]
        self.size: list[int] = [size, size] if isinstance(size, int) else list(size)
        self.augment = augment
        self.fast = resize == "fast"
        made = open_clip.image_transform(
            size,
            is_train=False,
            resize_mode=preprocess.get("resize_mode"),
            interpolation=preprocess.get("interpolation"),
            fill_color=preprocess.get("fill_color", 0),
        )
        self.as_evaluated = made.transforms[:-2]  # without the conversion to normalised floats

    def __call__(self, data: bytes, seed: int) -> Tensor:
        """Raises what Pillow raises on bytes it cannot read. All chance comes from `seed`."""
        if self.augment == "none":
            picture = decode(data)
            for transform in self.as_evaluated:
                picture = transform(picture)
            return as_tensor(picture)
        chance = random.Random(seed)
        image = self._fast(data, chance) if self.fast else self._on_pillow(data, chance)
        return turned(image, chance) if self.augment == "remoteclip" else image

    def _on_pillow(self, data: bytes, chance: random.Random) -> Tensor:
        picture = decode(data)
        cut = picture.crop(crop(picture.size, chance))
        return as_tensor(cut.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC))

    def _fast(self, data: bytes, chance: random.Random) -> Tensor:
        image, whole = reduced(data, (self.size[1], self.size[0]))
        across, down = image.shape[1] / whole[0], image.shape[0] / whole[1]
        left, top, right, bottom = crop(whole, chance)
        cut = image[round(top * down) : round(bottom * down), round(left * across) : round(right * across)]
        made = interpolate(
            torch.from_numpy(cut).permute(2, 0, 1)[None], self.size, mode="bicubic", antialias=True
        )
        return made[0].contiguous()


def as_tensor(picture: Image.Image) -> Tensor:
    """RGB to uint8 [3, height, width]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def crop(size: Size, chance: random.Random) -> Box:
    """A random crop, drawn as open_clip draws it (torchvision's RandomResizedCrop)."""
    width, height = size
    for _ in range(10):
        area = width * height * chance.uniform(*SCALE)
        ratio = math.exp(chance.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = chance.randint(0, width - across), chance.randint(0, height - down)
            return left, top, left + across, top + down
    across = min(width, round(height * RATIO[1]))
    down = min(height, round(width / RATIO[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def turned(image: Tensor, chance: random.Random) -> Tensor:
    """`image` [3, height, width] mirrored or not and turned by 0, 90, 180 or 270 degrees, at random.

    With a random crop before it, this is the augmentation of RemoteCLIP (section IV-A). A non-square image is
    turned by 0 or 180 degrees. No caption of ours speaks of left or right.
    """
    mirror, turns = chance.random() < 0.5, chance.randrange(4)
    if mirror:
        image = image.flip(-1)
    if image.shape[-1] != image.shape[-2]:
        turns -= turns % 2
    return torch.rot90(image, turns, (-2, -1)).contiguous()
