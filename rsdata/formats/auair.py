"""AU-AIR json: one file a dataset, boxes by frame, classes by their place in `categories`.

    {"categories": ["Human", "Car", …],
     "annotations": [{"image_name": "frame_2019…jpg", "image_width": 1920.0, "altitude": 19921.6,
      "bbox": [{"top": 163, "left": 1098, "height": 185, "width": 420, "class": 1}]}]}

Source: bozcani/auairdataset, auairtools/auair.py.
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

ONE_FILE = "split"
PLACES = "annotations"
LAYOUTS = [("images/**.*", "annotations.json"), ("**.*", "**.json")]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """One Record a frame, in the order of the file; a box that does not parse is dropped (E05, E06).

    Raises AnnotationError where the file is no JSON, or has no `annotations` or `categories` (E01).
    """
    found, notes = _json.elements(root, path)
    yield from notes
    if "annotations" not in found or "categories" not in found:
        raise AnnotationError(path, 0, "not AU-AIR: expected categories and annotations")
    names = [str(element.value) for element in found["categories"]]
    for place, element in enumerate(found["annotations"]):
        frame = element.value if isinstance(element.value, dict) else {}
        image, objects = frame.get("image_name"), frame.get("bbox", [])
        if not isinstance(image, str) or not image or not isinstance(objects, list):
            why = "expected image_name and an array bbox"
            yield Rejection("rejected", "E05", path, element.line, str(image or f"annotations[{place}]"), why)
            continue
        boxes = []
        for held in objects:
            try:
                boxes.append(_box(held, names, classes))
            except (ValueError, KeyError) as error:
                yield from _json.dropped(path, element.line, error, "")
        width, height = (
            _json.side(frame.get(key, frame.get(f"{key}:"))) for key in ("image_width", "image_height")
        )
        lines = [place] * len(boxes)
        yield Record(
            image, boxes, width, height, annotation=path, lines=lines, element="annotations", place=place
        )


def _box(held: Any, names: Sequence[str], classes: Classes) -> Box:
    if not isinstance(held, dict):
        raise ValueError("expected an object with top, left, height, width, class")
    left, top, width, height, index = (
        _json.number(held[key]) for key in ("left", "top", "width", "height", "class")
    )
    if not (0 <= index < len(names) and index == int(index)):
        raise ValueError(f"class {held['class']} is not in the {len(names)} categories")
    raw = names[int(index)]
    return Box(classes[raw], raw, left, top, left + width, top + height)


def write(path: Path, records: Sequence[Record]) -> None:
    """All Records of a dataset as one file."""
    names = sorted({box.raw_label for record in records for box in record.boxes})
    frames = [
        {
            "image_name": record.image,
            "image_width": float(record.width or 0),
            "image_height": float(record.height or 0),
            "bbox": [
                {
                    **{"top": box.ymin, "left": box.xmin, "height": box.ymax - box.ymin},
                    **{"width": box.xmax - box.xmin, "class": names.index(box.raw_label)},
                }
                for box in record.boxes
            ],
        }
        for record in records
    ]
    path.write_text(json.dumps({"categories": names, "annotations": frames}, indent=1), encoding="utf-8")
