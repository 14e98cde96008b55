"""xView geojson: one file for all images, boxes in pixels among the properties.

    {"type": "FeatureCollection", "features": [{"properties": {"bounds_imcoords": "2712,1145,2746,1177",
     "type_id": 73, "image_id": "2355.tif"}, "geometry": …}]}

The geometry is not needed. Source: DIUx-xView/data_utilities, wv_util.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import _json
from rsdata.formats._fields import numbers
from rsdata.records import Box, Record, Rejection

ONE_FILE = "split"
NUMERIC = True
PLACES = "features"
LAYOUTS = [("train_images/*.*", "xView_train.geojson"), ("**.*", "**.geojson")]


class _Properties(msgspec.Struct):
    """What is read of them; the rest would be most of the memory."""

    image_id: Any = None
    type_id: Any = None
    bounds_imcoords: Any = None


class _Feature(msgspec.Struct):
    properties: _Properties | None = None


class _Collection(msgspec.Struct):
    features: list[_Feature]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """One Record an image, in the order in which the file first names them.

    A feature that does not parse is dropped (E05, E06). Raises AnnotationError where the file is no JSON, or
    no FeatureCollection (E01).
    """
    try:
        text, _ = files.decode(files.read_bytes(root, path, files.DOCUMENT))
        features = msgspec.json.decode(text, type=_Collection).features
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise AnnotationError(path, 0, f"not a FeatureCollection in JSON: {error}") from error
    del text
    held: dict[str, tuple[list[Box], list[int], int]] = {}
    for index, feature in enumerate(features):
        about = feature.properties or _Properties()
        try:
            name = _json.text(about.image_id, "image_id")
            raw = f"{_json.number(about.type_id):g}"
            fields = _json.text(about.bounds_imcoords, "bounds_imcoords").split(",")
            if len(fields) != 4:
                raise ValueError(f"bounds_imcoords of {len(fields)} values, expected 4")
            xmin, ymin, xmax, ymax = numbers(fields)
        except ValueError as error:
            yield from _json.dropped(path, index, error, "features")
            continue
        boxes, lines, _ = held.setdefault(name, ([], [], index))
        boxes.append(Box(classes[raw], raw, xmin, ymin, xmax, ymax))
        lines.append(index)
    for name, (boxes, lines, place) in held.items():
        yield Record(name, boxes, annotation=path, lines=lines, element="features", place=place)


def write(path: Path, records: Sequence[Record]) -> None:
    """All Records as one file."""
    features = []
    for record in records:
        for box in record.boxes:
            bounds = ",".join(f"{value:g}" for value in box[2:6])
            about = {"bounds_imcoords": bounds, "type_id": int(box.raw_label), "image_id": record.image}
            features.append({"type": "Feature", "properties": about, "geometry": None})
    path.write_text(
        json.dumps({"type": "FeatureCollection", "features": features}, indent=1), encoding="utf-8"
    )
