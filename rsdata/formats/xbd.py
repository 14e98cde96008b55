"""xBD (xView2) json: one file an image, buildings as WKT polygons in pixels.

    {"features": {"xy": [{"properties": {"feature_type": "building", "subtype": "destroyed", "uid": "…"},
                          "wkt": "POLYGON ((20 20, 20 30, 30 30, 20 20))"}]},
     "metadata": {"width": 1024, "height": 1024, "gsd": 2.1}}

The raw label is the subtype, which images after the disaster have, else the feature type. Of a building in
several parts the polygon is the largest, the edges are those of all. Source: DIUx-xView/xview2-baseline,
mask_polygons.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import _json
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
LAYOUTS = [("{split}/images/*.*", "{split}/labels/*.json"), ("images/*.*", "labels/*.json")]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """The Record of one file; a feature that does not parse is dropped (E05, E06).

    Raises AnnotationError where the file is no JSON, or has no `features` in pixels (E01).
    """
    value, notes = _json.document(root, path)
    yield from notes
    features = value.get("features")
    held = features.get("xy") if isinstance(features, dict) else None
    if not isinstance(held, list):
        raise AnnotationError(path, 0, "not xBD: no features.xy")
    boxes = []
    for index, feature in enumerate(held):
        try:
            boxes.append(_box(feature, classes))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            for item in _json.dropped(path, 0, error, ""):
                yield item._replace(why=f"features.xy[{index}]: {item.why}")
    about = value.get("metadata")
    about = about if isinstance(about, dict) else {}
    width, height = _json.side(about.get("width")), _json.side(about.get("height"))
    stated = about.get("gsd")
    gsd = float(stated) if isinstance(stated, (int, float)) and 0 < stated < 1000 else None
    yield Record("", boxes, width, height, annotation=path, lines=[0] * len(boxes), gsd=gsd)


def _box(feature: Any, classes: Classes) -> Box:
    from shapely import from_wkt
    from shapely.errors import ShapelyError

    about = feature["properties"]
    raw = _json.text(about.get("subtype") or about.get("feature_type"), "feature type")
    try:
        with np.errstate(all="ignore"):  # of numbers that are not finite, which the checks find
            shape = from_wkt(_json.text(feature["wkt"], "wkt"))
    except ShapelyError as error:
        raise ValueError(f"wkt: {error}") from None
    parts = [
        part for part in getattr(shape, "geoms", [shape]) if part.geom_type == "Polygon" and not part.is_empty
    ]
    if not parts:
        raise ValueError(f"wkt: {shape.geom_type} without a polygon")
    largest = max(parts, key=lambda part: part.area)
    polygon = [float(number) for point in list(largest.exterior.coords)[:-1] for number in point[:2]]
    xmin, ymin, xmax, ymax = map(float, shape.bounds)
    return Box(classes[raw], raw, xmin, ymin, xmax, ymax, polygon)


def write(path: Path, records: Sequence[Record]) -> None:
    """One Record as a file; a Box without a polygon is written as its corners."""
    record = records[0]
    features = []
    for number, box in enumerate(record.boxes):
        corners = [box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax]
        flat = list(box.polygon or corners)
        pairs = [f"{x!r} {y!r}" for x, y in zip([*flat[0::2], flat[0]], [*flat[1::2], flat[1]], strict=True)]
        about = {"feature_type": "building", "subtype": box.raw_label, "uid": str(number)}
        features.append({"properties": about, "wkt": f"POLYGON (({', '.join(pairs)}))"})
    metadata = {"width": record.width, "height": record.height, "img_name": record.image}
    value = {"features": {"lng_lat": [], "xy": features}, "metadata": metadata}
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
