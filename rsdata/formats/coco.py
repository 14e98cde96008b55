"""COCO json: one file a split, with polygons or run lengths.

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 800, "height": 800}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [x, y, width, height],
                      "segmentation": [[x1, y1, x2, y2, …]], "iscrowd": 0}],
     "categories": [{"id": 3, "name": "ship"}]}

Classes go by the file's own category names, never by id. The Box is the annotation's bbox; where that is
missing, the extremes of the polygon's vertices, or of the run lengths, whose counts must add up to
height x width (a corrupt one decodes to a wrong box without an error). Of a polygon in several parts the
largest is kept. `iscrowd` becomes the flag "crowd", which no caption counts. Source: cocoapi, mask.py.

The whole file is decoded at once into typed records. Where some part does not have its type, or the file
holds NaN, it is read again element by element, so that one bad annotation costs only itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.records import Box, Record, Rejection

ONE_FILE = "split"
LAYOUTS = [
    ("images/**.*", "annotations.json"),
    ("images/**.*", "annotations/*.json"),
    ("**.*", "**.json"),
]
_CHUNK = 1024


class _Rle(msgspec.Struct, gc=False):
    counts: list[int] | str
    size: tuple[int, int]


_Segmentation = list[list[float]] | _Rle | None


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float] | None = None
    segmentation: msgspec.Raw | None = None
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _Document(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


_segmentations = msgspec.json.Decoder(list[_Segmentation])


def read(root: Path, path: str, classes: Classes, bbox: str = "xywh") -> Iterator[Record | Rejection]:
    """One Record an image, in the order of the file.

    bbox: "xywh", or "xyxy" for files that keep corners there. Raises AnnotationError where the file is no
    JSON (E01).
    """
    if bbox not in ("xywh", "xyxy"):
        raise ValueError(f"bbox is {bbox!r}, expected 'xywh' or 'xyxy'")
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        raise AnnotationError(path, 0, f"cannot be read: {error.strerror}") from error
    places: Sequence[int] | None = None
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        places = []
        document = _Document([], [])
        yield from _element_by_element(root, path, document, places)
    names = {category.id: category.name for category in document.categories}
    yield from _records(path, document, places, names, classes, bbox == "xyxy")


def _element_by_element(
    root: Path, path: str, document: _Document, places: list[int]
) -> Iterator[Rejection]:
    """Fill `document` with all elements that have their type; `places` gets the annotations' indices."""
    text, encoding = files.read_text(root, path)
    yield from files.foreign(path, encoding)
    kinds: dict[str, tuple[type[Any], list[Any]]] = {
        "images": (_Image, document.images),
        "annotations": (_Annotation, document.annotations),
        "categories": (_Category, document.categories),
    }
    document.categories = kinds["categories"][1]
    seen = set()
    for element in files.scan_json(text, path):
        if element.key not in kinds:
            continue
        seen.add(element.key)
        kind, found = kinds[element.key]
        value = element.value
        if kind is _Annotation and isinstance(value, dict) and value.get("segmentation") is not None:
            value = {**value, "segmentation": msgspec.Raw(json.dumps(value["segmentation"]).encode())}
        try:
            found.append(msgspec.convert(value, kind, strict=False))
        except msgspec.ValidationError as error:
            if kind is _Annotation and (salvaged := _without_bbox(value)) is not None:
                found.append(salvaged)
                action, code, hint = "repaired", "E06", "; box taken from the segmentation"
            else:
                action, code, hint = ("rejected" if kind is _Image else "dropped"), "E05", ""
            where = f"{element.key}[{element.index}]"
            name = value.get("file_name") if isinstance(value, dict) else None
            image = (name if isinstance(name, str) else where) if kind is _Image else ""
            yield Rejection(action, code, path, element.line, image, f"{where}: {error}{hint}")
            if action != "repaired":
                continue
        if kind is _Annotation:
            places.append(element.index)
    if missing := {"images", "annotations"} - seen:
        raise AnnotationError(path, 0, f"not a COCO file: no {' and no '.join(sorted(missing))}")


def _without_bbox(value: Any) -> _Annotation | None:
    if not isinstance(value, dict) or not value.get("segmentation"):
        return None
    try:
        return msgspec.convert({**value, "bbox": None}, _Annotation, strict=False)
    except msgspec.ValidationError:
        return None


def _records(
    path: str,
    document: _Document,
    places: Sequence[int] | None,
    names: dict[int | str, str],
    classes: Classes,
    corners: bool,
) -> Iterator[Record | Rejection]:
    by_image: defaultdict[int | str, list[int]] = defaultdict(list)
    for number, annotation in enumerate(document.annotations):
        by_image[annotation.image_id].append(number)
    images: dict[int | str, _Image] = {}
    for place, image in enumerate(document.images):
        if image.id in images:
            why = f"image id {image.id!r} is taken by {images[image.id].file_name}"
            yield Rejection("rejected", "E16", path, place, image.file_name, why, "images")
        else:
            images[image.id] = image
    for orphan in by_image.keys() - images.keys():
        for number in by_image[orphan]:
            index = places[number] if places is not None else number
            yield Rejection("dropped", "E07", path, index, "", f"no image has the id {orphan!r}", "annotations")
    kept = list(images.values())
    labels = {key: (classes[name], name) for key, name in names.items()}
    for start in range(0, len(kept), _CHUNK):
        chunk = kept[start : start + _CHUNK]
        numbers = [number for image in chunk for number in by_image.get(image.id, ())]
        shapes = iter(_decode_segmentations([document.annotations[number] for number in numbers]))
        for place, image in enumerate(chunk, start):
            boxes, lines = [], []
            for number in by_image.get(image.id, ()):
                annotation, shape = document.annotations[number], next(shapes)
                index = places[number] if places is not None else number
                label = labels.get(annotation.category_id) or _unnamed(annotation.category_id, classes)
                box = _plain_box(annotation, shape, label, corners)
                if box is None:
                    box, problem = _other_box(annotation, shape, label, image, corners)
                    if problem:
                        action = "dropped" if box is None else "repaired"
                        yield Rejection(action, "E33", path, index, image.file_name, problem, "annotations")
                if box is not None:
                    boxes.append(box)
                    lines.append(index)
            yield Record(
                image.file_name,
                boxes,
                image.width or None,
                image.height or None,
                annotation=path,
                lines=lines,
                element="annotations",
                place=place,
            )


