"""COCO panoptic json: one file a split, segments by image.

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
     "categories": [{"id": 3, "name": "ship", "isthing": 1}],
     "annotations": [{"image_id": 1, "file_name": "a.png",
      "segments_info": [{"id": 7, "category_id": 3, "bbox": [10, 20, 30, 40], "iscrowd": 0}]}]}

Boxes are those of segments_info; the masks beside the file are not needed. Source: cocodataset/panopticapi.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import _json
from rsdata.records import Box, Record, Rejection

ONE_FILE = "split"
LAYOUTS = [
    ("images/{split}/**.*", "annotations/panoptic_{split}.json"),
    ("{split}*/**.*", "annotations/panoptic_{split}*.json"),
    ("images/**.*", "annotations/panoptic*.json"),
    ("images/**.*", "panoptic*.json"),
]


def read(root: Path, path: str, classes: Classes, things: bool = False) -> Iterator[Record | Rejection]:
    """One Record an image, in the order of the file; a segment that does not parse is dropped (E05, E06).

    things: segments of categories that are things only. A second image of an id is an error (E16), so is an
    annotation of no image (E05). Raises AnnotationError where the file is no JSON, or no panoptic one (E01).
    """
    found, notes = _json.elements(root, path)
    yield from notes
    if missing := {"images", "annotations", "categories"} - found.keys():
        raise AnnotationError(path, 0, f"not COCO panoptic: no {min(missing)}")
    kinds = (one.value for one in found["categories"] if isinstance(one.value, dict))
    categories = {kind["id"]: kind for kind in kinds if isinstance(kind.get("id"), (int, str))}
    held: dict[Any, tuple[list[Box], list[int]]] = {}
    images: dict[Any, Mapping[str, Any]] = {}
    for place, element in enumerate(found["images"]):
        image = element.value if isinstance(element.value, dict) else {}
        key, name = image.get("id"), image.get("file_name")
        if not isinstance(key, (int, str)) or not isinstance(name, str) or not name:
            yield Rejection(
                "rejected", "E05", path, element.line, f"images[{place}]", "no id or no file_name"
            )
        elif key in held:
            yield Rejection("rejected", "E16", path, element.line, name, f"a second image of id {key}")
        else:
            held[key], images[key] = ([], []), {**image, "place": place}
    for index, element in enumerate(found["annotations"]):
        value = element.value if isinstance(element.value, dict) else {}
        key, segments = value.get("image_id"), value.get("segments_info")
        if not isinstance(key, (int, str)) or key not in held or not isinstance(segments, list):
            why = f"image_id {key!r} is of no image, or no segments_info"
            yield Rejection("dropped", "E05", path, index, "", why, "annotations")
            continue
        for segment in segments:
            try:
                box = _box(segment, categories, classes, things)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield from _json.dropped(path, index, error, "annotations")
                continue
            if box is not None:
                held[key][0].append(box)
                held[key][1].append(index)
    for key, (boxes, lines) in held.items():
        about = images[key]
        size = (_json.side(about.get("width")), _json.side(about.get("height")))
        yield Record(
            about["file_name"],
            boxes,
            *size,
            annotation=path,
            lines=lines,
            element="annotations",
            place=about["place"],
        )


def _box(segment: Any, categories: Mapping[Any, Any], classes: Classes, things: bool) -> Box | None:
    left, top, width, height = map(_json.number, segment["bbox"])
    category = categories.get(segment["category_id"])
    if category is None:
        raise ValueError(f"category_id {segment['category_id']!r} is not among the categories")
    if things and not category.get("isthing"):
        return None
    raw = _json.text(category.get("name"), "name of the category")
    flags = ("crowd",) if segment.get("iscrowd") else ()
    return Box(classes[raw], raw, left, top, left + width, top + height, None, flags)


def write(path: Path, records: Sequence[Record]) -> None:
    """All Records of a split as one file, without the masks."""
    names = sorted({box.raw_label for record in records for box in record.boxes})
    images, annotations, segment = [], [], 0
    for number, record in enumerate(records, 1):
        size = {"width": record.width, "height": record.height}
        images.append({"id": number, "file_name": record.image, **size})
        segments = []
        for box in record.boxes:
            segment += 1
            bbox = [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]
            kind = names.index(box.raw_label) + 1
            segments.append(
                {"id": segment, "category_id": kind, "bbox": bbox, "iscrowd": int("crowd" in box.flags)}
            )
        annotations.append({"image_id": number, "segments_info": segments})
    categories = [{"id": index, "name": name, "isthing": 1} for index, name in enumerate(names, 1)]
    value = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
