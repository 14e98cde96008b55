"""Delimited columns: one file an image, one object a line, its columns named by the option `fields`.

    650 463 746 538 1                  fields = "xmin ymin xmax ymax class"                      CARPK
    684,8,273,116,1,4,0,0              fields = "left top width height score class …", separators = ","
    (563,478),(630,573),1              fields = "xmin ymin xmax ymax class", separators = "(),"  NWPU VHR-10

The columns that are known, and how alternatives are told apart: rsdata/formats/_columns.py. Sources: the
toolkits of VisDrone, CARPK, NWPU VHR-10 and VEDAI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rsdata.classes import Classes
from rsdata.formats import _columns
from rsdata.records import Record, Rejection

ONE_FILE = "image"
LAYOUTS = [
    ("images/{split}/**.*", "labels/{split}/**.txt"),
    ("{split}/images/**.*", "{split}/labels/**.txt"),
    ("images/**.*", "labels/**.txt"),
    ("images/**.*", "annotations/**.txt"),
]
FIELDS = "xmin ymin xmax ymax class"
prepare = _columns.settled


def read(
    root: Path,
    path: str,
    classes: Classes,
    fields: str | list = FIELDS,  # type: ignore[type-arg]
    separators: str = "",
    base: int = 0,
) -> Iterator[Record | Rejection]:
    """The Record of one file; a line that does not parse is dropped (E05, E06).

    fields: a profile, or an array of alternatives. separators: characters between fields, beside blanks; one
    alone makes empty fields count. base: 1 where the first pixel is 1 and the last is included.
    """
    boxes, numbers = [], []
    for item in _columns.lines(root, path, classes, fields, separators, base):
        if isinstance(item, Rejection):
            yield item
        else:
            boxes.append(item.box)
            numbers.append(item.number)
    yield Record("", boxes, annotation=path, lines=numbers)


def write(
    path: Path,
    records: Sequence[Record],
    fields: str | list = FIELDS,  # type: ignore[type-arg]
    separators: str = "",
    base: int = 0,
) -> None:
    """One Record as a file, by the first profile."""
    profile = _columns.parsed(fields)[0]
    separator = separators if len(separators) == 1 else "," if "," in separators else " "
    rows = [profile.line(box, 0, base, separator) for box in records[0].boxes]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
