"""Image files: headers, safe opening, pixels of masks. Pillow first, rasterio for what it cannot open."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rsdata import places
from rsdata.errors import RsdataError

MAX_DECODED = 178_956_970
"""Pixels: larger images are not decoded (Pillow's own limit); their size still comes from the header."""

_LARGEST = 2**31 - 1
"""Pixels of a side: what a header declares beyond it fits no table, and no decoder."""

LARGE = 64 << 20
"""Pixels: of larger images, windows are read from the file instead of the whole."""

_DRIVERS = {
    b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff",
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"\0\0\0\x0cjP": "JP2OpenJPEG",
}  # fmt: skip
_GRIDS = re.compile(r"(grids|file|init|catalog)=(?!@null)", re.IGNORECASE)
_GDAL = {
    "GDAL_CACHEMAX": 256,  # MB: a row of windows over a scene 40,000 pixels wide
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no sidecar file changes what an image says
    "GDAL_PAM_ENABLED": "NO",
}


@dataclass(frozen=True)
class Rendering:
    """How the pixels of a dataset's images become a picture of 8 bits.

    border: pixels cut from each side. bands: the band of grey or those of red, green, blue, from 1 (empty: as
    the file says, else the first). stretch: percentiles of each band, over the whole scene without its
    no-data, that become 0 and 255 (empty: 2 and 98 for all but 8 bits). max_edge: pictures whose longer side
    is larger are scaled down to it (0: none are). Raises ValueError.
    """

    border: int = 0
    bands: Sequence[int] = ()
    stretch: Sequence[float] = ()
    max_edge: int = 0

    def __post_init__(self) -> None:
        if type(self.border) is not int or self.border < 0:
            raise ValueError(f"border = {self.border!r}, expected pixels")
        if type(self.max_edge) is not int or self.max_edge < 0:
            raise ValueError(f"max_edge = {self.max_edge!r}, expected pixels")
        right = isinstance(self.bands, (list, tuple)) and len(self.bands) in (0, 1, 3)
        if not right or any(type(band) is not int or band < 1 for band in self.bands):
            raise ValueError(f"bands = {self.bands!r}, expected one or three band numbers, from 1")
        right = isinstance(self.stretch, (list, tuple)) and len(self.stretch) in (0, 2)
        right = right and all(type(value) in (int, float) for value in self.stretch)
        if not right or (self.stretch and not 0 <= self.stretch[0] < self.stretch[1] <= 100):
            raise ValueError(f"stretch = {self.stretch!r}, expected two percentiles, the lower first")
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "stretch", tuple(self.stretch))

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the pixels of a picture of 8 bits as they are, but for their number."""
        return not (self.border or self.bands or self.stretch)

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """The size in which a picture is stored."""
        longer = max(width, height)
        if not self.max_edge or longer <= self.max_edge:
            return width, height
        return max(1, round(width * self.max_edge / longer)), max(1, round(height * self.max_edge / longer))


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


def open_image(file: bytes | IO[bytes]) -> Image.Image | None:
    """The image in a file or its bytes, header read, pixels not; None where Pillow knows no such format.

    Raises OSError where the header is damaged, or declares a side beyond all images.
    """
    with _any_size():
        try:
            image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        except UnidentifiedImageError:
            return None
        except (ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise OSError(f"damaged header: {error}") from error
    if max(image.size) > _LARGEST:
        raise OSError(f"damaged header: {image.width}x{image.height} pixels")
    if image.format == "TIFF" and getattr(image, "tile", None) and not _is_covered(image):
        raise OSError("image file is truncated")  # Pillow would fill up what is missing
    return image


def _is_covered(image: Any) -> bool:
    """Whether the strips or tiles that a TIFF names are as many as its pixels need."""
    extents = [tile[1] for tile in image.tile]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in extents)
    return bool(covered >= image.width * image.height)


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """A file opened by rasterio, whatever its bands and bits; windows of it are read without the whole.

    The driver is pinned, because GDAL would follow a VRT in disguise to other files. Raises OSError, also for
    what goes wrong inside the `with`.
    """
    import rasterio
    from rasterio.errors import RasterioError

    with places.opened(path) as file:
        magic = file.read(8)
    driver = next((name for start, name in _DRIVERS.items() if magic.startswith(start)), None)
    if driver is None:
        raise OSError("no image format that is known here")
    with places.on_disk(path) as name:
        try:
            with warnings.catch_warnings(), rasterio.Env(**_GDAL):
                warnings.simplefilter("ignore")
                with rasterio.open(name, driver=driver) as raster:
                    yield raster
        except (RasterioError, ValueError, TypeError, MemoryError) as error:
            why = str(error) or str(error.__cause__ or type(error).__name__)
            raise OSError(why.replace(name, path.name)) from error


def transformed(
    source: Any, target: Any, xs: Sequence[float], ys: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Points from one CRS to another.

    Raises ValueError where that does not reach them, and where a CRS names files of grids, which PROJ would
    open wherever they lie.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform

    for crs in (source, target):
        if isinstance(crs, CRS) and _GRIDS.search(crs.to_wkt()):
            raise ValueError("a CRS that names files of grids")
    try:
        east, north = transform(source, target, xs, ys)
    except Exception as error:  # PROJ's own errors are of no public class
        raise ValueError(f"a point that the CRS does not reach: {error}") from error
    return east, north


def is_whole(raster: Any, size: int) -> bool:
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


def size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header. Raises OSError."""
    with places.opened(path) as file:
        image = open_image(file)
        if image is not None:
            return image.size
    with open_raster(path) as raster:
        return int(raster.width), int(raster.height)


