"""Perceptual hash of an image from a scaled decode."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

HASH_SPEC = "phash64: draft 64, L, Lanczos 32x32, DCT-II 8x8, median; within 2 bits of imagehash.phash"


@cache
def _basis() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The first 8 rows of the 32-point DCT-II (scale left out: the median removes it)."""
    k, n = np.arange(8)[:, None], np.arange(32)[None, :]
    return np.asarray(np.cos(np.pi * k * (2 * n + 1) / 64))


def phash(image: Image.Image) -> int:
    """The 64-bit DCT hash of an opened image, most significant bit first.

    The image is decoded here, JPEG at a reduced scale (`draft`), so that a truncated file raises OSError.
    Stored pixels are hashed: EXIF orientation is not applied.
    """
    image.draft("L", (64, 64))
    small = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    basis = _basis()
    # Rounded, because of a plain image all but one coefficient are zero up to the noise of the arithmetic.
    low = np.round(basis @ np.asarray(small, dtype=np.float64) @ basis.T, 6)
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
