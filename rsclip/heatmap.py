"""Where in a large image a text fits: the cosine similarity of each of its patches with the text.

After RemoteCLIP, section IV-D and Fig. 10, whose code was never released (issue 33 of its repository): the
image is cut into 64 x 64 patches, each of which shares a third with its neighbour, the text is
"a {target class name}".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from rsclip.encode import Encoder, Floats
from rsdata import places, rasters
from rsdata.errors import RsdataError

GRID = 64
"""Patches across, and down (RemoteCLIP, section IV-D)."""
PROMPT = "a {}"
"""Around a class name (RemoteCLIP, section IV-D)."""
SMALLEST = 8
"""Pixels of a patch's shorter side: with fewer there is nothing to see."""

_DRAWN = 1024
"""Pixels of the longer side of a picture drawn."""
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
_BITS = 258
"""TIFF's tag of the bits of each band."""
_CONVERT = "make it RGB of 8 bits first (gdal_translate -ot Byte -scale)"

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels."""


def heatmap(
    encoder: Encoder,
    path: Path,
    text: str,
    output: Path | None = None,
    grid: int = GRID,
    prompt: str = PROMPT,
) -> Floats:
    """Cosine similarity of the patches of an image file with a text: float32 [grid, grid], top row first.

    text: a class name, which takes the place of {} in `prompt`; with prompt="{}", any sentence. output: a PNG
    to write, the image beside itself under the map, overlapping patches averaged. Memory holds the decoded
    image and `encoder.batch_size` patches.
    Raises RsdataError where the image is missing, damaged, not of 8 bits, of more than rasters.MAX_DECODED
    pixels or too small for the grid, where prompt lacks its {}, and where the PNG cannot be written.
    """
    if prompt.count("{}") != 1:
        raise RsdataError(f"prompt {prompt!r}: expected one {{}} for the text")
    if not text.strip():
        raise RsdataError("the text is empty")
    if output and output.suffix.lower() != ".png":
        raise RsdataError(f"{output}: a heatmap is written as .png")
    picture = read(path)
    check_grid(path, picture.size, grid)
    said = prompt.replace("{}", text)
    scores = similarities(encoder, picture, said, grid)
    if output:
        draw(output, picture, scores, said)
    return scores


def read(path: Path) -> Image.Image:
    """An image file as RGB, its first frame; EXIF orientation is not applied. Raises RsdataError."""
    try:
        with places.opened(path) as file:
            picture = rasters.open_image(file)
            if picture is None:
                raise RsdataError(f"{path}: no image that Pillow reads; {_CONVERT}")
            bits = getattr(picture, "tag_v2", {}).get(_BITS, 8)
            if picture.mode not in _MODES or np.max(bits) > 8:
                raise RsdataError(
                    f"{path}: not an image of 8 bits (Pillow's mode {picture.mode}); {_CONVERT}"
                )
            width, height = picture.size
            if width * height > rasters.MAX_DECODED:
                raise RsdataError(
                    f"{path}: {width}x{height} is more than {rasters.MAX_DECODED} pixels: cut it first"
                )
            with rasters.decoding():
                return picture.convert("RGB")
    except OSError as error:
        raise RsdataError(f"{path}: {error.strerror or error}") from error


def check_grid(path: Path, size: tuple[int, int], grid: int) -> None:
    """Raise RsdataError where the patches of an image of `size` would be under SMALLEST pixels."""
    width, height = size
    if grid < 1:
        raise RsdataError(f"--grid {grid}: expected at least 1")
    if 3 * min(size) >= SMALLEST * (2 * grid + 1):
        return
    largest = int(3 * min(size) / SMALLEST - 1) // 2
    hint = f"; with --grid {largest} or less it can be" if largest >= 1 else ""
    what = f"{grid} x {grid} patches of {SMALLEST} pixels"
    raise RsdataError(f"{path}: {width}x{height} pixels cannot be cut into {what}{hint}")


def edges(length: int, grid: int) -> NDArray[np.int64]:
    """Where the parts of a side of `length` pixels begin and end: int64 [2 grid + 2].

    A side is cut into 2 grid + 1 equal parts: a patch has three of them and shares one with the next, the
    first patch begins at 0 and the last one ends at `length`.
    """
    return np.rint(np.arange(2 * grid + 2) * length / (2 * grid + 1)).astype(np.int64)


def patches(size: tuple[int, int], grid: int) -> list[Box]:
    """The grid x grid patches of an image of `size`, row by row. They have its proportions."""
    across, down = (edges(length, grid).tolist() for length in size)
    starts = range(0, 2 * grid, 2)
    return [(across[x], down[y], across[x + 3], down[y + 3]) for y in starts for x in starts]


def similarities(encoder: Encoder, picture: Image.Image, said: str, grid: int) -> Floats:
    """Cosine similarity of each patch of an RGB picture with a text: float32 [grid, grid]."""
    (text,) = encoder.texts([said])
    boxes, size = patches(picture.size, grid), encoder.batch_size
    found = []
    bar = tqdm(total=len(boxes), unit="patch", desc="embedding", file=sys.stderr, disable=None)
    with torch.inference_mode(), bar:
        for start in range(0, len(boxes), size):
            batch = [encoder.pixels(picture.crop(box)) for box in boxes[start : start + size]]
            _, joint = encoder.towers(torch.stack(batch))
            found.append(joint @ text)
            bar.update(len(batch))
    return np.concatenate(found).reshape(grid, grid)


def per_pixel(scores: Floats, size: tuple[int, int]) -> Floats:
    """The mean score of the patches that cover each pixel: float32 [height, width].

    scores: float32 [grid, grid]; size: width and height of the image.
    """
    grid = len(scores)
    cover = np.zeros((2 * grid + 1, grid), np.float32)
    for patch in range(grid):
        cover[2 * patch : 2 * patch + 3, patch] = 1
    cover /= cover.sum(axis=1, keepdims=True)
    across, down = (np.diff(edges(length, grid)) for length in size)
    means = np.asarray(cover @ scores @ cover.T, np.float32)
    return means.repeat(down, axis=0).repeat(across, axis=1)


def draw(path: Path, picture: Image.Image, scores: Floats, title: str) -> None:
    """Write an RGB picture, and beside it the same under its map, as a PNG. Raises RsdataError."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    small = picture.copy()
    small.thumbnail((_DRAWN, _DRAWN))
    wide = small.width / max(small.size)
    figure = Figure(figsize=(2 * 7 * max(wide, 0.3) + 1.5, 7 * small.height / max(small.size) + 1))
    figure.set_layout_engine("constrained")
    plain, under = figure.subplots(1, 2)
    for axis in (plain, under):
        axis.imshow(small)
        axis.set_axis_off()
    shown = under.imshow(per_pixel(scores, small.size), cmap="turbo", alpha=0.5, interpolation="nearest")
    solid = ScalarMappable(shown.norm, shown.cmap)  # without the map's transparency
    figure.colorbar(solid, ax=under, label="cosine similarity", fraction=0.05)
    figure.suptitle(title, parse_math=False)
    try:
        with places.atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=150)
    except OSError as error:
        raise RsdataError(f"{path}: {error.strerror or error}") from error