def pixels(path: Path, window: Sequence[int] | None = None) -> np.ndarray[Any, Any]:
    """A mask's pixels: (height, width) where it has one band or a palette, else (height, width, bands).

    window: x, y, width, height in pixels, for a part of it. Raises OSError where it cannot be decoded, or is
    whole more than MAX_DECODED pixels.
    """
    if window is None:
        return _whole(path)
    x, y, width, height = window
    across, down = size(path)
    if across * down > LARGE:
        with open_raster(path) as raster:
            return _bands(raster, window)
    stat = path.stat()
    return _cached(path, stat.st_mtime_ns, stat.st_size)[y : y + height, x : x + width]


@lru_cache(maxsize=2)  # a class mask and an instance mask
def _cached(path: Path, _changed: int, _size: int) -> np.ndarray[Any, Any]:
    return _whole(path)


def _whole(path: Path) -> np.ndarray[Any, Any]:
    with places.opened(path) as file:
        image = open_image(file)
        if image is not None:
            return _decoded(image)
    with open_raster(path) as raster:
        if raster.width * raster.height > MAX_DECODED:
            raise OSError(f"{raster.width}x{raster.height} is more than {MAX_DECODED} pixels")
        return _bands(raster, None)


@contextmanager
def decoding() -> Iterator[None]:
    """Decoders raise whatever a damaged file makes them stumble over: here it becomes OSError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a damaged file means is told by its rejection
            yield
    except (OSError, RsdataError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _decoded(image: Image.Image) -> np.ndarray[Any, Any]:
    if image.width * image.height > MAX_DECODED:
        raise OSError(f"{image.width}x{image.height} is more than {MAX_DECODED} pixels")
    with decoding():
        if image.mode == "LA":
            image = image.getchannel("L")
        elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        array = np.asarray(image)
    return array.astype(np.uint8) if array.dtype == bool else array


def _bands(raster: Any, window: Sequence[int] | None) -> np.ndarray[Any, Any]:
    from rasterio.windows import Window

    if raster.count > 4:  # a damaged header may claim thousands
        raise OSError(f"{raster.count} bands; a mask has one, or colours")
    bands = np.asarray(raster.read(window=Window(*window) if window else None))
    return bands[0] if len(bands) == 1 else np.moveaxis(bands, 0, -1)
