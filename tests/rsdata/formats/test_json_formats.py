"""The readers of JSON: what each grammar can say, and what nobody should."""

from __future__ import annotations

import json
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from reading import Read

from rsdata.errors import AnnotationError
from rsdata.formats import auair, geojson, labelme, panoptic, soda, xbd, xview
from rsdata.records import Box, Record

MODULES = (auair, labelme, panoptic, soda, xbd, xview, geojson)


def test_auair(read: Read) -> None:
    document = {
        "info": {}, "categories": ["Human", "Car"],
        "annotations": [
            {"image_name": "f1.jpg", "image_width:": 1920.0, "image_height": 1080.0, "altitude": 1.0,
             "bbox": [{"top": 163, "left": 1098, "height": 185, "width": 420, "class": 1}]},
            {"image_name": "f2.jpg", "bbox": []},
        ],
    }  # fmt: skip
    found = read(auair, "annotations.json", json.dumps(document))
    assert found.issues == []
    box = Box("Car", "Car", 1098, 163, 1518, 348)
    assert found.records == [
        Record(
            "f1.jpg",
            [box],
            1920,
            1080,
            annotation="annotations.json",
            lines=[0],
            element="annotations",
            place=0,
        ),
        Record("f2.jpg", [], annotation="annotations.json", lines=[], element="annotations", place=1),
    ]


def test_soda(read: Read) -> None:
    document = {
        "images": [{"width": 20, "height": 10}],
        "annotations": [
            {"poly": [1, 2, 9, 2, 9, 8, 5, 9, 1, 8], "category_id": 3},
            {"poly": [[1, 1], [2, 1], [2, 3]], "cat_id": 7, "trunc": 1},
        ],
        "categories": [{"id": 3, "name": "large-vehicle"}],
    }
    found = read(soda, "a.json", json.dumps(document))
    assert found.issues == []
    (record,) = found.records
    assert (record.width, record.height) == (20, 10)
    assert found.boxes == [
        Box("large vehicle", "large-vehicle", 1, 2, 9, 9, [1, 2, 9, 2, 9, 8, 5, 9, 1, 8]),
        Box("", "7", 1, 1, 2, 3, [1, 1, 2, 1, 2, 3]),
    ]


def test_xbd(read: Read) -> None:
    def feature(wkt: str, **properties: Any) -> dict[str, Any]:
        return {"properties": {"feature_type": "building", **properties}, "wkt": wkt}

    document = {
        "features": {
            "xy": [
                feature("POLYGON ((20 20, 20 30.5, 30 30, 30 20, 20 20), (22 22, 23 22, 23 23, 22 22))"),
                feature(
                    "MULTIPOLYGON (((0 0, 9 0, 9 9, 0 0)), ((50 50, 52 50, 52 52, 50 50)))",
                    subtype="destroyed",
                ),
                feature("POLYGON EMPTY"),
                feature("LINESTRING (0 0, 1 1)"),
                feature("POLYGON ((0 0, 1"),
            ]
        },
        "metadata": {"width": 1024, "height": 1024, "gsd": 2.09},
    }
    found = read(xbd, "a.json", json.dumps(document))
    assert [issue[1] for issue in found.issues] == ["E05", "E05", "E06"]
    (record,) = found.records
    assert (record.width, record.gsd) == (1024, 2.09)
    assert found.boxes == [
        Box("building", "building", 20, 20, 30, 30.5, [20, 20, 20, 30.5, 30, 30, 30, 20]),
        Box("destroyed", "destroyed", 0, 0, 52, 52, [0, 0, 9, 0, 9, 9]),
    ]


def test_labelme(read: Read) -> None:
    shapes = [
        {"label": "ship", "points": [[9, 8], [1, 2]], "shape_type": "rectangle"},
        {"label": "ship", "points": [[1, 1], [4, 1], [4, 5]], "shape_type": "polygon", "group_id": None},
        {"label": "tank", "points": [[10, 10], [13, 14]], "shape_type": "circle"},
        {"label": "dock", "points": [[0, 0], [2, 0], [2, 2]], "group_id": 5},
        {"label": "dock", "points": [[10, 0], [12, 0], [12, 3]], "group_id": 5},
        {"label": "dock", "points": [[5, 5], [6, 6]], "shape_type": "mask", "group_id": 6},
        {"label": "field", "points": [[0, 0], [4, 1], [3, 5], [-1, 4]], "shape_type": "oriented_rectangle"},
        {"label": "_background_", "points": [[0, 0], [1, 1]], "shape_type": "rectangle"},
        {"label": "road", "points": [[0, 0], [1, 1]], "shape_type": "line"},
        {"label": " ", "points": [[0, 0], [1, 1]], "shape_type": "rectangle"},
    ]
    found = read(labelme, "a.json", json.dumps({"shapes": shapes, "imageData": "AAAA", "imageWidth": None}))
    assert found.issues == [("dropped", "E05", 1), ("dropped", "E05", 1)]
    assert found.boxes == [
        Box("ship", "ship", 1, 2, 9, 8),
        Box("ship", "ship", 1, 1, 4, 5, [1, 1, 4, 1, 4, 5]),
        Box("tank", "tank", 5, 5, 15, 15),
        Box("dock", "dock", 0, 0, 12, 3),
        Box("dock", "dock", 5, 5, 6, 6),
        Box("field", "field", -1, 0, 4, 5, [0, 0, 4, 1, 3, 5, -1, 4]),
        Box("background", "_background_", 0, 0, 1, 1, None, ("ignored",)),
    ]


