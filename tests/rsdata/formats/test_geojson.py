from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform
from reading import Read

from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats import geojson
from rsdata.records import Box

UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
TURNED = {**UTM, "transform": UTM["transform"] @ rasterio.Affine.rotation(30)}
DEGREES = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 15, 0, -1e-5, 45)}
RING = [(10, 20), (30, 20), (30, 45), (10, 40)]


def image(folder: Path, place: dict[str, Any]) -> str:
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", width=64, height=48, count=1, dtype="uint8", **place
    ) as raster:
        raster.write(np.zeros((1, 48, 64), np.uint8))
    return "a.tif"


def feature(coordinates: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def ring_on_ground(place: dict[str, Any], crs: str) -> list[list[float]]:
    points = [place["transform"] @ point for point in [*RING, RING[0]]]
    xs, ys = transform(place["crs"], crs, *zip(*points, strict=True))
    return [[x, y, 5.0] for x, y in zip(xs, ys, strict=True)]


@pytest.mark.parametrize("place", [UTM, TURNED, DEGREES], ids=["UTM", "turned", "degrees"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32633"])
def test_from_the_ground_to_pixels(read: Read, tmp_path: Path, place: dict[str, Any], crs: str) -> None:
    document: dict[str, Any] = {"features": [feature([ring_on_ground(place, crs)])]}
    if crs != "EPSG:4326":
        document["crs"] = {"type": "name", "properties": {"name": crs}}
    found = read(geojson, "a.geojson", json.dumps(document), image=image(tmp_path, place))
    assert found.issues == []
    (box,) = found.boxes
    assert box.polygon == pytest.approx([value for point in RING for value in point], abs=2e-3)
    assert box[2:6] == pytest.approx((10, 20, 30, 45), abs=2e-3)


def test_what_features_may_be(read: Read, tmp_path: Path) -> None:
    square, other = [[1, 1], [5, 1], [5, 5], [1, 5], [1, 1]], [[10, 10], [12, 10], [12, 13]]
    hole = [[2, 2], [3, 2], [3, 3], [2, 2]]
    collection = {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}]}
    features = [
        feature([square, hole], name="ship"),
        feature([[square], [other]], "MultiPolygon", name=7),
        feature([square], name=""),
        {
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [other]}],
            }
        },
        feature([1, 2], "Point"),
        {"geometry": None},
        feature([[[1, 1], [2, 2]]]),
        feature([[[1, 1], [2, "x"], [3, 3]]]),
        {"geometry": collection},
    ]
    document = '{"type": "FeatureCollection", "features": [\n' + ",\n".join(map(json.dumps, features)) + "]}"
    found = read(geojson, "a.geojson", document, label="name", default="hut", coords="pixel")
    codes = {6: "E05", 7: "E05", 8: "E05", 9: "E06", 10: "E05"}
    assert found.issues == [("dropped", code, line) for line, code in codes.items()]
    flat = [1, 1, 5, 1, 5, 5, 1, 5]
    assert found.boxes == [
        Box("ship", "ship", 1, 1, 5, 5, flat),
        Box("", "7", 1, 1, 12, 13, flat),
        Box("hut", "hut", 1, 1, 5, 5, flat),
        Box("hut", "hut", 10, 10, 12, 13, [10, 10, 12, 10, 12, 13]),
    ]


def test_an_image_without_a_crs(read: Read, tmp_path: Path) -> None:
    name = image(tmp_path, {})
    plain = json.dumps({"features": [feature([[[1, 1], [5, 1], [5, 5]]])]})
    assert read(geojson, "a.geojson", plain, image=name).boxes[0][2:6] == (1, 1, 5, 5)
    with pytest.raises(AnnotationError, match="--option coords=pixel"):
        read(geojson, "a.geojson", plain, image=name, coords="world")
    named = json.dumps({"crs": {"properties": {"name": "EPSG:9999999"}}, "features": []})
    with pytest.raises(AnnotationError, match="not known"):
        read(geojson, "a.geojson", named, image=image(tmp_path, UTM))
    with pytest.raises(RecipeError, match="expected auto, world or pixel"):
        read(geojson, "a.geojson", plain, coords="degrees")
    with pytest.raises(AnnotationError, match="for which the image is needed"):
        read(geojson, "a.geojson", plain)
