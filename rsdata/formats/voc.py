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

Other grammars of one file an image are the same with other tags, which a recipe names: HRSC2016 has
`objects = "HRSC_Objects/HRSC_Object"`, `label = "Class_ID"`, `bbox = "box_xmin box_ymin box_xmax box_ymax"`
and `rotated = "mbox_cx mbox_cy mbox_w mbox_h mbox_ang"`; FAIR1M has `label = "possibleresult/name"` and
`points = "points/point"`, each "x,y". Angles are in radians, clockwise on screen.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats import _voc
from rsdata.formats._fields import text
from rsdata.formats._xml import parse
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
LAYOUTS = [
    ("{split}/images/**.*", "{split}/annotations/**.xml"),
    ("{split}/**.*", "{split}/**.xml"),
    ("JPEGImages/**.*", "Annotations/**.xml"),
    ("images/**.*", "annotations/**.xml"),
    ("**.*", "**.xml"),
]
_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")
_BBOX = "bndbox/xmin bndbox/ymin bndbox/xmax bndbox/ymax"
_SIZES = "size/width size/height"
_ZERO = re.compile(rb"<(?:[xy]min|[xy]_(?:left|right)_(?:top|bottom)|[xy]\d+)>\s*0+(?:\.0*)?\s*</")
_LARGEST = 2**31 - 1
_SOME = 256
"""Files that are looked through at a time for a corner at 0."""


def prepare(
    root: Path, pairs: Sequence[tuple[str, str]], options: Mapping[str, Any], classes: Classes
) -> dict[str, Any]:
    """The options with `base = "auto"` settled over the whole set: 0 where some corner is 0, else 1."""
    if options.get("base", "auto") != "auto":
        return dict(options)
    for start in range(0, len(pairs), _SOME):
        texts = files.read_all(root, [path for path, _ in pairs[start : start + _SOME]])
        if any(_ZERO.search(text) for text in texts if text):
            return {**options, "base": 0}
    return {**options, "base": 1}


def read(
    root: Path,
    path: str,
    classes: Classes,
    base: int | str = "auto",
    objects: str = "object",
    label: str = "name",
    bbox: str = _BBOX,
    rotated: str = "",
    points: str = "",
    sides: str = _SIZES,
    document: str = "annotation",
) -> Iterator[Record | Rejection]:
    """The Record of one xml file; an object that does not parse is dropped (E05, E06).

    base: 0, 1, or "auto", which `prepare` settles; unsettled it is 0. objects, label, bbox, rotated, points,
    sides: tags of another grammar, `/` between those inside each other; document: its outermost. Raises
    AnnotationError where the file is empty (E09), is not well-formed or of another grammar (E01), or has a
    DTD (E29), RecipeError for another base.
    """
    if base not in (0, 1, "auto"):
        raise RecipeError(f"base is {base!r}, expected 0, 1 or 'auto'")
    tree, encoding = parse(root, path)
    yield from files.foreign(path, encoding)
    tag = objects.rpartition("/")[2]
    if tree.tag.lower() != document.lower() and tree.find(f".//{tag}") is None:
        raise AnnotationError(path, 0, f"not such a file: <{tree.tag}> without any <{tag}>")
    shift = 1.0 if base == 1 else 0.0
    tags = None if bbox == _BBOX else bbox.split()
    turned = rotated.split()
    boxes, lines = [], []
    for index, node in enumerate(tree.iter(tag)):
        raw = (node.findtext(label) or "").strip()
        try:
            if not raw:
                raise ValueError(f"object without a {label}")
            polygon = _rotated(node, turned) if turned and node.find(turned[0]) is not None else None
            polygon = polygon or (_points(node, points) if points else _polygon(node, shift))
            if tags is None:
                shapes = [_edges(bndbox, shift) for bndbox in node.findall("bndbox")]
            else:
                shapes = [_edges(node, shift, tags)]
            if not shapes and polygon is None:
                raise ValueError("object without bndbox, robndbox, rotated_box or polygon")
        except ValueError as error:
            code = "E06" if "number" in str(error) else "E05"
            yield Rejection("dropped", code, path, index, "", str(error), tag)
            continue
        flags = tuple(
            flag
            for flag in _voc.FLAGS
            if (node.findtext(flag) or "0").strip() not in ("0", "", "Unspecified")
        )
        if not shapes and polygon:
            xs, ys = polygon[0::2], polygon[1::2]
            shapes = [(min(xs), min(ys), max(xs), max(ys))]
        for edges in shapes:
            boxes.append(Box(classes[raw], raw, *edges, polygon, flags))
            lines.append(index)
    width, height = (_side(tree, side) for side in sides.split())
    image = (tree.findtext("filename") or "").strip()
    yield Record(image, boxes, width, height, annotation=path, lines=lines, element=tag)


