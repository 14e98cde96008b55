"""DOTA txt (v1.0, v1.5, v2.0): one file an image, one oriented quadrilateral a line.

    imagesource:GoogleEarth
    gsd:0.255589285596
    1054 1028 1063 1011 1111 1040 1112 1062 ship 1

Eight corner coordinates in absolute pixels (integers or floats), the class, and the difficult flag, which
may be missing. Header lines are optional and known by their prefix. `difficult` 2 is what patch writers
put on an object cut by the patch's edge. Source: DOTA_devkit, dota_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rsdata import files
from rsdata.classes import Classes
from rsdata.formats import _dota
from rsdata.formats._fields import numbers, text
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
LAYOUTS = [
    ("{split}/images/**.*", "{split}/labelTxt/**.txt"),
    ("{split}/images/**.*", "{split}/annfiles/**.txt"),
    ("images/**.*", "labelTxt/**.txt"),
    ("images/**.*", "annfiles/**.txt"),
    ("**/images/*.*", "**/labelTxt/*.txt"),
    ("**.*", "**.txt"),
]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """The Record of one label file; a line that does not parse is dropped (E05, E06)."""
    content, encoding = files.read_text(root, path)
    yield from files.foreign(path, encoding)
    boxes, lines = [], []
    gsd = None
    for number, line in enumerate(content.split("\n"), 1):
        fields = line.replace(",", " ").split()
        if not fields or line.lower().lstrip().startswith(_dota.HEADERS):
            gsd = gsd or _gsd(line)
            continue
        if len(fields) not in (9, 10):
            why = f"{len(fields)} fields, expected x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]"
            yield Rejection("dropped", "E05", path, number, "", why)
            continue
        try:
            quad = numbers(fields[:8])
            flags = _dota.FLAGS[fields[9] if len(fields) == 10 else "0"]
        except (ValueError, KeyError) as error:
            why = f"difficult is {error}, expected 0, 1 or 2" if isinstance(error, KeyError) else str(error)
            yield Rejection("dropped", "E06", path, number, "", why)
            continue
        raw = fields[8]
        xs, ys = quad[0::2], quad[1::2]
        boxes.append(Box(classes[raw], raw, min(xs), min(ys), max(xs), max(ys), quad, flags))
        lines.append(number)
    yield Record("", boxes, annotation=path, lines=lines, gsd=gsd)


def read_many(root: Path, paths: Sequence[str], classes: Classes) -> list[Record | None]:
    """The Records of label files that are all in order, many of them parsed at once, None for others."""
    return _dota.records(files.read_all(root, paths), paths, classes, _gsd)


def _gsd(line: str) -> float | None:
    """Metres per pixel of a header line, None where it states none ("gsd:null")."""
    key, _, value = line.strip().lower().partition(":")
    try:
        gsd = float(value) if key == "gsd" else 0.0
    except ValueError:
        return None
    return gsd if 0 < gsd < 1000 else None


def write(path: Path, records: Sequence[Record]) -> None:
    """One Record as a label file; a Box without a quadrilateral is written as its corners."""
    lines = ["imagesource:synthetic", "gsd:0.5"]
    for box in records[0].boxes:
        corners = (box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax)
        quad = box.polygon if box.polygon is not None and len(box.polygon) == 8 else corners
        difficult = 1 if "difficult" in box.flags else 2 if "truncated" in box.flags else 0
        lines.append(f"{' '.join(map(text, quad))} {box.raw_label} {difficult}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
