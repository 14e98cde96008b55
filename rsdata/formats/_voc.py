"""Pascal VOC xml as nearly all files have it, many files at a time.

They must be well-formed, which expat says without making a tree; then text patterns find the objects.
Whatever is not in the usual order of tags is left to the reader of single files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.parsers import expat

import numpy as np
import pyarrow as pa

from rsdata.classes import Classes
from rsdata.columns import Boxes, Columns
from rsdata.records import Record

FLAGS = ("difficult", "truncated", "occluded")
_OBJECT = re.compile(
    rb"<object>\s*<name>([^<]*)</name>((?:\s*<\w+>[^<]*</\w+>)*?)\s*<bndbox>"
    rb"\s*<xmin>([^<]*)</xmin>\s*<ymin>([^<]*)</ymin>\s*<xmax>([^<]*)</xmax>\s*<ymax>([^<]*)</ymax>"
    rb"\s*</bndbox>((?:\s*<\w+>[^<]*</\w+>)*)\s*</object>"
)
_SIZE = re.compile(rb"<size>\s*<width>\s*(\d{1,9})\s*</width>\s*<height>\s*(\d{1,9})\s*</height>")
_START = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<annotation[\s>]")
_FLAG = re.compile(rb"<(difficult|truncated|occluded)>\s*([^<]*?)\s*</")


def records(
    texts: Sequence[bytes | None], paths: Sequence[str], classes: Classes, shift: float
) -> list[Record | None]:
    """The Record of each file, None where it is out of the ordinary. shift: what left and top lose."""
    made: list[Record | None] = [None] * len(paths)
    kinds: dict[tuple[bytes, bytes], int] = {}
    names: list[tuple[str, str, tuple[str, ...]]] = []
    codes: list[int] = []
    edges: list[float] = []
    found: list[tuple[int, int, int]] = []
    ends = [0]
    for place, data in enumerate(texts):
        held = None if data is None else _objects(data)
        if held is None:
            continue
        size, objects = held
        try:
            numbers = [float(number) for item in objects for number in item[2:6]]
        except ValueError:
            continue
        for item in objects:
            kind = (item[0], item[1] + item[6])
            code = kinds.get(kind)
            if code is None:
                raw = item[0].strip().decode()
                code = kinds[kind] = len(names)
                names.append((classes[raw], raw, _flags(kind[1])))
            codes.append(code)
        edges += numbers
        ends.append(len(codes))
        found.append((place, *size))
    if found:
        corners = np.array(edges).reshape(-1, 4) - (shift, shift, 0, 0)
        none = pa.nulls(len(codes), pa.list_(pa.float64()))
        sizes = np.array([size for _, *size in found], float)
        columns = Columns(
            names or [("", "", ())], np.array(codes, np.int32), corners, none, np.array(ends), sizes
        )
        for image, (place, width, height) in enumerate(found):
            boxes = Boxes(columns, image)
            lines = range(len(boxes))
            made[place] = Record(
                "", boxes, width, height, annotation=paths[place], lines=lines, element="object"
            )
    return made


def _objects(data: bytes) -> tuple[tuple[int, int], list[tuple[bytes, ...]]] | None:
    """The size, and of each object the name, what lies before its bndbox, four corners, what lies behind."""
    if not data.isascii() or b"<!" in data or b"&" in data or not _START.match(data):
        return None
    objects = _OBJECT.findall(data)
    size = _SIZE.search(data)
    if len(objects) != data.count(b"<object") or size is None or data.count(b"<size") != 1:
        return None
    if not all(item[0].strip() for item in objects) or b"0" in size.groups():
        return None
    try:
        expat.ParserCreate().Parse(data, True)
    except expat.ExpatError:
        return None
    return (int(size[1]), int(size[2])), objects


def _flags(text: bytes) -> tuple[str, ...]:
    """The flags that are set among simple tags."""
    held = dict(reversed(_FLAG.findall(text)))
    return tuple(flag for flag in FLAGS if held.get(flag.encode(), b"0") not in (b"0", b"", b"Unspecified"))
