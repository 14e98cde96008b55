"""What a table keeps of image files: GeoTIFFs of many bands and bits, borders, windows, films, footprints."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.warp import transform

from rsdata import pictures, rasters
from rsdata.rasters import Rendering
from rsdata.tiles import Window

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
RNG = np.random.default_rng(0)


def geotiff(path: Path, bands: np.ndarray[Any, Any], **options: Any) -> Path:
    count, height, width = bands.shape
    shape = {"width": width, "height": height, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **{**PLACE, **options}) as raster:
        raster.write(bands)
    return path


def decoded(picture: pictures.Picture | None) -> np.ndarray[Any, Any]:
    assert picture is not None
    assert picture.sha256 == hashlib.sha256(picture.data).hexdigest()
    image = Image.open(io.BytesIO(picture.data))
    assert image.size == (picture.width, picture.height)
    assert picture.hashes is not None
    assert (picture.hashes.phash ^ int(str(imagehash.phash(image)), 16)).bit_count() <= 2
    return np.asarray(image)


def scaled(band: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    """The stretch, worked out in double precision."""
    lower, upper = np.percentile(band, [low, high])
    return np.clip((band.astype(float) - lower) / (upper - lower) * 255, 0, 255)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "uint32"])
def test_more_than_eight_bits_are_stretched(tmp_path: Path, dtype: str) -> None:
    bands = RNG.integers(100, 4000, (4, 60, 90)).astype(dtype)
    path = geotiff(tmp_path / "a.tif", bands)
    found = decoded(pictures.look(path, Rendering()))
    expected = np.stack([scaled(band, 2, 98) for band in bands[:3]], axis=-1)
    assert np.abs(found - expected).max() <= 0.51


def test_bands_and_percentiles_are_the_recipes(tmp_path: Path) -> None:
    bands = RNG.integers(0, 255, (6, 60, 90)).astype(np.uint8)
    path = geotiff(tmp_path / "a.tif", bands)
    plain = decoded(pictures.look(path, Rendering(bands=(5, 3, 1))))
    assert (plain == np.moveaxis(bands[[4, 2, 0]], 0, -1)).all()
    grey = decoded(pictures.look(path, Rendering(bands=(6,), stretch=(10, 90))))
    assert np.abs(grey - scaled(bands[5], 10, 90)).max() <= 0.51
    with pytest.raises(OSError, match="6 bands, and band 7 is asked for"):
        pictures.look(path, Rendering(bands=(7,)))


def test_the_colours_that_a_file_names(tmp_path: Path) -> None:
    bands = RNG.integers(0, 255, (4, 40, 50)).astype(np.uint16)
    path = geotiff(tmp_path / "a.tif", bands)
    with rasterio.open(path, "r+") as raster:
        names = ("nir", "blue", "green", "red")
        raster.colorinterp = [
            getattr(rasterio.enums.ColorInterp, name, rasterio.enums.ColorInterp.undefined) for name in names
        ]
    found = decoded(pictures.look(path, Rendering()))
    expected = np.stack([scaled(band, 2, 98) for band in bands[[3, 2, 1]]], axis=-1)
    assert np.abs(found - expected).max() <= 0.51


def test_no_data_is_black_and_no_part_of_the_percentiles(tmp_path: Path) -> None:
    bands = RNG.integers(1000, 2000, (3, 64, 96)).astype(np.uint16)
    bands[:, :, :48] = 65535
    path = geotiff(tmp_path / "a.tif", bands, nodata=65535)
    found = decoded(pictures.look(path, Rendering()))
    assert not found[:, :48].any()
    assert np.abs(found[:, 48:, 0] - scaled(bands[0, :, 48:], 2, 98)).max() <= 0.51
    with pictures.opened(path, Rendering()) as scene:
        assert scene.picture(Window(0, 0, 48, 64)) is None
        assert scene.picture(Window(40, 0, 48, 64)) is not None
    with pytest.raises(OSError, match="no pixel of it is data"):
        pictures.look(geotiff(tmp_path / "b.tif", np.full((3, 9, 9), 7, np.uint16), nodata=7), Rendering())


def test_nan_and_flat_bands(tmp_path: Path) -> None:
    bands = np.full((3, 20, 20), 5, np.float32)
    bands[1, 3, 4] = np.nan
    bands[2] = np.inf
    bands[2, 5:, 5:] = 9
    found = decoded(pictures.look(geotiff(tmp_path / "a.tif", bands), Rendering()))
    assert found.max() == 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_picture_of_eight_bits_is_as_shipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 255, (30, 40, 3)).astype(np.uint8)).save(path)
    picture = pictures.look(path, Rendering())
    decoded(picture)
    assert picture.data == path.read_bytes()
    assert (picture.geometry, picture.gsd, picture.turned) == (None, None, None)


@pytest.mark.parametrize(("suffix", "format"), [("png", "PNG"), ("jpg", "JPEG")])
def test_a_border_is_cut(tmp_path: Path, suffix: str, format: str) -> None:
    pixels = RNG.integers(0, 255, (70, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", quality=95)
    picture = pictures.look(tmp_path / f"a.{suffix}", Rendering(border=20))
    assert (picture.width, picture.height) == (50, 30)
    assert Image.open(io.BytesIO(picture.data)).format == format
    if format == "PNG":
        assert (decoded(picture) == pixels[20:50, 20:70]).all()
    with pytest.raises(OSError, match="nothing but border"):
        pictures.look(tmp_path / f"a.{suffix}", Rendering(border=35))


@pytest.mark.parametrize("large", [False, True], ids=["held whole", "read by windows"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_windows(tmp_path: Path, suffix: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pixels, whether an image is decoded whole or its parts are read from the file."""
    if large:
        monkeypatch.setattr(rasters, "LARGE", 100)
    pixels = np.kron(RNG.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, quality=95)
    with pictures.opened(path, Rendering(border=10)) as scene:
        assert (scene.width, scene.height, scene.full) == (140, 100, (160, 120))
        for window in (Window(0, 0, 64, 64), Window(76, 36, 64, 64)):
            found = decoded(scene.picture(window))
            x, y = window.x + 10, window.y + 10
            difference = np.abs(found.astype(int) - pixels[y : y + 64, x : x + 64])
            assert difference.mean() <= (8 if suffix == "jpg" else 0)


