"""Hashes of an image's pixels, all from one scaled decode.

Stored pixels are hashed: EXIF orientation is not applied. Two images are compared by the number of bits in
which their hashes differ (Hamming distance, stated as "≤ T").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

Pixels: TypeAlias = np.ndarray[Any, Any]


class View(NamedTuple):
    """How an image is looked at before hashing, so that a copy changed alike is found.

    inset: share cut from each side. gain: factor of its grey levels, which saturate at 255.
    """

    name: str
    inset: float
    gain: float


VIEWS = (
    View("whole", 0, 1),
    View("cut by 2.5 %", 0.025, 1),
    View("cut by 5 %", 0.05, 1),
    View("cut by 7.5 %", 0.075, 1),
    View("cut by 10 %", 0.1, 1),
    View("brightened by 30 %", 0, 1.3),
)

SYMMETRIES = (
    "upright", "flip-left-right", "flip-top-bottom", "rotate-180",
    "transpose", "rotate-90", "rotate-270", "transverse",
)  # fmt: skip
"""The copies whose hashes follow from one DCT, by Pillow's names; rotations are counter-clockwise."""

HASH_SPEC = (
    "rsdata 2: phash64 = draft 64, L, Lanczos 32x32, DCT-II 8x8, median, within 2 bits of imagehash.phash; "
    "phashes = 64x64 means, cut by 0, 2.5, 5, 7.5, 10 %, and x 1.3, x 8 symmetries; dhash256 = 17x16 "
    "means, left < right, quarters of 4 rows; low_info = deviation < 2 or margin < 20; pixels = sha256 of "
    "size and RGB(A)"
)

_TINY, _SMALL = 32, 64
"""Sides of the images whose pixels are hashed: the first as imagehash has it, the second for all else."""
_DEVIATION = 2.0
"""Standard deviation of the 32 x 32 grey levels below which an image is flat (measured: docs/dedup.md)."""
_MARGIN = 20.0
"""Median distance of the coefficients from their median below which noise decides the bits: noise of one grey
level in each of the 32 x 32 pixels moves a coefficient by 16."""
_BLOCK = 16 << 20
"""Pixels whose digest is computed at a time."""


class Hashes(NamedTuple):
    """What is known of an image's pixels. Bits are unsigned 64-bit integers, most significant bit first.

    phash: 64-bit DCT hash. phashes: those of each of VIEWS, and for each of these of each of SYMMETRIES (the
    first is phash). dhash: 256-bit difference hash in four words, quarters of the image from top to bottom.
    low_info: flat, or so regular that noise decides the bits: hashes of such images tell nothing.
    pixels: SHA-256 of the decoded pixels; None of a JPEG that is not flat, which is decoded scaled only.
    """

    phash: int
    phashes: list[int]
    dhash: list[int]
    low_info: bool
    pixels: str | None


@cache
def _basis() -> Pixels:
    """The first 8 rows of the 32-point DCT-II (scale left out: the median removes it)."""
    k, n = np.arange(8)[:, None], np.arange(_TINY)[None, :]
    return np.asarray(np.cos(np.pi * k * (2 * n + 1) / (2 * _TINY)))


@cache
def _means(inset: float, cells: int) -> Pixels:
    """(cells, 64) weights that average the 64 pixels of a side, without its inset, in equal cells."""
    edges = np.linspace(inset * _SMALL, (1 - inset) * _SMALL, cells + 1)
    pixels = np.arange(_SMALL)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(shared.clip(0) / (edges[1] - edges[0]))


@cache
def _views() -> tuple[Pixels, Pixels]:
    """(views, 8, 64): matrices that take a side of the small image to coefficients; (views, 1, 1): gains."""
    sides = np.stack([_basis() @ _means(view.inset, _TINY) for view in VIEWS])
    return sides, np.array([view.gain for view in VIEWS])[:, None, None]


@cache
def _symmetries() -> tuple[Pixels, Pixels]:
    """(8, 64) places and (8, 64) signs of the 64 coefficients under each of SYMMETRIES."""
    places = np.arange(64).reshape(8, 8)
    odd = np.where(np.arange(8) % 2, -1.0, 1.0)
    across, down, plain = odd[None, :], odd[:, None], np.ones((8, 8))
    signs = [plain, across * plain, down * plain, across * down]
    held = [(order, sign) for order in (places, places.T) for sign in signs]
    # Of the transposed, a sign change of the rows turns by 90 degrees to the left, of columns to the right.
    held[5], held[6] = held[6], held[5]
    return np.stack([order.ravel() for order, _ in held]), np.stack([sign.ravel() for _, sign in held])


def hashes(image: Image.Image, again: Callable[[], Image.Image | None] = lambda: None) -> Hashes:
    """The hashes of an opened image.

    It is decoded here, JPEG at a reduced scale (`draft`), so that a truncated file raises OSError. again:
    opens the same file once more, for the exact pixels of a flat JPEG.
    """
    drafted = image.draft("L", (64, 64)) is not None
    grey = image.convert("L")
    tiny, small = (
        np.asarray(grey.resize((side, side), resample), dtype=np.float64)
        for side, resample in ((_TINY, Image.Resampling.LANCZOS), (_SMALL, Image.Resampling.BOX))
    )
    basis = _basis()
    # Rounded, because of a plain image all but one coefficient are zero up to the noise of the arithmetic.
    sides, gains = _views()
    low = sides @ np.minimum(gains * small, 255) @ sides.transpose(0, 2, 1)
    low[0] = basis @ tiny @ basis.T
    low = np.round(low, 6).reshape(len(VIEWS), 64)
    places, signs = _symmetries()
    copies = (low[:, places] * signs).reshape(-1, 64)
    ordered = np.sort(copies, axis=1)
    median = (ordered[:, 31] + ordered[:, 32]) / 2
    phashes = _words(copies > median[:, None])
    margin = np.median(np.abs(low[0] - median[0]))
    low_info = bool(tiny.std() < _DEVIATION or margin < _MARGIN)
    down, across = _means(0.0, 16), _means(0.0, 17)
    cells = np.round(down @ small @ across.T, 6)
    dhash = _words((cells[:, 1:] > cells[:, :-1]).reshape(4, 64))
    exact = image if not drafted else again() if low_info else None
    return Hashes(phashes[0], phashes, dhash, low_info, None if exact is None else digest(exact))


def _words(bits: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """Rows of 64 bits as integers."""
    packed = np.packbits(bits, axis=1)
    return [int(word) for word in packed.view(">u8")[:, 0]]


def digest(image: Image.Image) -> str:
    """SHA-256 of an image's size and its pixels as RGB, RGBA where it has an alpha channel."""
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    mode = "RGBA" if clear else "RGB"
    width, height = image.size
    digest = hashlib.sha256(f"{mode} {width} {height}".encode())
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        part.info = image.info
        digest.update(part.convert(mode).tobytes())
    return digest.hexdigest()