def _unnamed(category: int | str, classes: Classes) -> tuple[str, str]:
    raw = str(category)
    return classes[raw], raw


def _decode_segmentations(annotations: Sequence[_Annotation]) -> Iterable[Any]:
    """The segmentations of a chunk in one call; those of no known shape come back as their text."""
    raws: list[Any] = [annotation.segmentation or b"null" for annotation in annotations]
    try:
        return _segmentations.decode(b"[" + b",".join(raws) + b"]")
    except msgspec.MsgspecError:
        return [_decode_segmentation(raw) for raw in raws]


def _decode_segmentation(raw: Any) -> Any:
    try:
        return _segmentations.decode(b"[" + bytes(raw) + b"]")[0]
    except msgspec.MsgspecError:
        return bytes(raw).decode(errors="replace")


def _plain_box(
    annotation: _Annotation, shape: Any, label: tuple[str, str], corners: bool
) -> Box | None:
    """The Box of the usual case: a bbox, one polygon or none, no flag."""
    edges = annotation.bbox
    if edges is None or corners or annotation.iscrowd or annotation.ignore:
        return None
    if not shape:
        polygon = None
    elif type(shape) is list and len(shape) == 1:
        polygon = shape[0]
        if len(polygon) < 6 or len(polygon) % 2:
            return None
    else:
        return None
    x, y, width, height = edges
    return Box(label[0], label[1], x, y, x + width, y + height, polygon, ())


def _other_box(
    annotation: _Annotation, shape: Any, label: tuple[str, str], image: _Image, corners: bool
) -> tuple[Box | None, str]:
    """The Box of every other case, and what was wrong with the segmentation, if anything."""
    problem, polygon, extent = "", None, None
    if isinstance(shape, list):
        parts = [part for part in shape if len(part) >= 6 and len(part) % 2 == 0]
        if len(parts) < len(shape):
            problem = "a polygon part needs three points or more, x and y for each"
        if parts:
            polygon = max(parts, key=_area)
            xs = [x for part in parts for x in part[0::2]]
            ys = [y for part in parts for y in part[1::2]]
            extent = (min(xs), min(ys), max(xs), max(ys))
    elif isinstance(shape, _Rle):
        extent, problem = _rle_extent(shape, image, annotation.bbox is None)
    elif shape is not None:
        problem = f"segmentation is neither polygons nor run lengths: {shape[:60]}"
    if annotation.bbox is not None:
        x, y, right, bottom = annotation.bbox
        extent = (x, y, right, bottom) if corners else (x, y, x + right, y + bottom)
    if extent is None:
        return None, problem or "neither bbox nor segmentation"
    flags = ("crowd",) * bool(annotation.iscrowd) + ("ignored",) * bool(annotation.ignore)
    return Box(*label, *extent, polygon, flags), problem and problem + "; segmentation left out"


def _area(part: Sequence[float]) -> float:
    xs, ys = part[0::2], part[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs))))


def _rle_extent(
    rle: _Rle, image: _Image, wanted: bool
) -> tuple[tuple[float, float, float, float] | None, str]:
    height, width = rle.size
    if (image.height or height) != height or (image.width or width) != width:
        return None, f"run lengths of {width}x{height} for an image of {image.width}x{image.height}"
    try:
        counts = rle.counts if isinstance(rle.counts, list) else _uncompress(rle.counts)
    except ValueError as error:
        return None, str(error)
    if min(counts, default=0) < 0 or sum(counts) != height * width or height <= 0 or width <= 0:
        return None, f"run lengths add up to {sum(counts)}, not to {height} x {width} = {height * width}"
    if not wanted:
        return None, ""
    from pycocotools import mask

    x, y, w, h = mask.toBbox(mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width))
    return ((float(x), float(y), float(x + w), float(y + h)), "") if w and h else (None, "an empty mask")


def _uncompress(counts: str) -> list[int]:
    """COCO's compressed run lengths: base-32 digits from "0" up, differences from the third run on."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"{character!r} is no digit of compressed run lengths")
        value |= (digit & 0x1F) << shift
        shift += 5
        if not digit & 0x20:
            if digit & 0x10:
                value |= -1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return runs


def write(path: Path, records: Sequence[Record], bbox: str = "xywh") -> None:
    """All Records of a split as one file."""
    raws = sorted({box.raw_label for record in records for box in record.boxes})
    ids = {raw: number for number, raw in enumerate(raws, 1)}
    images, annotations = [], []
    for number, record in enumerate(records, 1):
        images.append({"id": number, "file_name": record.image, "width": record.width, "height": record.height})
        for box in record.boxes:
            right = (box.xmax, box.ymax) if bbox == "xyxy" else (box.xmax - box.xmin, box.ymax - box.ymin)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[box.raw_label],
                    "bbox": [box.xmin, box.ymin, *right],
                    "area": (box.xmax - box.xmin) * (box.ymax - box.ymin),
                    "iscrowd": int("crowd" in box.flags),
                    "segmentation": [list(box.polygon)] if box.polygon else [],
                }
            )
    categories = [{"id": number, "name": raw} for raw, number in ids.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
