from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reading import Read

from rsdata import recipes
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import masks
from rsdata.records import Box, Record

INDEX = {"2": "building", "3": "road", "4": "water"}
COLOUR = {"0,0,255": "building", "255,255,0": "car"}
IGNORED = ("0", "1", "255", "255,0,0", "0,0,0")

PLAN = np.array(
    [
        [2, 2, 0, 0, 3, 0, 0, 255],
        [2, 0, 0, 3, 0, 0, 0, 255],
        [0, 0, 0, 0, 0, 4, 4, 4],
        [0, 0, 2, 0, 0, 4, 1, 4],
        [0, 0, 0, 0, 0, 4, 4, 4],
    ]
)
BOXES = [
    Box("building", "2", 0, 0, 2, 2),
    Box("building", "2", 2, 3, 3, 4),
    Box("road", "3", 3, 0, 5, 2),
    Box("water", "4", 5, 2, 8, 5),
]


def encoded(pixels: np.ndarray[Any, Any] | Image.Image, suffix: str = "png") -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    data = io.BytesIO()
    image.save(data, {"tif": "TIFF"}.get(suffix, suffix.upper()))
    return data.getvalue()


def geotiff(bands: np.ndarray[Any, Any]) -> bytes:
    from rasterio.io import MemoryFile

    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype}
    with MemoryFile() as memory:
        with warnings.catch_warnings(action="ignore"), memory.open(**profile) as raster:
            raster.write(bands)
        return bytes(memory.read())


def palette(plan: np.ndarray[Any, Any]) -> Image.Image:
    image = Image.fromarray(plan.astype(np.uint8), "P")
    image.putpalette([0, 0, 255] * 256)
    return image


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", encoded(PLAN.astype(np.uint8))),
        ("a.png", encoded(PLAN.astype(np.uint16))),
        ("a.tif", encoded(PLAN.astype(np.int32), "tif")),
        ("a.tif", geotiff(PLAN.astype(np.int64)[None])),
        ("a.png", encoded(palette(PLAN))),
        ("a.png", encoded(np.repeat(PLAN.astype(np.uint8)[..., None], 3, axis=2))),
    ],
    ids=["8 bits", "16 bits", "32 bits", "64 bits", "palette", "grey as colours"],
)
def test_a_mask_of_indices(read: Read, name: str, data: bytes) -> None:
    found = read(masks, name, data, INDEX, IGNORED)
    assert found.issues == []
    cover = [("water", 8 / 40), ("building", 4 / 40), ("road", 2 / 40)]
    assert found.records == [Record("", BOXES, 8, 5, annotation=name, lines=[0] * 4, cover=cover)]


def test_a_mask_of_one_bit(read: Read) -> None:
    found = read(masks, "a.png", encoded(Image.fromarray(PLAN == 4)), {"1": "water"}, ("0",))
    assert found.boxes == [Box("water", "1", 5, 2, 8, 5)]


def coloured(jitter: int = 0) -> np.ndarray[Any, Any]:
    colours = np.zeros((256, 3), np.int64)
    colours[[2, 3, 4, 255]] = [(0, 0, 255), (255, 255, 0), (255, 0, 0), (0, 0, 0)]
    noise = np.random.default_rng(0).integers(-jitter, jitter + 1, (*PLAN.shape, 3))
    return np.clip(colours[PLAN] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("jitter", [0, 8])
def test_a_mask_of_colours(read: Read, alpha: bool, jitter: int) -> None:
    pixels = coloured(jitter)
    if alpha:
        pixels = np.concatenate((pixels, np.full((*PLAN.shape, 1), 7, np.uint8)), axis=2)
    found = read(masks, "a.png", encoded(pixels), COLOUR, IGNORED)
    assert found.issues == []
    assert found.boxes == [
        box._replace(label=label, raw_label=raw)
        for box, (raw, label) in zip(
            BOXES, [("0,0,255", "building")] * 2 + [("255,255,0", "car")], strict=False
        )
    ]


def test_the_tolerance_is_an_option(read: Read) -> None:
    pixels = np.full((20, 20, 3), (20, 0, 255), np.uint8)
    assert read(masks, "a.png", encoded(pixels), COLOUR, tolerance=20).boxes == [
        Box("building", "0,0,255", 0, 0, 20, 20)
    ]
    with pytest.raises(AnnotationError, match=r"100.0 % of the pixels .* 20,0,255 \(400 px\)") as caught:
        read(masks, "a.png", encoded(pixels), COLOUR, tolerance=19)
    assert caught.value.code == "E21"


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    ("share", "issues"), [(1, []), (2, [("repaired", "E21", 0)]), (20, [("repaired", "E21", 0)])]
)
def test_pixels_of_no_class(read: Read, colour: bool, share: int, issues: list[Any]) -> None:
    mask = np.full((10, 10), 2, np.uint8)
    mask.flat[:share] = 99
    pixels = np.stack([mask * 0, mask * 0, np.where(mask == 2, 255, 99)], axis=2).astype(np.uint8)
    data = encoded(pixels if colour else mask)
    found = read(masks, "a.png", data, COLOUR if colour else INDEX, IGNORED)
    assert found.issues == issues
    assert all(("0,0,99" if colour else "99") + f" ({share} px)" in item.why for item in found.rejections)
    assert found.boxes[0].label == "building"


