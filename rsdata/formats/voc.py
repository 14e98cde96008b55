"""Pascal VOC xml (DIOR, HRRSD and most private sets): one file an image.

    <annotation><size><width>800</width><height>800</height></size>
      <object><name>ship</name><difficult>0</difficult>
        <bndbox><xmin>133</xmin><ymin>237</ymin><xmax>684</xmax><ymax>672</ymax></bndbox></object>
    </annotation>

Numbers are read by tag name, in any order, as floats. In place of, or beside, `bndbox` an object may have
`robndbox` (four corners as in DIOR-R, or cx, cy, w, h, angle in radians as roLabelImg), `rotated_box`
(ShipRSImageNet) or `polygon` (x1, y1, x2 …). The published format is 1-based and inclusive, many sets are
not: `base = "auto"` reads as 1-based where no corner of the whole set is 0. Document types and entities
are refused (E29).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats._fields import text
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
LAYOUTS = [
    ("JPEGImages/**.*", "Annotations/**.xml"),
    ("images/**.*", "annotations/**.xml"),
    ("**.*", "**.xml"),
]
_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")
_FLAGS = ("difficult", "truncated", "occluded")
_ZERO = re.compile(rb"<(?:[xy]min|[xy]_(?:left|right)_(?:top|bottom)|[xy]\d+)>\s*0+(?:\.0*)?\s*</")
_LARGEST = 2**31 - 1


def prepare(root: Path, paths: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `base = "auto"` settled over the whole set: 0 where some corner is 0, else 1."""
    if options.get("base", "auto") != "auto":
        return dict(options)
    for path in paths:
        try:
            if _ZERO.search((root / path).read_bytes()):
                return {**options, "base": 0}
        except OSError:
            continue
    return {**options, "base": 1}


def read(root: Path, path: str, classes: Classes, base: int | str = "auto") -> Iterator[Record | Rejection]:
    """The Record of one xml file; an object that does not parse is dropped (E05, E06).

    base: 0, 1, or "auto", which `prepare` settles; unsettled it is 0. Raises AnnotationError where the file
    is empty (E09), is not well-formed or of another grammar (E01), or has a DTD (E29), RecipeError for
    another base.
    """
    if base not in (0, 1, "auto"):
        raise RecipeError(f"base is {base!r}, expected 0, 1 or 'auto'")
    tree, encoding = _parse(root, path)
    yield from files.foreign(path, encoding)
    if tree.tag.lower() != "annotation" and tree.find(".//object") is None:
        raise AnnotationError(path, 0, f"not Pascal VOC: <{tree.tag}> without any <object>")
    shift = 1.0 if base == 1 else 0.0
    boxes, lines = [], []
    for index, node in enumerate(tree.iter("object")):
        raw = (node.findtext("name") or "").strip()
        try:
            if not raw:
                raise ValueError("object without a name")
            polygon = _polygon(node, shift)
            shapes = [_edges(bndbox, shift) for bndbox in node.findall("bndbox")]
            if not shapes and polygon is None:
                raise ValueError("object without bndbox, robndbox, rotated_box or polygon")
        except ValueError as error:
            code = "E06" if "number" in str(error) else "E05"
            yield Rejection("dropped", code, path, index, "", str(error), "object")
            continue
        flags = tuple(
            flag for flag in _FLAGS if (node.findtext(flag) or "0").strip() not in ("0", "", "Unspecified")
        )
        if not shapes and polygon:
            xs, ys = polygon[0::2], polygon[1::2]
            shapes = [(min(xs), min(ys), max(xs), max(ys))]
        for edges in shapes:
            boxes.append(Box(classes[raw], raw, *edges, polygon, flags))
            lines.append(index)
    size = tree.find("size")
    width, height = (_side(size, "width"), _side(size, "height")) if size is not None else (None, None)
    image = (tree.findtext("filename") or "").strip()
    yield Record(image, boxes, width, height, annotation=path, lines=lines, element="object")


