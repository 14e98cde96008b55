"""CVAT for images 1.1: one xml file for many images.

    <annotations><image id="0" name="a.jpg" width="640" height="480" subset="train">
      <box label="ship" occluded="0" xtl="1.0" ytl="2.0" xbr="30.0" ybr="40.0" rotation="15.0"/>
      <polygon label="dock" occluded="0" points="1.0,2.0;3.0,4.0;5.0,6.0"/></image></annotations>

`rotation` is in degrees, clockwise on screen, about the centre of the box. Masks become the box of their
extent; polylines and points enclose nothing and are dropped (E05). CVAT for video (`track`) is not read:
export it "for images". Source: the format's page in the CVAT documentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.formats import _json
from rsdata.formats._fields import numbers
from rsdata.formats._xml import parse
from rsdata.records import Box, Record, Rejection

ONE_FILE = "split"
NAMES_SPLITS = True
PLACES = "image"
LAYOUTS = [("images/**.*", "annotations.xml"), ("**.*", "annotations.xml"), ("**.*", "**.xml")]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """One Record an image, in the order of the file; a shape that does not parse is dropped (E05, E06).

    Raises AnnotationError where the file is not well-formed or of another grammar (E01), or has a DTD (E29).
    """
    tree, encoding = parse(root, path, files.ELEMENTS)
    yield from files.foreign(path, encoding)
    if tree.tag != "annotations":
        raise AnnotationError(path, 0, f"not CVAT for images: <{tree.tag}>, expected <annotations>")
    if tree.find("track") is not None:
        raise AnnotationError(path, 0, 'CVAT for video is not read: export it as "CVAT for images"')
    for place, node in enumerate(tree.findall("image")):
        name = node.get("name") or ""
        if not name:
            yield Rejection(
                "rejected", "E05", path, place, f"image[{place}]", "an image without a name", "image"
            )
            continue
        boxes = []
        for shape in node:
            if shape.tag == "tag":
                continue
            try:
                boxes.append(_box(shape, classes))
            except ValueError as error:
                yield from _json.dropped(path, place, error, "image")
        width, height = (_side(node.get(key)) for key in ("width", "height"))
        yield Record(
            name, boxes, width, height, split=node.get("subset") or "train", annotation=path,
            lines=[place] * len(boxes), element="image", place=place,
        )  # fmt: skip


def _box(shape: ElementTree.Element, classes: Classes) -> Box:
    raw = _json.text(shape.get("label"), "label")
    flags = ("occluded",) if shape.get("occluded") == "1" else ()
    if shape.tag == "box":
        edges = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        polygon = _turned(edges, _numbers(shape, "rotation")[0]) if shape.get("rotation") else None
        bounds = _json.extremes(polygon or edges)
        return Box(classes[raw], raw, *bounds, polygon, flags)
    if shape.tag == "polygon":
        flat = numbers(
            [part for point in (shape.get("points") or "").split(";") for part in point.split(",")]
        )
        if len(flat) < 6 or len(flat) % 2:
            raise ValueError(f"a polygon of {len(flat)} values, expected 6 or more")
        return Box(classes[raw], raw, *_json.extremes(flat), flat, flags)
    if shape.tag == "mask":
        left, top, width, height = _numbers(shape, "left", "top", "width", "height")
        return Box(classes[raw], raw, left, top, left + width, top + height, None, flags)
    raise ValueError(f"a {shape.tag} encloses no object")


def _numbers(shape: ElementTree.Element, *names: str) -> list[float]:
    missing = [name for name in names if shape.get(name) is None]
    if missing:
        raise ValueError(f"a {shape.tag} without {missing[0]}")
    return numbers([shape.get(name) or "" for name in names])


def _turned(edges: Sequence[float], degrees: float) -> list[float] | None:
    if not degrees or not math.isfinite(degrees):
        return None
    xmin, ymin, xmax, ymax = edges
    x, y, angle = (xmin + xmax) / 2, (ymin + ymax) / 2, math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(xmin - x, ymin - y), (xmax - x, ymin - y), (xmax - x, ymax - y), (xmin - x, ymax - y)]
    return [value for u, v in corners for value in (x + u * cos - v * sin, y + u * sin + v * cos)]


def _side(value: str | None) -> int | None:
    try:
        return _json.side(float(value or ""))
    except ValueError:
        return None


def write(path: Path, records: Sequence[Record]) -> None:
    """All Records as one file."""
    tree = ElementTree.Element("annotations")
    for number, record in enumerate(records):
        size = {"width": str(record.width), "height": str(record.height)}
        about = {"id": str(number), "name": record.image, "subset": record.split, **size}
        node = ElementTree.SubElement(tree, "image", about)
        for box in record.boxes:
            held = {"label": box.raw_label, "occluded": str(int("occluded" in box.flags))}
            if box.polygon:
                pairs = zip(box.polygon[0::2], box.polygon[1::2], strict=True)
                held["points"] = ";".join(f"{x!r},{y!r}" for x, y in pairs)
                ElementTree.SubElement(node, "polygon", held)
            else:
                edges = zip(("xtl", "ytl", "xbr", "ybr"), box[2:6], strict=True)
                held.update({name: repr(value) for name, value in edges})
                ElementTree.SubElement(node, "box", held)
    ElementTree.indent(tree)
    ElementTree.ElementTree(tree).write(path, encoding="utf-8")
