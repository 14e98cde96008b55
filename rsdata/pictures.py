"""What a table keeps of an image file: encoded bytes, size, hashes, place on earth.

A picture of 8 bits goes into the table as it was shipped. All else is rendered: more than three bands or 16
bits, a border to cut, a part of a scene, a frame of a film. JPEGs and frames become JPEGs (quality 95), the
others PNGs.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from rsdata import places, rasters
from rsdata.hashing import Hashes, Sample, finished, sample
from rsdata.rasters import Rendering
from rsdata.tiles import Window

Pixels: TypeAlias = np.ndarray[Any, Any]

_ORIENTATION = 0x0112
_GEOKEYS, _SAMPLES, _BITS = 34735, 277, 258
_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
_PATCHES, _PATCH = 8, 128
"""The percentiles of a scene are those of 8 x 8 patches of 128 pixels, evenly spread: to read it all for them
would take as long as to cut it."""
_STRETCH = (2.0, 98.0)
_LARGEST = 1 << 30
"""Bytes of a picture that is kept as it was shipped."""
_DEGREE = 111_320.0
"""Metres of a degree of latitude."""


class Picture(NamedTuple):
    """An image as a table keeps it. width, height: its pixels; stored: those of `data`, where it was scaled.

    turned: its EXIF orientation where that is not 1. geometry: WKB of its lon/lat footprint, and gsd: metres
    per pixel, where it is georeferenced.
    """

    data: bytes
    width: int
    height: int
    sample: Sample | None
    sha256: str
    turned: int | None = None
    geometry: bytes | None = None
    gsd: float | None = None
    stored: tuple[int, int] | None = None

    @property
    def hashes(self) -> Hashes | None:
        """Its hashes; of many, hashing.finished makes them faster."""
        return finished([self.sample])[0] if self.sample else None


class Place(NamedTuple):
    """Where on earth pixels lie: rasterio's affine transform of pixels, and its CRS."""

    transform: Any
    crs: Any

    def footprint(self, window: Window) -> tuple[bytes, float] | None:
        """(WKB of a lon/lat polygon, metres per pixel) of a part, None where the CRS does not reach there."""
        from rasterio.errors import RasterioError
        from shapely import Polygon, to_wkb

        left, top, right, bottom = window.x, window.y, window.x + window.width, window.y + window.height
        corners = [
            self.transform @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))
        ]
        try:
            lon, lat = rasters.transformed(self.crs, "EPSG:4326", *map(list, zip(*corners, strict=True)))
            scale = 1.0 if self.crs.is_geographic else self.crs.linear_units_factor[1]
        except (RasterioError, ValueError):
            return None
        if not all(map(math.isfinite, (*lon, *lat))):
            return None
        side = math.sqrt(abs(self.transform.determinant)) * scale
        if self.crs.is_geographic:
            side *= _DEGREE * math.sqrt(max(0.0, math.cos(math.radians(sum(lat) / 4))))
        return bytes(to_wkb(Polygon(zip(lon, lat, strict=True)))), side


def look(path: Path, rendering: Rendering) -> Picture:
    """One look at an image file: it is read once and decoded once. Raises OSError where that fails.

    Of more than rasters.MAX_DECODED pixels, there is no hash; what must be rendered is refused.
    """
    with places.opened(path) as file:
        image = rasters.open_image(file)
        if image is not None and rendering.is_plain and _is_plain(image):
            if (size := file.seek(0, io.SEEK_END)) > _LARGEST:
                raise OSError(f"{size:,} bytes, of which a table holds at most {_LARGEST:,}")
            file.seek(0)
            return _as_shipped(path, file.read(), rendering)
    with opened(path, rendering) as scene:
        if scene.width * scene.height > rasters.MAX_DECODED:
            limit = _too_large(scene.width, scene.height)
            raise OSError(f"{limit}: cut it into windows (--tile 1024)")
        whole = Window(0, 0, scene.width, scene.height)
        picture = scene.picture(whole)
        if picture is None:
            raise OSError("no pixel of it is data")
        return picture


def _too_large(width: int, height: int) -> str:
    return f"{width}x{height} is more than {rasters.MAX_DECODED} pixels"