def test_over_a_fifth_of_no_class_rejects_the_mask(read: Read) -> None:
    mask = np.full((10, 10), 2, np.uint8)
    mask.flat[:21] = 99
    with pytest.raises(AnnotationError, match=r"21.0 % of the pixels") as caught:
        read(masks, "a.png", encoded(mask), INDEX, IGNORED)
    assert caught.value.code == "E21"


def test_small_regions_are_dropped_where_asked(read: Read) -> None:
    found = read(masks, "a.png", encoded(PLAN.astype(np.uint8)), INDEX, IGNORED, min_area=3)
    assert found.issues == [("dropped", "E12", 0)] * 2
    assert [item.why.split(",")[0] for item in found.rejections] == [
        "2: region of 1 px",
        "3: region of 2 px",
    ]
    assert found.boxes == [BOXES[0], BOXES[3]]


PNG = encoded(np.random.default_rng(0).integers(0, 5, (64, 64), np.uint8))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", b""),
        ("a.png", b"no image at all"),
        ("a.png", PNG[:500]),
        ("a.png", PNG[:20]),
        ("a.png", PNG[:200] + bytes(400) + PNG[600:]),
        ("a.tif", geotiff(np.zeros((1, 9, 9), np.float64))),
        ("a.tif", geotiff(np.zeros((2, 9, 9), np.uint16))),
        ("a.tif", geotiff(np.zeros((5, 9, 9), np.uint8))),
        ("a.tif", geotiff(np.full((3, 9, 9), 0x1FF, np.uint16))),
        ("a.tif", geotiff(np.zeros((1, 9, 9), np.int64))[:200]),
        ("a.tif", b"<VRTDataset rasterXSize='2' rasterYSize='2'></VRTDataset>"),
        ("a.png", encoded(coloured())),
    ],
)
def test_masks_that_cannot_be_read(read: Read, name: str, data: bytes) -> None:
    with pytest.raises(AnnotationError) as caught:
        read(masks, name, data, INDEX, IGNORED[:3])
    assert (caught.value.path, caught.value.code) == (name, "E01")


def test_a_missing_mask_is_an_annotation_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="cannot be read"):
        list(masks.read(tmp_path, "a.png", Classes(INDEX)))


@pytest.mark.parametrize("name", ["loveda", "potsdam"])
def test_write_is_the_inverse(tmp_path: Path, name: str) -> None:
    recipe = recipes.load(name)
    raws = list(recipe.nouns or {})[:3]
    plan = np.where(PLAN == 0, -1, np.where(PLAN > 4, -1, PLAN - 2)).astype(np.int16)
    plan[plan < 0] = -1
    masks.write(tmp_path / "a.png", plan, raws, recipe.ignore[0])
    (again,) = masks.read(tmp_path, "a.png", recipe.classes())
    assert isinstance(again, Record)
    assert [(box.raw_label, *box[2:6]) for box in again.boxes] == [
        (raws[int(box.raw_label) - 2], *box[2:6]) for box in BOXES
    ]
