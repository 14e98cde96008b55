"""LabelMe json: one file an image, shapes with a label and points.

    {"shapes": [{"label": "ship", "points": [[191.0, 107.4], [313.0, 329.4]], "group_id": null,
                 "shape_type": "rectangle"}],
     "imagePath": "a.jpg", "imageData": null, "imageHeight": 480, "imageWidth": 640}

A rectangle has any two opposite corners; a circle its centre and a point on it; shapes of one label and
group_id are parts of one object. Lines and points enclose nothing and are dropped (E05). Labels such as
`_background_` and `__ignore__` are ignored. Source: labelmeai/labelme.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import _json
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
LAYOUTS = [
    ("{split}/**.*", "{split}/**.json"),
    ("images/**.*", "labels/**.json"),
    ("images/**.*", "annotations/**.json"),
    ("**.*", "**.json"),
]
_POLYGONS = ("polygon", "oriented_rectangle", "rotation")


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """The Record of one file; a shape that does not parse is dropped (E05, E06).

    Raises AnnotationError where the file is no JSON, or has no `shapes` (E01).
    """
    value, notes = _json.document(root, path)
    yield from notes
    shapes = value.get("shapes")
    if not isinstance(shapes, list):
        raise AnnotationError(path, 0, "not LabelMe: no shapes")
    boxes: list[Box] = []
    lines: list[int] = []
    groups: dict[tuple[str, str], int] = {}
    for index, shape in enumerate(shapes):
        try:
            box = _box(shape, classes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield from _json.dropped(path, index, error, "shapes")
            continue
        group = shape.get("group_id")
        key = (box.raw_label, json.dumps(group))
        if group is not None and key in groups:
            boxes[groups[key]] = _joined(boxes[groups[key]], box)
            continue
        groups[key] = len(boxes)
        boxes.append(box)
        lines.append(index)
    width, height = _json.side(value.get("imageWidth")), _json.side(value.get("imageHeight"))
    yield Record("", boxes, width, height, annotation=path, lines=lines, element="shapes")


def _box(shape: Any, classes: Classes) -> Box:
    raw = _json.text(shape["label"], "label")
    kind = shape.get("shape_type") or "polygon"
    flat = _json.points(shape["points"])
    flags = ("ignored",) if raw.startswith("_") and raw.endswith("_") else ()
    if kind in ("rectangle", "mask") and len(flat) == 4:
        return Box(classes[raw], raw, *_json.extremes(flat), None, flags)
    if kind == "circle" and len(flat) == 4:
        x, y, radius = flat[0], flat[1], math.dist(flat[:2], flat[2:])
        return Box(classes[raw], raw, x - radius, y - radius, x + radius, y + radius, None, flags)
    if kind in (*_POLYGONS, "rectangle") and len(flat) >= 6:
        return Box(classes[raw], raw, *_json.extremes(flat), flat, flags)
    raise ValueError(f"a {kind} of {len(flat) // 2} points encloses no object")


def _joined(one: Box, other: Box) -> Box:
    low = (min(one.xmin, other.xmin), min(one.ymin, other.ymin))
    return one._replace(
        xmin=low[0], ymin=low[1], xmax=max(one.xmax, other.xmax), ymax=max(one.ymax, other.ymax), polygon=None
    )


def write(path: Path, records: Sequence[Record]) -> None:
    """One Record as a file."""
    record = records[0]
    shapes: list[dict[str, Any]] = []
    for box in record.boxes:
        flat = list(box.polygon or box[2:6])
        points = [list(pair) for pair in zip(flat[0::2], flat[1::2], strict=True)]
        kind = "polygon" if box.polygon else "rectangle"
        shapes.append(
            {"label": box.raw_label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}
        )
    size = {"imageHeight": record.height, "imageWidth": record.width}
    value: dict[str, Any] = {
        "version": "5.0.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": record.image,
        "imageData": None,
        **size,
    }
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
