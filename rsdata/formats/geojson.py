"""GeoJSON on GeoTIFF (SpaceNet, RarePlanes, own digitising): one file an image, footprints on the ground.

    {"type": "FeatureCollection", "crs": {"properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
     "features": [{"properties": {"class": "building"},
                   "geometry": {"type": "Polygon", "coordinates": [[[-43.77, -22.92], …]]}}]}

Coordinates go from their CRS (longitude and latitude, unless the file names another by its authority's code,
"EPSG:32633") to that of the image and through its transform to pixels. A feature is one object: of several
parts the polygon is the largest, the edges are those of all; holes are left out; points and lines, which
enclose nothing, are dropped (E05). One file for many images is not read, nor are shapefiles and GeoPackages
(`ogr2ogr -f GeoJSON` converts them).
Source: RFC 7946.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsdata import rasters
from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats import _json
from rsdata.formats._fields import tidy
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
GEOREFERENCED = True
LAYOUTS = [
    ("images/*.tif", "geojson/*.geojson"),
    ("images/*.tif", "labels/*.geojson"),
    ("images/*.tif", "geojson/*.json"),
    ("*.tif", "*.geojson"),
]
_WORLD = "EPSG:4326"
_CODE = re.compile(r"(urn:(x-)?ogc:def:crs:)?(EPSG|OGC|ESRI|IGNF|IAU_\d+):[\w.]*:?\w+|WGS84", re.IGNORECASE)
"""What a file may name its CRS by. GDAL would take other texts for files to read and addresses to fetch, and
PROJ grids that they name for files to read."""


def read(
    root: Path,
    path: str,
    classes: Classes,
    label: str = "class",
    default: str = "building",
    coords: str = "auto",
    image: str = "",
) -> Iterator[Record | Rejection]:
    """The Record of one file; a feature that does not parse is dropped (E05, E06).

    label: the property that names the class; default: the class of features without it. coords: "world",
    "pixel", or "auto": pixels where neither image nor file names a CRS. Raises AnnotationError where the file
    is no FeatureCollection (E01), or the image has no CRS, RecipeError for other coords.
    """
    if coords not in ("auto", "world", "pixel"):
        raise RecipeError(f"coords is {coords!r}, expected auto, world or pixel")
    value, notes = _json.document(root, path)
    yield from notes
    features = value.get("features")
    if not isinstance(features, list):
        raise AnnotationError(path, 0, "not a FeatureCollection: no features")
    to_pixels = _to_pixels(root, path, image, value, coords)
    boxes, lines = [], []
    for index, feature in enumerate(features):
        try:
            boxes.append(_box(feature, classes, label, default, to_pixels))
            lines.append(index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield from _json.dropped(path, index, error, "features")
    yield Record("", boxes, annotation=path, lines=lines, element="features")


def _to_pixels(root: Path, path: str, image: str, value: dict[str, Any], coords: str) -> Any:
    """The function that turns lists of x and y into those of pixels."""
    stated = value.get("crs")
    properties = stated.get("properties") if isinstance(stated, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    if coords == "pixel":
        return lambda xs, ys: (xs, ys)
    if not image:
        raise AnnotationError(path, 0, "coordinates on the ground, for which the image is needed", "E35")
    try:
        with rasters.open_raster(root / image) as raster:
            if raster.transform.is_degenerate:
                raise OSError("all its pixels lie on one line")
            crs, inverse = raster.crs, ~raster.transform
    except OSError as error:
        raise AnnotationError(
            path, 0, f"{image}: cannot be opened for its place on earth: {error}", "E35"
        ) from error
    if crs is None and coords == "auto" and name is None:
        return lambda xs, ys: (xs, ys)
    if crs is None:
        raise AnnotationError(
            path, 0, f"{image} has no CRS; if the coordinates are pixels: --option coords=pixel"
        )
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError

    if isinstance(name, str) and not _CODE.fullmatch(name):
        raise AnnotationError(path, 0, f"its CRS {name[:80]!r} is no code, such as EPSG:32633")
    try:
        source = CRS.from_user_input(name if isinstance(name, str) else _WORLD)
    except (RasterioError, ValueError) as error:
        raise AnnotationError(path, 0, f"its CRS {name!r} is not known: {error}") from error

    def convert(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
        east, north = rasters.transformed(source, crs, xs, ys)
        points = [inverse @ point for point in zip(east, north, strict=True)]
        return [x for x, _ in points], [y for _, y in points]

    return convert


def _box(feature: Any, classes: Classes, label: str, default: str, to_pixels: Any) -> Box:
    geometry = feature["geometry"]
    if geometry is None:
        raise ValueError("a feature without a geometry")
    rings = list(_rings(geometry))
    if not rings:
        raise ValueError(f"a {geometry.get('type')} encloses no object")
    properties = feature.get("properties") or {}
    raw = properties.get(label)
    raw = default if raw is None or raw == "" else str(raw)
    flats = []
    for ring in rings:
        xs, ys = to_pixels(ring[0::2], ring[1::2])
        flats.append([tidy(value) for point in zip(xs, ys, strict=True) for value in point])
    edges = _json.extremes([value for flat in flats for value in flat])
    return Box(classes[raw], raw, *edges, max(flats, key=_area))


def _rings(geometry: Any, depth: int = 0) -> Iterator[list[float]]:
    """The outer rings of a geometry, without the closing point and without heights."""
    kind = geometry.get("type")
    if kind == "GeometryCollection" and depth < 8:
        for part in geometry["geometries"]:
            yield from _rings(part, depth + 1)
    if kind not in ("Polygon", "MultiPolygon"):
        return
    polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    for polygon in polygons:
        ring = [[_json.number(value) for value in point[:2]] for point in (polygon[0] if polygon else [])]
        if ring and ring[0] == ring[-1]:
            ring = ring[:-1]
        if len(ring) < 3 or any(len(point) != 2 for point in ring):
            raise ValueError(f"a ring of {len(ring)} points, expected 3 or more")
        yield [value for point in ring for value in point]


def _area(flat: Sequence[float]) -> float:
    xs, ys = flat[0::2], flat[1::2]
    turns = (
        x0 * y1 - x1 * y0 for x0, y0, x1, y1 in zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    )
    total = abs(sum(turns))
    return total if math.isfinite(total) else 0.0


def write(path: Path, records: Sequence[Record], image: Path, label: str = "class") -> None:
    """One Record as a file, in the CRS of its image, which it names."""
    with rasters.open_raster(image) as raster:
        transform, crs = raster.transform, raster.crs
    features = []
    for box in records[0].boxes:
        corners = [box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax]
        flat = list(box.polygon or corners)
        ring = [list(transform @ point) for point in zip(flat[0::2], flat[1::2], strict=True)]
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        features.append({"type": "Feature", "properties": {label: box.raw_label}, "geometry": geometry})
    named = {"type": "name", "properties": {"name": crs.to_string()}}
    value = {"type": "FeatureCollection", "crs": named, "features": features}
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