def read_many(
    root: Path, paths: Sequence[str], classes: Classes, base: int | str = "auto", **options: Any
) -> list[Record | None]:
    """The Records of files in the order of tags that nearly all have, None for others."""
    usual = {name: held.default for name, held in inspect.signature(read).parameters.items()}
    if base not in (0, 1, "auto") or any(value != usual[name] for name, value in options.items()):
        return [None] * len(paths)
    return _voc.records(files.read_all(root, paths), paths, classes, 1.0 if base == 1 else 0.0)


def _number(node: ElementTree.Element, tag: str) -> float:
    value = node.findtext(tag)
    if value is None:
        raise ValueError(f"{node.tag} without {tag}")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{tag} is {value.strip()!r}, not a number") from None


def _edges(
    node: ElementTree.Element, shift: float, tags: Sequence[str] = ("xmin", "ymin", "xmax", "ymax")
) -> tuple[float, float, float, float]:
    left, top, right, bottom = (_number(node, tag) for tag in tags)
    return left - shift, top - shift, right, bottom


def _points(node: ElementTree.Element, path: str) -> list[float] | None:
    """The corners of elements whose texts are "x,y"; the last is left out where it repeats the first."""
    flat: list[float] = []
    for point in node.findall(path):
        x, _, y = (point.text or "").partition(",")
        try:
            flat += [float(x), float(y)]
        except ValueError:
            raise ValueError(
                f"a point is {point.text!r}, expected two numbers with a comma between"
            ) from None
    if flat[:2] == flat[-2:]:
        flat = flat[:-2]
    return flat if len(flat) >= 6 else None


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


def _rotated(node: ElementTree.Element, tags: Sequence[str]) -> list[float]:
    cx, cy, width, height, angle = (_number(node, tag) for tag in tags)
    cos, sin = math.cos(angle), math.sin(angle)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [(sx * width / 2, sy * height / 2) for sx, sy in signs]
    return [value for x, y in corners for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)]


def _side(tree: ElementTree.Element, path: str) -> int | None:
    try:
        side = int(float(tree.findtext(path) or 0))
    except (ValueError, OverflowError):
        return None
    return side if 0 < side <= _LARGEST else None


def write(
    path: Path,
    records: Sequence[Record],
    base: int | str = "auto",
    objects: str = "object",
    label: str = "name",
    bbox: str = _BBOX,
    points: str = "",
    sides: str = _SIZES,
    document: str = "annotation",
) -> None:
    """One Record as an xml file; options as in `read` (base "auto" writes 1-based corners, as VOC)."""
    record, shift = records[0], 0 if base == 0 else 1
    tree = ElementTree.Element(document)
    _put(tree, "filename", record.image)
    for tag, side in zip(sides.split(), (record.width, record.height), strict=True):
        _put(tree, tag, str(side))
    *folders, tag = objects.split("/")
    parent = _made(tree, folders)
    for box in record.boxes:
        node = ElementTree.SubElement(parent, tag)
        _put(node, label, box.raw_label)
        for flag in _voc.FLAGS[:2]:
            _put(node, flag, str(int(flag in box.flags)))
        if points:
            corners = [box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax]
            quad = list(box.polygon or corners)
            for x, y in zip([*quad[0::2], quad[0]], [*quad[1::2], quad[1]], strict=True):
                _put(node, points, f"{text(x)},{text(y)}")
            continue
        values = (box.xmin + shift, box.ymin + shift, box.xmax, box.ymax)
        for edge, value in zip(bbox.split(), values, strict=True):
            _put(node, edge, text(value))
    ElementTree.indent(tree)
    for node in parent.iter(tag):  # an object a line, and its box the next
        for held in (node, *node):
            for child in held:
                child.tail = held.text = None
        for last in node[-2:-1]:
            last.tail = "\n    "
    ElementTree.ElementTree(tree).write(path, encoding="utf-8")


def _made(node: ElementTree.Element, tags: Sequence[str]) -> ElementTree.Element:
    """The element inside `node` that tags lead to; what is missing is made."""
    for tag in tags:
        found = node.find(tag)
        node = found if found is not None else ElementTree.SubElement(node, tag)
    return node


def _put(node: ElementTree.Element, path: str, content: str) -> None:
    *folders, tag = path.split("/")
    ElementTree.SubElement(_made(node, folders), tag).text = content
