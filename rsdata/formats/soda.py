"""SODA-A json: one file an image, polygons with a category id.

    {"images": {"file_name": "00001.jpg", "width": 4800, "height": 2800},
     "annotations": [{"poly": [21.5, 7.0, …], "category_id": 3}],
     "categories": [{"id": 3, "name": "large-vehicle"}]}

The image is the one of the file's own name. Source: SODA-mmrotate, mmrotate/datasets/sodaa.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import _json
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
LAYOUTS = [("Images/**.*", "Annotations/{split}/**.json"), ("Images/**.*", "Annotations/**.json")]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """The Record of one file; an object that does not parse is dropped (E05, E06).

    Raises AnnotationError where the file is no JSON, or has no `annotations` (E01).
    """
    value, notes = _json.document(root, path)
    yield from notes
    objects = value.get("annotations")
    if not isinstance(objects, list):
        raise AnnotationError(path, 0, "not SODA-A: no annotations")
    names = _names(value.get("categories"))
    boxes, lines = [], []
    for index, held in enumerate(objects):
        try:
            polygon = _json.points(held["poly"])
            if len(polygon) < 6:
                raise ValueError(f"a poly of {len(polygon)} values, expected 6 or more")
            number = _json.number(held.get("category_id", held.get("cat_id")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield from _json.dropped(path, index, error, "annotations")
            continue
        raw = names.get(number, f"{number:g}")
        boxes.append(Box(classes[raw], raw, *_json.extremes(polygon), polygon))
        lines.append(index)
    image = value.get("images")
    image = image[0] if isinstance(image, list) and image else image
    image = image if isinstance(image, dict) else {}
    width, height = _json.side(image.get("width")), _json.side(image.get("height"))
    yield Record("", boxes, width, height, annotation=path, lines=lines, element="annotations")


def _names(categories: Any) -> dict[float, str]:
    held = categories if isinstance(categories, list) else []
    pairs = ((one.get("id"), one.get("name")) for one in held if isinstance(one, dict))
    return {
        float(key): name
        for key, name in pairs
        if type(key) is int and abs(key) < 1 << 53 and isinstance(name, str)
    }


def write(path: Path, records: Sequence[Record]) -> None:
    """One Record as a file; a Box without a polygon is written as its corners."""
    record = records[0]
    names = sorted({box.raw_label for box in record.boxes})
    objects = []
    for number, box in enumerate(record.boxes):
        corners = [box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax]
        polygon = list(box.polygon or corners)
        objects.append(
            {"poly": polygon, "category_id": names.index(box.raw_label), "image_id": 0, "id": number}
        )
    image = {"file_name": record.image, "width": record.width, "height": record.height, "id": 0}
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    value = {"type": "instance", "images": image, "annotations": objects, "categories": categories}
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
