"""VisDrone-DET txt: one file an image, eight comma-separated integers a line.

    684,8,273,116,0,0,0,0

left, top, width, height, score, category, truncation (0, 1), occlusion (0 none, 1 up to half, 2 more).
A score of 0 marks a box that the benchmark ignores; it is dropped, as categories 0 (ignored regions) and
11 (others) are by the recipe. Source: VisDrone2018-DET-toolkit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rsdata import files
from rsdata.classes import Classes
from rsdata.formats._fields import numbers, text
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
NUMERIC = True
LAYOUTS = [("images/**.*", "annotations/**.txt"), ("**/images/*.*", "**/annotations/*.txt")]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """The Record of one annotation file; a line that does not parse is dropped (E05, E06)."""
    content, encoding = files.read_text(root, path)
    yield from files.foreign(path, encoding)
    boxes, lines = [], []
    for number, line in enumerate(content.split("\n"), 1):
        fields = [field.strip() for field in line.split(",")]
        while fields and not fields[-1]:
            fields.pop()
        if not fields:
            continue
        if len(fields) != 8:
            why = f"{len(fields)} fields, expected left,top,width,height,score,category,truncation,occlusion"
            if len(fields) == 10:
                why += " (10 fields are a VisDrone-VID or MOT track; only DET is read)"
            yield Rejection("dropped", "E05", path, number, "", why)
            continue
        try:
            left, top, width, height, score, category, truncation, occlusion = numbers(fields)
            raw = str(int(category))
            if category != int(category):
                raise ValueError(f"category is {category}, not a whole number")
        except (ValueError, OverflowError) as error:
            yield Rejection("dropped", "E06", path, number, "", str(error))
            continue
        flags = (
            ("truncated",) * (truncation > 0) + ("occluded",) * (occlusion > 0) + ("ignored",) * (score == 0)
        )
        boxes.append(Box(classes[raw], raw, left, top, left + width, top + height, None, flags))
        lines.append(number)
    yield Record("", boxes, annotation=path, lines=lines)


def write(path: Path, records: Sequence[Record]) -> None:
    """One Record as an annotation file."""
    lines = []
    for box in records[0].boxes:
        edges = (box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin)
        flags = f"{int('truncated' in box.flags)},{int('occluded' in box.flags)}"
        lines.append(f"{','.join(map(text, edges))},1,{box.raw_label},{flags}\n")
    path.write_text("".join(lines), encoding="utf-8")