def _as_shipped(path: Path, data: bytes, rendering: Rendering) -> Picture:
    image = rasters.open_image(data)
    assert image is not None
    digest = hashlib.sha256(data).hexdigest()
    width, height = image.size
    place = _place_of(path, image)
    geometry, gsd = (place.footprint(Window(0, 0, width, height)) if place else None) or (None, None)
    if width * height > rasters.MAX_DECODED:
        if rendering.scaled(width, height) != (width, height):
            raise OSError(f"{_too_large(width, height)}: too many to scale it down")
        return Picture(data, width, height, None, digest, None, geometry, gsd)
    with image, rasters.decoding():
        turned = _turned(image)
        if (size := rendering.scaled(width, height)) != (width, height):
            image.draft(image.mode, size)  # a JPEG is decoded at the scale next above
            data, digest, found = _encoded(_resized(image, size), _is_jpeg(image))
            return Picture(data, width, height, found, digest, turned, geometry, gsd, size)
        found = sample(image, lambda: rasters.open_image(data))
        return Picture(data, width, height, found, digest, turned, geometry, gsd)


def _is_plain(image: Image.Image) -> bool:
    """Whether a picture is of 8 bits and Pillow sees all its bands."""
    if image.mode not in _PLAIN:
        return False
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return True
    bits = tags.get(_BITS, 1)
    return bool(len(image.getbands()) == tags.get(_SAMPLES, 1) and np.max(bits) <= 8)


def _place_of(path: Path, image: Image.Image) -> Place | None:
    """Where an image lies, if it is a GeoTIFF."""
    if _GEOKEYS not in (getattr(image, "tag_v2", None) or ()):
        return None
    with rasters.open_raster(path) as raster:
        return _place(raster)


def _place(raster: Any) -> Place | None:
    return None if raster.crs is None or raster.transform.is_identity else Place(raster.transform, raster.crs)


def _turned(image: Image.Image) -> int | None:
    if "exif" not in image.info and not hasattr(image, "tag_v2"):
        return None
    turned = image.getexif().get(_ORIENTATION, 1)
    return None if turned == 1 else turned


class Scene:
    """An image of which parts are asked for. width, height: without the border; full: with it."""

    def __init__(
        self, full: tuple[int, int], rendering: Rendering, place: Place | None = None, lossy: bool = False
    ) -> None:
        """Raises OSError where the border leaves nothing."""
        self.full, self._border, self._place, self._lossy = full, rendering.border, place, lossy
        self._scaled = rendering.scaled
        self.width, self.height = (side - 2 * rendering.border for side in full)
        self.turned: int | None = None
        if min(self.width, self.height) < 1:
            raise OSError(f"{full[0]}x{full[1]} is nothing but border of {rendering.border} pixels")

    def picture(self, window: Window) -> Picture | None:
        """A part of the scene, None where it holds no data. Raises OSError where it cannot be decoded."""
        window = window._replace(x=window.x + self._border, y=window.y + self._border)
        with rasters.decoding():
            image = self._crop(window)
            if image is None:
                return None
            found = self._place.footprint(window) if self._place else None
            size = self._scaled(*image.size)
            smaller = _resized(image, size) if size != image.size else image
            data, digest, held = _encoded(smaller, self._lossy)
            geometry, gsd = found or (None, None)
            stored = None if smaller is image else size
            return Picture(data, *image.size, held, digest, self.turned, geometry, gsd, stored)

    def _crop(self, window: Window) -> Image.Image | None:
        raise NotImplementedError


