"""Hashes of an image's pixels, all from one scaled decode.

Stored pixels are hashed: EXIF orientation is not applied. Two images are compared by the number of bits in
which their hashes differ (Hamming distance, stated as "≤ T").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
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
_AT_ONCE = 16
"""Images whose hashes are made at a time: as many as the processor's cache holds."""
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
def _views() -> list[tuple[float, list[int], Pixels]]:
    """Of each gain: the places of its views, and (views, 8, 64) matrices from a side to coefficients."""
    found = []
    for gain in sorted({view.gain for view in VIEWS}):
        views = [place for place, view in enumerate(VIEWS) if view.gain == gain]
        sides = np.stack([_basis() @ _means(VIEWS[place].inset, _TINY) for place in views])
        found.append((gain, views, sides))
    return found


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


class Sample(NamedTuple):
    """What `finished` makes the hashes of an image of.

    low: (64,) rounded DCT coefficients of the whole. small: (64, 64) uint8, the image in grey. low_info,
    pixels: as in Hashes.
    """

    low: Pixels
    small: np.ndarray[Any, np.dtype[np.uint8]]
    low_info: bool
    pixels: str | None


def hashes(image: Image.Image, again: Callable[[], Image.Image | None] = lambda: None) -> Hashes:
    """The hashes of an opened image, as `sample` and `finished`."""
    return finished([sample(image, again)])[0]


def sample(image: Image.Image, again: Callable[[], Image.Image | None] = lambda: None) -> Sample:
    """All that must be seen of an opened image for its hashes.

    It is decoded here, JPEG at a reduced scale (`draft`), so that a truncated file raises OSError. again:
    opens the same file once more, for the exact pixels of a flat JPEG.
    """
    drafted = image.draft("L", (64, 64)) is not None
    grey = image.convert("L")
    tiny, small = (
        np.asarray(grey.resize((side, side), resample))
        for side, resample in ((_TINY, Image.Resampling.LANCZOS), (_SMALL, Image.Resampling.BOX))
    )
    values = tiny.astype(np.float64)
    basis = _basis()
    # Rounded, because of a plain image all but one coefficient are zero up to the noise of the arithmetic.
    low = np.round(basis @ values @ basis.T, 6).ravel()
    apart = np.sort(np.abs(low - _middle(np.sort(low))))
    # In whole numbers, so that no noise of arithmetic decides: variance times the square of their number.
    spread = values.size * float(np.vdot(values, values)) - float(values.sum()) ** 2
    low_info = bool(spread < (_DEVIATION * values.size) ** 2 or _middle(apart) < _MARGIN)
    exact = image if not drafted else again() if low_info else None
    return Sample(low, small, low_info, None if exact is None else digest(exact))


def _middle(ordered: Pixels) -> Any:
    """The median along the last axis of 64 sorted values."""
    return (ordered[..., 31] + ordered[..., 32]) / 2


def finished(samples: Sequence[Sample]) -> list[Hashes]:
    """The hashes of images, many at a time: alone, each would cost more in calls than in arithmetic."""
    found: list[Hashes] = []
    for start in range(0, len(samples), _AT_ONCE):
        found += _finished(samples[start : start + _AT_ONCE])
    return found


def _finished(samples: Sequence[Sample]) -> Iterator[Hashes]:
    small = np.stack([each.small for each in samples]).astype(np.float64)
    found = np.empty((len(samples), len(VIEWS), 8, 8))
    for gain, views, sides in _views():
        seen = small if gain == 1 else np.minimum(gain * small, 255)
        found[:, views] = sides @ seen[:, None] @ sides.transpose(0, 2, 1)
    low = np.round(found, 6).reshape(len(samples), len(VIEWS), 64)
    low[:, 0] = [each.low for each in samples]
    places, signs = _symmetries()
    copies = (low[:, :, places] * signs).reshape(len(samples), -1, 64)
    phashes = _words(copies > _middle(np.sort(copies, axis=-1))[..., None])
    down, across = _means(0.0, 16), _means(0.0, 17)
    cells = np.round(down @ small @ across.T, 6)
    dhashes = _words((cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(samples), 4, 64))
    for each, phash, dhash in zip(samples, phashes, dhashes, strict=True):
        yield Hashes(phash[0], phash, dhash, each.low_info, each.pixels)


def _words(bits: np.ndarray[Any, np.dtype[np.bool_]]) -> list[list[int]]:
    """(n, words, 64) bits as n lists of integers."""
    words: list[list[int]] = np.packbits(bits, axis=-1).view(">u8")[..., 0].tolist()
    return words


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