def _parse(root: Path, path: str) -> tuple[ElementTree.Element, str]:
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        raise AnnotationError(path, 0, f"cannot be read: {error.strerror}") from error
    if not data.strip():
        raise AnnotationError(path, 0, "the file is empty", "E09")
    plain = data.replace(b"\0", b"")
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise AnnotationError(path, 0, "a document type or entity declaration is refused", "E29")
    try:
        return ElementTree.fromstring(data), "utf-8-sig"
    except ElementTree.ParseError as error:
        content, encoding = files.decode(data)
        if encoding == "utf-8-sig":
            raise AnnotationError(path, error.position[0], f"not well-formed: {error}") from error
    except (ValueError, LookupError):
        content, encoding = files.decode(data)
    try:
        return ElementTree.fromstring(files.undeclared(content)), encoding
    except (ElementTree.ParseError, ValueError) as error:
        line = error.position[0] if isinstance(error, ElementTree.ParseError) else 0
        raise AnnotationError(path, line, f"not well-formed: {error}") from error


def _number(node: ElementTree.Element, tag: str) -> float:
    value = node.findtext(tag)
    if value is None:
        raise ValueError(f"{node.tag} without {tag}")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{tag} is {value.strip()!r}, not a number") from None


def _edges(node: ElementTree.Element, shift: float) -> tuple[float, float, float, float]:
    low = (_number(node, "xmin") - shift, _number(node, "ymin") - shift)
    return (*low, _number(node, "xmax"), _number(node, "ymax"))


def _polygon(node: ElementTree.Element, shift: float) -> list[float] | None:
    rotated = node.find("robndbox")
    if rotated is not None and rotated.find("x_left_top") is not None:
        return [_number(rotated, f"{axis}_{corner}") - shift for corner in _CORNERS for axis in "xy"]
    if rotated is not None:
        return _rotated(rotated, ("cx", "cy", "w", "h", "angle"))
    if (rotated := node.find("rotated_box")) is not None:
        return _rotated(rotated, ("cx", "cy", "width", "height", "rot"))
    if (points := node.find("polygon")) is not None:
        count = 1
        flat: list[float] = []
        while points.find(f"x{count}") is not None:
            flat += [_number(points, f"x{count}") - shift, _number(points, f"y{count}") - shift]
            count += 1
        return flat if count > 3 else None
    return None


def _rotated(node: ElementTree.Element, tags: tuple[str, str, str, str, str]) -> list[float]:
    cx, cy, width, height, angle = (_number(node, tag) for tag in tags)
    cos, sin = math.cos(angle), math.sin(angle)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [(sx * width / 2, sy * height / 2) for sx, sy in signs]
    return [value for x, y in corners for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)]


def _side(size: ElementTree.Element, tag: str) -> int | None:
    try:
        side = int(float(size.findtext(tag) or 0))
    except (ValueError, OverflowError):
        return None
    return side if 0 < side <= _LARGEST else None


def write(path: Path, records: Sequence[Record], base: int | str = "auto") -> None:
    """One Record as an xml file; base as in `read` ("auto" writes 1-based corners, as VOC)."""
    record, shift = records[0], 0 if base == 0 else 1
    size = f"<width>{record.width}</width><height>{record.height}</height><depth>3</depth>"
    lines = ["<annotation>", f"  <filename>{escape(record.image)}</filename>", f"  <size>{size}</size>"]
    for box in record.boxes:
        values = (box.xmin + shift, box.ymin + shift, box.xmax, box.ymax)
        tags = zip(("xmin", "ymin", "xmax", "ymax"), map(text, values), strict=True)
        flags = "".join(f"<{flag}>{int(flag in box.flags)}</{flag}>" for flag in _FLAGS[:2])
        corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
        lines.append(f"  <object><name>{escape(box.raw_label)}</name><pose>Unspecified</pose>{flags}")
        lines.append(f"    <bndbox>{corners}</bndbox></object>")
    path.write_text("\n".join([*lines, "</annotation>", ""]), encoding="utf-8")