class _Decoded(Scene):
    """A scene whose pixels are held as a whole."""

    def __init__(
        self, image: Image.Image, rendering: Rendering, place: Place | None = None, lossy: bool = False
    ) -> None:
        super().__init__(image.size, rendering, place, lossy or _is_jpeg(image))
        with rasters.decoding():
            self.turned = _turned(image)
            image.load()
            self._image = image if image.mode in ("L", "RGB") else image.convert(_eight_bits(image.mode))

    def _crop(self, window: Window) -> Image.Image:
        x, y, width, height = window
        return self._image.crop((x, y, x + width, y + height))


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image of 8 bits scaled down."""
    plain = image if image.mode in ("L", "RGB") else image.convert(_eight_bits(image.mode))
    return plain.resize(size, Image.Resampling.LANCZOS)


def _encoded(image: Image.Image, lossy: bool) -> tuple[bytes, str, Sample]:
    """An image as a file, with its digest, and a sample of the pixels in it."""
    data = encoded(image, lossy)
    stored = rasters.open_image(data) if lossy else image
    assert stored is not None
    return data, hashlib.sha256(data).hexdigest(), sample(stored, lambda: rasters.open_image(data))


def _eight_bits(mode: str) -> str:
    return "L" if mode in ("1", "LA") else "RGB"


class _Windowed(Scene):
    """A scene whose parts are read from the file, by bands, and stretched to 8 bits."""

    def __init__(self, raster: Any, rendering: Rendering) -> None:
        lossy = raster.driver == "JPEG"
        super().__init__((int(raster.width), int(raster.height)), rendering, _place(raster), lossy)
        self._raster, self._bands = raster, _bands(raster, rendering)
        kinds = [np.dtype(raster.dtypes[band - 1]) for band in self._bands]
        if any(kind.kind not in "uif" for kind in kinds):
            raise OSError(f"pixels of {kinds[0]}, expected numbers")
        self._masked = any(
            flag.name != "all_valid" for flags in raster.mask_flag_enums for flag in flags
        ) or any(kind.kind == "f" for kind in kinds)
        self._stretch: Callable[[Pixels], Pixels] | None = None
        if rendering.stretch or any(kind != np.uint8 for kind in kinds):
            self._stretch = _stretching(kinds[0], self._percentiles(rendering.stretch or _STRETCH))

    def _percentiles(self, stretch: Any) -> list[tuple[float, float]]:
        from rasterio.windows import Window as Part

        parts = [Part(x, y, *size) for y, x, size in _patches(*self.full)]
        bands = [self._raster.read(self._bands, window=part) for part in parts]
        valid = [np.isfinite(patch) for patch in bands]
        if self._masked:
            valid = [
                good & (self._raster.dataset_mask(window=part) > 0)
                for good, part in zip(valid, parts, strict=True)
            ]
        limits = []
        for number in range(len(self._bands)):
            held = np.concatenate(
                [patch[number][good[number]] for patch, good in zip(bands, valid, strict=True)]
            )
            low, high = np.percentile(held, stretch).tolist() if held.size else (0.0, 1.0)
            limits.append((low, high if high > low else low + 1.0))
        return limits

    def _crop(self, window: Window) -> Image.Image | None:
        from rasterio.windows import Window as Part

        part = Part(*window)
        valid = self._raster.dataset_mask(window=part) > 0 if self._masked else None
        bands = self._raster.read(self._bands, window=part)
        if bands.dtype.kind == "f":
            finite = np.isfinite(bands).all(axis=0)
            valid = finite if valid is None else valid & finite
        if valid is not None and not valid.any():
            return None
        if self._stretch is not None:
            bands = self._stretch(bands)
        if valid is not None:
            bands[:, ~valid] = 0
        return Image.fromarray(bands[0] if len(bands) == 1 else np.moveaxis(bands, 0, -1))


def _patches(width: int, height: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(y, x, size) of what is looked at for a scene's percentiles: all of it, or patches spread over it."""
    if max(width, height) <= _PATCHES * _PATCH:
        yield 0, 0, (width, height)
        return
    size = (min(_PATCH, width), min(_PATCH, height))
    for row in range(_PATCHES):
        for column in range(_PATCHES):
            x, y = (
                (side - part) * at // (_PATCHES - 1)
                for side, part, at in zip((width, height), size, (column, row), strict=True)
            )
            yield y, x, size


def _stretching(kind: np.dtype[Any], limits: list[tuple[float, float]]) -> Callable[[Pixels], Pixels]:
    """The function that stretches (bands, height, width) to 8 bits, each band between its limits."""
    low, high = (np.array(side, np.float32)[:, None] for side in zip(*limits, strict=True))

    def to_bytes(values: Pixels) -> Pixels:
        with np.errstate(all="ignore"):
            scaled = (values.astype(np.float32) - low) * (255 / (high - low))
        return np.asarray(np.clip(np.nan_to_num(np.rint(scaled)), 0, 255).astype(np.uint8))

    if kind.kind == "u" and kind.itemsize <= 2:  # each value is computed once: several times as fast
        table = to_bytes(np.arange(256**kind.itemsize)[None])
        return lambda bands: np.stack([row[band] for row, band in zip(table, bands, strict=True)])
    return lambda bands: to_bytes(bands.reshape(len(bands), -1)).reshape(bands.shape)


