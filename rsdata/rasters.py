"""Image files: size from the header, pixels of masks. Pillow first, rasterio for what it cannot open."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_DECODED = 178_956_970
"""Pixels: larger images are not decoded (Pillow's own limit); their size still comes from the header."""

_RANDOM_NAME = re.compile(r"(/vsimem/)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[^\s:]*")
"""What GDAL calls a file in memory, which in a message would differ from run to run."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@contextmanager
def _any_size() -> Iterator[None]:
    """Let Pillow open headers of any size; the caller keeps large images from being decoded."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def open_image(data: bytes) -> Image.Image | None:
    """The image in `data`, header read, pixels not; None where Pillow knows no such format.

    Raises OSError where the header is damaged.
    """
    with _any_size():
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            return None
        except (ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise OSError(f"damaged header: {error}") from error


def geotiff_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a TIFF that Pillow cannot open (many bands, 64 bits, BigTIFF).

    The driver is pinned, because GDAL would follow a VRT in disguise to other files. Raises OSError.
    """
    if not data.startswith(_TIFF):
        raise OSError("no image format that is known here")
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with MemoryFile(data) as memory, memory.open(driver="GTiff") as raster:
                if not _is_whole(raster, len(data)):
                    raise OSError("image file is truncated")
                return int(raster.width), int(raster.height)
    except RasterioError as error:
        raise OSError(_RANDOM_NAME.sub("image", str(error))) from error


def _is_whole(raster: Any, size: int) -> bool:
    """Whether all strips or tiles of an opened GeoTIFF lie in its `size` bytes. No pixel is decoded."""
    bands = raster.indexes if str(raster.interleaving or "").lower().endswith("band") else (1,)
    for band in bands:
        down, across = raster.block_shapes[band - 1]
        # Each block has an offset and a length in the file, of two bytes or more.
        if 4 * math.ceil(raster.height / down) * math.ceil(raster.width / across) > max(size, 4):
            return False
        for (row, column), _ in raster.block_windows(band):
            names = (f"BLOCK_OFFSET_{column}_{row}", f"BLOCK_SIZE_{column}_{row}")
            place = [raster.get_tag_item(name, "TIFF", bidx=band) for name in names]
            if None not in place and sum(map(int, place)) > size:
                return False
    return True


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """A mask's pixels: (height, width) where it has one band or a palette, else (height, width, bands).

    Raises OSError where it cannot be decoded or is larger than MAX_DECODED.
    """
    data = path.read_bytes()
    image = open_image(data)
    if image is None:
        return _geotiff_pixels(data)
    if image.width * image.height > MAX_DECODED:
        raise OSError(f"{image.width}x{image.height} is more than {MAX_DECODED} pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.mode == "LA":
                image = image.getchannel("L")
            elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                image = image.convert("RGB")
            array = np.asarray(image)
    except (ValueError, SyntaxError, TypeError, EOFError, IndexError) as error:
        raise OSError(str(error)) from error
    return array.astype(np.uint8) if array.dtype == bool else array


def _geotiff_pixels(data: bytes) -> np.ndarray[Any, Any]:
    width, height = geotiff_size(data)
    if width * height > MAX_DECODED:
        raise OSError(f"{width}x{height} is more than {MAX_DECODED} pixels")
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with MemoryFile(data) as memory, memory.open(driver="GTiff") as raster:
                if raster.count > 4:  # a damaged header may claim thousands
                    raise OSError(f"{raster.count} bands; a mask has one, or colours")
                bands = np.asarray(raster.read())
    except RasterioError as error:
        raise OSError(_RANDOM_NAME.sub("image", str(error))) from error
    return bands[0] if len(bands) == 1 else np.moveaxis(bands, 0, -1)
