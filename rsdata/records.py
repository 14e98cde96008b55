"""The words of the project as types: Box, Record, Rejection, and the one table schema.

Pixel frame: origin at the image's top-left corner, x right, y down. Coordinates are edges, not pixel
indices, so the first pixel is the box (0, 0, 1, 1) and width = xmax - xmin::

      0   1   2   3  x
    0 ┌───┬───┬───┐
      │   │ ■ │   │      ■ = Box(xmin=1, ymin=0, xmax=2, ymax=1)
    1 ├───┼───┼───┤
      │   │   │   │
    y └───┴───┴───┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

LONGEST_NAME = 256
"""Characters of a label: what is longer names nothing, and would take minutes to put into the plural."""


EDGES = ("xmin", "ymin", "xmax", "ymax")
"""The names of the edges of a box, in the order of the fields of Box."""


class Box(NamedTuple):
    """One object. Field order equals the struct fields of the `objects` column.

    label: the recipe's singular noun ("small vehicle"); raw_label: the label as published.
    xmin, ymin, xmax, ymax: pixels, edges as coordinates, inside the image once checked.
    polygon: x1, y1, x2, y2 … in pixels as published (it may reach over the border), or None.
    flags: of difficult, truncated, occluded, crowd, generated.
    """

    label: str
    raw_label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    polygon: Sequence[float] | None = None
    flags: Sequence[str] = ()


class Record(NamedTuple):
    """One image and what is known of it, as a reader yields it.

    image: path relative to the dump, or the name that the annotation file gives.
    width, height: stored pixels; from a reader they are what the label file claims (None: nothing).
    lines: for each Box its 1-based line in the annotation file; where `element` is set, its 0-based
        index among the elements of that name (a JSON array or an XML tag) instead, resolved to a line
        only when a rejection needs it.
    split: set by formats whose annotation file names the split, else "".
    place: where its file describes the image: the 0-based index in the array or among the tags that the
        format's PLACES names, its line where that is ""; -1 where the file is of this image alone.
    gsd: ground sampling distance in metres per pixel, None where the label file states none.
    cover: (label, share of the image's pixels, 0 to 1) of each class of a mask, largest first.
    """

    image: str
    boxes: Sequence[Box] = ()
    width: int | None = None
    height: int | None = None
    captions: Sequence[str] = ()
    label: str | None = None
    split: str = ""
    annotation: str = ""
    lines: Sequence[int] = ()
    element: str = ""
    place: int = -1
    gsd: float | None = None
    cover: Sequence[tuple[str, float]] = ()


class Rejection(NamedTuple):
    """An input that was not converted as it stands. Field order equals REJECTION_SCHEMA.

    action: "rejected" an image; "dropped" an object, line or caption; "repaired" what was kept changed.
    code: failure code of docs/failures.md ("E14"). path: annotation (or image) file relative to the dump.
    line: 1-based line, 0 for the whole file. image: the image concerned, "" where unknown.
    element: as Record.element, with `line` an index, until the line is looked up.
    """

    action: str
    code: str
    path: str
    line: int
    image: str
    why: str
    element: str = ""


OBJECT = pa.struct(
    [
        ("label", pa.string()),
        ("raw_label", pa.string()),
        ("xmin", pa.float32()),
        ("ymin", pa.float32()),
        ("xmax", pa.float32()),
        ("ymax", pa.float32()),
        ("polygon", pa.list_(pa.float32())),
        ("flags", pa.list_(pa.string())),
    ]
)

HUMAN = "human"
"""The caption_source of captions that were published."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", pa.list_(OBJECT)),
        ("captions", pa.list_(pa.string())),
        ("caption_source", pa.string()),
        ("label", pa.string()),
        ("phash", pa.uint64()),
        ("phashes", pa.list_(pa.uint64())),
        ("dhash", pa.list_(pa.uint64())),
        ("low_info", pa.bool_()),
        ("pixels", pa.string()),
        ("sha256", pa.string()),
        ("annotation", pa.string()),
        ("gsd", pa.float32()),
        ("cover", pa.list_(pa.struct([("label", pa.string()), ("share", pa.float32())]))),
        ("geometry", pa.binary()),
    ]
)

REJECTION_SCHEMA = pa.schema(
    [
        ("action", pa.string()),
        ("code", pa.string()),
        ("path", pa.string()),
        ("line", pa.int64()),
        ("image", pa.string()),
        ("why", pa.string()),
    ]
)