def _bands(raster: Any, rendering: Rendering) -> list[int]:
    """The bands that become a picture. Raises OSError where the file lacks one that is asked for."""
    if rendering.bands:
        if max(rendering.bands) > raster.count:
            raise OSError(f"{raster.count} bands, and band {max(rendering.bands)} is asked for")
        return list(rendering.bands)
    names = [colour.name for colour in raster.colorinterp]
    if all(names.count(colour) == 1 for colour in ("red", "green", "blue")):
        return [names.index(colour) + 1 for colour in ("red", "green", "blue")]
    return [1, 2, 3] if raster.count >= 3 else [1]


@contextmanager
def opened(path: Path, rendering: Rendering) -> Iterator[Scene]:
    """An image file of which parts are asked for; a large one is never held whole. Raises OSError."""
    with places.opened(path) as file:
        image = rasters.open_image(file)
        small = image is not None and image.width * image.height <= rasters.LARGE
        if image is not None and small and not rendering.bands and not rendering.stretch and _is_plain(image):
            yield _Decoded(image, rendering, _place_of(path, image))
            return
    with rasters.open_raster(path) as raster:
        if raster.driver == "GTiff" and not rasters.is_whole(raster, path.stat().st_size):
            raise OSError("image file is truncated")  # GDAL would fill up what is missing
        yield _Windowed(raster, rendering)


def frame(path: Path, number: int, rendering: Rendering) -> Picture:
    """Frame `number` (from 0) of a film, asked for in order. Raises OSError where there is none."""
    stat = path.stat()
    pixels = _film(path, stat.st_mtime_ns, stat.st_size).frame(number)
    scene = _Decoded(Image.fromarray(pixels), rendering, lossy=True)
    picture = scene.picture(Window(0, 0, scene.width, scene.height))
    assert picture is not None
    return picture


@lru_cache(maxsize=1)
def _film(path: Path, _changed: int, _size: int) -> _Film:
    return _Film(path)


_FILM = re.compile(
    rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)|RIFF.{4}AVI "  # QuickTime, MP4; AVI
    rb"|\x1aE\xdf\xa3|\0\0\x01[\xba\xb3]|G.{11}|FLV\x01|0&\xb2u",  # Matroska, MPEG, Flash, Windows Media
    re.DOTALL,
)
"""How films begin. A playlist, which FFmpeg would follow to other files and addresses, is none."""


class _Film:
    """A film, decoded forward: seeking is not exact in every codec."""

    def __init__(self, path: Path) -> None:
        with places.opened(path) as file:
            if not _FILM.match(file.read(12)):
                raise OSError("a film that cannot be decoded")
        self._disk = places.on_disk(path)
        self._name = self._disk.__enter__()  # a copy, if it is one, lasts as long as this film
        self._rewind()

    def _rewind(self) -> None:
        import cv2

        self._capture, self._next = cv2.VideoCapture(self._name, cv2.CAP_FFMPEG), 0
        if not self._capture.isOpened():
            raise OSError("a film that cannot be decoded")

    def frame(self, number: int) -> Pixels:
        """Pixels (height, width, 3) RGB. Raises OSError where the film is shorter."""
        if number < self._next:
            self._rewind()
        while self._next < number and self._capture.grab():
            self._next += 1
        read, pixels = self._capture.read() if self._next == number else (False, None)
        if not read or pixels is None:
            raise OSError(f"the film ends before frame {number}")
        self._next += 1
        return np.ascontiguousarray(pixels[..., ::-1])


def encoded(image: Image.Image, lossy: bool) -> bytes:
    """An image of 8 bits as a JPEG or PNG file."""
    file = io.BytesIO()
    if lossy:
        image.save(file, "JPEG", quality=95)
    else:
        image.save(file, "PNG", compress_level=1)  # scenes hardly compress: 6 takes three times as long
    return file.getvalue()
