"""The one validation between readers and tables: boxes against the image and against each other.

Codes are those of docs/failures.md. What is dropped or repaired is returned beside what is kept, so that
objects found = written + dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rsdata.classes import Classes
from rsdata.records import Box, Record, Rejection

MIN_VISIBLE = 0.2
"""A box cut by the border stays where at least this share of its area is inside (E13)."""


def size(record: Record, width: int, height: int, aligned: bool) -> Rejection | None:
    """Judge the size that a label claims against the image's own (E10, E22); the image's is the one used.

    aligned: the label is a raster over the image, so any difference rejects it.
    """
    if record.width is None or record.height is None or (record.width, record.height) == (width, height):
        return None
    differ = f"the label says {record.width}x{record.height}, the image is {width}x{height}"
    if aligned:
        return Rejection("rejected", "E22", record.annotation, 0, record.image, differ)
    inside = all(box.xmax <= width + 1 and box.ymax <= height + 1 for box in record.boxes)
    if inside:
        why = f"{differ}; the boxes fit, the image's size is used"
        return Rejection("repaired", "E10", record.annotation, 0, record.image, why)
    why = f"{differ}, and boxes lie outside the image: scaled or turned?"
    return Rejection("rejected", "E10", record.annotation, 0, record.image, why)


def boxes(
    record: Record, width: int | None, height: int | None, classes: Classes
) -> tuple[list[Box], list[Rejection]]:
    """The Boxes of a Record that are fit for a table, and what became of the others.

    Unknown classes (E17), ignored ones (E19), numbers that are not finite (E06), inverted edges (E11),
    no extent (E12), partly (E13) or wholly (E14) outside, exact duplicates (E15), self-crossing
    quadrilaterals (E20). Without width and height nothing is known to be outside.
    """
    right, bottom = float(width or math.inf), float(height or math.inf)
    clean = True
    for label, _, xmin, ymin, xmax, ymax, polygon, flags in record.boxes:
        if not (
            label
            and 0 <= xmin < xmax <= right
            and 0 <= ymin < ymax <= bottom
            and "ignored" not in flags
            and (polygon is None or (math.isfinite(sum(polygon)) and (len(polygon) != 8 or _is_simple(polygon))))
        ):
            clean = False
            break
    if clean and len({box[1:6] for box in record.boxes}) == len(record.boxes):
        return list(record.boxes), []
    kept: list[Box] = []
    found: list[Rejection] = []
    seen: set[tuple[object, ...]] = set()
    for index, box in enumerate(record.boxes):
        line = record.lines[index] if index < len(record.lines) else 0

        def note(action: str, code: str, why: str, line: int = line) -> None:
            found.append(Rejection(action, code, record.annotation, line, record.image, why, record.element))

        key = (*box[1:6], tuple(box.polygon or ()))
        if "ignored" in box.flags or (not box.label and classes.ignores(box.raw_label)):
            note("dropped", "E19", f"ignored ({box.raw_label})")
        elif not box.label:
            note("dropped", "E17", f"unknown class {box.raw_label!r}")
        elif not all(map(math.isfinite, (*box[2:6], *(box.polygon or ())))):
            note("dropped", "E06", f"{box.raw_label}: a coordinate is not finite")
        elif key in seen:
            note("dropped", "E15", f"{box.raw_label}: exact duplicate of another object")
        else:
            seen.add(key)
            mended = _mend(box, right, bottom, note)
            if mended is not None:
                kept.append(mended)
    return kept, found


def _mend(box: Box, right: float, bottom: float, note: Callable[[str, str, str], None]) -> Box | None:
    label, raw, xmin, ymin, xmax, ymax, polygon, flags = box
    as_read = f"{raw} ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    if xmin > xmax or ymin > ymax:
        note("repaired", "E11", f"{as_read}: edges swapped")
        xmin, xmax, ymin, ymax = min(xmin, xmax), max(xmin, xmax), min(ymin, ymax), max(ymin, ymax)
    area = (xmax - xmin) * (ymax - ymin)
    if area <= 0:
        note("dropped", "E12", f"{as_read}: no width or no height")
        return None
    inside = (max(xmin, 0.0), max(ymin, 0.0), min(xmax, right), min(ymax, bottom))
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if width <= 0 or height <= 0:
        note("dropped", "E14", f"{as_read}: outside the image of {right:g}x{bottom:g}")
        return None
    if inside != (xmin, ymin, xmax, ymax):
        share = width * height / area
        if share < MIN_VISIBLE:
            note("dropped", "E13", f"{as_read}: only {100 * share:.0f} % inside the image of {right:g}x{bottom:g}")
            return None
        note("repaired", "E13", f"{as_read}: cut at the border of {right:g}x{bottom:g}")
    if polygon is not None and len(polygon) == 8 and not _is_simple(polygon):
        hull = _hull(polygon)
        if hull is None:
            note("dropped", "E12", f"{as_read}: a quadrilateral without area")
            return None
        note("repaired", "E20", f"{as_read}: the quadrilateral crosses itself; its hull is kept")
        polygon = hull
    return Box(label, raw, *inside, polygon, flags)


def _is_simple(quad: Sequence[float]) -> bool:
    """Whether a quadrilateral has an area and no sides that cross (its turns are not two and two)."""
    x1, y1, x2, y2, x3, y3, x4, y4 = quad
    turns = (
        (x2 - x1) * (y3 - y2) - (y2 - y1) * (x3 - x2),
        (x3 - x2) * (y4 - y3) - (y3 - y2) * (x4 - x3),
        (x4 - x3) * (y1 - y4) - (y4 - y3) * (x1 - x4),
        (x1 - x4) * (y2 - y1) - (y1 - y4) * (x2 - x1),
    )
    left, right = sum(turn > 0 for turn in turns), sum(turn < 0 for turn in turns)
    return (left >= 1 or right >= 1) and not (left == right == 2)


def _hull(quad: Sequence[float]) -> list[float] | None:
    from shapely import MultiPoint

    hull = MultiPoint(list(zip(quad[0::2], quad[1::2], strict=True))).convex_hull
    if hull.geom_type != "Polygon":
        return None
    return [float(value) for point in list(hull.exterior.coords)[:-1] for value in point]