def test_panoptic(read: Read) -> None:
    document = {
        "images": [
            {"id": "x", "file_name": "a.jpg", "width": 9, "height": 8},
            {"id": 2, "file_name": "b.jpg"},
        ],
        "categories": [{"id": 3, "name": "ship", "isthing": 1}, {"id": 4, "name": "sea", "isthing": 0}],
        "annotations": [
            {"image_id": "x", "file_name": "a.png", "segments_info": [
                {"id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1},
                {"id": 8, "category_id": 4, "bbox": [0, 0, 9, 8]},
            ]},
        ],
    }  # fmt: skip
    found = read(panoptic, "p.json", json.dumps(document))
    assert found.issues == []
    assert [(one.image, one.width) for one in found.records] == [("a.jpg", 9), ("b.jpg", None)]
    ship, sea = Box("ship", "ship", 1, 2, 4, 6, None, ("crowd",)), Box("sea", "sea", 0, 0, 9, 8)
    assert found.boxes == [ship, sea]
    assert read(panoptic, "p.json", json.dumps(document), things=True).boxes == [ship]


def test_xview(read: Read) -> None:
    def feature(bounds: str, kind: int, image: str) -> dict[str, Any]:
        return {
            "properties": {"bounds_imcoords": bounds, "type_id": kind, "image_id": image},
            "geometry": None,
        }

    document = {
        "features": [
            feature("1,2,3,4", 73, "b.tif"),
            feature("1,2,3,4", 18, "a.tif"),
            feature("5,6,7,8", 73, "b.tif"),
        ]
    }
    found = read(xview, "x.geojson", json.dumps(document), {"73": "building", "18": "small car"})
    assert found.issues == []
    assert [(one.image, [box.label for box in one.boxes]) for one in found.records] == [
        ("b.tif", ["building", "building"]), ("a.tif", ["small car"])
    ]  # fmt: skip


JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    10**400,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    [None],
    [[1, 2]],
    {"a": {"b": []}},
    "9" * 5000,
)


def junk_in(value: Any, junk: Any, place: list[int]) -> Any:
    """`value` with its place[0]-th part replaced by `junk`, counting in the order of a walk."""
    place[0] -= 1
    if place[0] == 0:
        return junk
    if isinstance(value, dict):
        return {key: junk_in(held, junk, place) for key, held in value.items()}
    if isinstance(value, list):
        return [junk_in(held, junk, place) for held in value]
    return value


WHOLE: dict[ModuleType, dict[str, Any]] = {
    auair: {
        "categories": ["a"],
        "annotations": [
            {
                "image_name": "a",
                "image_width": 5,
                "bbox": [{"left": 1, "top": 1, "width": 2, "height": 2, "class": 0}],
            }
        ],
    },
    labelme: {
        "shapes": [{"label": "a", "points": [[1, 1], [2, 2]], "shape_type": "rectangle", "group_id": 1}],
        "imageWidth": 5,
        "imageHeight": 5,
    },
    panoptic: {
        "images": [{"id": 1, "file_name": "a", "width": 4}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"image_id": 1, "segments_info": [{"category_id": 1, "bbox": [1, 1, 2, 2]}]}],
    },
    soda: {
        "images": {"width": 5},
        "annotations": [{"poly": [1, 1, 2, 2, 3, 1], "category_id": 1}],
        "categories": [{"id": 1, "name": "a"}],
    },
    xbd: {
        "features": {
            "xy": [
                {"properties": {"feature_type": "a", "subtype": "b"}, "wkt": "POLYGON ((0 0, 1 0, 1 1, 0 0))"}
            ]
        },
        "metadata": {"width": 5, "gsd": 1},
    },
    xview: {"features": [{"properties": {"bounds_imcoords": "1,2,3,4", "type_id": 5, "image_id": "a"}}]},
    geojson: {
        "crs": {"properties": {"name": "EPSG:4326"}},
        "features": [
            {
                "properties": {"class": "a"},
                "geometry": {"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 0], [1, 1], [0, 0]]]]},
            }
        ],
    },
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_junk_anywhere_is_told_and_never_a_traceback(read: Read, module: ModuleType) -> None:
    options = {"coords": "pixel"} if module is geojson else {}
    told = 0
    for junk in JUNK:
        for place in range(1, 40):
            counter = [place]
            document = junk_in(WHOLE[module], junk, counter)
            if counter[0] > 0:
                break
            with suppress(AnnotationError):
                told += 1
                found = read(
                    module, "a.json", json.dumps(document), {"a": "a", "5": "five"}, size=(64, 48), **options
                )
                told -= not found.issues
    assert told > 20


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
@pytest.mark.parametrize(
    "text", ["", "[]", "5", '{"a": ', "{}", '{"a": [1, 2]}', "\x00", "[" * 5000, '{"a":' * 5000]
)
def test_files_that_are_refused_whole(read: Read, module: ModuleType, text: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read(module, "a.json", text)
    assert caught.value.code == "E01"