def test_a_palette_and_one_bit_are_cut_as_colours(tmp_path: Path) -> None:
    pixels = (RNG.integers(0, 2, (50, 50)) * 255).astype(np.uint8)
    Image.fromarray(pixels).convert("1").save(tmp_path / "bit.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png")
    for name, bands in (("bit.png", 2), ("palette.png", 3)):
        with pictures.opened(tmp_path / name, Rendering()) as scene:
            found = decoded(scene.picture(Window(5, 6, 32, 33)))
        assert found.ndim == bands
        assert ((found if bands == 2 else found[..., 0]) == pixels[6:39, 5:37]).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_where_on_earth(tmp_path: Path, dtype: str) -> None:
    bands = RNG.integers(0, 255, (3, 100, 200)).astype(dtype)
    path = geotiff(tmp_path / "a.tif", bands, photometric="RGB")
    picture = pictures.look(path, Rendering())
    assert picture.gsd == pytest.approx(0.5)
    lon, lat = transform("EPSG:32633", "EPSG:4326", [5e5, 5e5 + 100], [5e6, 5e6 - 50])
    found = shapely.from_wkb(picture.geometry)
    assert found.bounds == pytest.approx((lon[0], lat[1], lon[1], lat[0]), abs=1e-5)
    with pictures.opened(path, Rendering()) as scene:
        part = scene.picture(Window(100, 50, 100, 50))
    assert part is not None
    quarter = shapely.from_wkb(part.geometry)
    assert quarter.area == pytest.approx(found.area / 4, rel=1e-4)
    assert found.buffer(1e-9).contains(quarter)


def test_degrees_and_feet(tmp_path: Path) -> None:
    bands = np.zeros((1, 10, 10), np.uint16)
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 10, 0, -1e-5, 60)}
    picture = pictures.look(geotiff(tmp_path / "a.tif", bands, **degrees), Rendering())
    assert picture.gsd == pytest.approx(1.1132 * np.sqrt(0.5), rel=1e-3)
    feet = {"crs": "EPSG:2263", "transform": rasterio.Affine(2, 0, 980000, 0, -2, 200000)}
    picture = pictures.look(geotiff(tmp_path / "b.tif", bands, **feet), Rendering())
    assert picture.gsd == pytest.approx(2 * 0.3048006, rel=1e-4)


def test_a_vrt_in_disguise_is_not_followed(tmp_path: Path) -> None:
    geotiff(tmp_path / "secret.tif", np.zeros((1, 5, 5), np.uint16))
    (tmp_path / "a.tif").write_text(
        '<VRTDataset rasterXSize="5" rasterYSize="5"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        "<SourceFilename>secret.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(OSError, match="no image format that is known here"):
        pictures.look(tmp_path / "a.tif", Rendering())


def film(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()
    return path


def test_frames_of_a_film(tmp_path: Path) -> None:
    path = film(tmp_path / "video.mov", 30)
    for number in (0, 7, 8, 29, 3):  # also back
        picture = pictures.frame(path, number, Rendering())
        image = Image.open(io.BytesIO(picture.data))
        assert (image.format, image.size) == ("JPEG", (64, 48))
        assert np.abs(np.asarray(image).astype(int) - 8 * number).max() <= 6
    with pytest.raises(OSError, match="the film ends before frame 30"):
        pictures.frame(path, 30, Rendering())
    (tmp_path / "no.mov").write_bytes(b"no film")
    with pytest.raises(OSError, match="cannot be decoded"):
        pictures.frame(tmp_path / "no.mov", 0, Rendering())


def test_a_giant_is_refused_unless_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasters, "MAX_DECODED", 1000)
    path = geotiff(tmp_path / "a.tif", RNG.integers(0, 9, (3, 40, 40)).astype(np.uint16))
    with pytest.raises(OSError, match="--tile"):
        pictures.look(path, Rendering())
    plain = tmp_path / "b.png"
    Image.new("RGB", (40, 40)).save(plain)
    picture = pictures.look(plain, Rendering())
    assert (picture.hashes, picture.data) == (None, plain.read_bytes())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"border": -1}, "border"),
        ({"bands": [1, 2]}, "one or three"),
        ({"bands": [0]}, "from 1"),
        ({"stretch": [98, 2]}, "the lower first"),
        ({"stretch": ["a", "b"]}, "two percentiles"),
    ],
)
def test_renderings_that_make_no_sense(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Rendering(**wrong)
